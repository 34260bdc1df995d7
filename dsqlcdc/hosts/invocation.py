"""One invocation's work: every sink's pipeline over one batch, ended in time, and what of the batch is still owed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

import msgspec

from dsqlcdc.core.around import Around
from dsqlcdc.core.backoff import Backoff
from dsqlcdc.core.pipeline import Pipeline, Recipe
from dsqlcdc.core.ports import DeadLetterStore, Gap, Name, SharedFragmentStore, Source
from dsqlcdc.core.records import Mark
from dsqlcdc.core.route import Route
from dsqlcdc.core.tables import Tables
from dsqlcdc.core.telemetry import Status
from dsqlcdc.errors import Fault, Unavailable
from dsqlcdc.hosts.daemon import run_one
from dsqlcdc.sources.lambda_event import Batch
from dsqlcdc.stores.memory_checkpoints import MemoryCheckpoints

log = logging.getLogger("dsqlcdc.invocation")

_GRACE = 20.0
"""Seconds before the end, at the most, at which nothing new is begun; a fifth of the time where that is less."""


class Kept(Around):
    """A sink that is entered by the first run and left by `shut`: its connections last from invocation to invocation."""

    _entered = False

    async def __aenter__(self) -> Self:
        if not self._entered:
            await super().__aenter__()
            self._entered = True
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    async def shut(self) -> None:
        """Leave the sink. Twice is no error."""
        entered, self._entered = self._entered, False
        if entered:
            await super().__aexit__(None, None, None)


@dataclass(frozen=True)
class Outlet:
    """One sink of the function, and what it takes."""

    sink: Kept
    route: Route = field(default_factory=Route)
    order: Literal["unique", "latest"] = "unique"


@dataclass(frozen=True)
class Outfit:
    """What a sandbox keeps from invocation to invocation. Nothing in it judges: ledgers and sequencers are made anew each time."""

    pipeline: str
    outlets: Mapping[str, Outlet]
    tables: Tables
    dead_letters: DeadLetterStore
    fragments: SharedFragmentStore
    clock: Callable[[], float]
    random: Callable[[], float]
    lateness: float = 1800.0
    max_age: float = 86_400.0
    room: int = 96 * 1024 * 1024

    async def shut(self) -> None:
        """Leave the sinks and close the stores."""
        for outlet in self.outlets.values():
            await outlet.sink.shut()
        await self.fragments.close()
        await self.dead_letters.close()


class Work(msgspec.Struct, frozen=True):
    """What came of one run of all sinks. By sink its frontier by shard, its status, and what stopped it; the gaps that were found."""

    marks: Mapping[str, Mapping[str, Mark]]
    statuses: Sequence[Status]
    faults: Mapping[str, Fault]
    gaps: Sequence[Gap]


async def work(outfit: Outfit, sources: Mapping[str, Source], seconds: float, *, look_every: float | None = None) -> Work:
    """Run every sink's pipeline over its source, and end `seconds` from now: near the end nothing new is begun, what is under way gets
    a moment, and the rest stays owed. Nothing of it is still running on return. `look_every` as in Recipe.

    Raises nothing that a pipeline raised: that is in `faults`. Cancelled: as the pipelines are.
    """
    grace = min(_GRACE, max(seconds, 0.0) / 5)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    timer = loop.call_later(max(seconds - grace, 0.0), stop.set)
    stores = {name: MemoryCheckpoints() for name in outfit.outlets}
    names = {name: Name(outfit.pipeline, name, sources[name].stream) for name in outfit.outlets}
    pipelines = {
        name: Pipeline(
            Recipe(
                name=names[name],
                source=sources[name],
                sink=outlet.sink,
                tables=outfit.tables,
                checkpoints=stores[name],
                dead_letters=outfit.dead_letters,
                fragments=outfit.fragments,
                clock=outfit.clock,
                random=outfit.random,
                route=outlet.route,
                order=outlet.order,
                lateness=outfit.lateness,
                max_age=outfit.max_age,
                look_every=look_every,
                room=outfit.room,
                drain=grace / 4,
                commit_until=end - grace / 2,
                backoff=Backoff(0.1, 5.0),
            )
        )
        for name, outlet in outfit.outlets.items()
    }
    try:
        ended = await asyncio.gather(*(run_one(pipeline, stop, "CONFIG") for pipeline in pipelines.values()))
    finally:
        timer.cancel()
    marks: dict[str, Mapping[str, Mark]] = {}
    gaps: list[Gap] = []
    for name, store in stores.items():
        stored = await store.load(names[name])
        marks[name] = stored.marks if stored is not None else {}
        gaps += await store.gaps(outfit.pipeline)
    faults = {name: fault for name, fault in zip(pipelines, ended, strict=True) if fault is not None}
    return Work(marks, [pipeline.status() for pipeline in pipelines.values()], faults, gaps)


def first_owed(batch: Batch, done: Work) -> str:
    """The lowest sequence number that any sink still owes, "" for none."""
    owed = [batch.owed(marks.get(batch.shard)) for marks in done.marks.values()]
    return min((name for name in owed if name), key=lambda name: (len(name), name), default="")


def answer(batch: Batch, done: Work) -> str:
    """What Lambda is told: first_owed. Where that is the batch's first record, so that nothing has moved, it may be better to fail as a
    function, since Lambda then halves the batch (BisectBatchOnFunctionError) and counts an error.

    Raises a sink's own fault, and Unavailable (E463) where no sink had any trouble and the time was too short for so many records: the same
    batch would come again and again. While a destination is away the answer names the record, for halves would not go in either.
    """
    owed = first_owed(batch, done)
    if owed != batch.records[0].sequence_number:
        return owed
    for fault in done.faults.values():
        raise fault
    if len(batch.records) > 1 and not any(status.retries for status in done.statuses):
        raise Unavailable(
            "the batch was not done in the function's time",
            where=f"shard {batch.shard}, {len(batch.records)} records from {owed} on",
            why="none of its sinks had trouble, and its first record is still owed",
            run="aws lambda update-event-source-mapping --uuid UUID --batch-size N, with fewer; or give the function more time",
            code="E463",
        )
    return owed
