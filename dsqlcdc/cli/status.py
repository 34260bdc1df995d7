"""`dsqlcdc status`: how far every sink has come, from the state store and, where it answers, from the running process."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsqlcdc.cli.output import coloured, columns, emit, emit_json, flush, moment, say
from dsqlcdc.cli.shape import AsJson, ConfigFile, application

if TYPE_CHECKING:
    from dsqlcdc.config import Config
    from dsqlcdc.core.ports import Checkpoint, CheckpointStore, Gap, Name
    from dsqlcdc.core.records import Mark
    from dsqlcdc.core.telemetry import Status
    from dsqlcdc.hosts.rates import Flow

app = application()

_SHORTEST = 0.2


@dataclass(frozen=True, slots=True)
class Answer:
    """What a running process says of itself, None and empty where none answers. `stream`: the CDC stream, where it is watched."""

    statuses: Sequence[Status] | None = None
    reasons: Sequence[Mapping[str, Any]] = ()
    stream: Mapping[str, Any] | None = None


@app.command()
def status(
    config: ConfigFile,
    watch: Annotated[bool, typer.Option("--watch", help="Show it live, with rates, until Ctrl-C.")] = False,
    every: Annotated[str, typer.Option(help="With --watch, how often.")] = "2s",
    as_json: AsJson = False,
) -> None:
    """Per sink and shard: the checkpoint, how old it is, gaps; of a running process also what is open and flows.

    Reads the state store beside a running daemon, and when none runs. A checkpoint's age says: nothing that arrived before is owed.
    Exits 0 also where a gap is not acknowledged, and says so: it is `gaps` that exits 3.
    """
    import asyncio

    from dsqlcdc.config import load
    from dsqlcdc.errors import ConfigError
    from dsqlcdc.units import parse_duration

    try:
        pause = parse_duration(every)
    except ValueError as error:
        raise ConfigError("not a time", where="--every", why=str(error), run="dsqlcdc status --help", code="E090") from error
    if pause < _SHORTEST:
        raise ConfigError("too often", where="--every", why="200ms is the shortest", run="dsqlcdc status --help", code="E090")
    loaded = load(Path(config))
    try:
        asyncio.run(_watch(loaded, pause, as_json) if watch else _once(loaded, as_json))
    except (KeyboardInterrupt, asyncio.CancelledError):
        if not watch:
            raise


async def _once(config: Config, as_json: bool) -> None:
    from dsqlcdc.assemble import open_checkpoints

    store = open_checkpoints(config, read_only=True)
    try:
        live, now = await _live(config), time.time()
        seen = await collect(config, store, live, now)
    finally:
        await store.close()
    if as_json:
        emit_json(seen)
    else:
        emit(render(seen, live.statuses, {}, now))
        _remarks(config, seen, now)


async def _watch(config: Config, every: float, as_json: bool) -> None:
    """Every so many seconds until interrupted (SIGINT, SIGTERM): a picture on a terminal, else plain lines, or an object a line."""
    import asyncio
    import signal

    from dsqlcdc.assemble import open_checkpoints
    from dsqlcdc.hosts.rates import Rates

    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    if task is not None:
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    store = open_checkpoints(config, read_only=True)
    rates = Rates()
    try:
        with _shown(config, as_json) as show:
            while True:
                live = await _live(config)
                flows = rates.look(live.statuses or (), loop.time())
                now = time.time()
                show(await collect(config, store, live, now), live.statuses, flows, now)
                await asyncio.sleep(every)
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        await store.close()


Show = Callable[[Mapping[str, Any], "Sequence[Status] | None", Mapping[str, "Flow"], float], None]


@contextmanager
def _shown(config: Config, as_json: bool) -> Generator[Show, None, None]:
    """What one look is given to: what it was drawn on is as before when this is left."""
    if as_json:
        yield lambda seen, live, flows, now: emit_json(seen)
    elif not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":

        def lines(seen: Mapping[str, Any], live: Sequence[Status] | None, flows: Mapping[str, Flow], now: float) -> None:
            emit(render(seen, live, flows, now))
            flush()

        yield lines
    else:
        from rich.console import Console
        from rich.live import Live

        from dsqlcdc.cli.live import Movement, picture

        console = Console(file=sys.stdout, no_color=not coloured(), highlight=False)
        movement = Movement()
        with Live(console=console, auto_refresh=False, vertical_overflow="crop", redirect_stdout=False, redirect_stderr=False) as drawn:
            yield lambda seen, live, flows, now: drawn.update(picture(seen, live, flows, movement, now, str(config.path)), refresh=True)


async def collect(config: Config, store: CheckpointStore, live: Answer, now: float) -> dict[str, Any]:
    """All that is known, as JSON: `running` None where no process answers. A sink's `streams`: the one that lives, which of several that had
    its name is the last made; empty where the sink never read it. `earlier`: others of which it has checkpoints."""
    from dsqlcdc.hosts.http import plain

    names = [name for name in await store.names() if name.pipeline == config.pipeline and not name.reserved]
    gaps = await store.gaps(config.pipeline)
    sinks: dict[str, Any] = {}
    for sink in dict.fromkeys((*config.sinks, *(name.sink for name in names))):
        own = [name for name in names if name.sink == sink]
        living = _living(own, config.source.stream.rpartition("/")[2] if sink in config.sinks else "")
        streams = [_stream(living, await store.load(living), now)] if living is not None else []
        running = next((status for status in live.statuses or () if status.sink == sink), None)
        sinks[sink] = {
            "configured": sink in config.sinks,
            "streams": streams,
            "earlier": [name.stream for name in own if name != living],
            "gaps": _gap_counts(gaps, sink),
            "running": plain(running) if running is not None else None,
        }
    return {
        "pipeline": config.pipeline,
        "at": moment(now),
        "running": None if live.statuses is None else True,
        "reasons": list(live.reasons),
        "stream": live.stream or await _sighted(config, store),
        "gaps": {"found": len(gaps), "unacknowledged": sum(not gap.acked for gap in gaps)},
        "sinks": sinks,
    }


async def _sighted(config: Config, store: CheckpointStore) -> dict[str, Any] | None:
    """The CDC stream as the state remembers it; None where the config has no block `stream`, or nobody has looked yet."""
    if config.stream is None:
        return None
    from dsqlcdc.assemble import desired_of
    from dsqlcdc.streams.sighting import last_seen

    seen = await last_seen(store, desired_of(config))
    if not seen.healthy_at and not seen.broken_since:
        return None
    told = {"id": seen.stream or None, "status": None, "healthy_at": moment(seen.healthy_at)}
    return {**told, "broken_since": moment(seen.broken_since) if seen.broken_since else None}


def _living(names: Sequence[Name], stream: str) -> Name | None:
    """The last made of those with the stream's name, or where that is "" (a sink that has left the config) of whatever it read."""
    of_it = [name for name in names if stream in ("", name.stream.rpartition("@")[0])]
    return max(of_it, key=lambda name: name.stream.rpartition("@")[2], default=None)


