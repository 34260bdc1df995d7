"""What was, for as long as a page shows it: a few numbers a sink every two seconds, a few a shard every ten, in rings that do not grow."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from dsqlcdc.core.telemetry import ShardStatus, Status
from dsqlcdc.hosts.rates import Flow, behind

__all__ = ["SERIES", "STEP", "History", "late", "point", "worst"]

STEP = 2.0
"""Seconds between two points of a sink."""
POINTS = 900
"""So many are kept: half an hour."""
SHARD_STEPS = 5
"""Of a shard every so many steps a point …"""
SHARD_POINTS = 60
"""… and so many of them: ten minutes."""
SERIES = ("read", "settled", "bytes", "open", "behind", "waited")
"""Of a sink: records read, settled and bytes read a second; records owed; seconds behind the tip; seconds the oldest debt has waited."""


def worst(shards: Sequence[ShardStatus]) -> list[ShardStatus]:
    """Shards that are read or still owe something, those furthest behind first, then those that owe most."""
    live = [shard for shard in shards if shard.open or not shard.ended]
    return sorted(live, key=lambda shard: (-shard.behind_ms, -shard.open, shard.shard))


class History:
    """Add a look every STEP seconds. Sinks and shards that are gone leave nothing behind."""

    def __init__(self) -> None:
        self._at: deque[float] = deque(maxlen=POINTS)
        self._sinks: dict[str, dict[str, deque[float]]] = {}
        self._shards: dict[str, dict[str, tuple[array[int], array[int]]]] = {}
        self._looks = 0

    def add(self, at: float, statuses: Sequence[Status], flows: Mapping[str, Flow]) -> None:
        """One look: `at` in seconds since the epoch, `flows` by sink."""
        self._at.append(at)
        for status in statuses:
            kept = self._sinks.setdefault(status.sink, {name: deque(maxlen=POINTS) for name in SERIES})
            for name, value in zip(SERIES, point(status, flows.get(status.sink, Flow())), strict=True):
                kept[name].append(value)
        if self._looks % SHARD_STEPS == 0:
            for status in statuses:
                self._add_shards(status)
        self._looks += 1

    def _add_shards(self, status: Status) -> None:
        before = self._shards.get(status.sink, {})
        now: dict[str, tuple[array[int], array[int]]] = {}
        for shard in worst(status.shards):
            open_, late = now[shard.shard] = before.get(shard.shard) or (array("q"), array("q"))
            for ring, value in ((open_, shard.open), (late, shard.behind_ms)):
                ring.append(value)
                del ring[:-SHARD_POINTS]
        self._shards[status.sink] = now

    @property
    def at_shards(self) -> bool:
        """The last look was one at shards, too."""
        return self._looks % SHARD_STEPS == 1

    def as_json(self) -> dict[str, Any]:
        """Every point of every sink, the oldest first; a sink's series are as long as the times, or end with them."""
        return {
            "at": [round(at, 1) for at in self._at],
            "sinks": {sink: {name: list(values) for name, values in series.items()} for sink, series in self._sinks.items()},
        }

    def shards_json(self, shown: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """The points of the shards named, by sink: records owed, milliseconds behind."""
        return {
            sink: {
                name: {"open": list(self._shards[sink][name][0]), "behind": list(self._shards[sink][name][1])}
                for name in names
                if name in self._shards.get(sink, {})
            }
            for sink, names in shown.items()
        }


def point(status: Status, flow: Flow) -> tuple[float, ...]:
    """One point, in the order of SERIES."""
    spread = status.lag.get("read_to_sink")
    waited = spread.now if spread is not None and status.open else 0.0
    return (round(flow.read, 1), round(flow.settled, 1), round(flow.bytes), status.open, round(late(status), 2), round(waited, 2))


def late(status: Status) -> float:
    """Seconds by which the furthest shard is behind its tip, as the service said at its last read; of a sink that stopped, that long and as
    long as nothing was read."""
    spread = status.lag.get("kinesis_to_read")
    return max(behind(status), spread.now) if status.state == "stopped" and spread is not None else behind(status)
