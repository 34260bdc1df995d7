"""Were records trimmed before they were read? Kinesis never says so: it begins at the trim horizon without a word. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from dsqlcdc.core.ports import Gap
from dsqlcdc.core.records import Position, Record
from dsqlcdc.errors import Lost

SLACK = 5.0
"""Seconds within which the service's trimming and our reading of its clock may differ."""


EDGE = 60.0
"""Seconds from the trim horizon within which trimming may overtake a reader between two reads."""


def missed(position: Position, arrived: float, *, now: float, retention: float) -> bool:
    """May records behind `position` have been trimmed unread, when its own record is not there any more (or it names none)?

    `arrived`: nothing that arrived up to then is owed, 0 where that is unknown. The record may simply have reached its age: harmless if all
    that arrived since, up to a time still held, was read too.
    """
    horizon = now - retention
    if position.kind == "end":
        return False
    if position.kind == "after":
        expired = position.arrived < horizon + SLACK
        return not (expired and arrived >= horizon)
    return 0 < arrived < horizon


def near_the_edge(arrived: float, *, now: float, retention: float) -> bool:
    """Is a reader so far behind that trimming may overtake it between two reads?"""
    return arrived < now - retention + EDGE


def gap(
    *,
    pipeline: str,
    sink: str,
    stream: str,
    shard: str,
    position: Position,
    arrived: float,
    now: float,
    first: Record | None,
    horizon: float,
) -> Gap:
    """The gap with its bounds. `first`: the first record found instead. Its id depends on where it begins only.

    It ends where the first record was found, or where none was at the trim horizon (`horizon`), before which all have reached their age. A
    record that is gone though it arrived later did not go by its age (the retention was lower for a while, say): then nothing says that
    others did, and the gap reaches to `now`. It never ends before it begins; 0 where its beginning is unknown.
    """
    begins = arrived or position.arrived
    ends = first.arrived if first else horizon if horizon > begins else now
    key = "\0".join((pipeline, sink, stream, shard, str(position)))
    return Gap(
        id=hashlib.blake2b(key.encode(), digest_size=5).hexdigest(),
        pipeline=pipeline,
        sink=sink,
        stream=stream,
        kind="trimmed",
        shard=shard,
        after=str(position),
        until=first.sequence_number if first else "",
        from_time=begins,
        to_time=max(begins, ends),
        detail="the stream no longer holds the records that follow the checkpoint: they passed its retention before they were read",
        found_at=now,
    )


def lost(gaps: Sequence[Gap]) -> Lost:
    """The error that halts a pipeline on gaps nobody has acknowledged."""
    named = "; ".join(f"gap {one.id}: shard {one.shard} after {one.after} until {one.until or 'unknown'}" for one in gaps[:3])
    more = f" and {len(gaps) - 3} more gaps" if len(gaps) > 3 else ""
    return Lost(
        "records were trimmed before they were read and may be lost",
        where=f"stream {gaps[0].stream}",
        why=f"{named}{more}. Acknowledge to go on from the oldest record held",
        run=f'dsqlcdc gaps ack {gaps[0].id} CONFIG --reason "why that is fine"',
    )
