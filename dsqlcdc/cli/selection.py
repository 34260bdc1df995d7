"""Which dead letters a command means: its filters, and the letters they let through."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

import typer

from dsqlcdc.cli.output import agreed
from dsqlcdc.errors import ConfigError

if TYPE_CHECKING:
    from dsqlcdc.config import Config
    from dsqlcdc.core.ports import DeadLetter, LetterBox

SinkFilter = Annotated[
    str, typer.Option("--sink", help="Only letters of this sink; '-' for records that were bad before any.", show_default=False)
]
TableFilter = Annotated[str, typer.Option("--table", help="Only changes of this table, schema.table; * and ? match.", show_default=False)]
CodeFilter = Annotated[
    str, typer.Option("--code", help="Only this reason: unreadable, checksum, incomplete, no_key, …", show_default=False)
]
SinceFilter = Annotated[str, typer.Option("--since", help="Only what arrived since: 30m, 24h, or an ISO time.", show_default=False)]


class Filter:
    """Which letters are wanted. `since`: as it was written, a duration or a time."""

    def __init__(self, sink: str = "", table: str = "", code: str = "", since: str = "") -> None:
        self.sink, self.table, self.code = sink, table, code
        self.since = since_of(since, "dead list") if since else 0.0
        self._met: dict[str, int] = {}
        self._sinks: set[str] = set()

    def __call__(self, letter: DeadLetter) -> bool:
        from fnmatch import fnmatchcase

        self._sinks.add(letter.sink or "-")
        self._met[letter.code] = self._met.get(letter.code, 0) + 1
        return (
            (not self.sink or letter.sink == ("" if self.sink == "-" else self.sink))
            and (not self.code or letter.code == self.code)
            and letter.arrived >= self.since
            and (not self.table or fnmatchcase(table_of(letter), self.table))
        )

    def none(self) -> str:
        """What to say where no letter was let through."""
        if not self._met:
            return "No dead letters."
        if self.sink and self.sink not in self._sinks:
            return f"No dead letter is of the sink {self.sink!r}. The sinks that have some: {', '.join(sorted(self._sinks))}."
        if self.code and self.code not in self._met:
            return f"No dead letter has the code {self.code!r}. The codes there are: {', '.join(sorted(self._met))}."
        count = sum(self._met.values())
        return f"The filters let none of {count} dead letter{'s' if count > 1 else ''} through."


def table_of(letter: DeadLetter) -> str:
    """schema.table as far as the record told; "" where it did not."""
    schema, table = letter.event.get("schema"), letter.event.get("table")
    return f"{schema}.{table}" if schema and table else ""


async def letters(store: LetterBox, config: Config, wanted: Filter) -> AsyncIterator[tuple[str, DeadLetter]]:
    """This pipeline's letters that are wanted: a directory may hold several pipelines'."""
    async for name, letter in store.letters():
        if letter.pipeline == config.pipeline and wanted(letter):
            yield name, letter


def open_letters(config: Config) -> LetterBox:
    from dsqlcdc.assemble import open_dead_letters

    return open_dead_letters(config)


def since_of(text: str, command: str, option: str = "--since") -> float:
    """Seconds since the epoch of an ISO time, or of a duration before now."""
    import time
    from datetime import UTC, datetime

    from dsqlcdc.units import parse_duration

    try:
        return time.time() - parse_duration(text)
    except ValueError as no_duration:
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            why = f"{text!r} is neither a duration ({no_duration}) nor an ISO time"
            raise ConfigError("not a time", where=option, why=why, run=f"dsqlcdc {command} --help", code="E090") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def span_of(since: str, until: str, command: str) -> tuple[float | None, float | None]:
    """What --from and --to say, seconds since the epoch, None where one is left out. Raises ConfigError, also where nothing is between them."""
    start = since_of(since, command, "--from") if since else None
    end = since_of(until, command, "--to") if until else None
    if start is not None and end is not None and start >= end:
        why = f"{since} is not before {until}: a duration counts back from now, so --from 24h --to 1h is yesterday up to an hour ago"
        raise ConfigError("nothing is between --from and --to", where="--from, --to", why=why, run=f"dsqlcdc {command} --help", code="E090")
    return start, end


def number_of(text: str, option: str, command: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ConfigError("not a number", where=option, why=repr(text), run=f"dsqlcdc {command} --help", code="E090")
    return int(text)


def asked(question: str, again: str, *, yes: bool) -> bool:
    """Has the question been answered with yes? Raises ConfigError where nobody is there to answer, Abort on Ctrl-C.

    It is asked inside asyncio.run, whose own handler takes the first SIGINT for a request to cancel, and goes on waiting for the answer.
    """
    import signal
    import sys

    if yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigError("this asks, and nobody is there to answer", run=f"{again} --yes", code="E090")
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return agreed(question)
    finally:
        signal.signal(signal.SIGINT, handler)
