"""Sequencers: which changes go on, which have been, which are stale. What they remember outlives the frontier, never the run."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from dsqlcdc.contract import Change, Outcome
from dsqlcdc.core.ledger import Ledger
from dsqlcdc.core.ports import Memory
from dsqlcdc.core.tables import key_hash

_ID = 16
_MET = slice(1, _ID)  # the bytes of an id by which it is told whether it has been met: all 16 would cost 16 more in CPython's allocator
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


E = TypeVar("E", bound=Collection[bytes])


class _Generation(Generic[E]):
    """Entries of about one lateness of arrival time, dropped as one: eviction costs nothing per entry."""

    __slots__ = ("began", "entries", "newest")

    def __init__(self, began: float, entries: E) -> None:
        self.began, self.newest, self.entries = began, began, entries


class _Memory(Generic[E]):
    """Entries by 16-byte id, in generations of `span` seconds of arrival time."""

    def __init__(self, span: float, make: Callable[[], E]) -> None:
        self._span, self._make = span, make
        self.generations: list[_Generation[E]] = [_Generation(0.0, make())]

    def young(self, arrived: float) -> E:
        """Where to put entries of records that arrived at `arrived`."""
        current = self.generations[-1]
        if arrived > current.newest:
            if not current.entries:
                current.began = arrived
            elif arrived - current.began > self._span:
                current = _Generation(arrived, self._make())
                self.generations.append(current)
            current.newest = arrived
        return current.entries

    def __contains__(self, id: bytes) -> bool:
        return any(id in generation.entries for generation in self.generations)

    def forget(self, horizon: float) -> None:
        if self.generations[0].newest < horizon and len(self.generations) > 1:
            self.generations = [g for g in self.generations[:-1] if g.newest >= horizon] + self.generations[-1:]

    def __len__(self) -> int:
        return sum(len(g.entries) for g in self.generations)


class Unique:
    """Every change once: what logs and webhooks want. An id that has been, or is under way, is a duplicate.

    A duplicate of an open original joins it. Ids are remembered for `lateness` seconds of arrival time behind the frontier.
    """

    kind = "unique"

    def __init__(self, ledger: Ledger, lateness: float) -> None:
        self._ledger = ledger
        self._memory: _Memory[set[bytes]] = _Memory(max(lateness, 1.0), set[bytes])
        self._known: set[bytes] = set()  # the sink says that it is in; no commit has said so yet
        self._fresh: list[bytes] = []
        self._newest = 0.0
        self._pages: list[tuple[Sequence[bytes], Sequence[int]]] = []
        self._originals: dict[bytes, int] | None = None

    def admit(self, changes: Sequence[Change], debts: Sequence[int]) -> tuple[Sequence[Change], Sequence[int]]:
        if not changes:
            return [], []
        young = self._memory.young(changes[-1].arrived)
        older = [g.entries for g in self._memory.generations if g.entries is not young]
        ids = [change.id[_MET] for change in changes]
        if all(entries.isdisjoint(ids) for entries in (young, *older)):
            before = len(young)
            young.update(ids)  # none has been met: nearly always so, and by far cheaper than one at a time
            if len(young) - before == len(ids):
                self._pages.append((ids, debts))
                if self._originals is not None:
                    self._originals.update(zip(ids, debts, strict=True))
                return changes, debts
            young.difference_update(ids)
        return self._sift(changes, debts, young, older)

    def _sift(
        self, changes: Sequence[Change], debts: Sequence[int], young: set[bytes], older: Sequence[set[bytes]]
    ) -> tuple[Sequence[Change], Sequence[int]]:
        """Admit one by one."""
        going: list[Change] = []
        owed: list[int] = []
        ids: list[bytes] = []
        self._pages.append((ids, owed))
        originals = self._originals = self._originals if self._originals is not None else self._index()
        for change, debt in zip(changes, debts, strict=True):
            id = change.id[_MET]
            if id in young or any(id in entries for entries in older):
                self._again(change, originals.get(id), debt)
                continue
            young.add(id)
            originals[id] = debt
            going.append(change)
            owed.append(debt)
            ids.append(id)
        return going, owed

    def _index(self) -> dict[bytes, int]:
        """Debts by id of what may still be open: made only while duplicates come, and anew after each commit."""
        return {id: debt for ids, debts in self._pages for id, debt in zip(ids, debts, strict=True)}

    def _again(self, change: Change, original: int | None, debt: int) -> None:
        """The id has been met: join its original while that is open, else it is in."""
        if original is not None and self._ledger.is_open(original):
            self._ledger.join(original, debt, Outcome.DUPLICATE)
            return
        self._ledger.settle((debt,), Outcome.DUPLICATE)
        if change.id[_MET] in self._known:  # the sink need not say so again once the frontier has passed this record
            self.settled((change,))

    def settled(self, changes: Sequence[Change]) -> None:
        if changes:
            self._fresh.append(b"".join([change.id for change in changes]))
            self._newest = max(self._newest, max([change.arrived for change in changes]))

    def remember(self, changes: Iterable[Change]) -> None:
        for change in changes:
            self._memory.young(change.arrived).add(change.id[_MET])

    def remember_id(self, id: bytes, arrived: float) -> None:
        """A change that the sink itself says is in."""
        id = id[_MET]
        if id not in self._memory:
            self._memory.young(arrived).add(id)
            self._known.add(id)

    def take_memory(self) -> Memory | None:
        self._pages = [page for page in self._pages if page[1] and self._ledger.page_open(page[1][0])]
        self._originals = None
        if not self._fresh:
            return None
        memory = Memory(self.kind, self._newest, b"".join(self._fresh))
        self._fresh.clear()
        return memory

    def load(self, memory: Memory) -> None:
        blob, entries = memory.blob, self._memory.young(memory.newest)
        entries.update([blob[n + 1 : n + _ID] for n in range(0, len(blob), _ID)])

    def forget(self, horizon: float) -> None:
        self._memory.forget(horizon)
        if self._known:
            self._known = {id for id in self._known if id in self._memory}

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
        self._memory: _Memory[dict[bytes, int]] = _Memory(max(lateness, 1.0), dict[bytes, int])
        self._fresh: dict[bytes, int] = {}
        self._newest = 0.0
        self._open: dict[bytes, int] = {}
        self._rows: dict[bytes, bytes] = {}  # of what is open: the row by the change's id
        self._in: set[bytes] = set()

    def admit(self, changes: Sequence[Change], debts: Sequence[int]) -> tuple[Sequence[Change], Sequence[int]]:
        if not changes:
            return [], []
        going: list[Change] = []
        owed: list[int] = []
        stale: list[int] = []
        young = self._memory.young(changes[-1].arrived)
        older = [g.entries for g in self._memory.generations if g.entries is not young]
        names, ids = list(map(key_hash, changes)), [change.id for change in changes]
        opened, rows, known = self._open, self._rows, self._in
        if len(set(names)) == len(names) and known.isdisjoint(ids) and all(e.keys().isdisjoint(names) for e in (young, *older)):
            # none of these rows has been met: by far cheaper than one at a time
            young.update(zip(names, [change.version for change in changes], strict=True))
            opened.update(zip(ids, debts, strict=True))
            rows.update(zip(ids, names, strict=True))
            return changes, debts
        for change, debt, row, id in zip(changes, debts, names, ids, strict=True):
            mine = change.version
            version = self._version(row)
            if known and id in known:
                self._learn(row, mine, change.arrived)
                self._ledger.settle((debt,), Outcome.DUPLICATE)
                self.settled((change,))
            elif version is None or version < mine:
                for entries in older:
                    entries.pop(row, None)
                young[row] = mine
                opened[id], rows[id] = debt, row
                going.append(change)
                owed.append(debt)
            elif version > mine:
                stale.append(debt)
            else:
                original = opened.get(id)
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
        opened, rows, fresh = self._open, self._rows, self._fresh
        for change in changes:
            id, version = change.id, change.version
            opened.pop(id, None)
            row = rows.pop(id, None) or key_hash(change)
            if fresh.get(row, version) <= version:
                fresh[row] = version
        if changes:
            self._newest = max(self._newest, max([change.arrived for change in changes]))

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
