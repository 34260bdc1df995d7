"""Reading parts back: whose lines are in, in bounded memory."""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from datetime import datetime
from typing import Any

import msgspec

from dsqlcdc import parquet
from dsqlcdc.contract import Misconfigured
from dsqlcdc_s3.objects import Objects
from dsqlcdc_s3.room import no_room, unnamed

_STEP = 1024 * 1024
_INLINE = 128 * 1024
"""Parquet below this many bytes is read in the loop: a thread would cost more."""
_HELD = 32 * 1024 * 1024
"""Parquet up to these bytes is held in memory, as it was while it was written; a compacted object goes to disk."""
_MILLISECOND = 0.001
"""What a line's arrived_at may be rounded by."""


class Line(msgspec.Struct, gc=False):
    """Of a line what is needed to know it again; the rest is skipped unparsed."""

    id: str
    arrived_at: datetime
    shard: str
    sequence: str
    version: int


_decode = msgspec.json.Decoder(Line).decode


class Damaged(Misconfigured):
    """An object under a part's name that does not hold our lines, whole."""


class Delivered(msgspec.Struct):
    """What parts were found to hold: by id the arrival (seconds), by shard the furthest position, and the newest version."""

    ids: dict[bytes, float] = {}
    furthest: dict[str, tuple[int, str]] = {}
    newest: int = 0


def position(sequence: str) -> tuple[int, str]:
    """A sequence number, which is a decimal number of any length, as something that sorts."""
    return len(sequence), sequence


async def content(objects: Objects, key: str) -> AsyncGenerator[bytes, None]:
    """The lines an object holds, a MiB at a time, of Parquet some thousand lines. Raises Damaged, Missing, and what Objects raises."""
    if key.endswith(parquet.SUFFIX):
        async with aclosing(_parquet(objects, key)) as texts:
            async for text in texts:
                yield text
        return
    many = key.rpartition("/")[2].startswith("compact-")  # a gzip of many members: see dsqlcdc_s3.compaction
    inflate: Any = zlib.decompressobj(31)
    async with aclosing(objects.get(key)) as chunks:
        async for chunk in chunks:
            data = chunk
            if many and inflate.eof:
                inflate = zlib.decompressobj(31)
            while data and not inflate.eof:
                try:
                    text = inflate.decompress(data, _STEP)
                except zlib.error as error:
                    raise _damaged(key, str(error)) from error
                if text:
                    yield text
                data = inflate.unconsumed_tail
                if many and inflate.eof and (data := inflate.unused_data):
                    inflate = zlib.decompressobj(31)
            if inflate.unused_data or (data and inflate.eof):
                raise _damaged(key, "there is something behind its end")
    if not inflate.eof:
        raise _damaged(key, "it breaks off")


async def _parquet(objects: Objects, key: str) -> AsyncGenerator[bytes, None]:
    with unnamed(in_memory=_HELD) as body:
        async with aclosing(objects.get(key)) as chunks:
            async for chunk in chunks:
                _kept(body.write, chunk)
        _kept(body.flush)
        large, read = body.tell() > _INLINE, parquet.lines(body)
        while True:
            try:
                text = await asyncio.to_thread(next, read, b"") if large else next(read, b"")
            except ValueError as error:
                raise _damaged(key, str(error)) from error
            if not text:
                return
            yield text


def _kept(step: Callable[..., object], *given: bytes) -> None:
    try:
        step(*given)
    except OSError as error:
        raise no_room(error) from error


async def content_sha256(objects: Objects, key: str) -> tuple[str, bool]:
    """The hash (hex) of the uncompressed content, and whether there is none. Raises as content does."""
    found, empty = hashlib.sha256(), True
    async with aclosing(content(objects, key)) as texts:
        async for text in texts:
            found.update(text)
            empty = False
    return found.hexdigest(), empty


async def collect(objects: Objects, key: str, since: float, into: Delivered, only: Collection[bytes] | None = None) -> bool:
    """Add the lines of a part that arrived at `since` or later, of these ids only where they are given. False where it is empty: void.

    Raises as content does.
    """
    rest: list[bytes] = []
    empty = True
    async with aclosing(content(objects, key)) as texts:
        async for text in texts:
            empty = False
            *lines, tail = text.split(b"\n")
            if lines:
                lines[0] = b"".join((*rest, lines[0]))
                rest = []
                _add(lines, since, into, key, only)
            rest.append(tail)
    if any(rest):
        raise _damaged(key, "its last line breaks off")
    return not empty


async def search(objects: Objects, key: str, wanted: Collection[bytes] | None) -> set[bytes]:
    """Those of the wanted ids (None: all) that a part holds. Raises as content does."""
    into = Delivered()
    await collect(objects, key, float("-inf"), into, wanted)
    return set(into.ids)


async def is_void(objects: Objects, key: str) -> bool:
    """Does the part hold nothing? Reads its first bytes only."""
    async with aclosing(content(objects, key)) as texts:
        async for _ in texts:
            return False
    return True


def _add(lines: list[bytes], since: float, into: Delivered, key: str, only: Collection[bytes] | None) -> None:
    for text in lines:
        try:
            line = _decode(text)
            id, arrived = bytes.fromhex(line.id), line.arrived_at.timestamp()
        except (msgspec.DecodeError, ValueError) as error:
            raise _damaged(key, f"a line is not one of ours ({error})") from error
        if arrived + _MILLISECOND < since or (only is not None and id not in only):
            continue
        into.ids[id] = arrived
        into.newest = max(into.newest, line.version)
        at = position(line.sequence)
        if into.furthest.get(line.shard, (0, "")) < at:
            into.furthest[line.shard] = at


def _damaged(key: str, why: str) -> Damaged:
    return Damaged(
        "cannot read back a part",
        where=key,
        why=f"{why}; dsqlcdc did not write it so",
        run="aws s3api list-object-versions --bucket BUCKET --prefix KEY, to find who changed it",
    )
