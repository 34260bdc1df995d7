"""Room on disk for what does not fit into memory: files without a name, in TMPDIR, which the system takes away with the process."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from typing import IO, cast

from dsqlcdc.contract import Misconfigured

_STEP = 64 * 1024


def unnamed(*, in_memory: int = 0) -> IO[bytes]:
    """A file of which nothing is left when it is closed, or its process ends. Up to `in_memory` bytes stay in memory. Raises Misconfigured."""
    try:
        if in_memory:
            return tempfile.SpooledTemporaryFile(in_memory, prefix="dsqlcdc-lake-")
        return tempfile.TemporaryFile(prefix="dsqlcdc-lake-")
    except OSError as error:
        raise no_room(error) from error


def no_room(error: OSError, where: str = "") -> Misconfigured:
    """What to say where the disk does not take it."""
    return Misconfigured(
        "cannot keep on disk what does not fit into memory",
        where=where or tempfile.tempdir or "TMPDIR",  # gettempdir raises where there is none
        why=(error.strerror or str(error) or "the disk refused").lower(),
        run="df -h, make room or set TMPDIR, then the command again",
        code="E386",
    )


def read(file: IO[bytes]) -> Iterator[bytes]:
    """All of a file from its beginning."""
    file.seek(0)
    while chunk := file.read(_STEP):
        yield chunk


def window(file: IO[bytes], start: int, size: int) -> IO[bytes]:
    """A stretch of a file as a file of its own, to be read. What is read of the file elsewhere moves nothing there."""
    return cast("IO[bytes]", _Window(file, start, size))


class _Window(io.RawIOBase):
    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        super().__init__()
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        self._file.seek(self._start + self._at)
        found = self._file.read(left if size < 0 else min(size, left))
        self._at += len(found)
        return found


def copy(file: IO[bytes], start: int, size: int, out: IO[bytes]) -> None:
    """Append a stretch of a file to another. Raises ValueError where the file is shorter, and OSError."""
    file.seek(start)
    while size:
        chunk = file.read(min(size, _STEP))
        if not chunk:
            raise ValueError("it is shorter than its manifest says")
        out.write(chunk)
        size -= len(chunk)
