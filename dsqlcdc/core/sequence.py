"""Sequencers: which changes go on, which have been, which are stale. What they remember outlives the frontier, never the run."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Protocol

from dsqlcdc.contract import Change, Outcome
from dsqlcdc.core.ledger import Ledger
from dsqlcdc.core.ports import Memory
from dsqlcdc.core.tables import key_hash

_ID = 16
_ENTRY = struct.Struct(">16sq")


class Sequencer(Protocol):
    kind: str

    def admit(self, changes: Sequence[Change], debts: Sequence[int]) -> tuple[Sequence[Change], Sequence[int]]:
        """The changes that go on, with their debts. The others are settled here, or joined to their open originals."""
        ...

    def settled(self, changes: Sequence[Change]) -> None:
        """These admitted changes have been settled; called right after the ledger was told."""
        ...

    def remember(self, changes: Iterable[Change]) -> None:
        """Changes settled in an earlier run, read again to be remembered."""
        ...

    def remember_id(self, id: bytes, arrived: float) -> None:
        """A change that the sink says is in already."""
        ...

    def take_memory(self) -> Memory | None:
        """What was settled since the last call, for the commit that goes with it."""
        ...

    def load(self, memory: Memory) -> None: ...

    def forget(self, horizon: float) -> None:
        """Nothing that arrived before `horizon` (seconds) needs to be known any more."""
        ...

    def __len__(self) -> int: ...


class _Generation:
    """Entries of about one lateness of arrival time, dropped as one: eviction costs nothing per entry."""

    __slots__ = ("began", "entries", "newest")

    def __init__(self, began: float) -> None:
        self.began, self.newest = began, began
        self.entries: dict[bytes, int] = {}


class _Memory:
    """Entries by 16-byte id with an int each, in generations of `span` seconds of arrival time."""

    def __init__(self, span: float) -> None:
        self._span = span
        self.generations = [_Generation(0.0)]

    def young(self, arrived: float) -> dict[bytes, int]:
        """Where to put entries of records that arrived at `arrived`."""
        current = self.generations[-1]
        if arrived > current.newest:
            if not current.entries:
                current.began = arrived
            elif arrived - current.began > self._span:
                current = _Generation(arrived)
                self.generations.append(current)
            current.newest = arrived
        return current.entries

    def get(self, id: bytes) -> int | None:
        for generation in self.generations:
            value = generation.entries.get(id)
            if value is not None:
                return value
        return None

    def forget(self, horizon: float) -> None:
        if self.generations[0].newest < horizon and len(self.generations) > 1:
            self.generations = [g for g in self.generations[:-1] if g.newest >= horizon] + self.generations[-1:]

    def __len__(self) -> int:
        return sum(len(g.entries) for g in self.generations)


_SETTLED = -1
_KNOWN = -2  # the sink says that it is in; no commit has said so yet


class Unique:
    """Every change once: what logs and webhooks want. An id that has been, or is under way, is a duplicate.

    A duplicate of an open original joins it. Ids are remembered for `lateness` seconds of arrival time behind the frontier.
    """

    kind = "unique"

    def __init__(self, ledger: Ledger, lateness: float) -> None:
        self._ledger = ledger
        self._memory = _Memory(max(lateness, 1.0))
        self._fresh: list[bytes] = []
        self._newest = 0.0
        self._pages: dict[int, tuple[Sequence[bytes], Sequence[int]]] = {}
        self._page = 0

    def admit(self, changes: Sequence[Change], debts: Sequence[int]) -> tuple[Sequence[Change], Sequence[int]]:
        if not changes:
            return [], []
        self._page += 1
        page = self._page  # one int object a page: remembering it costs nothing per id
        young = self._memory.young(changes[-1].arrived)
        older = [g.entries for g in self._memory.generations if g.entries is not young]
        ids = [change.id for change in changes]
        fresh = dict.fromkeys(ids, page)
        if len(fresh) == len(ids) and all(entries.keys().isdisjoint(ids) for entries in (young, *older)):
            young.update(fresh)  # none has been met: nearly always so, and by far cheaper than one at a time
            self._pages[page] = (ids, debts)
            return changes, debts
        return self._sift(changes, debts, page, young, older)

    def _sift(
        self, changes: Sequence[Change], debts: Sequence[int], page: int, young: dict[bytes, int], older: Sequence[dict[bytes, int]]
    ) -> tuple[Sequence[Change], Sequence[int]]:
        """Admit one by one."""
        going: list[Change] = []
        owed: list[int] = []
        ids: list[bytes] = []
        self._pages[page] = (ids, owed)
        for change, debt in zip(changes, debts, strict=True):
            id = change.id
            if id in young:
                self._again(change, young[id], debt)
                continue
            for entries in older:
                if id in entries:
                    self._again(change, entries[id], debt)
                    break
            else:
                young[id] = page
                going.append(change)
                owed.append(debt)
                ids.append(id)
        return going, owed

    def _again(self, change: Change, page: int, debt: int) -> None:
        """The id has been met: join its original while that is open, else it is in."""
        ids, debts = self._pages.get(page, ((), ()))
        for n, known in enumerate(ids):
            if known == change.id:
                if self._ledger.is_open(debts[n]):
                    self._ledger.join(debts[n], debt, Outcome.DUPLICATE)
                    return
                break
        self._ledger.settle((debt,), Outcome.DUPLICATE)
        if page == _KNOWN:  # the sink need not say so again once the frontier has passed this record
            self.settled((change,))

    def settled(self, changes: Sequence[Change]) -> None:
        self._fresh.extend([change.id for change in changes])
        if changes:
            self._newest = max(self._newest, max([change.arrived for change in changes]))

    def remember(self, changes: Iterable[Change]) -> None:
        for change in changes:
            self._memory.young(change.arrived).setdefault(change.id, _SETTLED)

    def remember_id(self, id: bytes, arrived: float) -> None:
        """A change that the sink itself says is in."""
        if self._memory.get(id) is None:
            self._memory.young(arrived)[id] = _KNOWN

    def take_memory(self) -> Memory | None:
        self._pages = {page: entry for page, entry in self._pages.items() if entry[1] and self._ledger.page_open(entry[1][0])}
        if not self._fresh:
            return None
        memory = Memory(self.kind, self._newest, b"".join(self._fresh))
        self._fresh.clear()
        return memory

    def load(self, memory: Memory) -> None:
        blob, entries = memory.blob, self._memory.young(memory.newest)
        entries.update(dict.fromkeys([blob[n : n + _ID] for n in range(0, len(blob), _ID)], _SETTLED))

    def forget(self, horizon: float) -> None:
        self._memory.forget(horizon)

    def __len__(self) -> int:
        return len(self._memory)


class Latest:
    """The newest version of each row: what replicas want. An older one than was met is stale; an equal one is a duplicate.

    A stale one is settled at once: what overtook it is either open, and read again after a crash, or remembered with the same commit.
    `blind`: the destination applies what it gets without comparing versions. Then what it says is in goes on again all the same: an older
    version may be read before it, and would otherwise stay.
    """

    kind = "latest"

    def __init__(self, ledger: Ledger, lateness: float, *, blind: bool = False) -> None:
        self._ledger, self._blind = ledger, blind
        self._memory = _Memory(max(lateness, 1.0))
        self._fresh: dict[bytes, int] = {}
        self._newest = 0.0
        self._open: dict[bytes, int] = {}
        self._in: set[bytes] = set()

    def admit(self, changes: Sequence[Change], debts: Sequence[int]) -> tuple[Sequence[Change], Sequence[int]]:
        going: list[Change] = []
        owed: list[int] = []
        stale: list[int] = []
        for change, debt in zip(changes, debts, strict=True):
            row = key_hash(change)
            version = self._version(row)
            if change.id in self._in:
                self._learn(row, change.version, change.arrived)
                self._ledger.settle((debt,), Outcome.DUPLICATE)
                self.settled((change,))
            elif version is None or version < change.version:
                self._put(row, change.version, change.arrived)
                self._open[change.id] = debt
                going.append(change)
                owed.append(debt)
            elif version > change.version:
                stale.append(debt)
            else:
                original = self._open.get(change.id)
                if original is not None and self._ledger.is_open(original):
                    self._ledger.join(original, debt, Outcome.DUPLICATE)
                else:
                    self._ledger.settle((debt,), Outcome.DUPLICATE)
        if stale:
            self._ledger.settle(stale, Outcome.STALE)
        return going, owed

    def _version(self, row: bytes) -> int | None:
        for generation in reversed(self._memory.generations):
            version = generation.entries.get(row)
            if version is not None:
                return version
        return None

    def _put(self, row: bytes, version: int, arrived: float) -> None:
        young = self._memory.young(arrived)
        for generation in self._memory.generations:
            if generation.entries is not young:
                generation.entries.pop(row, None)
        young[row] = version

    def settled(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self._open.pop(change.id, None)
            row = key_hash(change)
            if self._fresh.get(row, change.version) <= change.version:
                self._fresh[row] = change.version
            self._newest = max(self._newest, change.arrived)

    def remember(self, changes: Iterable[Change]) -> None:
        for change in changes:
            self._learn(key_hash(change), change.version, change.arrived)

    def _learn(self, row: bytes, version: int, arrived: float) -> None:
        known = self._version(row)
        if known is None or known < version:
            self._put(row, version, arrived)

    def remember_id(self, id: bytes, arrived: float) -> None:
        if not self._blind:
            self._in.add(id)

    def take_memory(self) -> Memory | None:
        if not self._fresh:
            return None
        blob = b"".join([_ENTRY.pack(row, version) for row, version in self._fresh.items()])
        self._fresh.clear()
        return Memory(self.kind, self._newest, blob)

    def load(self, memory: Memory) -> None:
        for row, version in _ENTRY.iter_unpack(memory.blob):
            self._learn(row, version, memory.newest)

    def forget(self, horizon: float) -> None:
        self._memory.forget(horizon)

    def __len__(self) -> int:
        return len(self._memory)
