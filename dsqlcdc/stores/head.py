"""The head: all that is known of one pipeline and sink in one item, and how what is too large for an item is cut."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import msgspec

from dsqlcdc.core.records import Mark, Position
from dsqlcdc.errors import Misconfigured

FORMAT = 1
ROOM = 300_000
"""Bytes of an item's body. DynamoDB takes 400 KB (of 1,000 or 1,024: nobody says which), names and keys included."""


RESTORE = "dsqlcdc checkpoint show CONFIG, once the item is restored, or removed to begin anew"


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """Where a stream's checkpoint is: in `data`, or cut into the items named by `pieces`."""

    data: bytes = b""
    pieces: tuple[str, ...] = ()


class Head(msgspec.Struct, frozen=True):
    """`owner`: who holds it, for people; `streams`: the checkpoint of each stream that was ever committed."""

    owner: str = ""
    streams: Mapping[str, Kept] = {}
    format: int = FORMAT


class Content(msgspec.Struct, frozen=True, array_like=True):
    """A stream's checkpoint: the sink's word, and of each shard kind, sequence and time of its position, and the mark's time."""

    word: bytes = b""
    marks: Mapping[str, tuple[str, str, float, float]] = {}


class _Format(msgspec.Struct):
    format: int


_format = msgspec.msgpack.Decoder(_Format).decode
_head = msgspec.msgpack.Decoder(Head).decode
_content = msgspec.msgpack.Decoder(Content).decode


def read_head(body: bytes, where: str) -> Head:
    """Raises Misconfigured (E202 written by a newer version, E203 damaged)."""
    try:
        found = _format(body).format
        if found > FORMAT:
            why = f"its format is {found}, this dsqlcdc knows {FORMAT}: use a newer dsqlcdc"
            run = "pip install --upgrade dsqlcdc"
            raise Misconfigured("The state was written by a newer dsqlcdc", where=where, why=why, run=run, code="E202")
        return _head(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Misconfigured("The state is damaged", where=where, why=str(error), run=RESTORE, code="E203") from error


def write_head(head: Head) -> bytes:
    return msgspec.msgpack.encode(head)


def read_content(data: bytes, where: str) -> Content:
    """Raises Misconfigured (E203 damaged)."""
    try:
        return _content(zlib.decompress(data))
    except (zlib.error, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Misconfigured("The state is damaged", where=where, why=str(error), run=RESTORE, code="E203") from error


def write_content(word: bytes, marks: Mapping[str, Mark]) -> bytes:
    rows = {shard: (mark.position.kind, mark.position.sequence, mark.position.arrived, mark.arrived) for shard, mark in marks.items()}
    return zlib.compress(msgspec.msgpack.encode(Content(word, rows)), 6)


def marks_of(content: Content) -> dict[str, Mark]:
    return {shard: Mark(Position(kind, sequence, place), at) for shard, (kind, sequence, place, at) in content.marks.items()}  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def fit(head: Head, room: int, stem: str) -> tuple[Head, Mapping[str, bytes]]:
    """The head so that its body has `room`, and the pieces (by names that begin with `stem`) that must be written before it: the largest
    checkpoints are cut first. Raises Misconfigured (E206) where the names of streams alone are too much."""
    streams, pieces = dict(head.streams), dict[str, bytes]()
    while len(write_head(msgspec.structs.replace(head, streams=streams))) > room:
        largest = max(streams, key=lambda stream: len(streams[stream].data), default=None)
        if largest is None or not streams[largest].data:
            why = f"{len(streams)} streams were read by it, too many for one item"
            run = "dsqlcdc checkpoint show CONFIG"
            raise Misconfigured("A checkpoint cannot be stored", where=stem, why=why, run=run, code="E206")
        cut = _cut(streams[largest].data, room, f"{stem}-{len(pieces)}")
        pieces |= cut
        streams[largest] = Kept(pieces=tuple(cut))
    return msgspec.structs.replace(head, streams=streams), pieces


def _cut(data: bytes, room: int, stem: str) -> dict[str, bytes]:
    return {f"{stem}-{at // room:05}": data[at : at + room] for at in range(0, len(data), room)}


def named(streams: Mapping[str, Kept]) -> set[str]:
    """The pieces that a head names."""
    return {piece for kept in streams.values() for piece in kept.pieces}


def joined(kept: Kept, pieces: Sequence[bytes]) -> bytes:
    return b"".join(pieces) if kept.pieces else kept.data
