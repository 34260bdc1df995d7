"""The commit: frontier, memory, done marks and word are one moment; a store that fails loses none of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from dsqlcdc.contract import Change, Op, Outcome, Table
from dsqlcdc.core.backoff import Backoff
from dsqlcdc.core.commit import Committer
from dsqlcdc.core.ledger import Ledger
from dsqlcdc.core.patience import Patience
from dsqlcdc.core.ports import Commit, Name
from dsqlcdc.core.reassemble import Complete, Reassembler
from dsqlcdc.core.records import Mark, Page, Position, Record
from dsqlcdc.core.sequence import Latest, Sequencer, Unique
from dsqlcdc.core.tables import Tables
from dsqlcdc.core.telemetry import Counts
from dsqlcdc.errors import Misconfigured, Stopped, Unavailable
from dsqlcdc.stores.fragments import MemoryFragments
from dsqlcdc.testing import virtual
from dsqlcdc.testing.records import chunked

NAME = Name("p", "s", "stream")


class Store:
    """Writes down what it is asked, in order, beside the done marks; fails `failures` times first."""

    def __init__(self, remembers: bool = True) -> None:
        self.remembers, self.failures, self.error = remembers, 0, Unavailable("the state file is locked")
        self.said: list[object] = []

    async def commit(self, name: Name, commit: Commit) -> None:
        if self.failures:
            self.failures -= 1
            raise self.error
        self.said.append(commit)

    @property
    def commits(self) -> list[Commit]:
        return [said for said in self.said if isinstance(said, Commit)]


class Parts(MemoryFragments):
    durable = True

    def __init__(self, said: list[object]) -> None:
        super().__init__(["s"])
        self._said = said

    async def done(self, sink: str, rows: Sequence[str]) -> None:
        if rows:
            self._said.append(list(rows))
        await super().done(sink, rows)


class Bench:
    def __init__(self, *, remembers: bool = True, order: type[Unique] | type[Latest] = Unique, deadline: float | None = None) -> None:
        self.store, self.ledger = Store(remembers), Ledger()
        self.sequencer: Sequencer = order(self.ledger, 60.0)
        self.parts = Reassembler("s", Parts(self.store.said), self.ledger, Tables({}))  # type: ignore[arg-type]
        self.committer = Committer(
            NAME,
            self.store,  # type: ignore[arg-type]
            ledger=self.ledger,
            sequencer=self.sequencer,
            reassembler=self.parts,
            marks={},
            word=b"",
            lateness=60.0,
            patience=Patience(Backoff(0.1, 5.0), lambda: 0.5, deadline=deadline),
            counts=Counts(0.0),
            clock=lambda: 0.0,
        )

    def deliver(self, number: int, shard: str = "a") -> None:
        image = msgspec.Raw(b'{"id":%d}' % number)
        change = Change(
            number.to_bytes(16), Op.UPDATE, Table("c", "s", "t"), image, number, "", image, None, b"", shard, str(number), 100.0 + number
        )
        debt = self.ledger.enter(Page(shard, [Record(str(number), b"", 100.0 + number)], behind=1))
        going, owed = self.sequencer.admit([change], [debt])
        self.ledger.settle(owed, Outcome.DELIVERED)
        self.sequencer.settled(going)

    async def assemble(self) -> None:
        """An oversized row of one piece arrives and is delivered."""
        for n, data in enumerate(chunked("c", "app.t", {"id": 1}, 7)):
            record = Record(str(n + 1), data, 100.0)
            debt = self.ledger.enter(Page("a", [record], behind=1))
            part = Tables({}).read("a", record)
            result = await self.parts.take(part, debt)  # type: ignore[arg-type]
            if isinstance(result, Complete):
                going, owed = self.sequencer.admit([result.change], [result.debt])
                self.ledger.settle(owed, Outcome.DELIVERED)
                self.sequencer.settled(going)


def test_a_commit_holds_the_frontier_and_what_was_settled_up_to_it() -> None:
    async def work() -> None:
        bench = Bench()
        bench.deliver(1)
        bench.deliver(2, "b")
        bench.committer.word = b"w"
        await bench.committer.commit()
        (commit,) = bench.store.commits
        assert commit.marks == {"a": Mark(Position("after", "1", 101.0), 101.0), "b": Mark(Position("after", "2", 102.0), 102.0)}
        assert commit.memory is not None
        assert commit.memory.blob == (1).to_bytes(16) + (2).to_bytes(16)
        assert commit.horizon == 41.0
        assert commit.word == b"w"

    virtual.run(work())


def test_nothing_is_stored_where_nothing_has_moved() -> None:
    async def work() -> None:
        bench = Bench()
        await bench.committer.commit()
        bench.deliver(1)
        await bench.committer.commit()
        await bench.committer.commit()
        assert len(bench.store.commits) == 1

    virtual.run(work())


def test_a_store_that_fails_is_asked_again_and_loses_no_memory() -> None:
    async def work() -> None:
        bench = Bench()
        bench.store.failures = 7
        bench.deliver(1)
        committing = asyncio.ensure_future(bench.committer.commit())
        await asyncio.sleep(0.01)
        bench.deliver(2)
        await committing
        await bench.committer.commit()
        one, two = bench.store.commits
        assert one.memory is not None
        assert two.memory is not None
        assert one.memory.blob + two.memory.blob == (1).to_bytes(16) + (2).to_bytes(16)
        assert [commit.marks["a"].position.sequence for commit in (one, two)] == ["1", "2"]

    virtual.run(work())


@pytest.mark.parametrize("how", ["stopped", "refused", "cancelled"])
def test_a_commit_that_ends_badly_is_taken_whole_by_the_next(how: str) -> None:
    async def work() -> None:
        bench = Bench(deadline=30.0)
        bench.store.failures = 1 if how == "refused" else 1000
        bench.store.error = Misconfigured("no") if how == "refused" else Unavailable("later")  # type: ignore[assignment]
        bench.deliver(1)
        bench.committer.word = b"w"
        committing = asyncio.ensure_future(bench.committer.commit())
        if how == "cancelled":
            await asyncio.sleep(1.0)
            committing.cancel()
        with pytest.raises((Stopped, asyncio.CancelledError)):
            await committing
        bench.store.failures = 0
        bench.deliver(2)
        await bench.committer.commit()
        (commit,) = bench.store.commits
        assert commit.memory is not None
        assert commit.memory.blob == (1).to_bytes(16) + (2).to_bytes(16)
        assert commit.word == b"w"
        assert commit.marks["a"].position.sequence == "2"

    virtual.run(work())


@pytest.mark.parametrize("order", [Unique, Latest])
def test_what_a_row_was_is_stored_before_its_done_mark_and_that_before_the_frontier(order: type[Unique] | type[Latest]) -> None:
    async def work() -> None:
        bench = Bench(order=order)
        await bench.assemble()
        await bench.committer.commit()
        memory, rows, frontier = bench.store.said
        assert isinstance(memory, Commit)
        assert isinstance(frontier, Commit)
        assert (memory.memory is not None, dict(memory.marks), memory.word) == (True, {}, None)
        assert rows == ["app.t/7/after"]
        assert (frontier.memory, list(frontier.marks)) == (None, ["a"])

    virtual.run(work())


@pytest.mark.parametrize(("order", "first"), [(Unique, "rows"), (Latest, "frontier")])
def test_where_no_memory_is_stored_an_id_needs_the_done_mark_first_and_a_version_the_frontier(
    order: type[Unique] | type[Latest], first: str
) -> None:
    async def work() -> None:
        bench = Bench(remembers=False, order=order)
        await bench.assemble()
        await bench.committer.commit()
        assert len(bench.store.said) == 2
        assert isinstance(bench.store.said[0], list) == (first == "rows")
        assert all(commit.memory is None for commit in bench.store.commits)

    virtual.run(work())
