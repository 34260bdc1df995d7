"""Doing what a plan says, a step at a time, each of which may be stopped anywhere and done again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from dsqlcdc.core.ports import CheckpointStore, Gap
from dsqlcdc.errors import Misconfigured, Unavailable
from dsqlcdc.streams import cdc, recreated, role, sighting, target
from dsqlcdc.streams.observe import list_streams
from dsqlcdc.streams.observed import CdcStream
from dsqlcdc.streams.plan import Action, Plan, Step
from dsqlcdc.streams.work import Work


class Table(Protocol):
    """The DynamoDB table of the state. Raises Misconfigured and Unavailable as AWS says."""

    table: str

    async def exists(self) -> bool: ...

    async def make(self) -> None:
        """Make it and wait until it can be used; one that is there is left as it is."""
        ...


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What was done, and how the CDC stream stands. `fault`: why it is not ACTIVE; `gaps`: those that were given their end."""

    changes: Sequence[Action]
    stream: CdcStream
    gaps: Sequence[Gap] = ()
    fault: Misconfigured | None = None


_TARGET: Mapping[Step, Callable[[Work], Awaitable[None]]] = {
    "target": target.make,
    "record_size": target.raise_record_size,
    "retention": target.raise_retention,
    "mode": target.change_mode,
    "encryption": target.encrypt,
    "target_tags": target.tag,
    "role": role.make,
    "trust": role.trust,
    "policy": role.permit,
    "role_tags": role.tag,
}


def refuse(plan: Plan, *, replace: bool, store: CheckpointStore | None) -> Misconfigured | None:
    """Why the plan is not to be begun: an obstacle, or a replacement that nobody asked for (E174) or that could not be noted (E177)."""
    if plan.obstacle is not None:
        return plan.obstacle
    action = plan.replaces
    if action is None:
        return None
    where = f"cdc_stream {action.name}"
    if not replace:
        what = "the CDC stream must be replaced, and changes would be lost"
        why = f"{action.detail}, which leaves a gap in `dsqlcdc gaps`"
        return Misconfigured(what, where=where, why=why, run="dsqlcdc stream apply CONFIG --replace", code="E174")
    if store is None:
        why = "state is of type memory, so the gap it leaves would be forgotten"
        what = "the CDC stream cannot be replaced with this state"
        return Misconfigured(what, where=where, why=why, run="dsqlcdc config show CONFIG, and write state: {type: sqlite}", code="E177")
    return None


async def apply(
    plan: Plan,
    work: Work,
    *,
    replace: bool = False,
    store: CheckpointStore | None = None,
    table: Table | None = None,
    healthy: float = 0.0,
    deadline: float = 600.0,
) -> Applied:
    """Do what the plan says and wait until the CDC stream is ACTIVE, or will not be by itself (then `Applied.fault` says why).

    `replace`: a CDC stream may be deleted and created again; the gap is recorded in `store` before, and ended when the new one is ACTIVE,
    by this call or, where it is stopped in between, by the next. `healthy` as in recreated.gap_of, by default when a daemon last saw the
    stream ACTIVE. Raises what `refuse` gives, before anything is changed; Misconfigured and Stopped from AWS; Unavailable (E179) when
    `deadline` seconds have passed. Whenever it is cancelled or raises, what was done stays, and a new plan goes on from there.
    """
    refused = refuse(plan, replace=replace, store=store)
    if refused is not None:
        raise refused
    try:
        async with asyncio.timeout(deadline):
            return await _apply(plan, work, store, table, healthy)
    except TimeoutError as error:
        what, where = f"the CDC stream was not ACTIVE within {deadline:g} s", f"cluster {work.desired.cluster}"
        raise Unavailable(what, where=where, run="dsqlcdc stream apply CONFIG, which goes on from here", code="E179") from error


async def _apply(plan: Plan, work: Work, store: CheckpointStore | None, table: Table | None, healthy: float) -> Applied:
    stream, fresh = plan.stream, False
    for action in plan.changes:
        work.say(f"{action.action} {action.resource} {action.name}: {action.detail}")
        if action.step == "table" and table is not None:
            await table.make()
        elif action.step == "stream_tags" and stream is not None:
            await cdc.tag(work, stream)
        elif action.step in ("stream", "replace"):
            if action.step == "replace" and stream is not None and store is not None:
                known = await sighting.last_seen(store, work.desired)
                seen = healthy or (known.healthy_at if known.stream == stream.id else 0.0)
                gap = await recreated.begin(store, work.desired, stream, now=work.clock(), healthy=seen)
                work.say(f"gap {gap.id} is recorded")
                await cdc.delete(work, stream.id)
            stream, fresh = await cdc.create(work), True
        elif action.step in _TARGET:
            await _TARGET[action.step](work)
    assert stream is not None  # there is one, or the plan has created one
    mending = not fresh and any(action.resource in ("kinesis_stream", "iam_role") for action in plan.changes)
    stream = await cdc.until_active(work, stream.id, mending=mending)
    gaps: Sequence[Gap] = ()
    if stream.status == "ACTIVE" and store is not None:
        there = await list_streams(work.clients, work.desired.cluster)
        gaps = await sighting.arrived(store, work.desired, there, stream, work.clock())
    return Applied(changes=plan.changes, stream=stream, gaps=gaps, fault=cdc.unwell(work, stream))
