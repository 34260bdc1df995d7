"""Kinesis's JSON 1.1 calls, turned into calls on the model and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from dsqlcdc.local import listing
from dsqlcdc.local.kinesis import DEMAND_LIMIT, SHARD_LIMIT, Entry, Kinesis
from dsqlcdc.local.kms import check_key, is_own
from dsqlcdc.local.reach import Account
from dsqlcdc.local.refusal import Refusal, bad_argument, invalid, need
from dsqlcdc.local.streams import Stream

Input = Mapping[str, Any]
BUSY = ("CREATING", "DELETING")
MODE_CHANGES, SHARD_CHANGES, KEY_CHANGES = 2, 10, 25
"""How often within 24 hours a stream may be changed so."""


class _PutRecords(msgspec.Struct, rename={"records": "Records", "name": "StreamName", "arn": "StreamARN"}):
    records: list[Entry]
    name: str | None = None
    arn: str | None = None


_put_records = msgspec.json.Decoder(_PutRecords).decode


class KinesisApi:
    """`call(operation, body)` gives the reply's body, or raises Refusal."""

    def __init__(self, kinesis: Kinesis, account: Account) -> None:
        self.kinesis, self.account = kinesis, account
        self._calls: dict[str, Callable[[Input], dict[str, Any]]] = {
            "AddTagsToStream": self._add_tags,
            "CreateStream": self._create,
            "DecreaseStreamRetentionPeriod": self._decrease_retention,
            "DeleteStream": self._delete,
            "DescribeLimits": self._limits,
            "DescribeStream": self._describe,
            "DescribeStreamSummary": self._summary,
            "GetShardIterator": self._iterator,
            "IncreaseStreamRetentionPeriod": self._increase_retention,
            "ListShards": self._list_shards,
            "ListStreams": self._list_streams,
            "ListTagsForResource": self._resource_tags,
            "ListTagsForStream": self._stream_tags,
            "MergeShards": self._merge,
            "PutRecord": self._put,
            "RemoveTagsFromStream": self._remove_tags,
            "SplitShard": self._split,
            "StartStreamEncryption": self._encrypt,
            "StopStreamEncryption": self._decrypt,
            "TagResource": self._add_tags,
            "UntagResource": self._remove_tags,
            "UpdateMaxRecordSize": self._max_record,
            "UpdateShardCount": self._scale,
            "UpdateStreamMode": self._mode,
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

    def _stream(self, given: Input) -> Stream:
        return self.kinesis.stream(given.get("StreamARN") or given.get("ResourceARN") or need(given, "StreamName"))

    def _usable(self, given: Input) -> Stream:
        """A stream whose data can be reached: not while it is being made or deleted."""
        stream = self._stream(given)
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
        size = _record_size(given.get("MaxRecordSizeInKiB", 1024))
        if mode == "ON_DEMAND":
            self._check_demand()
        stream = self.kinesis.create(_stream_name(need(given, "StreamName")), count or 4, mode, size)
        stream.tags.update(given.get("Tags") or {})
        return {}

    def _delete(self, given: Input) -> dict[str, Any]:
        self._stream(given).delete()
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
        stream = self._stream(given)
        more = {"OpenShardCount": len(stream.open_shards()), "ConsumerCount": 0, "MaxRecordSizeInKiB": stream.max_record_kib}
        return {"StreamDescriptionSummary": self._common(stream) | more}

    def _describe(self, given: Input) -> dict[str, Any]:
        stream = self._stream(given)
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

    def _scale(self, given: Input) -> dict[str, Any]:
        stream = self._stream(given)
        current, target = len(stream.open_shards()), int(need(given, "TargetShardCount"))
        stream.check_active()
        if stream.mode == "ON_DEMAND":
            raise Refusal("ValidationException", "UpdateShardCount is not supported for a stream in ON_DEMAND mode.")
        if not (current + 1) // 2 <= target <= current * 2:
            why = f"UpdateShardCount cannot go from {current} to {target} shards: at most double, at least half."
            raise Refusal("LimitExceededException" if target > current else "InvalidArgumentException", why)
        stream.spend("UpdateShardCount", SHARD_CHANGES)
        stream.begin("UPDATING")
        stream.scale(target)
        return {"StreamName": stream.name, "CurrentShardCount": current, "TargetShardCount": target, "StreamARN": stream.arn}

    def _max_record(self, given: Input) -> dict[str, Any]:
        stream = self._stream(given)
        size = _record_size(need(given, "MaxRecordSizeInKiB"))
        stream.begin("UPDATING")
        stream.max_record_kib = size
        return {}

    def _increase_retention(self, given: Input) -> dict[str, Any]:
        return self._retain(given, lambda old, new: old <= new <= 8760)

    def _decrease_retention(self, given: Input) -> dict[str, Any]:
        return self._retain(given, lambda old, new: 24 <= new <= old)

    def _retain(self, given: Input, allowed: Callable[[int, int], bool]) -> dict[str, Any]:
        stream, hours = self._stream(given), int(need(given, "RetentionPeriodHours"))
        if not allowed(stream.retention_hours, hours):
            why = f"Requested retention period ({hours} hours) for stream {stream.name} does not fit the call or 24 to 8760 hours."
            raise Refusal("InvalidArgumentException", why)
        stream.begin("UPDATING")
        stream.retention_hours = hours
        return {}

    def _add_tags(self, given: Input) -> dict[str, Any]:
        self._stream(given).tags.update(need(given, "Tags"))
        return {}

    def _remove_tags(self, given: Input) -> dict[str, Any]:
        tags = self._stream(given).tags
        for key in need(given, "TagKeys"):
            tags.pop(key, None)
        return {}

    def _resource_tags(self, given: Input) -> dict[str, Any]:
        return {"Tags": [{"Key": key, "Value": value} for key, value in sorted(self._stream(given).tags.items())]}

    def _stream_tags(self, given: Input) -> dict[str, Any]:
        after, limit = given.get("ExclusiveStartTagKey") or "", given.get("Limit") or 50
        tags = [tag for tag in self._resource_tags(given)["Tags"] if tag["Key"] > after]
        return {"Tags": tags[:limit], "HasMoreTags": len(tags) > limit}

    def _mode(self, given: Input) -> dict[str, Any]:
        stream, mode = self._stream(given), need(given, "StreamModeDetails")["StreamMode"]
        if mode not in ("ON_DEMAND", "PROVISIONED"):
            raise invalid(f"Value '{mode}' at 'streamModeDetails.streamMode' is not one of [PROVISIONED, ON_DEMAND]")
        stream.check_active()
        if mode == stream.mode:
            raise bad_argument(f"Stream {stream.name} is in {mode} mode already.")
        if mode == "ON_DEMAND":
            self._check_demand()
        stream.spend("A change of the stream mode", MODE_CHANGES)
        stream.begin("UPDATING")
        stream.mode = mode
        return {}

    def _check_demand(self) -> None:
        streams = [self.kinesis.stream(name) for name in self.kinesis.names()]
        if sum(stream.mode == "ON_DEMAND" for stream in streams) >= DEMAND_LIMIT:
            raise Refusal("LimitExceededException", f"An account may have {DEMAND_LIMIT} streams in ON_DEMAND mode.")

    def _encrypt(self, given: Input) -> dict[str, Any]:
        stream, key_id = self._stream(given), need(given, "KeyId")
        stream.check_active()
        check_key(self.account, key_id)
        stream.spend("A change of the key", KEY_CHANGES)
        stream.begin("UPDATING")
        stream.encryption, stream.key_id = need(given, "EncryptionType"), key_id
        return {}

    def _decrypt(self, given: Input) -> dict[str, Any]:
        stream = self._stream(given)
        stream.begin("UPDATING")
        stream.encryption = stream.key_id = None
        return {}


def _stream_name(name: str) -> str:
    if not re.fullmatch(r"[a-zA-Z0-9_.-]{1,128}", name):
        raise invalid(f"Value '{name}' at 'streamName' failed to satisfy constraint: Member must match [a-zA-Z0-9_.-]+, at most 128 long")
    return name


def _partition_key(key: str) -> str:
    if not 1 <= len(key) <= 256:
        raise invalid("Value at 'partitionKey' must have a length of 1 to 256")
    return key


def _record_size(kib: int) -> int:
    if not 1024 <= kib <= 10240:
        raise invalid(f"Value '{kib}' at 'maxRecordSizeInKiB' is not between 1024 and 10240")
    return kib
