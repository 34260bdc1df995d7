"""`status --watch`: a live picture on a terminal, plain lines or an object a line elsewhere, and the terminal as it was when it ends."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from dsqlcdc.cli.live import Movement, picture
from dsqlcdc.core.ports import Commit, Name

from .conftest import Project, after, ago
from .test_status import daemon, running

COMMAND = [sys.executable, "-c", "from dsqlcdc.cli import main; main()"]
HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"
"""The cursor, hidden while a picture is redrawn."""
STREAM = """stream: {cluster: abcdefghijklmnopqrstuvwxyz}
aws: {region: us-east-1}
"""


class Terminal:
    """The command at a pseudo terminal of 120 columns."""

    def __init__(self, *words: str, environ: dict[str, str] | None = None) -> None:
        self._ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40", **(environ or {})}
        if environ is None:
            environment.pop("NO_COLOR", None)
        self.process = subprocess.Popen([*COMMAND, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        self.shown = b""

    def until(self, text: bytes, times: int = 1) -> bytes:
        """Read until this was shown so often; all that was shown."""
        while self.shown.count(text) < times:
            self._read()
        return self.shown

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        try:
            while self._read():
                pass
        except OSError:
            pass  # the other end is closed
        os.close(self._ours)
        return self.process.wait(30)

    def _read(self) -> bytes:
        chunk = os.read(self._ours, 65536)
        self.shown += chunk
        return chunk


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_picture_is_redrawn_and_the_terminal_is_left_as_it_was(project: Project, number: signal.Signals) -> None:
    project.commit({"shardId-000000000001": after("4966", ago(30))})
    terminal = Terminal("status", str(project.config), "--watch", "--every", "200ms")
    terminal.until(b"shardId-000000000001", times=3)
    assert terminal.end(number) == 0
    assert terminal.shown.count(HIDE) == terminal.shown.count(SHOW) == 1
    assert terminal.shown.rindex(SHOW) > terminal.shown.rindex(b"shardId-000000000001")
    assert b"Traceback" not in terminal.shown
    assert b"stands still" in terminal.shown  # from the state store alone: nobody moves the checkpoint


def test_without_colour_there_is_none(project: Project) -> None:
    terminal = Terminal("status", str(project.config), "--watch", "--every", "200ms", environ={"NO_COLOR": "1"})
    terminal.until(b"never ran", times=2)
    assert terminal.end(signal.SIGINT) == 0
    assert b"\x1b[3" not in terminal.shown


def test_what_the_running_process_says_is_shown_live(project: Project) -> None:
    with daemon(project, running()):
        terminal = Terminal("status", str(project.config), "--watch", "--every", "200ms")
        shown = terminal.until(b"delivered 100", times=2).decode()
        assert terminal.end(signal.SIGINT) == 0
    assert "records/s" in shown
    assert "1 min 30 s" in shown
    assert "running" in shown


def test_where_stdout_is_no_terminal_lines_are_printed(project: Project) -> None:
    project.commit({"shardId-000000000001": after("4966", ago(30))})
    watching = subprocess.Popen(
        [*COMMAND, "status", str(project.config), "--watch", "--every", "200ms"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert watching.stdout is not None
    lines = [watching.stdout.readline() for _ in range(7)]
    watching.send_signal(signal.SIGTERM)
    _, said = watching.communicate(timeout=30)
    assert (watching.returncode, said) == (0, "")
    assert sum("shardId-000000000001  4966" in line for line in lines) >= 2
    assert not [line for line in lines if "\x1b" in line]


def test_a_reader_that_has_had_enough_ends_it_quietly(project: Project) -> None:
    watching = subprocess.Popen(
        [*COMMAND, "status", str(project.config), "--watch", "--every", "200ms", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert watching.stdout is not None
    assert watching.stderr is not None
    assert json.loads(watching.stdout.readline())["pipeline"] == "orders-cdc"
    watching.stdout.close()
    assert (watching.wait(30), watching.stderr.read()) == (141, b"")
    watching.stderr.close()


# what is drawn -----------------------------------------------------------------------------------------------------------------------


def drawn(seen: dict[str, Any], live: Any = None, movement: Movement | None = None) -> str:
    console = Console(width=140, no_color=True, force_terminal=False)
    with console.capture() as said:
        console.print(picture(seen, live, {}, movement or Movement(), time.time(), "orders.yaml"))
    return said.get()


def seen(project: Project) -> dict[str, Any]:
    found: dict[str, Any] = project.run("status", "CONFIG", "--json").json
    return found


def test_gaps_are_drawn_with_the_command_to_run(project: Project) -> None:
    project.gap("g1")
    assert "1 unacknowledged gap: changes may be lost. Run: dsqlcdc gaps orders.yaml" in drawn(seen(project))
    project.gap("g1", acked="known")


@pytest.mark.parametrize(("broken", "said"), [(0.0, "last seen ACTIVE 20"), (1_700_000_000.0, "changes may be held back since 2023-11-14")])
def test_the_cdc_stream_is_drawn_from_the_state_store_alone(project: Project, broken: float, said: str) -> None:
    project.write(STREAM)
    assert seen(project)["stream"] is None  # nobody has looked yet
    word = msgspec.json.encode({"stream": "s1", "healthy_at": 1_700_000_000.0, "broken_since": broken})
    name = Name("orders-cdc", ".stream", "abcdefghijklmnopqrstuvwxyz/orders-cdc")
    project._with_store(lambda store: store.commit(name, Commit({}, word=word)))
    told = seen(project)
    assert told["stream"]["healthy_at"] == "2023-11-14T22:13:20Z"
    assert said in drawn(told)
    assert list(told["sinks"]) == ["lake"]  # what is reserved is no sink


def test_a_broken_cdc_stream_is_drawn_with_its_reason_and_what_to_run(project: Project) -> None:
    stream = {"status": "IMPAIRED", "reason": {"error": "KINESIS_OVERSIZE_RECORD"}, "remedy": {"explanation": "Too large.\x1b[2J"}}
    text = drawn({**seen(project), "stream": stream})
    assert "CDC stream IMPAIRED: KINESIS_OVERSIZE_RECORD" in text
    assert "Too large.\\x1b[2J Run: dsqlcdc stream status orders.yaml" in text
    assert "CDC stream ACTIVE" in drawn({**seen(project), "stream": {"status": "ACTIVE"}})


def test_reasons_why_it_is_not_ready_are_drawn(project: Project) -> None:
    reasons = [{"pipeline": "orders-cdc", "sink": "lake", "code": "stopped", "reason": "access denied"}]
    text = drawn({**seen(project), "reasons": reasons}, [running(state="stopped", reason="access denied")])
    assert "not ready" in text
    assert "lake: access denied" in text


def test_a_sink_that_no_process_runs_is_drawn_beside_those_that_run(project: Project) -> None:
    project.write(sinks=("lake", "hook"))
    text = drawn(seen(project), [running()])
    assert "never ran" in text
    assert "delivered 100" in text


def test_how_a_checkpoint_moves_is_told_by_its_age() -> None:
    movement = Movement()
    assert movement.look("lake", "s", 10.0, 100.0) == "-"
    assert movement.look("lake", "s", 12.0, 102.0) == "stands still"
    assert movement.look("lake", "s", 12.0, 104.0) == "keeps up"
    assert movement.look("lake", "s", 4.0, 106.0) == "catches up"
    assert movement.look("lake", "s", None, 108.0) == "-"
    assert movement.look("hook", "s", 4.0, 108.0) == "-"


def test_the_newest_shards_are_not_drawn_where_there_are_many(project: Project) -> None:
    project.commit({f"shardId-{n:012d}": after(str(n), ago(10 + n)) for n in range(20)})
    text = drawn(seen(project))
    assert "shardId-000000000019" in text
    assert "shardId-000000000001" not in text
    assert "and 8 more" in text


def test_the_config_of_the_test_is_one(project: Project, tmp_path: Path) -> None:
    """Control: the block that makes the CDC stream be looked for is valid."""
    project.write(STREAM)
    assert project.run("config", "lint", "CONFIG").code == 0
