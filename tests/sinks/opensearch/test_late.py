"""Late changes, the watermark and the purge job."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from dsqlcdc.contract import Change, Op, Progress, Unavailable, Verdict
from dsqlcdc.testing import virtual
from dsqlcdc.testing.opensearch import FakeOpenSearch
from dsqlcdc_opensearch.purge import BEAT, EVERY, Purge
from dsqlcdc_opensearch.watermark import State, Watermark
from tests.sinks.opensearch.replica import NOON, TABLE, Database, Direct, change, resumed, sink

ALIAS, INDEX = f"cdc-{TABLE}", f"cdc-{TABLE}-000001"
P = NOON * 10**9 + 1000


async def at_watermark(fake: FakeOpenSearch, to: int = P) -> None:
    """The watermark of the sink under test is moved."""
    async with sink(Direct(fake)) as one:
        state = await one._watermark.load()
        assert await one._watermark.store(State(to, "other", state.count))


def fake_engine() -> FakeOpenSearch:
    return FakeOpenSearch(lambda: NOON + asyncio.get_running_loop().time())


async def late(
    exists: bool | None, *changes: Change, before: Callable[[Any], Any] | None = None
) -> tuple[list[Any], FakeOpenSearch, Database]:
    """Write changes to a sink whose watermark is at noon and a microsecond; `before` writes something first."""
    fake, rows = fake_engine(), Database(lambda change: exists)
    if before is not None:
        async with sink(Direct(fake)) as one:
            await before(one)
    await at_watermark(fake)
    async with sink(Direct(fake), rows) as one:
        return [(setback.verdict, setback.code) for setback in await one.write(changes)], fake, rows


async def test_a_late_delete_removes_what_is_older_and_leaves_no_tombstone() -> None:
    said, fake, _ = await late(
        None, change(1, 500, op=Op.DELETE), change(2, 500, op=Op.DELETE), before=lambda one: one.write([change(1, 400)])
    )
    assert said == []
    assert fake.indexes[INDEX].documents == {}


async def test_a_late_delete_leaves_what_is_newer() -> None:
    said, fake, _ = await late(None, change(1, 500, op=Op.DELETE), before=lambda one: one.write([change(1, 600)]))
    assert said == [(Verdict.STALE, "")]
    assert set(fake.rows(ALIAS)) == {"1"}


async def test_a_late_upsert_is_compared_with_the_document_that_is_there() -> None:
    async def before(one: Any) -> None:
        await one.write([change(1, 400), change(2, 500), change(3, 600), change(4, 600, op=Op.DELETE)])

    said, fake, rows = await late(None, *(change(n, 500, new=True) for n in (1, 2, 3, 4)), before=before)
    assert sorted(said) == [(Verdict.DUPLICATE, ""), (Verdict.STALE, ""), (Verdict.STALE, "")]
    assert {id for id, row in fake.rows(ALIAS).items() if row.get("new")} == {"1"}
    assert rows.asked == []


@pytest.mark.parametrize(
    ("exists", "said", "shown"),
    [(True, [], {"1"}), (False, [(Verdict.STALE, "")], set[str]()), (None, [(Verdict.DEAD, "late_upsert")], set[str]())],
)
async def test_where_there_is_no_document_only_the_database_knows(exists: bool | None, said: list[Any], shown: set[str]) -> None:
    found, fake, rows = await late(exists, change(1, 500))
    assert found == said
    assert set(fake.rows(ALIAS)) == shown
    assert len(rows.asked) == 1


async def test_what_is_newer_than_the_watermark_is_not_late() -> None:
    said, fake, rows = await late(None, change(1, 1001), change(2, 1002, op=Op.DELETE))
    assert said == []
    assert rows.asked == []
    assert fake.indexes[INDEX].documents["2"].row()["__cdc"]["deleted"] is True


def test_the_watermark_is_read_again_before_it_is_too_old() -> None:
    async def run() -> None:
        fake = fake_engine()
        async with sink(Direct(fake)) as one:
            await one.write([change(1, 1)])
            await at_watermark(fake)
            await asyncio.sleep(61)
            assert [s.code for s in await one.write([change(2, 1)])] == ["late_upsert"]

    virtual.run(run())


def test_what_has_waited_too_long_is_not_sent_as_it_was_judged() -> None:
    async def run() -> None:
        fake = fake_engine()
        async with sink(Direct(fake), bulk={"concurrency": 1}) as one:
            await one.write([change(1, 1)])
            async with one._limits.turn():
                waiting = asyncio.create_task(one.write([change(2, 1)]))
                await asyncio.sleep(300)
            with pytest.raises(Unavailable, match="waited too long"):
                await waiting
            assert await one.write([change(2, 1)]) == []

    virtual.run(run())


# ── the watermark ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_of_two_that_write_the_watermark_one_wins_and_it_never_moves_back() -> None:
    fake = fake_engine()
    async with sink(Direct(fake)) as one, sink(Direct(fake)) as two:
        a, b = one._watermark, two._watermark
        for mark in (a, b):
            await mark.load()
        assert await a.store(State(50, "a", a.state.count))
        assert not await b.store(State(70, "b", b.state.count))
        assert (await b.load()).watermark == 50
        fake.indexes[a.index].documents.clear()
        assert (await b.load()).watermark == 50


def job(one: Any, progress: Callable[[], list[Progress]], *, me: str = "me", newest: int = (NOON + 10**9) * 10**9) -> Purge:
    return Purge(
        one._cluster,
        one._watermark,
        one._bulk,
        indexes=one._indexes.owned,
        progress=progress,
        newest=lambda: newest,
        retention=100.0,
        grace=600.0,
        me=me,
    )


def shard(name: str, arrived: float, *, ended: bool = False, open: int = 0) -> Progress:
    return Progress(name, "", "", 0, {}, open, ended, "", arrived)


@pytest.mark.parametrize(
    ("shards", "newest", "goal"),
    [
        ([shard("a", 900.0), shard("b", 700.0)], 10**15, 600),
        ([shard("a", 900.0), shard("b", 0.0)], 10**15, 0),
        ([shard("a", 900.0), shard("b", 300.0, ended=True)], 10**15, 800),
        ([shard("a", 900.0), shard("b", 300.0, ended=True, open=1)], 10**15, 200),
        ([shard("a", 900.0)], 500 * 10**9, 400),
        ([shard("a", 900.0)], 0, 0),
        ([], 10**15, 0),
        ([shard("a", 50.0)], 10**15, 0),
    ],
)
async def test_the_watermark_follows_the_slowest_shard_and_the_newest_commit(shards: list[Progress], newest: int, goal: int) -> None:
    async with sink(Direct(fake_engine())) as one:
        assert job(one, lambda: shards, newest=newest).goal() == goal * 10**9


def test_tombstones_go_when_everybody_has_known_of_the_watermark_for_a_while_and_rows_stay() -> None:
    async def run() -> None:
        fake, loop = fake_engine(), asyncio.get_running_loop()
        async with sink(Direct(fake)) as one:
            await one.write([change(n, 5 + n % 2, op=Op.DELETE) for n in range(6000)])
            await one.write([change(n, 9) for n in range(6000, 6010)])
            await one.write([change(n, 10**14, op=Op.DELETE) for n in range(7000, 7010)])
            await asyncio.sleep(2)
            running = asyncio.create_task(job(one, lambda: [shard("a", NOON + 1000 + loop.time())]).run())
            await asyncio.sleep(EVERY + BEAT)
            index = fake.indexes[INDEX]
            assert one._watermark.state.watermark > NOON * 10**9 + 10
            assert len(index.documents) == 6020, "the grace is not over"
            await asyncio.sleep(600 + BEAT)
            assert len(index.documents) == 20
            await one.write([change(1, 8)])
            running.cancel()

    virtual.run(run())


def test_a_row_that_came_back_meanwhile_survives_the_purge() -> None:
    async def run() -> None:
        fake = fake_engine()
        async with sink(Direct(fake)) as one:
            await one.write([change(1, 5, op=Op.DELETE), change(2, 5, op=Op.DELETE)])
            await asyncio.sleep(2)
            purge = job(one, list)
            paged = purge._page

            async def page(*given: Any) -> Any:
                hits = await paged(*given)
                await one.write([change(1, 10**12)])
                return hits

            purge._page = page  # type: ignore[method-assign]
            assert await purge.purge(P) == 1
            assert set(fake.rows(ALIAS)) == {"1"}
            assert set(fake.indexes[INDEX].documents) == {"1"}

    virtual.run(run())


def test_one_process_purges_and_another_takes_over_when_it_is_gone() -> None:
    async def run() -> None:
        fake, loop = fake_engine(), asyncio.get_running_loop()
        progress = lambda: [shard("a", NOON + loop.time())]  # noqa: E731
        async with sink(Direct(fake)) as one, sink(Direct(fake)) as two:
            await one.resume(resumed())
            first = asyncio.create_task(job(one, progress, me="first").run())
            await asyncio.sleep(1)
            second = asyncio.create_task(job(two, progress, me="second").run())
            owners: set[str] = set()
            for _ in range(100):
                await asyncio.sleep(BEAT)
                owners.add((await one._watermark.load()).owner)
            assert owners == {"first"}
            first.cancel()
            await asyncio.sleep(6 * BEAT)
            assert (await Watermark(one._cluster, "cdc-", {"pipeline": "p", "sink": "search"}, {}).load()).owner == "second"
            second.cancel()

    virtual.run(run())


def test_an_outage_ends_no_purge_job() -> None:
    async def run() -> None:
        fake, loop = fake_engine(), asyncio.get_running_loop()
        transport = Direct(fake)
        async with sink(transport, purge="leader") as one:
            await one.resume(resumed(lambda: [shard("a", NOON + 10**8 + loop.time())]))
            await one.write([change(1, 5, op=Op.DELETE), change(2, 10**17)])
            transport.away = True
            await asyncio.sleep(5 * EVERY)
            transport.away = False
            await asyncio.sleep(5 * EVERY)
            await one.write([change(3, 10**17)])
            assert set(fake.indexes[INDEX].documents) == {"2", "3"}

    virtual.run(run())
