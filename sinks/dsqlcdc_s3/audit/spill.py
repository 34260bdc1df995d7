"""Records too many for memory, on disk in groups by a hash: what has the same hash comes back in the same group."""

from __future__ import annotations

import hashlib
import struct
import zlib
from array import array
from collections.abc import Iterator, Sequence
from typing import IO, Self

from dsqlcdc_s3.room import no_room, unnamed

_PLACES = 256
_BLOCK = 16 * 1024
"""Bytes of one place that wait in memory."""
_LOOK = 1024
"""Records after which it is looked what has to be written."""
GROUP = 4 * 1024 * 1024
"""Bytes of a group at the most: one that would be larger is divided by the next byte of the hash."""
_DEPTH = 7
"""The last byte of a hash that is looked at, from 0 on."""
_HEAD = struct.Struct(">QII")
"""Of a block: where the one before it begins, and one more (0: there is none); its bytes; their CRC-32."""


class Torn(Exception):
    """What is on disk is not what was written."""


class Spill:
    """A file of records, each of `width` bytes that begin with its hash; with `width` 0, lines that begin with a hash in hex.

    Without `file` it has no name, and the system takes it away with the process. Methods raise Misconfigured where the disk is full or cannot
    be read, `groups` Torn too. Not for two threads at once.
    """

    def __init__(self, width: int = 0, *, file: IO[bytes] | None = None, group: int = GROUP, depth: int = 0) -> None:
        self._width, self._limit, self._depth = width, group, depth
        self._file = file or unnamed()
        self._last = array("Q", bytes(8 * _PLACES))
        self._sizes = array("Q", bytes(8 * _PLACES))
        self._waiting = [bytearray() for _ in range(_PLACES)]
        self._end = self._unwritten = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the room back. Closing twice is fine."""
        self._file.close()

    def add(self, records: Sequence[bytes]) -> None:
        waiting, depth = self._waiting, self._depth
        if self._width:
            for record in records:
                waiting[record[depth]] += record
        else:
            for record in records:
                waiting[int(record[2 * depth : 2 * depth + 2], 16)] += record
        self._unwritten += len(records)
        if self._unwritten >= _LOOK:
            self._unwritten = 0
            for place, block in enumerate(waiting):
                if len(block) >= _BLOCK:
                    self._write(place)

    def _write(self, place: int) -> None:
        block = self._waiting[place]
        if not block:
            return
        body = bytes(block) if self._width else zlib.compress(block, 1)
        try:
            self._file.seek(self._end)
            self._file.write(_HEAD.pack(self._last[place], len(body), zlib.crc32(body)) + body)
        except OSError as error:
            raise no_room(error) from error
        self._last[place], self._sizes[place] = self._end + 1, self._sizes[place] + len(block)
        self._end += _HEAD.size + len(body)
        block.clear()

    def state(self) -> bytes:
        """Write what waits; what `restore` needs, in this process or another, to go on from here."""
        for place in range(_PLACES):
            self._write(place)
        try:
            self._file.flush()
        except OSError as error:
            raise no_room(error) from error
        return struct.pack(f">Q{2 * _PLACES}Q", self._end, *self._last, *self._sizes)

    def restore(self, state: bytes) -> None:
        """Go on from there; what was written after it is cut off. Raises Torn where the file is shorter."""
        end, *rest = struct.unpack(f">Q{2 * _PLACES}Q", state)
        if self._file.seek(0, 2) < end:
            raise Torn("it is shorter than it was")
        self._file.truncate(end)
        self._end, self._last, self._sizes = end, array("Q", rest[:_PLACES]), array("Q", rest[_PLACES:])

    def groups(self) -> Iterator[list[bytes]]:
        """All records, those with the same hash together; a group is larger than it should be only where that many have one hash."""
        for place in range(_PLACES):
            size = self._sizes[place] + len(self._waiting[place])
            if size <= self._limit or self._depth == _DEPTH:
                records = [record for block in self._blocks(place) for record in self._split(block)]
                if records:
                    yield records
            else:
                with Spill(self._width, group=self._limit, depth=self._depth + 1) as finer:
                    for block in self._blocks(place):
                        finer.add(self._split(block))
                    yield from finer.groups()

    def _blocks(self, place: int) -> Iterator[bytes]:
        if self._waiting[place]:
            yield bytes(self._waiting[place])
        at = self._last[place]
        while at:
            try:
                self._file.seek(at - 1)
                before, length, told = _HEAD.unpack(self._file.read(_HEAD.size))
                body = self._file.read(length)
                if zlib.crc32(body) != told:
                    raise Torn(f"its block at {at - 1} was changed")
                block = body if self._width else zlib.decompress(body)
            except (struct.error, zlib.error) as error:
                raise Torn(f"its block at {at - 1} cannot be read ({error})") from error
            except OSError as error:
                raise no_room(error) from error
            yield block
            at = before

    def _split(self, block: bytes) -> list[bytes]:
        width = self._width
        return [block[n : n + width] for n in range(0, len(block), width)] if width else block.splitlines(keepends=True)


def mark(name: str) -> bytes:
    """Eight bytes of the name's hash, in hex."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest().encode()
