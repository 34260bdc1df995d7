"""Reassembly of oversized rows: any order, any shard, pieces repeated, nothing settled before somebody else answers for it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dsqlcdc.contract import Change, Outcome
from dsqlcdc.core.ledger import Ledger
from dsqlcdc.core.ports import FragmentStore, Part
from dsqlcdc.core.tables import Bad, Tables

_AGAIN_BYTES = 64 * 1024 * 1024

Place = tuple[str, str, float]
"""Shard, sequence number and arrival time (seconds) of a record."""


class Refused(msgspec.Struct, frozen=True):
    """A part, or all parts of a row, that can never become a row. `debt` is to be settled as DEAD once the letters are durable."""

    parts: Sequence[Part]
    bad: Bad
    debt: int


class Complete(msgspec.Struct, frozen=True):
    """A row that became complete; `debt` answers for it. `known`: it was settled in an earlier run already."""

    change: Change
    debt: int
    known: bool = False


class Reassembler:
    """Parts of one sink's run. The store is shared by all sinks; what it may forget is decided here.

    The record that completes a row carries it: its debt stays open until the row is settled, whatever the outcome, and so its shard's
    frontier stands before it. With a durable store the other parts are PARKED; with one in memory they stay open and share the carrier's
    fate. A part that comes while its row is under way joins the carrier; one that comes later is a duplicate.
    """

    def __init__(self, sink: str, store: FragmentStore, ledger: Ledger, tables: Tables) -> None:
        self._sink, self._store, self._ledger, self._tables = sink, store, ledger, tables
        self._carriers: dict[str, int] = {}
        self._mains: dict[str, tuple[tuple[str, str], Place]] = {}
        self._held: dict[str, list[int]] = {}
        self._again: dict[str, dict[int, Part]] = {}
        self._again_bytes = 0
        self._met: set[str] = set()

    async def take(self, part: Part, debt: int) -> Complete | Refused | None:
        """Add a part. None: it waits (or was settled). Raises Unavailable, and then nothing has changed: the same part may be given again."""
        if not self._store.durable and not self._met.isdisjoint(_chunks(part)):
            # Without a durable store no part is settled before its row: one that was means that the row was.
            return await self._over(part, debt)
        while True:
            parked = await self._store.add(self._sink, part)
            if parked.state == "refused":
                return Refused([part], Bad("contradiction", parked.why), debt)
            if parked.state == "done":
                return await self._over(part, debt)
            if parked.state == "waiting":
                if self._store.durable:
                    self._ledger.settle((debt,), Outcome.PARKED)
                else:
                    self._held.setdefault(part.chunk_id, []).append(debt)
                return None
            carrier = self._carriers.get(parked.row)
            if carrier is not None:
                if self._ledger.is_open(carrier):
                    self._ledger.join(carrier, debt, Outcome.DUPLICATE)
                else:
                    self._ledger.settle((debt,), Outcome.DUPLICATE)
                return None
            parts = await self._store.row(parked.row)
            if parts:  # else it was marked done meanwhile: ask again
                return self._complete(parked.row, parts, part, debt)

    def _complete(self, row: str, parts: Sequence[Part], carrier: Part, debt: int) -> Complete | Refused:
        self._carriers[row] = debt
        for chunk in {p.chunk_id for p in parts}:
            for held in self._held.pop(chunk, ()):
                self._ledger.join(debt, held, None)
        change = self._tables.assembled(parts[0], texts(parts))
        if isinstance(change, Bad):
            return Refused(parts, change, debt)
        # The frontier may have passed the main record long ago. The row is owed where its carrier is: sinks that remember go by that.
        main = (change.shard, change.sequence, change.arrived)
        change = msgspec.structs.replace(change, shard=carrier.shard, sequence=carrier.sequence, arrived=carrier.arrived)
        self._mains[row] = (carrier.shard, carrier.sequence), main
        return Complete(change, debt)

    def main(self, change: Change) -> Place:
        """Where the record stands that a change under way is named by: its own, of an oversized row the main record, whichever part came
        last in this run."""
        own = (change.shard, change.sequence)
        return next((main for carrier, main in self._mains.values() if carrier == own), (*own, change.arrived))

    async def _over(self, part: Part, debt: int) -> Complete | None:
        """A part of a row that was settled before. Where parts of it were read again, the row it completes is told as known."""
        chunks = _chunks(part)
        if self._met.isdisjoint(chunks):
            self._ledger.settle((debt,), Outcome.DUPLICATE)
            return None
        held = [chunk for chunk in chunks if chunk in self._held]
        if held:  # pieces of an image of which none had been met, before their main record said whose they are
            await self._store.judged(self._sink, held)
            for chunk in held:
                self._ledger.settle(self._held.pop(chunk), Outcome.DUPLICATE)
        change = self.remember(part)
        if change is None:
            self._ledger.settle((debt,), Outcome.DUPLICATE)
            return None
        return Complete(change, debt, known=True)

    def remember(self, part: Part) -> Change | None:
        """A part at or before the frontier, read again only to be remembered: the row it completes, if it does.

        Kept apart from the store: a row is complete here only if all its parts were settled, so it was settled too. A row's records may lie
        on both sides of the frontiers: what is missing here then comes through `take`.
        """
        self._met.update(_chunks(part))
        parts = self._again.setdefault(part.chunk_id, {})
        self._again_bytes += len(part.raw) - (len(parts[part.index].raw) if part.index in parts else 0)
        parts[part.index] = part
        main = next((p[-1] for p in self._again.values() if -1 in p and part.chunk_id in _chunks(p[-1])), None)
        if main is None or not all(set(range(n.total)) <= self._again.get(n.chunk_id, {}).keys() for n in main.needs.values()):
            while self._again_bytes > _AGAIN_BYTES:  # remembering is help, not duty: the oldest incomplete rows give way
                self._forget(next(iter(self._again)))
            return None
        row = [main, *(p for n in main.needs.values() for i, p in sorted(self._forget(n.chunk_id).items()) if i >= 0)]
        change = self._tables.assembled(main, texts(row))
        return change if isinstance(change, Change) else None

    def _forget(self, chunk: str) -> dict[int, Part]:
        parts = self._again.pop(chunk)
        self._again_bytes -= sum(len(part.raw) for part in parts.values())
        return parts

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
                self._mains.pop(row, None)

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


def _chunks(part: Part) -> set[str]:
    """The chunk ids a part names: its own, or all of its row where it is a main record."""
    return {part.chunk_id, *(need.chunk_id for need in part.needs.values())}
