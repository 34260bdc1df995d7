"""`dsqlcdc dead`: the records that could not be delivered, and why."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsqlcdc.cli.output import emit, emit_bytes, emit_json, flush, moment, printable, say
from dsqlcdc.cli.shape import AsJson, ConfigFile, group
from dsqlcdc.errors import ConfigError, Misconfigured

if TYPE_CHECKING:
    from dsqlcdc.config import Config
    from dsqlcdc.core.ports import DeadLetter, DeadLetterStore

app = group("Records that could not be delivered, and why.")


@app.command("list", short_help="List them.")
def list_(
    config: ConfigFile,
    sink: Annotated[
        str, typer.Option(help="Only letters of this sink; '-' for records that were bad before any.", show_default=False)
    ] = "",
    table: Annotated[str, typer.Option(help="Only changes of this table, schema.table; * and ? match.", show_default=False)] = "",
    code: Annotated[str, typer.Option(help="Only this reason: unreadable, checksum, incomplete, no_key, …", show_default=False)] = "",
    since: Annotated[str, typer.Option(help="Only what arrived since: 30m, 24h, or an ISO time.", show_default=False)] = "",
    limit: Annotated[str, typer.Option("-n", "--limit", metavar="N", help="At most so many, the oldest first.", show_default=False)] = "",
    as_json: AsJson = False,
) -> None:
    """List dead letters, a line each, those that arrived first before the others."""
    import asyncio

    from dsqlcdc.config import load

    wanted = _Filter(sink, table, code, _since(since) if since else 0.0)
    most = _number(limit) if limit else None
    asyncio.run(_list(load(Path(config)), wanted, most, as_json))


@app.command(short_help="Show one: why, where, and the record.")
def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The letter's name in `dead list`, or a part that only it has.", show_default=False)
    ],
    config: ConfigFile,
    raw: Annotated[bool, typer.Option("--raw", help="Only the record, byte for byte as it was received.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: why, where it was, and the record with the place where it is wrong."""
    import asyncio

    from dsqlcdc.config import load

    found, letter = asyncio.run(_one(load(Path(config)), name, str(config)))
    if raw:
        emit_bytes(letter.raw)
    elif as_json:
        from dsqlcdc.cli.letter import plain

        emit_json(plain(found, letter))
    else:
        from dsqlcdc.cli.letter import render

        emit(render(found, letter))


class _Filter:
    """Which letters are wanted."""

    def __init__(self, sink: str, table: str, code: str, since: float) -> None:
        self.sink, self.table, self.code, self.since = sink, table, code, since

    def __call__(self, letter: DeadLetter) -> bool:
        from fnmatch import fnmatchcase

        return (
            (not self.sink or letter.sink == ("" if self.sink == "-" else self.sink))
            and (not self.code or letter.code == self.code)
            and letter.arrived >= self.since
            and (not self.table or fnmatchcase(table_of(letter), self.table))
        )


def table_of(letter: DeadLetter) -> str:
    """schema.table as far as the record told; "" where it did not."""
    schema, table = letter.event.get("schema"), letter.event.get("table")
    return f"{schema}.{table}" if schema and table else ""


async def _list(config: Config, wanted: _Filter, most: int | None, as_json: bool) -> None:
    shown = 0
    store = _open(config)
    try:
        async for name, letter in _letters(store, config, wanted):
            if shown == most:
                say(f"The first {shown}; there are more.")
                return
            shown += 1
            if as_json:
                emit_json(_line(name, letter))
            else:
                emit(_text(name, letter))
    finally:
        await store.close()
    flush()
    say("No dead letters." if not shown else f"{shown} dead letter{'s' if shown > 1 else ''}.")


async def _letters(store: DeadLetterStore, config: Config, wanted: _Filter) -> AsyncIterator[tuple[str, DeadLetter]]:
    """This pipeline's letters that are wanted: a directory may hold several pipelines'."""
    async for name, letter in store.letters():
        if letter.pipeline == config.pipeline and wanted(letter):
            yield name, letter


async def _one(config: Config, name: str, path: str) -> tuple[str, DeadLetter]:
    """The letter of this name, or the only one whose name holds it."""
    store = _open(config)
    try:
        try:
            return name, await store.letter(name)
        except KeyError:
            near = [(found, letter) async for found, letter in _letters(store, config, _Filter("", "", "", 0.0)) if name in found]
        except ValueError as error:
            raise Misconfigured("this dead letter cannot be read", where=name, why=str(error), code="E093") from error
    finally:
        await store.close()
    if not near:
        raise ConfigError(
            "no such dead letter", where=f"pipeline {config.pipeline}", why=name, run=f"dsqlcdc dead list {path}", code="E092"
        )
    if len(near) > 1:
        why = f"{len(near)} have it in their names: " + ", ".join(found for found, _ in near[:5]) + (", …" if len(near) > 5 else "")
        raise ConfigError("more than one dead letter is meant", where=name, why=why, run=f"dsqlcdc dead list {path}", code="E092")
    return near[0]


def _text(name: str, letter: DeadLetter) -> str:
    """One line, in columns as far as the words fit."""
    cells = (f"{moment(letter.arrived):20}", f"{letter.code:12}", f"{letter.sink or '-':10}", f"{table_of(letter) or '-':24}", name)
    return printable("  ".join((*cells, letter.detail[:160]))).rstrip()


def _line(name: str, letter: DeadLetter) -> dict[str, Any]:
    from dsqlcdc.cli.letter import event_json

    return {
        "name": name,
        "sink": letter.sink or None,
        "table": table_of(letter) or None,
        "code": letter.code,
        "detail": letter.detail,
        "shard": letter.shard,
        "sequence": letter.sequence,
        "arrived_at": moment(letter.arrived) if letter.arrived else None,
        "bytes": len(letter.raw),
        "id": letter.id or None,
        "event": event_json(letter),
    }


def _open(config: Config) -> DeadLetterStore:
    from dsqlcdc.assemble import open_dead_letters

    return open_dead_letters(config)


def _since(text: str) -> float:
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
            raise ConfigError("not a time", where="--since", why=why, run="dsqlcdc dead list --help", code="E090") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ConfigError("not a number", where="-n", why=repr(text), run="dsqlcdc dead list --help", code="E090")
    return int(text)
