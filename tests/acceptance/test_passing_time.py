"""Streams as they age and change: retention that passes, reshards by the dozen, a stream made anew under its name."""

from __future__ import annotations

import signal

import pytest

from dsqlcdc.local.compare import compare

from .world import STREAM, World, lake, total

DAY = 24 * 3600.0


def test_retention_that_passes_over_a_quiet_stream_is_no_gap(world: World) -> None:
    """Records, closed shards and whole generations of shards go; what is still owed does not."""
    world.commit(100)
    world.server.split(STREAM, 0)
    world.commit(100)
    world.once().expect(0)
    for _ in range(3):  # runs that find nothing new say how far they have looked
        world.server.advance(DAY * 0.8)
        quiet = world.once().expect(0)
        assert quiet.json["sinks"]["lake"]["read"] == 0
    sent = world.commit(100)
    world.server.merge(STREAM)
    sent += world.commit(50)
    assert world.once().expect(0).json["sinks"]["lake"]["read"] == sent
    assert world.run("gaps", str(world.config), "--json").expect(0).lines == []
    world.exact()


def test_records_that_age_out_unread_are_a_gap(world: World) -> None:
    """The same passing of time, but the second half was never read: retention, not a control call, has taken it."""
    world.commit(100)
    world.once().expect(0)
    world.commit(100)
    world.server.advance(DAY + 3600)
    world.commit(100)
    world.once().expect(3)
    gaps = world.run("gaps", str(world.config), "--json").expect(3).lines
    assert {gap["shard"] for gap in gaps} == {shard["ShardId"] for shard in world.server.open_shards(STREAM)}


def test_resharding_up_and_down_loses_nothing(world: World) -> None:
    daemon = world.daemon()
    for count in (8, 4, 6, 3):
        world.commit(60)
        world.server.client("kinesis").update_shard_count(StreamName=STREAM, TargetShardCount=count, ScalingType="UNIFORM_SCALING")
        world.commit(60)
        world.server.settle(STREAM)
    world.caught_up(daemon)
    daemon.end(signal.SIGTERM).expect(0)
    assert world.once().expect(0).json["sinks"]["lake"]["read"] == 0
    world.exact()


def test_a_stream_made_anew_under_its_name_is_read_from_its_beginning_and_a_gap(world: World) -> None:
    world.commit(100)
    world.once().expect(0)
    kinesis = world.server.client("kinesis")
    old = world.changes()
    kinesis.delete_stream(StreamName=STREAM, EnforceConsumerDeletion=True)
    world.server.advance(2)
    pipe = world.server.pipe(STREAM, 2)
    sent = sum(world.server.commit(cluster=pipe.cluster, transactions=100).sent.values())
    assert world.once().expect(3).json["sinks"]["lake"]["read"] == sent
    (gap,) = world.run("gaps", str(world.config), "--json").expect(3).lines
    assert (gap["kind"], gap["sink"]) == ("replaced", "lake")
    world.run("gaps", "ack", gap["id"], str(world.config), "--reason", "rebuilt", "--yes").expect(0)
    assert world.once().expect(0).json["gaps"] == 0
    new = world.server.changes(pipe.cluster)
    found = {(line["table"], line["version"]) for line in world.lines()}
    assert found == {(change.table, change.version) for change in (*old, *new)}


def test_a_sink_added_later_begins_where_it_says_and_the_others_go_on(world: World) -> None:
    world.commit(100)
    world.once().expect(0)
    world.configure(sinks={"lake": lake(), "later": lake("later/", start="latest"), "whole": lake("whole/")})
    quiet = world.once().expect(0)
    assert total(quiet.json, "delivered", "later") == total(quiet.json, "delivered") == 0
    before = len(world.changes())
    sent = world.commit(100)
    done = world.once().expect(0)
    assert {done.json["sinks"][sink]["read"] for sink in ("lake", "later", "whole")} == {sent}
    world.exact()
    world.exact("whole/")
    later = compare(world.changes()[before:], world.lines("later/"))
    assert later.holds, later


@pytest.mark.parametrize("once", [False, True], ids=["daemon", "once"])
def test_a_signal_before_the_first_record_ends_with_0(world: World, once: bool) -> None:
    """The stream answers nothing yet: opening is cut short, nothing is drained."""
    world.server.fault("hang", service="kinesis", operation="DescribeStreamSummary", times=0, seconds=60)
    started = world.start("run", str(world.config), *(["--once"] if once else []))
    started.until(lambda: world.server.hits() > 0, "the stream is asked")
    started.end(signal.SIGTERM, within=10).expect(0)


def test_what_cannot_start_says_why_and_what_to_do(world: World) -> None:
    world.configure(source={"stream": "no-such-stream"})
    missing = world.once().expect(1)
    assert "no-such-stream" in missing.err
    world.configure(sinks={"lake": lake(), "other": {**lake("x/"), "bucket": "no-such-bucket"}})
    world.commit(50)
    one_of_two = world.once().expect(1)
    assert "no-such-bucket" in one_of_two.err
    world.exact()
    world.configure(sinks={"lake": {**lake(), "bucket": "Not A Bucket"}}, nonsense=1)
    wrong = world.once().expect(2)
    assert "nonsense" in wrong.err
    assert "bucket" in wrong.err
    for done in (missing, one_of_two, wrong):
        assert "Run: " in done.err or '"run":"' in done.err
        assert "Traceback" not in done.err
