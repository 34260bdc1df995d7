"""The bytes of one object against what its manifest says: hashes, lines, and with `deep` every line."""

from __future__ import annotations

import hashlib
import operator
import struct
import zlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from dsqlcdc import parquet
from dsqlcdc.contract import Op, Table
from dsqlcdc_s3.audit.ids import Seen
from dsqlcdc_s3.encode import void
from dsqlcdc_s3.manifest import PartEntry
from dsqlcdc_s3.paths import partition
from dsqlcdc_s3.room import unnamed

_STEP = 1024 * 1024
_VOID = void()
_VOID_PARQUET = hashlib.sha256(parquet.void()).hexdigest()
_MILLISECOND = 0.001
_NULL = msgspec.Raw(b"null")
_OPS = {op.word: op.value for op in Op}


class Line(msgspec.Struct, gc=False):
    """Of a line what is judged; the row is skipped unparsed."""

    id: str
    schema: str
    table: str
    cluster: str
    key: msgspec.Raw
    version: int
    transaction: str
    shard: str
    sequence: str
    arrived_at: str


class Keyless(msgspec.Struct, gc=False):
    """Of the line of a row without a key what its id is made of, as far as it is there."""

    op: str
    row: msgspec.Raw
    before: msgspec.Raw


_decode_lines = msgspec.json.Decoder(Line).decode_lines
_decode_keyless = msgspec.json.Decoder(Keyless).decode_lines
_encode = msgspec.json.encode
_pack = struct.Struct(">q").pack


class Content:
    """One part, fed in pieces: the bytes of an object of gzip, or with `lines` the lines that another object holds of it.

    `wrong` says what does not fit, once `end` was called; `void`: it holds nothing, as a voided part does. `seen`: where every row is judged,
    it is told their ids. `unmade`: rows without a key whose ids could not be made again.
    """

    def __init__(self, entry: PartEntry, seen: Seen | None, *, lines: bool = False) -> None:
        self._entry, self._seen, self._lines = entry, seen, lines
        self._object, self._content = hashlib.sha256(), hashlib.sha256()
        self._inflate: Any = zlib.decompressobj(31)
        self._head = b""
        self._rest: list[bytes] = []
        self._first: Line | None = None
        self._last: Line | None = None
        self._hashers: dict[tuple[str, str, str], Any] = {}
        self._arrived = ("", "")
        self.bytes = self.uncompressed_bytes = self.rows = self.unmade = 0
        self.wrong: list[str] = []
        self.void = False

    def feed(self, chunk: bytes) -> None:
        """The next bytes of the object. Computes; to be called in a thread for more than a little."""
        if self._lines:
            self.bytes += len(chunk)
            self.take(chunk)
            return
        if self.bytes < len(_VOID) + 1:
            self._head += chunk[: len(_VOID) + 1]
        self.bytes += len(chunk)
        self._object.update(chunk)
        data = chunk
        while data and not self.wrong:
            if self._inflate.eof:
                return self.wrong.append("there is something behind the end of its gzip")
            try:
                text = self._inflate.decompress(data, _STEP)
            except zlib.error as error:
                return self.wrong.append(f"it is no gzip ({error})")
            data = self._inflate.unconsumed_tail or self._inflate.unused_data
            self.take(text)

    def take(self, text: bytes) -> None:
        """The next of its lines; a line may come in pieces."""
        self.uncompressed_bytes += len(text)
        self._content.update(text)
        self.rows += text.count(b"\n")
        if self._seen is not None and text and not self.wrong:
            end = text.rfind(b"\n") + 1
            if not end:
                self._rest.append(text)
                return
            lines = b"".join((*self._rest, text[:end])) if self._rest else text[:end]
            self._rest = [text[end:]] if end < len(text) else []
            try:
                self._judge(_decode_lines(lines), lines)
            except (msgspec.MsgspecError, ValueError) as error:
                self.wrong.append(f"a line is not one that dsqlcdc writes ({error})")

    def close(self) -> None:
        """Nothing is held on disk."""

    def end(self) -> None:
        """The object is over."""
        entry = self._entry
        if not self._lines:
            if self._head == _VOID:
                self.void = True
                self.wrong.clear()
                return
            if not self.wrong and not self._inflate.eof:
                self.wrong.append("it breaks off")
            if self._object.hexdigest() != entry.object_sha256:
                self.wrong.insert(0, f"its SHA-256 is {self._object.hexdigest()}, the manifest says {entry.object_sha256}")
            if self.bytes != entry.bytes:
                self.wrong.append(f"it has {self.bytes} bytes, the manifest says {entry.bytes}")
            if len(self.wrong) > 1 or any("gzip" in why or "breaks off" in why for why in self.wrong):
                return
        if self._content.hexdigest() != entry.content_sha256:
            self.wrong.append("its content is another")
        if (self.rows, self.uncompressed_bytes) != (entry.rows, entry.uncompressed_bytes):
            self.wrong.append(f"it has {self.rows} rows, the manifest says {entry.rows}")
        if self._seen is not None:
            self._judge_whole()

    def _judge(self, lines: Sequence[Line], text: bytes) -> None:
        """The lines of one stretch: every id is of its key and version, and none stands before the one it follows."""
        hashers, wrong, seen = self._hashers, self.wrong, self._seen
        assert seen is not None
        ids: list[bytes] = []
        keyless = False
        for line in lines:
            hasher = hashers.get((line.cluster, line.schema, line.table)) or self._meet(line)
            if line.key == _NULL:
                keyless = True
                ids.append(bytes.fromhex(line.id))
                continue
            made = hasher.copy()
            made.update(line.key)
            made.update(_pack(line.version))
            id = made.digest()
            if id.hex() != line.id:
                return wrong.append(f"the id {line.id} is not that of its key and version")
            ids.append(id)
        if keyless:
            self._make_keyless(zip(lines, _decode_keyless(text), strict=True))
        ordered = lines if self._last is None else [self._last, *lines]
        places = [(line.version, line.transaction, line.shard, len(line.sequence), line.sequence) for line in ordered]
        if not all(map(operator.le, places, places[1:])):
            return wrong.append("its rows do not stand in order of version, transaction, shard and sequence number")
        arrivals = [line.arrived_at for line in lines]
        self._arrived = min(self._arrived[0] or arrivals[0], *arrivals), max(self._arrived[1], *arrivals)
        self._first = self._first or lines[0]
        self._last = lines[-1]
        seen.add(ids, lines)

    def _make_keyless(self, lines: Iterable[tuple[Line, Keyless]]) -> None:
        """See Tables.keyless: the image is in the row, unless a row model, `mask` or `exclude` has made another of it, or line ends went."""
        for line, held in lines:
            if line.key == _NULL:
                made = self._hashers[line.cluster, line.schema, line.table].copy()
                told = ["keyless", _OPS.get(held.op, ""), line.transaction, line.version, line.shard, line.sequence]
                made.update(_encode(told))
                made.update(held.before if held.op == Op.DELETE.word else held.row)
                self.unmade += made.hexdigest() != line.id

    def _meet(self, line: Line) -> Any:
        hasher = hashlib.blake2b(_encode([line.cluster, line.schema, line.table]), digest_size=16)
        self._hashers[line.cluster, line.schema, line.table] = hasher
        return hasher

    def _judge_whole(self) -> None:
        first, last, entry = self._first, self._last, self._entry
        if self._rest:
            self.wrong.append("its last line breaks off")
        if first is None or last is None:
            return
        if (first.version, last.version) != (entry.min_version, entry.max_version):
            self.wrong.append("its versions are not those that the manifest names")
        arrived = [datetime.fromisoformat(text).timestamp() for text in self._arrived]
        if abs(arrived[0] - entry.min_arrived) > _MILLISECOND or abs(arrived[1] - entry.max_arrived) > _MILLISECOND:
            self.wrong.append("its arrivals are not those that the manifest names")
        homes = {partition(Table(*name), version).folder("") for name in self._hashers for version in (first.version, last.version)}
        if len(homes) != 1 or not entry.key.rpartition("/")[0].endswith(homes.pop().rstrip("/")):
            self.wrong.append("its rows belong elsewhere")


