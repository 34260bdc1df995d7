"""The embedded AWS's clock: wall time that never runs back and that a test may push forward."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """Seconds since the epoch. `read` is any steady source of seconds; the wall clock is read once, to begin with."""

    def __init__(self, start: float | None = None, read: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._base = self._first = (time.time() if start is None else start) - read()
        self._last_ns = 0
        self.life = 0

    def now(self) -> float:
        return self._base + self._read()

    def advance(self, seconds: float) -> None:
        """Push the clock forward: iterators expire, records are trimmed, streams become ACTIVE."""
        if seconds < 0:
            raise ValueError("the clock never runs back")
        self._base += seconds

    def restart(self) -> None:
        """Back to the wall clock, in a new `life`: for whoever has just forgotten everything that was dated."""
        self._base, self._last_ns = self._first, 0
        self.life += 1

    def unique_ns(self) -> int:
        """Nanoseconds since the epoch, above every one given before: the commit time of a transaction."""
        self._last_ns = max(self._last_ns + 1, int(self.now() * 1e9))
        return self._last_ns
