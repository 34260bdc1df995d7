"""Progress as people see it: a live table on a terminal, plain summary lines anywhere else; always on stderr."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dsqlcdc.core.telemetry import Status
from dsqlcdc.hosts.rates import Flow, Rates, behind, bytes_text, count_text, line, settled_text, span_text

__all__ = ["console", "display", "table"]

log = logging.getLogger("dsqlcdc.progress")

_STYLES = {"running": "green", "done": "green", "starting": "yellow", "draining": "yellow", "stopped": "bold red"}
_REFRESH = 0.5
_SHARDS = 12
"""Shards shown of one sink: those furthest behind."""


def console(stream: TextIO | None = None) -> Console:
    """A console on stderr (or `stream`): without colour where NO_COLOR is set or it is no terminal."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    if stream is None:
        return Console(stderr=True, no_color=plain, highlight=False)
    return Console(file=stream, no_color=plain, highlight=False)


@asynccontextmanager
async def display(
    statuses: Callable[[], Sequence[Status]],
    *,
    live: bool | None = None,
    every: float = 60.0,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.time,
    config: str = "CONFIG",
) -> AsyncGenerator[None, None]:
    """Show what flows until left, then once more as it stands.

    `live`: a table that is redrawn; None where stderr is a terminal that can do it. Otherwise one log line a pipeline every `every` seconds
    (60, with --once a few), under the logger `dsqlcdc.progress`. `clock`: seconds since the epoch. `config`: the file's
    name, for remedies. Cancelled or left, nothing goes on.
    """
    shown = console(stream)
    if live is None:
        live = shown.is_terminal and not shown.is_dumb_terminal
    rates = Rates()
    rates.look(statuses(), asyncio.get_running_loop().time())
    if live:
        async with _live(shown, statuses, rates, clock, config):
            yield
        return
    showing = asyncio.create_task(_lines(statuses, rates, every, clock))
    try:
        yield
    finally:
        showing.cancel()
        await asyncio.wait({showing})
        _say(statuses(), rates, clock)


async def _lines(statuses: Callable[[], Sequence[Status]], rates: Rates, every: float, clock: Callable[[], float]) -> None:
    while True:
        await asyncio.sleep(every)
        _say(statuses(), rates, clock)


def _say(statuses: Sequence[Status], rates: Rates, clock: Callable[[], float]) -> None:
    flows = rates.look(statuses, asyncio.get_running_loop().time())
    for status in statuses:
        log.info("%s", line(status, flows[status.sink], clock()))


@asynccontextmanager
async def _live(
    shown: Console, statuses: Callable[[], Sequence[Status]], rates: Rates, clock: Callable[[], float], config: str
) -> AsyncGenerator[None, None]:
    loop = asyncio.get_running_loop()

    def draw() -> Group:
        now = statuses()
        return table(now, rates.look(now, loop.time()), clock(), config)

    async def redraw(view: Live) -> None:
        while True:
            await asyncio.sleep(_REFRESH)
            view.update(draw(), refresh=True)

    # Our own stdout stays data: only what goes to stderr (the log) is taken above the table.
    with Live(draw(), console=shown, auto_refresh=False, redirect_stdout=False, redirect_stderr=True) as view:
        showing = asyncio.create_task(redraw(view))
        try:
            yield
        finally:
            showing.cancel()
            await asyncio.wait({showing})
            view.update(draw(), refresh=True)


def table(statuses: Sequence[Status], flows: Mapping[str, Flow], now: float, config: str = "CONFIG") -> Group:
    """The sinks as a table, under each what is wrong with it, and the shards that are furthest behind."""
    sinks = Table(box=None, pad_edge=False, header_style="bold")
    for name, right in (
        ("sink", 0),
        ("state", 0),
        ("records/s", 1),
        ("bytes/s", 1),
        ("read", 1),
        ("settled", 0),
        ("open", 1),
        ("behind", 1),
    ):
        sinks.add_column(name, justify="right" if right else "left", no_wrap=name != "settled")
    sinks.add_column("shards", justify="right")
    sinks.add_column("committed", justify="right", no_wrap=True)
    for status in statuses:
        flow = flows.get(status.sink, Flow())
        sinks.add_row(
            Text(status.sink),
            Text(status.state, _STYLES.get(status.state, "")),
            count_text(flow.read),
            bytes_text(flow.bytes),
            count_text(status.read),
            settled_text(status),
            count_text(status.open),
            span_text(behind(status)),
            str(sum(not shard.ended for shard in status.shards)),
            f"{span_text(max(0.0, now - status.committed_at))} ago" if status.committed_at else "never",
        )
    troubles = [Text(f"{status.sink}: {trouble}", "yellow") for status in statuses for trouble in _troubles(status, config)]
    return Group(sinks, *troubles, *_late(statuses))


def _troubles(status: Status, config: str) -> list[str]:
    said = [status.reason] if status.reason else []
    if status.retries:
        said.append("tried again: " + ", ".join(f"{code} {count_text(count)}" for code, count in sorted(status.retries.items())))
    if status.dead:
        said.append("dead: " + ", ".join(f"{code} {count_text(count)}" for code, count in sorted(status.dead.items())))
    if status.gaps:
        said.append(f"{status.gaps} gap{'' if status.gaps == 1 else 's'}: changes may be lost. Run: dsqlcdc gaps {config}")
    return said


def _late(statuses: Sequence[Status]) -> list[Table]:
    """Shards behind their tip, the furthest first; of several sinks the one that is furthest behind."""
    status = max(statuses, key=behind, default=None)
    if status is None or not behind(status):
        return []
    late = sorted((s for s in status.shards if s.behind_ms and not s.ended), key=lambda shard: -shard.behind_ms)
    shards = Table(box=None, pad_edge=False, header_style="bold", title=None)
    for name in ("shard", "behind", "read", "open"):
        shards.add_column(name, justify="left" if name == "shard" else "right")
    for shard in late[:_SHARDS]:
        shards.add_row(Text(shard.shard), span_text(shard.behind_ms / 1000), count_text(shard.read), count_text(shard.open))
    if len(late) > _SHARDS:
        shards.add_row(f"and {len(late) - _SHARDS} more", "", "", "")
    return [shards]
