"""Watching the CDC stream: a look, what it tells, its remedy, and the next look; beside whatever else the process does."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from dsqlcdc.core.ports import CheckpointStore
from dsqlcdc.errors import Fault, Unavailable
from dsqlcdc.streams.clients import Clients
from dsqlcdc.streams.deeds import Lease, Result
from dsqlcdc.streams.desired import Desired
from dsqlcdc.streams.facts import Kind
from dsqlcdc.streams.health import GONE, Event, Health, Look, pause, see
from dsqlcdc.streams.lag import behind
from dsqlcdc.streams.mend import Mender, told_gap
from dsqlcdc.streams.observe import list_streams, look_at, observe
from dsqlcdc.streams.observed import CdcStream
from dsqlcdc.streams.recreated import KIND
from dsqlcdc.streams.remedies import Remedy, blind, moment, remedy_of
from dsqlcdc.streams.sighting import Sighting, arrived, last_seen, remember

log = logging.getLogger("dsqlcdc.stream")

OFTEN = 300.0
"""Seconds between two records of a stream that is simply well: how far back a gap may be made to begin for want of a later look."""
STUDY = 60.0
"""Seconds between two looks at roles and keys while the stream is not well: they cost a dozen calls."""
MEASURED = 45.0
"""Seconds between two questions to CloudWatch, which counts by the minute and costs by the question."""
REFUSED = 3600.0
"""Seconds until it is asked again after it refused: then somebody must allow it first."""
DENIED = ("E102", "E105", "E170")

Open = Callable[[], AbstractAsyncContextManager[Clients]]


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What is known at a moment, for metrics, /status and readiness. `tried`: remedies by kind and result. `gaps`: of this CDC stream's
    predecessors, found by this process or before, not acknowledged."""

    pipeline: str
    cluster: str
    target: str
    health: Health
    stream: CdcStream | None
    remedy: Remedy | None
    tried: Mapping[tuple[Kind, Result], int]
    gaps: int

    def as_json(self) -> dict[str, Any]:
        """As `stream status --json`, with what only a watch knows: `healthy_at`, `kept_until`, `behind_seconds`, `fault`."""
        stream, health = self.stream, self.health
        reason = health.reason
        return {
            "cluster": self.cluster,
            "id": health.stream or None,
            "status": health.status or None,
            "reason": {"error": reason.error, "updated_at": moment(reason.updated_at)} if reason is not None else None,
            "remedy": self.remedy.as_json() if self.remedy is not None else None,
            "target": stream.target if stream is not None else None,
            "created_at": moment(stream.created_at) if stream is not None else None,
            "healthy_at": moment(health.healthy_at),
            "kept_until": moment(health.kept_until),
            "behind_seconds": round(health.lag, 3) if health.lag is not None else None,
            "answered_at": moment(health.answered_at),
            "fault": health.fault or None,
            "gaps": self.gaps,
        }


