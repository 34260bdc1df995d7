"""Room on disk for what is held back: files without a name, which the system takes away with the process."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from typing import IO

from dsqlcdc.errors import Misconfigured


class FileSpill:
    """A Spill in the directory for temporary files (TMPDIR), readable by nobody else. A file is given back with the last body in it."""

    def __init__(self) -> None:
        self._next = 0
        self._bodies: dict[int, tuple[_File, int, int]] = {}

    async def put(self, bodies: Sequence[bytes]) -> Sequence[int]:
        """See Spill.put."""
        file = await asyncio.to_thread(_write, bodies)
        numbers = range(self._next, self._next + len(bodies))
        self._next += len(bodies)
        start = 0
        for number, body in zip(numbers, bodies, strict=True):
            self._bodies[number] = file, start, len(body)
            start += len(body)
        return numbers

    async def take(self, number: int) -> bytes:
        """See Spill.take."""
        file, start, length = self._bodies.pop(number)
        body = await asyncio.to_thread(file.read, start, length)
        if file.left == 0:
            file.close()
        return body

    async def close(self) -> None:
        """Give all room back. Closing twice is fine."""
        for file in {id(file): file for file, _, _ in self._bodies.values()}.values():
            file.close()
        self._bodies.clear()


class _File:
    def __init__(self, handle: IO[bytes], bodies: int) -> None:
        self._handle, self.left = handle, bodies

    def read(self, start: int, length: int) -> bytes:
        try:
            self._handle.seek(start)
            body = self._handle.read(length)
        except OSError as error:
            raise _fault("read", error) from error
        self.left -= 1
        return body

    def close(self) -> None:
        self._handle.close()


def _write(bodies: Sequence[bytes]) -> _File:
    try:
        handle = tempfile.TemporaryFile(prefix="dsqlcdc-held-")  # noqa: SIM115  # it lives as long as what is in it
    except OSError as error:
        raise _fault("make", error) from error
    try:
        handle.writelines(bodies)
        handle.flush()
    except OSError as error:
        handle.close()
        raise _fault("write", error) from error
    return _File(handle, len(bodies))


def _fault(doing: str, error: OSError) -> Misconfigured:
    return Misconfigured(
        f"cannot {doing} a file for changes that are held back",
        where=tempfile.tempdir or "TMPDIR",  # gettempdir raises where there is none
        why=(error.strerror or "the disk refused").lower(),
        run="df -h, make room or set TMPDIR, then dsqlcdc run CONFIG",
        code="E215",
    )
