"""Where every shard begins: the checkpoint's marks, or for a first start the time or place that was asked for. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from dsqlcdc.core.records import TRIM_HORIZON, Mark, Position
from dsqlcdc.sources.shards import Shard, depth

Start = Literal["trim_horizon", "latest"] | float
"""A first start: the oldest record held, the service's now, or a time in seconds since the epoch."""


class Starts(msgspec.Struct, frozen=True):
    """`marks`: every listed shard's. `vanished`: marks of shards no longer listed that were not read to the end. `forget`: shards that
    are no longer listed and were."""

    marks: Mapping[str, Mark]
    vanished: Mapping[str, Mark]
    forget: Sequence[str]


def resolve(listed: Sequence[Shard], known: Mapping[str, Mark], start: Start, *, now: float, retention: float) -> Starts:
    """The starts of all listed shards. `known`: the checkpoint's marks, empty on a first start. `now`: the service's clock.

    `latest` becomes the time `now` for every shard, so nothing is lost between this start and the first record. A shard the checkpoint does
    not know was made by a reshard since: it begins at its oldest record, and nothing owed in it is older than its parents' marks.
    """
    marks: dict[str, Mark] = {}
    if not known:
        first = first_mark(start, now, retention)
        return Starts({shard.id: first for shard in listed}, {}, ())
    depths = depth(listed)
    for shard in sorted(listed, key=lambda one: depths[one.id]):
        mark = known.get(shard.id)
        if mark is None:
            parents = [marks.get(parent) or known.get(parent) for parent in shard.parents]
            arrived = [parent.arrived for parent in parents if parent is not None]
            mark = Mark(TRIM_HORIZON, min(arrived) if arrived and len(arrived) == len(parents) else 0.0)
        marks[shard.id] = mark
    gone = {shard: mark for shard, mark in known.items() if shard not in marks}
    vanished = {shard: mark for shard, mark in gone.items() if mark.position.kind != "end"}
    return Starts(marks, vanished, tuple(shard for shard in gone if shard not in vanished))


def first_mark(start: Start, now: float, retention: float) -> Mark:
    """Where a shard begins that is to be read from `start` on."""
    if start == "trim_horizon":
        return Mark(TRIM_HORIZON)
    time = now if start == "latest" else float(start)
    return Mark(TRIM_HORIZON) if time <= now - retention else Mark(Position("time", arrived=min(time, now)), min(time, now))


def remember_from(marks: Mapping[str, Mark], warm_up: float, *, now: float, retention: float) -> float:
    """The arrival time from which settled records are read again: `warm_up` before the oldest time anything may be owed from."""
    oldest = now - retention
    owed = [mark.arrived or oldest for mark in marks.values() if mark.position.kind != "end"]
    return max(oldest, min(owed, default=now) - warm_up)
