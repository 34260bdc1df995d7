"""Delivery in virtual time: batching, lanes, retries, backpressure, verdicts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import msgspec
import pytest

from dsqlcdc.contract import Batching, Change, Op, Outcome, Setback, Sink, Table, Verdict
from dsqlcdc.core.backoff import Backoff
from dsqlcdc.core.deliver import DeadRate, Delivery, Room
from dsqlcdc.core.patience import Patience
from dsqlcdc.errors import Misconfigured, Poisoned, Stopped, Unavailable
from dsqlcdc.testing import virtual

TABLE = Table("c", "s", "t", ("id",))
AT_ONCE = Batching(age=0.0)
Answer = Callable[[Sequence[Change]], Awaitable[Sequence[Setback]]]


def change(number: int, key: int | None = None, size: int = 0) -> Change:
    image = msgspec.Raw(b'{"id":%d}' % (number if key is None else key))
    return Change(number.to_bytes(16), Op.UPDATE, TABLE, image, number, "", image, None, b"x" * size, "a", str(number), 0.0)


class Recorder(Sink):
    """Keeps each write with its time; `answer` may refuse."""

    def __init__(self, answer: Answer | None = None, *, batching: Batching = AT_ONCE, lanes: int = 1, order: bool = False) -> None:
        self.writes: list[tuple[float, list[int]]] = []
        self.batching, self.lanes, self._answer = batching, lanes, answer
        self.needs_order = order  # type: ignore[misc]

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        self.writes.append((asyncio.get_running_loop().time(), [change.version for change in changes]))
        return await self._answer(changes) if self._answer is not None else ()


class Road:
    """A Delivery with what it settles and buries."""

    def __init__(self, sink: Sink, *, room: int = 1 << 30, deadline: float | None = None) -> None:
        self.settled: list[tuple[int, Outcome]] = []
        self.buried: list[int] = []
        self.room = Room(room)
        self.grave: Callable[[], Awaitable[None]] | None = None
        self.delivery = Delivery(
            sink,
            "sink s",
            settle=self._settle,
            bury=self._bury,
            room=self.room,
            patience=Patience(Backoff(0.1, 30.0), lambda: 0.999, deadline=deadline),
        )

    def _settle(self, changes: Sequence[Change], debts: Sequence[int], outcome: Outcome) -> None:
        assert [change.version for change in changes] == list(debts)
        self.settled += [(debt, outcome) for debt in debts]

    async def _bury(self, change: Change, setback: Setback, attempts: int) -> None:
        if self.grave is not None:
            await self.grave()
        assert change.version not in dict(self.settled), "settled before its letter was durable"
        self.buried.append(change.version)

    def offer(self, *changes: Change) -> None:
        self.delivery.offer(list(changes), [change.version for change in changes])

    async def finish(self) -> None:
        self.delivery.close()
        await self.delivery.run()
        assert self.room.used == 0


def play(work: Coroutine[Any, Any, None]) -> None:
    virtual.run(work)


async def _for(seconds: float, road: Road) -> None:
    try:
        async with asyncio.timeout(seconds):
            await road.delivery.run()
    except TimeoutError:
        pass


def test_a_batch_goes_when_it_has_enough_records() -> None:
    async def work() -> None:
        sink = Recorder(batching=Batching(records=3, age=100.0))
        road = Road(sink)
        road.offer(*map(change, range(7)))
        await _for(50.0, road)
        assert sink.writes == [(0.0, [0, 1, 2]), (0.0, [3, 4, 5])]

    play(work())


def test_a_batch_goes_when_it_has_enough_bytes_and_one_change_may_be_larger_than_a_batch() -> None:
    async def work() -> None:
        sink = Recorder(batching=Batching(bytes=4000, age=100.0))
        road = Road(sink)
        road.offer(change(0, size=1000), change(1, size=1000), change(2, size=9000), change(3, size=10))
        await road.finish()
        assert [batch for _, batch in sink.writes] == [[0, 1], [2], [3]]

    play(work())


def test_a_change_waits_no_longer_than_the_age_of_a_batch() -> None:
    async def work() -> None:
        sink = Recorder(batching=Batching(records=3, age=10.0))
        road = Road(sink)
        running = asyncio.ensure_future(_for(60.0, road))
        road.offer(change(0))
        await asyncio.sleep(4.0)
        road.offer(change(1))
        await asyncio.sleep(16.0)
        road.offer(change(2))
        await asyncio.sleep(8.0)
        road.offer(change(3), change(4), change(5))  # the batch is full with 2, 3, 4; 5 came now
        await running
        assert sink.writes == [(10.0, [0, 1]), (28.0, [2, 3, 4]), (38.0, [5])]

    play(work())


def test_what_a_full_batch_leaves_behind_keeps_its_age() -> None:
    async def work() -> None:
        sink = Recorder(batching=Batching(records=2, age=10.0))
        road = Road(sink)
        running = asyncio.ensure_future(_for(60.0, road))
        road.offer(change(0), change(1))
        await asyncio.sleep(0)
        road.offer(change(2))
        await asyncio.sleep(9.0)
        road.offer(change(3), change(4))  # 2 and 3 fill a batch at second 9; 4 is of second 9
        await running
        assert sink.writes == [(0.0, [0, 1]), (9.0, [2, 3]), (19.0, [4])]

    play(work())


def test_no_change_waits_longer_than_the_age_though_full_batches_go_before_it() -> None:
    async def slow(changes: Sequence[Change]) -> Sequence[Setback]:
        await asyncio.sleep(7.0)
        return ()

    async def work() -> None:
        sink = Recorder(slow, batching=Batching(records=2, age=10.0))
        road = Road(sink)
        running = asyncio.ensure_future(_for(60.0, road))
        road.offer(change(0), change(1))
        await asyncio.sleep(1.0)
        road.offer(change(2))  # at second 1, while 0 and 1 are being written
        road.offer(change(3), change(4))
        await running
        # 2 and 3 go at second 7, are in at 14; 4 is of second 1 and overdue by then.
        assert sink.writes == [(0.0, [0, 1]), (7.0, [2, 3]), (14.0, [4])]

    play(work())


def test_changes_of_one_key_keep_their_order_where_the_sink_needs_it() -> None:
    async def jitter(changes: Sequence[Change]) -> Sequence[Setback]:
        await asyncio.sleep((changes[0].version * 7) % 5)
        return ()

    async def work() -> None:
        sink = Recorder(jitter, lanes=4, order=True, batching=Batching(records=5, age=0.0))
        road = Road(sink)
        running = asyncio.ensure_future(_for(500.0, road))
        for start in range(0, 200, 10):
            road.offer(*(change(n, key=n % 7) for n in range(start, start + 10)))
            await asyncio.sleep(0.3)
        await running
        for key in range(7):
            mine = [n for n, _ in road.settled if n % 7 == key]
            assert mine == sorted(mine)
        assert len(road.settled) == 200

    play(work())


def test_a_change_that_is_to_be_retried_is_not_overtaken_by_a_later_one_of_its_key() -> None:
    """A destination that needs order would end with the older of the two."""
    state: dict[str, int] = {}
    refused: list[int] = []

    async def shy(changes: Sequence[Change]) -> Sequence[Setback]:
        again = [n for n, one in enumerate(changes) if one.version == 1 and not refused]
        refused.extend(again)
        for n, one in enumerate(changes):
            if n not in again:
                state[str(one.key)] = one.version
        return [Setback(n, Verdict.RETRY) for n in again]

    async def work() -> None:
        road = Road(Recorder(shy, order=True))
        road.offer(change(1, key=5), change(2, key=5), change(3, key=6))
        await road.finish()
        assert state == {"{'id': 5}": 2, "{'id': 6}": 3}

    play(work())


def test_lanes_work_at_the_same_time_where_order_is_not_needed() -> None:
    async def slow(changes: Sequence[Change]) -> Sequence[Setback]:
        await asyncio.sleep(10.0)
        return ()

    async def work() -> None:
        sink = Recorder(slow, lanes=3)
        road = Road(sink)
        for n in range(3):
            road.offer(change(n))
        await road.finish()
        assert asyncio.get_running_loop().time() == 10.0

    play(work())


def test_an_hour_without_the_destination_is_backpressure_and_no_dead_letter() -> None:
    async def down(changes: Sequence[Change]) -> Sequence[Setback]:
        if asyncio.get_running_loop().time() < 3600:
            raise Unavailable("the destination cannot be reached")
        return ()

    async def work() -> None:
        sink = Recorder(down)
        road = Road(sink, room=20_000)
        road.offer(*map(change, range(100)))
        assert road.room.full
        await road.finish()
        assert not road.buried
        assert road.settled == [(n, Outcome.DELIVERED) for n in range(100)]
        assert len(sink.writes) < 200
        assert all(batch == list(range(100)) for _, batch in sink.writes)

    play(work())


def test_a_deadline_ends_the_waiting_with_nothing_settled() -> None:
    async def down(changes: Sequence[Change]) -> Sequence[Setback]:
        raise Unavailable("the destination cannot be reached", why="connection refused")

    async def work() -> None:
        road = Road(Recorder(down), deadline=300.0)
        road.offer(change(1))
        with pytest.raises(ExceptionGroup) as caught:
            await road.finish()
        fault = caught.value.exceptions[0]
        assert isinstance(fault, Stopped)
        assert "connection refused" in fault.why
        assert not road.settled
        assert 200.0 < asyncio.get_running_loop().time() <= 300.0

    play(work())


def test_a_retry_waits_as_long_as_it_was_asked_to_and_sends_only_what_was_refused() -> None:
    first = True

    async def busy(changes: Sequence[Change]) -> Sequence[Setback]:
        nonlocal first
        if first:
            first = False
            return [Setback(1, Verdict.RETRY, "busy", after=40.0), Setback(2, Verdict.RETRY, "busy", after=70.0)]
        return ()

    async def work() -> None:
        sink = Recorder(busy)
        road = Road(sink)
        road.offer(*map(change, range(4)))
        await road.finish()
        assert sink.writes == [(0.0, [0, 1, 2, 3]), (70.0, [1, 2])]
        assert sorted(road.settled) == [(n, Outcome.DELIVERED) for n in range(4)]

    play(work())


def test_unavailable_waits_as_long_as_it_says() -> None:
    async def wait(changes: Sequence[Change]) -> Sequence[Setback]:
        if asyncio.get_running_loop().time() < 99:
            raise Unavailable("later", after=99.0)
        return ()

    async def work() -> None:
        sink = Recorder(wait)
        road = Road(sink)
        road.offer(change(1))
        await road.finish()
        assert [at for at, _ in sink.writes] == [0.0, 99.0]

    play(work())


def test_each_verdict_is_its_outcome_and_dead_waits_for_its_letter() -> None:
    verdicts = {1: Verdict.STALE, 2: Verdict.DUPLICATE, 3: Verdict.DEAD}

    async def judge(changes: Sequence[Change]) -> Sequence[Setback]:
        return [Setback(n, verdicts[one.version], "why") for n, one in enumerate(changes) if one.version in verdicts]

    async def work() -> None:
        road = Road(Recorder(judge))
        durable = asyncio.Event()

        async def grave() -> None:
            assert 3 not in dict(road.settled)
            await asyncio.sleep(100.0)
            durable.set()

        road.grave = grave
        road.offer(*map(change, range(4)))
        await road.finish()
        assert durable.is_set()
        assert dict(road.settled) == {0: Outcome.DELIVERED, 1: Outcome.STALE, 2: Outcome.DUPLICATE, 3: Outcome.DEAD}
        assert road.buried == [3]

    play(work())


@pytest.mark.parametrize(
    "setbacks",
    [[Setback(0, Verdict.STALE), Setback(0, Verdict.DEAD)], [Setback(2, Verdict.STALE)], [Setback(-1, Verdict.RETRY)]],
    ids=["twice", "beyond", "negative"],
)
def test_a_sink_that_breaks_its_contract_stops_with_nothing_settled(setbacks: list[Setback]) -> None:
    async def broken(changes: Sequence[Change]) -> Sequence[Setback]:
        return setbacks

    async def work() -> None:
        road = Road(Recorder(broken))
        road.offer(change(0), change(1))
        with pytest.raises(ExceptionGroup) as caught:
            await road.finish()
        assert isinstance(caught.value.exceptions[0], Stopped)
        assert not road.settled
        assert not road.buried

    play(work())


def test_a_destination_that_refuses_everything_stops_before_the_dead_letters_are_flooded() -> None:
    async def dead(changes: Sequence[Change]) -> Sequence[Setback]:
        return [Setback(n, Verdict.DEAD, "mapping") for n in range(len(changes))]

    async def work() -> None:
        road = Road(Recorder(dead))
        road.offer(*map(change, range(1000)))
        with pytest.raises(ExceptionGroup) as caught:
            await road.finish()
        assert isinstance(caught.value.exceptions[0], Poisoned)
        assert len(road.buried) == len(road.settled) <= DeadRate.MINIMUM

    play(work())


def test_few_dead_ones_never_stop_a_sink_that_has_seen_little() -> None:
    rate = DeadRate()
    for n in range(DeadRate.MINIMUM - 1):
        rate.dead(f"reason {n % 3}", "sink s")
    rate.passed(1)


def test_a_tenth_of_the_last_thousand_stops_and_less_does_not() -> None:
    rate = DeadRate()
    for _ in range(20_000):
        rate.passed(10)
        rate.dead("bad", "sink s")

    def ninth() -> None:
        for n in range(1_000):
            rate.passed(8)
            rate.dead(f"bad {n}", "sink s")

    rate = DeadRate()
    with pytest.raises(Poisoned):
        ninth()


@pytest.mark.parametrize("error", [Misconfigured("access denied"), RuntimeError("a bug in the sink")])
def test_an_error_of_the_sink_stops_it_with_nothing_settled(error: Exception) -> None:
    async def broken(changes: Sequence[Change]) -> Sequence[Setback]:
        raise error

    async def work() -> None:
        road = Road(Recorder(broken))
        road.offer(change(0))
        with pytest.raises(ExceptionGroup) as caught:
            await road.finish()
        assert caught.value.exceptions[0] is error
        assert not road.settled

    play(work())


def test_a_write_that_is_cancelled_counts_as_not_written() -> None:
    async def endless(changes: Sequence[Change]) -> Sequence[Setback]:
        await asyncio.sleep(1e6)
        return ()

    async def work() -> None:
        road = Road(Recorder(endless))
        road.offer(change(0))
        running = asyncio.ensure_future(road.delivery.run())
        await asyncio.sleep(5.0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not road.settled

    play(work())


def test_a_small_room_lets_batches_go_that_are_not_full() -> None:
    async def work() -> None:
        sink = Recorder(batching=Batching(age=1e6))
        road = Road(sink, room=1200)
        running = asyncio.ensure_future(_for(10.0, road))
        await asyncio.sleep(0)
        road.offer(*map(change, range(3)))
        road.delivery.starve()
        await road.room.free()
        assert [batch for _, batch in sink.writes] == [[0, 1, 2]]
        await running

    play(work())
