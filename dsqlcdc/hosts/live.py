"""What the page shows: looked at every two seconds, kept for half an hour, and told to whoever listens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from dsqlcdc import __version__
from dsqlcdc.core.lag import Spread
from dsqlcdc.core.ports import Gap
from dsqlcdc.core.telemetry import Kept, ShardStatus, Status
from dsqlcdc.errors import Fault
from dsqlcdc.hosts.happened import Happened
from dsqlcdc.hosts.history import STEP, History, late, point, worst
from dsqlcdc.hosts.rates import Flow, Rates
from dsqlcdc.hosts.readiness import Readiness
from dsqlcdc.sources.counts import Counts

if TYPE_CHECKING:
    from dsqlcdc.streams.watch import View

__all__ = ["Live", "Seen"]

log = logging.getLogger("dsqlcdc.http")

SHOWN = 60
"""Shards of a sink that are told one by one, the worst first; the others are counted."""
DRAWN = 16
"""Shards of a sink whose last minutes are told."""
GAPS = 20
READ_AGAIN = 5.0
"""Seconds within which a shard that is read is read again, whatever the pauses."""
CODES = 10
CLASSES = (1.0, 10.0, 60.0)
"""Seconds behind from which on a shard is drawn as later."""
STRIP = 1000


class Seen(msgspec.Struct, frozen=True):
    """What there is to look at. `kept` asks the stores, every `kept_every` seconds; None where nothing is stored."""

    statuses: Callable[[], Sequence[Status]]
    readiness: Readiness
    source: Callable[[], Counts] | None = None
    watch: Callable[[], View] | None = None
    kept: Callable[[], Awaitable[Kept]] | None = None
    kept_every: float = 5.0
    config: str = "CONFIG"


class Live:
    """One process's page. `clock`: seconds since the epoch. `running` looks; `news` gives what there is and then what comes, and ends with it."""

    def __init__(self, seen: Seen, clock: Callable[[], float]) -> None:
        self._seen, self._clock = seen, clock
        self._history, self._happened, self._rates = History(), Happened(), Rates(window=10.0)
        self._since = clock()
        self._kept = Kept("")
        self._flows: Mapping[str, Flow] = {}
        self._looked = asyncio.Condition()
        self._looks = 0
        self._told = b""
        self._closed = False

    def kept(self) -> Kept:
        """What the stores held when they were last asked."""
        return self._kept

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Look every STEP seconds until left. Whatever a look raises ends the looking, never the process."""
        tasks = [asyncio.create_task(self._look_often(), name="looks for the page")]
        if self._seen.kept is not None:
            tasks.append(asyncio.create_task(self._ask_often(self._seen.kept), name="looks at the stores for the page"))
        try:
            yield
        finally:
            self._closed = True
            async with self._looked:
                self._looked.notify_all()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_often(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        try:
            while True:
                await self.look()
                due = max(due + STEP, loop.time())
                await asyncio.sleep(due - loop.time())
        except Exception:  # a bug in what is shown ends the showing, with its traceback, and no pipeline
            log.exception("the page is not kept up to date any more")

    async def look(self) -> None:
        """One look, told to those who listen."""
        at, statuses = self._clock(), self._seen.statuses()
        view = self._seen.watch() if self._seen.watch is not None else None
        self._flows = self._rates.look(statuses, asyncio.get_running_loop().time())
        self._history.add(at, statuses, self._flows)
        self._happened.look(at, statuses, view, self._kept)
        async with self._looked:
            self._looks += 1
            self._told = b""
            self._looked.notify_all()

    async def _ask_often(self, kept: Callable[[], Awaitable[Kept]]) -> None:
        while True:
            try:
                self._kept = await kept()
            except Fault as fault:  # the pipelines say it louder; `at` says how old the answer is
                log.debug("the stores could not be asked for the page: %s", fault)
            await asyncio.sleep(self._seen.kept_every)

    async def news(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events: `history` and `shards` first, then a `tick` a look. Each is whole: whoever missed some misses nothing."""
        yield _event("history", self._history.as_json())
        yield self._shards_event()
        looks = -1
        while True:
            async with self._looked:
                while self._looks == looks and not self._closed:
                    await self._looked.wait()
            if self._closed:
                return
            looks = self._looks
            self._told = self._told or _event("tick", self.page())
            yield self._told
            if self._history.at_shards:
                yield self._shards_event()

    def _shards_event(self) -> bytes:
        shown = {status.sink: [shard.shard for shard in worst(status.shards)[:DRAWN]] for status in self._seen.statuses()}
        return _event("shards", self._history.shards_json(shown))

    def page(self) -> dict[str, Any]:
        """Everything that the page says, as it stands."""
        statuses, now = self._seen.statuses(), self._clock()
        reasons = self._seen.readiness.ask(statuses, asyncio.get_running_loop().time())
        return {
            **self.extra(),
            "version": __version__,
            "step": STEP,
            "ready": not reasons,
            "reasons": msgspec.to_builtins(reasons),
            "sinks": [self._sink(status, now) for status in statuses],
            "stream": self._seen.watch().as_json() if self._seen.watch is not None else None,
        }

    def extra(self) -> dict[str, Any]:
        """What /status says beside the pipelines."""
        statuses, kept, config = self._seen.statuses(), self._kept, self._seen.config
        owed = sorted(kept.owed, key=lambda gap: -gap.found_at)
        return {
            "at": round(self._clock(), 3),
            "since": round(self._since, 3),
            "pipeline": statuses[0].pipeline if statuses else kept.pipeline,
            "config": config,
            "stores_at": round(kept.at, 3) or None,
            "gaps": {"unacknowledged": len(owed), "shown": [_gap(gap, config) for gap in owed[:GAPS]]},
            "fragments": {"parts": kept.parts, "bytes": kept.part_bytes},
            "source": _source(self._seen.source() if self._seen.source is not None else None),
            "happened": msgspec.to_builtins(self._happened.last()),
        }

    def _sink(self, status: Status, now: float) -> dict[str, Any]:
        flow = self._flows.get(status.sink, Flow())
        reason, _, told = Fault.name_config(status.reason, self._seen.config).partition(" Run: ")
        run, _, then = told.partition(", ")
        return {
            "name": status.sink,
            "state": status.state,
            "reason": reason,
            "run": run,
            "then": then,
            "read": status.read,
            "settled": dict(status.settled),
            "open": status.open,
            "in_flight_bytes": status.in_flight_bytes,
            "point": point(status, flow),
            "retries": _most(status.retries),
            "dead": _most(status.dead),
            "letters": status.letters,
            "committed_at": round(status.committed_at, 3) or None,
            "newest_at": round(status.newest_version / 1e9, 3) or None,
            "retention_used": round(status.retention_used, 4),
            "retention_left": None if status.retention_left is None else round(status.retention_left),
            "alarm": status.alarm,
            "circuit": status.circuit,
            "lag": {leg: round(_lag(leg, spread), 3) for leg, spread in status.lag.items() if spread.now or any(spread.counts)},
            "behind": round(late(status), 2),
            "shards": _shards(status.shards, now),
        }


