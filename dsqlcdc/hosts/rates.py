"""What flows: rates between two looks at the pipelines, and the one line that sums a pipeline up."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import msgspec

from dsqlcdc.contract import Outcome
from dsqlcdc.core.telemetry import Status

__all__ = ["Flow", "Rates", "behind", "bytes_text", "count_text", "line", "settled_text", "span_text"]


class Flow(msgspec.Struct, frozen=True):
    """Per second."""

    read: float = 0.0
    bytes: float = 0.0
    settled: float = 0.0


class Rates:
    """Remembers the counts of the looks of the last `window` seconds, so that a rate is steady though pages come once a second.

    A counter that has gone back (a new run) starts anew.
    """

    def __init__(self, window: float = 5.0) -> None:
        self._window = window
        self._looks: dict[tuple[str, str], deque[tuple[float, int, int, int]]] = {}

    def look(self, statuses: Sequence[Status], now: float) -> Mapping[str, Flow]:
        """Each sink's flow over the window, or since the last look if that is longer ago; `now` in monotonic seconds. At first nothing flows."""
        flows: dict[str, Flow] = {}
        for status in statuses:
            looks = self._looks.setdefault((status.pipeline, status.sink), deque())
            counts = status.read, status.bytes, sum(status.settled.values())
            if looks and any(new < old for new, old in zip(counts, looks[-1][1:], strict=True)):
                looks.clear()
            while len(looks) > 1 and looks[1][0] <= now - self._window:
                looks.popleft()
            looks.append((now, *counts))
            since, *old = looks[0]
            elapsed = now - since
            flows[status.sink] = Flow(*((new - was) / elapsed for new, was in zip(counts, old, strict=True))) if elapsed > 0 else Flow()
        return flows


def behind(status: Status) -> float:
    """Seconds by which the furthest shard is behind its tip, as the service said at its last read."""
    return max((shard.behind_ms for shard in status.shards if not shard.ended), default=0) / 1000


def line(status: Status, flow: Flow | None, now: float) -> str:
    """One pipeline on one line; `now` in seconds since the epoch. Without a flow only what is counted."""
    parts = [
        f"{status.state}",
        f"read {count_text(status.read)}" + (f" ({count_text(flow.read)}/s, {bytes_text(flow.bytes)}/s)" if flow else ""),
        f"settled {settled_text(status)}",
        f"open {count_text(status.open)}",
        f"behind {span_text(behind(status))}",
        f"{sum(not shard.ended for shard in status.shards)} shards",
    ]
    if status.committed_at:
        parts.append(f"committed {span_text(max(0.0, now - status.committed_at))} ago")
    if status.retries:
        parts.append(f"retried {count_text(sum(status.retries.values()))}")
    if status.gaps:
        parts.append(f"gaps {status.gaps}")
    return f"{status.pipeline}/{status.sink}: " + ", ".join(parts) + (f": {status.reason}" if status.reason else "")


def settled_text(status: Status) -> str:
    """`delivered 12, duplicate 3`: those that are not 0, in the order of Outcome."""
    counts = [(outcome.value, status.settled.get(outcome.value, 0)) for outcome in Outcome]
    return ", ".join(f"{name} {count_text(count)}" for name, count in counts if count) or "0"


def count_text(number: float) -> str:
    """12, 1,234, 12.3k, 4.5M: four digits are enough to see."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if number >= size:
            return f"{number / (1e3 if unit == 'k' else size):.1f}{unit}"
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"


def bytes_text(size: float) -> str:
    """512 B, 1.5 KiB, 2.0 GiB."""
    if size < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"


def span_text(seconds: float) -> str:
    """0 s, 3.2 s, 4 min 10 s, 2 h 05 min, 3 d 04 h: the two largest units."""
    if seconds < 60:
        return f"{seconds:.1f} s" if 0.05 <= seconds < 9.95 else f"{seconds:.0f} s"
    whole = round(seconds)
    for length, unit, lower, sub in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= length:
            return f"{whole // length} {unit} {whole % length // lower:02d} {sub}"
    return f"{whole} s"
