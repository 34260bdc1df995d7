"""The ids of all rows of a lake, on disk: which of them stand more than once, and whether they may."""

from __future__ import annotations

import itertools
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Literal, Protocol

import msgspec

from dsqlcdc_s3.audit.spill import GROUP, Spill

_RECORD = struct.Struct(">16s8sI")
"""A row's id, what tells its place in the stream from others, and the number of the part that it stands in."""
_COMPARED = 16
"""Rows of one id that each further one is compared with."""
_PACK = struct.Struct(">16sI4sI").pack
"""The same: a place is told by the CRC-32 of shard and sequence number, and its last digits."""

Beside = Literal["", "replay", "apart", "compaction"]
"""What an object is of: the chain, or beside it."""


class Row(Protocol):
    """Of a line where it was in the stream."""

    shard: str
    sequence: str


class Span(msgspec.Struct, frozen=True):
    """A part, and the object that it was found in: itself, or a compacted one."""

    part: str
    object: str
    beside: Beside


class Repeat(msgspec.Struct, frozen=True):
    """An id that stands in two places: of the same record of the stream, or of another that DSQL sent with the same change."""

    id: str
    one: Span
    two: Span
    same: bool

    @property
    def compacted(self) -> bool:
        """It is one row of one part, which stands by itself and in a compacted object, or in two of those."""
        return self.one.part == self.two.part and self.one.object != self.two.object

    @property
    def legal(self) -> bool:
        """May it be so? What DSQL sends again goes in again once its first copy is forgotten (`lateness`), in Lambda always; but never within one
        part. A record that is *read* again does not go in again, and what was replayed is in no chain, nor the other way round; only Lambda
        keeps no common books with a daemon or a replay (docs/reference.md, "Reset" and "Dead letters"; dsqlcdc_s3.batch_sink)."""
        if self.compacted:
            return True
        if self.one.part == self.two.part:
            return False
        kinds = {self.one.beside, self.two.beside}
        return "apart" in kinds if len(kinds) == 2 else not self.same


class Ids:
    """All ids that were met. `file` and `state` go on from an earlier run; see Spill.restore, which may raise Torn."""

    def __init__(self, file: IO[bytes] | None = None, state: bytes = b"", first: int = 1, *, group: int = GROUP) -> None:
        self._spill = Spill(_RECORD.size, file=file, group=group)
        if state:
            self._spill.restore(state)
        self._numbers = itertools.count(first)
        self._turn = threading.Lock()

    def close(self) -> None:
        self._spill.close()

    def part(self) -> Seen:
        """For the rows of one more part."""
        return Seen(next(self._numbers), self)

    def add(self, records: Sequence[bytes]) -> None:
        """May be called in any thread."""
        with self._turn:
            self._spill.add(records)

    def state(self) -> bytes:
        with self._turn:
            return self._spill.state()

    def repeats(self, span: Callable[[int], Span | None]) -> Iterator[Repeat]:
        """Each id that stands once more, with where it stood; of parts that `span` knows, in no order."""
        for group in self._spill.groups():
            ids = [record[:16] for record in group]
            if len(set(ids)) != len(ids):
                yield from _repeats(group, span)


def _repeats(group: list[bytes], span: Callable[[int], Span | None]) -> Iterator[Repeat]:
    group.sort()
    for id, records in itertools.groupby(group, lambda record: record[:16]):
        copies = [(place, number) for _, place, number in map(_RECORD.unpack, records)]
        met: list[tuple[bytes, Span]] = []
        for place, number in copies if len(copies) > 1 else ():
            where = span(number)
            if where is None:
                continue
            found = [Repeat(id.hex(), before, where, place == at) for at, before in met]
            if found:
                yield min(found, key=lambda repeat: (repeat.legal, not repeat.compacted))
            if len(met) < _COMPARED:
                met.append((place, where))


class Seen:
    """The ids of one part: `number` names it among all."""

    def __init__(self, number: int, ids: Ids) -> None:
        self.number, self._ids = number, ids
        self._shards: dict[str, int] = {}

    def add(self, ids: Sequence[bytes], rows: Sequence[Row]) -> None:
        """The next rows, with their ids. May be called in any thread."""
        number, shards, pack, crc32 = self.number, self._shards, _PACK, zlib.crc32
        records: list[bytes] = []
        for id, row in zip(ids, rows, strict=True):
            shard = shards.get(row.shard)
            if shard is None:
                shard = shards[row.shard] = crc32(row.shard.encode())
            sequence = row.sequence.encode()
            records.append(pack(id, crc32(sequence, shard), sequence[-4:], number))
        self._ids.add(records)
