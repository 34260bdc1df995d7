"""A Kinesis stream made anew: one loss is said once, whoever says it, and the bounds leave nothing out between them."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.core.ports import Checkpoint, Gap, Name
from dsqlcdc.core.records import END, Mark, Position
from dsqlcdc.core.succession import ON_ITS_WAY, gap_of, made_at, stream_of

MADE = datetime(2026, 11, 29, 8, 0, tzinfo=UTC).timestamp()
NOW = MADE + 300.0
OLD = Name("orders", "lake", "orders-cdc@20261101T000000Z")
NEW = Name("orders", "lake", "orders-cdc@20261129T080000Z")


def left(*arrivals: float, ended: bool = False) -> Checkpoint:
    marks = {f"shardId-{number:012d}": Mark(Position("after", "1", at), at) for number, at in enumerate(arrivals)}
    return Checkpoint(marks | ({"shardId-000000000099": Mark(END, 1.0)} if ended else {}))


def recreated(begins: float, ends: float = 0.0, stream: str = "abc/orders-cdc") -> Gap:
    return Gap("g", "orders", "", stream, "recreated", "", from_time=begins, to_time=ends)


def test_names_say_which_stream_and_when_it_was_made() -> None:
    assert (stream_of(NEW), made_at(NEW.stream)) == ("orders-cdc", MADE)
    assert made_at("orders-cdc@1700000000") == made_at("orders-cdc") == 0.0


def test_what_the_old_one_held_unread_is_a_gap_up_to_the_new_ones_making() -> None:
    gap = gap_of(OLD, left(MADE - 500, MADE - 700, ended=True), NEW, [], NOW)
    assert gap is not None
    assert (gap.kind, gap.sink, gap.from_time, gap.to_time) == ("replaced", "lake", MADE - 700 - ON_ITS_WAY, MADE + 1)


def test_the_same_stream_or_one_read_to_its_end_leaves_none() -> None:
    assert gap_of(OLD, left(MADE), OLD, [], NOW) is None
    assert gap_of(OLD, left(ended=True), NEW, [], NOW) is None
    assert gap_of(OLD, None, NEW, [], NOW) is None


def test_where_the_cdc_stream_was_created_again_too_it_ends_where_that_gap_begins() -> None:
    gap = gap_of(OLD, left(MADE - 700), NEW, [recreated(MADE - 90, MADE + 120)], NOW)
    assert gap is not None
    assert gap.to_time == MADE - 90
    assert gap_of(OLD, left(MADE - 20), NEW, [recreated(MADE - 90, MADE + 120)], NOW) is None  # that one says it all


def test_a_gap_of_another_time_or_of_another_stream_takes_nothing_from_it() -> None:
    others = [recreated(MADE - 9000, MADE - 8000), recreated(MADE - 90, stream="abc/other"), recreated(MADE + 10)]
    gap = gap_of(OLD, left(MADE - 700), NEW, others, NOW)
    assert gap is not None
    assert gap.to_time == MADE + 1


@given(st.floats(-5000, 0), st.floats(-5000, 0.99), st.floats(1, 200))
def test_between_them_the_two_gaps_cover_all_that_may_be_lost(arrived: float, healthy: float, active: float) -> None:
    """The new one's making is known by the second: all may have been well until within it."""
    other = recreated(MADE + healthy, MADE + active)
    gap = gap_of(OLD, left(MADE + arrived), NEW, [other], NOW)
    owed_since = MADE + arrived - ON_ITS_WAY
    if gap is None:
        assert other.from_time <= owed_since
    else:
        assert (gap.from_time, gap.to_time) == (owed_since, other.from_time), "they touch, and do not overlap"
