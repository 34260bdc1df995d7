"""Kinesis's JSON 1.1 calls, turned into calls on the model and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from dsqlcdc.local import listing
from dsqlcdc.local.kinesis import DEMAND_LIMIT, SHARD_LIMIT, Entry, Kinesis
from dsqlcdc.local.kinesis_changes import KinesisChanges, record_size
from dsqlcdc.local.kms import is_own
from dsqlcdc.local.reach import Account
from dsqlcdc.local.refusal import Refusal, invalid, need
from dsqlcdc.local.streams import Stream

Input = Mapping[str, Any]
BUSY = ("CREATING", "DELETING")


class _PutRecords(msgspec.Struct, rename={"records": "Records", "name": "StreamName", "arn": "StreamARN"}):
    records: list[Entry]
    name: str | None = None
    arn: str | None = None


_put_records = msgspec.json.Decoder(_PutRecords).decode


class KinesisApi:
    """`call(operation, body)` gives the reply's body, or raises Refusal."""

    def __init__(self, kinesis: Kinesis, account: Account) -> None:
        self.kinesis, self.account = kinesis, account
        self._calls: dict[str, Callable[[Input], dict[str, Any]]] = KinesisChanges(kinesis, account).calls | {
            "CreateStream": self._create,
            "DeleteStream": self._delete,
            "DescribeLimits": self._limits,
            "DescribeStream": self._describe,
            "DescribeStreamSummary": self._summary,
            "GetShardIterator": self._iterator,
            "ListShards": self._list_shards,
            "ListStreams": self._list_streams,
            "MergeShards": self._merge,
            "PutRecord": self._put,
            "SplitShard": self._split,
        }

    def call(self, operation: str, body: bytes) -> bytes:
        try:
            if operation == "PutRecords":
                return self._put_many(_put_records(body))
            given: Input = msgspec.json.decode(body or b"{}", type=dict[str, Any])
            if operation == "GetRecords":
                return self.kinesis.get_records(need(given, "ShardIterator"), given.get("Limit"))
            handler = self._calls.get(operation)
            if handler is None:
                raise Refusal("UnknownOperationException", f"The embedded Kinesis does not have {operation}.")
            out = handler(given)
        except msgspec.DecodeError as error:
            raise Refusal("SerializationException", str(error)) from None
        return msgspec.json.encode(out) if out else b""

    def shard_of(self, body: bytes) -> str:
        """The shard that a GetRecords call reads, "" where it cannot be said: what faults match on."""
        try:
            return self.kinesis.shard_of(msgspec.json.decode(body, type=dict[str, Any]).get("ShardIterator", ""))
        except msgspec.DecodeError:
            return ""

    def stream_of(self, body: bytes) -> str:
        """The ARN of the stream that a call means, "*" where it cannot be said: what rights are about."""
        try:
            given: Input = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError:
            return "*"
        found = given.get("StreamARN") or given.get("ResourceARN")
        name = given.get("StreamName") or self.kinesis.stream_of(given.get("ShardIterator") or "")
        return found or (self.kinesis.arn(name) if name else "*")

    def key_of(self, arn: str) -> str:
        """The ARN of the customer's key of a stream, "" where it has none or is not there."""
        name = arn.rpartition("/")[2]
        key_id = self.kinesis.stream(name).key_id if name in self.kinesis.names() else None
        key = None if key_id is None or is_own(key_id) else self.account.key(key_id)
        return key.arn if key else ""

    def _usable(self, given: Input) -> Stream:
        """A stream whose data can be reached: not while it is being made or deleted."""
        stream = self.kinesis.named(given)
        if stream.status in BUSY:
            raise Refusal("ResourceNotFoundException", f"Stream {stream.name} is {stream.status}: it cannot be used.")
        return stream

    def _create(self, given: Input) -> dict[str, Any]:
        mode = given.get("StreamModeDetails", {}).get("StreamMode", "PROVISIONED")
        count = given.get("ShardCount")
        if mode == "PROVISIONED" and not count:
            raise Refusal("ValidationException", "ShardCount must be specified for a stream in PROVISIONED mode")
        if mode == "ON_DEMAND" and count:
            raise Refusal("ValidationException", "ShardCount must not be specified for a stream in ON_DEMAND mode")
        size = record_size(given.get("MaxRecordSizeInKiB", 1024))
        if mode == "ON_DEMAND":
            self.kinesis.check_demand()
        stream = self.kinesis.create(_stream_name(need(given, "StreamName")), count or 4, mode, size)
        stream.tags.update(given.get("Tags") or {})
        return {}

    def _delete(self, given: Input) -> dict[str, Any]:
        self.kinesis.named(given).delete()
        return {}

    def _limits(self, given: Input) -> dict[str, Any]:
        streams = [self.kinesis.stream(name) for name in self.kinesis.names()]
        count = sum(len(stream.open_shards()) for stream in streams)
        demand = sum(stream.mode == "ON_DEMAND" for stream in streams)
        return {"ShardLimit": SHARD_LIMIT, "OpenShardCount": count, "OnDemandStreamCount": demand, "OnDemandStreamCountLimit": DEMAND_LIMIT}

    def _common(self, stream: Stream) -> dict[str, Any]:
        out: dict[str, Any] = {
            "StreamName": stream.name,
            "StreamARN": stream.arn,
            "StreamStatus": stream.status,
            "StreamModeDetails": {"StreamMode": stream.mode},
            "RetentionPeriodHours": stream.retention_hours,
            "StreamCreationTimestamp": round(stream.created, 3),
            "EnhancedMonitoring": [{"ShardLevelMetrics": []}],
            "EncryptionType": stream.encryption or "NONE",
        }
        return out | ({"KeyId": stream.key_id} if stream.key_id else {})

    def _summary(self, given: Input) -> dict[str, Any]:
        stream = self.kinesis.named(given)
        more = {"OpenShardCount": len(stream.open_shards()), "ConsumerCount": 0, "MaxRecordSizeInKiB": stream.max_record_kib}
        return {"StreamDescriptionSummary": self._common(stream) | more}

    def _describe(self, given: Input) -> dict[str, Any]:
        stream = self.kinesis.named(given)
        limit = given.get("Limit") or 100
        after = given.get("ExclusiveStartShardId") or ""
        shards = [shard for shard in stream.shards.values() if shard.id > after]
        more = {"Shards": [shard.describe() for shard in shards[:limit]], "HasMoreShards": len(shards) > limit}
        return {"StreamDescription": self._common(stream) | more}

    def _list_streams(self, given: Input) -> dict[str, Any]:
        after, limit = given.get("ExclusiveStartStreamName") or given.get("NextToken") or "", given.get("Limit") or 100
        names = [name for name in self.kinesis.names() if name > after]
        keys = ("StreamName", "StreamARN", "StreamStatus", "StreamModeDetails", "StreamCreationTimestamp")
        summaries = [{key: self._common(self.kinesis.stream(name))[key] for key in keys} for name in names[:limit]]
        out: dict[str, Any] = {"StreamNames": names[:limit], "HasMoreStreams": len(names) > limit, "StreamSummaries": summaries}
        return out | ({"NextToken": names[limit - 1]} if len(names) > limit else {})

    def _list_shards(self, given: Input) -> dict[str, Any]:
        asked = listing.asked(given, self.kinesis.clock.now())
        stream = self._usable({"StreamName": asked.stream} if asked.stream else given)
        return listing.page(stream, asked, self.kinesis.clock.now(), self.kinesis.latest_lag)

    def _iterator(self, given: Input) -> dict[str, Any]:
        stream = self._usable(given)
        shard = stream.shard(need(given, "ShardId"))
        kind = need(given, "ShardIteratorType")
        token = self.kinesis.iterator(stream, shard, kind, given.get("StartingSequenceNumber"), given.get("Timestamp"))
        return {"ShardIterator": token}

    def _put(self, given: Input) -> dict[str, Any]:
        stream = self._usable(given)
        self.kinesis.check_key(stream)
        key = _partition_key(need(given, "PartitionKey"))
        done = self.kinesis.put(stream, need(given, "Data"), key, given.get("ExplicitHashKey"))
        if done is None:
            raise Refusal("ProvisionedThroughputExceededException", f"Rate exceeded for a shard of stream {stream.name}.")
        return {"ShardId": done[0], "SequenceNumber": done[1], "EncryptionType": stream.encryption or "NONE"}

    def _put_many(self, given: _PutRecords) -> bytes:
        stream = self._usable({"StreamARN": given.arn, "StreamName": given.name})
        self.kinesis.check_key(stream)
        for entry in given.records:
            _partition_key(entry.partition_key)
        why = f"Rate exceeded for a shard of stream {stream.name}."
        refused = {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": why}
        done = self.kinesis.put_many(stream, given.records)
        records = [refused if one is None else {"SequenceNumber": one[1], "ShardId": one[0]} for one in done]
        failed = sum(one is None for one in done)
        return msgspec.json.encode({"FailedRecordCount": failed, "Records": records, "EncryptionType": stream.encryption or "NONE"})

    def _split(self, given: Input) -> dict[str, Any]:
        stream = self._usable(given)
        shard = stream.shard(need(given, "ShardToSplit"))
        stream.check_active()
        stream.split(shard, int(need(given, "NewStartingHashKey")))
        stream.begin("UPDATING")
        return {}

    def _merge(self, given: Input) -> dict[str, Any]:
        stream = self._usable(given)
        first, second = stream.shard(need(given, "ShardToMerge")), stream.shard(need(given, "AdjacentShardToMerge"))
        stream.check_active()
        stream.merge(first, second)
        stream.begin("UPDATING")
        return {}


def _stream_name(name: str) -> str:
    if not re.fullmatch(r"[a-zA-Z0-9_.-]{1,128}", name):
        raise invalid(f"Value '{name}' at 'streamName' failed to satisfy constraint: Member must match [a-zA-Z0-9_.-]+, at most 128 long")
    return name


def _partition_key(key: str) -> str:
    if not 1 <= len(key) <= 256:
        raise invalid("Value at 'partitionKey' must have a length of 1 to 256")
    return key
