"""Sets of names too large for memory, compared: hashes of eight bytes, in files by their first byte."""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from pathlib import Path

_FILES = 256
_WAITING = 512
"""Hashes of one file that wait in memory."""


class Spill:
    """Sets by label. Used as a context manager; what is on disk goes with it."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="dsqlcdc-audit-")
        self._waiting: dict[tuple[str, int], array[int]] = {}

    def __enter__(self) -> Spill:
        return self

    def __exit__(self, *_: object) -> None:
        self._directory.cleanup()

    def add(self, label: str, name: str) -> None:
        hashed = mark(name)
        place = (label, hashed >> 56)
        waiting = self._waiting.setdefault(place, array("Q"))
        waiting.append(hashed)
        if len(waiting) >= _WAITING:
            self._write(place)

    def without(self, one: str, other: str) -> set[int]:
        """Marks of the names in one set that are not in the other."""
        for place in list(self._waiting):
            self._write(place)
        found: set[int] = set()
        for number in range(_FILES):
            found |= self._read(one, number) - self._read(other, number)
        return found

    def _path(self, label: str, number: int) -> Path:
        return Path(self._directory.name) / f"{label}-{number:02x}"

    def _write(self, place: tuple[str, int]) -> None:
        waiting = self._waiting.pop(place)
        with self._path(*place).open("ab") as file:
            file.write(waiting.tobytes())

    def _read(self, label: str, number: int) -> set[int]:
        path = self._path(label, number)
        hashes: array[int] = array("Q")
        if path.exists():
            hashes.frombytes(path.read_bytes())
        return set(hashes)


def mark(name: str) -> int:
    """Eight bytes of the name's hash."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
