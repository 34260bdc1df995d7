"""The daemon: all pipelines of a config in one process, until told to stop or, with `--once`, until the stream's tip."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import msgspec

from dsqlcdc.assemble import Assembly, assemble, make_watch, open_checkpoints
from dsqlcdc.config import Config
from dsqlcdc.core.patience import until
from dsqlcdc.core.pipeline import Pipeline
from dsqlcdc.core.telemetry import Status
from dsqlcdc.errors import Fault, Lost, Misconfigured, Stopped
from dsqlcdc.streams.watch import Watch
from dsqlcdc.traces import Wrap

log = logging.getLogger("dsqlcdc.daemon")

_MISSING = "E103"
"""What is asked for does not exist: of a source, its Kinesis stream."""

Watcher = Callable[[Assembly], AbstractAsyncContextManager[Any]]
"""Something that looks on while pipelines run: the http server, the display."""


class Result(msgspec.Struct, frozen=True):
    """How a run ended. `gaps`: unacknowledged ones of this pipeline, from this run or an earlier one. `faults` by sink ("" the source).
    `once`: it was to end by itself."""

    statuses: Sequence[Status]
    faults: Mapping[str, Fault]
    gaps: int
    once: bool = False

    @property
    def exit_code(self) -> int:
        """The first that holds: 1 a sink or the source stopped; 3 an unacknowledged gap; 4 dead letters of a `once`; 0."""
        if any(not isinstance(fault, Lost) for fault in self.faults.values()):
            return 1
        if self.faults or self.gaps:
            return 3
        return 4 if self.once and any(status.settled["dead"] or status.letters for status in self.statuses) else 0

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
    wrap: Wrap | None = None,
) -> Result:
    """Run every pipeline of the config. A sink that stops does not stop the others.

    SIGTERM and SIGINT (or `stop`) end reading; what is in flight is drained and committed. A second signal cancels: what was settled is
    still committed, the rest is read again. Where the Kinesis stream is gone the CDC stream is looked at once more before this ends, so that
    what its remedy makes again is there at the next start. `wrap` as in assemble. Raises ConfigError and what opening stream or state raises
    (Misconfigured, Unavailable).
    """
    stop = stop or asyncio.Event()
    for remark in config.remarks:
        log.warning("%s", remark)
    async with AsyncExitStack() as stack:
        stack.enter_context(_signals(stop))
        try:
            assembly = await until(stack.enter_async_context(assemble(config, once=once, deadline=deadline, wrap=wrap)), stop)
        except Misconfigured as fault:
            if config.stream is not None and fault.code == _MISSING:
                await until(_look_once(config), stop)
            raise
        if assembly is None:
            return Result((), {}, 0)
        if assembly.watch is not None:
            await stack.enter_async_context(_watching(assembly.watch))
        for watcher in watchers:
            await stack.enter_async_context(watcher(assembly))
        outcomes = await asyncio.gather(*(run_one(pipeline, stop, str(config.path)) for pipeline in assembly.pipelines))
        if assembly.watch is not None and any(fault is not None and fault.code == _MISSING for fault in outcomes):
            await until(assembly.watch.once(), stop)
        gaps = sum(not gap.acked for gap in await assembly.checkpoints.gaps(config.pipeline))
        statuses = [pipeline.status() for pipeline in assembly.pipelines]
        faults = {status.sink: fault for status, fault in zip(statuses, outcomes, strict=True) if fault is not None}
        return Result(statuses, faults, gaps, once)


async def _look_once(config: Config) -> None:
    """Without a Kinesis stream there is nothing to read, and whoever is to make it again where the config says so is the watch."""
    store = open_checkpoints(config)
    try:
        await make_watch(config, store).once()
    finally:
        await store.close()


@asynccontextmanager
async def _watching(watch: Watch) -> AsyncGenerator[None, None]:
    """The CDC stream is looked at meanwhile. Whatever becomes of that, reading goes on."""

    async def looking() -> None:
        try:
            await watch.run()
        except Exception:  # a bug in the watch ends the watch, with its traceback, and no pipeline
            log.exception("the CDC stream is not looked at any more")

    task = asyncio.create_task(looking(), name="watch over the CDC stream")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def run_one(pipeline: Pipeline, stop: asyncio.Event, config: str) -> Fault | None:
    """One pipeline's run; what ended it, None where it was done or told to stop."""
    try:
        await pipeline.run(stop)
    except Fault as fault:
        log.error("sink %s: %s", pipeline.status().sink, fault.named(config))
        return fault
    except Exception as error:  # a bug in a sink ends that sink's pipeline, with its traceback, and no other
        log.exception("%s/%s stopped", pipeline.status().pipeline, pipeline.status().sink)
        why, run = f"{type(error).__name__}: {error}", f"dsqlcdc run {config}"
        return Stopped("the pipeline stopped", where=f"sink {pipeline.status().sink}", why=why, run=run)
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
