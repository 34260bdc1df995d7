"""`dsqlcdc checkpoint`: where every shard stands, and setting it anew by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsqlcdc.cli.output import columns, counted, emit, emit_json, moment, say
from dsqlcdc.cli.selection import asked, since_of
from dsqlcdc.cli.shape import AsJson, ConfigFile, Yes, group
from dsqlcdc.errors import ConfigError

if TYPE_CHECKING:
    from dsqlcdc.config import Config
    from dsqlcdc.core.ports import Checkpoint, Name, ResettableStore
    from dsqlcdc.core.records import Mark
    from dsqlcdc.sources.moves import Move
    from dsqlcdc.sources.starts import Start

app = group("Where every shard stands, and setting it anew.")

_PATIENCE = 60.0


@app.command(short_help="Where every shard stands.")
def show(
    config: ConfigFile,
    sink: Annotated[str, typer.Option(help="Only this sink.", show_default=False)] = "",
    as_json: AsJson = False,
) -> None:
    """Show what the state store holds: by sink, stream and shard the checkpoint, and what is remembered to tell duplicates."""
    import asyncio

    from dsqlcdc.config import load

    asyncio.run(_show(load(Path(config)), sink, as_json))


@app.command(short_help="Set a sink's checkpoint anew.")
def reset(
    config: ConfigFile,
    sink: Annotated[str, typer.Option(help="Whose checkpoint.", show_default=False)],
    to: Annotated[str, typer.Option(metavar="PLACE", help="trim_horizon, latest, a duration ago or an ISO time.", show_default=False)],
    shard: Annotated[list[str] | None, typer.Option(help="Only this shard; may be given again.", show_default=False)] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Forget what was delivered, so that it is repeated.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be repeated or skipped.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Set the checkpoint of a sink to another place in the stream. Refused while the sink runs.

    Shows by shard from where to where, and what is repeated or skipped; what is skipped becomes a gap. What is read again and still
    remembered (`lateness`) counts as duplicate, unless --forget or the state is in DynamoDB, which remembers nothing; a sink that knows
    what it holds, as S3, takes nothing twice in any case.
    """
    import asyncio

    from dsqlcdc.config import load

    start: Start = to if to in ("trim_horizon", "latest") else since_of(to, "checkpoint reset", "--to")  # type: ignore[assignment]
    loaded = load(Path(config))
    asyncio.run(_reset(loaded, sink, start, shard or [], forget=forget, dry_run=dry_run, yes=yes, as_json=as_json))


async def _show(config: Config, sink: str, as_json: bool) -> None:
    from dsqlcdc.assemble import open_checkpoints

    store = open_checkpoints(config, read_only=True)
    try:
        names = [name for name in await store.names() if name.pipeline == config.pipeline and not name.reserved and sink in ("", name.sink)]
        found = [(name, checkpoint) for name in names if (checkpoint := await store.load(name)) is not None]
    finally:
        await store.close()
    if as_json:
        emit_json({"pipeline": config.pipeline, "checkpoints": [_plain(name, checkpoint) for name, checkpoint in found]})
        return
    rows = [
        (name.sink, name.stream, shard, _place(mark), moment(mark.arrived))
        for name, checkpoint in found
        for shard, mark in sorted(checkpoint.marks.items())
    ]
    if rows:
        emit(columns(("SINK", "STREAM", "SHARD", "CHECKPOINT", "ARRIVED"), rows))
    else:
        say("No checkpoints.")


def _plain(name: Name, checkpoint: Checkpoint) -> dict[str, Any]:
    shards = {shard: _mark(mark) for shard, mark in sorted(checkpoint.marks.items())}
    remembered = max((memory.newest for memory in checkpoint.memories), default=0.0)
    return {
        "sink": name.sink,
        "stream": name.stream,
        "shards": shards,
        "remembered_bytes": sum(len(memory.blob) for memory in checkpoint.memories),
        "remembered_to": moment(remembered) if remembered else None,
    }


