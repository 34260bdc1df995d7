"""Reassembly of oversized rows: any order, any shard, pieces repeated, nothing settled before somebody else answers for it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dsqlcdc.contract import Change, Outcome
from dsqlcdc.core.ledger import Ledger
from dsqlcdc.core.ports import FragmentStore, Part
from dsqlcdc.core.tables import Bad, Tables


_AGAIN_BYTES = 64 * 1024 * 1024


class Refused(msgspec.Struct, frozen=True):
    """A part, or all parts of a row, that can never become a row. `debt` is to be settled as DEAD once the letters are durable."""

    parts: Sequence[Part]
    bad: Bad
    debt: int


class Complete(msgspec.Struct, frozen=True):
    """A row that became complete; `debt` answers for it."""

    change: Change
    debt: int


class Reassembler:
    """Parts of one sink's run. The store is shared by all sinks; what it may forget is decided here.

    The record that completes a row carries it: its debt stays open until the row is settled, whatever the outcome, and so its shard's
    frontier stands before it. With a durable store the other parts are PARKED; with one in memory they stay open and share the carrier's
    fate. A part that comes while its row is under way joins the carrier; one that comes later is a duplicate.
    """

    def __init__(self, sink: str, store: FragmentStore, ledger: Ledger, tables: Tables) -> None:
        self._sink, self._store, self._ledger, self._tables = sink, store, ledger, tables
        self._carriers: dict[str, int] = {}
        self._held: dict[str, list[int]] = {}
        self._again: dict[str, dict[int, Part]] = {}

    async def take(self, part: Part, debt: int) -> Complete | Refused | None:
        """Add a part. None: it waits (or was settled). Raises Unavailable, and then nothing has changed: the same part may be given again."""
        parked = await self._store.add(self._sink, part)
        if parked.state == "refused":
            return Refused([part], Bad("contradiction", parked.why), debt)
        if parked.state == "done":
            self._ledger.settle((debt,), Outcome.DUPLICATE)
            return None
        if parked.state == "waiting":
            if self._store.durable:
                self._ledger.settle((debt,), Outcome.PARKED)
            else:
                self._hold(part, debt)
            return None
        carrier = self._carriers.get(parked.row)
        if carrier is not None and self._ledger.is_open(carrier):
            self._ledger.join(carrier, debt, Outcome.DUPLICATE)
            return None
        parts = await self._store.row(parked.row)
        self._carriers[parked.row] = debt
        for chunk in {p.chunk_id for p in parts}:
            for held in self._held.pop(chunk, ()):
                self._ledger.join(debt, held, None)
        row = self._tables.assembled(parts[0], texts(parts))
        if isinstance(row, Bad):
            return Refused(parts, row, debt)
        return Complete(row, debt)

    def _hold(self, part: Part, debt: int) -> None:
        self._held.setdefault(part.chunk_id, []).append(debt)

    async def remember(self, part: Part) -> Change | None:
        """A part at or before the frontier, read again only to be remembered: the row it completes, if it does.

        Kept apart from the store: a row is complete here only if all its parts were settled, so it was settled too.
        """
        parts = self._again.setdefault(part.chunk_id, {})
        parts[part.index] = part
        main = next((p[-1] for chunk, p in self._again.items() if -1 in p and _asks(p[-1], part.chunk_id)), None)
        if main is None or not all(set(range(n.total)) <= self._again.get(n.chunk_id, {}).keys() for n in main.needs.values()):
            self._bound()
            return None
        row = [main, *(p for n in main.needs.values() for i, p in sorted(self._again.pop(n.chunk_id).items()) if i >= 0)]
        if not self._store.durable:
            for known in row:  # so that a piece that comes once more is a duplicate, not an orphan
                await self._store.add(self._sink, known)
            await self._store.done(self._sink, [main.chunk_id])
        change = self._tables.assembled(main, texts(row))
        return change if isinstance(change, Change) else None

    def _bound(self) -> None:
        """Remembering is help, not duty: the oldest incomplete rows give way."""
        while sum(len(p.raw) for parts in self._again.values() for p in parts.values()) > _AGAIN_BYTES:
            del self._again[next(iter(self._again))]

    def remembered(self) -> None:
        """Nothing is read again any more."""
        self._again.clear()

    async def overdue(self, before: float) -> Sequence[Part]:
        """Parts whose row is incomplete though its newest part arrived before `before` (seconds), or beyond the store's bytes."""
        return await self._store.overdue(self._sink, before)

    async def give_up(self, parts: Sequence[Part]) -> None:
        """The verdict on overdue parts, after their dead letters are durable. One that comes later still completes the row."""
        chunks = list({part.chunk_id for part in parts})
        await self._store.judged(self._sink, chunks)
        for chunk in chunks:
            self._ledger.settle(self._held.pop(chunk, ()), Outcome.DEAD)

    def finished(self) -> list[str]:
        """Rows whose carrier has been settled: to be marked done before the frontier that passes them is stored."""
        return [row for row, debt in self._carriers.items() if not self._ledger.is_open(debt)]

    async def done(self, rows: Sequence[str]) -> None:
        """Mark rows done, durably. Must come before the commit of a frontier taken at the same moment or later."""
        if rows:
            await self._store.done(self._sink, rows)
            for row in rows:
                self._carriers.pop(row, None)

    def waiting(self) -> int:
        """Records held back in memory, waiting for others."""
        return sum(map(len, self._held.values()))


def texts(parts: Sequence[Part]) -> dict[str, list[bytes]]:
    """The pieces' texts by image name, in order; the main record comes first in `parts`."""
    by_chunk: dict[str, list[Part]] = {}
    for part in parts[1:]:
        by_chunk.setdefault(part.chunk_id, []).append(part)
    return {name: [p.text for p in sorted(by_chunk[need.chunk_id], key=_index)] for name, need in parts[0].needs.items()}


def _index(part: Part) -> int:
    return part.index


def _asks(main: Part, chunk_id: str) -> bool:
    return any(need.chunk_id == chunk_id for need in main.needs.values())
