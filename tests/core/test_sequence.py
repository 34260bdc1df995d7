"""Sequencers: whatever the order and the repeats, each change goes on once; the newest of a row wins; a duplicate waits for its original."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable, Sequence

import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from dsqlcdc.contract import Change, Op, Outcome, Table
from dsqlcdc.core.ledger import Imbalance, Ledger
from dsqlcdc.core.records import Page, Record
from dsqlcdc.core.sequence import Latest, Sequencer, Unique

TABLE = Table("c", "s", "t", ("id",))
Make = Callable[[Ledger, float], Sequencer]


def change(key: int, version: int, arrived: float) -> Change:
    id = f"{key:08d}{version:08d}".encode()
    return Change(id, Op.UPDATE, TABLE, msgspec.Raw(b'{"id":%d}' % key), version, "", msgspec.Raw(b"{}"), None, b"", "a", "1", arrived)


class Run:
    """A sequencer with its ledger; `waiting` are changes that went on and are not settled yet, `joined` duplicates of such."""

    def __init__(self, make: Make, lateness: float = 50.0) -> None:
        self.ledger = Ledger()
        self.sequencer = make(self.ledger, lateness)
        self.waiting: dict[int, Change] = {}
        self.joined: dict[int, list[int]] = {}
        self.gone: list[Change] = []
        self._sequence = 0

    def read(self, changes: Sequence[Change]) -> list[int]:
        """A page of these; the debts that were neither let on nor settled."""
        records = []
        for one in changes:
            self._sequence += 1
            records.append(Record(str(self._sequence), b"", one.arrived))
        first = self.ledger.enter(Page("a", records))
        debts = list(range(first, first + len(changes)))
        going, owed = self.sequencer.admit(list(changes), debts)
        self.gone += going
        self.waiting.update(zip(owed, going, strict=True))
        held = [debt for debt in debts if debt not in owed and self.ledger.is_open(debt)]
        originals = {waiting.id: debt for debt, waiting in self.waiting.items()}
        for debt in held:
            self.joined.setdefault(originals[changes[debt - first].id], []).append(debt)
        for one, debt in zip(changes, debts, strict=True):
            overtaken = any(bytes(g.key_image or b"") == bytes(one.key_image or b"") and g.version > one.version for g in self.gone)
            if one.id in originals and not (overtaken and self.sequencer.kind == "latest"):
                assert self.ledger.is_open(debt), "a duplicate was settled before its original"
        return held

    def settle(self, debts: Iterable[int]) -> None:
        for debt in list(debts):
            one = self.waiting.pop(debt)
            self.ledger.settle((debt,), Outcome.DELIVERED)
            self.sequencer.settled([one])
            assert not any(self.ledger.is_open(held) for held in self.joined.pop(debt, ()))
        self.ledger.check()


def play(data: st.DataObject, make: Make, law: Callable[[list[Change], list[Change]], None]) -> None:
    """Changes in any order, any repeats, over pages and runs; memory is handed on, and old memory forgotten behind the horizon."""
    run, clock = Run(make), 0.0
    memories, everything = [], []
    gone: list[Change] = []
    for _ in range(data.draw(st.integers(1, 12), "pages")):
        clock += data.draw(st.sampled_from((0.0, 1.0, 20.0, 60.0)), "time")
        page = [
            change(data.draw(st.integers(0, 2)), data.draw(st.integers(0, 4)), clock)
            for _ in range(data.draw(st.integers(1, 6), "records"))
        ]
        everything += page
        run.read(page)
        if run.waiting:
            run.settle(data.draw(st.lists(st.sampled_from(sorted(run.waiting)), unique=True)))
        if data.draw(st.booleans(), "commit") and not run.waiting:
            memory = run.sequencer.take_memory()
            if memory is not None:
                memories.append(memory)
            run.sequencer.forget(clock - 100_000.0)
            if data.draw(st.booleans(), "restart"):
                gone += run.gone
                run = Run(make)
                for memory in memories:
                    run.sequencer.load(memory)
    run.settle(run.waiting)
    assert run.ledger.open == 0
    law(everything, gone + run.gone)


def _each_once(everything: list[Change], gone: list[Change]) -> None:
    assert sorted(c.id for c in gone) == sorted({c.id for c in everything})


def _ever_newer(everything: list[Change], gone: list[Change]) -> None:
    newest: dict[object, int] = {}
    for one in gone:
        row = bytes(one.key_image or b"")
        assert newest.get(row, -1) < one.version, "an older or equal version went on"
        newest[row] = one.version
    for one in everything:
        assert newest[bytes(one.key_image or b"")] >= one.version


LAWS = {Unique: _each_once, Latest: _ever_newer}


@pytest.mark.parametrize("kind", LAWS)
def test_every_change_once_and_never_an_older_one_whatever_the_order(kind: type[Unique] | type[Latest]) -> None:
    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def law(data: st.DataObject) -> None:
        play(data, kind, LAWS[kind])

    law()


class _Impatient(Unique):
    """Settles a duplicate at once."""

    def _again(self, change: Change, page: int, debt: int) -> None:
        self._ledger.settle((debt,), Outcome.DUPLICATE)


class _Amnesic(Unique):
    """Loads nothing."""

    def load(self, memory: object) -> None:
        return None


class _Careless(Unique):
    """Looks only at the youngest memories."""

    def admit(self, changes: Sequence[Change], debts: Sequence[int]) -> tuple[list[Change], list[int]]:
        self._memory.generations[:-1] = []
        return super().admit(changes, debts)


class _Blunt(Latest):
    """Remembers whatever was settled last, older or not."""

    def load(self, memory: object) -> None:
        return None


class _Equal(Latest):
    """Lets an equal version on."""

    def _version(self, row: bytes) -> int | None:
        version = super()._version(row)
        return None if version is None else version - 1


@pytest.mark.parametrize("mutant", [_Impatient, _Amnesic, _Careless, _Blunt, _Equal])
def test_the_laws_catch_a_broken_sequencer(mutant: type[Unique] | type[Latest]) -> None:
    @settings(max_examples=3000, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    @given(st.data())
    def law(data: st.DataObject) -> None:
        play(data, mutant, LAWS[Unique if issubclass(mutant, Unique) else Latest])

    with pytest.raises((AssertionError, Imbalance, KeyError, ExceptionGroup)):
        law()


@pytest.mark.parametrize("kind", [Unique, Latest])
def test_a_duplicate_waits_for_its_original_and_goes_with_it(kind: Make) -> None:
    run = Run(kind)
    one = change(1, 5, 1.0)
    held = run.read([one, one])
    held += run.read([one])
    assert len(held) == 2
    run.settle(list(run.waiting))
    assert run.ledger.settled["duplicate"] == 2
    assert run.read([one]) == []
    assert run.ledger.open == 0


def test_a_truly_older_version_is_stale_at_once() -> None:
    run = Run(Latest)
    run.read([change(1, 5, 1.0)])
    assert run.read([change(1, 4, 1.0)]) == []
    assert run.ledger.settled["stale"] == 1
    assert run.ledger.open == 1


@pytest.mark.parametrize("kind", [Unique, Latest])
def test_what_was_read_again_is_remembered(kind: Make) -> None:
    run = Run(kind)
    run.sequencer.remember([change(1, 5, 1.0)])
    assert run.read([change(1, 5, 2.0)]) == []
    assert not run.gone


@pytest.mark.parametrize("kind", [Unique, Latest])
def test_what_the_sink_says_is_in_is_a_duplicate_and_stays_one_for_the_next_run(kind: Make) -> None:
    """The frontier passes it with this run's commits, and the sink says no more of it: the memory must."""
    run, one = Run(kind), change(1, 5, 3.0)
    run.sequencer.remember_id(one.id, one.arrived)
    run.read([one])
    assert not run.gone
    assert run.ledger.settled["duplicate"] == 1
    memory = run.sequencer.take_memory()
    assert memory is not None
    after = Run(kind)
    after.sequencer.load(memory)
    after.read([change(1, 5, 4.0), *([change(1, 4, 4.0)] if kind is Latest else [])])
    assert not after.gone


