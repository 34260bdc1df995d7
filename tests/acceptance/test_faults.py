"""Faults of AWS while the daemon runs: waited out or said plainly; never skipped, never repeated."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from .world import BUCKET, STREAM, World, lake

KINESIS, READ = {"service": "kinesis"}, {"service": "kinesis", "operation": "GetRecords"}
S3, PUT = {"service": "s3"}, {"service": "s3", "operation": "PutObject"}
PASSING: dict[str, list[dict[str, Any]]] = {
    "kinesis-refuses": [
        {**KINESIS, "operation": "ListShards", "kind": "error", "code": "InternalFailure"},
        {**KINESIS, "operation": "GetShardIterator", "kind": "error", "code": "InternalFailure", "times": 2},
        {**READ, "kind": "error", "status": 400, "code": "ProvisionedThroughputExceededException", "times": 5},
        {**READ, "kind": "error", "status": 400, "code": "ExpiredIteratorException", "times": 4},
        {**READ, "kind": "error", "status": 400, "code": "ExpiredTokenException", "times": 2},
        {**READ, "kind": "error", "code": "InternalFailure", "times": 5},
    ],
    "kinesis-breaks-off": [
        {**READ, "kind": "slow", "times": 2, "seconds": 1.0},
        {**READ, "kind": "cut", "times": 5},
        {**READ, "kind": "reset", "times": 4},
    ],
    "s3-refuses": [
        {**S3, "operation": "ListObjectsV2", "kind": "error", "status": 500, "code": "InternalError"},
        {**PUT, "kind": "error", "status": 503, "code": "SlowDown", "times": 3},
        {**PUT, "kind": "error", "status": 400, "code": "ExpiredToken"},
        {**PUT, "kind": "error", "status": 500, "code": "InternalError", "times": 2},
    ],
    "s3-breaks-off": [
        {**S3, "operation": "GetObject", "kind": "cut", "times": 2},
        {**PUT, "kind": "lost", "times": 4},
        {**PUT, "kind": "reset", "times": 2},
        {**PUT, "kind": "cut", "times": 2},
    ],
}


@pytest.mark.parametrize("name", PASSING)
def test_faults_that_pass_are_waited_out(world: World, name: str) -> None:
    """Met by a run that has a checkpoint and a lake already; every one of them is met."""
    world.commit(60)
    kill_before_the_commit(world)
    world.commit(100, oversize=1)
    for fault in PASSING[name]:
        world.server.fault(**fault)
    world.once().expect(0)
    assert world.server.waiting() == []
    world.exact()


def kill_before_the_commit(world: World) -> None:
    """A life that leaves in the lake what its checkpoint does not hold: the next one has to read the lake."""
    daemon = world.daemon()
    daemon.until(lambda: world.settled() > 0, "records are settled")
    daemon.kill()


def test_iterators_that_expire_under_a_running_daemon_are_renewed(world: World) -> None:
    world.commit(100)
    daemon = world.daemon()
    daemon.until(lambda: world.settled() > 100, "records are settled")
    world.server.control("iterators/expire")
    world.commit(100)
    world.caught_up(daemon)
    world.exact()


def test_read_limits_of_the_service_are_kept_to(world: World) -> None:
    """With the budgets that AWS allows, and the service enforcing them, hardly a read is refused."""
    world.server.control("throttle", reads=True)
    world.configure(source={"poll": "1s", "reads_per_second": 5, "bytes_per_second": "1953KiB"})
    world.commit(300)
    world.once().expect(0)
    world.exact()


DENIED = {"kind": "error", "status": 403, "code": "AccessDeniedException", "times": 0}


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ({**DENIED, "service": "kinesis", "operation": "GetRecords", "status": 400}, "kinesis:GetRecords"),
        ({**DENIED, "service": "s3", "operation": "PutObject", "code": "AccessDenied"}, "s3:PutObject"),
        ({**DENIED, "service": "s3", "operation": "PutObject", "status": 400, "code": "ExpiredToken"}, "credentials have expired"),
    ],
    ids=["kinesis", "s3", "expired-for-good"],
)
def test_what_does_not_pass_stops_with_1_says_why_and_skips_nothing(world: World, fault: dict[str, Any], why: str) -> None:
    world.commit(100)
    daemon = world.daemon()
    daemon.until(lambda: world.settled() > 100, "records are settled")
    world.server.fault(**fault)
    world.commit(100)
    ended = daemon.end().expect(1)
    said = [line for line in ended.err.splitlines() if "DSQLCDC-E" in line]
    assert said
    assert why in said[-1]
    assert "Run: " in said[-1]
    assert "Traceback" not in ended.err
    world.server.control("faults/clear")
    world.once().expect(0)
    world.exact()


def test_a_bucket_that_is_gone_stops_with_1_and_nothing_is_skipped(world: World) -> None:
    world.commit(100)
    daemon = world.daemon()
    daemon.until(lambda: world.settled() > 100, "records are settled")
    world.server.control("bucket", name=BUCKET, gone=True)
    world.commit(100)
    ended = daemon.end().expect(1)
    assert BUCKET in ended.err
    assert "Run: " in ended.err
    world.server.control("bucket", name=BUCKET, gone=False)
    world.once().expect(0)
    world.exact()


def test_a_stream_deleted_while_it_is_read_stops_with_1(world: World) -> None:
    world.commit(50)
    daemon = world.daemon()
    daemon.until(lambda: world.settled() > 50, "records are settled")
    world.server.client("kinesis").delete_stream(StreamName=STREAM, EnforceConsumerDeletion=True)
    ended = daemon.end().expect(1)
    (said,) = {line.partition("DSQLCDC-")[2] for line in ended.err.splitlines() if "DSQLCDC-E" in line}
    assert STREAM in said
    assert "Run: " in said


def test_what_is_unreachable_beyond_the_deadline_ends_with_1(world: World) -> None:
    world.commit(50)
    world.server.fault("error", service="s3", operation="PutObject", times=0, status=503, code="SlowDown")
    ended = world.once("--deadline", "2s").expect(1)
    assert "DSQLCDC-E" in ended.err
    world.server.control("faults/clear")
    world.once().expect(0)
    world.exact()


def test_a_sink_that_is_denied_stops_and_the_other_goes_on(world: World) -> None:
    world.configure(sinks={"lake": lake(), "audit": lake("audit/", raw=True), "print": {"type": "stdout", "tables": ["app.*"]}})
    world.commit(100)
    daemon = world.daemon("--plain")
    daemon.until(lambda: min(map(world.settled, ("lake", "audit", "print"))) > 100, "records are settled")
    world.server.fault("error", service="s3", operation="PutObject", contains="audit/", times=0, status=403, code="AccessDenied")
    world.commit(100)
    daemon.until(lambda: world.status("audit").get("state") == "stopped", "the denied sink stops")
    assert "s3:PutObject" in world.status("audit")["reason"]
    world.commit(100)
    world.caught_up(daemon)
    assert world.status()["state"] == "running"
    world.exact()
    assert any('"schema":"app"' in line for line in daemon.out.splitlines())
    daemon.end(signal.SIGTERM).expect(1)
    world.server.control("faults/clear")
    world.configure(sinks={"lake": lake(), "audit": lake("audit/", raw=True)})
    world.once().expect(0)
    world.exact("audit/")
    world.exact()
