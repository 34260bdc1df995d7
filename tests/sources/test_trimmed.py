"""Records trimmed unread are found, never skipped in silence; records that merely reached their age are no gap."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.core.ports import Checkpoint, Gap
from dsqlcdc.core.records import END, TRIM_HORIZON, Mark, Position, Record
from dsqlcdc.errors import Lost
from dsqlcdc.sources import trimmed
from dsqlcdc.testing.virtual import run
from tests.sources.fake import DAY, EPOCH, FakeService
from tests.sources.reading import Gaps, Log, feeds_over, read_once, read_until, reading, tasks_left

SHARD = "shardId-000000000000"


async def stopped_after(service: FakeService, count: int) -> Checkpoint:
    """The checkpoint of a pipeline that settled `count` records and then died."""
    service.page, page = 1, service.page
    log = Log()
    async with reading(await feeds_over(service)) as source:
        await source.start(None, warm_up=None)
        await read_until(source, log, count)
    service.page = page
    return log.checkpoint()


@pytest.mark.parametrize("beyond", [1, 3, 7])
def test_a_trimmed_checkpoint_halts_with_a_persisted_gap_and_its_bounds(beyond: int) -> None:
    async def main() -> None:
        service = FakeService(1)
        written = service.put(SHARD, count=10)
        checkpoint = await stopped_after(service, 3)
        service.trim(SHARD, 3 + beyond)
        gaps = Gaps()
        with pytest.raises(Lost, match="gaps ack") as caught:
            await read_once(await feeds_over(service), checkpoint, gaps=gaps)
        (gap,) = gaps.stored.values()
        assert (gap.kind, gap.shard, gap.after) == ("trimmed", SHARD, written[2])
        assert gap.until == (written[3 + beyond] if beyond < 7 else "")
        assert gap.id in str(caught.value)
        assert tasks_left() == []

    run(main())


def test_a_record_that_only_just_survives_is_no_gap() -> None:
    async def main() -> None:
        service = FakeService(1)
        written = service.put(SHARD, count=10)
        checkpoint = await stopped_after(service, 3)
        service.trim(SHARD, 2)
        gaps = Gaps()
        assert (await read_once(await feeds_over(service), checkpoint, gaps=gaps)).sequences() == written[3:]
        assert not gaps.stored

    run(main())


def test_an_acknowledged_gap_goes_on_from_the_oldest_record_and_stays_the_same_gap() -> None:
    async def main() -> None:
        service = FakeService(1)
        written = service.put(SHARD, count=10)
        checkpoint = await stopped_after(service, 3)
        service.trim(SHARD, 6)
        gaps = Gaps()
        for _ in range(2):
            with pytest.raises(Lost):
                await read_once(await feeds_over(service), checkpoint, gaps=gaps)
        assert len(gaps.stored) == 1
        gaps.ack()
        assert (await read_once(await feeds_over(service), checkpoint, gaps=gaps)).sequences() == written[6:]

    run(main())


def test_on_trimmed_continue_goes_on_and_still_persists_the_gap() -> None:
    async def main() -> None:
        service = FakeService(1)
        written = service.put(SHARD, count=10)
        checkpoint = await stopped_after(service, 3)
        service.trim(SHARD, 6)
        gaps = Gaps()
        assert (await read_once(await feeds_over(service), checkpoint, gaps=gaps, on_trimmed="continue")).sequences() == written[6:]
        assert len(gaps.stored) == 1

    run(main())


class SlowGaps(Gaps):
    """A store that takes longer for each gap than for the one before."""

    async def __call__(self, gap: Gap) -> Gap:
        await asyncio.sleep(int(gap.shard[-1]))
        return await super().__call__(gap)


@pytest.mark.parametrize("gaps", [Gaps(), SlowGaps()], ids=["at once", "slowly"])
def test_one_halt_names_the_gaps_of_all_shards(gaps: Gaps) -> None:
    async def main() -> None:
        service = FakeService(3)
        for shard in service.shards:
            service.put(shard, count=10)
        log = await read_once(await feeds_over(service))
        for shard in service.shards:
            service.put(shard, count=10)
            service.trim(shard, 15)
        with pytest.raises(Lost) as caught:
            await read_once(await feeds_over(service), log.checkpoint(), gaps=gaps)
        assert len(gaps.stored) == 3
        assert all(shard in str(caught.value) for shard in service.shards)

    run(main())


def test_a_record_that_reached_its_age_is_no_gap_when_all_since_was_read() -> None:
    async def main() -> None:
        service = FakeService(1)
        service.put(SHARD, count=2)
        log = await read_once(await feeds_over(service))
        await asyncio.sleep(0.9 * DAY)
        idle = await read_once(await feeds_over(service), log.checkpoint())  # nothing new: the mark's time moves on
        assert idle.marks[SHARD].arrived > log.marks[SHARD].arrived + 0.8 * DAY
        await asyncio.sleep(0.5 * DAY)
        new = service.put(SHARD, count=1)
        gaps = Gaps()
        assert (await read_once(await feeds_over(service), idle.checkpoint(), gaps=gaps)).sequences() == new
        assert not gaps.stored

    run(main())


def test_a_day_of_absence_beyond_the_retention_is_a_gap_though_nothing_is_left_to_see() -> None:
    async def main() -> None:
        service = FakeService(1)
        service.put(SHARD, count=2)
        log = await read_once(await feeds_over(service))
        service.put(SHARD, count=2)  # owed, and trimmed before anybody comes
        await asyncio.sleep(2 * DAY)
        gaps = Gaps()
        with pytest.raises(Lost):
            await read_once(await feeds_over(service), log.checkpoint(), gaps=gaps)
        (gap,) = gaps.stored.values()
        assert gap.from_time < gap.to_time <= EPOCH + 2 * DAY - DAY + 10

    run(main())


@pytest.mark.parametrize("kind", ["time", "trim_horizon"])
def test_a_shard_without_a_record_settled_may_have_a_gap_too(kind: str) -> None:
    async def main() -> None:
        service = FakeService(1)
        log = await read_once(await feeds_over(service), start="latest" if kind == "time" else "trim_horizon")
        assert log.marks[SHARD].position.kind == kind
        await asyncio.sleep(2 * DAY)
        with pytest.raises(Lost):
            await read_once(await feeds_over(service), log.checkpoint())

    run(main())


def test_a_long_pause_of_the_sink_beyond_the_retention_is_found_while_running() -> None:
    async def main() -> None:
        service = FakeService(1)
        service.put(SHARD, count=2)
        gaps = Gaps()
        log = Log()
        feeds = await feeds_over(service, prefetch=1)
        async with reading(feeds, gaps) as source:
            await source.start(None, warm_up=None)
            pages = source.pages()
            log.take(await anext(pages))
            await asyncio.sleep(10)
            service.put(SHARD, count=2)
            source._share.held += 10**9  # no room: as a sink that takes nothing for two days
            await asyncio.sleep(2 * DAY)
            service.put(SHARD, count=2)
            source._share.release(10**9)
            with pytest.raises(Lost):
                [page async for page in pages]
        assert len(gaps.stored) == 1

    run(main())


def test_empty_answers_before_the_record_decide_nothing() -> None:
    async def main() -> None:
        service = FakeService(1)
        written = service.put(SHARD, count=10)
        checkpoint = await stopped_after(service, 3)
        service.empties[SHARD] = 5
        gaps = Gaps()
        assert (await read_once(await feeds_over(service), checkpoint, gaps=gaps)).sequences() == written[3:]
        service.empties[SHARD] = 5
        service.trim(SHARD, 5)
        with pytest.raises(Lost):
            await read_once(await feeds_over(service), checkpoint, gaps=gaps)

    run(main())


def test_a_shard_gone_with_unread_records_is_a_gap_at_start() -> None:
    async def main() -> None:
        service = FakeService(1)
        service.put(SHARD, count=10)
        checkpoint = await stopped_after(service, 3)
        service.split(SHARD)
        service.hidden.add(SHARD)
        gaps = Gaps()
        async with reading(await feeds_over(service), gaps) as source:
            with pytest.raises(Lost):
                await source.start(checkpoint, warm_up=None)
        gaps.ack()
        async with reading(await feeds_over(service), gaps) as source:
            assert SHARD not in await source.start(checkpoint, warm_up=None)
            assert list(source.forgettable()) == [SHARD]

    run(main())


def test_a_first_start_at_the_moving_edge_of_the_retention_is_no_gap() -> None:
    async def main() -> None:
        service = FakeService(1, page=1)
        for age in range(40):
            service.put(SHARD, arrived=EPOCH - DAY + age / 2)
        gaps = Gaps()
        log = await read_once(await feeds_over(service, limits=None), gaps=gaps)
        assert not gaps.stored
        assert log.records()

    run(main())


times = st.floats(0, 10 * DAY)


@given(position=times, arrived=times, now=times, retention=st.sampled_from([3600.0, DAY, 7 * DAY]))
def test_no_gap_means_that_nothing_unread_can_have_been_trimmed(position: float, arrived: float, now: float, retention: float) -> None:
    """The record is gone. Without a gap, all that arrived up to a time the stream still holds is settled, and the record had its age."""
    mark = Mark(Position("after", "1", position), max(position, arrived))
    if not trimmed.missed(mark.position, mark.arrived, now=now, retention=retention):
        assert mark.arrived >= now - retention
        assert position <= now - retention + trimmed.SLACK


def bounds(position: float, arrived: float, now: float, retention: float, first: float | None) -> tuple[float, float]:
    record = None if first is None else Record("9", b"{}", first)
    gap = trimmed.gap(
        pipeline="p",
        sink="s",
        stream="t",
        shard=SHARD,
        position=Position("after", "1", position),
        arrived=arrived,
        now=now,
        first=record,
        horizon=now - retention,
    )
    return gap.from_time, gap.to_time


@given(position=times, arrived=times, later=times, retention=st.sampled_from([3600.0, DAY, 7 * DAY]), first=st.none() | times)
def test_a_gap_never_ends_before_it_begins_and_covers_all_that_may_be_gone(
    position: float, arrived: float, later: float, retention: float, first: float | None
) -> None:
    """Whether it went by its age or not, and whatever two clocks differ by: up to what was found, or else as far as records are known to go."""
    now = max(position, arrived) + later
    begins, ends = bounds(position, arrived, now, retention, first)
    assert begins == (arrived or position)
    assert begins <= ends
    if first is None:
        aged = begins < now - retention
        assert ends == (now - retention if aged else now)
    else:
        assert ends >= first


def test_control_a_gap_that_ended_at_the_trim_horizon_would_end_before_it_begins() -> None:
    begins, ends = bounds(EPOCH - 10, EPOCH - 5, EPOCH, DAY, None)
    assert EPOCH - DAY < begins < ends == EPOCH


def test_control_going_by_the_records_age_alone_would_miss_a_gap() -> None:
    position = Position("after", "1", EPOCH)
    aged_only = position.arrived < EPOCH + 2 * DAY - DAY  # "it expired by itself"
    assert aged_only
    assert trimmed.missed(position, EPOCH, now=EPOCH + 2 * DAY, retention=DAY)


def test_ended_and_unknown_positions_are_never_gaps() -> None:
    assert not trimmed.missed(END, 1.0, now=EPOCH, retention=DAY)
    assert not trimmed.missed(TRIM_HORIZON, 0.0, now=EPOCH, retention=DAY)
