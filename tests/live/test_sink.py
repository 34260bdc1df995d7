"""The sink on a real node: the conformance kit, what an older, an equal and a newer change become, and every answer that is no success."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dsqlcdc.contract import Change, Misconfigured, Op, Unavailable, Verdict
from dsqlcdc.testing import check_sink

from ..sinks.opensearch.laws import Ask
from ..sinks.opensearch.replica import NOON, change
from .node import Node
from .replica import RESUME, asks, deliver, found, sink, stamps

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]


MODES = ["external", "scripted"]


@pytest.mark.parametrize("mode", MODES)
async def test_the_conformance_kit_passes(mode: str, node: Node) -> None:
    async with asks(node) as ask:

        async def holds(change: Change) -> bool:
            _, got = await ask("GET", f"/kit-{mode}-{change.table}-000001/_doc/{(change.key or {})['id']}")
            return bool(got["found"]) and got["_source"]["__cdc"]["version"] >= change.version

        @asynccontextmanager
        async def outage() -> AsyncGenerator[None, None]:
            await asyncio.to_thread(node.kill)
            try:
                yield
            finally:
                await asyncio.to_thread(node.start)

        checked = await check_sink(lambda: sink(node, f"kit-{mode}-", mode=mode), holds=holds, outage=outage)
    assert {"redelivery", "disorder", "unknown_delete", "large_row", "cancelled", "outage"} <= set(checked)


BEFORE = {"nothing": None, "a row": Op.INSERT, "a tombstone": Op.DELETE}


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("op", [Op.UPDATE, Op.DELETE])
@pytest.mark.parametrize("mode", MODES)
async def test_an_older_change_is_stale_an_equal_one_a_duplicate_and_a_newer_one_goes_in(
    before: str, op: Op, mode: str, node: Node
) -> None:
    there, prefix = BEFORE[before], f"matrix-{mode}-{list(BEFORE).index(before)}{op.value}-"
    async with asks(node) as ask, sink(node, prefix, mode=mode) as to:
        await to.resume(RESUME)
        given = [change(id, version, op=op, note="new") for id, version in ((1, 4), (2, 5), (3, 6))]
        if there is not None:
            await deliver(to, [change(id, 5, op=there, note="old") for id in (1, 2, 3)])
        said = {index: setback.verdict for index, setback in (await deliver(to, given)).items()}
        assert said == ({} if there is None else {0: Verdict.STALE, 1: Verdict.DUPLICATE})
        rows = await found(ask, f"{prefix}public.orders")
        notes = {id: row["note"] for id, row in rows.items()}
        old = {} if there is not Op.INSERT else {"1": "old", "2": "old"}
        fresh = {} if op is Op.DELETE else dict.fromkeys(("1", "2", "3") if there is None else ("3",), "new")
        assert notes == old | fresh
        documents = await found(ask, f"{prefix}public.orders-000001")
        versions = {id: row["__cdc"]["version"] - NOON * 10**9 for id, row in documents.items()}
        assert versions == ({"1": 4, "2": 5, "3": 6} if there is None else {"1": 5, "2": 5, "3": 6})


async def test_a_column_that_became_null_is_gone_and_a_delete_leaves_no_data(node: Node) -> None:
    async with asks(node) as ask, sink(node, "null-") as to:
        await deliver(to, [change(1, 1, a=1, b=2), change(2, 1, secret="s")])
        await deliver(to, [change(1, 2, a=1), change(2, 2, op=Op.DELETE)])
        rows = await found(ask, "null-public.orders")
        assert {id: {name for name in row if name != "__cdc"} for id, row in rows.items()} == {"1": {"id", "a"}}
        _, got = await ask("GET", "/null-public.orders-000001/_doc/2")
        assert list(got["_source"]) == ["__cdc"]


@pytest.mark.parametrize("block", ["read_only_allow_delete", "write"])
async def test_a_block_is_waited_for_and_nothing_is_refused_for_it(block: str, node: Node) -> None:
    prefix = f"block-{block}-"
    index, more = f"{prefix}public.orders-000001", [change(id, 2) for id in range(20)]
    async with asks(node) as ask, sink(node, prefix) as to:
        await deliver(to, [change(1, 1)])
        await ask("PUT", f"/{index}/_settings", {"index.blocks": {block: True}})
        for _ in range(3):
            with pytest.raises(Unavailable) as caught:
                await to.write(more)
            assert caught.value.code == "E161"
            assert (caught.value.after or 0) >= 30
        await ask("PUT", f"/{index}/_settings", {"index.blocks": {block: None}})
        assert await to.write(more) == []
        assert len(await found(ask, f"{prefix}public.orders")) == 20


async def test_what_the_mapping_refuses_is_refused_alone(node: Node, tmp_path: Path) -> None:
    fields = {"n": {"type": "long"}, "word": {"type": "keyword"}}
    (tmp_path / "orders.json").write_text(json.dumps({"properties": fields}))
    given = [change(id, 1, n=id) for id in range(1, 998)]
    given += [change(1001, 1, n="no number"), change(1002, 1, word="x" * 40_000), change(1003, 1, word={"a": 1}), change(1, 1, n=1)]
    async with asks(node) as ask, sink(node, "refused-", directory=str(tmp_path), mappings={"public.*": "orders.json"}) as to:
        said = await to.write(given)
        assert {setback.index: (setback.verdict, setback.code) for setback in said} == {
            997: (Verdict.DEAD, "mapping"),
            998: (Verdict.DEAD, "immense_term"),
            999: (Verdict.DEAD, "mapping"),
            1000: (Verdict.DUPLICATE, ""),
        }
        assert len(await found(ask, "refused-public.orders")) == 997


async def test_without_a_model_no_value_is_refused_whatever_came_before(node: Node) -> None:
    values = [1, "x", True, 1.5, None, {"a": [1, {"b": "c"}]}, [1, "x"], [], {}, "", "x" * 40_000, 10**30, "infinity", -0.0]
    pairs = [(first, second) for first in values for second in values]
    async with asks(node) as ask, sink(node, "any-") as to:
        for turn in (0, 1):
            rows = [change(1, turn + 1, **{f"c{n}": pair[turn] for n, pair in enumerate(pairs)})]
            assert [setback for setback in await to.write(rows) if setback.verdict is not Verdict.RETRY] == []
        rows_found = await found(ask, "any-public.orders")
        assert rows_found["1"]["c1"] == "x"


async def test_at_the_limit_of_fields_the_sink_stops_and_says_so(node: Node) -> None:
    template = {"index_patterns": ["fields-*"], "template": {"settings": {"index.mapping.total_fields.limit": 20}}}
    async with asks(node) as ask, sink(node, "fields-") as to:
        assert (await ask("PUT", "/_index_template/fields", template))[0] == 200
        await deliver(to, [change(1, 1, a=1)])
        for _ in range(2):
            with pytest.raises(Misconfigured, match="limit of fields") as caught:
                await to.write([change(2, 1, **{f"column_{n}": n for n in range(30)})])
            assert caught.value.code == "E164"
        assert list(await found(ask, "fields-public.orders")) == ["1"]


async def _deleted(ask: Ask) -> None:
    await ask("DELETE", "/gone-public.orders-000001")


async def _closed(ask: Ask) -> None:
    await ask("POST", "/gone-public.orders-000001/_close")


@pytest.mark.parametrize("lose", [_deleted, _closed])
async def test_an_index_that_is_gone_stops_the_sink_and_is_not_made_by_the_engine(lose: Callable[..., object], node: Node) -> None:
    async with asks(node) as ask:
        async with sink(node, "gone-") as to:
            await deliver(to, [change(1, 1)])
            await lose(ask)  # type: ignore[misc]
            with pytest.raises(Misconfigured) as caught:
                await to.write([change(2, 1), change(3, 1, op=Op.DELETE)])
            assert caught.value.code == "E163"
        status, _ = await ask("GET", "/gone-public.orders-000001/_doc/2")
        assert status in (400, 404)
        await ask("DELETE", "/gone-public.orders-000001")


async def test_a_busy_node_gets_less_at_a_time_and_everything_in_the_end(own_node: Callable[..., Node]) -> None:
    node = own_node(indexing_pressure__memory__limit="100kb")
    given = [change(id, 1, text="x" * 2000) for id in range(300)]
    async with asks(node) as ask, sink(node, "busy-") as to:
        with pytest.raises(Unavailable, match="rejected_execution") as caught:
            await to.write(given)
        assert caught.value.code == "E160"
        assert {setback.verdict for setback in (await deliver(to, given, patience=0.05)).values()} <= {Verdict.RETRY, Verdict.DUPLICATE}
        assert len(await found(ask, "busy-public.orders")) == 300
        assert to._limits.bytes < 5 * 1024 * 1024


async def test_a_request_too_large_is_halved_and_a_row_too_large_is_refused(own_node: Callable[..., Node]) -> None:
    node = own_node(http__max_content_length="1mb")
    given = [change(id, 1, text="x" * 50_000) for id in range(60)] + [change(99, 1, text="x" * 2_000_000)]
    async with asks(node) as ask, sink(node, "large-") as to:
        said = await deliver(to, given)
        assert {index: (setback.verdict, setback.code) for index, setback in said.items()} == {60: (Verdict.DEAD, "too_large")}
        assert len(await found(ask, "large-public.orders")) == 60
        assert to._limits.learned <= 1024 * 1024


async def test_a_node_killed_amid_requests_loses_and_repeats_nothing(node: Node) -> None:
    given = [change(id, 1, text="x" * 3000) for id in range(6000)]
    async with asks(node) as ask, sink(node, "killed-") as to:
        await deliver(to, [change(1, 1, text="first")])
        writing = [asyncio.create_task(deliver(to, given[n::4])) for n in range(4)]
        while not await ask_count(ask, "killed-public.orders-000001"):
            pass
        await asyncio.to_thread(node.kill)
        assert not all(task.done() for task in writing)
        await asyncio.to_thread(node.start)
        said = [setback for task in writing for setback in (await task).values()]
        assert {setback.verdict for setback in said} <= {Verdict.DUPLICATE, Verdict.RETRY}
    async with asks(node) as ask:
        before = await stamps(ask, "killed-public.orders-000001")
        assert {id: version for id, (version, _) in before.items()} == {str(one.key and one.key["id"]): one.version for one in given}


async def ask_count(ask: Ask, index: str) -> int:
    """Documents beyond the first, which are in while more are on their way."""
    _, stats = await ask("GET", f"/{index}/_stats/indexing")
    return int(stats["_all"]["primaries"]["indexing"]["index_total"]) - 1
