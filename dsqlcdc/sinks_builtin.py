"""The sinks that need no destination: `drop` counts and forgets, `stdout` prints JSON Lines."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Self

from dsqlcdc.contract import Change, Context, Setback, Sink
from dsqlcdc.errors import Misconfigured
from dsqlcdc.lines import line
from dsqlcdc.options import StrictOptions


class DropOptions(StrictOptions):
    """`{type: drop}` takes none."""


class Drop(Sink):
    """Takes changes, counts and forgets them: for benchmarks and dry runs. `changes` and `bytes` are counted as received."""

    Options = DropOptions

    def __init__(self) -> None:
        self.changes = 0
        self.bytes = 0

    @classmethod
    def from_options(cls, options: Mapping[str, Any], context: Context) -> Self:
        """Raises pydantic.ValidationError for any option."""
        cls.Options.model_validate(dict(options))
        return cls()

    async def probe(self) -> bool:
        return True

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        self.changes += len(changes)
        self.bytes += sum([len(change.raw) for change in changes])
        return ()


class StdoutOptions(StrictOptions):
    """`raw`: each line also holds the record exactly as received."""

    raw: bool = False


class Stdout(Sink):
    """Prints changes as JSON Lines, in the form of dsqlcdc.lines. A batch is in when it has been flushed.

    Raises Misconfigured when nobody reads any more (a closed pipe). When cancelled, the lines may be printed all the same.
    """

    Options = StdoutOptions

    def __init__(self, *, raw: bool = False, out: BinaryIO | None = None) -> None:
        self._raw = raw
        self._out = out

    @classmethod
    def from_options(cls, options: Mapping[str, Any], context: Context) -> Self:
        """Raises pydantic.ValidationError for unknown or wrong options."""
        return cls(raw=cls.Options.model_validate(dict(options)).raw)

    async def probe(self) -> bool:
        return True

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        text = b"".join([line(change, self._raw) for change in changes])
        try:
            await asyncio.to_thread(self._print, text)
        except (BrokenPipeError, ValueError) as error:
            raise Misconfigured(
                "standard output is closed", where="sink stdout", why=str(error), run="the command again, with a reader"
            ) from error
        return ()

    def _print(self, text: bytes) -> None:
        out = self._out or sys.stdout.buffer
        out.write(text)
        out.flush()