def _stream(name: Name, checkpoint: Checkpoint | None, now: float) -> dict[str, Any]:
    marks: Mapping[str, Mark] = checkpoint.marks if checkpoint is not None else {}
    shards = [
        {
            "shard": shard,
            "checkpoint": str(mark.position),
            "kind": mark.position.kind,
            "arrived": moment(mark.arrived) if mark.arrived else None,
            "age_seconds": round(max(0.0, now - mark.arrived), 3) if mark.arrived else None,
            "ended": mark.position.kind == "end",
        }
        for shard, mark in sorted(marks.items())
    ]
    return {"stream": name.stream, "shards": shards}


def _gap_counts(gaps: Sequence[Gap], sink: str) -> dict[str, int]:
    """Gaps of a sink, and those that concern all."""
    ours = [gap for gap in gaps if gap.sink in ("", sink)]
    return {"found": len(ours), "unacknowledged": sum(not gap.acked for gap in ours)}


async def _live(config: Config) -> Answer:
    """What a running process says of itself; nothing where none answers within a second, or what answers is not this pipeline."""
    import asyncio

    if config.http is None:
        return Answer()
    return await asyncio.to_thread(_fetch, config.http.host, config.http.port, config.pipeline, config.http.secret)


def _fetch(host: str, port: int, pipeline: str, token: str = "") -> Answer:
    import http.client

    import msgspec

    from dsqlcdc.core import telemetry

    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    connection = http.client.HTTPConnection(address, port, timeout=1.0)
    try:
        connection.request("GET", "/status", headers={"Authorization": f"Bearer {token}"} if token else {})
        answer: dict[str, Any] = msgspec.json.decode(connection.getresponse().read(), type=dict[str, Any])
        statuses = msgspec.convert(answer.get("pipelines"), list[telemetry.Status], strict=False)
        reasons = msgspec.convert(answer.get("reasons", []), list[dict[str, Any]])
        stream = msgspec.convert(answer.get("stream"), dict[str, Any] | None)
    except (OSError, http.client.HTTPException, msgspec.DecodeError, UnicodeDecodeError):
        return Answer()  # nobody there, or somebody else: the state store is the truth, this only adds to it
    finally:
        connection.close()
    ours = [status for status in statuses if status.pipeline == pipeline]
    return Answer(ours, [one for one in reasons if one.get("pipeline") in ("", pipeline)], stream) if ours else Answer()


