"""The command line as a whole: help, exit codes, the form of errors."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from dsqlcdc import __version__
from dsqlcdc.cli import app, output
from dsqlcdc.cli.app import COMMANDS, exit_code, report
from dsqlcdc.errors import ConfigError, Fault, Held, Lost, Misconfigured, Poisoned, Stopped, Unavailable

from .conftest import Project

SUBCOMMANDS = [
    *([name] for name in COMMANDS),
    ["config", "lint"],
    ["config", "show"],
    ["config", "schema"],
    ["dead", "list"],
    ["dead", "show"],
    ["dead", "replay"],
    ["dead", "discard"],
    ["checkpoint", "show"],
    ["checkpoint", "reset"],
    ["stream", "plan"],
    ["stream", "apply"],
    ["stream", "status"],
    ["stream", "watch"],
    ["stream", "delete"],
    ["opensearch", "rebuild"],
    ["audit", "verify"],
    ["audit", "digest"],
    ["audit", "show"],
    ["audit", "ddl"],
    ["audit", "transactions"],
    ["audit", "compact"],
]
GROUPS = (["config"], ["dead"], ["checkpoint"], ["stream"], ["audit"], ["opensearch"])
HEAVY = ("aiobotocore", "aiohttp", "asyncio", "boto3", "botocore", "orjson", "prometheus_client", "pydantic", "rich", "yaml")


@pytest.mark.parametrize("words", [[], *SUBCOMMANDS], ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_help(project: Project, words: list[str], flag: str) -> None:
    answer = project.run(*words, flag)
    assert answer.code == 0
    assert answer.out.startswith(f"Usage: {' '.join(['dsqlcdc', *words])}")
    assert answer.err == ""


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        (["status"], "dsqlcdc status [OPTIONS] CONFIG"),
        (["gaps"], "dsqlcdc gaps [OPTIONS] [ack ID] CONFIG"),
        (["dead", "show"], "dsqlcdc dead show [OPTIONS] NAME CONFIG"),
        (["config", "schema"], "dsqlcdc config schema [OPTIONS]"),
        (["run"], "dsqlcdc run [OPTIONS] CONFIG"),
        (["tail"], "dsqlcdc tail [OPTIONS] CONFIG [TABLE…]"),
    ],
)
def test_the_usage_line_is_golden(project: Project, words: list[str], usage: str) -> None:
    assert project.run(*words, "--help").out.splitlines()[0] == f"Usage: {usage}"


def test_the_list_of_commands_is_golden(project: Project) -> None:
    lines = project.run().out.partition("Commands:\n")[2].splitlines()
    names = [
        "init",
        "run",
        "config",
        "status",
        "doctor",
        "dead",
        "gaps",
        "tail",
        "checkpoint",
        "stream",
        "audit",
        "opensearch",
        "demo",
        "local",
    ]
    assert [line.split()[0] for line in lines] == names


@pytest.mark.parametrize("words", [words for words in SUBCOMMANDS if words not in GROUPS], ids=" ".join)
def test_json_is_an_option_of_every_command(project: Project, words: list[str]) -> None:
    assert "--json" in project.run(*words, "--help").out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom dsqlcdc.cli.app import invoke\n"
        f"for words in {[[], *SUBCOMMANDS]!r}:\n"
        "    assert invoke([*words, '--help']) == 0\n"
        f"    heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "    assert not heavy, (words, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_that_check_would_see_a_heavy_import() -> None:
    code = f"import sys, rich\nsys.exit(' '.join(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert "rich" in done.stderr


def test_the_version_is_said(project: Project) -> None:
    assert project.run("--version").out == f"dsqlcdc {__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stats", "x"], "DSQLCDC-E090 no such command, 'stats': did you mean 'status'?, dsqlcdc. Run: dsqlcdc --help\n"),
        (["dead"], "DSQLCDC-E090 missing command, dsqlcdc dead. Run: dsqlcdc dead --help\n"),
        (["status"], "DSQLCDC-E090 missing argument 'CONFIG', dsqlcdc status. Run: dsqlcdc status --help\n"),
        (["status", "--nope", "x"], "DSQLCDC-E090 no such option: --nope, dsqlcdc status. Run: dsqlcdc status --help\n"),
        (["gaps", "a", "b"], "DSQLCDC-E090 these are not the arguments of `gaps`: a b. Run: dsqlcdc gaps --help\n"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_to_run(project: Project, words: list[str], said: str) -> None:
    answer = project.run(*words)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == said


def test_with_json_an_error_is_one_object_on_stderr(project: Project) -> None:
    answer = project.run("status", "nowhere.yaml", "--json")
    assert (answer.code, answer.out) == (2, "")
    error = json.loads(answer.err)["error"]
    assert set(error) >= {"code", "what", "where", "why", "run"}
    assert error["code"] == "DSQLCDC-E002"


@pytest.mark.parametrize(
    ("kind", "code"),
    [(ConfigError, 2), (Lost, 3), (Misconfigured, 1), (Stopped, 1), (Held, 1), (Poisoned, 1), (Unavailable, 1), (Fault, 1)],
)
def test_a_fault_decides_the_exit_code(kind: type[Fault], code: int) -> None:
    assert exit_code(kind("x")) == code


def test_every_finding_of_a_config_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    fault = ConfigError("two", findings=[ConfigError("one", code="E010"), ConfigError("other", code="E011")])
    report(fault, as_json=False)
    assert capsys.readouterr().err == "DSQLCDC-E010 one.\nDSQLCDC-E011 other.\n"
    report(fault, as_json=True)
    assert [finding["code"] for finding in json.loads(capsys.readouterr().err)["findings"]] == ["DSQLCDC-E010", "DSQLCDC-E011"]


def test_an_interrupt_is_130_without_a_traceback(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dsqlcdc.config.load", interrupted)
    answer = project.run("status", "CONFIG")
    assert (answer.code, answer.out, answer.err) == (130, "", "")


def test_a_reader_that_is_gone_ends_a_command_quietly(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(_: str) -> int:
        raise BrokenPipeError

    silenced: list[bool] = []
    monkeypatch.setattr(app, "silence", lambda: silenced.append(True))
    monkeypatch.setattr("sys.stdout.write", closed)
    answer = project.run("config", "show", "CONFIG")
    assert (answer.code, answer.err, silenced) == (141, "", [True])


@pytest.mark.parametrize("text", ["plain", "a\x1b[31mb", "x\ny", "\ud800", "é – 漢"])
def test_what_strangers_wrote_does_nothing_to_a_terminal(text: str) -> None:
    shown = output.printable(text)
    assert shown.isprintable()
    assert shown == text or "\\" in shown


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_path_that_is_no_text_is_an_error_like_any_other(project: Project, flags: list[str]) -> None:
    answer = project.run("status", "\udcff.yaml", *flags)
    assert (answer.code, answer.out) == (2, "")
    assert "E002" in answer.err


def test_what_stdout_cannot_encode_is_spelt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    output.emit("a \ud800 – b")
    output.emit_bytes(b"\xff")
    assert raw.getvalue() == b"a \\ud800 \\u2013 b\n\xff"


def test_columns_are_aligned_and_never_cut() -> None:
    long = "x" * 300
    assert output.columns(("A", "NUMBER"), [("a", "1"), (long, "1,000")], right=(1,)).splitlines() == [
        f"{'A':300}  NUMBER",
        f"{'a':300}       1",
        f"{long}   1,000",
    ]


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colour_only_on_a_terminal_and_where_it_is_wanted(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], coloured: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert not output.coloured()
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert output.coloured() == coloured
    assert ("\x1b" in output.columns(("A",), [("a",)])) == coloured