class Spooled:
    """An object of Parquet, fed in pieces as Content is: kept on disk, as a reader of columns goes to and fro, and only read when its hash is
    right. `close` gives the room back."""

    def __init__(self, entry: PartEntry) -> None:
        self._entry, self._object = entry, hashlib.sha256()
        self._file = unnamed(in_memory=_STEP)
        self.bytes = 0

    def feed(self, chunk: bytes) -> None:
        """The next bytes of the object."""
        self.bytes += len(chunk)
        self._object.update(chunk)
        self._file.write(chunk)

    def wrong(self) -> list[str]:
        """How the bytes differ from what the manifest says."""
        entry, hashed, found = self._entry, self._object.hexdigest(), list[str]()
        if hashed != entry.object_sha256:
            found.append(f"its SHA-256 is {hashed}, the manifest says {entry.object_sha256}")
        if self.bytes != entry.bytes:
            found.append(f"it has {self.bytes} bytes, the manifest says {entry.bytes}")
        return found

    def void(self) -> bool:
        """It is the object that voids a part."""
        return self._object.hexdigest() == _VOID_PARQUET

    def texts(self) -> Iterable[list[bytes]]:
        """See parquet.texts."""
        return parquet.texts(self._file)

    def close(self) -> None:
        self._file.close()


class ParquetContent(Content):
    """A part that is an object of Parquet."""

    def __init__(self, entry: PartEntry, seen: Seen | None) -> None:
        super().__init__(entry, seen, lines=True)
        self._spooled = Spooled(entry)

    def feed(self, chunk: bytes) -> None:
        self._spooled.feed(chunk)
        self.bytes = self._spooled.bytes

    def end(self) -> None:
        self.wrong = self._spooled.wrong()
        if self.wrong:
            self.void = self._spooled.void()
            if self.void:
                self.wrong.clear()
            return
        try:
            for texts in self._spooled.texts():
                self.take(b"".join(texts))
        except ValueError as error:
            self.wrong.append(f"it is no Parquet ({error})")
            return
        super().end()

    def close(self) -> None:
        self._spooled.close()


def content_of(entry: PartEntry, seen: Seen | None) -> Content:
    """The judge of a part by its format."""
    return ParquetContent(entry, seen) if entry.key.endswith(parquet.SUFFIX) else Content(entry, seen)
