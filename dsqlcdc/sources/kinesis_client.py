"""The real Kinesis client. GetRecords is sent by ourselves and its answers are decoded straight into records; all else is botocore's work.

botocore's own parser takes 15 s of CPU for a million records, msgspec half a second. Bodies are read into one buffer, after asking for room
by their Content-Length, so a 13 MB answer is never held twice.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

import msgspec

from dsqlcdc import aws as aws_module
from dsqlcdc.aws import Aws, error_code, errors, translate
from dsqlcdc.core.records import Position, Record
from dsqlcdc.errors import Fault, Misconfigured, Unavailable
from dsqlcdc.sources.get_records import Direct
from dsqlcdc.sources.service import Admit, Description, Expired, Reply, Throttled, UnknownSequence
from dsqlcdc.sources.session import Prepared, session_class
from dsqlcdc.sources.shards import Shard, parse

_RENEW_EVERY = 30.0  # seconds between two clients, while credentials are refused as expired


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


class KinesisClient:
    """The Service port over aiobotocore. Made by `connect`."""

    def __init__(
        self, make: Callable[[Callable[[Any], None]], AbstractAsyncContextManager[Any]], stream: str, clock: Callable[[], float]
    ) -> None:
        self.stream = stream
        self._make = make
        self._clock = clock
        self._client: Any = None
        self._session: Any = None
        self._holder: AbstractAsyncContextManager[Any] | None = None
        self._opened_at = 0.0
        self._renewing = asyncio.Lock()
        self._direct: Direct | None = None
        self._named = {"StreamARN": stream} if stream.startswith("arn:") else {"StreamName": stream}

    async def open(self) -> None:
        sessions: list[Any] = []
        holder = self._make(sessions.append)
        self._client = await holder.__aenter__()
        (self._session,) = sessions
        self._holder, self._opened_at, self._direct = holder, asyncio.get_running_loop().time(), None

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
        date, answer, size = await self._ask("read", shard, lambda: self._get_records(iterator, limit, admit))
        return Reply(
            records=answer.records,
            iterator=answer.next_shard_iterator or None,
            behind=answer.millis_behind_latest or 0,
            children=tuple(child.shard() for child in answer.child_shards or ()),
            now=_time(date),
            size=size,
        )

    async def _get_records(self, iterator: str, limit: int, admit: Admit) -> tuple[str, _Answer, int]:
        asked = {"ShardIterator": iterator, "Limit": limit, **({"StreamARN": self.stream} if "StreamARN" in self._named else {})}
        direct = self._direct or await self._prepare(asked)
        headers, body = await direct(asked, admit)
        try:
            return headers.get("date", ""), _decode(body), len(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _Broken(f"an answer of {len(body)} bytes cannot be read: {error}") from error

    async def _prepare(self, asked: Mapping[str, Any]) -> Direct:
        """Let botocore make one request, which is not sent, to learn where they go and who signs them."""
        client = self._client
        try:
            await client.get_records(**asked)
        except Prepared as prepared:
            exchange = await prepared.session.exchange(prepared.request.url)
            direct = Direct(prepared.request, await self._session.get_credentials(), exchange)
        else:
            raise RuntimeError("botocore has sent a GetRecords by another session than ours")
        if client is self._client:
            self._direct = direct
        return direct

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
    return _time(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", ""))


@lru_cache(maxsize=16)
def _time(date: str) -> float:
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

    def make(told: Callable[[Any], None]) -> AbstractAsyncContextManager[Any]:
        return aws_module.client("kinesis", aws, told=told, http_session_cls=session_class(), max_pool_connections=connections)

    client = KinesisClient(make, stream, clock)
    await client.open()
    try:
        yield client
    finally:
        await client.close()
