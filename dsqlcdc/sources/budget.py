"""What a shard may be asked for: reads and bytes a second, shared by everything in this process that reads it."""

from __future__ import annotations

import math

import msgspec


class ReadLimits(msgspec.Struct, frozen=True):
    """The service's limits per shard. Infinity switches one off (for local servers that do not throttle)."""

    reads_per_second: float = 5.0
    bytes_per_second: float = 2_000_000.0

    @classmethod
    def none(cls) -> ReadLimits:
        return cls(math.inf, math.inf)


class Budget:
    """One shard's budget. `free_at` (loop time) is when the next read may be sent; a read is charged when its size is known.

    A reply may hold five seconds' worth of bytes (10 MB): the budget then goes into debt and waits as long as the service would throttle,
    so that catching up goes on at the limit on average. Five hundredths are left as headroom for clocks that differ.
    """

    HEADROOM = 0.95

    def __init__(self, limits: ReadLimits) -> None:
        self._gap = 1.0 / (limits.reads_per_second * self.HEADROOM)
        self._byte = 1.0 / (limits.bytes_per_second * self.HEADROOM)
        self._bytes_free_at = 0.0
        self.free_at = 0.0

    def sent(self, now: float) -> None:
        """A read was sent at loop time `now`: it counts whether or not it is answered."""
        self.free_at = max(self.free_at, now + self._gap)

    def received(self, size: int, now: float) -> None:
        """`size` bytes of records were answered at `now`."""
        self._bytes_free_at = max(self._bytes_free_at, now) + size * self._byte
        if size:
            self.free_at = max(self.free_at, self._bytes_free_at)

    def throttled(self, wait: float, now: float) -> None:
        """The service refused a read: other readers share the shard. Nobody asks again for `wait` seconds."""
        self.free_at = max(self.free_at, now + wait)
