"""A few things at a time, fewer when the store throttles."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from dsqlcdc.contract import Unavailable
from dsqlcdc.errors import Fault

T = TypeVar("T")


class Lanes:
    """How many requests are in flight: halved when one was not answered, one more after each round that went well (AIMD)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.width = limit

    async def each(self, items: Collection[T], work: Callable[[T], Awaitable[None]]) -> None:
        """Do `work` for every item. After the first Fault nothing new is begun; what is under way is finished, then it is raised.

        Of several faults one that stops goes before one that passes. Cancellation leaves items undone, in any state.
        """
        todo = iter(items)
        faults: list[Fault] = []

        async def worker() -> None:
            for item in todo:
                if faults:
                    return
                try:
                    await work(item)
                except Fault as fault:
                    faults.append(fault)

        workers = min(self.width, len(items))
        if workers <= 1:
            await worker()
        else:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(worker())
        if not faults:
            self.width = min(self._limit, self.width + 1)
            return
        if any(isinstance(fault, Unavailable) for fault in faults):
            self.width = max(1, self.width // 2)
        raise next((fault for fault in faults if not isinstance(fault, Unavailable)), faults[0])
