"""The Lambda host: `handler` for a Kinesis trigger, `sweep` for a schedule. The same config as the daemon's, the same pipelines."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

from dsqlcdc.config import Config
from dsqlcdc.config.show import secrets_of
from dsqlcdc.contract import Outcome
from dsqlcdc.errors import Fault
from dsqlcdc.hosts import emf, logs
from dsqlcdc.hosts.audit import audit_of
from dsqlcdc.hosts.invocation import Outfit, Work, answer, work
from dsqlcdc.hosts.lambda_config import load_config
from dsqlcdc.hosts.outfit import open_outfit
from dsqlcdc.sources.lambda_event import LambdaSource, read_event
from dsqlcdc.sources.parked import ParkedSource

__all__ = ["Function", "handler", "sweep"]

log = logging.getLogger("dsqlcdc.lambda")
T = TypeVar("T")

UNFINISHED = 900.0
"""Seconds: no invocation lasts longer, so whoever was to deliver a row that long ago does not any more."""
_MARGIN = 0.5
"""Seconds of an invocation that are left for the answer."""


class Context(Protocol):
    """What is used of Lambda's context object."""

    def get_remaining_time_in_millis(self) -> int: ...


def handler(event: object, context: Context) -> dict[str, list[dict[str, str]]]:
    """What the trigger calls: `dsqlcdc.hosts.aws_lambda.handler`. See Function.handle."""
    return _function().handle(event, context)


def sweep(event: object, context: Context) -> dict[str, Any]:
    """What a schedule calls: `dsqlcdc.hosts.aws_lambda.sweep`. See Function.sweep."""
    return _function().sweep(context)


_here: list[Function] = []


def _function() -> Function:
    """The one Function of this sandbox, made by the first invocation that can."""
    if not _here:
        _here.append(Function(os.environ))
    return _here[0]


