"""The gap that a Kinesis stream leaves when it is deleted and made anew under its name: what a sink had not read of the old one. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

from dsqlcdc.core.ports import Checkpoint, Gap, Name

KIND = "replaced"
ON_ITS_WAY = 60.0
"""Seconds that a change may take from its commit to its arrival: marks know arrivals, gaps are of commits."""


def gap_of(former: Name, checkpoint: Checkpoint | None, name: Name, gaps: Sequence[Gap], now: float) -> Gap | None:
    """What the sink of `name` has lost with the stream of `former`, where its checkpoint was left; None where it owed nothing.

    It begins a minute before the oldest arrival that may be owed. It ends where the new stream was made or, where the CDC stream was created
    again with it, where that gap of all sinks begins (`gaps`: of the pipeline, kind `recreated`): what was committed later is in that one,
    and said once. None too where that one covers it all. `now`: seconds since the epoch.
    """
    owed = [mark for mark in checkpoint.marks.values() if mark.position.kind != "end"] if checkpoint is not None else []
    if former.stream == name.stream or not owed:
        return None
    begins, made = min(mark.arrived for mark in owed), made_at(name.stream)
    begins = begins - ON_ITS_WAY if begins else 0.0
    ends = min(now, made + 1.0) if made else now
    for gap in gaps:
        of_it = gap.kind == "recreated" and gap.stream.rpartition("/")[2] == stream_of(name)
        if of_it and made and gap.from_time < made + 1.0 and made <= (gap.to_time or now):  # it was made in that second
            ends = min(ends, gap.from_time)
    if ends <= begins:
        return None
    key = "\0".join((name.pipeline, name.sink, former.stream))
    return Gap(
        id=hashlib.sha256(key.encode()).hexdigest()[:12],
        pipeline=name.pipeline,
        sink=name.sink,
        stream=former.stream,
        kind=KIND,
        shard="",
        from_time=begins,
        to_time=ends,
        detail=f"the Kinesis stream was deleted and made anew ({name.stream}); what the sink had not read of the old one is lost",
        found_at=now,
    )


def stream_of(name: Name) -> str:
    """The Kinesis stream's name, without its creation time."""
    return name.stream.rpartition("@")[0]


def made_at(stream: str) -> float:
    """When a stream was made (seconds since the epoch), as Name.stream says it; 0 where it does not."""
    try:
        return datetime.strptime(stream.rpartition("@")[2], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0
