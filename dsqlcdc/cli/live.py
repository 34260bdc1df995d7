"""What `status --watch` draws on a terminal: the sinks, the shards furthest behind, the CDC stream, gaps, and what to run next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dsqlcdc.cli.output import printable
from dsqlcdc.core.telemetry import Status
from dsqlcdc.hosts.display import table
from dsqlcdc.hosts.rates import Flow, span_text

__all__ = ["Movement", "picture"]

_SHARDS = 12
"""Shards shown of a sink that no process tells of: those with the oldest checkpoints."""
_STILL = 0.05


class Movement:
    """How fast checkpoints go, from one look to the next: all that the state store tells of throughput."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], tuple[float, float]] = {}

    def look(self, sink: str, shard: str, age: float | None, now: float) -> str:
        """Of a checkpoint that is so many seconds old: `keeps up`, `catches up` or `stands still`; "-" at the first look."""
        if age is None:
            return "-"
        before = self._last.get((sink, shard))
        self._last[sink, shard] = (age, now)
        if before is None or now <= before[1]:
            return "-"
        pace = 1 - (age - before[0]) / (now - before[1])  # seconds of the stream in a second
        return "stands still" if pace < _STILL else "catches up" if pace > 1 + _STILL else "keeps up"


def picture(
    seen: Mapping[str, Any], live: Sequence[Status] | None, flows: Mapping[str, Flow], movement: Movement, now: float, config: str
) -> Group:
    """One look, drawn. `seen`: what `collect` gave; `live`: what a running process says of itself; `now`: seconds since the epoch."""
    parts: list[RenderableType] = [_head(seen, live)]
    running = {status.sink for status in live or ()}
    if live:
        parts.append(table(live, flows, now, config))
    stored = {sink: known for sink, known in seen["sinks"].items() if sink not in running}
    if stored:
        parts.append(_stored(stored, movement, now))
    parts += [Text(line, style) for line, style in _remarks(seen, config)]
    return Group(*parts)


def _head(seen: Mapping[str, Any], live: Sequence[Status] | None) -> Text:
    head = Text.assemble((seen["pipeline"], "bold"), f"  {seen['at']}  ")
    if live:
        reasons: Sequence[Mapping[str, Any]] = seen.get("reasons", ())
        head.append("ready" if not reasons else "not ready", "green" if not reasons else "bold red")
        for reason in reasons:
            head.append(f"\n  {printable(str(reason.get('sink', '')))}: {printable(str(reason.get('reason', '')))}", "red")
    else:
        head.append("no running process answers; from the state store", "yellow")
    return head


def _stored(sinks: Mapping[str, Any], movement: Movement, now: float) -> Table:
    """Sinks as the state store knows them, the oldest checkpoints first."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("sink", "shard", "checkpoint of", "age", "moves"):
        shown.add_column(name, justify="right" if name == "age" else "left", no_wrap=True)
    for sink, known in sinks.items():
        label = sink if known["configured"] else f"{sink} (not in the config)"
        shards = [shard for stream in known["streams"] for shard in stream["shards"] if not shard["ended"]]
        moves = {shard["shard"]: movement.look(sink, shard["shard"], shard["age_seconds"], now) for shard in shards}
        if not shards:
            shown.add_row(Text(label), "-", "read to the end" if known["streams"] else "never ran", "-", "-")
        for shard in sorted(shards, key=lambda shard: -(shard["age_seconds"] or 0.0))[:_SHARDS]:
            age = span_text(shard["age_seconds"]) if shard["age_seconds"] is not None else "-"
            move = moves[shard["shard"]]
            shown.add_row(
                Text(label),
                Text(shard["shard"]),
                shard["arrived"] or shard["kind"],
                age,
                Text(move, "red" if move == "stands still" else ""),
            )
        if len(shards) > _SHARDS:
            shown.add_row("", f"and {len(shards) - _SHARDS} more", "", "", "")
    return shown


def _remarks(seen: Mapping[str, Any], config: str) -> list[tuple[str, str]]:
    """Lines below, each with its style: the CDC stream and its remedy, gaps."""
    lines: list[tuple[str, str]] = []
    stream = seen.get("stream")
    if stream is not None:
        lines += _stream(stream, config)
    if count := seen["gaps"]["unacknowledged"]:
        lines.append((f"{count} unacknowledged gap{'s' if count > 1 else ''}: changes may be lost. Run: dsqlcdc gaps {config}", "bold red"))
    elif seen["gaps"]["found"]:
        lines.append((f"{seen['gaps']['found']} gaps, all acknowledged", ""))
    return lines


def _stream(stream: Mapping[str, Any], config: str) -> list[tuple[str, str]]:
    status = stream.get("status")
    if status is None:  # from the state store alone
        text = f"CDC stream {stream.get('id') or 'unknown'}: last seen ACTIVE {stream.get('healthy_at') or 'never'}"
        if stream.get("broken_since"):
            return [(f"{text}; changes may be held back since {stream['broken_since']}. Run: dsqlcdc stream status {config}", "bold red")]
        return [(text, "")]
    reason = "" if stream.get("reason") is None else str(stream["reason"].get("error", ""))
    lines = [(f"CDC stream {status}{f': {reason}' if reason else ''}", "green" if status == "ACTIVE" else "bold red")]
    remedy: Mapping[str, Any] | None = stream.get("remedy")
    if status != "ACTIVE" and remedy is not None:
        lines.append((f"  {printable(str(remedy.get('explanation', '')))} Run: dsqlcdc stream status {config}", "red"))
    if stream.get("fault"):
        lines.append((f"  it cannot be asked: {printable(str(stream['fault']))}", "yellow"))
    return lines
