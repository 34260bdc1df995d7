"""Bulk requests: cut by bytes and count, as many at a time as the cluster takes, answers mapped by position with a look at the ids."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec

from dsqlcdc_opensearch.answers import Meaning, Said, of_item, of_request, said_in, said_of
from dsqlcdc_opensearch.document import Operation
from dsqlcdc_opensearch.http import Answer, NoAnswer, Transport
from dsqlcdc_opensearch.scripted import of_update

log = logging.getLogger("dsqlcdc.opensearch")

_NO_ERROR = msgspec.Raw(b"")
_LEAST = 64 * 1024
LONGEST_WAIT = 600.0


class _Version(msgspec.Struct, gc=False):
    version: int | None = None


class _Source(msgspec.Struct, gc=False):
    cdc: _Version | None = msgspec.field(name="__cdc", default=None)


class _Got(msgspec.Struct, gc=False):
    source: _Source | None = msgspec.field(name="_source", default=None)


class _Item(msgspec.Struct, gc=False):
    id: str = msgspec.field(name="_id")
    status: int
    error: msgspec.Raw = _NO_ERROR
    result: str = ""
    get: _Got | None = None

    @property
    def current(self) -> int | None:
        """The version of the document that is there, where an update tells it."""
        source = self.get.source if self.get is not None else None
        return source.cdc.version if source is not None and source.cdc is not None else None


class _Entry(msgspec.Struct, gc=False):
    index: _Item | None = None
    delete: _Item | None = None
    update: _Item | None = None


class _Items(msgspec.Struct, gc=False):
    items: list[_Entry]


_decode = msgspec.json.Decoder(_Items).decode


class Result(msgspec.Struct, frozen=True, gc=False):
    """What became of an operation that did not simply go in. `after`: seconds that were asked for."""

    meaning: Meaning
    said: Said = Said()
    status: int = 0
    after: float | None = None


class Limits:
    """How much at a time: requests in flight and bytes in each. More after good answers, half after too much (AIMD).

    `learned` is the size above which the cluster refused a request (413): never exceeded again.
    """

    def __init__(self, bytes: int, records: int, concurrency: int) -> None:
        self.bytes, self.records, self.most = bytes, records, concurrency
        self.learned = self._ceiling = bytes
        self.size = min(2, concurrency)
        self._good = 0
        self._flying = 0
        self._free = asyncio.Event()

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None, None]:
        while self._flying >= self.size:
            self._free.clear()
            await self._free.wait()
        self._flying += 1
        try:
            yield
        finally:
            self._flying -= 1
            self._free.set()

    def good(self) -> None:
        self.bytes = min(self.learned, self.bytes + self._ceiling // 16)
        self._good += 1
        if self._good >= self.size and self.size < self.most:
            self.size += 1
            self._good = 0
            self._free.set()

    def overloaded(self, size: int) -> None:
        """A request of this many bytes was too much just now."""
        self.size = max(1, self.size // 2)
        self.bytes = max(_LEAST, min(self.bytes, size) // 2)
        self._good = 0

    def too_large(self, size: int) -> None:
        """A request of this many bytes is too large for good."""
        self.learned = min(self.learned, max(size // 2, 1024))
        self.bytes = min(self.bytes, self.learned)


class Bulk:
    """Sends operations. `path` is that of the bulk API, with its query."""

    def __init__(self, transport: Transport, limits: Limits, path: str) -> None:
        self._transport, self.limits, self._path = transport, limits, path
        self.mismatches = 0
        self._refreshed = False

    async def send(self, operations: Sequence[Operation], until: float) -> Mapping[int, Result]:
        """Send all; what did not simply go in, by the operations' `index`. Never raises for what the cluster may answer.

        Nothing is sent after `until` (loop time): what it was judged by is too old by then, and it comes back as RETRY.

        After a request that got no answer, or was too much, the rest is not sent and comes back as RETRY. Raises Unavailable and
        Misconfigured where requests cannot be signed. Cancelled: what was sent may be in.
        """
        found: dict[int, Result] = {}
        rest = list(operations)
        while rest:
            count = self._fit(rest)
            some, rest = rest[:count], rest[count:]
            results = await self._send(some, until)
            found.update(results)
            stop = next((result for result in results.values() if result.meaning in _PAUSES), None)
            if stop is not None and len(results) == len(some):
                behind = Result(Meaning.RETRY, Said("", "not sent yet"), 0, stop.after)
                found.update((operation.index, behind) for operation in rest)
                break
        return found

    def _fit(self, operations: Sequence[Operation]) -> int:
        size = 0
        for count, operation in enumerate(operations):
            size += len(operation.lines)
            if count and (size > self.limits.bytes or count >= self.limits.records):
                return count
        return len(operations)

    async def _send(self, operations: Sequence[Operation], until: float) -> dict[int, Result]:
        body = b"".join([operation.lines for operation in operations])
        async with self.limits.turn():
            if asyncio.get_running_loop().time() > until:
                return _all(operations, Result(Meaning.RETRY, Said("", "it has waited too long to be sent as it was judged")))
            try:
                answer = await self._transport("POST", self._path, body, lines=True)
            except NoAnswer as error:
                said = Said("untrusted" if error.untrusted else "no_answer", error.why)
                return _all(operations, Result(Meaning.RETRY, said))
        said = Said() if answer.status < 300 else said_in(answer.body)
        meaning = of_request(answer.status, said)
        result = Result(meaning, said, answer.status, wait_of(answer.retry_after))
        match meaning:
            case Meaning.IN:
                self._refreshed = False
                return self._items(operations, answer, len(body))
            case Meaning.TOO_LARGE:
                self.limits.too_large(len(body))
                return await self._halves(operations, result, until)
            case Meaning.MALFORMED:
                return await self._halves(operations, result, until)
            case Meaning.OVERLOADED:
                self.limits.overloaded(len(body))
            case Meaning.DENIED if not self._refreshed and await self._transport.refresh():
                self._refreshed = True
                return await self._send(operations, until)
            case Meaning.DEAD:  # no such path, or no such method: this is no bulk API
                result = msgspec.structs.replace(result, meaning=Meaning.STOP)
            case _:
                pass
        return _all(operations, result)

    async def _halves(self, operations: Sequence[Operation], result: Result, until: float) -> dict[int, Result]:
        """Of a request that was refused whole: its halves, until the operation at fault stands alone."""
        if len(operations) == 1:
            return _all(operations, msgspec.structs.replace(result, meaning=Meaning.DEAD))
        middle = len(operations) // 2
        first = await self._send(operations[:middle], until)
        return first | await self._send(operations[middle:], until)

    def _items(self, operations: Sequence[Operation], answer: Answer, size: int) -> dict[int, Result]:
        try:
            entries = _decode(answer.body).items
        except msgspec.MsgspecError as error:
            return self._mismatch(operations, f"the answer cannot be read: {error}")
        if len(entries) != len(operations):
            return self._mismatch(operations, f"the answer has {len(entries)} items for {len(operations)} operations")
        found: dict[int, Result] = {}
        overloaded = False
        for operation, entry in zip(operations, entries, strict=True):
            item = entry.update if operation.scripted else entry.delete if operation.delete else entry.index
            if item is None or item.id != operation.id:
                return self._mismatch(operations, "the answer's items are not those that were sent")
            if item.status in (200, 201) and item.error is _NO_ERROR and item.result != "noop":
                continue
            said = None if item.error is _NO_ERROR or bytes(item.error) == b"null" else said_of(item.error)
            if operation.scripted:
                meaning = of_update(item.status, said, item.result, item.current, operation.version, delete=operation.delete)
            else:
                meaning = of_item(item.status, said, operation.version, delete=operation.delete)
            if meaning is not Meaning.IN:
                found[operation.index] = Result(meaning, said or Said(), item.status)
                overloaded = overloaded or meaning is Meaning.OVERLOADED
        if overloaded:
            self.limits.overloaded(size)
        else:
            self.limits.good()
        return found

    def _mismatch(self, operations: Sequence[Operation], why: str) -> dict[int, Result]:
        """What is in is not known. That versions are compared makes sending it again harmless."""
        self.mismatches += 1
        log.warning("a bulk answer does not match its request (%s); all %d operations are sent again", why, len(operations))
        return _all(operations, Result(Meaning.RETRY, Said("response_mismatch", why)))


_PAUSES = frozenset({Meaning.RETRY, Meaning.OVERLOADED, Meaning.BLOCKED, Meaning.DENIED, Meaning.MISSING, Meaning.STOP})


def _all(operations: Sequence[Operation], result: Result) -> dict[int, Result]:
    return {operation.index: result for operation in operations}


def wait_of(retry_after: str | None) -> float | None:
    """Seconds of a Retry-After in digits, at most ten minutes; None for anything else."""
    text = (retry_after or "").strip()
    return min(float(text), LONGEST_WAIT) if text.isascii() and text.isdigit() and len(text) < 12 else None
