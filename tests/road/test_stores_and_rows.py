"""What outlives a run: rows in pieces, stores, what several pipelines share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dsqlcdc.contract import Batching, Change, Outcome, Setback
from dsqlcdc.core.ledger import Ledger
from dsqlcdc.core.pipeline import Pipeline, Recipe
from dsqlcdc.core.ports import Checkpoint, Name, Part
from dsqlcdc.core.reassemble import Reassembler
from dsqlcdc.core.records import Mark, Page
from dsqlcdc.core.tables import Tables
from dsqlcdc.errors import Stopped
from dsqlcdc.stores.fragments import MemoryFragments, SqliteFragments
from dsqlcdc.stores.memory_checkpoints import MemoryCheckpoints
from dsqlcdc.stores.sqlite_checkpoints import SqliteCheckpoints
from dsqlcdc.testing.memory import MemorySource, RecordingSink
from dsqlcdc.testing.records import chunked

from .mortal import DurableFragments, Letters, RememberingCheckpoints
from .rigs import RULES, Bench, ids, insert, play, stream_of


def test_a_row_that_stays_incomplete_becomes_dead_letters_and_a_gap_and_is_completed_all_the_same() -> None:
    async def work() -> None:
        main, *pieces = chunked("c", "app.t", {"id": 1, "text": "x" * 40}, 5, size=20)
        bench, stop = Bench(stream_of(main, *pieces[:-1]), max_age=60.0), asyncio.Event()
        sink = RecordingSink()
        pipeline = bench.run(sink, source=MemorySource(bench.stream, follow=True))
        running = asyncio.ensure_future(pipeline.run(stop))
        for _ in range(100):
            bench.stream.now += 1.0
            await asyncio.sleep(1.0)
        assert {letter.code for letter in bench.letters.kept.values()} == {"incomplete"}
        assert len(bench.letters.kept) == len(pieces)
        (gap,) = await bench.checkpoints.gaps("p")
        assert (gap.kind, pipeline.status().gaps) == ("incomplete", 1)
        bench.stream.put(next(iter(bench.stream.shards)), pieces[-1])
        await asyncio.sleep(5.0)
        stop.set()
        await running
        assert ids(sink) == [1]
        assert pipeline.status().open == 0

    play(work())


@pytest.mark.parametrize("held", [True, False])
def test_no_row_is_declared_incomplete_while_its_pieces_may_be_held_back(held: bool) -> None:
    """And when that is over its age begins anew. The control: where nothing is held back it is declared in time."""

    async def work() -> None:
        main, *pieces = chunked("c", "app.t", {"id": 1, "text": "x" * 40}, 5, size=20)
        bench, stop = Bench(stream_of(main, *pieces[:-1]), max_age=60.0), asyncio.Event()
        since = float("inf") if held else 0.0
        pipeline = bench.run(RecordingSink(), source=MemorySource(bench.stream, follow=True), complete_since=lambda: since)
        running = asyncio.ensure_future(pipeline.run(stop))

        async def after(seconds: int) -> int:
            for _ in range(seconds):
                bench.stream.now += 1.0
                await asyncio.sleep(1.0)
            return len(bench.letters.kept)

        assert await after(600) == (0 if held else len(pieces))
        since = bench.stream.now
        assert await after(50) == (0 if held else len(pieces))
        assert await after(30) == len(pieces)
        stop.set()
        await running

    play(work())


def test_a_checkpoint_stays_before_parts_that_are_held_in_memory() -> None:
    async def work() -> None:
        main, *pieces = chunked("c", "app.t", {"id": 1, "text": "x" * 40}, 5, size=20)
        bench = Bench(stream_of(insert(7), main, *pieces[:-1], insert(8), shards=1), fragments=MemoryFragments(["s"]))
        pipeline = bench.run(RecordingSink())
        await pipeline.run(asyncio.Event())
        assert pipeline.status().open == len(pieces)
        stored = await bench.checkpoints.load(Name("p", "s", bench.stream.name))
        assert stored is not None
        first = bench.stream.shards["shardId-000000000000"].records[0]
        assert stored.marks["shardId-000000000000"].position.sequence == first.sequence_number
        bench.stream.put("shardId-000000000000", pieces[-1])
        bench.checkpoints._held.clear()
        bench.fragments = MemoryFragments(["s"])
        sink = RecordingSink()
        await bench.run(sink).run(asyncio.Event())
        assert ids(sink) == [1]  # 7 and 8 are remembered

    play(work())


class SharedSource:
    """The same pages, records and all, for every pipeline of a process."""

    whole = True

    def __init__(self, stream: str, pages: list[Page]) -> None:
        self.stream, self._pages = stream, pages

    async def start(self, checkpoint: Checkpoint | None, *, warm_up: float | None) -> Mapping[str, Mark]:
        return {}

    async def pages(self) -> AsyncIterator[Page]:
        for page in self._pages:
            await asyncio.sleep(0)
            yield page

    def lineage(self) -> Mapping[str, Sequence[str]]:
        return {}

    def forgettable(self) -> Sequence[str]:
        return ()

    def oldest_readable(self) -> float:
        return 0.0

    def slowest(self) -> float:
        return 0.0

    async def close(self) -> None:
        return None


class CountingTables(Tables):
    def __init__(self) -> None:
        super().__init__(RULES)
        self.reads = 0

    def read_all(self, shard: str, records: Any) -> Any:
        self.reads += sum(record.parsed is None for record in records)
        return super().read_all(shard, records)


def test_two_pipelines_over_the_same_records_share_the_parse() -> None:
    async def work() -> None:
        stream = stream_of(*map(insert, range(40)), *chunked("c", "app.t", {"id": 99, "text": "x" * 90}, 500, size=30), b"bad")
        pages = [Page(shard.name, shard.records, stream.now) for shard in stream.shards.values()]
        tables, sinks, checkpoints = CountingTables(), [RecordingSink(), RecordingSink()], MemoryCheckpoints()
        fragments = DurableFragments(["one", "two"])
        pipelines = [
            Pipeline(
                Recipe(
                    name=Name("p", name, stream.name),
                    source=SharedSource(stream.name, pages),
                    sink=sink,
                    tables=tables,
                    checkpoints=checkpoints,
                    dead_letters=Letters(),
                    fragments=fragments,
                    clock=lambda: stream.now,
                    random=lambda: 0.5,
                )
            )
            for name, sink in zip(("one", "two"), sinks, strict=True)
        ]
        await asyncio.gather(*(pipeline.run(asyncio.Event()) for pipeline in pipelines))
        assert ids(sinks[0]) == ids(sinks[1]) == [*range(40), 99]
        assert tables.reads == sum(len(page.records) for page in pages)
        assert all(p.status().open == 0 and p.status().settled["dead"] == 1 for p in pipelines)
        assert await fragments.waiting() == (0, 0)

    play(work())


def test_a_sink_that_stops_does_not_hold_up_another_over_the_same_stores() -> None:
    async def broken(changes: Sequence[Change]) -> Sequence[Setback]:
        raise Stopped("no more")

    async def work() -> None:
        stream = stream_of(*map(insert, range(40)), *chunked("c", "app.t", {"id": 99, "text": "x" * 90}, 500, size=30))
        checkpoints, fragments = RememberingCheckpoints(), DurableFragments(["one", "two"])
        one, two = RecordingSink(broken), RecordingSink()

        def run(name: str, sink: RecordingSink) -> Coroutine[Any, Any, None]:
            bench = Bench(stream, checkpoints=checkpoints, fragments=fragments)
            recipe = bench.run(sink)._recipe
            import msgspec

            return Pipeline(msgspec.structs.replace(recipe, name=Name("p", name, stream.name))).run(asyncio.Event())

        results = await asyncio.gather(run("one", one), run("two", two), return_exceptions=True)
        assert isinstance(results[0], Stopped)
        assert results[1] is None
        assert ids(two) == [*range(40), 99]
        checkpoints._held.clear()
        mended = RecordingSink()
        await run("one", mended)
        assert ids(mended) == [*range(40), 99]

    play(work())


@pytest.mark.parametrize("kills", [range(1, 60, 7)])
def test_with_sqlite_stores_the_next_process_goes_on_where_the_last_was_killed(tmp_path: Path, kills: Sequence[int]) -> None:
    async def work() -> None:
        records = [insert(n) for n in range(60)]
        for n in range(100, 104):
            records += chunked("c", "app.t", {"id": n, "text": "x" * 100}, n + 1, size=40)
        records += records[10:20]
        stream = stream_of(*records, shards=3)
        written: list[int] = []
        for life, after in enumerate([*kills, 10**9]):
            state = SqliteCheckpoints(tmp_path / "state.db")
            parts = SqliteFragments(tmp_path / "fragments.db", ["s"])
            bench = Bench(stream, checkpoints=state, fragments=parts, commit_every=0.05)

            async def write(changes: Sequence[Change], after: int = after) -> Sequence[Setback]:
                await asyncio.sleep(0.02)
                if len(written) >= after:
                    raise Stopped("killed")
                written.extend((c.key or {})["id"] for c in changes)
                return ()

            sink = RecordingSink(write, batching=Batching(records=4, age=0.0))
            try:
                await bench.run(sink, source=MemorySource(stream, seed=life, page=5)).run(asyncio.Event())
            except Stopped:
                assert after < 10**9
            finally:
                await state.close()
                await parts.close()
        assert sorted(written) == [*range(60), *range(100, 104)]

    play(work())


class _Hasty(Ledger):
    """A duplicate is settled at once, before its original."""

    def join(self, original: int, debt: int, outcome: Outcome | None) -> None:
        self.settle((debt,), outcome or Outcome.PARKED)


@pytest.mark.parametrize(("ledger", "lost"), [(Ledger, False), (_Hasty, True)])
def test_a_duplicate_that_is_settled_before_its_original_would_lose_it(
    ledger: type[Ledger], lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stuck(changes: Sequence[Change]) -> Sequence[Setback]:
        await asyncio.sleep(1e9)
        return ()

    async def work() -> None:
        monkeypatch.setattr("dsqlcdc.core.pipeline.Ledger", ledger)
        bench = Bench(stream_of(insert(1), insert(1)), checkpoints=MemoryCheckpoints())
        running = asyncio.ensure_future(bench.run(RecordingSink(stuck)).run(asyncio.Event()))
        await asyncio.sleep(10.0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        bench.checkpoints._held.clear()
        sink = RecordingSink()
        await bench.run(sink).run(asyncio.Event())
        assert ids(sink) == ([] if lost else [1])

    play(work())


class _Forgetful(Reassembler):
    """Does not know what was read again."""

    def remember(self, part: Part) -> Change | None:
        return None


@pytest.mark.parametrize(("reassembler", "owed"), [(Reassembler, 0), (_Forgetful, 1)])
def test_a_row_held_in_memory_that_lies_on_both_sides_of_the_frontiers_is_done_after_a_restart(
    reassembler: type[Reassembler], owed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def seven_is_stuck(changes: Sequence[Change]) -> Sequence[Setback]:
        if any(c.key == {"id": 7} for c in changes):
            await asyncio.sleep(1e9)
        return ()

    async def work() -> None:
        monkeypatch.setattr("dsqlcdc.core.pipeline.Reassembler", reassembler)
        main, piece = chunked("c", "app.t", {"id": 1}, 5)
        stream = stream_of(insert(7), main)
        stream.put(next(iter(stream.shards)), piece)  # behind 7, which stays open
        bench = Bench(stream, fragments=MemoryFragments(["s"]))
        sink = RecordingSink(seven_is_stuck, batching=Batching(records=1, age=0.0), lanes=2)
        running = asyncio.ensure_future(bench.run(sink).run(asyncio.Event()))
        await asyncio.sleep(10.0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert ids(sink) == [1]
        bench.checkpoints._held.clear()
        bench.fragments, rest = MemoryFragments(["s"]), RecordingSink()
        pipeline = bench.run(rest)
        await pipeline.run(asyncio.Event())
        assert ids(rest) == [7]
        assert pipeline.status().open == owed

    play(work())
