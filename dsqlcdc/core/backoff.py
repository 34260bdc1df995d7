"""Waiting between attempts: exponential, capped, with full jitter."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class Backoff(msgspec.Struct, frozen=True):
    """Full jitter: a uniformly random wait between nothing and min(cap, base · 2^attempt), both in seconds.

    Of the variants compared in the AWS Architecture Blog, "Exponential Backoff And Jitter", it needs the least work until all
    competitors are through. Losers of one collision are spread over the whole interval, so they do not collide again in step.
    """

    base: float = 0.1
    cap: float = 20.0

    def ceiling(self, attempt: int) -> float:
        """The longest wait before attempt `attempt` + 1, attempts counted from 0."""
        return min(self.cap, self.base * 2.0 ** min(attempt, 60))

    def delay(self, attempt: int, random: Callable[[], float]) -> float:
        """Seconds to wait after attempt `attempt` (from 0) failed. `random` gives numbers in [0, 1)."""
        return self.ceiling(attempt) * random()