def render(seen: Mapping[str, Any], live: Sequence[Status] | None, flows: Mapping[str, Flow], now: float) -> str:
    """For people: one line a sink, then one a shard."""
    from dsqlcdc.hosts.rates import line, span_text

    texts = [f"{seen['pipeline']}  {seen['at']}  " + ("running" if live else "no running process answers")]
    rows: list[tuple[str, ...]] = []
    by_sink = {status.sink: status for status in live or ()}
    for sink, known in seen["sinks"].items():
        status = by_sink.get(sink)
        if status is not None:
            texts.append(line(status, flows.get(sink), now))
        open_ = {shard.shard: shard for shard in status.shards} if status is not None else {}
        if not known["streams"]:
            rows.append((sink, "-", "never ran", "-", "-", "-", "-"))
        for stream in known["streams"]:
            label = sink if known["configured"] else f"{sink} (not in the config)"
            unended = [shard for shard in stream["shards"] if not shard["ended"]]
            for shard in unended:
                running = open_.get(shard["shard"])
                age = span_text(shard["age_seconds"]) if shard["age_seconds"] is not None else "-"
                extra = (str(running.open), span_text(running.behind_ms / 1000)) if running is not None else ("-", "-")
                rows.append((label, shard["shard"], shard["checkpoint"], shard["arrived"] or "-", age, *extra))
            ended = len(stream["shards"]) - len(unended)
            if ended:
                rows.append((label, f"{ended} closed", "read to the end", "-", "-", "-", "-"))
    texts.append(columns(("SINK", "SHARD", "CHECKPOINT", "ARRIVED", "AGE", "OPEN", "BEHIND"), rows, right=(4, 5, 6)))
    return "\n".join(texts)


def _remarks(config: Config, seen: Mapping[str, Any], at: float) -> None:
    """Talk: what is to be done."""
    from dsqlcdc.hosts.rates import span_text

    count = seen["gaps"]["unacknowledged"]
    if count:
        say(f"{count} unacknowledged gap{'s' if count > 1 else ''}: changes may be lost. Run: dsqlcdc gaps {config.path}")
    if config.state.type == "memory":
        say("The state is kept in memory: only a running process knows it.")
    for sink, known in seen["sinks"].items():
        running: dict[str, Any] = known["running"] or {}
        digests: dict[str, Any] | None = running.get("digests")
        if digests is not None and at > digests["due"]:
            why = f": {digests['why']}" if digests["why"] else ""
            say(f"{sink}: a digest is {span_text(at - digests['due'])} overdue{why}. It is tried again; see: dsqlcdc doctor {config.path}")
        if known["earlier"]:
            others = ", ".join(known["earlier"])
            say(
                f"{sink} has checkpoints of other streams too ({others}): what was not read of one that was made anew is in `dsqlcdc gaps`."
            )
