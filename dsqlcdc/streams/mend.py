"""Mending: the remedy's actions, done under a lease, each within its limits, after a fresh look, and put on record before and after."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from dsqlcdc.core.ports import CheckpointStore
from dsqlcdc.errors import Fault, Held, Misconfigured
from dsqlcdc.streams import role, target
from dsqlcdc.streams.apply import apply
from dsqlcdc.streams.clients import Clients
from dsqlcdc.streams.deeds import Deed, Lease, Result, read_deeds, refusal, write_deeds
from dsqlcdc.streams.desired import Desired
from dsqlcdc.streams.facts import Action, Kind
from dsqlcdc.streams.health import Event, EventKind
from dsqlcdc.streams.observe import observe
from dsqlcdc.streams.observed import Observed
from dsqlcdc.streams.plan import plan
from dsqlcdc.streams.remedies import Remedy, remedy_of
from dsqlcdc.streams.sighting import Sighting
from dsqlcdc.streams.work import Work

log = logging.getLogger("dsqlcdc.stream")


class Mender:
    """Does what a remedy says, where the config's policy is `apply`. `tell` hears every attempt, and once why one is not made.

    `lease` gives the journal's store to one process at a time. `durable`: that store outlives the process; where not, the stream is never
    created again, for the gap would be forgotten. `clock`: seconds since the epoch.
    """

    def __init__(self, desired: Desired, lease: Lease, *, durable: bool, tell: Callable[[Event], None], clock: Callable[[], float]) -> None:
        self._desired, self._lease, self._durable, self._tell, self._clock = desired, lease, durable, tell, clock
        self._told: dict[str, str] = {}
        self.tried: dict[tuple[Kind, Result], int] = {}

    async def mend(self, clients: Clients, found: Remedy, sighting: Sighting) -> bool:
        """Do what is to be done; True where something was. What AWS or the store refuses is told, not raised.

        `sighting`: what is known of the stream's better days. Cancelled in the midst of an action, it stays in the journal as begun.
        """
        if found.policy != "apply" or not found.can_apply:
            return False
        try:
            async with self._lease() as store:
                return await self._mend(clients, store, sighting)
        except Held as error:
            self._leave("lease", found.error, f"another process sees to it: {error.why}")
        except Fault as error:
            self._leave("lease", found.error, f"it cannot be seen to just now: {error}")
        return False

    async def _mend(self, clients: Clients, store: CheckpointStore, sighting: Sighting) -> bool:
        """With the lease: others may have acted since, so everything is looked at anew."""
        deeds, observed = await read_deeds(store, self._desired), await observe(self._desired, clients)
        found = remedy_of(self._desired, observed)
        if found is None or found.policy != "apply":
            return False
        acted = False
        for action in found.actions:
            if not action.kind:
                continue
            why = refusal(deeds, action, self._clock(), error=found.error, well_since=sighting.healthy_at)
            if why:
                self._leave(action.kind, found.error, f"{action.what} Not done: {why}.")
                return acted
            deed = await self._do(clients, store, deeds, found, action, observed, sighting)
            acted = True
            if deed.result != "done":
                return acted
            self._told.clear()
        return acted

    async def _do(
        self,
        clients: Clients,
        store: CheckpointStore,
        deeds: list[Deed],
        found: Remedy,
        action: Action,
        observed: Observed,
        sighting: Sighting,
    ) -> Deed:
        deed = Deed(at=self._clock(), error=found.error, kind=action.kind, what=action.what, before=action.before, after=action.after)
        deeds.append(deed)
        await write_deeds(store, self._desired, deeds)
        self._say("acting", action.what, action)
        try:
            await self._act(clients, store, action, observed, sighting)
        except Fault as error:
            deed = msgspec.structs.replace(deed, result="failed", why=str(error))
            self._say("not_acted", f"{action.what} It failed: {error}", action)
        else:
            deed = msgspec.structs.replace(deed, result="done")
            self._say("acted", f"{action.what} Done.", action)
        deeds[-1] = deed
        self.tried[action.kind, deed.result] = self.tried.get((action.kind, deed.result), 0) + 1
        await write_deeds(store, self._desired, deeds)
        return deed

    async def _act(self, clients: Clients, store: CheckpointStore, action: Action, observed: Observed, sighting: Sighting) -> None:
        work = Work(desired=self._wanted(action), observed=observed, clients=clients, say=_said, clock=self._clock)
        if action.kind == "shards":
            await target.reshard(work, int(action.after))
        elif action.kind == "recreate":
            await self._recreate(work, store, sighting)
        else:
            await _ACTS[action.kind](work)

    async def _recreate(self, work: Work, store: CheckpointStore, sighting: Sighting) -> None:
        """As `stream apply --replace`. The Kinesis stream and its unread records stay; where it is gone there is nothing left to leave.

        While it is being deleted its last records may still be read: not before it is gone.
        """
        there = work.observed.target
        if there is not None and there.status == "DELETING":
            what, why = "the CDC stream is not created again yet", "the Kinesis stream is being deleted, and may still be read"
            raise Misconfigured(what, where=f"kinesis stream {there.name}", why=why, run="dsqlcdc stream status CONFIG", code="E190")
        stream = plan(work.desired, work.observed).stream
        healthy = sighting.healthy_at if stream is not None and stream.id == sighting.stream else 0.0
        done = await apply(plan(work.desired, work.observed), work, replace=True, store=store if self._durable else None, healthy=healthy)
        for gap in done.gaps:
            self._tell(told_gap(gap.id, gap.detail, self._clock(), done.stream.id))
        if done.fault is not None:
            raise done.fault

    def _wanted(self, action: Action) -> Desired:
        if action.kind != "record_size":
            return self._desired
        larger = msgspec.structs.replace(self._desired.target, max_record_kib=int(action.after))
        return msgspec.structs.replace(self._desired, target=larger)

    def _leave(self, about: str, error: str, why: str) -> None:
        """Say why nothing is done, once as long as it is the same."""
        if self._told.get(about) != why:
            self._told[about] = why
            self._tell(Event(kind="not_acted", at=self._clock(), stream="", what=why, before=error))

    def _say(self, kind: EventKind, what: str, action: Action) -> None:
        self._tell(Event(kind=kind, at=self._clock(), stream="", what=what, before=action.before, after=action.after))


_ACTS: Mapping[Kind, Callable[[Work], Awaitable[None]]] = {
    "record_size": target.raise_record_size,
    "on_demand": target.change_mode,
    "trust": role.trust,
    "role": role.make,
    "policy": role.permit,
}


def told_gap(id: str, detail: str, at: float, stream: str) -> Event:
    """That changes may be lost, and where that is written down."""
    return Event(kind="gap", at=at, stream=stream, what=f"gap {id}: {detail}. Run: dsqlcdc gaps CONFIG", after=id)


def _said(text: str) -> None:
    log.info("%s", text)
