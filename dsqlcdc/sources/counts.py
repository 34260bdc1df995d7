"""What reading has cost so far: counters, and a frozen snapshot of them for metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec


class ShardCounts(msgspec.Struct, frozen=True):
    """One shard as one pipeline reads it. `state`: waiting (for its parents), remembering, reading, tip, paused (skew), ended.

    `behind_ms`: as the service said last. `arrived`: the last record's arrival. `position`: the last record handed over, in words.
    """

    shard: str
    state: str
    position: str
    behind_ms: int
    arrived: float
    read_to: float
    records: int


class Counts(msgspec.Struct, frozen=True):
    """A snapshot. The first block is of the whole process's reading of the stream; retries are by reason (fault codes in words)."""

    reads: int
    records: int
    bytes: int
    throttles: int
    expired: int
    renewed: int
    reshards: int
    dropped: int
    listings: int
    retries: Mapping[str, int]
    buffered_bytes: int = 0
    cached_bytes: int = 0
    shards: tuple[ShardCounts, ...] = ()


class Counters:
    """The running counts of one stream in one process."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._retries: Counter[str] = Counter()

    def count(self, name: str) -> None:
        self._counts[name] += 1

    def received(self, records: int, size: int) -> None:
        self._counts["records"] += records
        self._counts["bytes"] += size

    def retried(self, reason: str) -> None:
        self._retries[reason] += 1

    def snapshot(self) -> Counts:
        named = {
            name: self._counts[name]
            for name in ("reads", "records", "bytes", "throttles", "expired", "renewed", "reshards", "dropped", "listings")
        }
        return msgspec.convert({**named, "retries": dict(self._retries)}, Counts)
