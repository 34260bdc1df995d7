"""The port to Kinesis: the four calls a reader makes, in our own types. The AWS client behind it is in `kinesis_client`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from dsqlcdc.core.records import Position, Record
from dsqlcdc.errors import Misconfigured, Unavailable
from dsqlcdc.sources.shards import Shard


class Description(msgspec.Struct, frozen=True):
    """A stream's summary. `created` and `now` (the service's clock): seconds since the epoch; `retention`: seconds."""

    name: str
    created: float
    retention: float
    now: float
    arn: str = ""


class Reply(msgspec.Struct, gc=False):
    """A GetRecords answer. `iterator` None: the shard is closed and was read to its end. `now`: the service's clock, 0 where unknown."""

    records: list[Record]
    iterator: str | None
    behind: int = 0
    children: Sequence[Shard] = ()
    now: float = 0.0
    size: int = 0


class Expired(Unavailable):
    """The iterator is older than five minutes. A new one is taken from the last position."""

    default_code = "E123"


class Throttled(Unavailable):
    """Too many reads or bytes for this shard just now, by all its readers together."""

    default_code = "E121"


class Oversize(Unavailable):
    """The answer was larger than the room there was: dropped unread, to be fetched again when there is. `size`: bytes needed."""

    default_code = "E124"

    def __init__(self, size: int, where: str) -> None:
        super().__init__("an answer was dropped unread", where=where, why=f"no room for {size} bytes")
        self.size = size


class UnknownSequence(Misconfigured):
    """The shard never had this sequence number."""

    default_code = "E107"


Admit = Callable[[int], Awaitable[None]]
"""Called with an answer's Content-Length before its body is read. Waits for room; raises Oversize when there is none for long."""


class Service(Protocol):
    """One stream. Every method raises Unavailable (asked again later) or Misconfigured (never), as a Fault that names the shard."""

    stream: str
    """The stream as configured: its name or ARN."""

    async def describe(self) -> Description: ...

    async def list_shards(self) -> list[Shard]:
        """All shards, open and closed, every page, no filter."""
        ...

    async def iterator(self, shard: str, position: Position) -> str:
        """An iterator AT the record of `position` (kind after), at its time, or at the trim horizon. Raises UnknownSequence.

        Kinesis gives an iterator at the trim horizon, without a word, for a record that has been trimmed.
        """
        ...

    async def records(self, shard: str, iterator: str, limit: int, admit: Admit) -> Reply:
        """Up to `limit` records. Raises Expired, Throttled, Oversize too. When cancelled, the same iterator may be used again."""
        ...
