"""The vocabulary of reading: records, pages, positions, marks."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Record(msgspec.Struct, gc=False, rename="pascal"):
    """One Kinesis record as msgspec decodes it from a GetRecords reply. `arrived`: seconds since the epoch.

    `parsed` is what the first pipeline that read it made of it; all pipelines of a process share records.
    """

    sequence_number: str
    data: bytes
    arrived: float = msgspec.field(name="ApproximateArrivalTimestamp", default=0.0)
    parsed: Any = None


class Position(msgspec.Struct, frozen=True):
    """A place in a shard.

    trim_horizon: before the oldest record held. time: before the first record that arrived at `arrived` or later. after: behind the record
    `sequence`, which arrived at `arrived`. end: behind the last record of a closed shard. `arrived` is in seconds since the epoch.
    """

    kind: Literal["trim_horizon", "time", "after", "end"]
    sequence: str = ""
    arrived: float = 0.0

    def __str__(self) -> str:
        if self.kind == "after":
            return self.sequence
        return f"time {self.arrived:.3f}" if self.kind == "time" else self.kind


TRIM_HORIZON = Position("trim_horizon")
END = Position("end")


class Mark(msgspec.Struct, frozen=True):
    """A shard's frontier: nothing at or before `position` is owed. `arrived` (seconds): nothing that arrived up to then is owed.

    `arrived` moves on without records while the shard is read at its tip. It is 0 where nothing is known yet.
    """

    position: Position
    arrived: float = 0.0


class Page(msgspec.Struct, gc=False):
    """What one read of one shard gave: records in sequence order, possibly none.

    `read_at`: the service's clock (seconds) when it was
    read. `behind`: milliseconds behind the tip, as the service said. `ended`: the shard is closed and this is its last page.
    `remember`: these records were settled in an earlier run and are read again only to be remembered.
    """

    shard: str
    records: list[Record]
    read_at: float = 0.0
    behind: int = 0
    ended: bool = False
    remember: bool = False

    @property
    def size(self) -> int:
        return sum(len(r.data) for r in self.records) + 300 * len(self.records)
