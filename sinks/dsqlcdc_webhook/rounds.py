"""One batch on its way: many requests at a time, of one row never two, and none past one of its row that did not go in."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from dsqlcdc.contract import Change, Setback, Verdict

Send = Callable[[int, Change], Awaitable[Setback | None]]
"""Send one change: None when it is in, else what is to be said of it."""


class Round:
    """Sends the changes of a batch. `limit` says how many may be under way just now, 0: no more are begun."""

    def __init__(self, changes: Sequence[Change], send: Send, limit: Callable[[], int]) -> None:
        self._changes, self._send, self._limit = changes, send, limit
        self._rows: dict[object, deque[int]] = {}
        for index, change in enumerate(changes):
            row = change.id if change.key_image is None else (change.table, bytes(change.key_image))
            self._rows.setdefault(row, deque()).append(index)
        self._ready = deque(self._rows.values())
        self._active = 0
        self.settled = 0
        self.setbacks: dict[int, Setback] = {}

    async def run(self) -> None:
        """Send until all are settled or nothing more may be begun. Then `unsettled` and `setbacks` say the rest.

        Cancelled: the requests under way are broken off.
        """
        async with asyncio.TaskGroup() as group:
            self._staff(group)

    @property
    def unsettled(self) -> list[int]:
        """What is to be sent again: tried without success, behind such a one of its row, or not begun."""
        return sorted(index for row in self._rows.values() for index in row)

    def _staff(self, group: asyncio.TaskGroup) -> None:
        for _ in range(min(self._limit() - self._active, len(self._ready))):
            self._active += 1
            group.create_task(self._work(group))

    async def _work(self, group: asyncio.TaskGroup) -> None:
        try:
            while self._ready and self._active <= self._limit():
                row = self._ready.popleft()
                index = row[0]
                setback = await self._send(index, self._changes[index])
                if setback is not None:
                    self.setbacks[index] = setback
                if setback is None or setback.verdict is not Verdict.RETRY:
                    row.popleft()
                    self.settled += 1
                    if row:
                        self._ready.append(row)
                if self._active < self._limit():
                    self._staff(group)
        finally:
            self._active -= 1
