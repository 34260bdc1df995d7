"""The wire: one CDC record's bytes into an envelope, strictly, or the reason why not (spec §2, "Envelope")."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Protocol

import google_crc32c
import msgspec

from dsqlcdc.contract import Op
from dsqlcdc.core.ports import Need, Part

NULL = msgspec.Raw(b"null")
MAX_PIECES = 1024
"""A row is at most 2 MiB in the database and JSON escaping multiplies it by at most 6 (spec §5): two pieces of 9 MiB. Far above is nonsense."""

_KPL_MAGIC = b"\xf3\x89\x9a\xc2"
SLICE = 1 << 20
OPS: dict[str | None, Op] = {"c": Op.INSERT, "u": Op.UPDATE, "d": Op.DELETE, "r": Op.SNAPSHOT}

Nanoseconds = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Origin(msgspec.Struct, gc=False):
    """The envelope's `source`, as far as it counts: the outer times and ids never do (spec §5)."""

    ts_ns: Nanoseconds
    schema: str
    table: str
    transaction: str = msgspec.field(name="txId", default="")
    cluster: str = ""


class Cut(msgspec.Struct, frozen=True, gc=False):
    chunk_id: Annotated[str, msgspec.Meta(min_length=1)]
    total_fragments: Annotated[int, msgspec.Meta(ge=1, le=MAX_PIECES)]
    crc32c: Annotated[str, msgspec.Meta(pattern="^[0-9]{1,10}$")]


class Cuts(msgspec.Struct, frozen=True, gc=False):
    before: Cut | None = None
    after: Cut | None = None


class Envelope(msgspec.Struct, gc=False):
    """Any of the three record types. Images stay unparsed JSON; of duplicate keys the last counts."""

    source: Origin | None = None
    type: str | None = None
    op: str | None = None
    before: msgspec.Raw = NULL
    after: msgspec.Raw = NULL
    chunked: Cuts | None = None
    chunk_id: str = ""
    index: int = -1
    data: msgspec.Raw = NULL

    @property
    def what(self) -> Op:
        """The operation; any code we do not know is an upsert of `after`."""
        return OPS.get(self.op, Op.UPSERT)


class Whole(Protocol):
    """What nearly every record is: a whole row of a table whose key is known. Of its images only the key has been read."""

    source: Origin
    op: Op
    before: msgspec.Struct | None
    after: msgspec.Struct | None


def decoders(origin: Origin, key: Sequence[str]) -> tuple[Callable[[msgspec.Raw], Any], Callable[[bytes], Any]]:
    """Two decoders for the table that `origin` names: an image into its key, and a record, whose images each hold that key, into a Whole.

    A key's JSON is canonical. Both raise one of ERRORS for anything else, the second also for records of other tables, of another type or
    with an op we do not know.
    """
    # Column names need not be identifiers in PostgreSQL; in Python field names must.
    columns = [(f"k{n}", int | str | float | bool) for n in range(len(key))]
    row = msgspec.defstruct("Key", columns, rename={f"k{n}": column for n, column in enumerate(key)}, gc=False)
    # A string that can only be this one is not made anew for each record.
    names: list[Any] = [(name, _only[getattr(origin, name)]) for name in ("schema", "table")]
    cluster = _only[origin.cluster]
    names.append(("cluster", cluster) if origin.cluster else ("cluster", cluster, ""))
    here = msgspec.defstruct("Here", names, bases=(Origin,), gc=False, kw_only=True)
    image = (row | None, None)
    fields: list[Any] = [("source", here), ("op", Op), ("type", Literal["full"], "full"), ("before", *image), ("after", *image)]
    return msgspec.json.Decoder(row).decode, msgspec.json.Decoder(msgspec.defstruct("Whole", fields, gc=False)).decode


class Unreadable(ValueError):
    """The record can never be read: a dead letter. `code` is the short word for it."""

    def __init__(self, detail: str, code: str = "unreadable") -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


