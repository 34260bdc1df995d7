"""A sink over the engine model, without sockets, and changes as the real decoder makes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dsqlcdc.contract import Change, Context, Op, Progress, Resume
from dsqlcdc.core.records import Record
from dsqlcdc.core.tables import Rule, Tables
from dsqlcdc.testing.opensearch import FakeOpenSearch
from dsqlcdc.testing.records import full
from dsqlcdc_opensearch import OpenSearchSink, Options
from dsqlcdc_opensearch.http import Answer, NoAnswer

NOON = 1_800_000_000
TABLE = "public.orders"
_TABLES = Tables({"public.pairs": Rule(key=("a", "b")), "*": Rule(key=("id",))})


def change(id: Any = 1, version: int = 1, *, op: Op = Op.INSERT, table: str = TABLE, **row: Any) -> Change:
    """A change of row `id` committed `version` nanoseconds after noon."""
    return change_at(NOON * 10**9 + version, {"id": id}, op=op, table=table, **row)


def change_at(ts_ns: int, key: Mapping[str, Any], *, op: Op = Op.INSERT, table: str = TABLE, **row: Any) -> Change:
    delete = op is Op.DELETE
    data = full(op.value, table, None if delete else {**key, **row}, ts_ns, before=key if delete else None)
    read = _TABLES.read("shard", Record(str(ts_ns), data, ts_ns / 1e9))
    assert isinstance(read, Change)
    return read


class Direct:
    """A transport without sockets. `delays` says how long (loop time) a request is on its way, and its answer; `away`: no node answers."""

    def __init__(self, engine: FakeOpenSearch, delays: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0)) -> None:
        self.engine, self._delays = engine, delays
        self.away = False
        self.rewrite: Callable[[str, bytes], bytes] = lambda path, body: body
        self.refreshed = 0
        self.can_refresh = False

    async def __call__(self, method: str, path: str, body: bytes = b"", *, lines: bool = False) -> Answer:
        before, after = self._delays()
        await asyncio.sleep(before)
        if self.away:
            raise NoAnswer("no node answers")
        reply = self.engine.handle(method, path, self.rewrite(path, body))
        await asyncio.sleep(after)
        return Answer(reply.status, reply.body, reply.headers.get("Retry-After"))

    async def refresh(self) -> bool:
        self.refreshed += 1
        return self.can_refresh

    async def close(self) -> None:
        return None


class Database:
    """What late upserts are verified with: the rows that are, as JSON of their keys."""

    def __init__(self, exists: Callable[[Change], bool | None]) -> None:
        self._exists = exists
        self.asked: list[Change] = []

    async def exist(self, changes: Sequence[Change]) -> Sequence[bool | None]:
        self.asked += changes
        return [self._exists(change) for change in changes]


def sink(
    transport: Direct,
    rows: Database | None = None,
    *,
    cls: type[OpenSearchSink] = OpenSearchSink,
    columns: Callable[[str], Mapping[str, str] | None] = lambda table: None,
    name: str = "search",
    **options: Any,
) -> OpenSearchSink:
    given = Options.model_validate({"url": "https://search.example", "purge": "off", **options})
    context = Context("p", name, columns=columns)
    return cls(given, context, transport=lambda: transport, rows=None if rows is None else lambda: rows)


def resumed(progress: Callable[[], Sequence[Progress]] = tuple) -> Resume:
    return Resume("p", "search", b"", 0.0, progress)
