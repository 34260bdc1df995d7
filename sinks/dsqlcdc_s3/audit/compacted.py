"""A compacted object against the parts that it holds: each is cut out and judged as if it were there by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import msgspec

from dsqlcdc import parquet
from dsqlcdc_s3.audit.content import Content, Spooled
from dsqlcdc_s3.audit.ids import Seen
from dsqlcdc_s3.compaction import Compaction, Input
from dsqlcdc_s3.manifest import PartEntry

See = Callable[[PartEntry], Seen | None]
"""Who is told the ids of a part's rows."""


class Compacted:
    """One compacted object, fed in pieces, as Content is. Its parts are in it as they were where nothing is wrong."""

    def __init__(self, manifest: Compaction, see: See) -> None:
        self._manifest, self._see = manifest, see
        self._object = hashlib.sha256()
        self._todo: list[Input] = list(reversed(manifest.inputs))
        self._open: Content | None = None
        self._left = 0
        self.bytes = self.rows = self.uncompressed_bytes = self.unmade = 0
        self.wrong: list[str] = []
        self.void = False

    def feed(self, chunk: bytes) -> None:
        """The next bytes of the object. Computes; to be called in a thread for more than a little."""
        self.bytes += len(chunk)
        self._object.update(chunk)
        view = memoryview(chunk)
        while view and not self.wrong:
            if not self._begin(lines=False):
                return
            assert self._open is not None
            piece, view = view[: self._left], view[self._left :]
            self._open.feed(bytes(piece))
            self._left -= len(piece)
            if not self._left:
                self._finish()

    def _begin(self, *, lines: bool) -> bool:
        """A part is open; False where there is none more."""
        if self._open is None:
            if not self._todo:
                self.wrong.append("there is something behind the last of its parts")
                return False
            part = self._todo[-1].part
            self._open, self._left = Content(part, self._see(part), lines=lines), self._todo[-1].length
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
        self.unmade += content.unmade

    def end(self) -> None:
        """The object is over."""
        self._ended(self._object.hexdigest())

    def _ended(self, hashed: str) -> None:
        if (self._todo or self._open is not None) and not self.wrong:
            self.wrong.append("it breaks off: parts are missing at its end")
        if hashed != self._manifest.part.object_sha256:
            self.wrong.insert(0, f"its SHA-256 is {hashed}, its manifest says {self._manifest.part.object_sha256}")

    def close(self) -> None:
        """Nothing is held on disk."""


class CompactedParquet(Compacted):
    """The same of Parquet, where a part is a stretch of rows."""

    def __init__(self, manifest: Compaction, see: See) -> None:
        super().__init__(manifest, see)
        self._spooled = Spooled(manifest.part)

    def feed(self, chunk: bytes) -> None:
        self._spooled.feed(chunk)
        self.bytes = self._spooled.bytes

    def end(self) -> None:
        self.wrong = self._spooled.wrong()
        if self.wrong:
            return
        try:
            for texts in self._spooled.texts():
                self._rows(texts)
        except ValueError as error:
            self.wrong.append(f"it is no Parquet ({error})")
        self._ended(self._manifest.part.object_sha256)

    def _rows(self, lines: Sequence[bytes]) -> None:
        while lines and not self.wrong and self._begin(lines=True):
            assert self._open is not None
            some, lines = lines[: self._left], lines[self._left :]
            self._open.feed(b"".join(some))
            self._left -= len(some)
            if not self._left:
                self._finish()

    def close(self) -> None:
        self._spooled.close()


def compacted_of(manifest: Compaction, see: See) -> Compacted:
    """The judge of a compacted object by its format."""
    return CompactedParquet(manifest, see) if manifest.part.key.endswith(parquet.SUFFIX) else Compacted(manifest, see)


def parse(body: bytes) -> Compaction:
    """Raises msgspec.DecodeError for what is no manifest of a compaction."""
    found = msgspec.json.decode(body, type=Compaction)
    if found.kind != "compaction":
        raise msgspec.ValidationError(f"it is a {found.kind}")
    return found


def replaced(found: Compaction) -> Sequence[str]:
    """The names that a compaction may have deleted."""
    return (*found.replaces, *(one.part.key for one in found.inputs))
