"""One CDC stream in another's place: what nobody delivers in between is a gap, and it is recorded whoever did it, and whatever dies."""

from __future__ import annotations

import hashlib

import msgspec

from dsqlcdc.core.ports import CheckpointStore, Commit, Gap, Name
from dsqlcdc.streams.desired import Desired
from dsqlcdc.streams.observed import CdcStream
from dsqlcdc.streams.remedies import KEPT

SEEN = ".stream"
"""Reserved in place of a sink's name, which begins with a letter or digit: what was last seen of the CDC stream."""
SKEW = 60.0
"""Seconds by which our clock and the database's may differ: a gap's bounds are that much wider."""


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of the CDC stream from one process to the next. Times are seconds since the epoch, 0 unknown.

    `stream`: its id. `healthy_at`: when it was last seen ACTIVE. `broken_since`: from when on changes may be held back. `lost`: the stream in
    whose place it came, while the gap is not recorded yet; `lost_since`: from when on that one may not have delivered.
    """

    stream: str = ""
    healthy_at: float = 0.0
    broken_since: float = 0.0
    lost: str = ""
    lost_since: float = 0.0


def seen_name(desired: Desired) -> Name:
    return Name(desired.pipeline, SEEN, f"{desired.cluster}/{desired.target.name}")


async def last_seen(store: CheckpointStore, desired: Desired) -> Sighting:
    """What was written last; nothing known where nothing was. Raises what the store raises."""
    stored = await store.load(seen_name(desired))
    if stored is None or not stored.word:
        return Sighting()
    return msgspec.json.decode(stored.word, type=Sighting)


async def remember(store: CheckpointStore, desired: Desired, sighting: Sighting) -> None:
    """Write it, durably. What others have written of the same stream since is kept where it says more."""
    stored = await last_seen(store, desired)
    if stored.stream == sighting.stream:
        healthy = max(stored.healthy_at, sighting.healthy_at)
        lost, since = (sighting.lost, sighting.lost_since) if sighting.lost else (stored.lost, stored.lost_since)
        sighting = msgspec.structs.replace(sighting, healthy_at=healthy, lost=lost, lost_since=since)
    if sighting != stored:
        await _write(store, desired, sighting)


async def _write(store: CheckpointStore, desired: Desired, sighting: Sighting) -> None:
    await store.commit(seen_name(desired), Commit({}, word=msgspec.json.encode(sighting)))


async def leave(store: CheckpointStore, desired: Desired, old: CdcStream, at: float) -> Gap:
    """To be called before a CDC stream is deleted, at `at` (seconds since the epoch). The gap is recorded, durably, without an end:
    `arrive` gives it one, though everything here may die in between."""
    known = await last_seen(store, desired)
    if known.lost and known.stream != old.id:  # an earlier replacement was not finished: the gap began there
        sighting = msgspec.structs.replace(known, stream="")
    else:
        sighting = Sighting(lost=old.id, lost_since=lost_since(old, known.healthy_at if known.stream == old.id else 0.0))
    gap = await store.record_gap(recreated(desired, sighting.lost, sighting.lost_since, found_at=at))
    await _write(store, desired, sighting)
    return gap


async def arrive(store: CheckpointStore, desired: Desired, new: CdcStream, at: float, *, healthy: bool = True) -> Gap | None:
    """To be called when a CDC stream is seen to deliver, at `at` (seconds since the epoch): where it took another's place the gap gets its
    end, durably, and is recorded first where nobody did; None where it did not. `healthy`: it is ACTIVE. Again, it changes nothing."""
    known = await last_seen(store, desired)
    if known.stream and known.stream != new.id and not known.lost:  # replaced by somebody else, while nobody looked
        known = msgspec.structs.replace(known, lost=known.stream, lost_since=known.healthy_at)
    gap = None
    if known.lost and known.lost != new.id:
        gap = await store.record_gap(recreated(desired, known.lost, known.lost_since, new.id, at, found_at=at))
        gap = await store.end_gap(gap.pipeline, gap.id, until=new.id, to_time=at + SKEW)
    before = known.healthy_at if known.stream == new.id else 0.0
    await _write(store, desired, Sighting(stream=new.id, healthy_at=max(at if healthy else 0.0, before)))
    return gap


def lost_since(old: CdcStream, healthy_at: float) -> float:
    """From when on a stream may not have delivered: since it was last seen well, or else as early as may be.

    What it held back when it broke was at most a week old (spec §1), and nothing is older than the stream.
    """
    if healthy_at:
        return healthy_at
    if old.reason is None or not old.reason.updated_at:
        return old.created_at
    return max(old.created_at, old.reason.updated_at - KEPT)


def recreated(desired: Desired, old: str, since: float, new: str = "", active_at: float = 0.0, *, found_at: float) -> Gap:
    """The gap between two CDC streams. Its id depends on the old one only: the same whoever finds it, and when."""
    text = "\0".join((desired.pipeline, desired.cluster, old))
    return Gap(
        id=hashlib.sha256(text.encode()).hexdigest()[:12],
        pipeline=desired.pipeline,
        sink="",
        stream=desired.target.name,
        kind="recreated",
        shard="",
        after=old,
        until=new,
        from_time=max(0.0, since - SKEW) if since else 0.0,
        to_time=active_at + SKEW if active_at else 0.0,
        detail=f"the CDC stream {old} of cluster {desired.cluster} was replaced; nobody delivers what was committed in between",
        found_at=found_at,
    )
