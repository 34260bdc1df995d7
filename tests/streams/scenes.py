"""What tests of the stream manager look at: a healthy account, and the ways in which it is not."""

from __future__ import annotations

from typing import Any

import msgspec

from dsqlcdc.streams.desired import Desired, Target
from dsqlcdc.streams.observed import CdcStream, ClusterState, Observed, Reason, RoleState, TargetState
from dsqlcdc.streams.policies import trust_policy, write_policy

NOW = 1_800_000_000.0
REGION, ACCOUNT, CLUSTER = "us-east-1", "123456789012", "abcdefghijklmnopqrstuvwx26"
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/11111111-2222-3333-4444-555555555555"
TARGET = f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/orders-cdc"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/orders-cdc-dsql"


def desired(**given: Any) -> Desired:
    target = Target(name="orders-cdc", **given.pop("target", {}))
    return Desired(pipeline="orders", cluster=CLUSTER, target=target, role="orders-cdc-dsql", **given)


def cdc(status: str = "ACTIVE", error: str = "", *, at: float = NOW - 600, id: str = "old", **given: Any) -> CdcStream:
    reason = Reason(error, at) if error else None
    arn = f"arn:aws:dsql:{REGION}:{ACCOUNT}:cluster/{CLUSTER}/stream/{id}"
    given = {"created_at": NOW - 30 * 86_400, **given}
    return CdcStream(cluster=CLUSTER, id=id, arn=arn, status=status, reason=reason, target=TARGET, role=ROLE, **given)


def target(**given: Any) -> TargetState:
    healthy = TargetState(
        name="orders-cdc", arn=TARGET, status="ACTIVE", mode="on_demand", open_shards=4, retention_hours=168, max_record_kib=10240
    )
    return msgspec.structs.replace(healthy, **given)


def role(**given: Any) -> RoleState:
    inline = {"write-orders-cdc": write_policy(TARGET)}
    return msgspec.structs.replace(
        RoleState(name="orders-cdc-dsql", arn=ROLE, trust=trust_policy(REGION, ACCOUNT, CLUSTER), inline=inline), **given
    )


def observed(*streams: CdcStream, **given: Any) -> Observed:
    arn = f"arn:aws:dsql:{REGION}:{ACCOUNT}:cluster/{CLUSTER}"
    seen = Observed(
        account=ACCOUNT,
        region=REGION,
        cluster=ClusterState(id=CLUSTER, arn=arn, status="ACTIVE"),
        target=target(),
        role=role(),
        streams=streams,
    )
    return msgspec.structs.replace(seen, **given)
