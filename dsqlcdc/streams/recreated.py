"""The gap that a CDC stream leaves when it is deleted and created again: recorded before, ended after, whole wherever it is stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from dsqlcdc.core.ports import CheckpointStore, Gap
from dsqlcdc.streams.desired import Desired
from dsqlcdc.streams.observed import CdcStream
from dsqlcdc.streams.remedies import KEPT

KIND = "recreated"
SKEW = 60.0
"""Seconds by which our clock and the commit times of the database may differ, and which a change is on its way."""


def gap_of(desired: Desired, stream: CdcStream, *, now: float, healthy: float = 0.0, number: int = 0) -> Gap:
    """The gap that deleting this stream leaves, its end unknown. Times are seconds since the epoch.

    It begins at `healthy`, the last moment at which the stream is known to have owed nothing. Where nobody knows: now, for one that is
    ACTIVE; otherwise a week before its statusReason was last set, for nothing older is kept, but not before it was created. `number`: of
    gaps of this stream that were acknowledged before it was deleted.
    """
    if healthy:
        begins = healthy
    elif stream.status == "ACTIVE":
        begins = now - SKEW
    else:
        begins = max(stream.created_at, (stream.reason.updated_at if stream.reason is not None else now) - KEPT)
    reason = f", {stream.reason.error}" if stream.reason is not None else ""
    key = "\0".join((desired.pipeline, KIND, desired.cluster, stream.id, str(number)))
    return Gap(
        id=hashlib.sha256(key.encode()).hexdigest()[:12],
        pipeline=desired.pipeline,
        sink="",
        stream=f"{desired.cluster}/{desired.target.name}",
        kind=KIND,
        shard="",
        after=stream.id,
        from_time=begins,
        detail=f"CDC stream {stream.id} ({stream.status}{reason}) is deleted and created again: what it still owed, and what is committed "
        "until the new one is ACTIVE, is delivered by nobody",
        found_at=now,
    )


async def begin(store: CheckpointStore, desired: Desired, stream: CdcStream, *, now: float, healthy: float = 0.0) -> Gap:
    """Record the gap, before the stream is deleted. Called again, it is the same gap; one that somebody has acknowledged since says nothing
    of what is lost now, so another is recorded."""
    number = 0
    while (gap := await store.record_gap(gap_of(desired, stream, now=now, healthy=healthy, number=number))).acked:
        number += 1
    return gap


async def end(store: CheckpointStore, desired: Desired, streams: Sequence[CdcStream], active: CdcStream, *, now: float) -> Sequence[Gap]:
    """Give their end to the gaps whose old stream is gone, now that the new one is ACTIVE; those that got one.

    `streams`: all that the cluster has. A gap whose old stream is still there stays open: it was not deleted.
    """
    there = {stream.id for stream in streams if stream.status not in ("DELETING", "DELETED")}
    place = f"{desired.cluster}/{desired.target.name}"
    return [
        await store.end_gap(gap.pipeline, gap.id, until=active.id, to_time=now + SKEW)
        for gap in await store.gaps(desired.pipeline)
        if gap.kind == KIND and gap.stream == place and not gap.to_time and gap.after not in there
    ]
