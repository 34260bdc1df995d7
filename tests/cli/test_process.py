"""The real command in a process of its own: pipes, signals, bytes."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request

import pytest

from .conftest import Project

COMMAND = [sys.executable, "-c", "from dsqlcdc.cli import main; main()"]


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_reader_that_has_had_enough_leaves_no_traceback(project: Project) -> None:
    for number in range(200):
        project.letter(f"{number:056d}", detail="x" * 160)
    listing = start("dead", "list", str(project.config))
    assert listing.stdout is not None
    assert listing.stderr is not None
    assert "unreadable" in listing.stdout.readline()
    listing.stdout.close()
    said = listing.stderr.read()
    listing.stderr.close()
    assert (listing.wait(30), said) == (141, "")


def test_a_stdout_that_was_closed_before_the_start_leaves_no_traceback(project: Project) -> None:
    project.gap("g1")
    command = shlex.join([*COMMAND, "gaps", str(project.config)])
    done = subprocess.run(["sh", "-c", f"{command} >&-"], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (3, "", False)
    assert "g1: What was committed" in done.stderr


def test_raw_is_the_record_byte_for_byte(project: Project) -> None:
    raw = bytes(range(256))
    project.letter(raw=raw)
    done = subprocess.run([*COMMAND, "dead", "show", "4966", str(project.config), "--raw"], capture_output=True, check=True, timeout=30)
    assert done.stdout == raw


def test_ctrl_c_ends_watching_quietly(project: Project) -> None:
    watching = start("status", str(project.config), "--watch", "--json")
    assert watching.stdout is not None
    assert json.loads(watching.stdout.readline())["pipeline"] == "orders-cdc"
    watching.send_signal(signal.SIGINT)
    _, said = watching.communicate(timeout=30)
    assert (watching.returncode, said) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_local_serves_until_it_is_told_to_end(number: signal.Signals) -> None:
    local = start("local", "--port", "0", "--json")
    assert local.stdout is not None
    told = json.loads(local.stdout.readline())
    assert told["environment"]["AWS_ENDPOINT_URL"] == told["endpoint"]
    with urllib.request.urlopen(told["endpoint"] + "/_dsqlcdc/health", timeout=10) as answer:
        assert answer.status == 200
    local.send_signal(number)
    _, said = local.communicate(timeout=30)
    assert (local.returncode, said) == (0, "")


def test_local_prints_lines_that_a_shell_takes() -> None:
    local = start("local", "--port", "0")
    assert local.stdout is not None
    lines = [local.stdout.readline() for _ in range(5)]
    local.send_signal(signal.SIGINT)
    _, said = local.communicate(timeout=30)
    assert all(re.fullmatch(r"export AWS_[A-Z_]+=[\w:/.-]+\n", line) for line in lines)
    assert "The embedded AWS answers at http://127.0.0.1:" in said
    out = subprocess.run(
        ["sh", "-c", "".join(lines) + "echo $AWS_ENDPOINT_URL"], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert out.stdout.startswith("http://127.0.0.1:")


def test_a_port_that_is_taken_is_an_error_with_the_next_command() -> None:
    first = start("local", "--port", "0", "--json")
    assert first.stdout is not None
    port = json.loads(first.stdout.readline())["endpoint"].rpartition(":")[2]
    try:
        second = subprocess.run([*COMMAND, "local", "--port", port], capture_output=True, text=True, check=False, timeout=30)
        assert (second.returncode, second.stdout) == (1, "")
        assert second.stderr.startswith(f"DSQLCDC-E131 cannot listen, 127.0.0.1:{port}: ")
        assert second.stderr.endswith("Run: dsqlcdc local --port 0\n")
    finally:
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=30)
