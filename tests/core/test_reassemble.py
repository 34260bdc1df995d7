"""Reassembly: any interleaving of parts, repeats, sinks and crashes gives each row to each sink once, and loses none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from dsqlcdc.contract import Outcome
from dsqlcdc.core.ledger import Imbalance, Ledger
from dsqlcdc.core.ports import FragmentStore, Part
from dsqlcdc.core.reassemble import Complete, Reassembler, Refused
from dsqlcdc.core.records import Page, Record
from dsqlcdc.core.tables import Rule, Tables
from dsqlcdc.errors import Unavailable
from dsqlcdc.stores.fragments import MemoryFragments
from dsqlcdc.testing.records import chunked

TABLES = Tables({"*": Rule(key=("id",))})
SHARDS = ("a", "b", "c")
SINKS = ("one", "two")


class Durable(MemoryFragments):
    """Kept from run to run."""

    durable = True


def row(number: int, *, both: bool = False, size: int = 12) -> list[bytes]:
    before = {"id": number, "old": "o" * 20} if both else None
    return chunked("u", "app.t", {"id": number, "text": f"row {number}"}, number, before=before, size=size)


class Reader:
    """One sink's run: reads shards from its frontier on, settles what it was given when told to, commits, crashes."""

    def __init__(self, sink: str, stream: dict[str, list[Record]], store: FragmentStore, kind: type[Reassembler]) -> None:
        self.sink, self.stream, self.kind = sink, stream, kind
        self.at = dict.fromkeys(SHARDS, 0)
        self.sure: set[int] = set()
        self.begin(store)

    def begin(self, store: FragmentStore) -> None:
        self.ledger = Ledger()
        self.parts = self.kind(self.sink, store, self.ledger, TABLES)
        self.offered: dict[int, int] = {}
        self.settled: set[int] = set()
        self.durable, self.passed = store.durable, set[int]()
        self.read_to = dict(self.at)
        for shard, count in self.at.items():
            for record in self.stream[shard][:count]:
                part = TABLES.read(shard, record)
                assert isinstance(part, Part)
                change = self.parts.remember(part)
                self.passed.add(int(part.chunk_id.split("/")[1]))
                assert change is None or change.version in self.sure, "a row was remembered that was never settled"

    async def read(self, shard: str, count: int) -> bool:
        start = self.read_to[shard]
        records = self.stream[shard][start : start + count]
        if not records:
            return False
        self.read_to[shard] += len(records)
        debt = self.ledger.enter(Page(shard, records))
        for n, record in enumerate(records):
            part = TABLES.read(shard, record)
            assert isinstance(part, Part)
            result = await self.parts.take(part, debt + n)
            assert not isinstance(result, Refused)
            if isinstance(result, Complete):
                self._offer(result)
        return True

    def _offer(self, complete: Complete) -> None:
        version = complete.change.version
        if complete.known:
            assert version in self.sure
            self.ledger.settle((complete.debt,), Outcome.DUPLICATE)
            return
        # Held in memory and no part of it passed: it is read again whole, and the sequencer knows it.
        assert version not in self.sure or not (self.durable or version in self.passed), f"{self.sink}: row {version} again"
        assert version not in {*self.offered, *self.settled}, f"{self.sink} was given row {version} twice in one run"
        assert complete.change.row == {"id": version, "text": f"row {version}"}
        self.offered[version] = complete.debt

    def settle(self, version: int) -> None:
        self.ledger.settle((self.offered.pop(version),), Outcome.DELIVERED)
        self.settled.add(version)

    async def commit(self) -> None:
        self.ledger.check()
        rows, frontier = self.parts.finished(), self.ledger.frontier()
        await self.parts.done(rows)
        for shard, mark in frontier.items():
            if shard in self.stream and mark.position.kind == "after":
                known = [record.sequence_number for record in self.stream[shard]]
                self.at[shard] = known.index(mark.position.sequence) + 1
        self.sure |= self.settled


