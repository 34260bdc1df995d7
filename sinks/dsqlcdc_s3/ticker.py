"""When a period ends: each `every` by the clock on the wall, and with the run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from dsqlcdc.contract import Digests, Unavailable
from dsqlcdc.errors import Fault, Held

log = logging.getLogger("dsqlcdc.s3")

_SOON = 1.0
"""Seconds until a seal is tried again that found a batch under way."""
_LATER = 30.0
"""Seconds until a seal or a digest is tried again that could not be written."""
_PARTING = 15.0
"""Seconds that a run's last digest may take; where it takes longer, the next run writes it."""


class Ticker:
    """Calls `seal` at every boundary, in a task of its own, and `finish` after it, and `close` at the end.

    `seal` ends a period (False where a batch is under way: later), `finish` writes the digests that are missing; `close` does both. Nothing they
    meet but Held ends anything: delivery goes on, periods end when they should, and a digest that is missing is written when it can be.
    """

    def __init__(
        self,
        seal: Callable[[], Awaitable[bool]],
        finish: Callable[[], Awaitable[object]],
        close: Callable[[], Awaitable[bool]],
        every: float,
        clock: Callable[[], float],
        where: str,
    ) -> None:
        self._seal, self._finish, self._close = seal, finish, close
        self._every, self._clock, self._where = every, clock, where
        self._began, self._failed, self._why = clock(), 0, ""
        self._task = asyncio.create_task(self._run(), name=f"digests of {where}")

    def standing(self, at: float) -> Digests:
        """How the digests stand, where the newest one's period ended at `at`."""
        return Digests(at, max(at, self._began) + self._every, self._failed, self._why)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + self._every - self._clock() % self._every
        again = await self._try(self._finished)  # what the run before left
        while True:
            await asyncio.sleep(min(due - loop.time(), again or self._every))
            if loop.time() >= due:
                await self._sealed()
                due += self._every * max(1, -(-(loop.time() - due) // self._every))
            elif again is None:
                continue  # woken a moment early
            again = await self._try(self._finished)

    async def _sealed(self) -> None:
        while True:
            again = await self._try(self._seal)
            if again is None:
                return
            await asyncio.sleep(again)

    async def _finished(self) -> bool:
        await self._finish()
        return True

    async def _try(self, work: Callable[[], Awaitable[bool]]) -> float | None:
        """None where it went well, else the seconds until it is to be tried again."""
        try:
            if not await work():
                return _SOON
        except Held:
            raise
        except Unavailable as fault:
            log.warning("%s: a digest could not be written (%s); it is tried again", self._where, fault)
            return self._met(fault)
        except Fault as fault:
            log.error("%s: digests cannot be written: %s", self._where, fault)
            return self._met(fault)
        self._why = ""
        return None

    def _met(self, fault: Fault) -> float:
        self._failed, self._why = self._failed + 1, str(fault)
        return _LATER

    async def end(self, *, gone: bool) -> None:
        """The run is over: its closing digest. `gone`: another writer has taken over, or there is no time; then there is none."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if gone:
            return
        try:
            async with asyncio.timeout(_PARTING):
                if not await self._close():
                    log.warning("%s: a batch was left unfinished, so no digest closes this run: the next run's covers it", self._where)
        except (Fault, TimeoutError) as error:
            log.warning("%s: the closing digest could not be written (%s): the next run writes it", self._where, error)