async def _reset(
    config: Config, sink: str, to: Start, shards: Sequence[str], *, forget: bool, dry_run: bool, yes: bool, as_json: bool
) -> None:
    import asyncio
    import time

    from dsqlcdc.assemble import aws_of
    from dsqlcdc.core.ports import Name
    from dsqlcdc.sources.feeds import open_feeds
    from dsqlcdc.sources.moves import moves, skipped

    store = _resettable(config)
    try:
        async with open_feeds(config.source.stream, aws_of(config), deadline=_PATIENCE) as feeds:
            name = Name(config.pipeline, sink, feeds.stream)
            since = asyncio.get_running_loop().time()
            listed = await feeds.patiently(lambda: feeds.list(since=since), _PATIENCE)
            now, retention = feeds.now(), feeds.description.retention
        if name not in await store.names():
            why = "it never ran on this stream, and begins where source.start says"
            raise ConfigError(
                "no checkpoint to reset",
                where=f"{sink} on {name.stream}",
                why=why,
                run=f"dsqlcdc checkpoint show {config.path}",
                code="E097",
            )
        if not dry_run:
            await store.hold(name)  # before anything is shown: what is shown is what is changed
        checkpoint = await store.load(name)
        known: Mapping[str, Mark] = checkpoint.marks if checkpoint is not None else {}
        unknown = [shard for shard in shards if shard not in {one.id for one in listed}]
        if unknown:
            run = f"dsqlcdc checkpoint show {config.path}"
            raise ConfigError("no such shard", where=name.stream, why=", ".join(unknown), run=run, code="E097")
        planned = moves(listed, known, to, now=now, retention=retention, only=shards)
        done = False
        if not as_json:
            emit(_table(planned))
            _talk(config, planned, forgotten=forget or not store.remembers)
        if dry_run:
            say("A dry run: nothing was changed.")
        elif not asked("Reset the checkpoint?", f"dsqlcdc checkpoint reset {config.path} --sink {sink} --to …", yes=yes):
            say("Nothing was changed.")
        else:
            marks = {move.shard: move.new for move in planned if move.new is not None}
            gaps = [skipped(name, move, time.time()) for move in planned if move.effect == "skips"]
            await store.reset(name, marks, gaps=gaps, forget=forget)
            done = True
            say(
                f"The checkpoint of {sink} was reset."
                + (f" {counted(len(gaps), 'gap')} recorded. Run: dsqlcdc gaps {config.path}" if gaps else "")
            )
        if as_json:
            body = [_move(move) for move in planned]
            emit_json({"sink": sink, "stream": name.stream, "shards": body, "forget": forget, "reset": done})
    finally:
        await store.close()


def _resettable(config: Config) -> ResettableStore:
    from dsqlcdc.assemble import open_checkpoints

    if config.state.type == "memory":
        why, run = "what is kept in memory ends with its process", f"dsqlcdc status {config.path}"
        raise ConfigError("these checkpoints cannot be reset", where="state of type 'memory'", why=why, run=run, code="E096")
    return open_checkpoints(config)


def _talk(config: Config, planned: Sequence[Move], *, forgotten: bool) -> None:
    """What the moves mean, to stderr. `forgotten`: what was delivered behind the new place is not remembered."""
    repeats = [move for move in planned if move.effect == "repeats"]
    if repeats and forgotten:
        say("What was delivered is forgotten and delivered again, but by a sink that knows what it holds (s3), and but for oversized rows.")
    elif repeats:
        say(
            f"What was delivered and is still remembered (source.lateness: {config.source.lateness:g} s) counts as duplicate; "
            "older changes are delivered again, but by a sink that knows what it holds (s3). --forget drops the memory."
        )
    if any(move.effect == "skips" for move in planned):
        say("What is skipped is not delivered; it is recorded as a gap.")


def _table(planned: Sequence[Move]) -> str:
    rows = [
        (
            move.shard,
            _place(move.old) if move.old is not None else "not begun",
            _place(move.new) if move.new is not None else "stays",
            move.effect,
            moment(move.since),
            moment(move.until),
        )
        for move in planned
    ]
    return columns(("SHARD", "FROM", "TO", "EFFECT", "ARRIVED SINCE", "UNTIL"), rows)


def _move(move: Move) -> dict[str, Any]:
    return {
        "shard": move.shard,
        "from": _mark(move.old) if move.old is not None else None,
        "to": _mark(move.new) if move.new is not None else None,
        "effect": move.effect,
        "since": moment(move.since) if move.since else None,
        "until": moment(move.until) if move.until else None,
    }


def _place(mark: Mark) -> str:
    return f"time {moment(mark.position.arrived)}" if mark.position.kind == "time" else str(mark.position)


def _mark(mark: Mark) -> dict[str, Any]:
    return {"checkpoint": _place(mark), "kind": mark.position.kind, "arrived": moment(mark.arrived) if mark.arrived else None}
