"""Readiness: is there progress where there is something to do?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from dsqlcdc.core.telemetry import Status

__all__ = ["Readiness", "Unready"]


class Unready(msgspec.Struct, frozen=True):
    """Why a pipeline is not ready. `code`: starting, draining, stopped, retention, not_reading, not_delivering,
    not_committing."""

    pipeline: str
    sink: str
    code: str
    reason: str


class _Seen(msgspec.Struct):
    """What a pipeline had done when it last did something, and when that was (monotonic seconds)."""

    reading: object
    settled: int
    commits: int
    read_at: float
    settled_at: float
    committed_at: float
    retries: int
    uncommitted: bool = False


class Readiness:
    """The rule, over time. Ask it with every pipeline's status and the monotonic time in seconds; it only remembers, it never waits.

    A running pipeline is ready unless its sink stands still while half of the stream's retention or more is gone, or for `patience` seconds it
    - read nothing: no shard was read, though one is open (at the tip and idle, shards are read all the same);
    - delivered nothing, though changes are in flight to the sink (what only waits for its other pieces is no stall);
    - committed nothing, though records were settled since the last commit and something had to be tried again (a commit may also be missing
      because an older record holds the checkpoint back: that is no stall).
    One that is starting, draining or stopped is not ready; one that is done is. No pipeline at all is not ready. How long a stall has
    lasted is told from the first time it was seen, so it must be asked now and then (a probe does).
    """

    def __init__(self, patience: float = 60.0) -> None:
        self.patience = patience
        self._seen: dict[tuple[str, str], _Seen] = {}

    def ask(self, statuses: Sequence[Status], now: float) -> Sequence[Unready]:
        """What keeps the process from being ready; empty where nothing does."""
        if not statuses:
            return [Unready("", "", "starting", "no pipeline runs yet")]
        reasons: list[Unready] = []
        for status in statuses:
            found = self._state(status) or self._stall(status, self._update(status, now), now)
            if found is not None:
                reasons.append(Unready(status.pipeline, status.sink, *found))
        return reasons

    def _state(self, status: Status) -> tuple[str, str] | None:
        if status.state == "stopped":
            return "stopped", status.reason or "the pipeline stopped"
        if status.state == "starting":
            return "starting", f"the pipeline has not begun to read{_retrying(status.retries)}"
        if status.state == "draining":
            return "draining", f"reading has ended; {status.open} records are open"
        return None

    def _update(self, status: Status, now: float) -> _Seen:
        reading = (status.read, status.remembered, tuple((s.shard, s.read_to, s.ended) for s in status.shards))
        settled = sum(status.settled.values())
        retries = sum(status.retries.values())
        name = status.pipeline, status.sink
        seen = self._seen.get(name)
        if seen is None:
            seen = self._seen[name] = _Seen(reading, settled, status.commits, now, now, now, retries)
        if seen.reading != reading:
            seen.reading, seen.read_at = reading, now
        if seen.settled != settled:
            if not seen.uncommitted:
                seen.uncommitted, seen.committed_at = True, now
            seen.settled, seen.settled_at = settled, now
        elif not status.in_flight_bytes:
            seen.settled_at = now  # nothing to deliver: the wait begins with the next change
        if seen.commits != status.commits:
            seen.commits, seen.committed_at, seen.uncommitted, seen.retries = status.commits, now, False, retries
        return seen

    def _stall(self, status: Status, seen: _Seen, now: float) -> tuple[str, str] | None:
        if status.state != "running":
            return None
        if status.alarm:
            why = f"the sink takes nothing and {status.retention_used:.0%} of the stream's retention are gone: what is older is lost"
            return "retention", f"{why}{_retrying(status.retries)}"
        if status.in_flight_bytes and now - seen.settled_at >= self.patience:
            why = f"nothing was settled for {now - seen.settled_at:.0f} s, {status.open} records are open{_retrying(status.retries)}"
            return "not_delivering", why
        unended = [shard for shard in status.shards if not shard.ended]
        # Where the sink holds things up nothing is read, and that is said above once it has lasted long enough.
        if (unended or not status.shards) and not status.in_flight_bytes and now - seen.read_at >= self.patience:
            behind = max((shard.behind_ms for shard in unended), default=0)
            late = f", the furthest is {behind / 1000:.0f} s behind" if behind else ""
            return "not_reading", f"no shard was read for {now - seen.read_at:.0f} s{late}{_retrying(status.retries)}"
        tried_again = sum(status.retries.values()) > seen.retries
        if seen.uncommitted and tried_again and now - seen.committed_at >= self.patience:
            return "not_committing", f"what was settled is not committed for {now - seen.committed_at:.0f} s{_retrying(status.retries)}"
        return None


def _retrying(retries: Mapping[str, int]) -> str:
    """What was tried again, the most frequent first: a hint, not a proof."""
    if not retries:
        return ""
    often = sorted(retries.items(), key=lambda item: -item[1])[:3]
    return "; tried again so far: " + ", ".join(f"{code} {count} times" for code, count in often)
