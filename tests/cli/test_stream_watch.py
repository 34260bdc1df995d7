"""`dsqlcdc stream watch` as a user types it, against the embedded AWS."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from dsqlcdc.testing.local import LocalAws

from .conftest import Project


@pytest.fixture
def cluster(empty: str, project: Project) -> str:
    """A cluster with an ACTIVE CDC stream that `apply` made."""
    project.write(block(empty))
    assert project.run("stream", "apply", "CONFIG", "--yes").code == 0
    return empty


def block(cluster: str, more: str = "") -> str:
    return f"stream:\n  cluster: {cluster}\n  poll: 1s\n{more}"


def cdc_stream(project: Project) -> str:
    found: str = project.run("stream", "status", "CONFIG", "--json").json["id"]
    return found


def test_a_stream_that_is_well_exits_0(project: Project, cluster: str) -> None:
    answer = project.run("stream", "watch", "CONFIG", "--once", "--json")
    assert answer.code == 0
    assert [event["event"] for event in answer.jsons] == ["found"]
    assert answer.jsons[0]["after"] == "ACTIVE"
    talk = project.run("stream", "watch", "CONFIG", "--once")
    assert (talk.out, talk.code) == ("", 0)
    assert "found: the CDC stream is ACTIVE" in talk.err


def test_one_that_is_broken_exits_1_and_the_remedy_is_told(project: Project, server: LocalAws, cluster: str) -> None:
    server.control("cause", cluster=cluster, stream=cdc_stream(project), reason="ROLE_ACCESS_DENIED")
    answer = project.run("stream", "watch", "CONFIG", "--once", "--json")
    assert answer.code == 1
    [remedy] = [event["after"] for event in answer.jsons if event["event"] == "remedy"]
    assert (remedy["error"], remedy["can_apply"], remedy["policy"]) == ("ROLE_ACCESS_DENIED", True, "explain")
    told = project.run("stream", "status", "CONFIG", "--json").json["remedy"]
    for name in (
        "since",
        "kept_until",
    ):  # a watch knows by its lag when the oldest change was committed, before the service gave its reason
        assert remedy.pop(name) <= told.pop(name)
    assert remedy == told
    talk = project.run("stream", "watch", "CONFIG", "--once")
    assert "aws iam update-assume-role-policy" in talk.err


def test_with_apply_it_is_mended_and_what_changes_is_shown(project: Project, server: LocalAws, cluster: str) -> None:
    project.write(block(cluster, "  remedies: {ROLE_ACCESS_DENIED: apply}\n"))
    server.control("cause", cluster=cluster, stream=cdc_stream(project), reason="ROLE_ACCESS_DENIED")
    first = project.run("stream", "watch", "CONFIG", "--once")
    assert first.code == 1  # as it was found
    assert any(line.strip().startswith("+") and line.rstrip().endswith('/stream/*"') for line in first.err.splitlines())
    assert "acted" in first.err
    assert project.run("stream", "watch", "CONFIG", "--once").code == 0
    assert project.run("checkpoint", "show", "CONFIG").err == "No checkpoints.\n"


def test_a_stream_that_failed_and_was_made_again_exits_3_until_its_gap_is_acknowledged(
    project: Project, server: LocalAws, cluster: str
) -> None:
    project.write(block(cluster, "  remedies: {default: apply}\n"))
    assert project.run("stream", "watch", "CONFIG", "--once").code == 0
    server.control("cdc", cluster=cluster, stream=cdc_stream(project), fail="INTERNAL_ERROR")
    assert project.run("stream", "watch", "CONFIG", "--once").code == 1
    assert project.run("stream", "watch", "CONFIG", "--once").code == 3
    listed = project.run("gaps", "CONFIG", "--json")
    assert (listed.code, [gap["kind"] for gap in listed.jsons]) == (3, ["recreated"])
    gap = listed.jsons[0]
    assert gap["from_time"] < gap["to_time"]
    assert project.run("gaps", "ack", gap["id"], "CONFIG", "--reason", "repaired", "--yes").code == 0
    assert project.run("stream", "watch", "CONFIG", "--once").code == 0


def test_without_a_stream_block_it_is_a_config_error(project: Project) -> None:
    answer = project.run("stream", "watch", "CONFIG", "--once")
    assert answer.code == 2
    assert "stream" in answer.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_interrupted(project: Project, cluster: str, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "dsqlcdc", "stream", "watch", str(project.config), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ)) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "found"
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_remedies_with_a_state_that_no_other_process_sees_are_warned_of_at_start_and_by_lint(project: Project, cluster: str) -> None:
    project.write(block(cluster, "  remedies: {default: apply}\n") + "state: {type: memory}\n")
    watched = project.run("stream", "watch", "CONFIG", "--once")
    assert (watched.code, watched.err.startswith("warning: DSQLCDC-E045 two processes")) == (0, True)
    linted = project.run("config", "lint", "CONFIG")
    assert (linted.code, linted.out.startswith("warning: DSQLCDC-E045"), linted.err.endswith("no mistakes, 1 warning.\n")) == (
        0,
        True,
        True,
    )
    told = project.run("config", "lint", "CONFIG", "--json").json
    assert (told["ok"], [one["severity"] for one in told["findings"]]) == (True, ["warning"])