async def play(data: st.DataObject, durable: bool, kind: type[Reassembler] = Reassembler) -> None:
    shapes = data.draw(st.lists(st.tuples(st.booleans(), st.sampled_from((8, 30))), min_size=1, max_size=3), "both, size")
    rows = [row(n, both=both, size=size) for n, (both, size) in enumerate(shapes, 1)]
    records = [record for parts in rows for record in parts]
    records += data.draw(st.lists(st.sampled_from(records), max_size=6), "repeats")
    stream: dict[str, list[Record]] = {shard: [] for shard in SHARDS}
    for n, record in enumerate(data.draw(st.permutations(records), "order")):
        stream[data.draw(st.sampled_from(SHARDS), "shard")].append(Record(str(n + 1), record, float(n)))

    def store() -> FragmentStore:
        return Durable(SINKS) if durable else MemoryFragments(SINKS)

    shared = store()
    readers = [Reader(sink, stream, shared, kind) for sink in SINKS]
    for _ in range(data.draw(st.integers(0, 30), "steps")):
        reader = data.draw(st.sampled_from(readers), "who")
        step = data.draw(st.sampled_from(("read", "read", "settle", "commit", "crash")), "step")
        if step == "read":
            await reader.read(data.draw(st.sampled_from(SHARDS)), data.draw(st.integers(1, 4)))
        elif step == "settle" and reader.offered:
            reader.settle(data.draw(st.sampled_from(sorted(reader.offered))))
        elif step == "commit":
            await reader.commit()
        elif step == "crash":  # of the process: all sinks, and what is in memory
            shared = shared if durable else store()
            for one in readers:
                one.begin(shared)
    for reader in readers:
        for shard in SHARDS:
            while await reader.read(shard, 100):
                pass
        for version in list(reader.offered):
            reader.settle(version)
        await reader.commit()
        assert reader.ledger.open == 0, f"{reader.sink}: {reader.ledger.open} parts wait though every row is complete"
        assert reader.sure == set(range(1, len(rows) + 1)), f"{reader.sink} lost rows"
    assert not durable or await shared.waiting() == (0, 0)


@pytest.mark.parametrize("durable", [True, False])
def test_each_row_reaches_each_sink_once_over_any_interleaving_and_crash(durable: bool) -> None:
    @settings(max_examples=100, deadline=None)
    @given(st.data())
    def law(data: st.DataObject) -> None:
        asyncio.run(play(data, durable))

    law()


class _Early(Reassembler):
    """The carrier is settled at once, before its row."""

    async def take(self, part: Part, debt: int) -> Complete | Refused | None:
        result = await super().take(part, debt)
        if isinstance(result, Complete):
            self._ledger.settle((debt,), Outcome.PARKED)
            twin = self._ledger.enter(Page("twin", [Record("1", b"")]))
            return Complete(result.change, twin)
        return result


class _Solo(Reassembler):
    """A repeated part is given as a row of its own while the row is under way."""

    async def take(self, part: Part, debt: int) -> Complete | Refused | None:
        self._carriers.clear()
        return await super().take(part, debt)


class _Unmarked(Reassembler):
    """Marks nothing done."""

    async def done(self, rows: Sequence[str]) -> None:
        return None


