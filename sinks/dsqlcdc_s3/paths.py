"""Names of objects: functions of the data and of the manifest's number, never of the clock."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import msgspec

from dsqlcdc.contract import Table

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MANIFEST = re.compile(r"manifests/(\d{12,})\.json")


class Partition(msgspec.Struct, frozen=True, order=True):
    """Where a row belongs: its table and the hour of its commit (UTC)."""

    table: str
    date: str
    hour: str

    def folder(self, prefix: str) -> str:
        return f"{prefix}data/{self.table}/dt={self.date}/hour={self.hour}/"

    def key(self, prefix: str, n: int, part: int, suffix: str = ".jsonl.gz") -> str:
        return f"{self.folder(prefix)}{n:012d}-{part:04d}{suffix}"


def encode_name(name: str) -> str:
    """A schema's or table's name as a piece of a path: letters, digits, `_`, `-` and `~` as they are, all else percent-encoded.

    The dot too, so that the one between schema and table is the only one: the encoding of a pair is injective, and never `..`.
    """
    return quote(name.encode("utf-8", "surrogatepass"), safe="").replace(".", "%2E")


def partition(table: Table, version: int) -> Partition:
    """The partition of a change by its commit time in nanoseconds. Raises OverflowError outside the years 1 to 9999."""
    moment = _EPOCH + timedelta(seconds=version // 1_000_000_000)
    return Partition(f"{encode_name(table.schema)}.{encode_name(table.name)}", f"{moment:%Y-%m-%d}".zfill(10), f"{moment.hour:02d}")


def manifest_key(prefix: str, n: int) -> str:
    return f"{prefix}manifests/{n:012d}.json"


def manifest_number(prefix: str, key: str) -> int | None:
    """The number in a manifest's key; None for a key of something else."""
    found = _MANIFEST.fullmatch(key.removeprefix(prefix))
    return int(found[1]) if found else None