parse = msgspec.json.Decoder(Envelope).decode
_only: Any = Literal
_text = msgspec.json.Decoder(str).decode
_any = msgspec.json.Decoder(msgspec.Raw).decode


ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What parsing may raise; ValidationError is a DecodeError."""


def decode(data: bytes) -> Envelope:
    """Parse a record. Raises Unreadable for anything but a well-formed record.

    Images are checked to be valid UTF-8 and valid JSON, but not parsed. What a type demands of the other fields is checked where it is used.
    """
    try:
        check_utf8(data)
        return parse(data)
    except ERRORS as error:
        raise why(error, data) from None


def why(error: Exception, data: bytes) -> Unreadable:
    """What parsing `data` stumbled over, without its content."""
    if isinstance(error, msgspec.ValidationError):
        return Unreadable(f"not a CDC record: {error}")
    if isinstance(error, UnicodeDecodeError):
        return Unreadable(f"invalid UTF-8 at byte {_first_wrong(data)}")
    if isinstance(error, RecursionError):
        return Unreadable("nested too deeply")
    if data.startswith(_KPL_MAGIC):
        return Unreadable("aggregated by the Kinesis Producer Library: not written by DSQL", "foreign")
    return Unreadable(f"not valid JSON: {error}")


def _first_wrong(data: bytes) -> int:
    """Where UTF-8 breaks in the record: the error itself counts from the start of a string or slice."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.start
    return len(data)


def check_utf8(data: bytes) -> None:
    """Raise UnicodeDecodeError for invalid UTF-8, in bounded memory (a decoded text of 10 MiB may take 40)."""
    if len(data) <= SLICE:
        data.decode()
        return
    decoder, view = codecs.getincrementaldecoder("utf-8")(), memoryview(data)
    for start in range(0, len(data), SLICE):
        decoder.decode(view[start : start + SLICE], start + SLICE >= len(data))


def check_all_utf8(texts: Sequence[bytes]) -> None:
    """`check_utf8` for records that have been parsed: each begins with an ASCII byte, so that together they are valid where each is."""
    if sum(map(len, texts)) <= SLICE:
        b"".join(texts).decode()
    else:
        for text in texts:
            check_utf8(text)


def check_object(name: str, image: msgspec.Raw) -> None:
    """An image is an object or null; raises Unreadable."""
    if memoryview(image)[0] != 0x7B:
        raise Unreadable(f"`{name}` is not an object", "bad_envelope")


def part(envelope: Envelope, raw: bytes, shard: str, sequence: str, arrived: float) -> Part:
    """A piece or main record of an oversized row. Raises Unreadable."""
    if envelope.type == "fragment":
        if not envelope.chunk_id:
            raise Unreadable("a fragment without chunk_id")
        if not 0 <= envelope.index < MAX_PIECES:
            raise Unreadable(f"fragment index {envelope.index} out of range")
        try:
            text = _text(envelope.data)
        except msgspec.MsgspecError:
            raise Unreadable("a fragment whose `data` is not a string") from None
        return Part(envelope.chunk_id, envelope.index, raw, text.encode(), shard, sequence, arrived)
    if envelope.type != "chunked":
        raise Unreadable(f"unknown record type {str(envelope.type)[:40]!r}")
    cuts = envelope.chunked
    if cuts is None or (cuts.before is None and cuts.after is None):
        raise Unreadable("a chunked record that names no pieces")
    if envelope.source is None:
        raise Unreadable("a record without `source`")
    needs: dict[str, Need] = {}
    for name, cut in (("after", cuts.after), ("before", cuts.before)):
        if cut is not None:
            if getattr(envelope, name) != NULL:
                raise Unreadable(f"`{name}` both whole and cut", "bad_envelope")
            needs[name] = Need(cut.chunk_id, cut.total_fragments, int(cut.crc32c))
    if len({need.chunk_id for need in needs.values()}) != len(needs):
        raise Unreadable("before and after share a chunk_id", "bad_envelope")
    first = next(iter(needs.values()))
    return Part(first.chunk_id, -1, raw, b"", shard, sequence, arrived, needs)


def join(main: Part, pieces: dict[str, list[bytes]]) -> tuple[Envelope, dict[str, bytes]]:
    """Put the image texts of a complete row into its main record's envelope: by image name, the pieces' texts in order.

    Raises Unreadable ("checksum") where a CRC-32C does not match, or where the text is not an object's JSON.
    """
    envelope = decode(main.raw)
    images: dict[str, bytes] = {}
    for name, need in main.needs.items():
        text = b"".join(pieces[name])
        if google_crc32c.value(text) != need.crc32c:
            raise Unreadable(f"CRC-32C of `{name}` is {google_crc32c.value(text)}, the record says {need.crc32c}", "checksum")
        try:
            setattr(envelope, name, _any(text))
        except (msgspec.DecodeError, RecursionError) as error:
            raise Unreadable(f"the reassembled `{name}` is not valid JSON: {error}", "bad_envelope") from None
        images[name] = text
    return envelope, images
