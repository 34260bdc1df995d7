"""The bytes of one object against what its manifest says: hashes, lines, and with `deep` every line."""

from __future__ import annotations

import hashlib
import operator
import struct
import zlib
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

import msgspec

from dsqlcdc import parquet
from dsqlcdc.contract import Table
from dsqlcdc_s3.encode import void
from dsqlcdc_s3.manifest import PartEntry
from dsqlcdc_s3.paths import partition

_STEP = 1024 * 1024
_VOID = void()
_MILLISECOND = 0.001
_NULL = msgspec.Raw(b"null")


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


_decode_lines = msgspec.json.Decoder(Line).decode_lines
_pack = struct.Struct(">q").pack


class Content:
    """One object, fed in pieces. `wrong` says what does not fit, once `end` was called; `void`: it holds nothing, as a voided part does.

    Parquet is judged whole at its end: its bytes are in memory until then. `lines`: what is fed are a part's lines, as they are in another
    object.
    """

    def __init__(self, entry: PartEntry, deep: bool, *, lines: bool = False) -> None:
        self._entry, self._deep, self._lines = entry, deep, lines
        self._whole: list[bytes] | None = [] if entry.key.endswith(parquet.SUFFIX) and not lines else None
        self._object, self._content = hashlib.sha256(), hashlib.sha256()
        self._inflate: Any = zlib.decompressobj(31)
        self._head = b""
        self._rest = b""
        self._first: Line | None = None
        self._last: Line | None = None
        self._ids: set[str] = set()
        self._hashers: dict[tuple[str, str, str], Any] = {}
        self._arrived = ("", "")
        self.bytes = self.uncompressed_bytes = self.rows = 0
        self.wrong: list[str] = []
        self.void = False

    def feed(self, chunk: bytes) -> None:
        """The next bytes of the object. Computes; to be called in a thread for more than a little."""
        if self.bytes < len(_VOID) + 1:
            self._head += chunk[: len(_VOID) + 1]
        self.bytes += len(chunk)
        self._object.update(chunk)
        if self._whole is not None:
            self._whole.append(chunk)
            return
        if self._lines:
            self._take(chunk)
            return
        data = chunk
        while data and not self.wrong:
            if self._inflate.eof:
                return self.wrong.append("there is something behind the end of its gzip")
            try:
                text = self._inflate.decompress(data, _STEP)
            except zlib.error as error:
                return self.wrong.append(f"it is no gzip ({error})")
            data = self._inflate.unconsumed_tail or self._inflate.unused_data
            self._take(text)

    def _take(self, text: bytes) -> None:
        self.uncompressed_bytes += len(text)
        self._content.update(text)
        self.rows += text.count(b"\n")
        if self._deep and text and not self.wrong:
            end = text.rfind(b"\n") + 1
            if not end:
                self._rest += text
                return
            lines, self._rest = self._rest + text[:end] if self._rest else text[:end], text[end:]
            try:
                self._judge(_decode_lines(lines))
            except (msgspec.MsgspecError, ValueError) as error:
                self.wrong.append(f"a line is not one that dsqlcdc writes ({error})")

    def end(self) -> None:
        """The object is over."""
        entry = self._entry
        if self._whole is not None and self._read_parquet(b"".join(self._whole)):
            return
        if self._head == _VOID and self._whole is None:
            self.void = True
            self.wrong.clear()
            return
        if not self.wrong and not self._inflate.eof and self._whole is None and not self._lines:
            self.wrong.append("it breaks off")
        if not self._lines and self._object.hexdigest() != entry.object_sha256:
            self.wrong.insert(0, f"its SHA-256 is {self._object.hexdigest()}, the manifest says {entry.object_sha256}")
        if not self._lines and self.bytes != entry.bytes:
            self.wrong.append(f"it has {self.bytes} bytes, the manifest says {entry.bytes}")
        if len(self.wrong) > 1 or any("gzip" in why or "Parquet" in why or "breaks off" in why for why in self.wrong):
            return
        if self._content.hexdigest() != entry.content_sha256:
            self.wrong.append("its content is another")
        if (self.rows, self.uncompressed_bytes) != (entry.rows, entry.uncompressed_bytes):
            self.wrong.append(f"it has {self.rows} rows, the manifest says {entry.rows}")
        if self._deep:
            self._judge_whole()

    def _read_parquet(self, body: bytes) -> bool:
        """Judge the lines of a whole object; True where it is void."""
        try:
            if parquet.rows(body) == 0:
                self.void = True
                return True
            for text in parquet.lines(body):
                self._take(text)
        except ValueError as error:
            self.wrong.append(f"it is no Parquet ({error})")
        return False

    def _judge(self, lines: Sequence[Line]) -> None:
        """The lines of one stretch: every id is of its key and version, none stands twice, and none before the one it follows."""
        hashers, wrong = self._hashers, self.wrong
        for line in lines:
            hasher = hashers.get((line.cluster, line.schema, line.table)) or self._meet(line)
            if line.key != _NULL:
                made = hasher.copy()
                made.update(line.key)
                made.update(_pack(line.version))
                if made.hexdigest() != line.id:
                    return wrong.append(f"the id {line.id} is not that of its key and version")
        ordered = lines if self._last is None else [self._last, *lines]
        places = [(line.version, line.transaction, line.shard, len(line.sequence), line.sequence) for line in ordered]
        if not all(map(operator.le, places, places[1:])):
            return wrong.append("its rows do not stand in order of version, transaction, shard and sequence number")
        for one, two in pairwise(ordered):  # copies of a change have one version, so they stand together
            if one.version != two.version:
                self._ids = set()
            elif one.id in self._ids or one.id == two.id:
                return wrong.append(f"the id {two.id} stands in it twice")
            self._ids.add(one.id)
        arrivals = [line.arrived_at for line in lines]
        self._arrived = min(self._arrived[0] or arrivals[0], *arrivals), max(self._arrived[1], *arrivals)
        self._first = self._first or lines[0]
        self._last = lines[-1]

    def _meet(self, line: Line) -> Any:
        hasher = hashlib.blake2b(msgspec.json.encode([line.cluster, line.schema, line.table]), digest_size=16)
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
