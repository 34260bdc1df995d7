"""Parts of oversized rows as objects: what their names tell, what is in them, and the row they make together."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote

import msgspec

from dsqlcdc.core.ports import Need, Part
from dsqlcdc.errors import Misconfigured
from dsqlcdc.stores.pieces import MAIN, digest, text_in
from dsqlcdc.stores.s3_objects import Entry

_LONGEST = 200
_FORMAT = 1
_STORED = re.compile(r"parts/([^/]+)/(\d+)-(?:main|(\d+)-([0-9a-f]{8})-(\d+)-(-?\d+))")


def segment(chunk_id: str) -> str:
    """A chunk id as one segment of a name: percent-encoded, points too; what is longer than 200 characters then, by its SHA-256. `%~` is
    never the beginning of an encoded one."""
    encoded = quote(chunk_id.encode("utf-8", "surrogatepass"), safe="").replace(".", "%2E")
    return encoded if 0 < len(encoded) <= _LONGEST else "%~" + hashlib.sha256(chunk_id.encode("utf-8", "surrogatepass")).hexdigest()


def segments(part: Part) -> list[str]:
    """The places of a part: a piece has one, a main record one for each chunk it names, the row's own first."""
    rest = (need.chunk_id for need in part.needs.values())
    return list(dict.fromkeys(segment(chunk_id) for chunk_id in (part.chunk_id, *rest)))


class Stored(msgspec.Struct, frozen=True):
    """A part as its name tells it. `crc`, `size` (of the record, bytes) and `arrived` (seconds) are 0 for a main record, which says more."""

    name: str
    chunk: str
    generation: int
    index: int
    crc: int
    size: int
    arrived: float
    modified: float


def name_of(chunk: str, generation: int, part: Part) -> str:
    """Where a part is stored: what decides about its row can be told from the name, without reading it."""
    if part.index == MAIN:
        return f"parts/{chunk}/{generation:04d}-main"
    return f"parts/{chunk}/{generation:04d}-{part.index:07d}-{digest(part):08x}-{len(part.raw)}-{round(part.arrived * 1e6)}"


def parse(entry: Entry) -> Stored | None:
    """None for a name that is none of ours."""
    found = _STORED.fullmatch(entry.name)
    if found is None:
        return None
    chunk, generation, index, crc, size, arrived = found.groups()
    if index is None:
        return Stored(entry.name, chunk, int(generation), MAIN, 0, 0, 0.0, entry.modified)
    return Stored(entry.name, chunk, int(generation), int(index), int(crc, 16), int(size), int(arrived) / 1e6, entry.modified)


class _Body(msgspec.Struct, array_like=True):
    format: int
    chunk_id: str
    index: int
    raw: bytes
    text: bytes | None
    """None where `raw` holds it, as the string `data` of its JSON."""
    shard: str
    sequence: str
    arrived: float
    needs: dict[str, Need]


class _Head(msgspec.Struct, array_like=True):
    format: int


_decode = msgspec.msgpack.Decoder(_Body).decode
_head = msgspec.msgpack.Decoder(_Head).decode


def encode(part: Part) -> bytes:
    text = None if part.index == MAIN or text_in(part.raw) == part.text else part.text
    return msgspec.msgpack.encode(
        _Body(_FORMAT, part.chunk_id, part.index, part.raw, text, part.shard, part.sequence, part.arrived, dict(part.needs))
    )


def decode(body: bytes, where: str) -> Part:
    """Raises Misconfigured (E202 written by a newer version, E203 damaged)."""
    try:
        if (format := _head(body).format) != _FORMAT:
            why = f"its format is {format}, this dsqlcdc knows {_FORMAT}: use a newer one"
            raise Misconfigured("A part was stored by a newer dsqlcdc", where=where, why=why, code="E202")
        found = _decode(body)
    except msgspec.MsgspecError as error:
        raise Misconfigured("A stored part is damaged", where=where, why=str(error), code="E203") from error
    text = (b"" if found.index == MAIN else text_in(found.raw) or b"") if found.text is None else found.text
    return Part(found.chunk_id, found.index, found.raw, text, found.shard, found.sequence, found.arrived, found.needs)


class Group(msgspec.Struct, frozen=True):
    """What is stored of a row, or of a chunk whose main record is unknown. `name`: the segment of the row or chunk. `written`: when the
    newest of it was written (seconds, by S3's clock). `names`: every object of it,
    `generation`: the newest among them."""

    name: str
    main: Part | None
    pieces: Mapping[tuple[str, int], Stored]
    written: float
    names: Sequence[str] = ()
    generation: int = 0

    @property
    def chunks(self) -> Sequence[str]:
        return segments(self.main) if self.main is not None else [self.name]

    @property
    def complete(self) -> bool:
        return self.main is not None and all(
            (segment(need.chunk_id), index) in self.pieces for need in self.main.needs.values() for index in range(need.total)
        )

    @property
    def count(self) -> int:
        return len(self.pieces) + (self.main is not None)

    @property
    def size(self) -> int:
        return sum(piece.size for piece in self.pieces.values()) + (len(self.main.raw) if self.main is not None else 0)

    @property
    def newest(self) -> float:
        """When its newest part arrived (seconds)."""
        arrived = [piece.arrived for piece in self.pieces.values()]
        return max([*arrived, self.main.arrived] if self.main is not None else arrived)

    @property
    def fingerprint(self) -> str:
        """Another one whenever a part has joined: a verdict speaks of the parts that were shown, no matter who adds what meanwhile."""
        text = repr((self.main is not None, sorted((chunk, index, piece.crc) for (chunk, index), piece in self.pieces.items())))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def group(name: str, main: Part | None, stored: Iterable[Stored]) -> Group:
    """One piece for each place: of the newest generation, and of several texts the one that was written last."""
    every = sorted(stored, key=lambda piece: (piece.generation, piece.modified, piece.name))
    chosen = {(piece.chunk, piece.index): piece for piece in every if piece.index != MAIN}
    return Group(
        name,
        main,
        chosen,
        written=max((piece.modified for piece in every), default=0.0),
        names=[piece.name for piece in every],
        generation=max((piece.generation for piece in every), default=0),
    )


def refusal(part: Part, mains: Mapping[str, Part], stored: Mapping[str, Sequence[Stored]]) -> str:
    """Why a part contradicts itself or what is stored under its chunks; "" where it does not."""
    if part.index != MAIN:
        if part.index < 0:
            return f"index {part.index} is negative"
        known = mains.get(segment(part.chunk_id))
        total = next((need.total for need in known.needs.values() if need.chunk_id == part.chunk_id), None) if known is not None else None
        return f"index {part.index} of {total} pieces" if total is not None and part.index >= total else ""
    chunk_ids = [need.chunk_id for need in part.needs.values()]
    if part.chunk_id not in chunk_ids or len(set(chunk_ids)) < len(chunk_ids):
        return "the main record does not name its chunks, each once"
    for need in part.needs.values():
        if need.total < 1:
            return f"chunk {need.chunk_id} has {need.total} pieces"
        other = mains.get(segment(need.chunk_id))
        if other is not None and (other.chunk_id, dict(other.needs)) != (part.chunk_id, dict(part.needs)):
            return f"chunk {need.chunk_id}: another main record, of row {other.chunk_id}, says otherwise"
        last = max((piece.index for piece in stored.get(segment(need.chunk_id), ())), default=-1)
        if last >= need.total:
            return f"chunk {need.chunk_id} has {need.total} pieces, but piece {last} is stored"
    return ""
