"""Order commit, on the whole road: held back until all shards were read past a change, released in commit order, late ones marked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from dsqlcdc.contract import Batching, Change, Setback, Verdict
from dsqlcdc.core.tables import Rule, Tables
from dsqlcdc.errors import Misconfigured
from dsqlcdc.stores.spill import FileSpill
from dsqlcdc.testing.memory import MemorySource, MemoryStream, RecordingSink
from dsqlcdc.testing.records import chunked, full

from ..sinks.s3.lake import Bucket, FakeObjects, make_sink, text_of
from .rigs import Bench, play

START = 1_700_000_000.0
HOLD = 10.0
Row = tuple[float, float, int]
"""Seconds of the commit after START, seconds until it arrived, transaction."""

rows = st.lists(st.tuples(st.floats(0, 300, allow_nan=False), st.floats(0.001, HOLD - 0.3), st.integers(0, 3)), min_size=1, max_size=25)


def version(second: float) -> int:
    return int((START + second) * 1e9)


def stream_of(some: Sequence[Row], data: st.DataObject) -> MemoryStream:
    """The rows as they arrive, over shards that are split now and then; here and there one comes twice, or in pieces."""
    stream = MemoryStream(shards=data.draw(st.integers(1, 3), "shards"), now=START)
    arrivals: list[tuple[float, bytes]] = []
    for number, (second, delay, transaction) in enumerate(some):
        tx = f"tx{transaction}-{version(second)}"
        row = {"id": number, "text": "x" * 40}
        if number % 7 == 3:
            pieces = chunked("c", "app.t", row, version(second), transaction=tx, size=30, chunk_id=f"c{number}")
            arrivals += [(second + delay, record) for record in pieces]
        else:
            arrivals.append((second + delay, full("c", "app.t", row, version(second), transaction=tx)))
        if number % 5 == 2:
            arrivals.append((second + delay + 3, arrivals[-1][1]))
    for at, record in sorted(arrivals, key=lambda item: item[0]):
        if data.draw(st.integers(0, 15), "split") == 0 and len(stream.shards) < 8:
            stream.split(data.draw(st.sampled_from([shard.name for shard in stream.open_shards()])))
        shard = data.draw(st.sampled_from([shard.name for shard in stream.open_shards()]), "shard")
        stream.put(shard, record, after=max(START + at - stream.now, 1e-6))
    return stream


def committed(sink: RecordingSink) -> list[tuple[int, str]]:
    return [(change.version, change.transaction) for change in sink.written]


def run(stream: MemoryStream, **more: Any) -> tuple[RecordingSink, Any]:
    sink, bench = RecordingSink(lanes=3), Bench(stream, order="commit", hold_back=HOLD, spill=FileSpill())
    pipeline = bench.run(sink, **more)
    play(pipeline.run(asyncio.Event()))
    return sink, pipeline.status()


@settings(max_examples=150, deadline=None)
@given(rows, st.data())
def test_with_disorder_within_the_hold_the_output_is_exactly_commit_order(some: list[Row], data: st.DataObject) -> None:
    stream = stream_of(some, data)
    source = MemorySource(stream, seed=data.draw(st.integers(0, 99)), page=data.draw(st.integers(1, 12)))
    sink, status = run(stream, source=source, held_room=data.draw(st.sampled_from((0, 1500, 1 << 30)), "room"))
    wanted = sorted((version(second), f"tx{transaction}-{version(second)}") for second, _, transaction in some)
    assert committed(sink) == wanted
    assert status.late == 0
    assert not any(change.late for change in sink.written)
    assert status.open == status.held == 0


def test_without_the_hold_the_same_histories_are_out_of_order() -> None:
    @settings(max_examples=150, deadline=None, database=None, phases=[Phase.generate])
    @given(rows, st.data())
    def law(some: list[Row], data: st.DataObject) -> None:
        stream = stream_of(some, data)
        sink, status = run(stream, source=MemorySource(stream, page=4), hold_back=0.0)
        assert len(sink.written) == len(some)
        assert status.late == sum(change.late for change in sink.written)
        timely = [change.version for change in sink.written if not change.late]
        assert timely == sorted(timely), "not even marked"
        assert committed(sink) == sorted(committed(sink)), "out of order"

    with pytest.raises(AssertionError, match="out of order"):
        law()


def test_a_late_change_is_delivered_marked_and_counted() -> None:
    stream = MemoryStream(now=START)
    (shard,) = stream.shards
    stream.put(shard, full("c", "app.t", {"id": 2}, version(1)), after=2)
    stream.put(shard, full("c", "app.t", {"id": 1}, version(0)), after=1)
    stream.put(shard, full("c", "app.t", {"id": 3}, version(60)), after=60)
    stream.put(shard, full("c", "app.t", {"id": 4}, version(0.5)), after=30)  # a minute and a half on its way
    stream.put(shard, full("c", "app.t", {"id": 5}, version(100)), after=10)
    sink, status = run(stream, source=MemorySource(stream, page=1))
    assert [((c.key or {})["id"], c.late) for c in sink.written] == [(1, False), (2, False), (4, True), (3, False), (5, False)]
    assert status.late == 1


def test_an_idle_shard_and_a_closed_one_hold_nothing_back_for_ever() -> None:
    stream = MemoryStream(shards=3, now=START)
    busy, _, closed = stream.shards
    stream.split(closed)
    stream.put(busy, full("c", "app.t", {"id": 1}, version(0)))
    sink, stop = RecordingSink(), asyncio.Event()
    bench = Bench(stream, order="commit", hold_back=HOLD, spill=FileSpill())

    async def life() -> None:
        pipeline = bench.run(sink, source=MemorySource(stream, follow=True))
        task = asyncio.create_task(pipeline.run(stop))
        for _ in range(8):
            await asyncio.sleep(1.0)
            stream.now += 1.0
        assert sink.written == []
        assert pipeline.status().held == 1
        for _ in range(5):
            await asyncio.sleep(1.0)
            stream.now += 1.0
        assert len(sink.written) == 1
        assert pipeline.status().held == 0
        stop.set()
        await task

    play(life())


def test_what_is_held_at_a_stop_stays_owed_and_is_read_again() -> None:
    stream = MemoryStream(now=START)
    (shard,) = stream.shards
    for number in range(3):
        stream.put(shard, full("c", "app.t", {"id": number}, version(number)), after=1)
    bench, sink, stop = Bench(stream, order="commit", hold_back=HOLD), RecordingSink(), asyncio.Event()

    async def life() -> None:
        pipeline = bench.run(sink, source=MemorySource(stream, follow=True), spill=FileSpill(), held_room=0)
        task = asyncio.create_task(pipeline.run(stop))
        await asyncio.sleep(5.0)
        stop.set()
        await task
        status = pipeline.status()
        assert sink.written == []
        assert status.open == status.held == 3
        assert pipeline.state == "done"
        await bench.checkpoints.close()
        again = bench.run(sink, spill=FileSpill())
        await again.run(asyncio.Event())
        assert [(c.key or {})["id"] for c in sink.written] == [0, 1, 2]
        assert again.status().open == 0

    play(life())


def test_a_run_after_another_knows_how_far_changes_had_gone_on() -> None:
    stream = MemoryStream(now=START)
    (shard,) = stream.shards
    stream.put(shard, full("c", "app.t", {"id": 1}, version(50)), after=51)
    bench, first, second = Bench(stream, order="commit", hold_back=HOLD), RecordingSink(), RecordingSink()
    play(bench.run(first, spill=FileSpill()).run(asyncio.Event()))
    play(bench.checkpoints.close())
    stream.put(shard, full("c", "app.t", {"id": 2}, version(49)), after=1)
    stream.put(shard, full("c", "app.t", {"id": 3}, version(53)), after=3)
    play(bench.run(second, spill=FileSpill()).run(asyncio.Event()))
    assert [((c.key or {})["id"], c.late) for c in second.written] == [(2, True), (3, False)]


def test_what_comes_back_from_the_disk_is_what_went_there() -> None:
    def model(image: Any) -> tuple[Any, bytes]:
        return ["typed", bytes(image)], b'{"id":0,"form":"of the model"}'

    stream = MemoryStream(shards=2, now=START)
    one, two = stream.shards
    records = [full("d", "app.t", None, version(1), before={"id": 9}), full("c", "loose.t", {"x": 1}, version(2))]
    records += [full("u", "typed.t", {"id": 0}, version(3)), *chunked("u", "app.t", {"id": 5, "t": "é" * 99}, version(4), size=50)]
    records += chunked("d", "app.t", None, version(5), before={"id": 6, "t": "é" * 99}, size=50)
    records += chunked("c", "loose.t", {"x": "é" * 99}, version(6), size=50)
    for number, record in enumerate(records):
        stream.put(one if number % 3 else two, record)
    tables = Tables({"app.*": Rule(key=("id",)), "typed.*": Rule(key=("id",), model=model)})
    kept, spilled = RecordingSink(), RecordingSink()
    for sink, room in ((kept, 1 << 30), (spilled, 0)):
        bench = Bench(stream, order="commit", hold_back=HOLD, spill=FileSpill(), held_room=room, tables=tables)
        play(bench.run(sink, source=MemorySource(stream, seed=3, page=3)).run(asyncio.Event()))
    assert spilled.written == kept.written
    assert len(kept.written) == 6
    assert {change.typed is None for change in spilled.written} == {True, False}


def test_a_full_disk_stops_the_pipeline_and_loses_nothing() -> None:
    class Full(FileSpill):
        async def put(self, bodies: Sequence[bytes]) -> Sequence[int]:
            raise Misconfigured("no room", where="/tmp", why="full", run="df -h", code="E215")

    stream = MemoryStream(now=START)
    (shard,) = stream.shards
    stream.put(shard, full("c", "app.t", {"id": 1}, version(0)))
    bench, sink = Bench(stream, order="commit", hold_back=HOLD), RecordingSink()
    with pytest.raises(Misconfigured, match="no room"):
        play(bench.run(sink, spill=Full(), held_room=0).run(asyncio.Event()))
    assert sink.written == []
    play(bench.checkpoints.close())
    play(bench.run(sink, spill=FileSpill(), held_room=0).run(asyncio.Event()))
    assert len(sink.written) == 1


def test_where_not_all_shards_are_seen_it_is_refused() -> None:
    stream = MemoryStream(now=START)
    source = MemorySource(stream)
    source.whole = False  # type: ignore[misc]
    with pytest.raises(Misconfigured, match="order commit cannot be had"):
        play(Bench(stream, order="commit", spill=FileSpill()).run(RecordingSink(), source=source).run(asyncio.Event()))


def test_a_sink_that_applies_blindly_is_refused() -> None:
    class Blind(RecordingSink):
        needs_order = True

    with pytest.raises(Misconfigured, match="over a newer one"):
        play(Bench(MemoryStream(now=START), order="commit", spill=FileSpill()).run(Blind()).run(asyncio.Event()))


def test_a_commit_far_ahead_of_its_arrival_does_not_hold_things_up_for_ever() -> None:
    stream = MemoryStream(now=START)
    (shard,) = stream.shards
    stream.put(shard, full("c", "app.t", {"id": 1}, version(0)), after=1)
    stream.put(shard, full("c", "app.t", {"id": 2}, version(9_000_000)), after=1)  # a clock gone wrong
    stream.put(shard, full("c", "app.t", {"id": 3}, version(30)), after=30)
    stream.put(shard, full("c", "app.t", {"id": 4}, version(60)), after=30)
    sink, status = run(stream)
    assert [(c.key or {})["id"] for c in sink.written] == [1, 2, 3, 4]
    assert status.late == 0


def test_a_refused_change_does_not_let_the_next_batch_pass() -> None:
    tries = 0

    async def answer(changes: Sequence[Change]) -> Sequence[Setback]:
        nonlocal tries
        tries += 1
        return [Setback(n, Verdict.RETRY) for n in range(len(changes))] if tries % 3 else []

    stream = MemoryStream(now=START)
    (shard,) = stream.shards
    for number in range(6):
        stream.put(shard, full("c", "app.t", {"id": number}, version(number)), after=1)
    sink = RecordingSink(answer, lanes=4, batching=Batching(records=1, age=0.0))
    play(Bench(stream, order="commit", hold_back=HOLD).run(sink, spill=FileSpill()).run(asyncio.Event()))
    assert [(c.key or {})["id"] for c in sink.written] == list(range(6))


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_in_s3_rows_keep_the_order_inside_objects_and_from_object_to_object(format: str) -> None:
    stream = MemoryStream(shards=3, now=START)
    names = list(stream.shards)
    for number in range(60):
        late = (number * 7 % 5) * 1.5  # up to six seconds on its way
        data = full("c", "app.t", {"id": number}, version(number - late), transaction=f"tx{number % 4}")
        stream.put(names[number % 3], data, after=1)
    bucket = Bucket()
    sink = make_sink(FakeObjects(bucket), {"format": format, "roll": {"records": 7, "age": "1s"}, "digest": None})
    play(
        Bench(stream, order="commit", hold_back=HOLD, spill=FileSpill()).run(sink, source=MemorySource(stream, page=3)).run(asyncio.Event())
    )
    objects = [[line["version"] for line in map(msgspec.json.decode, text_of(key, body).splitlines())] for key, body in bucket.data()]
    assert len(objects) > 4
    assert [one for some in objects for one in some] == sorted(version(n - (n * 7 % 5) * 1.5) for n in range(60))
