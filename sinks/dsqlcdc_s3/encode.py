"""From changes to parts: cut by partition, sort, compress, hash. The same changes give the same bytes."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from isal import isal_zlib

from dsqlcdc import parquet as pq
from dsqlcdc.contract import Change, Setback, Verdict
from dsqlcdc.lines import line
from dsqlcdc_s3.paths import Partition, partition

CAP = 128 * 1024 * 1024
"""Bytes of an object at the most, unless a single row is larger: never a multipart upload, a single PUT is atomic."""
_HOUR = 3600 * 1_000_000_000
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
    suffix: str = ".jsonl.gz"


Shape = Callable[[str], pq.Columns]
"""The typed columns of a table, by its name `schema.table`, where parts are Parquet."""


def compressor(level: int) -> Any:
    """A gzip stream whose header holds no time and no name. Level 1 is ISA-L's: a tenth of zlib's time at 6 for some percent more bytes."""
    return isal_zlib.compressobj(1, zlib.DEFLATED, 31) if level == 1 else zlib.compressobj(level, zlib.DEFLATED, 31)


def void() -> bytes:
    """The object that voids a part: a gzip of nothing, the same bytes on every platform."""
    return bytes.fromhex("1f8b080000000000020303000000000000000000")


def encode(
    changes: Sequence[tuple[int, Change]], *, raw: bool, level: int, cap: int = CAP, shape: Shape | None = None
) -> tuple[list[Part], list[Setback]]:
    """The parts of a batch of (index, change), in order of partition, and DEAD for each row that cannot be encoded.

    Rows stand by (version, transaction, shard, sequence). One line at a time is uncompressed in memory; all compressed parts of the batch are
    kept, since the manifest names their hashes before the first is sent: at most what the batch holds itself. With `shape` the parts are
    Parquet: then the lines of a row group are in memory.
    """
    hours: dict[tuple[str, str, int], list[tuple[int, Change]]] = {}
    for row in changes:
        table = row[1].table
        hours.setdefault((table.schema, table.name, row[1].version // _HOUR), []).append(row)
    groups: dict[Partition, list[tuple[int, Change]]] = {}
    dead: list[Setback] = []
    for rows in hours.values():
        first = rows[0][1]
        try:
            groups.setdefault(partition(first.table, first.version), []).extend(rows)
        except OverflowError:
            dead += [_dead(index, f"the commit time {change.version} ns is outside the years 1 to 9999") for index, change in rows]
    parts: list[Part] = []
    for where in sorted(groups):
        parts += _parts(where, groups[where], dead, raw, level, cap, shape)
    return parts, dead


def _position(row: tuple[int, Change]) -> tuple[int, str, str, int, str]:
    change = row[1]
    return change.version, change.transaction, change.shard, len(change.sequence), change.sequence


def _parts(
    where: Partition, rows: list[tuple[int, Change]], dead: list[Setback], raw: bool, level: int, cap: int, shape: Shape | None
) -> Iterator[Part]:
    columns = None if shape is None else shape(str(rows[0][1].table))

    def begin() -> _Growing:
        return _Growing(where, level) if shape is None else _GrowingParquet(where, level, columns, raw)

    growing = begin()
    for index, change in sorted(rows, key=_position):
        try:
            text = line(change, raw)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            dead.append(_dead(index, f"the row cannot be written as JSON: {error}"))
            continue
        if growing.indexes and growing.bound + len(text) > cap:
            yield growing.finish()
            growing = begin()
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
        self._waiting_bytes: int = 0
        self._written: int = 0
        self._uncompressed: int = 0
        self._oldest = self._newest = 0
        self._arrivals: list[float] = []
        self.indexes: list[int] = []

    @property
    def bound(self) -> int:
        """Bytes that the object will have at the most, were it finished now."""
        return self._written + self._waiting_bytes + _SLACK

    def add(self, index: int, change: Change, text: bytes) -> None:
        """The next row by version."""
        if not self.indexes:
            self._oldest = change.version
        self._newest = change.version
        self.indexes.append(index)
        self._arrivals.append(change.arrived)
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
        return Part(
            self._where,
            b"".join(self._out),
            tuple(self.indexes),
            self._uncompressed,
            self._content.hexdigest(),
            self._object.digest(),
            (self._oldest, self._newest),
            (min(self._arrivals), max(self._arrivals)),
        )


class _GrowingParquet(_Growing):
    """The same of a part in Parquet, by row groups. Its bound is that of its lines: what is compressed is smaller, and read back whole."""

    def __init__(self, where: Partition, level: int, columns: pq.Columns, raw: bool) -> None:
        super().__init__(where, 1)
        self._writer = pq.Writer(columns=columns, raw=raw, level=level)

    def add(self, index: int, change: Change, text: bytes) -> None:
        full = len(self._waiting) >= pq.GROUP_ROWS or self._waiting_bytes + len(text) > pq.GROUP_BYTES
        if full and self._waiting:
            self._group()
        super().add(index, change, text)

    def _drain(self) -> None:
        """A row group is drained when the next row does not fit into it."""

    def _group(self) -> None:
        for text in self._waiting:
            self._content.update(text)
        self._writer.add(self._waiting)
        self._uncompressed += self._waiting_bytes
        self._written += self._waiting_bytes
        self._waiting, self._waiting_bytes = [], 0

    def finish(self) -> Part:
        self._group()
        body = self._writer.finish()
        return Part(
            self._where,
            body,
            tuple(self.indexes),
            self._uncompressed,
            self._content.hexdigest(),
            hashlib.sha256(body).digest(),
            (self._oldest, self._newest),
            (min(self._arrivals), max(self._arrivals)),
            pq.SUFFIX,
        )
