"""What was last seen of the CDC stream, kept from one process to the next: a stream in another's place leaves its gap, whoever put it there."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dsqlcdc.core.ports import CheckpointStore, Commit, Gap, Name
from dsqlcdc.streams import recreated
from dsqlcdc.streams.desired import Desired
from dsqlcdc.streams.observed import CdcStream

SEEN = ".stream"
"""Reserved in place of a sink's name, which begins with a letter or digit."""


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """Times are seconds since the epoch, 0 unknown. `stream`: the id of the last one that delivered. `healthy_at`: when it was last seen
    ACTIVE. `broken_since`: from when on changes may be held back, 0 while none are."""

    stream: str = ""
    healthy_at: float = 0.0
    broken_since: float = 0.0


def seen_name(desired: Desired) -> Name:
    return Name(desired.pipeline, SEEN, f"{desired.cluster}/{desired.target.name}")


async def last_seen(store: CheckpointStore, desired: Desired) -> Sighting:
    """What was written last; nothing known where nothing was. Raises what the store raises."""
    stored = await store.load(seen_name(desired))
    if stored is None or not stored.word:
        return Sighting()
    return msgspec.json.decode(stored.word, type=Sighting)


async def remember(store: CheckpointStore, desired: Desired, sighting: Sighting) -> None:
    """Write it, durably. A later look of another process at the same stream is kept. Raises what the store raises."""
    stored = await last_seen(store, desired)
    if stored.stream == sighting.stream:
        sighting = msgspec.structs.replace(sighting, healthy_at=max(stored.healthy_at, sighting.healthy_at))
    if sighting != stored:
        await store.commit(seen_name(desired), Commit({}, word=msgspec.json.encode(sighting)))


async def arrived(store: CheckpointStore, desired: Desired, streams: Sequence[CdcStream], new: CdcStream, at: float) -> Sequence[Gap]:
    """To be called when `new` is seen to deliver, at `at` (seconds since the epoch), before that is remembered: the gaps that end with it.

    Where it took another's place while nobody looked, that gap is recorded first. `streams`: all that the cluster has; where the old one
    still is among them and delivers, nothing is lost. Raises what the store raises; again, it changes nothing.
    """
    known = await last_seen(store, desired)
    gaps = await store.gaps(desired.pipeline)
    alive = {stream.id for stream in streams if stream.status in ("ACTIVE", "IMPAIRED")}
    left = any(gap.kind == recreated.KIND and gap.after == known.stream for gap in gaps)
    if known.stream not in ("", new.id) and known.stream not in alive and not left:
        old = CdcStream(cluster=desired.cluster, id=known.stream, arn="", status="GONE")
        old = next((stream for stream in streams if stream.id == known.stream), old)
        await recreated.begin(store, desired, old, now=at, healthy=known.healthy_at)
    there = [stream for stream in streams if stream.status != "FAILED"]  # one that FAILED and was replaced delivers no more
    return await recreated.end(store, desired, there, new, now=at)
