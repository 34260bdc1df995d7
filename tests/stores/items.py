"""A table of items in memory, in virtual time: writes may be lost, late, or done without an answer, as over a network."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from dsqlcdc.errors import Unavailable
from dsqlcdc.stores.dynamodb_items import HEAD, Item


class Table:
    """What is stored, and the history of every head. `now` counts reads and writes."""

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], Item] = {}
        self.history: list[Item] = []
        self.late: set[asyncio.Task[bool]] = set()
        self.writes = self.reads = 0

    def apply(self, item: Item, over: Item | None, *, condition: bool) -> bool:
        self.writes += 1
        stored = self.items.get((item.pk, item.sk))
        seen = (stored.token, stored.version) if stored is not None else None
        if condition and seen != ((over.token, over.version) if over is not None else None):
            return False
        self.items[item.pk, item.sk] = item
        if item.sk == HEAD:
            self.history.append(item)
        return True

    def apply_all(self, writes: Sequence[tuple[Item, Item | None]]) -> bool:
        """All or nothing."""
        for item, over in writes:
            stored = self.items.get((item.pk, item.sk))
            if (stored is None) != (over is None) or (stored and over and (stored.token, stored.version) != (over.token, over.version)):
                return False
        return {self.apply(item, over, condition=True) for item, over in writes} == {True}


class FakeItems:
    """One process's way to the table. `trouble`: the share of calls that go wrong; `out`: none is answered. `stopped`: the process does
    not go on (SIGSTOP) until it is cleared; `dead`: never."""

    def __init__(self, table: Table, rng: random.Random | None = None, trouble: float = 0.0, slow: float = 0.0) -> None:
        self.table, self.rng, self.trouble, self.slow = table, rng or random.Random(0), trouble, slow
        self.out = False
        self.going = asyncio.Event()
        self.going.set()

    async def get(self, pk: str, sk: str, *, consistent: bool = True) -> Item | None:
        await self._turn()
        self.table.reads += 1
        found = self.table.items.get((pk, sk))
        await self.going.wait()  # the answer is read when the process goes on
        return found

    async def query(self, pk: str, prefix: str) -> Sequence[Item]:
        await self._turn()
        return [item for (p, s), item in sorted(self.table.items.items()) if p == pk and s.startswith(prefix)]

    async def heads(self) -> Sequence[Item]:
        await self._turn()
        return [item for (_, s), item in self.table.items.items() if s == HEAD]

    async def put(self, item: Item) -> None:
        await self._write(item, None, condition=False)

    async def create(self, item: Item) -> bool:
        return await self._write(item, None, condition=True)

    async def replace(self, item: Item, over: Item) -> bool:
        return await self._write(item, over, condition=True)

    async def together(self, writes: Sequence[tuple[Item, Item | None]]) -> bool:
        await self._turn()
        if self.rng.random() < self.trouble:
            if self.rng.random() < 0.7:
                self._later(lambda: self.table.apply_all(writes), self.rng.uniform(0, 30))
            raise Unavailable("no answer in time")
        answer = self.table.apply_all(writes)
        await self.going.wait()
        return answer

    async def delete(self, pk: str, sk: str) -> None:
        await self._turn()
        self.table.writes += 1
        self.table.items.pop((pk, sk), None)

    async def close(self) -> None:
        """Nothing is open."""

    async def _write(self, item: Item, over: Item | None, *, condition: bool) -> bool:
        await self._turn()
        if self.rng.random() < self.trouble:
            if self.rng.random() < 0.7:  # it is on its way still, and arrives within half a minute whatever becomes of its sender
                self._later(lambda: self.table.apply(item, over, condition=condition), self.rng.uniform(0, 30))
            raise Unavailable("no answer in time")
        answer = self.table.apply(item, over, condition=condition)
        await self.going.wait()
        return answer

    def _later(self, write: Callable[[], bool], delay: float) -> None:
        async def arrive() -> bool:
            await asyncio.sleep(delay)
            return write()

        task = asyncio.ensure_future(arrive())
        self.table.late.add(task)
        task.add_done_callback(self.table.late.discard)

    async def _turn(self) -> None:
        await self.going.wait()
        if self.slow:
            await asyncio.sleep(self.rng.uniform(0, self.slow))
            await self.going.wait()
        if self.out or self.rng.random() < self.trouble / 2:
            raise Unavailable("cannot be asked just now")
