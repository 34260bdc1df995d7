"""`dsqlcdc dead`: the records that could not be delivered, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsqlcdc.cli.output import emit, emit_bytes, emit_json, flush, moment, printable, say
from dsqlcdc.cli.selection import CodeFilter, Filter, SinceFilter, SinkFilter, TableFilter, letters, number_of, open_letters, table_of
from dsqlcdc.cli.shape import AsJson, ConfigFile, Yes, group
from dsqlcdc.errors import ConfigError, Misconfigured

if TYPE_CHECKING:
    from dsqlcdc.config import Config
    from dsqlcdc.core.ports import DeadLetter

app = group("Records that could not be delivered, and why.")


@app.command("list", short_help="List them.")
def list_(
    config: ConfigFile,
    sink: SinkFilter = "",
    table: TableFilter = "",
    code: CodeFilter = "",
    since: SinceFilter = "",
    limit: Annotated[str, typer.Option("-n", "--limit", metavar="N", help="At most so many, the oldest first.", show_default=False)] = "",
    as_json: AsJson = False,
) -> None:
    """List dead letters, a line each, those that arrived first before the others."""
    import asyncio

    from dsqlcdc.config import load

    wanted = Filter(sink, table, code, since)
    most = number_of(limit, "-n", "dead list") if limit else None
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


DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]


@app.command(short_help="Deliver them again.")
def replay(
    config: ConfigFile,
    sink: SinkFilter = "",
    table: TableFilter = "",
    code: CodeFilter = "",
    since: SinceFilter = "",
    rate: Annotated[str, typer.Option(metavar="N", help="At most so many a second.", show_default=False)] = "",
    deadline: Annotated[str, typer.Option(metavar="TIME", help="How long a sink may be unreachable.")] = "1m",
    from_lambda: Annotated[
        str, typer.Option("--from-lambda-destination", metavar="S3://…", help="What a Lambda trigger gave up.", show_default=False)
    ] = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Read dead letters as CONFIG says today and deliver them, also beside a running daemon.

    A letter that was delivered, is stale or a duplicate moves to replayed/; one that is still bad stays, with an attempt counted. Stopped
    anywhere, the next replay goes on. Exits 4 where letters stay. With --from-lambda-destination the batches in a trigger's on-failure
    destination are delivered instead, as the function would have; the objects stay.
    """
    import asyncio

    from dsqlcdc.config import load
    from dsqlcdc.units import parse_duration

    try:
        patience = parse_duration(deadline)
    except ValueError as error:
        raise ConfigError("not a time", where="--deadline", why=str(error), run="dsqlcdc dead replay --help", code="E090") from error
    if from_lambda:
        if sink or table or code or since or rate:
            why = "a batch is delivered whole, to every sink of CONFIG"
            run = "dsqlcdc dead replay --help"
            raise ConfigError("--from-lambda-destination takes no filters", where="dead replay", why=why, run=run, code="E090")
        from dsqlcdc.cli import destination

        done = destination.replay(Path(config), from_lambda, dry_run=dry_run, yes=yes, deadline=patience, as_json=as_json)
        raise typer.Exit(done)
    wanted, each = Filter(sink, table, code, since), number_of(rate, "--rate", "dead replay") if rate else 0
    from dsqlcdc.cli import replay as work  # with the sinks and their libraries: not for every command

    raise typer.Exit(
        asyncio.run(work.replay(load(Path(config)), wanted, dry_run=dry_run, yes=yes, rate=each, deadline=patience, as_json=as_json))
    )


@app.command(short_help="Give them up, with a reason.")
def discard(
    config: ConfigFile,
    sink: SinkFilter = "",
    table: TableFilter = "",
    code: CodeFilter = "",
    since: SinceFilter = "",
    reason: Annotated[str, typer.Option(help="Why nobody needs them.", show_default=False)] = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Move dead letters to discarded/, with the reason: they are not replayed any more, and can still be shown by name."""
    import asyncio

    from dsqlcdc.cli import replay as work
    from dsqlcdc.config import load

    wanted = Filter(sink, table, code, since)
    raise typer.Exit(asyncio.run(work.discard(load(Path(config)), wanted, reason.strip(), dry_run=dry_run, yes=yes, as_json=as_json)))


async def _list(config: Config, wanted: Filter, most: int | None, as_json: bool) -> None:
    shown = 0
    store = open_letters(config)
    try:
        async for name, letter in letters(store, config, wanted):
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
    say(wanted.none() if not shown else f"{shown} dead letter{'s' if shown > 1 else ''}.")


async def _one(config: Config, name: str, path: str) -> tuple[str, DeadLetter]:
    """The letter of this name, or the only one whose name holds it."""
    store = open_letters(config)
    try:
        try:
            return name, await store.letter(name)
        except KeyError:
            near = [(found, letter) async for found, letter in letters(store, config, Filter()) if name in found]
        except ValueError as error:
            raise Misconfigured(
                "this dead letter cannot be read", where=name, why=str(error), run=f"dsqlcdc dead list {path}", code="E093"
            ) from error
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
