"""`dsqlcdc stream`: what DSQL's change stream should be, what it is, and making it so."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsqlcdc.cli.output import columns, counted, emit, emit_json, moment, say
from dsqlcdc.cli.selection import asked
from dsqlcdc.cli.shape import AsJson, ConfigFile, Yes, group
from dsqlcdc.cli.stream_watch import watch

if TYPE_CHECKING:
    from dsqlcdc.config import Config
    from dsqlcdc.streams.observed import CdcStream
    from dsqlcdc.streams.plan import Plan
    from dsqlcdc.streams.remedies import Remedy
    from dsqlcdc.streams.work import Work

Deadline = Annotated[str, typer.Option(metavar="TIME", help="How long it may take.")]


def plan(config: ConfigFile, as_json: AsJson = False, deadline: Deadline = "60s") -> None:
    """Show what `stream apply` would change. Changes nothing and needs only read rights.

    Exit 0; 1 where something stands in the way (no such cluster, one that sleeps, no room for another CDC stream …).
    """
    import asyncio

    from dsqlcdc.config import load

    raise typer.Exit(asyncio.run(_plan(load(config), _seconds(deadline), as_json)))


def apply(
    config: ConfigFile,
    replace: Annotated[bool, typer.Option("--replace", help="Delete and create the CDC stream where it must be; leaves a gap.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
    deadline: Deadline = "10m",
) -> None:
    """Make the Kinesis stream, the role and the CDC stream of CONFIG, or what is missing of them, and wait until it is ACTIVE.

    May be stopped anywhere and run again: it goes on from there. A CDC stream that writes into the Kinesis stream already is used, not
    doubled. Exit 0 when the CDC stream is ACTIVE; 1 when it is not, or could not be made; 3 when it is, in another's place, and the gap
    that the other left is not acknowledged. Later calls exit 0 beside that gap: `dsqlcdc gaps` goes on exiting 3.
    """
    import asyncio

    from dsqlcdc.config import load

    work = _apply(load(config), str(config), _seconds(deadline), replace=replace, yes=yes, as_json=as_json)
    raise typer.Exit(asyncio.run(work))


def status(config: ConfigFile, as_json: AsJson = False, deadline: Deadline = "60s") -> None:
    """Show how the CDC stream stands, and what to do about it where it is not well. Needs only read rights. Exit 0 only for ACTIVE."""
    import asyncio

    from dsqlcdc.config import load

    raise typer.Exit(asyncio.run(_status(load(config), _seconds(deadline), as_json)))


def delete(
    config: ConfigFile,
    everything: Annotated[bool, typer.Option("--all", help="The Kinesis stream too, with the records in it.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
    deadline: Deadline = "10m",
) -> None:
    """Delete what `stream apply` made for this pipeline and cluster (tags dsqlcdc:pipeline, dsqlcdc:cluster): CDC stream and role.

    The Kinesis stream stays, with the records that were not read yet, unless --all. May be stopped anywhere and run again.
    """
    import asyncio

    from dsqlcdc.config import load

    work = _delete(load(config), str(config), _seconds(deadline), everything=everything, yes=yes, as_json=as_json)
    asyncio.run(work)


SUBCOMMANDS: dict[str, tuple[Callable[..., None], str]] = {
    "plan": (plan, "What apply would change."),
    "apply": (apply, "Make what is missing, and wait until it is ACTIVE."),
    "status": (status, "How the CDC stream stands, and the remedy."),
    "watch": (watch, "What changes, as it does; remedies where the config says so."),
    "delete": (delete, "Delete what apply made."),
}
"""Every subcommand with its line in the help."""

app = group("The stream manager: what DSQL's change stream should be, and is.")
for _name, (_command, _help) in SUBCOMMANDS.items():
    app.command(_name, short_help=_help)(_command)


def _seconds(text: str) -> float:
    from dsqlcdc.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--deadline") from None


@asynccontextmanager
async def _looking(config: Config, deadline: float) -> AsyncGenerator[Work, None]:
    """Everything at hand, after one look at what is there."""
    import time

    from dsqlcdc.assemble import aws_of, desired_of
    from dsqlcdc.streams.clients import open_clients
    from dsqlcdc.streams.observe import observe
    from dsqlcdc.streams.work import Work

    desired = desired_of(config)
    async with open_clients(aws_of(config), desired, deadline=deadline) as clients:
        observed = await observe(desired, clients)
        yield Work(desired=desired, observed=observed, clients=clients, say=say, clock=time.time)


async def _planned(config: Config, work: Work) -> Plan:
    from dsqlcdc.assemble import state_table
    from dsqlcdc.streams.plan import plan

    table = state_table(config)
    try:
        there = None if table is None else (table.table, await table.exists())
    finally:
        if table is not None:
            await table.close()
    return plan(work.desired, work.observed, table=there)


async def _plan(config: Config, deadline: float, as_json: bool) -> int:
    from dsqlcdc.streams.observed import in_words
    from dsqlcdc.streams.remedies import remedy_of

    async with _looking(config, deadline) as work:
        found = await _planned(config, work)
    if as_json:
        obstacle = found.obstacle.as_json() if found.obstacle is not None else None
        emit_json(
            {
                "changes": [action.as_json() for action in found.changes],
                "stream": _brief(work, found.stream),
                "notes": list(found.notes),
                "obstacle": obstacle,
            }
        )
    else:
        emit(_table(found))
        _notes(found)
        unwell = found.stream is not None and found.stream.status != "ACTIVE"
        replace = " --replace" if found.replaces is not None else ""
        if found.changes and found.obstacle is not None:
            say(f"{counted(len(found.changes), 'change')}, but as things are `apply` refuses:")
        elif found.changes:
            say(f"{counted(len(found.changes), 'change')}. Run: dsqlcdc stream apply {config.path}{replace}")
        else:
            say("Nothing to change." if unwell else "Nothing to do.")
        if found.stream is not None and unwell:
            say(f"CDC stream {found.stream.id} is {in_words(found.stream)}.")
            _remedy(config, remedy_of(work.desired, work.observed))
        if found.obstacle is not None:
            say(str(found.obstacle))
    return 1 if found.obstacle is not None else 0


async def _apply(config: Config, path: str, deadline: float, *, replace: bool, yes: bool, as_json: bool) -> int:
    from dsqlcdc.assemble import open_checkpoints, state_table
    from dsqlcdc.streams.apply import apply, refuse

    store = None if config.state.type == "memory" else open_checkpoints(config)
    table = state_table(config)
    try:
        async with _looking(config, deadline) as work:
            planned = await _planned(config, work)
            refused = refuse(planned, replace=replace, store=store)
            if planned.changes:
                say(_table(planned))
                _notes(planned)
                if refused is not None:
                    raise refused
                again = f"dsqlcdc stream apply {path}" + (" --replace" if replace else "")
                question = "Changes will be lost. Make these changes?" if planned.replaces else "Make these changes?"
                if not asked(question, again, yes=yes):
                    say("Nothing was changed.")
                    return 1
            elif refused is not None:
                raise refused
            done = await apply(planned, work, replace=replace, store=store, table=table, deadline=deadline)
        gaps = [gap for gap in done.gaps if not gap.acked]
    finally:
        if table is not None:
            await table.close()
        if store is not None:
            await store.close()
    if as_json:
        emit_json({"changes": [action.as_json() for action in done.changes], "stream": _brief(work, done.stream)})
    if done.fault is not None:
        raise done.fault
    say(f"CDC stream {done.stream.id} is ACTIVE. {_counted(len(done.changes))}")
    if gaps:
        say(f"{len(gaps)} gap left: changes may have been lost. Run: dsqlcdc gaps {path}")
    return 3 if gaps else 0


def _counted(changes: int) -> str:
    return f"{changes} change{'s' if changes > 1 else ''} made." if changes else "Nothing to do: everything is as it should be."


async def _status(config: Config, deadline: float, as_json: bool) -> int:
    from dsqlcdc.streams.obstacles import no_cluster
    from dsqlcdc.streams.remedies import remedy_of
    from dsqlcdc.streams.wanted import target_arn

    async with _looking(config, deadline) as work:
        if work.observed.cluster is None:
            raise no_cluster(work.desired, work.observed)
    target = target_arn(work.desired, work.observed)
    stream, remedy = work.observed.stream_into(target), remedy_of(work.desired, work.observed)
    if as_json:
        body = _brief(work, stream)
        body["remedy"] = remedy.as_json() if remedy is not None else None
        body["target"] = target
        body["created_at"] = moment(stream.created_at) if stream is not None else None
        emit_json(body)
    elif stream is None:
        say(f"No CDC stream of cluster {work.desired.cluster} writes into {target}. Run: dsqlcdc stream apply {config.path}")
    else:
        reason = f"{stream.reason.error} since {moment(stream.reason.updated_at)}" if stream.reason is not None else "-"
        row = (stream.cluster, stream.id, stream.status, reason, target.rpartition("/")[2], moment(stream.created_at))
        emit(columns(("CLUSTER", "STREAM", "STATUS", "REASON", "TARGET", "CREATED"), [row]))
        _remedy(config, remedy)
    return 0 if stream is not None and stream.status == "ACTIVE" else 1


async def _delete(config: Config, path: str, deadline: float, *, everything: bool, yes: bool, as_json: bool) -> None:
    from dsqlcdc.streams.delete import delete, deletion

    async with _looking(config, deadline) as work:
        table = config.state.table if config.state.type == "dynamodb" else ""
        planned = deletion(work.desired, work.observed, everything=everything, table=table)
        if planned.obstacle is not None:
            raise planned.obstacle
        if planned.actions:
            say(_table(planned))
        _notes(planned)
        again = f"dsqlcdc stream delete {path}" + (" --all" if everything else "")
        if planned.actions and not asked("Delete this?", again, yes=yes):
            say("Nothing was deleted.")
            return
        await delete(planned, work, deadline=deadline)
    if as_json:
        emit_json({"changes": [action.as_json() for action in planned.actions], "notes": list(planned.notes)})
    say(f"{len(planned.actions)} deleted." if planned.actions else "Nothing to delete.")


def _remedy(config: Config, found: Remedy | None) -> None:
    """Why it is not well, what to do, and until when what is held back is kept."""
    import time

    from dsqlcdc.errors import Fault
    from dsqlcdc.streams.remedies import text

    for line in text(found, time.time()) if found is not None else ():
        say(Fault.name_config(line, str(config.path)))


def _brief(work: Work, stream: CdcStream | None) -> dict[str, Any]:
    if stream is None:
        return {"cluster": work.desired.cluster, "id": None, "status": None, "reason": None}
    reason = {"error": stream.reason.error, "updated_at": moment(stream.reason.updated_at)} if stream.reason is not None else None
    return {"cluster": stream.cluster, "id": stream.id, "status": stream.status, "reason": reason}


def _table(planned: Plan) -> str:
    rows = [(action.action, action.resource, action.name, action.detail) for action in planned.actions]
    return columns(("ACTION", "RESOURCE", "NAME", "DETAIL"), rows)


def _notes(planned: Plan) -> None:
    for note in planned.notes:
        say(f"note: {note}")
