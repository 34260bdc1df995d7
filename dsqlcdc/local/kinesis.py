"""Kinesis Data Streams in memory, as faithful as its readers can notice: streams, iterators, reading, writing, trimming."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from dsqlcdc.local.clock import Clock
from dsqlcdc.local.refusal import Refusal, bad_argument, invalid, need
from dsqlcdc.local.shards import REPLY_RECORDS, Shard
from dsqlcdc.local.streams import ACCOUNT, Stream

ITERATOR_LIFE = 300.0
PUT_BYTES = 10 * 1024 * 1024
PUT_RECORDS = 500
SHARD_LIMIT, DEMAND_LIMIT = 1000, 50
"""Shards, and streams in on-demand mode, of an account."""


class Entry(msgspec.Struct, rename="pascal"):
    """One record of a PutRecords call; `data` stays base64."""

    data: str
    partition_key: str
    explicit_hash_key: str | None = None


class _Iterator(msgspec.Struct, array_like=True):
    stream: str
    created: float
    shard: str
    number: int
    made: float
    epoch: int


class Kinesis:
    """The model. `read_throttle` and `write_throttle` switch the shard limits, `check_key` refuses a key that cannot be used; `latest_lag`
    is how many seconds a shard that was just closed is still listed by the filter AT_LATEST."""

    def __init__(
        self,
        clock: Clock,
        *,
        region: str = "us-east-1",
        delay: float = 0.05,
        read_throttle: bool = True,
        write_throttle: bool = False,
        check_key: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.clock, self.region, self.delay = clock, region, delay
        self.read_throttle, self.write_throttle = read_throttle, write_throttle
        self.latest_lag = 0.0
        self._check_key = check_key
        self._streams: dict[str, Stream] = {}
        self._epoch = 0
        self._throttled_reads: dict[str, int] = {}
        self._demanded: dict[str, int] = {}

    def reset(self) -> None:
        self._streams.clear()
        self._throttled_reads.clear()
        self._demanded.clear()
        self.latest_lag = 0.0

    def names(self) -> list[str]:
        return sorted(name for name, stream in self._streams.items() if not stream.gone)

    def stream(self, name_or_arn: str) -> Stream:
        """A stream that exists, whatever its status; refused with ResourceNotFoundException."""
        name = name_or_arn.rsplit(":stream/", 1)[-1]
        found = self._streams.get(name)
        if found is None or found.gone or (name != name_or_arn and found.arn != name_or_arn):
            raise Refusal("ResourceNotFoundException", f"Stream {name} under account {ACCOUNT} not found.")
        found.expire()
        return found

    def named(self, given: Mapping[str, Any]) -> Stream:
        """The stream that a call's input means, by ARN or name."""
        return self.stream(given.get("StreamARN") or given.get("ResourceARN") or need(given, "StreamName"))

    def check_demand(self) -> None:
        """Refuse one more stream in on-demand mode than an account may have."""
        if sum(self.stream(name).mode == "ON_DEMAND" for name in self.names()) >= DEMAND_LIMIT:
            raise Refusal("LimitExceededException", f"An account may have {DEMAND_LIMIT} streams in ON_DEMAND mode.")

    def create(self, name: str, count: int = 4, mode: str = "PROVISIONED", max_record_kib: int = 1024) -> Stream:
        found = self._streams.get(name)
        if found is not None and not found.gone:
            raise Refusal("ResourceInUseException", f"Stream {name} under account {ACCOUNT} already exists.")
        if count + sum(len(stream.open_shards()) for stream in map(self.stream, self.names())) > SHARD_LIMIT:
            raise Refusal("LimitExceededException", f"The account {ACCOUNT} may have {SHARD_LIMIT} shards.")
        stream = self._streams[name] = Stream(name, self.region, count, mode, max_record_kib, self.clock, self.delay)
        return stream

    def check_key(self, stream: Stream) -> None:
        """Refuse what a client reads or writes while the stream's key cannot be used."""
        if stream.key_id:
            self._check_key(stream.key_id)

    def put(self, stream: Stream, data: str, partition_key: str, explicit: str | None = None) -> tuple[str, str] | None:
        """Write a record (data in base64): (shard, sequence number), or None where the shard's write limit refuses it."""
        size = _size(data) + len(partition_key.encode())
        limit = stream.max_record_kib * 1024
        if size > limit:
            raise bad_argument(f"The record of {size} bytes is larger than the stream's MaxRecordSizeInKiB, {limit // 1024}.")
        if self._beyond(stream, partition_key):
            return None
        shard = stream.shard_for(partition_key, explicit)
        now = self.clock.now()
        if stream.mode != "ON_DEMAND" and self.write_throttle and not shard.may_write(size, now):
            return None
        return shard.id, shard.put(data, partition_key, size, now, stream.encryption)

    def put_bytes(self, stream: Stream, data: bytes, partition_key: str, explicit: str | None = None) -> tuple[str, str] | None:
        return self.put(stream, base64.b64encode(data).decode(), partition_key, explicit)

    def put_many(self, stream: Stream, entries: list[Entry]) -> list[tuple[str, str] | None]:
        if not 1 <= len(entries) <= PUT_RECORDS:
            raise invalid(f"Value at 'records' failed to satisfy constraint: Member must have length between 1 and {PUT_RECORDS}")
        if sum(len(entry.data) for entry in entries) * 3 // 4 > PUT_BYTES + 4 * PUT_RECORDS:
            raise bad_argument("Records size exceeds 10 MB limit")
        return [self.put(stream, entry.data, entry.partition_key, entry.explicit_hash_key) for entry in entries]

    def iterator(self, stream: Stream, shard: Shard, kind: str, sequence: str | None = None, timestamp: float | None = None) -> str:
        """A shard iterator of one of the five types."""
        if kind == "TRIM_HORIZON":
            number = 0
        elif kind == "LATEST":
            number = shard.next
        elif kind == "AT_TIMESTAMP":
            if timestamp is None:
                raise bad_argument("Must either specify timestamp for AT_TIMESTAMP")
            if timestamp > self.clock.now() + 1:
                raise bad_argument("The timestampInMillis parameter cannot be greater than the currentTimestampInMillis.")
            number = shard.number_at(timestamp)
        elif kind in ("AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER"):
            if sequence is None:
                raise bad_argument(f"Must specify startingSequenceNumber for {kind}")
            number = shard.number(sequence, after=kind == "AFTER_SEQUENCE_NUMBER")
        else:
            raise invalid(f"Value '{kind}' at 'shardIteratorType' is no iterator type")
        return self._token(stream, shard, number)

    def get_records(self, token: str, limit: int | None) -> bytes:
        """The body of a GetRecords reply."""
        if limit is not None and not 1 <= limit <= REPLY_RECORDS:
            raise invalid(f"Value '{limit}' at 'limit' is not between 1 and {REPLY_RECORDS}")
        stream, shard, number = self._resolve(token)
        self.check_key(stream)
        now = self.clock.now()
        self._check_read(stream, shard, now)
        records, following, behind = shard.read(number, limit or REPLY_RECORDS, now)
        out = [b'{"Records":[', b",".join(records), b'],"MillisBehindLatest":', str(behind).encode()]
        if shard.closed and following >= shard.next:
            out += [b',"ChildShards":', msgspec.json.encode([_child(child) for child in shard.children])]
        else:
            out += [b',"NextShardIterator":"', self._token(stream, shard, following).encode(), b'"']
        return b"".join([*out, b"}"])

    def shard_of(self, token: str) -> str:
        """The shard an iterator reads, "" where it cannot be said: what faults match on."""
        try:
            return _decode(token).shard
        except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError):
            return ""

    def stream_of(self, token: str) -> str:
        """The name of the stream an iterator reads, "" where it cannot be said."""
        try:
            return _decode(token).stream
        except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError):
            return ""

    def arn(self, name: str) -> str:
        return f"arn:aws:kinesis:{self.region}:{ACCOUNT}:stream/{name}"

    def expire_iterators(self) -> None:
        """Every iterator given so far is expired."""
        self._epoch += 1

    def throttle_reads(self, shard: str, times: int) -> None:
        """The next `times` reads of this shard ("" for any) are refused with ProvisionedThroughputExceededException."""
        self._throttled_reads[shard] = times

    def demand(self, stream: str, shards: int) -> None:
        """From now on the writes on a provisioned stream would fill so many shards: with fewer, a part of them is refused. 0 ends it."""
        self._demanded[stream] = shards

    def _beyond(self, stream: Stream, partition_key: str) -> bool:
        wanted = self._demanded.get(stream.name, 0)
        if not wanted or stream.mode == "ON_DEMAND":
            return False
        return zlib.crc32(partition_key.encode()) % wanted >= len(stream.open_shards())

    def _check_read(self, stream: Stream, shard: Shard, now: float) -> None:
        for name in (shard.id, ""):
            left = self._throttled_reads.get(name, 0)
            if left:
                self._throttled_reads[name] = left - 1
                why = f"Rate exceeded for shard {shard.id} in stream {stream.name} under account {ACCOUNT}."
                raise Refusal("ProvisionedThroughputExceededException", why)
        if self.read_throttle:
            shard.check_read(now)

    def _token(self, stream: Stream, shard: Shard, number: int) -> str:
        raw = msgspec.json.encode(_Iterator(stream.name, stream.created, shard.id, number, self.clock.now(), self._epoch))
        return "AAAAAAAAAA" + base64.urlsafe_b64encode(raw).decode()

    def _resolve(self, token: str) -> tuple[Stream, Shard, int]:
        try:
            found = _decode(token)
        except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError):
            raise bad_argument("Invalid ShardIterator.") from None
        stream = self.stream(found.stream)
        if stream.created != found.created:
            raise Refusal("ResourceNotFoundException", f"Stream {stream.name} under account {ACCOUNT} not found: it was created anew.")
        age = self.clock.now() - found.made
        if age > ITERATOR_LIFE or found.epoch != self._epoch:
            why = f"Iterator expired: it was created {age:.0f} seconds ago, which exceeds the tolerated delay of 300000 milliseconds."
            raise Refusal("ExpiredIteratorException", why)
        return stream, stream.shard(found.shard), found.number


def _child(shard: Shard) -> dict[str, Any]:
    return {"ShardId": shard.id, "ParentShards": list(shard.parents), "HashKeyRange": shard.hash_range()}


def _decode(token: str) -> _Iterator:
    if not token.startswith("AAAAAAAAAA"):
        raise msgspec.DecodeError("not an iterator")
    return msgspec.json.decode(base64.urlsafe_b64decode(token[10:]), type=_Iterator)


def _size(data: str) -> int:
    try:
        return len(binascii.a2b_base64(data, strict_mode=True))
    except (binascii.Error, ValueError):
        raise Refusal("SerializationException", "Data is not base64.") from None
