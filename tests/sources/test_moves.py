"""Setting checkpoints anew: what is repeated, what is skipped, what stays."""

from __future__ import annotations

import pytest

from dsqlcdc.core.ports import Name
from dsqlcdc.core.records import END, TRIM_HORIZON, Mark, Position
from dsqlcdc.sources.moves import Move, moves, skipped
from dsqlcdc.sources.shards import Shard
from dsqlcdc.sources.starts import Start

NOW, RETENTION = 100_000.0, 10_000.0
HORIZON = NOW - RETENTION
AFTER = Mark(Position("after", "5", 95_000.0), 96_000.0)


def one(known: Mark | None, to: Start) -> Move:
    (move,) = moves([Shard("s")], {} if known is None else {"s": known}, to, now=NOW, retention=RETENTION)
    return move


def at(time: float) -> Mark:
    return Mark(Position("time", arrived=time), time)


@pytest.mark.parametrize(
    ("known", "to", "new", "effect", "since", "until"),
    [
        (AFTER, "trim_horizon", Mark(TRIM_HORIZON), "repeats", HORIZON, 96_000.0),
        (AFTER, 94_000.0, at(94_000.0), "repeats", 94_000.0, 96_000.0),
        (AFTER, 98_000.0, at(98_000.0), "skips", 96_000.0, 98_000.0),
        (AFTER, "latest", at(NOW), "skips", 96_000.0, NOW),
        (AFTER, NOW + 500, at(NOW), "skips", 96_000.0, NOW),
        (AFTER, 1.0, Mark(TRIM_HORIZON), "repeats", HORIZON, 96_000.0),
        (Mark(END, 95_000.0), "latest", None, "nothing", 0.0, 0.0),
        (Mark(END, 95_000.0), 94_000.0, at(94_000.0), "repeats", 94_000.0, 95_000.0),
        (Mark(TRIM_HORIZON), "trim_horizon", None, "nothing", 0.0, 0.0),
        (Mark(TRIM_HORIZON), 95_000.0, at(95_000.0), "skips", HORIZON, 95_000.0),
        (at(95_000.0), 95_000.0, None, "nothing", 0.0, 0.0),
        (None, "latest", at(NOW), "skips", HORIZON, NOW),
        (None, "trim_horizon", Mark(TRIM_HORIZON), "nothing", HORIZON, HORIZON),
    ],
)
def test_a_move_says_what_it_repeats_or_skips(
    known: Mark | None, to: Start, new: Mark | None, effect: str, since: float, until: float
) -> None:
    move = one(known, to)
    assert (move.new, move.effect, move.since, move.until) == (new, effect, since, until)


def test_only_the_shards_that_were_named_move_parents_first() -> None:
    listed = [Shard("c", parents=("a",)), Shard("a", closed=True), Shard("b")]
    found = moves(listed, {}, "latest", now=NOW, retention=RETENTION)
    assert [move.shard for move in found] == ["a", "b", "c"]
    assert [move.shard for move in moves(listed, {}, "latest", now=NOW, retention=RETENTION, only=["b"])] == ["b"]


def test_what_is_skipped_is_one_gap_with_bounds() -> None:
    name, move = Name("p", "lake", "s@1"), one(AFTER, 98_000.0)
    gap = skipped(name, move, NOW)
    assert (gap.kind, gap.after, gap.from_time, gap.to_time, gap.acked) == ("reset", "5", 96_000.0, 98_000.0, "")
    assert skipped(name, move, NOW + 9).id == gap.id
    assert skipped(name, one(AFTER, 99_000.0), NOW).id != gap.id
