"""The calls that change a Kinesis stream: its mode, shards, key, record size, retention and tags."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dsqlcdc.local.kinesis import Kinesis
from dsqlcdc.local.kms import check_key
from dsqlcdc.local.reach import Account
from dsqlcdc.local.refusal import Refusal, bad_argument, invalid, need

Input = Mapping[str, Any]
MODE_CHANGES, SHARD_CHANGES, KEY_CHANGES = 2, 10, 25
"""How often within 24 hours a stream may be changed so."""


class KinesisChanges:
    """`calls` by operation. A change takes a while, in which the stream is UPDATING and takes no other; what it sets holds at once."""

    def __init__(self, kinesis: Kinesis, account: Account) -> None:
        self.kinesis, self.account = kinesis, account
        self.calls: dict[str, Callable[[Input], dict[str, Any]]] = {
            "AddTagsToStream": self._add_tags,
            "DecreaseStreamRetentionPeriod": self._decrease_retention,
            "IncreaseStreamRetentionPeriod": self._increase_retention,
            "ListTagsForResource": self._resource_tags,
            "ListTagsForStream": self._stream_tags,
            "RemoveTagsFromStream": self._remove_tags,
            "StartStreamEncryption": self._encrypt,
            "StopStreamEncryption": self._decrypt,
            "TagResource": self._add_tags,
            "UntagResource": self._remove_tags,
            "UpdateMaxRecordSize": self._max_record,
            "UpdateShardCount": self._scale,
            "UpdateStreamMode": self._mode,
        }

    def _scale(self, given: Input) -> dict[str, Any]:
        stream = self.kinesis.named(given)
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
        stream = self.kinesis.named(given)
        size = record_size(need(given, "MaxRecordSizeInKiB"))
        stream.begin("UPDATING")
        stream.max_record_kib = size
        return {}

    def _increase_retention(self, given: Input) -> dict[str, Any]:
        return self._retain(given, lambda old, new: old <= new <= 8760)

    def _decrease_retention(self, given: Input) -> dict[str, Any]:
        return self._retain(given, lambda old, new: 24 <= new <= old)

    def _retain(self, given: Input, allowed: Callable[[int, int], bool]) -> dict[str, Any]:
        stream, hours = self.kinesis.named(given), int(need(given, "RetentionPeriodHours"))
        if not allowed(stream.retention_hours, hours):
            why = f"Requested retention period ({hours} hours) for stream {stream.name} does not fit the call or 24 to 8760 hours."
            raise Refusal("InvalidArgumentException", why)
        stream.begin("UPDATING")
        stream.retention_hours = hours
        return {}

    def _add_tags(self, given: Input) -> dict[str, Any]:
        self.kinesis.named(given).tags.update(need(given, "Tags"))
        return {}

    def _remove_tags(self, given: Input) -> dict[str, Any]:
        tags = self.kinesis.named(given).tags
        for key in need(given, "TagKeys"):
            tags.pop(key, None)
        return {}

    def _resource_tags(self, given: Input) -> dict[str, Any]:
        return {"Tags": [{"Key": key, "Value": value} for key, value in sorted(self.kinesis.named(given).tags.items())]}

    def _stream_tags(self, given: Input) -> dict[str, Any]:
        after, limit = given.get("ExclusiveStartTagKey") or "", given.get("Limit") or 50
        tags = [tag for tag in self._resource_tags(given)["Tags"] if tag["Key"] > after]
        return {"Tags": tags[:limit], "HasMoreTags": len(tags) > limit}

    def _mode(self, given: Input) -> dict[str, Any]:
        stream, mode = self.kinesis.named(given), need(given, "StreamModeDetails")["StreamMode"]
        if mode not in ("ON_DEMAND", "PROVISIONED"):
            raise invalid(f"Value '{mode}' at 'streamModeDetails.streamMode' is not one of [PROVISIONED, ON_DEMAND]")
        stream.check_active()
        if mode == stream.mode:
            raise bad_argument(f"Stream {stream.name} is in {mode} mode already.")
        if mode == "ON_DEMAND":
            self.kinesis.check_demand()
        stream.spend("A change of the stream mode", MODE_CHANGES)
        stream.begin("UPDATING")
        stream.mode = mode
        return {}

    def _encrypt(self, given: Input) -> dict[str, Any]:
        stream, key_id = self.kinesis.named(given), need(given, "KeyId")
        stream.check_active()
        check_key(self.account, key_id)
        stream.spend("A change of the key", KEY_CHANGES)
        stream.begin("UPDATING")
        stream.encryption, stream.key_id = need(given, "EncryptionType"), key_id
        return {}

    def _decrypt(self, given: Input) -> dict[str, Any]:
        stream = self.kinesis.named(given)
        stream.begin("UPDATING")
        stream.encryption = stream.key_id = None
        return {}


def record_size(kib: int) -> int:
    if not 1024 <= kib <= 10240:
        raise invalid(f"Value '{kib}' at 'maxRecordSizeInKiB' is not between 1024 and 10240")
    return kib
