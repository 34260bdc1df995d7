"""What an invocation answers where something is owed: the record, or a function error on which Lambda halves the batch."""

from __future__ import annotations

from typing import Any

import pytest

from dsqlcdc.core.records import Mark, Position
from dsqlcdc.errors import Fault, Misconfigured, Unavailable
from dsqlcdc.hosts.invocation import Work, answer
from dsqlcdc.sources.lambda_event import Batch, read_event

from .lambda_world import STREAM, event, insert
from .samples import status


def batch(count: int) -> Batch:
    made = read_event(event(*map(insert, range(count))), STREAM)
    assert made is not None
    return made


def done(of: Batch, passed: dict[str, int], faults: dict[str, Fault] | None = None, **about: Any) -> Work:
    """`passed`: by sink, how many records its frontier has passed."""
    marks = {
        sink: {of.shard: Mark(Position("after", of.records[count - 1].sequence_number))} if count else {} for sink, count in passed.items()
    }
    return Work(marks, [status(sink, **{"retries": {}, **about}) for sink in passed], faults or {}, ())


def test_the_slowest_sinks_first_record_is_named() -> None:
    of = batch(4)
    assert answer(of, done(of, {"lake": 4, "hook": 4})) == ""
    assert answer(of, done(of, {"lake": 4, "hook": 2})) == of.records[2].sequence_number


def test_where_nothing_moved_for_want_of_time_the_batch_is_halved() -> None:
    of = batch(2)
    with pytest.raises(Unavailable, match=r"E463.*2 records"):
        answer(of, done(of, {"lake": 0, "hook": 2}))


def test_where_a_destination_was_away_or_the_batch_is_one_record_halves_would_not_help() -> None:
    for of, retries in ((batch(2), {"E120": 3}), (batch(1), {})):
        assert answer(of, done(of, {"lake": 0}, retries=retries)) == of.records[0].sequence_number


def test_a_sinks_fault_is_raised_where_it_kept_everything_and_not_where_something_moved() -> None:
    of, fault = batch(2), {"lake": Misconfigured("no such bucket")}
    with pytest.raises(Misconfigured):
        answer(of, done(of, {"lake": 0}, fault))
    assert answer(of, done(of, {"lake": 1}, fault)) == of.records[1].sequence_number
