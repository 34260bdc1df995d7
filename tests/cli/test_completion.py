"""Shell completion: what each shell is told, that it is installed where the shell looks, and that it costs no more than the help."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dsqlcdc.cli.app import COMMANDS

COMMAND = [sys.executable, "-c", "from dsqlcdc.cli import main; main()"]
SHELLS = ("bash", "zsh", "fish")
THERE = [shell for shell in SHELLS if shutil.which(shell)]
"""bash is everywhere; the others are asked by themselves where they are."""


def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **environ}
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False, timeout=60, env=environment)


def told(shell: str, line: str) -> list[str]:
    """What a shell is told where this line, begun so far, is to be completed."""
    if shell == "bash":
        asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    else:
        asked = {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = run(_DSQLCDC_COMPLETE=f"complete_{shell}", **asked)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "wanted", "other"),
    [
        ("dsqlcdc st", ["status", "stream"], "run"),
        ("dsqlcdc dead ", ["list", "show", "replay", "discard"], "status"),
        ("dsqlcdc stream a", ["apply"], "plan"),
        ("dsqlcdc run --lo", ["--log", "--log-level"], "--once"),
        ("dsqlcdc run --log ", ["text", "json"], "--once"),
        ("dsqlcdc init --host ", ["daemon", "container", "lambda"], "--sink"),
    ],
)
def test_commands_options_and_choices_are_completed(shell: str, line: str, wanted: list[str], other: str) -> None:
    text = "\n".join(told(shell, line))
    assert [word for word in wanted if not offered(word, text)] == []
    assert not offered(other, text)


def offered(word: str, text: str) -> bool:
    """Is this word offered, by itself, in quotes, or with its meaning behind it?"""
    return re.search(rf'(?m)(?:^|["(]){re.escape(word)}(?=["\t]|$)', text) is not None


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_is_told(shell: str) -> None:
    assert [name for name in COMMANDS if name not in "\n".join(told(shell, "dsqlcdc "))] == []


def test_a_file_is_left_to_the_shell() -> None:
    assert not any(told("bash", "dsqlcdc status ord"))
    asked = {"_TYPER_COMPLETE_ARGS": "dsqlcdc status ord", "_TYPER_COMPLETE_FISH_ACTION": "is-args"}
    assert run(_DSQLCDC_COMPLETE="complete_fish", **asked).returncode == 1  # fish then offers files
    assert run(_DSQLCDC_COMPLETE="complete_fish", **{**asked, "_TYPER_COMPLETE_ARGS": "dsqlcdc st"}).returncode == 0


def inside(shell: str, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command as that shell starts it, so that it can see which shell it is in."""
    environment = {**os.environ, **environ}
    line = f"{shlex.join([*COMMAND, *words])}; true"
    return subprocess.run([shell, "-c", line], capture_output=True, text=True, check=False, timeout=60, env=environment)


@pytest.mark.parametrize("shell", THERE)
def test_the_script_that_is_shown_is_one_of_that_shell(shell: str) -> None:
    done = inside(shell, "--show-completion")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"complete_{shell}" in done.stdout
    checked = subprocess.run([shell, "-n"], input=done.stdout, capture_output=True, text=True, check=False, timeout=30)
    assert (checked.returncode, checked.stderr) == (0, "")


PLACES = {"bash": ".bashrc", "zsh": ".zshrc", "fish": ".config/fish/completions/dsqlcdc.fish"}


@pytest.mark.parametrize("shell", THERE)
def test_it_is_installed_where_the_shell_looks(shell: str, tmp_path: Path) -> None:
    for _ in range(2):
        done = inside(shell, "--install-completion", HOME=str(tmp_path))
        assert (done.returncode, done.stderr) == (0, "")
    place = (tmp_path / PLACES[shell]).read_text(encoding="utf-8")
    assert "complet" in place
    assert place.count("source ") <= 1  # twice is as once
    assert list(tmp_path.rglob("*dsqlcdc*"))


def test_bash_itself_completes_by_it(tmp_path: Path) -> None:
    """The real shell, the real command by its name."""
    (tmp_path / "dsqlcdc").write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n', encoding="utf-8")
    (tmp_path / "dsqlcdc").chmod(0o755)
    script = inside("bash", "--show-completion").stdout
    drive = script + '\nCOMP_WORDS=(dsqlcdc checkpoint re); COMP_CWORD=2; _dsqlcdc_completion dsqlcdc; echo "${COMPREPLY[@]}"\n'
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash"], input=drive, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert (done.stdout, done.stderr) == ("reset\n", "")


def test_what_completes_imports_nothing_heavy() -> None:
    """A tab must not wait for a web server's or AWS's library."""
    from .test_app import HEAVY

    for line, number in (("dsqlcdc ", "1"), ("dsqlcdc run --lo", "2"), ("dsqlcdc init --host ", "3")):
        code = (
            "import sys\nfrom dsqlcdc.cli.app import invoke\n"
            "try:\n    invoke([])\nexcept SystemExit:\n    pass\n"
            f"print(*[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr, end='')\n"
        )
        environment = {**os.environ, "_DSQLCDC_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": number}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60, env=environment)
        assert done.stderr in (("",) if number == "1" else ("", "pydantic"))  # typer has it look at the defaults of some options
        assert done.stdout
