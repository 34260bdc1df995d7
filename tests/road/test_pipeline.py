"""One run of the pipeline in virtual time: what it reads it owes, what it cannot take waits, what ends it loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dsqlcdc.contract import Batching, Change, Known, Outcome, Resume, Setback, Verdict
from dsqlcdc.core.backoff import Backoff
from dsqlcdc.core.ledger import Ledger
from dsqlcdc.core.pipeline import Pipeline, Recipe
from dsqlcdc.core.ports import Checkpoint, Name, Part
from dsqlcdc.core.reassemble import Reassembler
from dsqlcdc.core.records import Mark, Page
from dsqlcdc.core.route import Route
from dsqlcdc.core.tables import Rule, Tables
from dsqlcdc.errors import Misconfigured, Poisoned, Stopped, Unavailable
from dsqlcdc.stores.fragments import MemoryFragments, SqliteFragments
from dsqlcdc.stores.memory_checkpoints import MemoryCheckpoints
from dsqlcdc.stores.sqlite_checkpoints import SqliteCheckpoints
from dsqlcdc.testing import virtual
from dsqlcdc.testing.memory import MemorySource, MemoryStream, RecordingSink
from dsqlcdc.testing.records import chunked, full

from .mortal import DurableFragments, Letters, RememberingCheckpoints

RULES = {"app.*": Rule(key=("id",))}


def insert(number: int, **more: Any) -> bytes:
    return full("c", "app.t", {"id": number, **more}, number + 1)


def stream_of(*records: bytes, shards: int = 2) -> MemoryStream:
    stream = MemoryStream(shards=shards)
    names = list(stream.shards)
    for n, record in enumerate(records):
        stream.put(names[n % shards], record)
    return stream


class Bench:
    """A pipeline over a stream in memory; `again` gives the next run over the same stores."""

    def __init__(self, stream: MemoryStream, **more: Any) -> None:
        self.stream, self.letters = stream, Letters()
        self.checkpoints: Any = more.pop("checkpoints", RememberingCheckpoints())
        self.fragments: Any = more.pop("fragments", DurableFragments(["s"]))
        self.more = more

    def run(self, sink: Any, **more: Any) -> Pipeline:
        settings: dict[str, Any] = {
            "source": MemorySource(self.stream),
            "tables": Tables(RULES),
            "backoff": Backoff(0.1, 1.0),
            **self.more,
            **more,
        }
        return Pipeline(
            Recipe(
                name=Name("p", "s", self.stream.name),
                sink=sink,
                checkpoints=self.checkpoints,
                dead_letters=self.letters,
                fragments=self.fragments,
                clock=lambda: self.stream.now,
                random=lambda: 0.5,
                **settings,
            )
        )


def play(work: Coroutine[Any, Any, None]) -> None:
    virtual.run(work)


def ids(sink: RecordingSink) -> list[int]:
    return sorted((change.key or change.row or {})["id"] for change in sink.written)


def test_a_run_to_the_end_delivers_all_and_a_second_one_nothing() -> None:
    async def work() -> None:
        bench = Bench(stream_of(*map(insert, range(50))))
        sink, again = RecordingSink(), RecordingSink()
        first, second = bench.run(sink), bench.run(again)
        await first.run(asyncio.Event())
        bench.checkpoints._held.clear()
        await second.run(asyncio.Event())
        assert ids(sink) == list(range(50))
        assert not again.written
        assert (first.status().read, first.status().settled["delivered"], first.status().open) == (50, 50, 0)
        assert second.status().read == 0
        assert first.state == second.state == "done"

    play(work())


def test_every_outcome_is_counted_and_the_sum_is_what_was_read() -> None:
    async def judge(changes: Sequence[Change]) -> Sequence[Setback]:
        verdicts = {3: Verdict.STALE, 4: Verdict.DUPLICATE, 5: Verdict.DEAD}
        return [Setback(n, verdicts[c.version - 1], "why") for n, c in enumerate(changes) if c.version - 1 in verdicts]

    async def work() -> None:
        records = [*map(insert, range(6)), insert(1), b"not a record", full("c", "other.t", {"id": 1}, 9)]
        records += chunked("c", "app.t", {"id": 77}, 99, size=5)[:-1]
        records += [full("d", "app.t", None, 100, before={"id": 8})]
        bench = Bench(stream_of(*records), route=Route(tables=("app.*",), ops=("insert",)))
        sink = RecordingSink(judge)
        pipeline = bench.run(sink)
        await pipeline.run(asyncio.Event())
        status = pipeline.status()
        assert status.settled == {"delivered": 3, "stale": 1, "duplicate": 2, "unrouted": 2, "parked": 2, "dead": 2}
        assert status.read == sum(status.settled.values()) == len(records)
        assert sorted(letter.code for letter in bench.letters.kept.values()) == ["unreadable", "why"]
        assert {letter.code: letter.sink for letter in bench.letters.kept.values()} == {"unreadable": "", "why": "s"}
        assert [letter.raw for letter in bench.letters.kept.values() if letter.code == "unreadable"] == [b"not a record"]

    play(work())


def test_a_sink_that_needs_keys_gets_none_without_and_others_do() -> None:
    async def work() -> None:
        records = [insert(1), full("c", "keyless.t", {"x": 1}, 5), full("d", "keyless.t", None, 6)]
        for needs, written, dead in ((True, 1, 2), (False, 3, 0)):
            bench, sink = Bench(stream_of(*records)), RecordingSink()
            sink.needs_key = needs  # type: ignore[misc]
            pipeline = bench.run(sink)
            await pipeline.run(asyncio.Event())
            assert (len(sink.written), pipeline.status().settled["dead"]) == (written, dead)
            assert {letter.code for letter in bench.letters.kept.values()} == ({"no_key"} if needs else set())

    play(work())


def test_incomplete_rows_never_stop_the_intake_however_small_the_room() -> None:
    async def slow(changes: Sequence[Change]) -> Sequence[Setback]:
        await asyncio.sleep(3.0)
        return ()

    async def work() -> None:
        heads, tails = [], []
        for n in range(20):
            main, *pieces = chunked("c", "app.t", {"id": n, "text": "x" * 3000}, n + 1, size=1000)
            heads += [main, *pieces[:-1]]
            tails.append(pieces[-1])
        for fragments in (DurableFragments(["s"]), MemoryFragments(["s"])):
            bench = Bench(stream_of(*heads, *map(insert, range(100, 150)), *tails), room=1000, fragments=fragments)
            most = 0
            sink = RecordingSink(slow, batching=Batching(age=1e6))
            pipeline = bench.run(sink)
            running = asyncio.ensure_future(pipeline.run(asyncio.Event()))
            while not running.done():
                await asyncio.sleep(0.5)
                most = max(most, pipeline.status().in_flight_bytes)
            await running
            assert ids(sink) == [*range(20), *range(100, 150)]
            assert most < 1000 + 10 * 5000  # one page beyond the room

    play(work())


def test_a_sink_that_is_down_fills_the_room_and_no_more_is_read() -> None:
    async def down(changes: Sequence[Change]) -> Sequence[Setback]:
        if asyncio.get_running_loop().time() < 3600:
            raise Unavailable("the destination cannot be reached")
        return ()

    async def work() -> None:
        bench = Bench(stream_of(*(insert(n, text="x" * 2000) for n in range(500))), room=50_000)
        sink = RecordingSink(down)
        pipeline = bench.run(sink)
        running = asyncio.ensure_future(pipeline.run(asyncio.Event()))
        await asyncio.sleep(3000)
        assert pipeline.status().read < 60
        assert pipeline.status().settled["delivered"] == 0
        await running
        assert ids(sink) == list(range(500))
        assert not bench.letters.kept

    play(work())


def test_a_stop_drains_what_was_read_and_the_next_run_goes_on_behind_it() -> None:
    async def slow(changes: Sequence[Change]) -> Sequence[Setback]:
        await asyncio.sleep(5.0)
        return ()

    async def work() -> None:
        bench = Bench(stream_of(*map(insert, range(30))))
        sink, stop = RecordingSink(slow, batching=Batching(records=10, age=0.0)), asyncio.Event()
        pipeline = bench.run(sink, source=MemorySource(bench.stream, follow=True))
        running = asyncio.ensure_future(pipeline.run(stop))
        await asyncio.sleep(1.0)
        stop.set()
        await running
        status = pipeline.status()
        assert (status.open, status.state) == (0, "done")
        assert len(sink.written) == status.read
        bench.checkpoints._held.clear()
        rest = RecordingSink()
        await bench.run(rest).run(asyncio.Event())
        assert sorted(ids(sink) + ids(rest)) == list(range(30))

    play(work())


def test_a_stop_waits_no_longer_than_the_drain_and_what_is_owed_is_read_again() -> None:
    async def stuck(changes: Sequence[Change]) -> Sequence[Setback]:
        await asyncio.sleep(1e9)
        return ()

    async def work() -> None:
        bench, stop = Bench(stream_of(*map(insert, range(30))), drain=30.0), asyncio.Event()
        pipeline = bench.run(RecordingSink(stuck))
        running = asyncio.ensure_future(pipeline.run(stop))
        await asyncio.sleep(10.0)
        stop.set()
        await running
        assert asyncio.get_running_loop().time() == pytest.approx(40.0)
        assert pipeline.status().open == pipeline.status().read == 30
        bench.checkpoints._held.clear()
        rest = RecordingSink()
        await bench.run(rest).run(asyncio.Event())
        assert ids(rest) == list(range(30))

    play(work())


def test_a_stop_ends_a_run_whose_sink_cannot_be_asked_yet() -> None:
    class Down(RecordingSink):
        async def resume(self, resume: Resume) -> Iterable[Known]:
            raise Unavailable("the destination cannot be reached")

    async def work() -> None:
        bench, stop = Bench(stream_of(insert(1))), asyncio.Event()
        running = asyncio.ensure_future(bench.run(Down()).run(stop))
        await asyncio.sleep(100.0)
        stop.set()
        await running
        assert asyncio.get_running_loop().time() == pytest.approx(100.0)

    play(work())


def test_a_cancelled_run_commits_what_was_settled() -> None:
    async def third(changes: Sequence[Change]) -> Sequence[Setback]:
        if any(c.version > 10 for c in changes):
            await asyncio.sleep(1e9)
        return ()

    async def work() -> None:
        bench = Bench(stream_of(*map(insert, range(30)), shards=1), commit_every=1e6)
        sink = RecordingSink(third, batching=Batching(records=5, age=0.0))
        running = asyncio.ensure_future(bench.run(sink).run(asyncio.Event()))
        await asyncio.sleep(10.0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        bench.checkpoints._held.clear()
        rest = RecordingSink()
        await bench.run(rest).run(asyncio.Event())
        assert sorted(ids(sink) + ids(rest)) == list(range(30))

    play(work())


@pytest.mark.parametrize(("error", "kind"), [(Misconfigured("access denied"), Misconfigured), (RuntimeError("a bug"), RuntimeError)])
def test_an_error_of_the_sink_ends_the_run_as_itself_with_what_was_settled_committed(error: Exception, kind: type[Exception]) -> None:
    async def broken(changes: Sequence[Change]) -> Sequence[Setback]:
        if any(c.version > 10 for c in changes):
            raise error
        return ()

    async def work() -> None:
        bench = Bench(stream_of(*map(insert, range(30)), shards=1))
        sink = RecordingSink(broken, batching=Batching(records=5, age=0.0))
        pipeline = bench.run(sink)
        with pytest.raises(kind) as caught:
            await pipeline.run(asyncio.Event())
        assert caught.value is error
        assert pipeline.state == "stopped"
        assert pipeline.fault is error
        bench.checkpoints._held.clear()
        rest = RecordingSink()
        await bench.run(rest).run(asyncio.Event())
        assert sorted(ids(sink) + ids(rest)) == list(range(30))

    play(work())


def test_a_destination_that_refuses_everything_stops_the_run() -> None:
    async def dead(changes: Sequence[Change]) -> Sequence[Setback]:
        return [Setback(n, Verdict.DEAD, "mapping") for n in range(len(changes))]

    async def work() -> None:
        bench = Bench(stream_of(*map(insert, range(500))))
        pipeline = bench.run(RecordingSink(dead))
        with pytest.raises(Poisoned):
            await pipeline.run(asyncio.Event())
        assert len(bench.letters.kept) == pipeline.status().settled["dead"] <= 50

    play(work())


def test_the_sinks_word_is_durable_before_its_first_write() -> None:
    bench = Bench(stream_of(insert(1)))

    class Worded(RecordingSink):
        async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
            stored = await bench.checkpoints.load(Name("p", "s", bench.stream.name))
            assert stored is not None
            assert stored.word == b"epoch 1"
            return await super().write(changes)

        def word(self) -> bytes:
            return b"epoch 1"

    play(bench.run(Worded()).run(asyncio.Event()))


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

    def read(self, shard: str, record: Any) -> Any:
        self.reads += 1
        return super().read(shard, record)


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