class Watch:
    """Looks until it is cancelled. `tell` hears what is worth telling; `view` may be asked at any time.

    `open` opens the clients; `store` keeps what was seen. What AWS or the store refuses is told as a look without an answer, and tried
    again later: the watch never raises a Fault. `lease` and `durable` as in Mender. `random` gives numbers in [0, 1). `read`: by how many
    seconds the records that are read just now are late, None where none is; where it does not say, CloudWatch is asked.
    """

    def __init__(
        self,
        desired: Desired,
        open: Open,
        store: CheckpointStore,
        lease: Lease,
        *,
        durable: bool,
        tell: Callable[[Event], None],
        clock: Callable[[], float],
        random: Callable[[], float],
        read: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._desired, self._open, self._store = desired, open, store
        self._tell, self._clock, self._random = tell, clock, random
        self._read = read
        self._mender = Mender(desired, lease, durable=durable, tell=self._tell_of_this, clock=clock)
        self._health = Health()
        self._stream: CdcStream | None = None
        self._remedy: Remedy | None = None
        self._sighting: Sighting | None = None
        self._kept_at = self._studied_at = self._ask_at = 0.0
        self._asked = self._unmeasured = False
        self._stuck = ""
        self._gaps = 0
        self._looking = asyncio.Lock()

    def view(self) -> View:
        return View(
            pipeline=self._desired.pipeline,
            cluster=self._desired.cluster,
            target=self._desired.target.name,
            health=self._health,
            stream=self._stream,
            remedy=self._remedy,
            tried=dict(self._mender.tried),
            gaps=self._gaps,
        )

    def complete_since(self) -> float:
        """What arrived before this time (seconds since the epoch) may lack parts that DSQL still holds back: infinite while it does, and
        until the first look is over."""
        if not self._asked or self._health.impaired:
            return float("inf")
        return self._health.mended_at

    async def run(self) -> None:
        """Look for ever. Clients that cannot be opened are opened again later."""
        while True:
            try:
                async with self._open() as clients:
                    while True:
                        await self.look(clients)
                        await self._rest()
            except Fault as fault:
                self._see(_unanswered(fault, self._clock()))
            await self._rest()

    async def once(self) -> None:
        """One look, and what follows from it."""
        try:
            async with self._open() as clients:
                await self.look(clients)
        except Fault as fault:
            self._see(_unanswered(fault, self._clock()))

    def _tell_of_this(self, event: Event) -> None:
        """What whoever mends tells is of the stream that was last seen."""
        self._tell(event if event.stream else msgspec.structs.replace(event, stream=self._health.stream))

    async def _rest(self) -> None:
        await asyncio.sleep(pause(self._health, self._desired.poll, self._random))

    async def look(self, clients: Clients) -> None:
        """Look once, tell, remember, find the remedy, and mend where the config says so. One look at a time."""
        async with self._looking:
            await self._look(clients)

    async def _look(self, clients: Clients) -> None:
        at = self._clock()
        try:
            await self._recall()
            stream = await self._find(clients)
            seen = Look(at=at, status=GONE) if stream is None else _seen(stream, at, await self._lag(clients, stream, at))
        except Fault as fault:
            self._see(_unanswered(fault, at))
            return
        self._stream = stream
        self._see(seen)
        try:
            await self._keep(clients, seen)
            await self._treat(clients, at)
        except Fault as fault:
            self._say_stuck("what was seen cannot be written down, and will be", fault)

    async def _lag(self, clients: Clients, stream: CdcStream, at: float) -> float | None:
        """By how many seconds the stream is behind. While it holds changes back the records that come do not tell."""
        if stream.status not in ("ACTIVE", "IMPAIRED"):
            return None
        read = self._read() if stream.status == "ACTIVE" else None
        if read is not None or clients.cloudwatch is None:
            return read
        if at < self._ask_at:
            return self._health.lag if stream.id == self._health.stream else None
        self._ask_at = at + MEASURED
        try:
            return await behind(clients, stream, at)
        except Unavailable:
            return None
        except Fault as fault:
            self._ask_at = at + REFUSED
            if not self._unmeasured:
                self._unmeasured = True
                what = f"how far the CDC stream is behind is told by the records that are read alone: {fault}"
                self._tell(Event(kind="unmeasured", at=at, stream=stream.id, what=what))
            return None

    def _say_stuck(self, what: str, fault: Fault) -> None:
        """Once as long as it is the same."""
        if str(fault) != self._stuck:
            self._stuck = str(fault)
            self._tell(Event(kind="unanswered", at=self._clock(), stream=self._health.stream, what=f"{what}: {fault}"))

    def _see(self, look: Look) -> None:
        self._asked = True
        before = self._health.status, self._health.code
        self._health, events = see(self._health, look)
        if (self._health.status, self._health.code) != before:
            self._studied_at = 0.0
        for event in events:
            self._tell(event)

    async def _recall(self) -> None:
        """What an earlier process knew."""
        if self._sighting is None:
            self._sighting = await last_seen(self._store, self._desired)
            self._health = msgspec.structs.replace(
                self._health, healthy_at=self._sighting.healthy_at, broken_since=self._sighting.broken_since, stream=self._sighting.stream
            )

    async def _find(self, clients: Clients) -> CdcStream | None:
        """The stream that is followed, as long as it lives; then the one into the target, if there is one."""
        cluster, known = self._desired.cluster, self._health.stream
        followed = await look_at(clients, cluster, known) if known else None
        if followed is not None and followed.status in ("CREATING", "ACTIVE", "IMPAIRED"):
            return followed
        arn = clients.stream_arn(self._desired.target.name)
        into = [one for one in await list_streams(clients, cluster) if one.target == arn]
        living = [one for one in into if one.status not in ("FAILED", "DELETING", "DELETED")]
        return next(iter(living or ([followed] if followed is not None else into)), None)

    async def _keep(self, clients: Clients, seen: Look) -> None:
        """Remember what was seen; where another stream delivers now, the gap."""
        assert self._sighting is not None
        health, stream = self._health, self._stream
        if stream is None or seen.status not in ("ACTIVE", "IMPAIRED", "FAILED"):
            return
        new = Sighting(stream=stream.id, healthy_at=health.healthy_at, broken_since=health.broken_since)
        came = stream.id != self._sighting.stream and seen.status != "FAILED"
        if came:
            for gap in await arrived(self._store, self._desired, await list_streams(clients, self._desired.cluster), stream, seen.at):
                self._tell(told_gap(gap.id, gap.detail, seen.at, stream.id))
        if not (came or not self._sighting.stream or stream.id == self._sighting.stream):
            return  # FAILED before it ever delivered: the one before it is still what is missed
        changed = (new.stream, new.broken_since) != (self._sighting.stream, self._sighting.broken_since)
        if changed or (new.healthy_at != self._sighting.healthy_at and seen.at - self._kept_at >= OFTEN):
            await remember(self._store, self._desired, new)
            self._sighting, self._kept_at = new, seen.at
            self._gaps = sum(gap.kind == KIND and not gap.acked for gap in await self._store.gaps(self._desired.pipeline))

    async def _treat(self, clients: Clients, at: float) -> None:
        """Find the remedy; and mend."""
        if self._health.status == "ACTIVE" or (self._health.status == "CREATING" and self._health.reason is None):
            self._remedy, self._stuck = None, ""
            return
        if at - self._studied_at < STUDY:
            return
        self._studied_at = at
        try:
            observed = await observe(self._desired, clients)
        except Fault as fault:
            self._prescribe(blind(self._health.code, self._desired, self._health.status, since=self._health.broken_since), at)
            self._say_stuck("what confirms the cause cannot be looked at", fault)
            return
        self._prescribe(remedy_of(self._desired, observed, since=self._health.broken_since), at)
        if self._remedy is not None and await self._mender.mend(clients, self._remedy, self._sighting or Sighting()):
            self._studied_at = 0.0  # what was done is to be seen

    def _prescribe(self, found: Remedy | None, at: float) -> None:
        """The remedy is told when it is another: of another cause, or with other things to do."""
        before, self._remedy = self._remedy, found
        if found is None or (
            before is not None and (before.error, before.status, before.actions) == (found.error, found.status, found.actions)
        ):
            return
        what = " ".join([found.explanation, *(action.what for action in found.actions)])
        self._tell(Event(kind="remedy", at=at, stream=self._health.stream, what=what, after=found.as_json()))


def log_event(event: Event) -> None:
    """An event as a line of the log; of an action also what was before, and after."""
    change = f" Before: {_compact(event.before)}; after: {_compact(event.after)}" if event.kind in ("acting", "acted") else ""
    log.log(LEVELS[event.level], "CDC stream %s: %s: %s%s", event.stream or "-", event.kind, event.what, change)


def _compact(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def _seen(stream: CdcStream, at: float, lag: float | None) -> Look:
    return Look(at=at, status=stream.status, stream=stream.id, reason=stream.reason, lag=lag)


def _unanswered(fault: Fault, at: float) -> Look:
    if fault.code in DENIED:
        return Look(at=at, status="", fault=str(fault), refused="denied")
    throttled = isinstance(fault, Unavailable) and fault.code == "E121"
    after = fault.after or 0.0 if isinstance(fault, Unavailable) else 0.0
    return Look(at=at, status="", fault=str(fault), refused="throttled" if throttled else "", after=after)