def test_a_blind_destination_is_given_again_what_it_says_is_in() -> None:
    """An older version that is read first would overwrite it, and nothing would put it back."""
    run = Run(lambda ledger, lateness: Latest(ledger, lateness, blind=True))
    newer = change(1, 5, 1.0)
    run.sequencer.remember_id(newer.id, newer.arrived)
    run.read([change(1, 4, 1.0), newer])
    assert [c.version for c in run.gone] == [4, 5]


@pytest.mark.parametrize("kind", [Unique, Latest])
def test_memory_behind_the_horizon_goes_and_what_is_not_stays(kind: Make) -> None:
    run = Run(kind, lateness=10.0)
    for n in range(10):
        run.read([change(n, 1, 10.0 * n)])
    run.settle(list(run.waiting))
    known = len(run.sequencer)
    run.sequencer.forget(55.0)
    assert len(run.sequencer) < known
    run.gone.clear()
    run.read([change(n, 1, 95.0) for n in range(6, 10)])
    assert not run.gone


@pytest.mark.parametrize("kind", [Unique, Latest])
def test_the_memory_of_a_commit_says_the_newest_arrival_in_it(kind: Make) -> None:
    run = Run(kind)
    changes = [change(1, 1, 5.0), change(2, 1, 90.0), change(3, 1, 6.0)]
    run.read(changes)
    run.ledger.settle(sorted(run.waiting), Outcome.DELIVERED)
    run.sequencer.settled(changes)
    memory = run.sequencer.take_memory()
    assert memory is not None
    assert memory.newest == 90.0
    assert run.sequencer.take_memory() is None


@pytest.mark.parametrize(
    ("kind", "limit", "million"),
    [
        (Unique, 160, 100_000),
        (Latest, 250, 100_000),
        pytest.param(Unique, 160, 1_000_000, marks=pytest.mark.bench),
        pytest.param(Latest, 250, 1_000_000, marks=pytest.mark.bench),
    ],
)
def test_what_is_remembered_takes_few_bytes_each(kind: Make, limit: int, million: int) -> None:
    slice_ = 10_000
    ledger = Ledger()
    sequencer = kind(ledger, 1800.0)
    tracemalloc.start()
    try:
        for start in range(0, million, slice_):
            changes = [
                msgspec.structs.replace(change(n, 1, n / 1000), id=n.to_bytes(16), version=1_700_000_000_000_000_000 + n)
                for n in range(start, start + slice_)
            ]
            debt = ledger.enter(Page("a", [Record("1", b"", 1.0) for _ in changes]))
            going, owed = sequencer.admit(changes, list(range(debt, debt + slice_)))
            ledger.settle(owed, Outcome.DELIVERED)
            sequencer.settled(going)
            sequencer.take_memory()
            ledger.frontier()
            del changes, going, owed
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(sequencer) == million
    assert size / million < limit
