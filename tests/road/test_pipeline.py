"""One run of the pipeline in virtual time: what it reads it owes, what it cannot take waits, what ends it loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import pytest

from dsqlcdc.contract import Batching, Change, Known, Resume, Setback, Verdict
from dsqlcdc.core.ports import Name
from dsqlcdc.core.route import Route
from dsqlcdc.errors import Misconfigured, Poisoned, Unavailable
from dsqlcdc.stores.fragments import MemoryFragments
from dsqlcdc.testing.memory import MemorySource, RecordingSink
from dsqlcdc.testing.records import chunked, full

from .mortal import DurableFragments
from .rigs import Bench, ids, insert, play, stream_of


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


def test_the_lag_of_every_delivered_change_is_counted_and_grows_while_the_sink_is_away() -> None:
    away = [True]

    async def answer(_: Sequence[Change]) -> Sequence[Setback]:
        if away[0]:
            raise Unavailable("away")
        return ()

    async def work() -> None:
        bench = Bench(stream_of(*map(insert, range(50))))
        pipeline = bench.run(RecordingSink(answer))
        running = asyncio.create_task(pipeline.run(asyncio.Event()))
        await asyncio.sleep(120)
        waiting = pipeline.status()
        assert waiting.open == 50
        assert 115 <= waiting.lag["read_to_sink"].now <= 120
        away[0] = False
        await running
        status = pipeline.status()
        assert status.open == 0
        for leg, spread in status.lag.items():
            assert sum(spread.counts) == status.settled["delivered"] == 50, leg
        assert status.lag["read_to_sink"].last >= 120

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
