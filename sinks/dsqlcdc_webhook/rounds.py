"""One batch on its way: many requests at a time, of one row never two, and none past one of its row that did not go in."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice

from dsqlcdc.contract import Change, Setback, Table, Verdict

Send = Callable[[Sequence[int]], Awaitable[Sequence[Setback | None]]]
"""Send these changes in one request: for each None when it is in, else what is to be said of it."""


class Round:
    """Sends the changes of a batch. `limit` says how many requests may be under way just now, 0: no more are begun.

    A request holds up to `most` changes, each of another row: so whatever becomes of one, none of its row was sent behind it. `fits` says
    how many of the first of those it is given go together, at least one. `strict`: all changes as if of one row, so one
    request at a time, in order.
    """

    def __init__(
        self,
        changes: Sequence[Change],
        send: Send,
        limit: Callable[[], int],
        *,
        most: int = 1,
        fits: Callable[[Sequence[int]], int] = len,
        strict: bool = False,
    ) -> None:
        self._send, self._limit, self._most, self._fits = send, limit, most, fits
        self._rows = [deque(range(len(changes)))] if strict else _rows(changes)
        self._ready = deque(self._rows)
        self._active = 0
        self.settled = 0
        self.setbacks: dict[int, Setback] = {}

    async def run(self) -> None:
        """Send until all are settled or nothing more may be begun. Then `unsettled` and `setbacks` say the rest.

        Cancelled: the requests under way are broken off.
        """
        async with asyncio.TaskGroup() as group:
            self._staff(group, self._limit())

    @property
    def unsettled(self) -> list[int]:
        """What is to be sent again: tried without success, behind such a one of its row, or not begun."""
        return sorted(index for row in self._rows for index in row)

    def _staff(self, group: asyncio.TaskGroup, limit: int) -> None:
        for _ in range(min(limit - self._active, -(-len(self._ready) // self._most))):
            self._active += 1
            group.create_task(self._work(group))

    async def _work(self, group: asyncio.TaskGroup) -> None:
        try:
            limit = self._limit()
            while self._ready and self._active <= limit:
                rows = self._pick()
                said = await self._send([row[0] for row in rows])
                for row, setback in zip(rows, said, strict=True):
                    self._settle(row, setback)
                limit = self._limit()
                if self._active < limit and self._ready:
                    self._staff(group, limit)
        finally:
            self._active -= 1

    def _pick(self) -> list[deque[int]]:
        if self._most == 1:
            return [self._ready.popleft()]
        count = self._fits([row[0] for row in islice(self._ready, self._most)])
        return [self._ready.popleft() for _ in range(count)]

    def _settle(self, row: deque[int], setback: Setback | None) -> None:
        if setback is not None:
            self.setbacks[row[0]] = setback
            if setback.verdict is Verdict.RETRY:
                return
        row.popleft()
        self.settled += 1
        if row:
            self._ready.append(row)


def _rows(changes: Sequence[Change]) -> list[deque[int]]:
    """The places of each row's changes, in their order. One without a known key is a row of its own."""
    rows: list[deque[int]] = []
    tables: dict[Table, dict[bytes, deque[int]]] = {}
    table, keys = None, dict[bytes, deque[int]]()
    for index, change in enumerate(changes):
        if change.key_image is None:
            rows.append(deque((index,)))
            continue
        if change.table is not table:
            table = change.table
            keys = tables.setdefault(table, {})
        key = bytes(change.key_image)
        waiting = keys.get(key)
        if waiting is None:
            waiting = keys[key] = deque((index,))
            rows.append(waiting)
        else:
            waiting.append(index)
    return rows
