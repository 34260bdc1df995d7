"""One pipeline's share of the memory for pages read ahead: bytes reserved before they are read, given back when a page is taken."""

from __future__ import annotations

import asyncio
from collections import deque


class Credit:
    """For how long one pipeline may still be waited for (seconds): one, and a tenth of the time that passes.

    Whoever has used it up is left behind, and reads for itself until it meets the others again.
    """

    FULL, RATE = 1.0, 0.1

    def __init__(self) -> None:
        self.spent = False
        self._left = self.FULL
        self._at = float("-inf")

    def spend(self, seconds: float, now: float) -> None:
        self._grow(now)
        self._left -= seconds
        self.spent = self.spent or self._left <= 0

    def met(self, now: float) -> None:
        """It has taken a page that another had read: it is with them, and is waited for again once half of its credit is back."""
        if self.spent:
            self._grow(now)
            self.spent = self._left < self.FULL / 2

    def _grow(self, now: float) -> None:
        self._left = min(self.FULL, self._left + self.RATE * max(0.0, now - self._at))
        self._at = now


class Share:
    """A bound on bytes read ahead over all shards. First come, first served; when nothing is held, any size fits, so nothing deadlocks.

    `credit`: for how long the other pipelines wait for this one. `hungry`: it asks for a page, and there is none for it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = self.opened = 0
        self.credit = Credit()
        self.hungry = False
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    def fits(self, size: int) -> bool:
        return self.held == 0 or self.held + size <= self.limit

    async def reserve(self, size: int) -> None:
        """Wait until `size` bytes fit and hold them. Cancelled, nothing is held."""
        if not self._waiting and self.fits(size):
            self.held += size
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (future, size)
        self._waiting.append(entry)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.held -= size
            else:
                self._waiting.remove(entry)
            self._wake()
            raise

    def grow(self, held: int, size: int) -> bool:
        """Turn a reservation of `held` bytes into one of `size`, if that fits now.

        It always fits when it is the only one, and once when all that is held are rooms of readings, which would wait for each other.
        """
        others = self.held - held
        stuck = self.held == self.opened <= self.limit
        if size > held and others > 0 and others + size > self.limit and not stuck:
            return False
        self.held = others + size
        self._wake()
        return True

    def release(self, size: int) -> None:
        self.held -= size
        self._wake()

    def resize(self, limit: int) -> None:
        self.limit = limit
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self.fits(self._waiting[0][1]):
            future, size = self._waiting.popleft()
            if not future.done():
                self.held += size
                future.set_result(None)


class Room:
    """The part of a share that one reading holds, until what was read is known."""

    def __init__(self, share: Share, size: int) -> None:
        self._share = share
        self._size = size
        self._open = False

    async def open(self) -> None:
        await self._share.reserve(self._size)
        self._share.opened += self._size
        self._open = True

    def widen(self, size: int) -> bool:
        """Hold at least `size` bytes, if they fit now."""
        if size > self._size:
            if not self._share.grow(self._size, size):
                return False
            self._share.opened += size - self._size
            self._size = size
        return True

    def keep(self, size: int) -> int:
        """Give back all but `size` bytes, which the caller releases later."""
        self._share.opened -= self._size
        self._share.release(self._size - size)
        self._open = False
        return size

    def close(self) -> None:
        """Give all back, unless it was kept."""
        if self._open:
            self._open = False
            self._share.opened -= self._size
            self._share.release(self._size)
