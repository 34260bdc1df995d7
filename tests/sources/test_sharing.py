"""Budgets, shared pages, memory, skew and the warm-up."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.core.backoff import Backoff
from dsqlcdc.core.ports import Checkpoint
from dsqlcdc.core.records import Mark, Position
from dsqlcdc.sources.budget import Budget, ReadLimits
from dsqlcdc.sources.feed import BEAT, on_the_beat
from dsqlcdc.sources.fetched import Cursor
from dsqlcdc.sources.share import Share
from dsqlcdc.testing.virtual import Deadlock, run
from tests.sources.fake import EPOCH, FakeService
from tests.sources.reading import Log, feeds_over, read_once, reading

SHARD = "shardId-000000000000"
MIB = 2**20


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 10_000_000)), min_size=1, max_size=60))
def test_a_budget_never_allows_more_than_the_services_limits(reads: list[tuple[float, int]]) -> None:
    budget = Budget(ReadLimits())
    now, sent = 0.0, []
    for idle, size in reads:
        now = max(now + idle, budget.free_at)
        budget.sent(now)
        budget.received(size, now)
        sent.append((now, size))
    for i, (at, _) in enumerate(sent):
        within = [s for s in sent[i:] if s[0] < at + 1.0]
        assert len(within) <= 5
    for (at, size), (following, _) in pairwise(sent):
        assert following - at >= size / 2_000_000


def test_catching_up_goes_at_the_limit_of_bytes_and_is_never_throttled() -> None:
    async def main() -> None:
        service = FakeService(1)
        service.throttle = True
        service.put(SHARD, b"x" * MIB, count=60)
        feeds = await feeds_over(service, limits=ReadLimits())
        began = asyncio.get_running_loop().time()
        log = await read_once(feeds)
        took = asyncio.get_running_loop().time() - began
        assert len(log.records()) == 60
        assert 50 * MIB / 2_000_000 <= took <= 60 * MIB / 2_000_000 * 1.25
        assert feeds.counters.snapshot().throttles == 0

    run(main())


def test_an_idle_shard_is_polled_about_once_a_second() -> None:
    async def main() -> None:
        service = FakeService(1)
        async with reading(await feeds_over(service, limits=None)) as source:
            await source.start(None, warm_up=None)
            pages = source.pages()
            until = asyncio.get_running_loop().time() + 100
            while asyncio.get_running_loop().time() < until:
                await anext(pages)
            await pages.aclose()  # type: ignore[attr-defined]
        assert 80 <= len(service.shards[SHARD].reads) <= 120

    run(main())


def test_the_polls_of_many_idle_shards_go_together() -> None:
    async def main() -> None:
        service = FakeService(40)
        async with reading(await feeds_over(service, limits=None)) as source:
            await source.start(None, warm_up=None)
            pages = source.pages()
            until = asyncio.get_running_loop().time() + 60
            while asyncio.get_running_loop().time() < until:
                await anext(pages)
            await pages.aclose()  # type: ignore[attr-defined]
        reads = [at for shard in service.shards.values() for at in shard.reads]
        assert 40 * 48 <= len(reads) <= 40 * 72
        assert len({round(at, 3) for at in reads}) <= 60 / BEAT * 1.1

    run(main())


@given(st.floats(0, 1e7), st.floats(0.2, 60))
def test_a_poll_is_moved_by_no_more_than_a_twentieth_of_its_interval(due: float, poll: float) -> None:
    moved = on_the_beat(due, poll)
    assert abs(moved - due) <= min(BEAT, poll / 10) / 2 + 1e-6
    assert abs(on_the_beat(moved, poll) - moved) <= 1e-6
    assert on_the_beat(due, 0.0) == due


async def follow(source: object, log: Log, count: int, slow: float = 0.0) -> None:
    await source.start(None, warm_up=None)  # type: ignore[attr-defined]
    pages = source.pages()  # type: ignore[attr-defined]
    async for page in pages:
        log.take(page)
        if slow and page.records:
            await asyncio.sleep(slow)
        if len(log.records()) >= count:
            break
    await pages.aclose()


def test_pipelines_that_run_abreast_cost_one_read_and_share_their_records() -> None:
    async def main() -> None:
        service = FakeService(2, page=10)
        for shard in service.shards:
            service.put(shard, count=200)
        feeds = await feeds_over(service)
        logs = [Log() for _ in range(4)]
        async with (
            reading(feeds, sink="a") as a,
            reading(feeds, sink="b") as b,
            reading(feeds, sink="c") as c,
            reading(feeds, sink="d") as d,
        ):
            await asyncio.gather(*(follow(s, log, 400) for s, log in zip((a, b, c, d), logs, strict=True)))
        assert all(sorted(log.sequences()) == sorted(logs[0].sequences()) for log in logs)
        assert sum(len(one.reads) for one in service.shards.values()) <= 50
        first = {record.sequence_number: record for record in logs[0].records()}
        assert all(first[record.sequence_number] is record for log in logs for record in log.records())
        assert feeds.cached_bytes == 0

    run(main())


def test_a_lagging_pipeline_reads_for_itself_inside_the_shared_budget() -> None:
    async def main() -> None:
        service = FakeService(1, page=10)
        service.throttle = True
        service.put(SHARD, b"x" * 1000, count=300)
        feeds = await feeds_over(service, limits=ReadLimits(), prefetch=100_000)
        fast, slow = Log(), Log()
        async with reading(feeds, sink="a") as a, reading(feeds, sink="b") as b:
            await asyncio.gather(follow(a, fast, 300), follow(b, slow, 300, slow=3.0))
        assert fast.sequences() == slow.sequences()
        assert feeds.counters.snapshot().throttles == 0

    run(main())


def test_a_stalled_pipeline_does_not_hold_up_another() -> None:
    async def main() -> None:
        service = FakeService(2, page=1)
        for shard in service.shards:
            service.put(shard, b"x" * MIB, count=60)
        feeds = await feeds_over(service, prefetch=8 * MIB)
        log = Log()
        async with reading(feeds, sink="stalled") as stalled, reading(feeds, sink="b") as other:
            await stalled.start(None, warm_up=None)
            pages = stalled.pages()
            await anext(pages)
            await asyncio.wait_for(follow(other, log, 120), 600)
            await pages.aclose()  # type: ignore[attr-defined]

    run(main())


@pytest.mark.parametrize("shards", [1, 16, 64])
def test_pages_read_ahead_stay_within_their_bytes_with_10_mib_rows(shards: int) -> None:
    async def main() -> None:
        service = FakeService(shards)
        data = b"x" * (10 * MIB)
        for shard in service.shards:
            service.put(shard, data, count=2)
        feeds = await feeds_over(service)
        log = Log()
        async with reading(feeds, once=True) as source:
            await source.start(None, warm_up=None)
            pages = source.pages()
            most = 0
            async for page in pages:
                await asyncio.sleep(20)  # a sink that is nearly stalled
                most = max(most, source._share.held)
                log.take(page)
        assert len(log.records()) == 2 * shards
        assert most <= 64 * MIB
        assert service.most_bodies <= 64 * MIB
        assert source._share.held == 0

    run(main())


def test_one_page_always_fits() -> None:
    async def main() -> None:
        service = FakeService(8)
        for shard in service.shards:
            service.put(shard, b"x" * MIB, count=3)
        log = await read_once(await feeds_over(service, prefetch=1))
        assert len(log.records()) == 24

    run(main())


@pytest.mark.parametrize("empties", [0, 3])
def test_one_turn_goes_past_the_verifying_record_and_empty_answers(empties: int) -> None:
    """Otherwise a reader that waits long for room between two answers would begin AT the same record for ever."""

    async def main() -> None:
        service = FakeService(1, page=1)
        first, second = service.put(SHARD, count=2)
        service.empties[SHARD] = empties
        feeds = await feeds_over(service)
        cursor = Cursor(feeds.owner(), Position("after", first, EPOCH))
        fetched, held = await feeds.feed(SHARD).next(cursor, feeds.join())
        assert [record.sequence_number for record in fetched.records] == [second]
        assert held == fetched.size

    run(main())


def test_a_share_serves_in_order_and_a_cancelled_wait_holds_nothing() -> None:
    async def main() -> None:
        share = Share(10)
        await share.reserve(8)
        big, small = asyncio.create_task(share.reserve(9)), asyncio.create_task(share.reserve(1))
        await asyncio.sleep(1)
        assert not big.done()
        assert not small.done()
        big.cancel()
        await asyncio.sleep(0)
        await small
        assert share.held == 9
        assert not share.grow(1, 5)
        share.release(8)
        assert share.grow(1, 99)
        share.release(99)
        assert share.held == 0

    run(main())


def test_a_shard_too_far_ahead_of_the_slowest_pauses() -> None:
    async def main() -> None:
        service = FakeService(2, page=1)
        one, two = service.shards
        for n in range(100):
            service.put(one, arrived=EPOCH - 10_000 + 100 * n)
            service.put(two, arrived=EPOCH - 10_000 + 100 * n)
        slow = service.records

        async def slowly(shard: str, *rest: object) -> object:
            if shard == two:
                await asyncio.sleep(5)
            return await slow(shard, *rest)  # type: ignore[arg-type]

        service.records = slowly  # type: ignore[method-assign, assignment]
        read_to = dict.fromkeys(service.shards, EPOCH - 10_000)
        log = Log()
        async with reading(await feeds_over(service), once=True, skew=300.0) as source:
            await source.start(None, warm_up=None)
            async for page in source.pages():
                log.take(page)
                if page.records:
                    read_to[page.shard] = page.records[-1].arrived
                    if page.shard == one:
                        assert read_to[one] - read_to[two] <= 300 + 100 + 100
                assert source.slowest() <= min(read_to.values()) + 1 or page.behind == 0
        assert len(log.records()) == 200

    run(main())


def test_a_shard_that_cannot_be_read_at_all_does_not_lock_the_others_up_for_good() -> None:
    async def main() -> None:
        service = FakeService(2, page=1)
        one, _ = service.shards
        for n in range(20):
            service.put(one, arrived=EPOCH - 10_000 + 100 * n)
        log = await read_once(await feeds_over(service), skew=1.0)
        assert len(log.records(one)) == 20

    run(main())


def test_the_warm_up_comes_first_and_remembers_all_shards_from_the_oldest_mark() -> None:
    async def main() -> None:
        service = FakeService(2, page=4)
        one, two = service.shards
        for n in range(40):
            service.put(one, arrived=EPOCH - 4000 + 100 * n)
            service.put(two, arrived=EPOCH - 4000 + 100 * n)
        first, second = service.shards[one].records, service.shards[two].records
        at = {one: first[30], two: second[20]}  # two is owed from its 21st record on
        marks = {s: Mark(Position("after", r.sequence_number, r.arrived), r.arrived) for s, r in at.items()}
        log = await read_once(await feeds_over(service), Checkpoint(marks), warm_up=500.0)
        since = at[two].arrived - 500
        for shard, held in ((one, first), (two, second)):
            wanted = [r.sequence_number for r in held if since <= r.arrived <= at[shard].arrived]
            assert log.sequences(shard, remember=True) == wanted
            assert log.sequences(shard) == [r.sequence_number for r in held if r.arrived > at[shard].arrived]
        flags = [page.remember for page in log.pages]
        assert flags == sorted(flags, reverse=True)

    run(main())


def test_a_first_start_has_nothing_to_remember() -> None:
    async def main() -> None:
        service = FakeService(1)
        service.put(SHARD, count=5)
        log = await read_once(await feeds_over(service), warm_up=1800.0)
        assert not [page for page in log.pages if page.remember]

    run(main())


@given(st.integers(0, 200), st.floats(0, 1, exclude_max=True))
def test_full_jitter_stays_below_its_ceiling(attempt: int, chance: float) -> None:
    backoff = Backoff(0.1, 20.0)
    assert 0 <= backoff.delay(attempt, lambda: chance) <= min(20.0, 0.1 * 2 ** min(attempt, 60))


def test_virtual_time_jumps_and_says_when_nothing_can_happen() -> None:
    async def sleeper() -> float:
        await asyncio.sleep(86_400)
        await asyncio.to_thread(lambda: None)
        return asyncio.get_running_loop().time()

    async def hopeless() -> None:
        await asyncio.Event().wait()

    assert run(sleeper()) == pytest.approx(86_400)
    with pytest.raises(Deadlock):
        run(hopeless())
