"""`dsqlcdc opensearch`: what can be done with the indexes of a sink of type opensearch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsqlcdc.cli.output import emit, emit_json, say
from dsqlcdc.cli.selection import asked
from dsqlcdc.cli.shape import AsJson, ConfigFile, Yes, group
from dsqlcdc.errors import ConfigError

if TYPE_CHECKING:
    from dsqlcdc.config import Config

app = group("The indexes of a sink of type opensearch.")


@app.command(short_help="Fill a new index and put it in place.")
def rebuild(
    config: ConfigFile,
    table: Annotated[str, typer.Option(help="Of which table, schema.table.", show_default=False)],
    sink: Annotated[str, typer.Option(help="Of which sink; may be left out where there is but one.", show_default=False)] = "",
    source: Annotated[
        str, typer.Option("--from", metavar="PLACE", help="trim_horizon, or the name of an s3 sink: its objects, then the stream.")
    ] = "trim_horizon",
    anew: Annotated[bool, typer.Option("--anew", help="Throw away what an earlier rebuild has filled.")] = False,
    fewer: Annotated[bool, typer.Option("--fewer", help="Put it in place even if it shows fewer rows.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Fill a new index of a table, with the mapping that the config gives now, and put it behind the alias in one step.

    The daemon may run meanwhile; at the end its writes to this table wait for up to a minute (in a collection of Serverless: for
    `grace`, and two minutes more). Searches see the old index until then. Killed or
    failed, the old one stays in use, and the same command goes on where it was. The old index is kept, closed to writing: delete it when you
    want. From trim_horizon only what the stream still holds comes back: with rows that did not change since, fill from a lake.
    """
    import asyncio

    from dsqlcdc.config import load
    from dsqlcdc.hosts import rebuild as work

    loaded = load(Path(config))
    name = _sink(loaded, sink)
    place = "the stream, from trim_horizon" if source == "trim_horizon" else f"the lake of sink {source}, then the stream"
    if not asked(
        f"Fill a new index of {table} from {place}, and put it in place?", f"dsqlcdc opensearch rebuild {config} --table {table}", yes=yes
    ):
        say("Nothing was changed.")
        return

    def tell(told: work.Told) -> None:
        say(f"{told.step}: {told.done} read")

    lake = "" if source == "trim_horizon" else source
    done = asyncio.run(work.rebuild(loaded, name, table, lake=lake, anew=anew, fewer=fewer, tell=tell))
    if done.letters:
        say(f"{done.letters} dead letters were written: their records do not fit the row model. Run: dsqlcdc dead list {config}")
    if as_json:
        emit_json({"alias": done.alias, "index": done.index, "replaced": done.replaced, "rows_before": done.rows_before, "rows": done.rows})
    else:
        emit(f"{done.alias} leads to {done.index} and shows {done.rows} rows." + (f" {done.replaced} is kept." if done.replaced else ""))
    if done.letters:
        raise typer.Exit(4)


def _sink(config: Config, name: str) -> str:
    """The sink that is meant. Raises ConfigError."""
    known = [one.name for one in config.sinks.values() if one.type == "opensearch"]
    found = [one for one in known if name in ("", one)]
    if len(found) != 1:
        why = f"sinks of type opensearch: {', '.join(known) or 'there is none'}"
        raise ConfigError(
            "no such sink, or several", where=name or "--sink", why=why, run=f"dsqlcdc config show {config.path}", code="E159"
        )
    return found[0]
