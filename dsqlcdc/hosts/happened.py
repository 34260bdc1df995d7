"""What happened lately: what differs between two looks at the process, in words; the last few, for the page."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from dsqlcdc.core.telemetry import Kept, Status

if TYPE_CHECKING:
    from dsqlcdc.streams.watch import View

__all__ = ["Happened", "Happening"]

KEPT = 50
TOGETHER = 60.0
"""Seconds within which the same thing again is one line."""
Level = Literal["info", "good", "warning", "error"]
_STATES: dict[str, Level] = {"running": "good", "done": "good", "stopped": "error", "draining": "warning"}


class Happening(msgspec.Struct, frozen=True):
    """One thing. `at`: seconds since the epoch. `sink` is "" where it concerns all."""

    at: float
    level: Level
    sink: str
    what: str


class _Before(msgspec.Struct):
    states: dict[str, str]
    circuits: dict[str, str]
    alarms: dict[str, float]
    letters: dict[str, int]
    live: set[str]
    ended: set[str]
    stream: tuple[str, str]
    gaps: dict[str, str]
    asked: bool


class Happened:
    """Look every now and then; the first look only remembers."""

    def __init__(self) -> None:
        self._before: _Before | None = None
        self._last: deque[Happening] = deque(maxlen=KEPT)
        self._letters: dict[str, tuple[Happening, int]] = {}

    def look(self, at: float, statuses: Sequence[Status], view: View | None, kept: Kept) -> None:
        """`at`: seconds since the epoch."""
        now, before = _now(statuses, view, kept), self._before
        self._before = now
        if before is None:
            return
        for level, sink, what in (
            *_sinks(before, now, statuses),
            *_shards(before, now),
            *_stream(before, now),
            *_gaps(before, kept),
        ):
            self._last.append(Happening(at, level, sink, what))
        for sink, count in now.letters.items():
            if count > before.letters.get(sink, 0):
                self._add_letters(at, sink, count - before.letters.get(sink, 0))

    def _add_letters(self, at: float, sink: str, more: int) -> None:
        """A sink that refuses changes for hours is one line a minute, not one a look."""
        last, count = self._letters.get(sink, (None, 0))
        if last is not None and last in self._last and at - last.at < TOGETHER:
            self._last.remove(last)
            more += count
            at = last.at
        made = Happening(at, "warning", sink, f"{more} dead letter{'' if more == 1 else 's'}")
        self._last.append(made)
        self._letters[sink] = made, more

    def last(self) -> list[Happening]:
        """The newest first."""
        newest = list(reversed(self._last))
        newest.sort(key=lambda one: -one.at)
        return newest


def _now(statuses: Sequence[Status], view: View | None, kept: Kept) -> _Before:
    shards = [shard for status in statuses for shard in status.shards]
    return _Before(
        states={status.sink: status.state for status in statuses},
        circuits={status.sink: status.circuit for status in statuses},
        alarms={status.sink: status.alarm for status in statuses},
        letters={status.sink: status.letters for status in statuses},
        live={shard.shard for shard in shards},
        ended={shard.shard for shard in shards if shard.ended},
        stream=(view.health.status, view.health.code) if view is not None else ("", ""),
        gaps={gap.id: gap.acked for gap in kept.gaps},
        asked=kept.at > 0,
    )


Found = Iterator[tuple[Level, str, str]]


def _sinks(before: _Before, now: _Before, statuses: Sequence[Status]) -> Found:
    reasons = {status.sink: status.reason for status in statuses}
    for sink, state in now.states.items():
        if state != before.states.get(sink, state):
            reason = reasons[sink].partition(" Run: ")[0]
            why = f": {reason}" if state == "stopped" and reason else ""
            yield _STATES.get(state, "info"), sink, f"{state}, {before.states[sink]} before{why}"
        circuit, was = now.circuits[sink], before.circuits.get(sink, "")
        if circuit != was and "open" in (circuit, was):
            what = (
                "its circuit is open: the receiver is given a rest" if circuit == "open" else f"its circuit is {circuit.replace('_', ' ')}"
            )
            yield "warning" if circuit == "open" else "good", sink, what
        if now.alarms[sink] > before.alarms.get(sink, 0.0):
            yield "error", sink, f"takes nothing, and {now.alarms[sink]:.0%} of the retention are gone"
        elif now.alarms[sink] < before.alarms.get(sink, 0.0):
            yield "good", sink, "takes changes again"


def _shards(before: _Before, now: _Before) -> Found:
    """The first shards of a run are no news."""
    ended, begun = sorted(now.ended - before.ended), sorted(now.live - before.live)
    if before.live and (ended or begun):
        parts = [f"{', '.join(names)} {word}" for names, word in ((_few(ended), "ended"), (_few(begun), "began")) if names]
        yield "info", "", f"shards changed: {'; '.join(parts)}"


def _few(names: Sequence[str]) -> list[str]:
    return [*names[:4], f"{len(names) - 4} more"] if len(names) > 5 else list(names)


def _stream(before: _Before, now: _Before) -> Found:
    (status, code), (was, _) = now.stream, before.stream
    if now.stream != before.stream and status:
        because = f" ({code})" if code else ""
        level: Level = "good" if status == "ACTIVE" else "error" if status in ("IMPAIRED", "FAILED", "GONE") else "info"
        yield level, "", f"the CDC stream is {status}{because}" + (f", {was} before" if was and was != status else "")


def _gaps(before: _Before, kept: Kept) -> Found:
    """Those that were there when the store was first asked are no news."""
    for gap in kept.gaps if before.asked else ():
        if not gap.acked and gap.id not in before.gaps:
            yield "error", gap.sink, f"gap {gap.id} ({gap.kind}): changes may be lost"
        elif gap.acked and before.gaps.get(gap.id) == "":
            yield "good", gap.sink, f"gap {gap.id} was acknowledged"
