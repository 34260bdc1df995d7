"""Documents, followed line by line: their shell blocks run as they stand, in order, against the embedded AWS, and print what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from .reading import ROOT

_PROLOGUE = """\
set -eu
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT
aws() {{ "{python}" -P "{aws}" "$@"; }}
make() {{ :; }}
.venv/bin/pip() {{ :; }}
if [ -e names ]; then . ./names; fi
"""
"""The CLI is ours; what `make install` makes is there, with every extra; one script goes on where the one before ended."""
_EPILOGUE = "\n{ export -p; if declare -F fill > /dev/null; then declare -f fill; fi; } > names\n"
_ARROW = re.compile(r"\s# (?:[^→\n]* )?→ (.*)$", re.MULTILINE)


class Clone:
    """A clone as a document finds it, with its environment already made and on the path, and a shell in it."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        for name in ("deploy", "examples"):
            (directory / name).symlink_to(ROOT / name)
        (directory / ".venv").mkdir()
        (directory / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
        aws = directory / "aws_cli.py"
        aws.write_bytes((Path(__file__).parent / "aws_cli.py").read_bytes())
        self.directory, self._prologue = directory, _PROLOGUE.format(python=sys.executable, aws=aws)
        own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        self._environment = {**own, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{own['PATH']}", "NO_COLOR": "1", **environment}

    def run(self, script: str, *, where: str = ".", timeout: float = 280.0) -> str:
        """What the script says, stdout and stderr as they come; it must end with 0, and so must each command in it."""
        path = self.directory / "script.sh"
        path.write_text(f"{self._prologue}cd {where}\n{script}cd {self.directory}\n{_EPILOGUE}", encoding="utf-8")
        done = subprocess.run(
            ["bash", path.name],
            cwd=self.directory,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout

    def walk(self, script: str, *, where: str = ".", timeout: float = 280.0) -> str:
        """The same, and what stands behind an arrow (`# → …`) is printed, in that order."""
        told = self.run(script, where=where, timeout=timeout)
        assert not (left := unsaid(script, told)), f"not printed: {left}\n{told[:3000]}\n…\n{told[-3000:]}"
        return told


def unsaid(script: str, told: str) -> str:
    """The first of what a script says it prints that is not in `told` behind those before, "" for none. Numbers may be others; … is anything."""
    at = 0
    for said in _ARROW.findall(script):
        number = re.compile(r"\d+(?:\.\d+)?")
        parts = [r"\d+(?:\.\d+)?".join(map(re.escape, number.split(part))) for part in said.split("…")]
        found = re.compile(".*?".join(parts)).search(told, at)
        if found is None:
            return str(said)
        at = found.end()
    return ""


def script_of(texts: Iterable[str]) -> str:
    return "\n".join(texts) + "\n"
