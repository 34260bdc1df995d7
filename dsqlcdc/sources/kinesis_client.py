"""The real Kinesis client. GetRecords answers are decoded by msgspec straight into records; all else is botocore's work.

botocore's own parser takes 15 s of CPU for a million records, this one half a second. Signing, endpoints, credentials and error parsing
stay botocore's. Bodies are read into one buffer, after asking for room by their Content-Length, so a 13 MB answer is never held twice.
"""

from __future__ import annotations

import asyncio
import importlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from email.utils import parsedate_to_datetime
from functools import cache, partial
from typing import Any

import msgspec

from dsqlcdc import aws as aws_module
from dsqlcdc.aws import Aws, error_code, errors, translate
from dsqlcdc.core.records import Position, Record
from dsqlcdc.errors import Fault, Misconfigured, Unavailable
from dsqlcdc.sources.service import Admit, Description, Expired, Reply, Throttled, UnknownSequence
from dsqlcdc.sources.shards import Shard, parse

_BODY_PATIENCE = 120.0  # seconds for a whole answer; a body may be slow, not endless

_RENEW_EVERY = 30.0  # seconds between two clients, while credentials are refused as expired

_admit: ContextVar[Admit] = ContextVar("admit")


class _Child(msgspec.Struct, rename="pascal"):
    shard_id: str
    parent_shards: list[str]
    hash_key_range: dict[str, str]

    def shard(self) -> Shard:
        return parse({"ShardId": self.shard_id, "ParentShards": self.parent_shards, "HashKeyRange": self.hash_key_range})


class _Answer(msgspec.Struct, rename="pascal"):
    records: list[Record]
    next_shard_iterator: str | None = None
    millis_behind_latest: int | None = 0
    child_shards: list[_Child] | None = None


_decode = msgspec.json.Decoder(_Answer).decode


class _Broken(OSError):
    """The body of a 200 answer is not what GetRecords answers."""


@cache
def _parsers() -> Any:
    module: Any = importlib.import_module("aiobotocore.parsers")

    ordinary: Any = module.AioJSONParser
    factory: Any = module.AioResponseParserFactory

    class GetRecordsParser(ordinary):  # type: ignore[misc]
        async def parse(self, response: Any, shape: Any) -> Any:
            if response["context"].get("operation_name") != "GetRecords" or response["status_code"] != 200:
                return await ordinary.parse(self, response, shape)
            body = response["body"]
            try:
                answer = _decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise _Broken(f"an answer of {len(body)} bytes cannot be read: {error}") from error
            metadata = {"HTTPStatusCode": 200, "HTTPHeaders": response["headers"]}
            return {"Answer": answer, "Bytes": len(body), "ResponseMetadata": metadata}

    class Factory(factory):  # type: ignore[misc]
        def create_parser(self, protocol_name: str) -> Any:
            defaults: Any = self._defaults
            return GetRecordsParser(**defaults) if protocol_name == "json" else factory.create_parser(self, protocol_name)

    return Factory()


class _Body:
    """A body already read, in the shape of the response aiobotocore expects."""

    def __init__(self, content: bytearray) -> None:
        self._content = content

    async def read(self) -> bytearray:
        return self._content


@cache
def _session_class() -> Any:
    sessions: Any = importlib.import_module("aiobotocore.httpsession")
    requests: Any = importlib.import_module("aiobotocore.awsrequest")

    ordinary: Any = sessions.AIOHTTPSession

    class AdmittingSession(ordinary):  # type: ignore[misc]
        """Asks for room before the body of a GetRecords answer is read."""

        async def send(self, request: Any) -> Any:
            admit = _admit.get(None)
            if admit is not None:
                request.stream_output = True
            response: Any = await ordinary.send(self, request)
            if admit is None:
                return response
            raw: Any = response.raw
            try:
                body = await _read(raw, admit if response.status_code == 200 else None)
            except BaseException:
                raw.close()
                raise
            return requests.AioAWSResponse(response.url, response.status_code, response.headers, _Body(body))

    return AdmittingSession


