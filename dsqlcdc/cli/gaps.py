"""`dsqlcdc gaps`: what may have been lost, and saying that it has been dealt with."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsqlcdc.cli.output import columns, emit, emit_json, moment, say
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
    reason: Annotated[str, typer.Option(help="Why this gap needs no more attention; needed by ack.", show_default=False)] = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """List what may have been lost, with bounds and the remedy. Exits 3 where a gap is not acknowledged.

    `gaps ack ID CONFIG --reason "…"` acknowledges one: the pipeline then starts behind it.
    """
    import asyncio

    from dsqlcdc.config import load

    if len(words) == 1:
        code = asyncio.run(_list(load(Path(words[0])), words[0], as_json))
    elif len(words) == 3 and words[0] == "ack":
        code = asyncio.run(_ack(load(Path(words[2])), words[1], words[2], reason.strip(), yes=yes, as_json=as_json))
    else:
        raise ConfigError("these are not the arguments of `gaps`", why=" ".join(words), run="dsqlcdc gaps --help", code="E090")
    raise typer.Exit(code)


async def _list(config: Config, path: str, as_json: bool) -> int:
    found = await _stored(config)
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
        again = f"dsqlcdc gaps ack {id} {path} --reason '…'"
        if not sys.stdin.isatty():
            raise ConfigError("this asks, and nobody is there to answer", run=f"{again} --yes", code="E090")
        if not typer.confirm("Acknowledge this gap? The pipeline goes on behind it.", err=True):
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