def _lag(leg: str, spread: Spread) -> float:
    """A leg as it stands; while shards are read again and again, what the last batch took says more than how long ago that was."""
    return spread.last if leg == "kinesis_to_read" and spread.now < READ_AGAIN else spread.now


def _shards(shards: Sequence[ShardStatus], now: float) -> dict[str, Any]:
    found = worst(shards)
    by_name = sorted(found, key=lambda shard: shard.shard)[:STRIP]
    return {
        "live": sum(not shard.ended for shard in shards),
        "ended": sum(shard.ended for shard in shards),
        "behind": sum(shard.behind_ms >= 1000 * CLASSES[0] for shard in found),
        "owing": sum(shard.open > 0 for shard in found),
        "strip": "".join(str(sum(shard.behind_ms >= 1000 * limit for limit in CLASSES)) for shard in by_name),
        "shown": [_shard(shard, now) for shard in found[:SHOWN]],
    }


def _shard(shard: ShardStatus, now: float) -> dict[str, Any]:
    return {
        "shard": shard.shard,
        "open": shard.open,
        "read": shard.read,
        "behind": shard.behind_ms / 1000,
        "ended": shard.ended,
        "checkpoint_age": round(max(0.0, now - shard.checkpoint_arrived), 1) if shard.checkpoint_arrived else None,
    }


def _gap(gap: Gap, config: str) -> dict[str, Any]:
    return {
        "id": gap.id,
        "kind": gap.kind,
        "sink": gap.sink,
        "shard": gap.shard,
        "detail": gap.detail,
        "from": gap.from_time or None,
        "to": gap.to_time or None,
        "found_at": gap.found_at or None,
        "run": f"dsqlcdc gaps {config}",
    }


def _source(counts: Counts | None) -> dict[str, Any] | None:
    if counts is None:
        return None
    body: dict[str, Any] = msgspec.to_builtins(counts)
    states: dict[str, int] = {}
    for shard in body.pop("shards"):
        states[shard["state"]] = states.get(shard["state"], 0) + 1
    return {**body, "states": states}


def _most(counts: Mapping[str, int]) -> dict[str, int]:
    """The most frequent codes; the rest as "other"."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    rest = sum(count for _, count in ordered[CODES:])
    return {**dict(ordered[:CODES]), **({"other": rest} if rest else {})}


def _event(name: str, body: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(body) + b"\n\n"