@pytest.mark.parametrize(("mutant", "durable"), [(_Early, True), (_Solo, True), (_Unmarked, True)])
def test_the_law_catches_a_broken_reassembler(mutant: type[Reassembler], durable: bool) -> None:
    @settings(max_examples=4000, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    @given(st.data())
    def law(data: st.DataObject) -> None:
        asyncio.run(play(data, durable, mutant))

    with pytest.raises((AssertionError, Imbalance, ExceptionGroup)):
        law()


class Bench:
    """One sink, one store, records one by one."""

    def __init__(self, *, durable: bool = True, max_bytes: int = 1 << 30) -> None:
        self.store: Any = (Durable if durable else MemoryFragments)(["one"], max_bytes)
        self.ledger = Ledger()
        self.parts = Reassembler("one", self.store, self.ledger, TABLES)
        self.clock = 0.0

    async def give(self, *records: bytes) -> list[Complete | Refused | None]:
        results = []
        for data in records:
            self.clock += 1.0
            record = Record(str(int(self.clock)), data, self.clock)
            debt = self.ledger.enter(Page("a", [record]))
            part = TABLES.read("a", record)
            assert isinstance(part, Part)
            results.append(await self.parts.take(part, debt))
        return results


@pytest.mark.parametrize("durable", [True, False])
async def test_a_piece_that_comes_after_the_verdict_still_completes_its_row(durable: bool) -> None:
    bench, records = Bench(durable=durable), row(1)
    await bench.give(*records[:-1])
    assert not await bench.parts.overdue(1.0)
    late = await bench.parts.overdue(bench.clock + 1)
    assert len(late) == len(records) - 1
    await bench.parts.give_up(late)
    assert bench.ledger.open == 0
    assert bench.ledger.settled["parked" if durable else "dead"] == len(late)
    assert not await bench.parts.overdue(bench.clock + 1)
    (result,) = await bench.give(records[-1])
    assert isinstance(result, Complete)
    assert result.change.row == {"id": 1, "text": "row 1"}


@pytest.mark.parametrize("durable", [True, False])
async def test_beyond_the_stores_bytes_the_oldest_row_is_overdue_at_any_age(durable: bool) -> None:
    bench = Bench(durable=durable, max_bytes=600)
    one, two = row(1), row(2)
    await bench.give(*one[:-1], *two[:-1])
    late = await bench.parts.overdue(-1.0)
    assert {part.chunk_id for part in late} == {"app.t/1/after"}


async def test_a_checksum_that_does_not_match_refuses_all_parts_and_the_carrier_answers() -> None:
    bench, records = Bench(), row(1)
    wrong = records[-1].replace(b"w 1", b"w 2")
    assert wrong != records[-1]
    *_, result = await bench.give(*records[:-1], wrong)
    assert isinstance(result, Refused)
    assert result.bad.code == "checksum"
    assert len(result.parts) == len(records)
    assert bench.ledger.open == 1
    bench.ledger.settle((result.debt,), Outcome.DEAD)
    assert bench.parts.finished() == ["app.t/1/after"]


async def test_a_piece_beyond_its_total_is_refused_alone_and_the_row_goes_on() -> None:
    bench, records = Bench(), row(1)
    total = len(records) - 1
    stray = records[1].replace(b'"index":0', b'"index":%d' % total)
    main, refused = await bench.give(records[0], stray)
    assert main is None
    assert isinstance(refused, Refused)
    assert [part.index for part in refused.parts] == [total]
    *_, result = await bench.give(*records[1:])
    assert isinstance(result, Complete)


async def test_a_main_record_that_contradicts_another_is_refused() -> None:
    bench, records = Bench(), row(1)
    total = len(records) - 1
    other = records[0].replace(b'"total_fragments":%d' % total, b'"total_fragments":%d' % (total + 1))
    _, refused = await bench.give(records[0], other)
    assert isinstance(refused, Refused)
    assert refused.bad.code == "contradiction"


async def test_a_piece_that_comes_again_while_its_row_is_under_way_waits_for_it_and_later_is_a_duplicate() -> None:
    bench, records = Bench(), row(1)
    *_, complete, again = await bench.give(*records, records[1])
    assert isinstance(complete, Complete)
    assert again is None
    assert bench.ledger.open == 2
    bench.ledger.settle((complete.debt,), Outcome.DELIVERED)
    assert bench.ledger.open == 0
    await bench.give(records[2])  # settled, not yet marked done
    assert bench.ledger.open == 0
    await bench.parts.done(bench.parts.finished())
    await bench.give(records[0], records[1])
    assert bench.ledger.open == 0
    assert bench.ledger.settled["duplicate"] == 4


async def test_a_row_is_owed_where_its_carrier_is() -> None:
    bench, records = Bench(), row(1)
    *_, complete = await bench.give(*records)
    assert isinstance(complete, Complete)
    assert complete.change.sequence == str(len(records))
    assert complete.change.arrived == float(len(records))
    assert complete.change.raw == records[0]


async def test_a_store_that_cannot_be_asked_changes_nothing() -> None:
    bench, records = Bench(), row(1)
    await bench.give(*records[:-1])
    real, calls = bench.store.row, 0

    async def failing(name: str) -> Sequence[Part]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise Unavailable("the store is locked")
        return await real(name)

    bench.store.row = failing
    with pytest.raises(Unavailable):
        await bench.give(records[-1])
    assert not bench.parts.finished()
    part = TABLES.read("a", Record("9", records[-1], 9.0))
    assert isinstance(part, Part)
    (debt,) = [n << 20 for n in range(20) if bench.ledger.is_open(n << 20)]
    assert isinstance(await bench.parts.take(part, debt), Complete)


async def test_remembering_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsqlcdc.core.reassemble._AGAIN_BYTES", 2000)
    bench = Bench()
    for n in range(100):
        for record in row(n)[1:]:
            part = TABLES.read("a", Record(str(n + 1), record, 1.0))
            assert isinstance(part, Part)
            assert bench.parts.remember(part) is None
    assert sum(len(p.raw) for parts in bench.parts._again.values() for p in parts.values()) <= 2000