class Function:
    """A sandbox: its event loop, its clients and its sinks, for one invocation after another.

    `environ`: DSQLCDC_CONFIG (see load_config), DSQLCDC_LOG (json | text), DSQLCDC_LOG_LEVEL, DSQLCDC_METRICS (a CloudWatch namespace: EMF
    lines are printed; unset: none).
    """

    def __init__(self, environ: Mapping[str, str], *, clock: Callable[[], float] = time.time, tell: Callable[[str], None] = print) -> None:
        self._environ, self._clock, self._tell = dict(environ), clock, tell
        self._runner = asyncio.Runner()
        self._config: Config | None = None
        self._outfit: Outfit | None = None
        self._namespace = self._environ.get("DSQLCDC_METRICS", "")
        self._log(())

    def handle(self, event: object, context: Context) -> dict[str, list[dict[str, str]]]:
        """One batch of one shard, delivered; the answer names the first record that is still owed, and none where all is settled.

        Ends before the time that the context leaves, with what is owed by then. Raises ConfigError, Misconfigured or Unavailable where no
        sink can be begun, what read_event raises, and what `answer` raises where the batch's first record is owed: a function error, on
        which Lambda sends the whole batch again, in halves.
        """
        return self._run(self._handle(event, context))

    def sweep(self, context: Context) -> dict[str, Any]:
        """Deliver rows that are complete and that nobody delivers any more, and give up those whose pieces have waited longer than `max_age`:
        dead letters, and a gap in the log and the metrics. Write the digests of lakes that are due; what
        keeps one from being written is raised when all were tried.

        Gives what became of the rows, by sink. Raises as `handle` does, and any sink's fault.
        """
        return self._run(self._sweep(context))

    def close(self) -> None:
        """Close the clients and the loop."""
        self._run(self._shut())
        self._runner.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(self._alone(coroutine))

    async def _alone(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Nothing that was begun outlives the invocation: a sandbox that is frozen would go on with it at some later time."""
        try:
            return await coroutine
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _handle(self, event: object, context: Context) -> dict[str, list[dict[str, str]]]:
        end = _end(context)
        outfit, config = await self._ready()
        batch = read_event(event, config.source.stream)
        if batch is None:
            return {"batchItemFailures": []}
        sources = {name: LambdaSource(batch, self._clock()) for name in outfit.outlets}
        done = await work(outfit, sources, end - _now())
        await self._tell_all(done, batch.records[0].arrived)
        owed = answer(batch, done)
        if owed:
            log.warning("%s: records from %s on are owed and come again", batch.shard, owed, extra={"shard": batch.shard, "owed": owed})
        return {"batchItemFailures": [{"itemIdentifier": owed}] if owed else []}

    async def _sweep(self, context: Context) -> dict[str, Any]:
        end = _end(context)
        outfit, config = await self._ready()
        stream, totals, gaps = config.source.stream.rpartition("/")[2], dict[str, dict[str, int]](), 0
        while True:
            sources = {name: ParkedSource(outfit.fragments, name, stream, age=UNFINISHED, clock=self._clock) for name in outfit.outlets}
            done = await work(outfit, sources, end - _now(), look_every=0.0)
            await self._tell_all(done, None)
            for status in done.statuses:
                total = totals.setdefault(status.sink, {"read": 0, **dict.fromkeys(status.settled, 0)})
                total["read"] += status.read
                for outcome, count in status.settled.items():
                    total[outcome] += count
            gaps += len(done.gaps)
            for fault in done.faults.values():
                raise fault
            finished = sum(count for status in done.statuses for outcome, count in status.settled.items() if outcome != Outcome.PARKED)
            if _now() >= end or not (finished or done.gaps):
                break
        await self._digests(config, end)
        return {"sinks": totals, "gaps": gaps}

    async def _digests(self, config: Config, end: float) -> None:
        """Write the digests that are due, lake by lake: one that fails keeps none from the others, and is raised when all were tried."""
        faults: list[Fault] = []
        for name in [name for name, sink in config.sinks.items() if sink.type == "s3" and sink.options.get("digest", {}) is not None]:
            if _now() >= end:
                break
            written: Sequence[str] = ()
            fault: Fault | None = None
            try:
                written = await audit_of(config, name)[1].digest(due=True)
            except Fault as met:
                fault = met
                faults.append(met)
            for key in written:
                log.info("%s: digest %s", name, key, extra={"sink": name, "digest": key})
            if self._namespace:
                failed, namespace = fault is not None, self._namespace
                self._tell(emf.digests(config.pipeline, name, len(written), failed=failed, namespace=namespace, now=self._clock()))
        for fault in faults:
            raise fault

    async def _ready(self) -> tuple[Outfit, Config]:
        """The sinks and stores of this sandbox, made at its first invocation, and anew after one that a sink could not finish."""
        if self._config is None:
            self._config = await load_config(self._environ)
            self._log([secret for sink in self._config.sinks.values() for secret in secrets_of(sink.options)])
        config = self._config
        if self._outfit is None:
            self._outfit = await open_outfit(config, self._clock)
        return self._outfit, config

    async def _tell_all(self, done: Work, oldest: float | None) -> None:
        """Log and count what came of it; where a sink could not go on, the next invocation makes it anew, with what has been mended."""
        for gap in done.gaps:
            log.error("gap %s: %s", gap.id, gap.detail, extra={"gap": gap.id, "kind": gap.kind, "sink": gap.sink})
        for status in done.statuses:
            settled = {outcome: count for outcome, count in status.settled.items() if count}
            told = {"sink": status.sink, "read": status.read, "settled": settled, "open": status.open}
            log.info("%s: read %d, settled %s, open %d", status.sink, status.read, settled, status.open, extra=told)
        if self._namespace:
            for line in emf.lines(done, self._namespace, self._clock(), oldest):
                self._tell(line)
        if done.faults:
            await self._shut()

    async def _shut(self) -> None:
        outfit, self._outfit = self._outfit, None
        if outfit is not None:
            await outfit.shut()

    def _log(self, secrets: list[str] | tuple[str, ...]) -> None:
        if "AWS_LAMBDA_FUNCTION_NAME" in self._environ:  # the runtime's own handler would print every line a second time
            logging.getLogger().handlers.clear()
        form: Literal["text", "json"] = "text" if self._environ.get("DSQLCDC_LOG") == "text" else "json"
        logs.setup(form, self._environ.get("DSQLCDC_LOG_LEVEL", "info"), secrets=secrets)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _end(context: Context) -> float:
    """The loop's time at which the answer must be ready."""
    return _now() + context.get_remaining_time_in_millis() / 1000 - _MARGIN
