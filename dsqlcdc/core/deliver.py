"""Delivery: batches down lanes to the sink; what it refuses, retries or cannot take now is decided here, and only here."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate
from typing import Protocol

import msgspec

from dsqlcdc.contract import Change, Outcome, Setback, Sink, Verdict
from dsqlcdc.core.patience import Patience
from dsqlcdc.core.tables import key_hash
from dsqlcdc.errors import Poisoned, Stopped, Unavailable

_BURIED = {Verdict.STALE: Outcome.STALE, Verdict.DUPLICATE: Outcome.DUPLICATE}


class Settle(Protocol):
    def __call__(self, changes: Sequence[Change], debts: Sequence[int], outcome: Outcome) -> None: ...


Bury = Callable[[Change, Setback, int], Awaitable[None]]
"""Make a refused change's dead letter durable: (change, setback, attempts)."""


class Lot(msgspec.Struct, frozen=True):
    """Changes that go down the road together, their debts, their bytes in memory, and when (loop time) they were offered."""

    changes: Sequence[Change]
    debts: Sequence[int]
    size: int
    since: float


class Room:
    """Bytes in flight from intake to settlement. Not a cap on open positions: what waits for its other pieces does not count here."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self._free = asyncio.Event()
        self._free.set()

    def take(self, size: int) -> None:
        self.used += size
        if self.used >= self.limit:
            self._free.clear()

    def give(self, size: int) -> None:
        self.used -= size
        if self.used < self.limit:
            self._free.set()

    @property
    def full(self) -> bool:
        return self.used >= self.limit

    async def free(self) -> None:
        await self._free.wait()


class DeadRate:
    """The guard on a sink's DEAD verdicts: above a tenth of the last thousand (and at least 50), or 50 in a row for one reason, the sink or
    its configuration is at fault, not the records (sinks.md §1.2, "systemic by rate")."""

    WINDOW, RATIO, MINIMUM = 1000, 0.1, 50

    def __init__(self) -> None:
        self._recent: deque[tuple[int, int]] = deque()
        self._total = self._dead = self._row = 0
        self._reason = ""

    def passed(self, count: int) -> None:
        if count:
            self._row = 0
            self._add(count, 0)

    def dead(self, code: str, where: str) -> None:
        """Count one; raises Poisoned when it is one too many."""
        self._row = self._row + 1 if code == self._reason else 1
        self._reason = code
        self._add(1, 1)
        if self._row > self.MINIMUM or (self._dead >= self.MINIMUM and self._dead > self.RATIO * max(self._total, self.MINIMUM)):
            raise Poisoned(
                "too many records refused",
                where=where,
                why=f"{self._dead} of the last {self._total} were refused, the last with {code!r}: stopped rather than flood the dead letters",
                run="dsqlcdc dead list CONFIG",
            )

    def _add(self, total: int, dead: int) -> None:
        self._recent.append((total, dead))
        self._total += total
        self._dead += dead
        while self._recent and self._total - self._recent[0][0] >= self.WINDOW:
            total, dead = self._recent.popleft()
            self._total -= total
            self._dead -= dead


class _Lane:
    def __init__(self) -> None:
        self.pending: deque[Lot] = deque()
        self.records = self.bytes = 0
        self.wake = asyncio.Event()
        self.writing = False


class Delivery:
    """The lanes of one run. `offer` never blocks: whoever offers looks at `room` first."""

    def __init__(
        self, sink: Sink, where: str, *, settle: Settle, bury: Bury, room: Room, patience: Patience, lanes: int | None = None
    ) -> None:
        self._sink, self._where, self._settle, self._bury, self._room, self._patience = sink, where, settle, bury, room, patience
        self._lanes = [_Lane() for _ in range(lanes or sink.lanes)]
        self._rate = DeadRate()
        self._closed = False
        self._next = 0
        self.batches = self.retries = 0
        self._moved = 0.0

    @property
    def stood(self) -> float:
        """Seconds for which nothing was settled though something waits for the sink."""
        return 0.0 if self.idle else asyncio.get_running_loop().time() - self._moved

    def offer(self, changes: Sequence[Change], debts: Sequence[int]) -> None:
        """Take changes over, in order. Changes of one key go down one lane where the sink needs order."""
        if not changes:
            return
        if len(self._lanes) == 1 or not self._sink.needs_order:
            lane = self._lanes[self._next]
            self._next = (self._next + 1) % len(self._lanes)
            self._append(lane, changes, debts)
            return
        shares: list[tuple[list[Change], list[int]]] = [([], []) for _ in self._lanes]
        for change, debt in zip(changes, debts, strict=True):
            mine = shares[int.from_bytes(key_hash(change)[:4]) % len(shares)]
            mine[0].append(change)
            mine[1].append(debt)
        for lane, (some, owed) in zip(self._lanes, shares, strict=True):
            if some:
                self._append(lane, some, owed)

    def _append(self, lane: _Lane, changes: Sequence[Change], debts: Sequence[int]) -> None:
        lot = Lot(changes, debts, size_of(changes), asyncio.get_running_loop().time())
        if self.idle:
            self._moved = lot.since
        lane.pending.append(lot)
        lane.records += len(changes)
        lane.bytes += lot.size
        self._room.take(lot.size)
        lane.wake.set()

    def close(self) -> None:
        """Nothing more will be offered: write what there is, then `run` ends."""
        self._closed = True
        self.starve()

    def starve(self) -> None:
        """The intake waits for room: batches that are not full go now, or they never would be."""
        for lane in self._lanes:
            lane.wake.set()

    @property
    def idle(self) -> bool:
        return not any(lane.pending or lane.writing for lane in self._lanes)

    async def run(self) -> None:
        """Write until closed and empty. Raises Misconfigured, Poisoned, Stopped, and whatever else the sink raises; what was not settled
        stays owed. Cancelled: the same."""
        async with asyncio.TaskGroup() as group:
            for lane in self._lanes:
                group.create_task(self._run(lane))

    async def _run(self, lane: _Lane) -> None:
        while True:
            lane.wake.clear()
            if not lane.pending:
                if self._closed:
                    return
                await lane.wake.wait()
            elif self._ripe(lane):
                batch = self._cut(lane)
                lane.writing = True
                try:
                    await self._write(batch)
                finally:
                    lane.writing = False
            else:
                try:
                    async with asyncio.timeout_at(lane.pending[0].since + self._sink.batching.age):
                        await lane.wake.wait()
                except TimeoutError:
                    pass

    def _ripe(self, lane: _Lane) -> bool:
        batching, now = self._sink.batching, asyncio.get_running_loop().time()
        return (
            self._closed
            or lane.records >= batching.records
            or lane.bytes >= batching.bytes
            or now >= lane.pending[0].since + batching.age
            or self._room.full
        )

    def _cut(self, lane: _Lane) -> list[Lot]:
        """One batch off the lane: within `batching`, but at least one change; of one key only one where the sink needs order, as what is to be
        retried must not be overtaken."""
        batching = self._sink.batching
        rows: set[bytes] | None = set() if self._sink.needs_order else None
        batch: list[Lot] = []
        records = size = 0
        while lane.pending:
            lot = lane.pending[0]
            if rows is None and records + len(lot.changes) <= batching.records and size + lot.size <= batching.bytes:
                count, taken = len(lot.changes), lot.size
            else:
                count, taken = self._fit(lot, batching.records - records, batching.bytes - size, not batch, rows)
            if not count:
                break
            records += count
            size += taken
            lane.records -= count
            lane.bytes -= taken
            lane.pending.popleft()
            if count < len(lot.changes):
                batch.append(Lot(lot.changes[:count], lot.debts[:count], taken, lot.since))
                lane.pending.appendleft(Lot(lot.changes[count:], lot.debts[count:], lot.size - taken, lot.since))
                break
            batch.append(lot)
        return batch

    @staticmethod
    def _fit(lot: Lot, records: int, limit: int, at_least_one: bool, rows: set[bytes] | None) -> tuple[int, int]:
        if rows is None and (some := lot.changes[:records]):
            sizes = list(accumulate([len(c.raw) + 500 if c.assembled is None else c.size for c in some]))
            count = max(bisect_right(sizes, limit), 1 if at_least_one else 0)
            return count, sizes[count - 1] if count else 0
        count = size = 0
        for change in lot.changes[: max(records, 1 if at_least_one else 0)]:
            if size + change.size > limit and not (at_least_one and count == 0):
                break
            if rows is not None:
                row = key_hash(change)
                if row in rows:
                    break
                rows.add(row)
            size += change.size
            count += 1
        return count, size

    async def _write(self, batch: Sequence[Lot]) -> None:
        attempt, since, tries = 0, asyncio.get_running_loop().time(), 1
        changes, debts = (batch[0].changes, batch[0].debts) if len(batch) == 1 else _together(batch)
        while changes:
            try:
                setbacks = await self._sink.write(changes)
            except Unavailable as error:
                self.retries += 1
                await self._patience.wait(error, attempt, since)
                attempt += 1
                continue
            if setbacks is None:  # type: ignore[unreachable, unused-ignore]  # a sink's author may forget to answer
                raise self._broken("write answered None, not a sequence of setbacks")
            self.batches += 1
            if len(setbacks) < len(changes):
                self._moved = asyncio.get_running_loop().time()
            if not setbacks:
                self._rate.passed(len(changes))
                for lot in batch:
                    self._room.give(lot.size)
                    self._settle(lot.changes, lot.debts, Outcome.DELIVERED)
                return
            before = len(changes)
            changes, debts, after = await self._judge(changes, debts, setbacks, tries)
            tries += 1
            if len(changes) < before:  # progress: patience begins anew
                attempt, since = 0, asyncio.get_running_loop().time()
            if changes:
                batch = (Lot(changes, debts, size_of(changes), since),)
                self.retries += 1
                asked = Unavailable("the sink asked to retry records", where=self._where, why=after[1], code="E302", after=after[0])
                await self._patience.wait(asked, attempt, since)
                attempt += 1

    async def _judge(
        self, changes: Sequence[Change], debts: Sequence[int], setbacks: Sequence[Setback], tries: int
    ) -> tuple[list[Change], list[int], tuple[float, str]]:
        """Settle what has a verdict; what is to be tried again comes back, with the longest wait asked for and the last reason."""
        if not all(isinstance(setback, Setback) for setback in setbacks):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise self._broken("write answered something that is no Setback")
        by_index = {setback.index: setback for setback in setbacks}
        if len(by_index) != len(setbacks) or not all(0 <= index < len(changes) for index in by_index):
            raise self._broken("setbacks name a change twice or one not in the batch")
        fine = [n for n in range(len(changes)) if n not in by_index]
        self._rate.passed(len(fine))
        self._done([changes[n] for n in fine], [debts[n] for n in fine], Outcome.DELIVERED)
        for verdict, outcome in _BURIED.items():
            some = [n for n, setback in by_index.items() if setback.verdict is verdict]
            self._done([changes[n] for n in some], [debts[n] for n in some], outcome)
        again = sorted(n for n, setback in by_index.items() if setback.verdict is Verdict.RETRY)
        for n, setback in sorted(by_index.items()):
            if setback.verdict is Verdict.DEAD:
                self._rate.dead(setback.code, self._where)
                await self._bury(changes[n], setback, tries)
                self._done([changes[n]], [debts[n]], Outcome.DEAD)
        reasons = [by_index[n] for n in again]
        after = max((setback.after or 0.0 for setback in reasons), default=0.0)
        why = f"{reasons[-1].code} {reasons[-1].detail}".strip() if reasons else ""
        return [changes[n] for n in again], [debts[n] for n in again], (after, why)

    def _broken(self, why: str) -> Stopped:
        return Stopped(
            "the sink broke its contract", where=self._where, why=why, run="dsqlcdc run CONFIG, with the sink mended", code="E303"
        )

    def _done(self, changes: Sequence[Change], debts: Sequence[int], outcome: Outcome) -> None:
        if changes:
            self._moved = asyncio.get_running_loop().time()
            self._room.give(size_of(changes))
            self._settle(changes, debts, outcome)


def _together(batch: Sequence[Lot]) -> tuple[list[Change], list[int]]:
    changes: list[Change] = []
    debts: list[int] = []
    for lot in batch:
        changes.extend(lot.changes)
        debts.extend(lot.debts)
    return changes, debts


def size_of(changes: Sequence[Change]) -> int:
    """Bytes these changes hold in memory, about."""
    size = sum([len(change.raw) for change in changes]) + 500 * len(changes)
    return size + sum(sum(map(len, change.assembled.values())) for change in changes if change.assembled is not None)
