"""The whole road by the real command: the lake holds what was committed, each change once, whatever happened on the way."""

from __future__ import annotations

import random
import signal
from typing import Any

import duckdb
import pytest

from .world import BUCKET, STREAM, World, lake, total


@pytest.mark.slow
def test_once_delivers_twenty_thousand_records_exactly_once_and_a_second_once_nothing(world: World) -> None:
    world.configure(sinks={"lake": lake(age="2s", records=6000)})
    sent = 0
    for number in range(6):
        sent += world.commit(1250, oversize=number % 2, evolve=["app.notes"])
        if number == 1:
            world.server.split(STREAM, 1)
        if number == 3:
            world.server.merge(STREAM)
    assert sent > 20_000
    assert sum(change.records > 1 for change in world.changes()) >= 3

    first = world.once().expect(0)
    found = world.exact()
    assert first.json["sinks"]["lake"]["read"] == sent
    assert first.json["sinks"]["lake"]["open"] == first.json["gaps"] == 0
    assert total(first.json, "duplicate") > 0
    assert total(first.json, "delivered") == found.rows

    before = dict(world.objects())
    second = world.once().expect(0)
    assert total(second.json, "delivered") == second.json["sinks"]["lake"]["read"] == 0
    data = {key for key, _ in world.objects() if "/data/" in key}
    assert data == {key for key in before if "/data/" in key}


@pytest.mark.slow
@pytest.mark.timeout(480)  # 45 s on a quiet machine, several times that on a busy one
def test_nothing_is_lost_or_repeated_over_kill_9_at_random_moments(world: World) -> None:
    _kills(world, 20, random.Random(20))


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_or_repeated_over_many_kills(world: World, seed: int) -> None:
    _kills(world, 60, random.Random(seed))


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "blocks", [{"fragments": {"type": "memory"}}, {"state": {"type": "memory"}}], ids=["fragments-in-memory", "state-in-memory"]
)
def test_nothing_is_lost_or_repeated_over_kill_9_without_a_memory_on_disk(world: World, blocks: dict[str, Any]) -> None:
    _kills(world, 20, random.Random(7), **blocks)


def _kills(world: World, kills: int, rng: random.Random, **blocks: Any) -> None:
    """Lives that end by kill -9, from before the first read to the midst of a write; then one to the tip, and one without its memory."""
    world.configure(sinks={"lake": lake(age="50ms", records=250)}, **blocks)
    world.commit(200, oversize=1)
    with world.writing(5, tables=["public.orders", "app.notes", "audit.events"]):
        for number in range(kills):
            if number in (kills // 3, 2 * kills // 3):
                world.commit(20, oversize=1)
            daemon = world.start("run", str(world.config))
            if number % 5 == 0:
                daemon.lives(rng.uniform(0.1, 1.5))
            elif number % 5 == 1:
                daemon.until(world.running, "the daemon runs")
                daemon.lives(rng.uniform(0.0, 0.3))
            elif number % 5 == 2:
                daemon.until(lambda: world.status_of_any().get("commits", 0) >= 2, "it commits")
                daemon.lives(rng.uniform(0.0, 0.3))
            else:
                daemon.until(lambda: world.status_of_any().get("batches", 0) >= rng.randint(1, 3), "it writes")
                daemon.lives(rng.uniform(0.0, 0.05))
            daemon.kill()
    assert sum("/manifests/" in key for key in world.object_keys()) > kills // 2
    last = world.once().expect(0)
    assert last.json["sinks"]["lake"]["open"] == 0
    world.exact()

    for path in world.directory.glob("state.db*"):
        path.unlink()
    again = world.once().expect(0)
    world.exact()
    assert total(again.json, "delivered") == 0
    assert again.json["sinks"]["lake"]["read"] > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_commits_and_ends_with_0_and_the_next_run_goes_on(world: World, number: signal.Signals) -> None:
    world.commit(1500)
    with world.writing(40):
        daemon = world.daemon()
        daemon.until(lambda: world.settled() > 1000, "records are settled")
        ended = daemon.end(number, within=15).expect(0)
    assert "Traceback" not in ended.err
    status = world.run("status", str(world.config), "--json").expect(0).json
    (stream,) = status["sinks"]["lake"]["streams"]
    assert any(shard["kind"] in ("after", "end") for shard in stream["shards"])
    delivered = len(world.lines())
    assert delivered > 1000
    rest = world.once().expect(0)
    found = world.exact()
    assert total(rest.json, "delivered") == found.rows - delivered


def test_a_second_signal_ends_at_once(world: World) -> None:
    world.commit(300)
    daemon = world.daemon()
    world.server.fault("hang", service="s3", operation="PutObject", times=0, seconds=30)
    daemon.until(lambda: world.status().get("open", 0) > 0, "something is in flight")
    daemon.send(signal.SIGTERM)
    daemon.until(lambda: world.status().get("state") == "draining", "it drains")
    daemon.end(signal.SIGTERM, within=5).expect(130)
    world.server.control("faults/clear")
    world.once().expect(0)
    world.exact()


def test_the_comparison_sees_an_object_lost_and_an_object_twice(world: World) -> None:
    """The control of every test here: a lake that is not exact is found out."""
    world.commit(100)
    world.once().expect(0)
    world.exact()
    s3 = world.server.client("s3")
    key, body = next((key, body) for key, body in world.objects("cdc/data/public.orders") if len(body) > 100)
    s3.put_object(Bucket=BUCKET, Key=key.replace("00000", "10000"), Body=body)
    twice = world.compare()
    assert twice.repeated > 0
    s3.delete_object(Bucket=BUCKET, Key=key)
    s3.delete_object(Bucket=BUCKET, Key=key.replace("00000", "10000"))
    lost = world.compare()
    assert lost.missing == twice.repeated
    assert not twice.holds
    assert not lost.holds


def test_duckdb_reads_the_lake(world: World) -> None:
    world.commit(300)
    world.once().expect(0)
    for key, body in world.objects("cdc/data/"):
        path = world.directory / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    rows = (
        duckdb.connect()
        .execute(
            f"select schema, \"table\", count(*), count(distinct id) from read_json('{world.directory}/cdc/data/**/*.jsonl.gz', "
            "hive_partitioning=true, union_by_name=true) group by all order by all"
        )
        .fetchall()
    )
    found = world.exact()
    assert sum(row[2] for row in rows) == found.rows
    assert all(row[2] == row[3] for row in rows)
    assert {f"{row[0]}.{row[1]}" for row in rows} == {f"{change.schema}.{change.table}" for change in world.changes()}
