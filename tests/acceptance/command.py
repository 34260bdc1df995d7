"""The command `dsqlcdc` as a subprocess: started, waited for, signalled; every failure tells what it said."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

DSQLCDC = Path(sys.executable).with_name("dsqlcdc")
PATIENCE = 40.0
"""Seconds within which anything that is waited for must be so, on a loaded machine."""


class Done(msgspec.Struct, frozen=True):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The last line of stdout."""
        assert self.out.strip(), f"nothing on stdout, exit {self.code}:\n{self.err}"
        return json.loads(self.out.splitlines()[-1])

    @property
    def lines(self) -> list[Any]:
        """Every line of stdout."""
        return [json.loads(line) for line in self.out.splitlines()]

    def expect(self, code: int) -> Done:
        assert self.code == code, f"exit {self.code}, not {code}\n--- stdout\n{self.out[-3000:]}\n--- stderr\n{self.err[-6000:]}"
        return self


class Command:
    """One running command; its outputs go to files, so that it never waits for us."""

    def __init__(self, directory: Path, environ: Mapping[str, str], *arguments: str, word: Callable[[], object] = lambda: "") -> None:
        """`word`: what it says of itself, asked when it does not do what was waited for."""
        self._word = word
        number = len(list(directory.glob("*.err")))
        self._out, self._err = directory / f"{number}.out", directory / f"{number}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [DSQLCDC, *arguments], cwd=directory, env=dict(environ), stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )

    @property
    def out(self) -> str:
        return self._out.read_text(errors="replace")

    @property
    def err(self) -> str:
        return self._err.read_text(errors="replace")

    def until(self, condition: Callable[[], T], what: str, within: float = PATIENCE) -> T:
        """Wait until the condition holds (is truthy) while the command runs; its value."""
        end = time.monotonic() + within
        while not (found := condition()):
            assert time.monotonic() < end, f"not within {within:.0f} s: {what}\n{self._word()}\n{self.err[-6000:]}"
            assert not self._ended_within(0.05) or condition(), f"exit {self.process.returncode} before {what}\n{self.err[-6000:]}"
        return found

    def says(self, text: str, within: float = PATIENCE) -> None:
        """Wait until stderr holds the text."""
        self.until(lambda: text in self.err, f"stderr says {text!r}", within)

    def lives(self, seconds: float) -> None:
        """Let it run so long; it must not end by itself."""
        assert not self._ended_within(seconds), f"exit {self.process.returncode} by itself\n{self.err[-6000:]}"

    def _ended_within(self, seconds: float) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, number: signal.Signals | None = None, within: float = PATIENCE) -> Done:
        """Signal it, where a signal is given, and wait for its end."""
        if number is not None:
            self.send(number)
        ended = self._ended_within(within)
        assert ended, f"still running after {within:.0f} s\n{self.err[-6000:]}"
        return Done(self.process.returncode, self.out, self.err)

    def kill(self) -> None:
        """kill -9, and gone for certain. Fine where it has ended."""
        self.process.kill()
        self.process.wait(10)
