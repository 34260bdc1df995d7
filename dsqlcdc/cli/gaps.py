"""`dsqlcdc gaps`: what may have been lost, and saying that it has been dealt with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsqlcdc.cli.output import columns, emit, emit_json, moment, say
from dsqlcdc.cli.selection import asked
from dsqlcdc.cli.shape import AsJson, Yes, application
from dsqlcdc.errors import ConfigError

if TYPE_CHECKING:
    from dsqlcdc.config import Config
    from dsqlcdc.core.ports import Gap

app = application()


@app.command()
def gaps(
    words: Annotated[
        list[str], typer.Argument(metavar="[ack ID] CONFIG", help="The config file; `ack ID` before it acknowledges.", show_default=False)
    ],
    every: Annotated[bool, typer.Option("--all", help="With ack and without an ID: every gap that is not acknowledged.")] = False,
    kind: Annotated[str, typer.Option(help="Only this kind: trimmed, incomplete, reset, replaced, recreated.", show_default=False)] = "",
    sink: Annotated[str, typer.Option(help="Only this sink's.", show_default=False)] = "",
    reason: Annotated[str, typer.Option(help="Why this gap needs no more attention; needed by ack.", show_default=False)] = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """List what may have been lost, with bounds and the remedy. Exits 3 where a gap is not acknowledged.

    `gaps ack ID CONFIG --reason "…"` acknowledges one: the pipeline then starts behind it. `gaps ack --all CONFIG --reason "…"` acknowledges
    all that --kind and --sink let through.
    """
    import asyncio

    from dsqlcdc.config import load

    match words:
        case ["ack", id, path] if not (every or kind or sink):
            code = asyncio.run(_ack(load(Path(path)), id, path, reason.strip(), yes=yes, as_json=as_json))
        case ["ack", path] if every:
            filters = "".join(f" --{name} {value}" for name, value in (("kind", kind), ("sink", sink)) if value)
            wanted = _wanted(kind, sink)
            code = asyncio.run(_ack_all(load(Path(path)), wanted, f"--all {path}{filters}", reason.strip(), yes=yes, as_json=as_json))
        case [path] if path != "ack" and not every:
            code = asyncio.run(_list(load(Path(path)), _wanted(kind, sink), path, as_json))
        case _:
            why = " ".join([*words, *(["--all"] if every else [])])
            raise ConfigError("these are not the arguments of `gaps`", why=why, run="dsqlcdc gaps --help", code="E090")
    raise typer.Exit(code)


def _wanted(kind: str, sink: str) -> Callable[[Gap], bool]:
    from dsqlcdc.core.ports import GAP_KINDS

    if kind and kind not in GAP_KINDS:
        why = f"{kind!r} is none of {', '.join(GAP_KINDS)}"
        raise ConfigError("no such kind of gap", where="--kind", why=why, run="dsqlcdc gaps --help", code="E090")
    return lambda gap: kind in ("", gap.kind) and sink in ("", gap.sink)


async def _list(config: Config, wanted: Callable[[Gap], bool], path: str, as_json: bool) -> int:
    found = [gap for gap in await _stored(config) if wanted(gap)]
    if as_json:
        for gap in found:
            emit_json(plain(gap))
    elif found:
        emit(_table(found))
    unacknowledged = [gap for gap in found if not gap.acked]
    if not found:
        say("No gaps.")
    for gap in unacknowledged:
        say(f"{gap.id}: {remedy(gap)} Then run: dsqlcdc gaps ack {gap.id} {path} --reason '…'")
    return 3 if unacknowledged else 0


async def _stored(config: Config) -> Sequence[Gap]:
    from dsqlcdc.assemble import open_checkpoints

    store = open_checkpoints(config, read_only=True)
    try:
        return await store.gaps(config.pipeline)
    finally:
        await store.close()


async def _ack(config: Config, id: str, path: str, reason: str, *, yes: bool, as_json: bool) -> int:
    import time

    from dsqlcdc.assemble import open_checkpoints

    if not reason:
        raise ConfigError("a gap is acknowledged with a reason", run=f"dsqlcdc gaps ack {id} {path} --reason '…'", code="E090")
    gap = next((gap for gap in await _stored(config) if gap.id == id), None)
    if gap is None:
        raise ConfigError("no such gap", where=f"pipeline {config.pipeline}", why=id, run=f"dsqlcdc gaps {path}", code="E091")
    if not gap.acked and not yes:
        say(_table([gap]))
        if not asked("Acknowledge this gap? The pipeline goes on behind it.", f"dsqlcdc gaps ack {id} {path} --reason '…'", yes=False):
            say("Nothing was changed.")
            return 0
    store = open_checkpoints(config)
    try:
        acked = await store.ack_gap(config.pipeline, id, reason, time.time())
    finally:
        await store.close()
    if as_json:
        emit_json(plain(acked))
    elif gap.acked:
        say(f"{id} was acknowledged already, {moment(acked.acked_at)}: {acked.acked}")
    else:
        say(f"{id} is acknowledged.")
    return 0


async def _ack_all(config: Config, wanted: Callable[[Gap], bool], words: str, reason: str, *, yes: bool, as_json: bool) -> int:
    """Shown whole, then acknowledged one by one: stopped anywhere, the rest is still there."""
    import time

    from dsqlcdc.assemble import open_checkpoints

    again = f"dsqlcdc gaps ack {words} --reason '…'"
    if not reason:
        raise ConfigError("a gap is acknowledged with a reason", run=again, code="E090")
    found = [gap for gap in await _stored(config) if not gap.acked and wanted(gap)]
    if not found:
        say("No gaps to acknowledge.")
        return 0
    say(_table(found))
    if not asked(f"Acknowledge {_gaps(len(found))}? The pipeline goes on behind them.", again, yes=yes):
        say("Nothing was changed.")
        return 0
    store, done = open_checkpoints(config), 0
    try:
        for gap in found:
            acked = await store.ack_gap(config.pipeline, gap.id, reason, time.time())
            done += 1
            if as_json:
                emit_json(plain(acked))
    finally:
        await store.close()
        say(f"{done} of {_gaps(len(found))} acknowledged.")
    return 0


def _gaps(count: int) -> str:
    return f"{count} gap{'s' if count > 1 else ''}"


def remedy(gap: Gap) -> str:
    """What to do about it."""
    if gap.kind == "incomplete":
        return "Pieces of oversized rows never came: see `dsqlcdc dead list`; read these rows from the database."
    if gap.kind == "recreated" and not gap.to_time:
        return (
            f"What was committed since {moment(gap.from_time)} may not have been delivered, and the new CDC stream is not ACTIVE yet: "
            "run `dsqlcdc stream apply`, then read these rows from the database."
        )
    bounds = f" between {moment(gap.from_time)} and {moment(gap.to_time)}" if gap.from_time or gap.to_time else ""
    return f"What was committed{bounds} may not have been delivered: read these rows from the database."


def plain(gap: Gap) -> dict[str, Any]:
    """A gap as JSON: its fields, with times as RFC 3339 (null where unknown)."""
    import msgspec

    body: dict[str, Any] = msgspec.to_builtins(gap)
    for name in ("from_time", "to_time", "found_at", "acked_at"):
        body[name] = moment(body[name]) if body[name] else None
    return body


def _table(found: Sequence[Gap]) -> str:
    rows = [
        (
            gap.id,
            gap.kind,
            gap.sink or "-",
            gap.shard or "-",
            moment(gap.from_time),
            moment(gap.to_time),
            moment(gap.found_at),
            gap.acked or "no",
            gap.detail,
        )
        for gap in found
    ]
    return columns(("ID", "KIND", "SINK", "SHARD", "FROM", "TO", "FOUND", "ACKNOWLEDGED", "DETAIL"), rows)
