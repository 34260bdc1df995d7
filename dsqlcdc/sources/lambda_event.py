"""One Kinesis event of Lambda as a Source: one shard, one batch. Its frontier becomes the answer."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, cast

import msgspec

from dsqlcdc.core.ports import Checkpoint
from dsqlcdc.core.records import TRIM_HORIZON, Mark, Page, Record
from dsqlcdc.errors import Misconfigured

_EVENT_SOURCE = "aws:kinesis"


class Batch(msgspec.Struct, frozen=True):
    """The records of one invocation, in sequence order. `stream` is the stream's name."""

    stream: str
    shard: str
    records: Sequence[Record]

    def owed(self, mark: Mark | None) -> str:
        """The first sequence number that a frontier has not passed, "" where it has passed them all."""
        if mark is None or mark.position.kind != "after":
            return self.records[0].sequence_number
        names = [record.sequence_number for record in self.records]
        passed = names.index(mark.position.sequence) + 1
        return names[passed] if passed < len(names) else ""


def read_event(event: object, stream: str) -> Batch | None:
    """The batch of an event, None where it holds no records. `stream`: the name or ARN that the config gives.

    Accepted are Lambda's own event, Powertools' `KinesisStreamEvent` around it, and its parser's model of it (with decoded data).
    Raises Misconfigured for what is no Kinesis event (E452), another stream's (E453), damaged (E454), of several shards or with tumbling
    windows (E455): every one of them stays wrong however often it is sent.
    """
    body = _plain(event)
    if body.keys() & {"window", "isFinalInvokeForWindow"}:
        why = "the trigger has tumbling windows, which hand state from batch to batch"
        raise _wrong("the event cannot be taken", why, "create the event source mapping without --tumbling-window-in-seconds", "E455")
    entries: object = body.get("Records")
    if not isinstance(entries, Sequence) or isinstance(entries, str | bytes):
        why = f"it has no Records; its keys are {', '.join(sorted(map(str, body))[:8]) or 'none'}"
        raise _wrong("the event is not of a Kinesis trigger", why, _TRIGGER, "E452")
    found = [_entry(entry, number, stream) for number, entry in enumerate(cast("Sequence[object]", entries))]
    if not found:
        return None
    shards = {shard for _, shard, _ in found}
    if len(shards) > 1:
        raise _wrong("the event cannot be taken", f"its records are of {len(shards)} shards, a trigger's are of one", _TRIGGER, "E455")
    return Batch(found[0][0], found[0][1], [record for _, _, record in found])


_TRIGGER = "aws lambda list-event-source-mappings --function-name FUNCTION"


def _plain(event: object) -> Mapping[str, Any]:
    inner = getattr(event, "raw_event", event)  # Powertools' data class
    dump = getattr(inner, "model_dump", None)  # … and its parser's model
    body = dump(by_alias=True) if callable(dump) else inner
    if not isinstance(body, Mapping):
        raise _wrong("the event is not of a Kinesis trigger", f"it is {type(event).__name__}, not an object", _TRIGGER, "E452")
    return cast("Mapping[str, Any]", body)


def _entry(entry: object, number: int, stream: str) -> tuple[str, str, Record]:
    """Stream, shard and record of one entry."""
    if not isinstance(entry, Mapping):
        raise _wrong("the event is not of a Kinesis trigger", f"its record {number} is not an object", _TRIGGER, "E452")
    told = cast("Mapping[str, Any]", entry)
    if (source := told.get("eventSource", told.get("EventSource"))) != _EVENT_SOURCE:
        raise _wrong("the event is not of a Kinesis trigger", f"the source of its record {number} is {source!r}", _TRIGGER, "E452")
    try:
        name = _stream_of(str(told["eventSourceARN"]), stream)
        shard, colon, _ = str(told["eventID"]).rpartition(":")
        kinesis: Mapping[str, Any] = told["kinesis"]
        sequence, arrived = str(kinesis["sequenceNumber"]), float(kinesis["approximateArrivalTimestamp"])
        data = kinesis["data"]
        body = data if isinstance(data, bytes) else base64.b64decode(data, validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        why = f"its record {number}: {type(error).__name__} {error}"
        raise _wrong("the event is damaged", why, "send it as Lambda does", "E454") from error
    if not colon or not sequence.isdecimal():
        raise _wrong("the event is damaged", f"its record {number} has no shard or no sequence number", "send it as Lambda does", "E454")
    return name, shard, Record(sequence, body, arrived)


def _stream_of(arn: str, configured: str) -> str:
    """The stream's name in the ARN of a stream, or of a consumer of enhanced fan-out."""
    place, _, name = arn.partition(":stream/")
    name = name.split("/")[0]
    if configured not in (name, f"{place}:stream/{name}"):
        why = f"it is of {arn}, and the config's source.stream is {configured}"
        raise _wrong("the event is of another stream", why, "give this function a config and a trigger of one stream", "E453")
    return name


def _wrong(what: str, why: str, run: str, code: str) -> Misconfigured:
    return Misconfigured(what, where="the function's event", why=why, run=run, code=code)


class LambdaSource:
    """A Source over one batch. There is no checkpoint to start from: Lambda keeps the position, and is told it by the answer."""

    whole = False

    def __init__(self, batch: Batch, now: float) -> None:
        self._batch, self._now = batch, now
        self.stream = batch.stream

    async def start(self, checkpoint: Checkpoint | None, *, warm_up: float | None) -> Mapping[str, Mark]:
        return {self._batch.shard: Mark(TRIM_HORIZON)}

    async def pages(self) -> AsyncGenerator[Page, None]:
        behind = max(0, int((self._now - self._batch.records[-1].arrived) * 1000))
        yield Page(self._batch.shard, list(self._batch.records), self._now, behind)

    def lineage(self) -> Mapping[str, Sequence[str]]:
        return {}

    def forgettable(self) -> Sequence[str]:
        return ()

    def oldest_readable(self) -> float:
        return 0.0

    def slowest(self) -> float:
        """Nobody here knows how far the other shards were read: nothing is ever too old."""
        return 0.0

    async def close(self) -> None:
        return None
