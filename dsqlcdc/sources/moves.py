"""Setting checkpoints anew: where each shard's mark would go, and what that repeats or skips. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import msgspec

from dsqlcdc.core.ports import Gap, Name
from dsqlcdc.core.records import Mark
from dsqlcdc.sources.shards import Shard, depth
from dsqlcdc.sources.starts import Start, first_mark


class Move(msgspec.Struct, frozen=True):
    """One shard's mark: `old` (None where the shard was never begun) and `new`, None where it stays.

    What arrived from `since` to `until` (seconds) is repeated or skipped; `since` is the retention's beginning where nothing is known.
    """

    shard: str
    old: Mark | None
    new: Mark | None
    effect: Literal["repeats", "skips", "nothing"]
    since: float = 0.0
    until: float = 0.0


def moves(
    listed: Sequence[Shard], known: Mapping[str, Mark], to: Start, *, now: float, retention: float, only: Collection[str] = ()
) -> list[Move]:
    """What setting these shards (`only`, or all that are listed) to `to` does. `now`: the service's clock.

    A closed shard that was read to its end stays so, unless `to` is before that end. Parents come before their children.
    """
    target, horizon = first_mark(to, now, retention), now - retention
    time = target.position.arrived if target.position.kind == "time" else horizon
    depths = depth(listed)
    return [
        _move(shard.id, known.get(shard.id), target, time, horizon)
        for shard in sorted(listed, key=lambda one: (depths[one.id], one.id))
        if not only or shard.id in only
    ]


def _move(shard: str, old: Mark | None, new: Mark, time: float, horizon: float) -> Move:
    if old is not None and old.position == new.position:
        return Move(shard, old, None, "nothing")
    reached = max(horizon, (old.arrived or old.position.arrived) if old is not None else 0.0)
    if old is not None and old.position.kind == "end" and time >= reached:
        return Move(shard, old, None, "nothing")
    if time > reached:
        return Move(shard, old, new, "skips", reached, time)
    return Move(shard, old, new, "repeats" if time < reached else "nothing", time, reached)


def skipped(name: Name, move: Move, now: float) -> Gap:
    """The gap that a move which skips leaves."""
    after = move.old.position.sequence if move.old is not None else ""
    text = "\0".join([name.pipeline, name.sink, name.stream, "reset", move.shard, after, f"{move.since:.6f}", f"{move.until:.6f}"])
    return Gap(
        id=hashlib.sha256(text.encode()).hexdigest()[:12],
        pipeline=name.pipeline,
        sink=name.sink,
        stream=name.stream,
        kind="reset",
        shard=move.shard,
        after=after,
        from_time=move.since,
        to_time=move.until,
        detail="skipped by `dsqlcdc checkpoint reset`",
        found_at=now,
    )
