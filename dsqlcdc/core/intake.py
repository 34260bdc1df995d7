"""The intake: a page's records entered, read, reassembled, judged, routed and offered to the lanes."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

from dsqlcdc.contract import Change, Outcome, Setback, Verdict
from dsqlcdc.core.burial import Burial
from dsqlcdc.core.ledger import Ledger
from dsqlcdc.core.patience import Patience
from dsqlcdc.core.ports import Gap, Name, Part
from dsqlcdc.core.reassemble import Reassembler, Refused
from dsqlcdc.core.records import Page
from dsqlcdc.core.route import Router
from dsqlcdc.core.sequence import Sequencer
from dsqlcdc.core.tables import Bad, Tables
from dsqlcdc.core.telemetry import Counts

log = logging.getLogger("dsqlcdc.intake")

_SLICE = 2000
NO_KEY = Setback(0, Verdict.DEAD, "no_key", "the sink needs the primary key and none is known: add the table's `key` under `tables:`")


class Onward(Protocol):
    """Where admitted changes go: the lanes, or what holds them back from these."""

    def offer(self, changes: Sequence[Change], debts: Sequence[int]) -> None: ...


class Intake:
    """One run's way from a page to the lanes. Called by one task, page after page; cancelled anywhere, what was entered is simply owed."""

    def __init__(
        self,
        name: Name,
        *,
        tables: Tables,
        ledger: Ledger,
        reassembler: Reassembler,
        sequencer: Sequencer,
        router: Router,
        delivery: Onward,
        burial: Burial,
        patience: Patience,
        counts: Counts,
        needs_key: bool,
        record_gap: Callable[[Gap], Awaitable[Gap]],
        clock: Callable[[], float],
    ) -> None:
        self._name, self._tables, self._ledger, self._reassembler = name, tables, ledger, reassembler
        self._sequencer, self._router, self._delivery, self._burial = sequencer, router, delivery, burial
        self._patience, self._counts, self._needs_key = patience, counts, needs_key
        self._record_gap, self._clock = record_gap, clock

    async def take(self, page: Page) -> None:
        """Take a page over. On return every record of it is settled, joined, held with its row, or offered."""
        debt = self._ledger.enter(page)
        for start in range(0, len(page.records), _SLICE):
            if start:
                await asyncio.sleep(0)  # a page of 10,000 must not hold up timers and probes
            await self._take(page, start, debt + start)

    async def _take(self, page: Page, start: int, debt: int) -> None:
        shard, records = page.shard, page.records[start : start + _SLICE]
        items = self._tables.read_all(shard, records)
        self._counts.bytes_read += sum([len(record.data) for record in records])
        debts = range(debt, debt + len(items))
        changes = [item for item in items if isinstance(item, Change)]
        if len(changes) == len(items):
            return await self._go(changes, debts)
        await self._go(changes, [debt for item, debt in zip(items, debts, strict=True) if isinstance(item, Change)])
        for item, record, debt in zip(items, records, debts, strict=True):
            if isinstance(item, Part):
                await self._part(item, debt)
            elif isinstance(item, Bad):
                await self._burial.record(shard, record, item)
                self._ledger.settle((debt,), Outcome.DEAD)

    async def _go(self, changes: Sequence[Change], debts: Sequence[int]) -> None:
        changes, debts, elsewhere = self._router.by_table(changes, debts)
        if elsewhere:
            self._ledger.settle(elsewhere, Outcome.UNROUTED)
        if self._needs_key and any(change.key_image is None for change in changes):
            changes, debts = await self._keyed(changes, debts)
        changes, debts = self._sequencer.admit(changes, debts)
        changes, debts, others = self._router.by_op(changes, debts)
        if others:
            self._ledger.settle([debt for _, debt in others], Outcome.UNROUTED)
            self._sequencer.settled([change for change, _ in others])
        self._delivery.offer(changes, debts)

    async def _keyed(self, changes: Sequence[Change], debts: Sequence[int]) -> tuple[list[Change], list[int]]:
        for change, debt in zip(changes, debts, strict=True):
            if change.key_image is None:
                await self._burial.change(change, NO_KEY, 1)
                self._ledger.settle((debt,), Outcome.DEAD)
        kept = [n for n, change in enumerate(changes) if change.key_image is not None]
        return [changes[n] for n in kept], [debts[n] for n in kept]

    async def _part(self, part: Part, debt: int) -> None:
        result = await self._patience.ask(lambda: self._reassembler.take(part, debt))
        if isinstance(result, Refused):
            await self._burial.parts(result.parts, result.bad)
            self._ledger.settle((result.debt,), Outcome.DEAD)
        elif result is not None:
            if result.known:
                self._sequencer.remember_id(result.change.id, result.change.arrived)
            await self._go([result.change], [result.debt])

    async def remember(self, page: Page) -> None:
        """Records settled in an earlier run: into the sequencer's memory, nowhere else."""
        self._counts.remembered += len(page.records)
        for record in page.records:
            item = record.parsed or self._tables.read(page.shard, record)
            record.parsed = item
            if isinstance(item, Part):
                item = self._reassembler.remember(item)
            if isinstance(item, Change):
                self._sequencer.remember((item,))

    async def expire(self, before: float) -> None:
        """Pass the verdict on rows whose newest part arrived before `before` (seconds), or beyond the store's bytes: dead letters and a gap."""
        parts = await self._patience.ask(lambda: self._reassembler.overdue(before))
        if not parts:
            return
        bad = Bad("incomplete", "parts of this oversized row did not arrive in time; it is still completed when they do")
        await self._burial.parts(parts, bad)
        by_chunk: dict[str, list[Part]] = {}
        for part in parts:
            by_chunk.setdefault(part.chunk_id, []).append(part)
        for gap in [self._incomplete(chunk, some) for chunk, some in by_chunk.items()]:
            await self._patience.ask(partial(self._record_gap, gap))
        await self._patience.ask(lambda: self._reassembler.give_up(parts))
        self._counts.gaps += len(by_chunk)
        log.error("%s/%s: %d parts of oversized rows never became complete", self._name.pipeline, self._name.sink, len(parts))

    def _incomplete(self, chunk: str, parts: Sequence[Part]) -> Gap:
        """One gap a cut image: the same whenever it is found, whatever else is found with it."""
        name, first, last = self._name, min(parts, key=_arrived), max(parts, key=_arrived)
        text = "\0".join([name.pipeline, name.sink, name.stream, chunk])
        return Gap(
            id=hashlib.sha256(text.encode()).hexdigest()[:12],
            pipeline=name.pipeline,
            sink=name.sink,
            stream=name.stream,
            kind="incomplete",
            shard=first.shard,
            after=first.sequence,
            until=last.sequence,
            from_time=first.arrived,
            to_time=last.arrived,
            detail=f"an oversized row (chunk {chunk}) is incomplete; its {len(parts)} parts are dead letters",
            found_at=self._clock(),
        )


def _arrived(part: Part) -> float:
    return part.arrived
