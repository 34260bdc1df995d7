"""Turns at something that one may have at a time: by rank, then first come, first served."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Turns:
    """Of those that wait, the one of the lowest rank is next."""

    def __init__(self) -> None:
        self._taken = False
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    @asynccontextmanager
    async def turn(self, rank: int) -> AsyncGenerator[None, None]:
        """Wait for a turn, and have it. Cancelled while waiting, the turn is another's."""
        if self._taken:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiters, (rank, next(self._order), future))
            try:
                await future
            except asyncio.CancelledError:
                if future.done() and not future.cancelled():
                    self._pass_on()
                raise
        self._taken = True
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        self._taken = False
        while self._waiters:
            future = heapq.heappop(self._waiters)[2]
            if not future.done():
                self._taken = True
                future.set_result(None)
                return
