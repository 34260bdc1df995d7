"""A daemon's life beside others: trimmed records, second runners, waiting rows, and what it says of itself."""

from __future__ import annotations

import json
import signal
import uuid
from typing import Any

import google_crc32c
import pytest

from .world import BUCKET, STREAM, World, lake, total


def test_records_trimmed_unread_are_a_gap_that_halts_until_it_is_acknowledged(world: World) -> None:
    world.commit(100)
    world.once().expect(0)
    lost = world.commit(100)
    world.server.control("trim", stream=STREAM)
    kept = world.commit(100)

    halted = world.once().expect(3)
    assert "gaps ack" in halted.err
    assert "Traceback" not in halted.err
    assert total(halted.json, "delivered") == 0
    listed = world.run("gaps", str(world.config), "--json").expect(3).lines
    assert {gap["kind"] for gap in listed} == {"trimmed"}
    assert all(gap["from_time"] and gap["to_time"] and gap["after"] and not gap["acked"] for gap in listed)
    assert {gap["shard"] for gap in listed} == {shard["ShardId"] for shard in world.server.open_shards(STREAM)}
    world.once().expect(3)
    assert world.run("gaps", str(world.config), "--json").expect(3).lines == listed

    for gap in listed:
        world.run("gaps", "ack", gap["id"], str(world.config), "--reason", "read from the database", "--yes").expect(0)
    world.run("gaps", str(world.config)).expect(0)
    gone_on = world.once().expect(0)
    assert gone_on.json["sinks"]["lake"]["read"] == kept
    found = world.compare()
    assert 0 < found.missing <= lost
    assert found.repeated == found.different == found.unknown == 0


def test_with_on_trimmed_continue_it_goes_on_at_once_and_still_exits_3(world: World) -> None:
    world.configure(source={"on_trimmed": "continue"})
    world.commit(100)
    world.once().expect(0)
    world.commit(50)
    world.server.control("trim", stream=STREAM)
    kept = world.commit(100)
    done = world.once().expect(3)
    assert done.json["sinks"]["lake"]["read"] == kept
    gaps = world.run("gaps", str(world.config), "--json").expect(3).lines
    assert done.json["gaps"] == len(gaps) == 4
    world.run("gaps", "ack", gaps[0]["id"], str(world.config), "--yes").expect(2)
    for gap in gaps:
        world.run("gaps", "ack", gap["id"], str(world.config), "--reason", "seen", "--yes", "--json").expect(0)
    assert world.once().expect(0).json["sinks"]["lake"]["read"] == 0


def test_a_second_runner_is_told_who_runs_and_readers_work_beside_it(world: World) -> None:
    world.commit(100)
    daemon = world.daemon()
    daemon.until(lambda: world.settled() > 0, "records are settled")
    world.configure(http=None)
    second = world.once().expect(1)
    assert f"process {daemon.process.pid}" in second.err
    assert "Run: dsqlcdc status" in second.err
    for reader in (("status",), ("gaps",), ("dead", "list")):
        world.run(*reader, str(world.config), "--json").expect(0)
    daemon.kill()
    world.commit(20)
    world.once().expect(0)
    world.exact()


def test_it_says_of_itself_what_goes_on(world: World) -> None:
    world.commit(200)
    daemon = world.daemon()
    world.caught_up(daemon)
    assert world.get("/healthz")[0] == 200
    assert daemon.until(lambda: world.get("/readyz")[0] == 200, "it is ready")
    code, body = world.get("/metrics")
    assert code == 200
    metrics = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in body.decode().splitlines() if not line.startswith("#")}
    status = world.status()
    assert status["read"] == sum(status["settled"].values()) + status["open"]
    delivered = [value for name, value in metrics.items() if 'outcome="delivered"' in name]
    assert delivered == [float(status["settled"]["delivered"])]
    seen = world.run("status", str(world.config), "--json").expect(0).json
    assert seen["running"] is True
    assert seen["sinks"]["lake"]["running"]["state"] == "running"
    daemon.end(signal.SIGTERM).expect(0)
    assert world.get("/healthz") == (0, b"")
    assert world.run("status", str(world.config), "--json").expect(0).json["running"] is None


class Oversized:
    """A row in three pieces, whose parts are put when we say so."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        text = json.dumps({"id": number, "body": "é" * 3000})
        self.row = json.loads(text)
        chunk = str(uuid.uuid4())
        cut: dict[str, Any] = {"chunk_id": chunk, "total_fragments": 3, "crc32c": str(google_crc32c.value(text.encode()))}
        source = {"ts_ns": 1_800_000_000_000_000_000 + number, "txId": "t", "schema": "t", "table": "big", "cluster": "c"}
        self.main = json.dumps({"type": "chunked", "op": "c", "before": None, "after": None, "chunked": {"after": cut}, "source": source})
        third = len(text) // 3
        slices = [text[:third], text[third : 2 * third], text[2 * third :]]
        self.pieces = [json.dumps({"type": "fragment", "chunk_id": chunk, "index": n, "data": data}) for n, data in enumerate(slices)]

    def put(self, *texts: str) -> None:
        for text in texts:
            self._world.server.record(STREAM, text.encode())

    def delivered(self) -> list[Any]:
        return [line["row"] for line in self._world.lines() if line["table"] == "big"]


@pytest.mark.parametrize("fragments", ["sqlite", "memory", "s3"])
def test_a_row_whose_last_piece_comes_later_is_delivered_once_by_the_run_that_sees_it(world: World, fragments: str) -> None:
    world.configure(fragments={"type": fragments, **({"bucket": BUCKET} if fragments == "s3" else {})})
    world.commit(50)
    row = Oversized(world, 1)
    row.put(row.pieces[2], row.main, row.pieces[0])
    first = world.once().expect(0)
    assert row.delivered() == []
    assert first.json["sinks"]["lake"]["open"] > 0 if fragments == "memory" else total(first.json, "parked") == 3
    again = world.once().expect(0)
    assert row.delivered() == []
    assert total(again.json, "delivered") == 0

    row.put(row.pieces[1], row.pieces[0], row.pieces[1])
    world.once().expect(0)
    assert row.delivered() == [row.row]
    row.put(row.main, row.pieces[2])
    last = world.once().expect(0)
    assert row.delivered() == [row.row]
    assert total(last.json, "delivered") == 0
    found = world.compare()
    assert (found.missing, found.repeated, found.different, found.unknown) == (0, 0, 0, 1)


def test_two_sinks_each_deliver_what_they_want(world: World) -> None:
    world.configure(sinks={"lake": lake(), "deletes": lake("deletes/", ops=["delete"], tables=["public.*"])})
    world.commit(300, oversize=1)
    done = world.once().expect(0)
    world.exact()
    wanted = {(c.schema, c.table, c.version) for c in world.changes() if c.op == "d" and c.schema == "public"}
    assert {(line["schema"], line["table"], line["version"]) for line in world.lines("deletes/")} == wanted
    assert total(done.json, "unrouted", "deletes") > 0
