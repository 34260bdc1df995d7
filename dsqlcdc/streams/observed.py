"""What is there: the CDC stream, its target, its role and its cluster, as AWS described them at one time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

Status = Literal["CREATING", "ACTIVE", "IMPAIRED", "FAILED", "DELETING", "DELETED"]
"""Of a CDC stream (spec §1). The service may add others: they are handed on as they are, and treated as not ACTIVE."""
CODES = (
    "KINESIS_THROUGHPUT_EXCEEDED",
    "KINESIS_STREAM_NOT_FOUND",
    "ROLE_ACCESS_DENIED",
    "KINESIS_ACCESS_DENIED",
    "KINESIS_KMS_ACCESS_DENIED",
    "KINESIS_OVERSIZE_RECORD",
    "CLUSTER_CMK_INACCESSIBLE",
    "INTERNAL_ERROR",
)
"""The eight documented values of statusReason.error (spec §1)."""


class Reason(msgspec.Struct, frozen=True):
    """A statusReason. `updated_at`: seconds since the epoch."""

    error: str
    updated_at: float


class CdcStream(msgspec.Struct, frozen=True, kw_only=True):
    """What GetStream says. `created_at`: seconds since the epoch. `target` and `role`: ARNs."""

    cluster: str
    id: str
    arn: str
    status: str
    reason: Reason | None = None
    target: str = ""
    role: str = ""
    created_at: float = 0.0
    tags: Mapping[str, str] = {}


def in_words(stream: CdcStream) -> str:
    """Its status, with the reason."""
    return stream.status if stream.reason is None else f"{stream.status} ({stream.reason.error})"


class ClusterState(msgspec.Struct, frozen=True, kw_only=True):
    """What GetCluster says. `kms_key`: the ARN of the user's key, "" for AWS's own."""

    id: str
    arn: str
    status: str
    kms_key: str = ""


class TargetState(msgspec.Struct, frozen=True, kw_only=True):
    """What DescribeStreamSummary and ListTagsForStream say. `kms_key`: as configured (ARN, alias or id), "" for no encryption."""

    name: str
    arn: str
    status: str
    mode: Literal["on_demand", "provisioned"]
    open_shards: int
    retention_hours: int
    max_record_kib: int
    kms_key: str = ""
    created_at: float = 0.0
    tags: Mapping[str, str] = {}


class KeyState(msgspec.Struct, frozen=True, kw_only=True):
    """What DescribeKey says of the user's KMS key on the target. `state`: Enabled, Disabled, PendingDeletion …"""

    arn: str
    state: str


class RoleState(msgspec.Struct, frozen=True, kw_only=True):
    """A role with its policies, decoded. `inline` by policy name; `attached` by policy ARN. `boundary`: the ARN of its permissions boundary,
    "" for none, and `bound` what that says: None where it could not be read."""

    name: str
    arn: str
    trust: Mapping[str, Any]
    inline: Mapping[str, Mapping[str, Any]] = {}
    attached: Mapping[str, Mapping[str, Any]] = {}
    boundary: str = ""
    bound: Mapping[str, Any] | None = None
    tags: Mapping[str, str] = {}


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at one time. None: not there. `streams`: the cluster's CDC streams, all of them, newest first."""

    account: str
    region: str
    partition: str = "aws"
    cluster: ClusterState | None
    target: TargetState | None
    role: RoleState | None
    key: KeyState | None = None
    """The user's key: the one the target has, or is to have. None: none is in play, or there is no such key."""
    streams: Sequence[CdcStream] = ()

    def stream_into(self, arn: str) -> CdcStream | None:
        """The CDC stream that writes to this target: one that lives before one that FAILED, none that is going away."""
        into = [stream for stream in self.streams if stream.target == arn and stream.status not in ("DELETING", "DELETED")]
        return min(into, key=lambda stream: (stream.status == "FAILED", -stream.created_at), default=None)
