"""`status`: beside a running daemon, after one, and before the first."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from dsqlcdc.contract import Digests
from dsqlcdc.core.records import TRIM_HORIZON, Mark
from dsqlcdc.core.telemetry import ShardStatus, Status
from dsqlcdc.hosts.http import serve

from .conftest import STREAM, Project, after, ago, ended, squeezed


def running(**changes: Any) -> Status:
    shard = ShardStatus("shardId-000000000001", "trim_horizon", "4966", ago(30), 110, 10, 90_000, ago(1), ended=False)
    plain = Status(
        pipeline="orders-cdc",
        sink="lake",
        stream=STREAM,
        state="running",
        read=110,
        bytes=48_000,
        settled={"delivered": 100},
        open=10,
        in_flight_bytes=1,
        batches=1,
        retries={},
        dead={},
        letters=0,
        remembered=0,
        memory=1,
        commits=1,
        committed_at=0.0,
        newest_version=1_700_000_000_123_456_789,
        gaps=0,
        shards=(shard,),
    )
    return msgspec.structs.replace(plain, **changes)


@contextmanager
def daemon(project: Project, *statuses: Status, token: str = "") -> Iterator[None]:
    """The http server of a running process, in a thread, and a config that names it."""
    stop, ready, url = threading.Event(), threading.Event(), [""]

    async def serving() -> None:
        async with serve("127.0.0.1:0", lambda: statuses, token=token) as url[0]:
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serving()))
    thread.start()
    try:
        assert ready.wait(10)
        shown = f", token: '{token}'" if token else ""
        project.write(f"http: {{listen: '{url[0].removeprefix('http://')}'{shown}}}\n")
        yield
    finally:
        stop.set()
        thread.join()


def test_before_the_first_run_it_says_so_and_makes_no_file(project: Project) -> None:
    answer = project.run("status", "CONFIG")
    assert answer.code == 0
    assert squeezed(answer.out) == (
        "orders-cdc T no running process answers\nSINK SHARD CHECKPOINT ARRIVED AGE OPEN BEHIND\nlake - never ran - - - -"
    )
    assert not (project.directory / "state.db").exists()
    told = project.run("status", "CONFIG", "--json").json
    assert (told["running"], told["sinks"]["lake"]["streams"], told["sinks"]["lake"]["running"]) == (None, [], None)


def test_without_a_running_process_the_checkpoints_are_told(project: Project) -> None:
    project.write(sinks=("lake", "hook"))
    project.commit({"shardId-000000000001": after("4966", ago(30)), "shardId-000000000000": ended(), "shardId-2": Mark(TRIM_HORIZON)})
    lines = squeezed(project.run("status", "CONFIG").out).splitlines()
    assert lines[2:] == [
        "lake shardId-000000000001 4966 T 30 s - -",
        "lake shardId-2 trim_horizon - - - -",
        "lake 1 closed read to the end - - - -",
        "hook - never ran - - - -",
    ]


def test_json_holds_every_shard_with_its_age(project: Project) -> None:
    project.commit({"shardId-000000000001": after("4966", ago(30)), "shardId-000000000000": ended()})
    told = project.run("status", "CONFIG", "--json").json
    (stream,) = told["sinks"]["lake"]["streams"]
    first, second = stream["shards"]
    assert stream["stream"] == STREAM
    assert (first["kind"], first["ended"]) == ("end", True)
    assert (second["checkpoint"], second["kind"]) == ("4966", "after")
    assert 30 <= second["age_seconds"] < 60


def test_gaps_are_counted_and_the_next_command_is_said(project: Project) -> None:
    project.gap("g1")
    project.gap("g2", acked="known")
    answer = project.run("status", "CONFIG")
    assert answer.err == "1 unacknowledged gap: changes may be lost. Run: dsqlcdc gaps DIR/dsqlcdc.yaml\n"
    told = project.run("status", "CONFIG", "--json").json
    assert told["gaps"] == {"found": 2, "unacknowledged": 1}
    assert told["sinks"]["lake"]["gaps"] == {"found": 2, "unacknowledged": 1}


def test_an_overdue_digest_is_told_with_what_keeps_it_and_one_in_time_is_not(project: Project) -> None:
    late = Digests(ago(9000), ago(5400), 180, "cannot sign a digest KMS key alias/audit: it is disabled")
    with daemon(project, running(digests=late), running(sink="more", digests=Digests(ago(60), ago(-3540)))):
        answer = project.run("status", "CONFIG")
        told = project.run("status", "CONFIG", "--json").json
    assert squeezed(answer.err).startswith(
        "lake: a digest is 1 h 30 min overdue: cannot sign a digest KMS key alias/audit: it is disabled."
    )
    assert "doctor" in answer.err
    assert "more" not in answer.err
    assert told["sinks"]["lake"]["running"]["digests"]["failed"] == 180


def test_a_sink_that_left_the_config_and_a_stream_made_anew_are_shown(project: Project) -> None:
    project.commit({"a": after("1", ago(5))}, sink="old")
    project.commit({"a": after("1", ago(5))})
    project.commit({"a": after("2", ago(5))}, stream="orders-cdc@1800000000")
    answer = project.run("status", "CONFIG")
    assert "old (not in the config)" in answer.out
    [lake] = [line for line in squeezed(answer.out).splitlines() if line.startswith("lake ")]
    assert lake.startswith("lake a 2 "), "of the stream that lives, and not of the one that was deleted"
    assert answer.err.startswith(f"lake has checkpoints of other streams too ({STREAM}): ")
    told = project.run("status", "CONFIG", "--json").json["sinks"]["lake"]
    assert ([one["stream"] for one in told["streams"]], told["earlier"]) == (["orders-cdc@1800000000"], [STREAM])


def test_a_stream_of_another_name_is_not_the_one_that_is_read_now(project: Project) -> None:
    project.commit({"a": after("1", ago(5))}, stream="another@1800000000")
    told = project.run("status", "CONFIG", "--json").json["sinks"]["lake"]
    assert (told["streams"], told["earlier"]) == ([], ["another@1800000000"])


def test_what_a_running_process_says_is_added(project: Project) -> None:
    project.commit({"shardId-000000000001": after("4966", ago(30))})
    with daemon(project, running()):
        lines = squeezed(project.run("status", "CONFIG").out).splitlines()
        told = project.run("status", "CONFIG", "--json").json
    assert lines[0] == "orders-cdc T running"
    assert lines[1] == "orders-cdc/lake: running, read 110, settled delivered 100, open 10, behind 1 min 30 s, 1 shards"
    assert lines[3] == "lake shardId-000000000001 4966 T 30 s 10 1 min 30 s"
    assert told["sinks"]["lake"]["running"]["newest_version"] == "1700000000123456789"
    assert told["running"] is True


def test_another_pipeline_at_that_address_is_not_ours(project: Project) -> None:
    with daemon(project, running(pipeline="other")):
        assert project.run("status", "CONFIG", "--json").json["running"] is None


def test_a_running_process_that_asks_for_a_token_is_shown_the_one_of_the_config(project: Project) -> None:
    with daemon(project, running(), token="correct horse battery"):
        assert project.run("status", "CONFIG", "--json").json["sinks"]["lake"]["running"]["read"] == 110


def test_nobody_at_that_address_is_no_error(project: Project) -> None:
    with daemon(project):
        pass
    answer = project.run("status", "CONFIG", "--json")
    assert (answer.code, answer.json["running"]) == (0, None)


def test_a_state_in_memory_is_said_to_be_there(project: Project) -> None:
    project.write("state: {type: memory}\n")
    answer = project.run("status", "CONFIG")
    assert (answer.code, answer.err) == (0, "The state is kept in memory: only a running process knows it.\n")


def test_a_state_file_that_is_none_is_an_error_with_exit_1(project: Project) -> None:
    (project.directory / "state.db").write_bytes(b"not a database, and long enough to be looked at" * 50)
    answer = project.run("status", "CONFIG")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith("DSQLCDC-E2")


def test_watching_shows_it_again_and_again_until_interrupted(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.commit({"a": after("1", ago(5))})
    sleeps: list[float] = []

    async def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        if len(sleeps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("asyncio.sleep", sleep)
    answer = project.run("status", "CONFIG", "--watch", "--every", "5s", "--json")
    assert (answer.code, sleeps) == (0, [5.0, 5.0, 5.0])
    assert len(answer.jsons) == 3


def test_an_interval_that_is_none_is_refused(project: Project) -> None:
    for every in ("soon", "0s"):
        answer = project.run("status", "CONFIG", "--watch", "--every", every)
        assert (answer.code, answer.out) == (2, "")
