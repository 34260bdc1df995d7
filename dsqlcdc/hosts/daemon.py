"""The daemon: all pipelines of a config in one process, until told to stop or, with `--once`, until the stream's tip."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from typing import Any

import msgspec

from dsqlcdc.assemble import Assembly, assemble
from dsqlcdc.config import Config
from dsqlcdc.core.patience import until
from dsqlcdc.core.pipeline import Pipeline
from dsqlcdc.core.telemetry import Status
from dsqlcdc.errors import Fault, Lost, Stopped

log = logging.getLogger("dsqlcdc.daemon")

Watcher = Callable[[Assembly], AbstractAsyncContextManager[Any]]
"""Something that looks on while pipelines run: the http server, the display."""


class Result(msgspec.Struct, frozen=True):
    """How a run ended. `gaps`: unacknowledged ones of this pipeline, from this run or an earlier one. `faults` by sink ("" the source)."""

    statuses: Sequence[Status]
    faults: Mapping[str, Fault]
    gaps: int

    @property
    def exit_code(self) -> int:
        """The first that holds: 1 a sink or the source stopped; 3 an unacknowledged gap; 4 dead letters; 0."""
        if any(not isinstance(fault, Lost) for fault in self.faults.values()):
            return 1
        if self.faults or self.gaps:
            return 3
        return 4 if any(status.settled["dead"] or status.letters for status in self.statuses) else 0

    def summary(self) -> dict[str, Any]:
        """The last line of `run --once --json`. A sink that stopped has an `error` beside its counts."""
        sinks: dict[str, dict[str, Any]] = {s.sink: {"read": s.read, "settled": dict(s.settled), "open": s.open} for s in self.statuses}
        for sink, fault in self.faults.items():
            sinks[sink]["error"] = fault.as_json()
        return {"sinks": sinks, "gaps": self.gaps}


async def run(
    config: Config,
    *,
    once: bool = False,
    deadline: float | None = None,
    stop: asyncio.Event | None = None,
    watchers: Sequence[Watcher] = (),
) -> Result:
    """Run every pipeline of the config. A sink that stops does not stop the others.

    SIGTERM and SIGINT (or `stop`) end reading; what is in flight is drained and committed. A second signal cancels: what was settled is
    still committed, the rest is read again. Raises ConfigError and what opening stream or state raises (Misconfigured, Unavailable).
    """
    stop = stop or asyncio.Event()
    async with AsyncExitStack() as stack:
        stack.enter_context(_signals(stop))
        assembly = await until(stack.enter_async_context(assemble(config, once=once, deadline=deadline)), stop)
        if assembly is None:
            return Result((), {}, 0)
        for watcher in watchers:
            await stack.enter_async_context(watcher(assembly))
        outcomes = await asyncio.gather(*(run_one(pipeline, stop) for pipeline in assembly.pipelines))
        gaps = sum(not gap.acked for gap in await assembly.checkpoints.gaps(config.pipeline))
        statuses = [pipeline.status() for pipeline in assembly.pipelines]
        faults = {status.sink: fault for status, fault in zip(statuses, outcomes, strict=True) if fault is not None}
        return Result(statuses, faults, gaps)


async def run_one(pipeline: Pipeline, stop: asyncio.Event) -> Fault | None:
    """One pipeline's run; what ended it, None where it was done or told to stop."""
    try:
        await pipeline.run(stop)
    except Fault as fault:
        log.error("sink %s: %s", pipeline.status().sink, fault)
        return fault
    except Exception as error:  # a bug in a sink ends that sink's pipeline, with its traceback, and no other
        log.exception("%s/%s stopped", pipeline.status().pipeline, pipeline.status().sink)
        return Stopped("the pipeline stopped", where=f"sink {pipeline.status().sink}", why=f"{type(error).__name__}: {error}")
    return None


@contextmanager
def _signals(stop: asyncio.Event) -> Generator[None, None, None]:
    """The first SIGTERM or SIGINT sets `stop`, the second cancels the run."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def arrived(name: str) -> None:
        if stop.is_set() and task is not None:
            log.warning("%s again: not draining", name)
            task.cancel()
        else:
            log.info("%s: draining, a second signal stops at once", name)
            stop.set()

    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, arrived, number.name)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
