"""Commit order: changes are held back until every shard was read past their time, and then go on in the order of their commits."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Any, cast

import msgspec

from dsqlcdc.contract import Change
from dsqlcdc.core.ledger import Ledger
from dsqlcdc.core.ports import Memory, Part, Spill
from dsqlcdc.core.records import Record
from dsqlcdc.core.sequence import Unique
from dsqlcdc.core.tables import Tables

_SLOT = 28
"""Changes are held by the 2**28 ns (a quarter of a second) of their commit: a slot goes on whole."""
_AHEAD = 60.0
"""Seconds by which a commit may be ahead of its arrival: clocks differ. One that is further ahead takes the place of its arrival."""
_LOT = 2000
_BOUND = b"\0" * 8
"""What the id begins with that says, among the ids of a memory, how far changes had gone on. A hash does so once in 2**64 times."""

Place = tuple[int, str]
"""Where a change stands in commit order: the time of its commit, nanoseconds, and the transaction."""


class _Away(msgspec.Struct, array_like=True, gc=False):
    """A held change that is on disk: its record as received, from which it is read again, and its debt."""

    debt: int
    id: bytes
    shard: str
    sequence: str
    arrived: float
    data: bytes
    images: dict[str, bytes] | None


class _Slot:
    """The changes of one quarter of a second. `away`: what of it is on disk, `size`: bytes of what is in memory."""

    __slots__ = ("away", "changes", "debts", "size")

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.debts: list[int] = []
        self.away: list[int] = []
        self.size = 0


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[_Away]).decode


class CommitOrder(Unique):
    """Every change once, in the order of (commit time, transaction, id).

    A change is held until every shard was read past its commit by `hold` seconds: by how far they were *read*, never by how far anything is
    settled, so nothing can wait for itself. What was committed up to then and took less than `hold` to arrive is there by then. What took
    longer is *late*: it goes on at once, with `Change.late` set, and is counted. A transaction's changes follow one another as far as they
    are known: DSQL does not say how many there are (spec §2, "Delivery").

    What is held is owed. It is in memory up to `room` bytes, beyond that in `spill`. `takes` says which changes this sink takes at all: of
    what an earlier run settled, only those say how far it had come. `tables` read again what comes back from the disk.
    """

    def __init__(
        self, ledger: Ledger, lateness: float, *, hold: float, tables: Tables, spill: Spill, takes: Callable[[Change], bool], room: int
    ) -> None:
        super().__init__(ledger, lateness)
        self._hold, self._tables, self._spill, self._takes, self._room = hold, tables, spill, takes, room
        self._slots: dict[int, _Slot] = {}
        self._first = math.inf
        self._size = 0
        self._ahead = False
        self._gone: Place = (0, "")
        self._settled_to = self._saved_to = 0
        self.held = self.late = 0

    # ── what is held ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def offer(self, changes: Sequence[Change], debts: Sequence[int]) -> None:
        """Hold these back."""
        if not changes:
            return
        times = [change.version for change in changes]
        low, high = min(times), max(times)
        if high > (changes[0].arrived + _AHEAD) * 1e9:
            self._ahead = True
            times = [_time(change) for change in changes]
            low, high = min(times), max(times)
        self.held += len(changes)
        low >>= _SLOT
        if low == high >> _SLOT:
            self._put(low, changes, debts)
            return
        shares: dict[int, tuple[list[Change], list[int]]] = {}
        for time, change, debt in zip(times, changes, debts, strict=True):
            mine = shares.setdefault(time >> _SLOT, ([], []))
            mine[0].append(change)
            mine[1].append(debt)
        for number, share in shares.items():
            self._put(number, *share)

    def _put(self, number: int, changes: Sequence[Change], debts: Sequence[int]) -> None:
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = _Slot()
            self._first = min(self._first, number)
        slot.changes.extend(changes)
        slot.debts.extend(debts)
        size = sum([change.size for change in changes])
        slot.size += size
        self._size += size

    @property
    def held_bytes(self) -> int:
        """Bytes of held changes in memory, about."""
        return self._size

    async def relieve(self) -> None:
        """Put what is held beyond `room` on disk, the newest first. Raises what Spill.put raises; then it is still held."""
        if self._size <= self._room:
            return
        away: list[_Slot] = []
        bodies: list[bytes] = []
        left = self._size
        for number in sorted(self._slots, reverse=True):
            slot = self._slots[number]
            if slot.changes:
                away.append(slot)
                bodies.append(_encode([_away(change, debt) for change, debt in zip(slot.changes, slot.debts, strict=True)]))
                left -= slot.size
                if left <= self._room // 2:
                    break
        for slot, block in zip(away, await self._spill.put(bodies), strict=True):
            slot.away.append(block)
            self._size -= slot.size
            slot.changes, slot.debts, slot.size = [], [], 0

    async def ripe(self, read_to: float) -> AsyncGenerator[tuple[Sequence[Change], Sequence[int]], None]:
        """What may go on now that every shard was read up to `read_to` (arrival, seconds; infinite: up to the tip, and no more will come),
        in order and in lots. Raises what Spill.take raises. What was not taken when it is closed stays owed, and is not held any more."""
        end = math.inf if read_to == math.inf else int((read_to - self._hold) * 1e9) >> _SLOT
        if self._first >= end:
            return
        for number in sorted(number for number in self._slots if number < end):
            slot = self._slots.pop(number)
            self._first = min(self._slots, default=math.inf)
            self._size -= slot.size
            changes, debts = slot.changes, slot.debts
            for block in slot.away:
                more, owed = self._back(await self._spill.take(block))
                changes += more
                debts += owed
            self.held -= len(changes)
            changes, debts = self._in_order(changes, debts)
            for start in range(0, len(changes), _LOT):
                yield changes[start : start + _LOT], debts[start : start + _LOT]

    def _in_order(self, changes: list[Change], debts: list[int]) -> tuple[list[Change], list[int]]:
        if self._ahead:
            keys = [(_time(change), change.transaction, change.id) for change in changes]
        else:
            keys = [(change.version, change.transaction, change.id) for change in changes]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        changes, debts = [changes[n] for n in order], [debts[n] for n in order]
        gone = self._gone
        if keys[order[0]][:2] < gone:
            late = sum(key[:2] < gone for key in keys)
            self.late += late
            changes[:late] = [msgspec.structs.replace(change, late=True) for change in changes[:late]]
        self._gone = max(gone, keys[order[-1]][:2])
        return changes, debts

    def _back(self, body: bytes) -> tuple[list[Change], list[int]]:
        found = _decode(body)
        return [self._read(away) for away in found], [away.debt for away in found]

    def _read(self, away: _Away) -> Change:
        """The change of a record that was read before, so what is read now is the same."""
        tables, shard = self._tables, away.shard
        if away.images is None:
            return cast("Change", tables.read(shard, Record(away.sequence, away.data, away.arrived)))
        main = cast("Part", tables.read(shard, Record(away.sequence, away.data, away.arrived)))
        change = tables.assembled(main, {name: [text] for name, text in away.images.items()})
        # The main record's place counted for the id of a row without a key, and the change has another's by now.
        return msgspec.structs.replace(cast("Change", change), id=away.id)

    # ── what is remembered: the ids, and how far changes had gone on ──────────────────────────────────────────────────────────────────

    def settled(self, changes: Sequence[Change]) -> None:
        super().settled(changes)
        if changes and self._takes(changes[-1]):
            self._settled_to = max(self._settled_to, _time(changes[-1]))

    def remember(self, changes: Iterable[Change]) -> None:
        changes = list(changes)
        super().remember(changes)
        for change in changes:
            if self._takes(change):
                self._gone = max(self._gone, (_time(change), ""))

    def passed(self, version: int) -> None:
        """The sink says that it has a change of this version: written by a run that did not live to say so."""
        self._gone = max(self._gone, (version, ""))

    def take_memory(self) -> Memory | None:
        if self._settled_to > self._saved_to:
            self._saved_to = self._settled_to
            self._fresh.append(_BOUND + self._settled_to.to_bytes(8))
        return super().take_memory()

    def load(self, memory: Memory) -> None:
        super().load(memory)
        blob = memory.blob
        for start in range(0, len(blob), 16):
            if blob[start : start + 8] == _BOUND:
                self._gone = max(self._gone, (int.from_bytes(blob[start + 8 : start + 16]), ""))


def _time(change: Change) -> int:
    """The time (ns) by which a change is held: of its commit, unless that is far ahead of its arrival."""
    arrived = change.arrived
    return change.version if change.version <= (arrived + _AHEAD) * 1e9 else int(arrived * 1e9)


def _away(change: Change, debt: int) -> _Away:
    images: Any = change.assembled
    return _Away(debt, change.id, change.shard, change.sequence, change.arrived, change.raw, None if images is None else dict(images))
