"""Lambda's event source mapping for Kinesis, played: batches by shard, retries, bisects, expiry, side by side, an on-failure destination.

Written from AWS's public documents: what they leave open is said at the place.
"""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from dsqlcdc.core.records import Record

Event = dict[str, Any]
PAYLOAD = 6 * 1024 * 1024
"""Bytes of an event at the most."""


class Shard(msgspec.Struct, frozen=True):
    """One shard's records in order, and its parents, of which every record comes first."""

    name: str
    records: Sequence[Record]
    parents: Sequence[str] = ()


class Settings(msgspec.Struct, frozen=True):
    """The mapping's settings: BatchSize, MaximumBatchingWindowInSeconds, ParallelizationFactor, MaximumRetryAttempts (None: for ever),
    MaximumRecordAgeInSeconds, BisectBatchOnFunctionError; `payload` bounds an event's bytes. ReportBatchItemFailures is on, tumbling windows
    are off. `window` None: the records have been waiting, and batches are as large as they may be."""

    batch: int = 100
    window: float | None = None
    parallel: int = 1
    retries: int | None = None
    max_age: float | None = None
    bisect: bool = True
    payload: int = PAYLOAD


class Failed(msgspec.Struct, frozen=True):
    """An object in the on-failure destination in S3: its key, and its bytes as Lambda writes them."""

    key: str
    body: bytes


class Trigger:
    """Plays the mapping of one stream. `invoke` is the function: it is given an event and answers, or raises as a function error.

    `twice` is asked before each invocation: True has the event delivered to a second sandbox at the same time, whose answer nobody reads.
    `failed` are the batches that were given up, `oversize` the records that no event can hold: what Lambda does with those is not
    documented. `invocations` counts.
    """

    def __init__(
        self,
        invoke: Callable[[Event], Awaitable[object]],
        arn: str,
        settings: Settings | None = None,
        *,
        clock: Callable[[], float],
        pause: Callable[[int], Awaitable[None]] | None = None,
        twice: Callable[[], bool] = lambda: False,
    ) -> None:
        self._invoke, self._arn, self._settings, self._clock, self._twice = invoke, arn, settings or Settings(), clock, twice
        self._pause = pause or _at_once
        self.failed: list[Failed] = []
        self.oversize: list[Record] = []
        self.invocations = 0

    async def run(self, shards: Iterable[Shard]) -> None:
        """Every record of these shards, children after their parents, shards side by side; ends when all is delivered or given up."""
        shards = list(shards)
        done = {shard.name: asyncio.Event() for shard in shards}

        async def one(shard: Shard) -> None:
            for parent in shard.parents:
                if parent in done:
                    await done[parent].wait()
            lanes: list[list[Record]] = [[] for _ in range(self._settings.parallel)]
            for record in shard.records:  # by partition key, which DSQL makes of chance
                lanes[zlib.crc32(record.sequence_number.encode()) % len(lanes)].append(record)
            async with asyncio.TaskGroup() as group:
                for lane in lanes:
                    group.create_task(self._lane(shard.name, lane))
            done[shard.name].set()

        async with asyncio.TaskGroup() as group:
            for shard in shards:
                group.create_task(one(shard))

    async def _lane(self, shard: str, records: Sequence[Record]) -> None:
        for batch in self._batches(records):
            await self._deliver(shard, batch)

    def _batches(self, records: Sequence[Record]) -> Iterator[list[Record]]:
        batch: list[Record] = []
        size = 0
        for record in records:
            length = len(record.data) * 4 // 3 + 600
            if length > self._settings.payload:
                self.oversize.append(record)
                continue
            late = bool(batch) and self._settings.window is not None and record.arrived - batch[0].arrived > self._settings.window
            if batch and (late or len(batch) == self._settings.batch or size + length > self._settings.payload):
                yield batch
                batch, size = [], 0
            batch.append(record)
            size += length
        if batch:
            yield batch

    async def _deliver(self, shard: str, batch: Sequence[Record], tries: int = 0) -> None:
        """One batch until nothing of it is owed, or it is given up. A retry is not counted where the batch was split, or has moved on."""
        settings = self._settings
        while batch:
            young = [r for r in batch if settings.max_age is None or self._clock() - r.arrived <= settings.max_age]
            if len(young) < len(batch):
                self._give_up(shard, [r for r in batch if r not in young], "RecordAgeExceeded", tries)
                batch = young
                continue
            event = event_of(shard, batch, self._arn)
            try:
                at = first_failure(await self._call(event), batch)
                error = False
            except FunctionError:
                error, at = True, 0
            if at == len(batch):
                return
            if at > 0:
                batch, tries = batch[at:], 0
                continue
            if error and settings.bisect and len(batch) > 1:
                half = len(batch) // 2
                await self._deliver(shard, batch[:half], tries)
                batch = batch[half:]
                continue
            if settings.retries is not None and tries >= settings.retries:
                self._give_up(shard, batch, "RetryAttemptsExhausted", tries + 1)
                return
            tries += 1
            await self._pause(tries)

    async def _call(self, event: Event) -> object:
        self.invocations += 1
        if not self._twice():
            return await self._invoke(event)
        first, second = asyncio.ensure_future(self._invoke(event)), asyncio.ensure_future(self._invoke(event))
        await asyncio.wait({first, second})
        if not second.cancelled() and (error := second.exception()) is not None and not isinstance(error, FunctionError):
            raise error
        return first.result()

    def _give_up(self, shard: str, batch: Sequence[Record], condition: str, count: int) -> None:
        body = invocation_record(shard, batch, self._arn, condition=condition, count=count, now=self._clock())
        moment = datetime.fromtimestamp(self._clock(), UTC)
        key = f"aws/lambda/{uuid.UUID(int=0)}/{shard}/{moment:%Y/%m/%d/%Y-%m-%dT%H.%M.%S}-{uuid.uuid4()}"
        self.failed.append(Failed(key, body))


