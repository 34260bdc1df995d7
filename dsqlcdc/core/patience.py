"""Patience: what cannot be asked just now is asked again, with jitter, for as long as somebody allows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from dsqlcdc.core.backoff import Backoff
from dsqlcdc.errors import Stopped, Unavailable

log = logging.getLogger("dsqlcdc.patience")

_OVER = 0.001
"""Seconds: a loop's clock may wake a sleeper so much early."""

T = TypeVar("T")


class Patience:
    """Asks again while the answer is Unavailable.

    `deadline`: seconds of unbroken failure after which Stopped is raised; None waits for ever. `random` gives numbers in [0, 1).
    `noticed` is told the error's code at each failure.
    """

    def __init__(
        self,
        backoff: Backoff,
        random: Callable[[], float],
        *,
        deadline: float | None = None,
        noticed: Callable[[str], None] | None = None,
    ) -> None:
        self._backoff, self._random, self._deadline, self._noticed = backoff, random, deadline, noticed

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call until it answers. Errors other than Unavailable pass. Cancelled: the call under way is cancelled."""
        attempt, since = 0, asyncio.get_running_loop().time()
        while True:
            try:
                return await call()
            except Unavailable as error:
                await self.wait(error, attempt, since)
                attempt += 1

    async def wait(self, error: Unavailable, attempt: int, since: float) -> None:
        """Wait before the next attempt (counted from 0), failing since `since` (loop time). A pause ends with the deadline at the latest,
        so that the last attempt is made then. Raises Stopped when it is over."""
        if self._noticed is not None:
            self._noticed(error.code)
        pause = max(self._backoff.delay(attempt, self._random), error.after or 0.0)
        failing = asyncio.get_running_loop().time() - since
        cut = within(pause, failing, self._deadline)
        if cut is None:
            why = f"not reached for {failing:.{0 if failing >= 10 else 1}f} s, all that --deadline allows"
            raise Stopped(
                error.what,
                where=error.where,
                why=f"{why}; the last reason: {error.why or error.what}",
                run=error.run or "dsqlcdc doctor CONFIG",
                code="E125",
            ) from error
        pause = cut
        if attempt in (0, 5) or attempt % 20 == 19:
            log.warning("%s (attempt %d, next in %.1f s)", error, attempt + 1, pause)
        await asyncio.sleep(pause)


def within(pause: float, failing: float, deadline: float | None) -> float | None:
    """The pause as far as the deadline allows it after `failing` seconds; None where the deadline is over. All in seconds."""
    if deadline is None:
        return pause
    left = deadline - failing
    return min(pause, left) if left > _OVER else None


async def until(work: Coroutine[Any, Any, T], stop: asyncio.Event) -> T | None:
    """The work's result, or None where `stop` was set before it was done: then it was cancelled."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)
