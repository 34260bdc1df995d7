"""A compacted object against the parts that it holds: each is cut out and judged as if it were there by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from dsqlcdc import parquet
from dsqlcdc_s3.audit.content import Content
from dsqlcdc_s3.compaction import Compaction, Input
from dsqlcdc_s3.manifest import PartEntry


def told(part: PartEntry) -> str:
    """What is remembered of a part that was found in a compacted object: its name and its hash, which the chain's manifest must say too."""
    return f"compacted {part.key} {part.object_sha256}"


class Compacted:
    """One compacted object, fed in pieces, as Content is. `parts`: those found in it as they were."""

    def __init__(self, manifest: Compaction, deep: bool) -> None:
        self._manifest, self._deep = manifest, deep
        self._parquet = manifest.part.key.endswith(parquet.SUFFIX)
        self._object = hashlib.sha256()
        self._todo: list[Input] = list(reversed(manifest.inputs))
        self._open: Content | None = None
        self._left = 0
        self._whole: list[bytes] = []
        self.bytes = self.rows = self.uncompressed_bytes = 0
        self.wrong: list[str] = []
        self.void = False
        self.parts: list[PartEntry] = []

    def feed(self, chunk: bytes) -> None:
        """The next bytes of the object. Computes; to be called in a thread for more than a little."""
        self.bytes += len(chunk)
        self._object.update(chunk)
        if self._parquet:
            self._whole.append(chunk)
            return
        view = memoryview(chunk)
        while view and not self.wrong:
            if self._open is None and not self._begin():
                self.wrong.append("there is something behind the last of its parts")
                return
            assert self._open is not None
            piece, view = view[: self._left], view[self._left :]
            self._open.feed(bytes(piece))
            self._left -= len(piece)
            if not self._left:
                self._finish()

    def _begin(self) -> bool:
        if not self._todo:
            return False
        self._open, self._left = Content(self._todo[-1].part, self._deep), self._todo[-1].length
        return True

    def _finish(self) -> None:
        content, part = self._open, self._todo.pop().part
        assert content is not None
        content.end()
        self._open = None
        if content.wrong or content.void:
            self.wrong.append(f"of its part {part.key.rpartition('/')[2]}: {'; '.join(content.wrong[:2]) or 'it is empty'}")
            return
        self.rows += content.rows
        self.uncompressed_bytes += content.uncompressed_bytes
        self.parts.append(part)

    def end(self) -> None:
        """The object is over."""
        if self._parquet:
            self._rows_of_parts(b"".join(self._whole))
        if (self._todo or self._open is not None) and not self.wrong:
            self.wrong.append("it breaks off: parts are missing at its end")
        if self._object.hexdigest() != self._manifest.part.object_sha256:
            self.wrong.insert(0, f"its SHA-256 is {self._object.hexdigest()}, its manifest says {self._manifest.part.object_sha256}")
        if self.wrong:
            self.parts = []

    def _rows_of_parts(self, body: bytes) -> None:
        try:
            lines = b"".join(parquet.lines(body)).splitlines(keepends=True)
        except ValueError as error:
            self.wrong.append(f"it is no Parquet ({error})")
            return
        if len(lines) != sum(one.length for one in self._todo):
            self.wrong.append("it has rows of no part")
            return
        for one in reversed(self._todo):
            content = Content(one.part, self._deep, lines=True)
            content.feed(b"".join(lines[one.offset : one.offset + one.length]))
            content.end()
            if content.wrong:
                self.wrong.append(f"of its part {one.part.key.rpartition('/')[2]}: {'; '.join(content.wrong[:2])}")
                return
            self.rows += content.rows
            self.uncompressed_bytes += content.uncompressed_bytes
            self.parts.append(one.part)
        self._todo.clear()


def parse(body: bytes) -> Compaction:
    """Raises msgspec.DecodeError for what is no manifest of a compaction."""
    found = msgspec.json.decode(body, type=Compaction)
    if found.kind != "compaction":
        raise msgspec.ValidationError(f"it is a {found.kind}")
    return found


def replaced(found: Compaction) -> Sequence[str]:
    """The names that a compaction may have deleted."""
    return (*found.replaces, *(one.part.key for one in found.inputs))
