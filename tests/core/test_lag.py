"""Lag: three legs that add up, weighed by changes, at a cost that does not depend on them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.contract import Change, Op, Table
from dsqlcdc.core.lag import BOUNDS, LEGS, RECENT, Lag
from dsqlcdc.core.records import Page, Record

NOW, LOOP = 1_800_000_000.0, 500.0
TABLE = Table("c", "public", "orders", ("id",))


def change(arrived: float = NOW - 10.0, committed: float = NOW - 12.0) -> Change:
    return Change(b"1" * 16, Op.INSERT, TABLE, None, int(committed * 1e9), "t", None, None, b"", "shard", "1", arrived)


class World:
    def __init__(self) -> None:
        self.now, self.loop = NOW, LOOP
        self.lag = Lag(lambda: self.now, lambda: self.loop)

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.loop += seconds

    def read(self, changes: Sequence[Change], *, page: int = 0, after: float = 0.0) -> None:
        self.lag.enters(page)
        self.passes(after)
        self.lag.delivered(changes, (page, page))


def test_the_legs_of_a_change_add_up_to_the_time_from_its_commit_to_the_sink() -> None:
    world = World()
    world.read([change()], after=3.0)
    spreads = world.lag.spreads(lambda _: False, 0.0)
    assert [round(spreads[leg].last, 3) for leg in LEGS] == [2.0, 10.0, 3.0]
    assert sum(spread.sum for spread in spreads.values()) == pytest.approx(world.now - (NOW - 12.0))


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 200_000)), min_size=1, max_size=20))
def test_every_delivered_change_is_in_one_bucket_of_each_leg(batches: list[tuple[int, float]]) -> None:
    world = World()
    for number, (count, after) in enumerate(batches):
        world.read([change(world.now)] * count, page=number, after=after)
    spreads = world.lag.spreads(lambda _: False, 0.0)
    for leg in LEGS:
        assert sum(spreads[leg].counts) == sum(count for count, _ in batches)
        assert len(spreads[leg].counts) == len(BOUNDS) + 1
    assert spreads["read_to_sink"].sum == pytest.approx(sum(count * after for count, after in batches), abs=1e-3)


def test_a_clock_that_differs_gives_no_negative_lag() -> None:
    world = World()
    world.read([change(arrived=NOW + 40.0, committed=NOW + 90.0)])
    spreads = world.lag.spreads(lambda _: False, -5.0)
    assert all(spread.sum == spread.last == spread.now == 0.0 for spread in spreads.values())


def test_while_the_sink_takes_nothing_the_lag_grows() -> None:
    world = World()
    world.lag.enters(0)
    world.passes(90.0)
    world.lag.enters(1)
    assert world.lag.spreads(lambda _: True, 4.0)["read_to_sink"].now == 90.0
    assert world.lag.spreads(lambda page: page == 1, 4.0)["read_to_sink"].now == 0.0
    assert world.lag.spreads(lambda _: True, 4.0)["kinesis_to_read"].now == 4.0


def test_what_is_settled_is_forgotten() -> None:
    world = World()
    for page in range(1000):
        world.lag.enters(page)
    world.lag.forget(lambda page: page == 998)
    world.passes(7.0)
    assert world.lag.spreads(lambda _: True, 0.0)["read_to_sink"].now == 7.0
    assert len(world.lag._entered) == 1


def test_a_batch_costs_the_same_for_one_change_and_for_ten_thousand() -> None:
    looked: list[int] = []

    class Counted(list[Change]):
        def __getitem__(self, index: int) -> Change:  # type: ignore[override]
            looked.append(index)
            return super().__getitem__(index)

        def __iter__(self) -> object:  # type: ignore[override]
            raise AssertionError("a look at every change")

    world = World()
    world.read(Counted([change()] * 10_000))
    assert len(looked) == 2


def page(shard: str, *items: object) -> Page:
    return Page(shard, [Record(str(n), b"", getattr(item, "arrived", NOW), item) for n, item in enumerate(items)])


def test_what_came_just_now_tells_how_late_the_service_is_and_what_is_older_does_not() -> None:
    world = World()
    assert world.lag.source_lag() is None
    world.lag.came(page("one", change(NOW - 1.0, NOW - 700.0)))
    world.lag.came(page("two", change(NOW - 1.0, NOW + 5.0)))  # clocks differ
    world.lag.came(page("three", change(NOW - RECENT - 1.0, NOW - 9000.0)))
    world.lag.came(page("four", object()))  # a part of an oversized row has no time of its own
    assert world.lag.source_lag() == 699.0
    world.passes(RECENT)
    assert world.lag.source_lag() is None