async def _read(raw: Any, admit: Admit | None) -> bytearray:
    length = int(raw.headers.get("Content-Length") or 0)
    if admit is not None:
        await admit(length)
    body = bytearray(length)
    filled = 0
    async with asyncio.timeout(_BODY_PATIENCE):
        async for chunk in raw.content.iter_any():
            body[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
    if length and filled != length:
        raise ConnectionResetError("the body broke off")
    return body


class KinesisClient:
    """The Service port over aiobotocore. Made by `connect`."""

    def __init__(self, make: Callable[[], AbstractAsyncContextManager[Any]], stream: str, clock: Callable[[], float]) -> None:
        self.stream = stream
        self._make = make
        self._clock = clock
        self._client: Any = None
        self._holder: AbstractAsyncContextManager[Any] | None = None
        self._opened_at = 0.0
        self._renewing = asyncio.Lock()
        self._named = {"StreamARN": stream} if stream.startswith("arn:") else {"StreamName": stream}

    async def open(self) -> None:
        holder = self._make()
        self._client = await holder.__aenter__()
        self._holder, self._opened_at = holder, asyncio.get_running_loop().time()

    async def close(self) -> None:
        if self._holder is not None:
            holder, self._holder = self._holder, None
            await holder.__aexit__(None, None, None)

    async def _renew(self) -> None:
        """Look the credentials up anew: those of a file or the environment are not refreshed by botocore when somebody renews them."""
        async with self._renewing:
            if asyncio.get_running_loop().time() - self._opened_at < _RENEW_EVERY:
                return
            old = self._holder
            await self.open()
            if old is not None:
                await old.__aexit__(None, None, None)

    async def describe(self) -> Description:
        answer = await self._ask("describe the stream", "", lambda: self._client.describe_stream_summary(**self._named))
        summary = answer["StreamDescriptionSummary"]
        return Description(
            name=summary["StreamName"],
            created=summary["StreamCreationTimestamp"].timestamp(),
            retention=float(summary["RetentionPeriodHours"]) * 3600,
            now=_date(answer) or self._clock(),
            arn=summary.get("StreamARN", ""),
        )

    async def list_shards(self) -> list[Shard]:
        found: list[Shard] = []
        asked: dict[str, Any] = dict(self._named)
        while True:
            answer = await self._ask("list the shards", "", lambda asked=asked: self._client.list_shards(**asked))  # type: ignore[misc]
            found.extend(parse(item) for item in answer["Shards"])
            token = answer.get("NextToken")
            if not token:
                return found
            asked = {"NextToken": token}  # the name must not be given beside it

    async def iterator(self, shard: str, position: Position) -> str:
        asked: dict[str, Any] = {"ShardId": shard, "ShardIteratorType": "TRIM_HORIZON"}
        if position.kind == "after":
            asked |= {"ShardIteratorType": "AT_SEQUENCE_NUMBER", "StartingSequenceNumber": position.sequence}
        elif position.kind == "time":
            asked |= {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": position.arrived}
        answer = await self._ask(
            f"begin reading at {position}", shard, lambda: self._client.get_shard_iterator(**self._named, **asked), position.kind == "after"
        )
        return str(answer["ShardIterator"])

    async def records(self, shard: str, iterator: str, limit: int, admit: Admit) -> Reply:
        token = _admit.set(admit)
        try:
            asked = {"StreamARN": self.stream} if "StreamARN" in self._named else {}
            answer = await self._ask("read", shard, lambda: self._client.get_records(ShardIterator=iterator, Limit=limit, **asked))
        finally:
            _admit.reset(token)
        decoded: _Answer = answer["Answer"]
        return Reply(
            records=decoded.records,
            iterator=decoded.next_shard_iterator or None,
            behind=decoded.millis_behind_latest or 0,
            children=tuple(child.shard() for child in decoded.child_shards or ()),
            now=_date(answer),
            size=int(answer["Bytes"]),
        )

    async def _ask(self, doing: str, shard: str, call: Callable[[], Awaitable[Any]], by_sequence: bool = False) -> Any:
        where = f"stream {self.stream}" + (f" shard {shard}" if shard else "")
        try:
            return await call()
        except Fault:
            raise
        except errors() as error:
            fault = _fault(error, doing, where, shard, by_sequence, self.stream)
            if fault.code == "E122":
                await self._renew()
            raise fault from error


def _fault(error: Exception, doing: str, where: str, shard: str, by_sequence: bool, stream: str) -> Fault:
    code = error_code(error)
    cause: BaseException | None = error
    while cause is not None:  # what `admit` raised comes wrapped by aiobotocore
        if isinstance(cause, Fault):
            return cause
        cause = cause.__cause__ or getattr(cause, "kwargs", {}).get("error")
    if code == "ExpiredIteratorException":
        return Expired("an iterator has expired", where=where)
    if code == "InvalidArgumentException" and by_sequence:
        return UnknownSequence(
            f"cannot {doing}",
            where=where,
            why="the shard never had this sequence number: the checkpoint is of another stream, or of one that was made anew",
            run="dsqlcdc status CONFIG",
        )
    fault = translate(error, doing=doing, where=where)
    if isinstance(fault, Unavailable) and fault.code == "E121":
        return Throttled(fault.what, where=where, why=fault.why, after=fault.after)
    if code == "ResourceNotFoundException":
        thing = "the shard or its stream" if shard else "the stream"
        return Misconfigured(
            f"cannot {doing}",
            where=where,
            why=f"{thing} does not exist, or was deleted while it was read; check the name, the account and the Region",
            run=f"aws kinesis describe-stream-summary --stream-name {stream}",
            code="E103",
        )
    return fault


def _date(answer: Any) -> float:
    """The service's clock by the Date header; 0 where it says none."""
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        return parsedate_to_datetime(date).timestamp() if date else 0.0
    except ValueError:
        return 0.0


@asynccontextmanager
async def connect(stream: str, aws: Aws, *, clock: Callable[[], float], connections: int = 128) -> AsyncGenerator[KinesisClient, None]:
    """Open a client for one stream, named or by ARN (whose Region is used where none is configured)."""
    found = re.fullmatch(r"arn:aws[\w-]*:kinesis:([\w-]+):\d+:stream/[\w.-]+", stream)
    if stream.startswith("arn:") and not found:
        why, run = "this is not the ARN of a Kinesis stream", "dsqlcdc config lint CONFIG"
        raise Misconfigured("cannot read the stream", where=f"source.stream {stream}", why=why, run=run)
    if found and aws.region is None:
        aws = msgspec.structs.replace(aws, region=found[1])
    make = partial(
        aws_module.client, "kinesis", aws, parsers=_parsers(), http_session_cls=_session_class(), max_pool_connections=connections
    )
    client = KinesisClient(make, stream, clock)
    await client.open()
    try:
        yield client
    finally:
        await client.close()