class FunctionError(Exception):
    """The function failed, ran out of time, or its sandbox died. What else `invoke` raises is the test's own trouble."""


async def _at_once(tries: int) -> None:
    await asyncio.sleep(0)


def event_of(shard: str, batch: Sequence[Record], arn: str) -> Event:
    """The event of a batch, as Lambda sends it."""
    return {
        "Records": [
            {
                "kinesis": {
                    "kinesisSchemaVersion": "1.0",
                    "partitionKey": f"{zlib.crc32(record.sequence_number.encode()):08x}",
                    "sequenceNumber": record.sequence_number,
                    "data": base64.b64encode(record.data).decode(),
                    "approximateArrivalTimestamp": record.arrived,
                },
                "eventSource": "aws:kinesis",
                "eventVersion": "1.0",
                "eventID": f"{shard}:{record.sequence_number}",
                "eventName": "aws:kinesis:record",
                "invokeIdentityArn": "arn:aws:iam::123456789012:role/dsqlcdc-lambda",
                "awsRegion": arn.split(":")[3],
                "eventSourceARN": arn,
            }
            for record in batch
        ]
    }


def first_failure(answer: object, batch: Sequence[Record]) -> int:
    """The place of the first record that a partial batch response leaves owed, as Lambda reads it: nothing named is success; a name that is
    empty or not of the batch, or anything else, is failure of the whole."""
    if answer is None or answer == {}:
        return len(batch)
    if not isinstance(answer, Mapping):
        return 0
    body: Mapping[str, Any] = answer  # pyright: ignore[reportUnknownVariableType]
    failures = body.get("batchItemFailures")
    if failures is None or failures == []:
        return len(batch)
    places = {record.sequence_number: place for place, record in enumerate(batch)}
    found: list[int] = []
    for failure in failures:
        name = failure.get("itemIdentifier") if isinstance(failure, Mapping) else None  # pyright: ignore
        if name not in places:
            return 0
        found.append(places[name])
    return min(found)


def invocation_record(shard: str, batch: Sequence[Record], arn: str, *, condition: str, count: int, now: float) -> bytes:
    """What Lambda writes to an on-failure destination in S3: about the batch, and the event as a string in `payload`."""
    first, last = batch[0], batch[-1]
    body = {
        "requestContext": {
            "requestId": str(uuid.uuid4()),
            "functionArn": "arn:aws:lambda:us-east-1:123456789012:function:dsqlcdc",
            "condition": condition,
            "approximateInvokeCount": count,
        },
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
        "version": "1.0",
        "timestamp": _moment(now),
        "KinesisBatchInfo": {
            "shardId": shard,
            "startSequenceNumber": first.sequence_number,
            "endSequenceNumber": last.sequence_number,
            "approximateArrivalOfFirstRecord": _moment(first.arrived),
            "approximateArrivalOfLastRecord": _moment(last.arrived),
            "batchSize": len(batch),
            "streamArn": arn,
        },
        "payload": json.dumps(event_of(shard, batch, arn), separators=(",", ":")),
    }
    return json.dumps(body).encode()


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Remaining:
    """Lambda's context, as far as it is used: the time that is left, by the monotonic clock."""

    def __init__(self, until: float, now: Callable[[], float]) -> None:
        self._until, self._now = until, now

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._until - self._now()) * 1000))


class Handles(Protocol):
    """A sandbox's function, such as dsqlcdc.hosts.aws_lambda.Function."""

    def handle(self, event: object, context: Any) -> object: ...

    def close(self) -> None: ...


class Sandboxes:
    """Sandboxes as Lambda keeps them: an idle one is used again, a new one is made where all are busy; each has a thread here.

    `timeout`: seconds that an invocation has. What a function raises is a FunctionError to whoever invoked, and its sandbox is not used
    again, be it dead or not.
    """

    def __init__(self, make: Callable[[], Handles], *, timeout: float = 60.0) -> None:
        self._make, self._timeout = make, timeout
        self._idle: list[Handles] = []
        self.errors: list[Exception] = []
        self.made = 0

    async def __call__(self, event: Event) -> object:
        if self._idle:
            sandbox = self._idle.pop()
        else:
            sandbox = self._make()
            self.made += 1
        loop = asyncio.get_running_loop()
        try:
            answer = await asyncio.to_thread(sandbox.handle, event, Remaining(loop.time() + self._timeout, loop.time))
        except Exception as error:
            self.errors.append(error)
            await asyncio.to_thread(sandbox.close)
            raise FunctionError(str(error)) from error
        self._idle.append(sandbox)
        return answer

    def close(self) -> None:
        """Close all sandboxes, which must be idle."""
        while self._idle:
            self._idle.pop().close()
