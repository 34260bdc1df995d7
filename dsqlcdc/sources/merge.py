"""Many readers' pages as one stream, in the order they were read; and a bell that wakes who waits for something to have changed."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Bell:
    """`wait` returns after the next `ring`."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self, timeout: float | None = None) -> bool:
        """False when `timeout` seconds passed first."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(future)
        return True


class Merge(Generic[T]):
    """An unbounded queue (its writers bound themselves by bytes) that can end or fail. A failure goes before what is queued."""

    def __init__(self) -> None:
        self._queue: deque[T] = deque()
        self._bell = Bell()
        self._failure: BaseException | None = None
        self._ended = False

    def put(self, item: T) -> None:
        self._queue.append(item)
        self._bell.ring()

    def fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._bell.ring()

    def end(self) -> None:
        self._ended = True
        self._bell.ring()

    @property
    def failed(self) -> bool:
        return self._failure is not None

    async def take(self) -> T | None:
        """The next item; None at the end. Raises what was given to `fail`."""
        while True:
            if self._failure is not None:
                raise self._failure
            if self._queue:
                return self._queue.popleft()
            if self._ended:
                return None
            await self._bell.wait()
