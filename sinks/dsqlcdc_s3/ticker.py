"""When a period ends: each `every` by the clock on the wall, and with the run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from dsqlcdc.contract import Unavailable
from dsqlcdc.errors import Fault, Held

log = logging.getLogger("dsqlcdc.s3")

_SOON = 1.0
"""Seconds until a seal is tried again that found a batch under way."""
_LATER = 30.0
"""Seconds until a seal or a digest is tried again that could not be written."""
_PARTING = 15.0
"""Seconds that a run's last digest may take; where it takes longer, the next run writes it."""


class Seal(Protocol):
    async def __call__(self, *, closing: bool = False) -> bool: ...


class Ticker:
    """Calls `seal` at every boundary, in a task of its own, and once more at the end.

    Nothing it meets but Held ends anything: delivery goes on, and the digest that is missing is written when it can be.
    """

    def __init__(self, seal: Seal, finish: Callable[[], Awaitable[object]], every: float, clock: Callable[[], float], where: str) -> None:
        self._seal, self._finish, self._every, self._clock, self._where = seal, finish, every, clock, where
        self._task = asyncio.create_task(self._run(), name=f"digests of {where}")

    async def _run(self) -> None:
        await self._patiently(self._finished)
        loop = asyncio.get_running_loop()
        due = loop.time() + self._every - self._clock() % self._every
        while True:
            await asyncio.sleep(due - loop.time())
            await self._patiently(self._seal)
            due += self._every * max(1, -(-(loop.time() - due) // self._every))

    async def _finished(self) -> bool:
        await self._finish()
        return True

    async def _patiently(self, work: Callable[[], Awaitable[bool]]) -> None:
        while True:
            try:
                if await work():
                    return
                await asyncio.sleep(_SOON)
            except Held:
                raise
            except Unavailable as fault:
                log.warning("%s: a digest could not be written (%s); it is tried again", self._where, fault)
                await asyncio.sleep(_LATER)
            except Fault as fault:
                log.error("%s: digests cannot be written: %s", self._where, fault)
                await asyncio.sleep(_LATER)

    async def end(self, *, gone: bool) -> None:
        """The run is over: its closing digest. `gone`: another writer has taken over, or there is no time; then there is none."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if gone:
            return
        try:
            async with asyncio.timeout(_PARTING):
                if not await self._seal(closing=True):
                    log.warning("%s: a batch was left unfinished, so no digest closes this run: the next run's covers it", self._where)
        except (Fault, TimeoutError) as error:
            log.warning("%s: the closing digest could not be written (%s): the next run writes it", self._where, error)
