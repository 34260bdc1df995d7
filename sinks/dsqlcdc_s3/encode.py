"""From changes to parts: cut by partition, sort, compress, hash. The same changes give the same bytes."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from dsqlcdc.contract import Change, Setback, Verdict
from dsqlcdc.lines import line
from dsqlcdc_s3.paths import Partition, partition

CAP = 128 * 1024 * 1024
"""Bytes of an object at the most, unless a single row is larger: never a multipart upload, a single PUT is atomic."""
_CHUNK = 256 * 1024
_SLACK = 128 * 1024
"""What a deflate stream may hold back, and a stored block's overhead, at the most."""


class Part(msgspec.Struct, frozen=True, gc=False):
    """One object to be: its compressed bytes and what a manifest says of it. `indexes`: places of its rows in the batch given to encode."""

    partition: Partition
    body: bytes
    indexes: Sequence[int]
    uncompressed_bytes: int
    content_sha256: str
    sha256: bytes
    versions: tuple[int, int]
    arrivals: tuple[float, float]


def compressor(level: int) -> Any:
    """A gzip stream whose header holds no time and no name."""
    return zlib.compressobj(level, zlib.DEFLATED, 31)


def void() -> bytes:
    """The object that voids a part: a gzip of nothing."""
    body: bytes = compressor(9).flush()
    return body


def encode(changes: Sequence[tuple[int, Change]], *, raw: bool, level: int, cap: int = CAP) -> tuple[list[Part], list[Setback]]:
    """The parts of a batch of (index, change), in order of partition, and DEAD for each row that cannot be encoded.

    Rows stand by (version, shard, sequence). One line at a time is uncompressed in memory; all compressed parts of the batch are kept,
    since the manifest names their hashes before the first is sent: at most what the batch holds itself.
    """
    groups: dict[Partition, list[tuple[int, Change]]] = {}
    dead: list[Setback] = []
    for index, change in changes:
        try:
            groups.setdefault(partition(change.table, change.version), []).append((index, change))
        except OverflowError:
            dead.append(_dead(index, f"the commit time {change.version} ns is outside the years 1 to 9999"))
    parts: list[Part] = []
    for where in sorted(groups):
        parts += _parts(where, groups[where], dead, raw, level, cap)
    return parts, dead


def _position(row: tuple[int, Change]) -> tuple[int, str, int, str]:
    change = row[1]
    return change.version, change.shard, len(change.sequence), change.sequence


def _parts(where: Partition, rows: list[tuple[int, Change]], dead: list[Setback], raw: bool, level: int, cap: int) -> Iterator[Part]:
    growing = _Growing(where, level)
    for index, change in sorted(rows, key=_position):
        try:
            text = line(change, raw)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            dead.append(_dead(index, f"the row cannot be written as JSON: {error}"))
            continue
        if growing.indexes and growing.bound + len(text) > cap:
            yield growing.finish()
            growing = _Growing(where, level)
        growing.add(index, change, text)
    if growing.indexes:
        yield growing.finish()


def _dead(index: int, detail: str) -> Setback:
    return Setback(index, Verdict.DEAD, code="bad_row", detail=detail)


class _Growing:
    """A part while rows are added."""

    def __init__(self, where: Partition, level: int) -> None:
        self._where = where
        self._compressor = compressor(level)
        self._content = hashlib.sha256()
        self._object = hashlib.sha256()
        self._out: list[bytes] = []
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._written = 0
        self._uncompressed = 0
        self._versions: tuple[int, int] | None = None
        self._arrivals: tuple[float, float] = (0.0, 0.0)
        self.indexes: list[int] = []

    @property
    def bound(self) -> int:
        """Bytes that the object will have at the most, were it finished now."""
        return self._written + self._waiting_bytes + _SLACK

    def add(self, index: int, change: Change, text: bytes) -> None:
        self.indexes.append(index)
        low, high = self._versions or (change.version, change.version)
        if self._versions is None:
            self._arrivals = (change.arrived, change.arrived)
        self._versions = (min(low, change.version), max(high, change.version))
        self._arrivals = (min(self._arrivals[0], change.arrived), max(self._arrivals[1], change.arrived))
        self._waiting.append(text)
        self._waiting_bytes += len(text)
        if self._waiting_bytes >= _CHUNK:
            self._drain()

    def _drain(self) -> None:
        for text in self._waiting if self._waiting_bytes > 4 * _CHUNK else (b"".join(self._waiting),):
            self._content.update(text)
            self._keep(self._compressor.compress(text))
        self._uncompressed += self._waiting_bytes
        self._waiting, self._waiting_bytes = [], 0

    def _keep(self, compressed: bytes) -> None:
        if compressed:
            self._object.update(compressed)
            self._out.append(compressed)
            self._written += len(compressed)

    def finish(self) -> Part:
        self._drain()
        self._keep(self._compressor.flush())
        assert self._versions is not None
        return Part(
            self._where,
            b"".join(self._out),
            tuple(self.indexes),
            self._uncompressed,
            self._content.hexdigest(),
            self._object.digest(),
            self._versions,
            self._arrivals,
        )
