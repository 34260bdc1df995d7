"""A sink over a real node, and what a reader of its alias finds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from dsqlcdc.contract import Change, Context, Resume, Setback, Unavailable, Verdict
from dsqlcdc_opensearch import OpenSearchSink, Options
from dsqlcdc_opensearch.late import Rows

from ..sinks.opensearch.laws import Ask, asking
from .node import Node


def sink(
    node: Node, prefix: str, *, rows: Rows | None = None, cls: type[OpenSearchSink] = OpenSearchSink, **options: Any
) -> OpenSearchSink:
    context = Context("p", "search", directory=options.pop("directory", ""))
    given = {"url": node.url, "index_prefix": prefix, "purge": "off", "settings": {"replicas": 0}, **options}
    return cls(Options.model_validate(given), context, rows=None if rows is None else lambda: rows)


RESUME = Resume("p", "search", b"", 0.0, tuple)


@asynccontextmanager
async def asks(node: Node) -> AsyncGenerator[Ask, None]:
    async with aiohttp.ClientSession() as session:
        yield asking(session, node.url)


async def found(ask: Ask, alias: str) -> dict[str, dict[str, Any]]:
    """What a search of an alias finds, by id; nothing where there is no such alias."""
    status, _ = await ask("POST", f"/{alias}/_refresh")
    if status == 404:
        return {}
    _, said = await ask("POST", f"/{alias}/_search", {"size": 10_000, "query": {"match_all": {}}})
    return {hit["_id"]: hit["_source"] for hit in said["hits"]["hits"]}


async def stamps(ask: Ask, index: str) -> Mapping[str, tuple[int, int]]:
    """`_version` and `_seq_no` of every document, tombstones among them: what a write that changed nothing leaves alone."""
    await ask("POST", f"/{index}/_refresh")
    _, said = await ask("POST", f"/{index}/_search", {"size": 10_000, "version": True, "seq_no_primary_term": True, "_source": False})
    return {hit["_id"]: (hit["_version"], hit["_seq_no"]) for hit in said["hits"]["hits"]}


async def deliver(to: OpenSearchSink, changes: Sequence[Change], *, patience: float = 0.2) -> dict[int, Setback]:
    """Write until nothing is to be tried again, as the pipeline does; what was said last of each by its place."""
    rest = list(range(len(changes)))
    last: dict[int, Setback] = {}
    while rest:
        try:
            said = {rest[setback.index]: setback for setback in await to.write([changes[index] for index in rest])}
        except Unavailable:
            await asyncio.sleep(patience)
            continue
        last.update(said)
        rest = [index for index, setback in said.items() if setback.verdict is Verdict.RETRY]
    return last
