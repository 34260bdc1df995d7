"""What was read of a shard, and where a pipeline stands in it."""

from __future__ import annotations

import msgspec

from dsqlcdc.core.records import Position, Record
from dsqlcdc.sources.shards import Shard


class Cursor(msgspec.Struct):
    """Where one pipeline reads one shard. Owned by that pipeline's reader.

    `verifying`: the iterator stands AT the record of `position`, which has not been seen yet. `seen`: the newest fetch taken.
    `verify`: do not trust an iterator further, begin AT the record again.
    """

    owner: int
    position: Position
    iterator: str | None = None
    iterator_at: float = 0.0
    verifying: bool = False
    verify: bool = False
    seen: int = -1


class Fetched(msgspec.Struct):
    """One GetRecords answer. It holds the interval after `start` up to its last record.

    `lo`: the number of the record it follows (−1: it begins at a time or the trim horizon). `found`: it was asked for AT the record of
    `start`, and that one was there (and is not among `records`). `decided` False: that is not known yet. `begun`: it was read by a new
    iterator at `start`. `now`: at the tip, all that arrived up to then (the service's clock) has been read.
    """

    serial: int
    start: Position
    records: list[Record]
    iterator: str | None
    at: float
    now: float
    behind: int
    size: int
    lo: int = -1
    hi: int = -1
    found: bool = True
    decided: bool = True
    begun: bool = False
    children: tuple[Shard, ...] = ()
    taken: set[int] = msgspec.field(default_factory=set[int])

    @property
    def ended(self) -> bool:
        return self.iterator is None


def number(position: Position) -> int:
    return int(position.sequence) if position.kind == "after" else -1


def after(kept: Fetched, cursor: Cursor) -> Fetched | None:
    """The part of a fetch that follows the cursor; None where it holds nothing that does."""
    wanted = number(cursor.position)
    if kept.serial <= cursor.seen:
        return None
    if wanted < 0:
        begins = kept.lo < 0 and kept.start == cursor.position and (kept.begun or cursor.iterator is not None)
        return kept if begins else None
    if kept.lo == wanted and kept.found:
        return kept
    if kept.records and _first(kept) <= wanted and (wanted < kept.hi or (kept.ended and wanted == kept.hi)):
        return _cut(kept, wanted)
    return None


def past(at: int, fetched: Fetched) -> bool:
    """Has a reader at this number had all of it?"""
    return at > fetched.hi or (at == fetched.hi and bool(fetched.records) and not fetched.ended)


def _first(kept: Fetched) -> int:
    return int(kept.records[0].sequence_number)


def _cut(kept: Fetched, wanted: int) -> Fetched:
    low, high = 0, len(kept.records)
    while low < high:
        middle = (low + high) // 2
        if int(kept.records[middle].sequence_number) <= wanted:
            low = middle + 1
        else:
            high = middle
    return msgspec.structs.replace(kept, records=kept.records[low:], lo=wanted)
