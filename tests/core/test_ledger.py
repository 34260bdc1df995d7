"""The ledger's law, attacked by random histories; and mutants of the ledger that the same histories must catch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from dsqlcdc.contract import Outcome
from dsqlcdc.core.ledger import Imbalance, Ledger
from dsqlcdc.core.records import END, TRIM_HORIZON, Mark, Page, Position, Record

SHARDS = ("a", "b", "c")


class Plan:
    """What a ledger should say, kept the slow way: every debt by itself."""

    def __init__(self) -> None:
        self.records: dict[str, list[tuple[int, str, float]]] = {shard: [] for shard in SHARDS}
        self.open: dict[int, str] = {}
        self.joined: dict[int, list[int]] = {}
        self.read = self.sequence = 0
        self.tips: dict[str, list[tuple[int, float]]] = {shard: [] for shard in SHARDS}
        self.ended: set[str] = set()

    def close(self, debt: int) -> None:
        del self.open[debt]
        for follower in self.joined.pop(debt, ()):
            self.close(follower)

    def frontier(self, shard: str) -> tuple[Position, float]:
        position, arrived, passed = TRIM_HORIZON, 0.0, 0
        for debt, sequence, at in self.records[shard]:
            if debt in self.open:
                break
            position, arrived, passed = Position("after", sequence, at), max(arrived, at), passed + 1
        arrived = max([arrived, *(tip for count, tip in self.tips[shard] if count <= passed)])
        if shard in self.ended and passed == len(self.records[shard]):
            position = END
        return position, arrived


def play(data: st.DataObject, make: Callable[[], Ledger]) -> None:
    """A random history; after every step the ledger must say what the plan says."""
    ledger, plan = make(), Plan()
    marks: dict[str, tuple[tuple[int, int], float]] = {}
    for _ in range(data.draw(st.integers(1, 40), "steps")):
        step = data.draw(st.sampled_from(("enter", "enter", "settle", "settle", "join", "look", "empty")), "step")
        if step in ("enter", "empty"):
            shard = data.draw(st.sampled_from(SHARDS))
            if shard in plan.ended:
                continue
            _enter(data, ledger, plan, shard, 0 if step == "empty" else data.draw(st.integers(1, 5)))
        elif step == "settle" and plan.open:
            followers = {f for some in plan.joined.values() for f in some}
            free = [debt for debt in plan.open if debt not in followers]
            some = data.draw(st.lists(st.sampled_from(free), unique=True, max_size=6))
            ledger.settle(some, data.draw(st.sampled_from(list(Outcome))))
            for debt in some:
                plan.close(debt)
        elif step == "join" and len(plan.open) > 1:
            followers = {f for some in plan.joined.values() for f in some}
            free = [debt for debt in plan.open if debt not in followers and debt not in plan.joined]
            originals = [debt for debt in plan.open if debt not in followers]
            if free and len(originals) > 1:
                follower = data.draw(st.sampled_from(free))
                original = data.draw(st.sampled_from([debt for debt in originals if debt != follower]))
                ledger.join(original, follower, data.draw(st.sampled_from((None, Outcome.DUPLICATE))))
                plan.joined.setdefault(original, []).append(follower)
        _look(ledger, plan, marks)
    followers = {f for some in plan.joined.values() for f in some}
    ledger.settle([debt for debt in plan.open if debt not in followers], Outcome.DELIVERED)
    plan.open.clear()
    _look(ledger, plan, marks)
    assert ledger.open == 0
    assert sum(ledger.settled.values()) == ledger.read == plan.read


def _enter(data: st.DataObject, ledger: Ledger, plan: Plan, shard: str, count: int) -> None:
    records = []
    for _ in range(count):
        plan.sequence += 1
        records.append(Record(str(plan.sequence), b"", float(plan.sequence)))
    ended = data.draw(st.sampled_from((False, False, False, True)))
    behind = data.draw(st.sampled_from((0, 5)))
    first = ledger.enter(Page(shard, records, plan.sequence + 0.5, behind, ended))
    for n, record in enumerate(records):
        plan.records[shard].append((first + n, record.sequence_number, record.arrived))
        plan.open[first + n] = shard
    plan.read += count
    if behind == 0:
        plan.tips[shard].append((len(plan.records[shard]), plan.sequence + 0.5))
    if ended:
        plan.ended.add(shard)


def _look(ledger: Ledger, plan: Plan, marks: dict[str, tuple[tuple[int, int], float]]) -> None:
    ledger.check()
    assert ledger.read == plan.read
    assert ledger.open == len(plan.open)
    assert all(ledger.is_open(debt) for debt in plan.open)
    for shard, mark in ledger.frontier().items():
        position, arrived = plan.frontier(shard)
        assert (mark.position, mark.arrived) == (position, arrived)
        kinds = ("trim_horizon", "time", "after", "end")
        place = ((kinds.index(position.kind), int(position.sequence or "0")), arrived)
        before = marks.get(shard, ((0, 0), 0.0))
        assert place[0] >= before[0], "a frontier moved back"
        assert place[1] >= before[1], "a frontier's time moved back"
        marks[shard] = place
        assert ledger.open_of(shard) == sum(1 for owner in plan.open.values() if owner == shard)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_read_is_settled_plus_open_and_the_frontier_stands_before_the_first_open_debt(data: st.DataObject) -> None:
    play(data, Ledger)


class _Passing(Ledger):
    """The frontier passes a page that has one open debt."""

    def _advance(self, account: object) -> Mark:
        mark = super()._advance(account)  # type: ignore[arg-type]
        leaves = account.leaves  # type: ignore[attr-defined]
        if leaves and leaves[0][1].open == 1:
            leaf = leaves[0][1]
            return Mark(Position("after", leaf.sequences[-1], leaf.arrivals[-1]), leaf.arrivals[-1])
        return mark


class _Early(Ledger):
    """A joined debt is settled at once."""

    def join(self, original: int, debt: int, outcome: Outcome | None) -> None:
        self.settle((debt,), outcome or Outcome.DELIVERED)


class _Deaf(Ledger):
    """The followers of a debt are forgotten when it is settled."""

    def settle(self, debts: object, outcome: Outcome) -> None:
        self._joined.clear()
        super().settle(debts, outcome)  # type: ignore[arg-type]


class _Timeless(Ledger):
    """An empty page at the tip moves no time."""

    def enter(self, page: Page) -> int:
        return super().enter(Page(page.shard, page.records, page.read_at, page.behind or (0 if page.records else 1), page.ended))


@pytest.mark.parametrize("mutant", [_Passing, _Early, _Deaf, _Timeless])
def test_the_law_catches_a_broken_ledger(mutant: type[Ledger]) -> None:
    @settings(max_examples=3000, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    @given(st.data())
    def law(data: st.DataObject) -> None:
        play(data, mutant)

    with pytest.raises((AssertionError, Imbalance, ExceptionGroup)):
        law()


def _ledger(count: int = 3) -> tuple[Ledger, int]:
    ledger = Ledger({"a": Mark(Position("after", "7", 7.0), 7.5)})
    return ledger, ledger.enter(Page("a", [Record(str(10 + n), b"", 10.0 + n) for n in range(count)], 20.0, 3))


def test_a_debt_is_settled_once() -> None:
    ledger, debt = _ledger()
    ledger.settle([debt, debt + 1], Outcome.DELIVERED)
    with pytest.raises(Imbalance):
        ledger.settle([debt], Outcome.DELIVERED)
    ledger, debt = _ledger()
    with pytest.raises(Imbalance):
        ledger.settle([debt, debt], Outcome.DEAD)


def test_a_debt_that_was_never_entered_cannot_be_settled() -> None:
    ledger, debt = _ledger()
    for unknown in (debt + 3, debt + (1 << 20), 1 << 45):
        with pytest.raises(Imbalance):
            ledger.settle([unknown], Outcome.DELIVERED)


def test_a_debt_of_a_page_that_was_settled_whole_cannot_be_settled_again() -> None:
    ledger, debt = _ledger(1)
    ledger.settle([debt], Outcome.DELIVERED)
    with pytest.raises(Imbalance):
        ledger.settle([debt], Outcome.STALE)


def test_nothing_joins_a_settled_debt() -> None:
    ledger, debt = _ledger()
    ledger.settle([debt], Outcome.DELIVERED)
    with pytest.raises(Imbalance):
        ledger.join(debt, debt + 1, None)


def test_a_run_begins_at_its_marks() -> None:
    ledger, debt = _ledger()
    assert ledger.frontier() == {"a": Mark(Position("after", "7", 7.0), 7.5)}
    ledger.settle([debt], Outcome.DELIVERED)
    assert ledger.frontier()["a"] == Mark(Position("after", "10", 10.0), 10.0)
    assert ledger.progress()[0].start == "7"


def test_a_shard_without_records_that_ends_is_at_its_end() -> None:
    ledger = Ledger()
    ledger.enter(Page("a", [], 5.0, 0, ended=True))
    assert ledger.frontier() == {"a": Mark(END, 5.0)}


def test_the_end_is_not_reached_before_what_is_owed_is_settled() -> None:
    ledger, debt = _ledger()
    ledger.enter(Page("a", [], 30.0, 0, ended=True))
    ledger.settle([debt, debt + 1], Outcome.DELIVERED)
    assert ledger.frontier()["a"] == Mark(Position("after", "11", 11.0), 11.0)
    ledger.settle([debt + 2], Outcome.DELIVERED)
    assert ledger.frontier()["a"] == Mark(END, 30.0)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.data())
def test_a_stretch_settles_as_its_debts_one_by_one(sizes: list[int], data: st.DataObject) -> None:
    """Two ledgers, one told by ranges and the other by lists: the same frontier, sums and refusals, joined debts included."""
    ledgers = Ledger(), Ledger()
    firsts = [
        [ledger.enter(Page("a", [Record(f"{100 * n + k}", b"", float(n)) for k in range(size)])) for n, size in enumerate(sizes)]
        for ledger in ledgers
    ]
    assert firsts[0] == firsts[1]
    for _ in range(data.draw(st.integers(1, 8))):
        n = data.draw(st.integers(0, len(sizes) - 1))
        low = data.draw(st.integers(0, sizes[n] - 1))
        stretch = range(firsts[0][n] + low, firsts[0][n] + data.draw(st.integers(low, sizes[n] + 1)))
        if data.draw(st.booleans()) and stretch and all(ledger.is_open(stretch[0]) for ledger in ledgers):
            follower = data.draw(st.sampled_from([first + k for first, size in zip(firsts[0], sizes, strict=True) for k in range(size)]))
            if ledgers[0].is_open(follower) and follower not in stretch:
                for ledger in ledgers:
                    ledger.join(stretch[0], follower, None)
        raised = []
        for ledger, debts in zip(ledgers, (stretch, list(stretch)), strict=True):
            try:
                ledger.settle(debts, Outcome.DELIVERED)
            except Imbalance as error:
                raised.append(str(error))
        assert len(raised) in (0, 2)
        if raised:
            return
        assert ledgers[0].frontier() == ledgers[1].frontier()
        assert (ledgers[0].settled, ledgers[0].open) == (ledgers[1].settled, ledgers[1].open)
