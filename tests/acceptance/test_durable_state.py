"""State and dead letters in AWS: one daemon at a time, whoever dies or stalls, and a lake that is exact all the same."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from .command import Command
from .world import BUCKET, STREAM, World, lake

BLOCKS: dict[str, Any] = {
    "state": {"type": "dynamodb", "table": "dsqlcdc", "create": True, "takeover": "3s"},
    "dead_letters": {"type": "s3", "bucket": BUCKET},
    "fragments": {"type": "s3", "bucket": BUCKET},
}


@pytest.fixture
def durable(world: World) -> World:
    world.configure(sinks={"lake": lake(age="100ms", records=250)}, **BLOCKS)
    return world


def rival(world: World) -> Path:
    """The same config for a second machine, which serves nothing on the port of the first."""
    body = json.loads(world.config.read_text())
    del body["http"]
    path = world.directory / "rival.yaml"
    path.write_text(json.dumps(body))
    return path


def moved(world: World, before: dict[str, str]) -> bool:
    """Has any checkpoint moved since?"""
    return checkpoints(world) != before


def checkpoints(world: World) -> dict[str, str]:
    """Each shard's checkpoint as `status` tells it, from anywhere."""
    told = world.run("status", str(rival(world)), "--json").expect(0).json
    return {shard["shard"]: shard["checkpoint"] for stream in told["sinks"]["lake"]["streams"] for shard in stream["shards"]}


def not_back(before: dict[str, str], after: dict[str, str]) -> None:
    """No checkpoint is behind where it was."""
    for shard, place in before.items():
        if place.isdigit() and shard in after and after[shard] != "end":
            assert int(after[shard]) >= int(place), shard


def test_of_two_daemons_one_runs_and_one_is_told_who_does(durable: World) -> None:
    durable.configure(**{**BLOCKS, "state": {**BLOCKS["state"], "takeover": "20s"}})
    durable.commit(100)
    one, two = durable.start("run", str(durable.config)), durable.start("run", str(rival(durable)))
    first = _ended(one, two)
    refused = first.end().expect(1)
    assert "DSQLCDC-E201 Another runner has this pipeline and sink, acceptance/lake: process " in refused.err
    other = two if first is one else one
    assert f"process {other.process.pid} on " in refused.err
    other.lives(0.5)
    other.end(signal.SIGTERM).expect(0)
    durable.once().expect(0)  # let go of: no waiting
    durable.exact()


def _ended(one: Command, two: Command) -> Command:
    while True:
        for command in (one, two):
            if command._ended_within(0.2):
                return command


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_nothing_is_lost_or_repeated_over_kill_9_and_succession(durable: World) -> None:
    _successions(durable, 5)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_nothing_is_lost_or_repeated_over_twenty_kills_and_successions(durable: World) -> None:
    _successions(durable, 20)


def _successions(durable: World, lives: int) -> None:
    """Lives that end by kill -9, each of which has first to see that the one before is dead."""
    rng, before = random.Random(4), dict[str, str]()
    durable.commit(200, oversize=1)
    with durable.writing(20, tables=["public.orders", "app.notes", "audit.events"]):
        for life in range(lives):
            daemon = durable.daemon()
            daemon.lives(rng.uniform(0.2, 2.0))
            if life == 3:
                durable.commit(20, oversize=1)
            daemon.kill()
            after = checkpoints(durable)
            not_back(before, after)
            before = after
    durable.once(within=90).expect(0)
    not_back(before, checkpoints(durable))
    durable.exact()


@pytest.mark.slow
def test_a_daemon_that_stalled_and_was_succeeded_ends_and_the_lake_is_exact(durable: World) -> None:
    durable.commit(200)
    stalled = durable.daemon()
    with durable.writing(20, reshards=False):
        stalled.until(lambda: durable.settled() > 200, "it is in its stride")
        stalled.process.send_signal(signal.SIGSTOP)
        before = checkpoints(durable)
        successor = durable.start("run", str(rival(durable)))
        successor.until(lambda: moved(durable, before), "the successor has committed")
        middle = checkpoints(durable)
        stalled.process.send_signal(signal.SIGCONT)
        ended = stalled.end().expect(1)
        assert f"it was taken over by process {successor.process.pid} on " in ended.err
        successor.lives(0.5)
        after = checkpoints(durable)
    not_back(before, middle)
    not_back(middle, after)
    successor.end(signal.SIGTERM).expect(0)
    durable.once().expect(0)
    durable.exact()


@pytest.mark.slow
def test_throttling_and_an_outage_of_the_table_end_no_run(durable: World) -> None:
    durable.commit(100)
    daemon = durable.daemon()
    daemon.until(lambda: durable.settled() >= 100, "it is in its stride")
    durable.server.fault(
        "error", service="dynamodb", operation="PutItem", code="ProvisionedThroughputExceededException", status=400, times=4
    )
    durable.server.fault("error", service="dynamodb", operation="GetItem", code="InternalServerError", status=500, times=6)
    durable.commit(100)
    daemon.until(lambda: not durable.server.waiting(), "the outage is over")
    daemon.end(signal.SIGTERM).expect(0)
    durable.once().expect(0)
    durable.exact()


def test_dead_letters_in_s3_and_gaps_in_dynamodb_are_seen_from_anywhere(durable: World) -> None:
    durable.server.client("kinesis").put_record(StreamName=STREAM, PartitionKey="x", Data=b"\xff no record")
    durable.once().expect(4)
    elsewhere = str(rival(durable))
    (listed,) = durable.run("dead", "list", elsewhere, "--json").expect(0).lines
    shown = durable.run("dead", "show", listed["name"], elsewhere, "--raw").expect(0)
    assert (listed["code"], shown.out.encode("utf-8", "surrogateescape")) != ("", b"")
    assert list(durable.object_keys("dead-letters/")) == [f"dead-letters/{listed['name']}"]
    assert durable.run("gaps", elsewhere, "--json").expect(0).lines == []
    assert checkpoints(durable)
    assert not [path for path in durable.directory.iterdir() if path.suffix == ".db" or path.name == "dead-letters"]
