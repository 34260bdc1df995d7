"""Each reason a CDC stream gives, reached by its real cause and left by mending it, on a clock that stands still until it is pushed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, get_args

import aiohttp
import pytest
from msgspec.structs import replace

from dsqlcdc.local import Clock, Commit, Local, Statement
from dsqlcdc.local.cdc import Reason
from dsqlcdc.local.envelope import OVERSIZE

if TYPE_CHECKING:
    from tests.local.conftest import Clients

SERVICES = ["dsql", "kinesis", "iam", "kms"]
ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/r"
LARGE = Commit(explicit=[[Statement("t.big", "insert", {"id": 1, "x": "y" * 1_200_000})]], declare={"t.big": ["id"]})
SMALL = Commit(transactions=5, tables=["public.accounts"])


@pytest.fixture
async def aws() -> AsyncIterator[Local]:
    async with Local(read_throttle=False, oversize=OVERSIZE, clock=Clock(1_700_000_000.0, lambda: 0.0)) as local:
        yield local


def trust(source: str) -> dict[str, Any]:
    condition = {"StringEquals": {"aws:SourceAccount": ACCOUNT}, "ArnLike": {"aws:SourceArn": source}}
    return {"Effect": "Allow", "Principal": {"Service": "dsql.amazonaws.com"}, "Action": "sts:AssumeRole", "Condition": condition}


def allow(resource: str, *actions: str) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": list(actions), "Resource": resource}


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


class World:
    """An account as a user sets it up: a stream, a cluster, a role, a key, and the CDC stream; and what can be done to them."""

    def __init__(self, aws: Local, call: Clients) -> None:
        self.aws, self.call = aws, call
        self.stream = self.cluster = ""

    async def begin(self, kib: int = 10240, **cluster: Any) -> World:
        pipe = self.aws.pipe("s", shards=1, max_record_kib=kib)
        await self.call.kinesis.describe_stream_summary(StreamName="s")
        made = await self.call.dsql.create_cluster(deletionProtectionEnabled=False, **cluster)
        self.aws.advance(1)
        self.cluster, self.arn, self.target = made["identifier"], made["arn"], pipe.stream_arn
        await self.call.iam.create_role(RoleName="r", AssumeRolePolicyDocument=policy(self.trust))
        await self.write(allow(self.target, "kinesis:PutRecord*"))
        return self

    @property
    def trust(self) -> dict[str, Any]:
        return trust(f"{self.arn}/stream/*")

    async def create(self) -> tuple[str, str]:
        self.aws.dsql.role_refusals = 0
        given = {"targetDefinition": {"kinesis": {"streamArn": self.target, "roleArn": ROLE}}, "ordering": "UNORDERED", "format": "JSON"}
        made = await self.call.dsql.create_stream(clusterIdentifier=self.cluster, **given)
        self.stream = made["streamIdentifier"]
        self.aws.advance(1)
        return await self.status()

    async def commit(self, commit: Commit = SMALL) -> int:
        return (await self.aws.commit(replace(commit, cluster=self.cluster))).sent.get(self.stream, 0)

    async def status(self) -> tuple[str, str]:
        found = await self.call.dsql.get_stream(clusterIdentifier=self.cluster, streamIdentifier=self.stream)
        reason = found.get("statusReason", {})
        assert not reason or reason["updatedAt"].timestamp() <= self.aws.clock.now()
        return found["status"], reason.get("error", "")

    async def trusts(self, *statements: dict[str, Any]) -> None:
        await self.call.iam.update_assume_role_policy(RoleName="r", PolicyDocument=policy(*statements))

    async def write(self, *statements: dict[str, Any]) -> None:
        await self.call.iam.put_role_policy(RoleName="r", PolicyName="write", PolicyDocument=policy(*statements))

    @property
    def arrived(self) -> int:
        return sum(shard.next - shard.first for shard in self.aws.kinesis.stream("s").shards.values())


async def control(aws: Local, what: str, **body: Any) -> dict[str, Any]:
    async with aiohttp.ClientSession() as http, http.post(f"{aws.endpoint}/_dsqlcdc/{what}", json=body) as answer:
        assert answer.status == 200
        told: dict[str, Any] = await answer.json()
        return told


@pytest.fixture
def world(aws: Local, call: Clients) -> World:
    return World(aws, call)


MISTRUSTS = {
    "the cluster instead of its streams": lambda world: [trust(world.arn)],
    "another cluster": lambda world: [trust(world.arn.replace(world.cluster, "x" * 26) + "/stream/*")],
    "another account": lambda world: [json.loads(json.dumps(world.trust).replace(f'"{ACCOUNT}"', '"210987654321"'))],
    "another service": lambda world: [world.trust | {"Principal": {"Service": "lambda.amazonaws.com"}}],
    "another action": lambda world: [world.trust | {"Action": "sts:TagSession"}],
    "a deny beside it": lambda world: [world.trust, world.trust | {"Effect": "Deny", "Condition": {}}],
    "a text and no pattern": lambda world: [world.trust | {"Condition": {"StringEquals": {"aws:SourceArn": f"{world.arn}/stream/*"}}}],
}


@pytest.mark.parametrize("mistake", MISTRUSTS)
async def test_a_role_that_does_not_trust_this_stream_impairs_it_until_it_does(world: World, mistake: str) -> None:
    await world.begin()
    assert await world.create() == ("ACTIVE", "")
    await world.trusts(*MISTRUSTS[mistake](world))
    sent = await world.commit()
    assert sent > 0
    assert await world.status() == ("IMPAIRED", "ROLE_ACCESS_DENIED")
    assert world.arrived == 0
    await world.trusts(world.trust)
    assert await world.status() == ("ACTIVE", "")
    assert world.arrived == sent


async def test_a_stream_created_with_the_wrong_trust_fails_or_where_asked_for_stays_creating(world: World) -> None:
    await world.begin()
    await world.trusts(trust(world.arn))
    assert await world.create() == ("FAILED", "ROLE_ACCESS_DENIED")
    await world.call.dsql.delete_stream(clusterIdentifier=world.cluster, streamIdentifier=world.stream)
    world.aws.advance(1)
    world.aws.dsql.pace.stuck = True
    assert await world.create() == ("CREATING", "ROLE_ACCESS_DENIED")
    await world.trusts(world.trust)
    assert await world.status() == ("ACTIVE", "")


LACKS = {
    "no statement": lambda world: [allow(world.target, "kinesis:ListShards")],
    "only one of the two writes": lambda world: [allow(world.target, "kinesis:PutRecord")],
    "another stream": lambda world: [allow(world.target + "2", "kinesis:*")],
    "a deny": lambda world: [allow("*", "*"), allow(world.target, "kinesis:PutRecords") | {"Effect": "Deny"}],
    "a condition that does not fit": lambda world: [
        allow("*", "*") | {"Condition": {"StringEquals": {"aws:RequestedRegion": "eu-west-1"}}},
    ],
}


@pytest.mark.parametrize("lack", LACKS)
async def test_a_role_without_the_right_to_write_impairs_until_it_has_it(world: World, lack: str) -> None:
    await world.begin()
    assert await world.create() == ("ACTIVE", "")
    await world.write(*LACKS[lack](world))
    sent = await world.commit()
    assert await world.status() == ("IMPAIRED", "KINESIS_ACCESS_DENIED")
    await world.write(allow(world.target, "kinesis:PutRecord", "kinesis:PutRecords"))
    assert await world.status() == ("ACTIVE", "")
    assert world.arrived == sent


async def test_an_attached_policy_counts_as_an_inline_one(world: World) -> None:
    await world.begin()
    await world.call.iam.delete_role_policy(RoleName="r", PolicyName="write")
    made = await world.call.iam.create_policy(PolicyName="p", PolicyDocument=policy(allow("*", "kinesis:*")))
    assert await world.create() == ("IMPAIRED", "KINESIS_ACCESS_DENIED")
    await world.call.iam.attach_role_policy(RoleName="r", PolicyArn=made["Policy"]["Arn"])
    assert await world.status() == ("ACTIVE", "")


async def test_the_targets_key_must_be_enabled_and_the_role_may_use_it_through_kinesis(world: World) -> None:
    await world.begin()
    key = (await world.call.kms.create_key())["KeyMetadata"]
    await world.call.kinesis.start_stream_encryption(StreamName="s", EncryptionType="KMS", KeyId=key["Arn"])
    assert await world.create() == ("IMPAIRED", "KINESIS_KMS_ACCESS_DENIED")
    via = {"Condition": {"StringEquals": {"kms:ViaService": "kinesis.us-east-1.amazonaws.com"}}}
    await world.write(allow(world.target, "kinesis:PutRecord*"), allow(key["Arn"], "kms:GenerateDataKey") | via)
    assert await world.status() == ("ACTIVE", "")
    await world.call.kms.disable_key(KeyId=key["KeyId"])
    sent = await world.commit()
    assert await world.status() == ("IMPAIRED", "KINESIS_KMS_ACCESS_DENIED")
    await world.call.kms.enable_key(KeyId=key["Arn"])  # as the remedy says it
    assert await world.status() == ("ACTIVE", "")
    assert world.arrived == sent
    closed = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:user/admin"}, "Action": "kms:*", "Resource": "*"}
    await world.call.kms.put_key_policy(KeyId=key["KeyId"], PolicyName="default", Policy=policy(closed))
    assert await world.status() == ("IMPAIRED", "KINESIS_KMS_ACCESS_DENIED")
    await world.call.kms.put_key_policy(KeyId=key["KeyId"], PolicyName="default", Policy=policy(closed | {"Principal": {"AWS": ROLE}}))
    assert await world.status() == ("ACTIVE", "")


async def test_the_key_of_kinesis_itself_needs_no_right(world: World) -> None:
    await world.begin()
    await world.call.kinesis.start_stream_encryption(StreamName="s", EncryptionType="KMS", KeyId="alias/aws/kinesis")
    assert await world.create() == ("ACTIVE", "")


async def test_an_oversize_record_is_held_while_the_others_flow_and_arrives_when_the_limit_is_raised(world: World) -> None:
    await world.begin(kib=1024)
    await world.create()
    assert await world.commit(LARGE) == 1
    assert (await world.status(), world.arrived) == (("IMPAIRED", "KINESIS_OVERSIZE_RECORD"), 0)
    others = await world.commit()
    assert (await world.status(), world.arrived) == (("IMPAIRED", "KINESIS_OVERSIZE_RECORD"), others)
    await world.call.kinesis.update_max_record_size(StreamARN=world.target, MaxRecordSizeInKiB=10240)
    assert (await world.status(), world.arrived) == (("ACTIVE", ""), others + 1)


async def test_a_deleted_kinesis_stream_fails_the_stream_for_good(world: World) -> None:
    await world.begin()
    await world.create()
    await world.call.kinesis.delete_stream(StreamName="s")
    assert await world.status() == ("FAILED", "KINESIS_STREAM_NOT_FOUND")
    world.aws.advance(1)
    await world.call.kinesis.create_stream(StreamName="s", ShardCount=1)
    world.aws.advance(1)
    assert await world.commit() == 0
    assert await world.status() == ("FAILED", "KINESIS_STREAM_NOT_FOUND")


async def test_the_clusters_own_key_impairs_and_while_creating_fails(world: World) -> None:
    key = (await world.call.kms.create_key())["KeyMetadata"]
    await world.begin(kmsEncryptionKey=key["Arn"])
    assert await world.create() == ("ACTIVE", "")
    await world.call.kms.disable_key(KeyId=key["KeyId"])
    found = await world.call.dsql.get_cluster(identifier=world.cluster)
    assert found["encryptionDetails"]["encryptionStatus"] == "KMS_KEY_INACCESSIBLE"
    first = world.stream
    assert await world.status() == ("IMPAIRED", "CLUSTER_CMK_INACCESSIBLE")
    assert await world.create() == ("FAILED", "CLUSTER_CMK_INACCESSIBLE")
    await world.call.kms.enable_key(KeyId=key["KeyId"])
    assert await world.status() == ("FAILED", "CLUSTER_CMK_INACCESSIBLE")
    world.stream = first
    assert await world.status() == ("ACTIVE", "")


async def test_more_shards_or_on_demand_mode_end_an_exceeded_throughput(world: World) -> None:
    await world.begin()
    await world.create()
    world.aws.kinesis.demand("s", 2)
    sent = await world.commit(Commit(transactions=50))
    assert await world.status() == ("IMPAIRED", "KINESIS_THROUGHPUT_EXCEEDED")
    assert 0 < world.arrived < sent
    await world.call.kinesis.update_shard_count(StreamName="s", TargetShardCount=2, ScalingType="UNIFORM_SCALING")
    assert (await world.status(), world.arrived) == (("ACTIVE", ""), sent)
    world.aws.advance(1)
    world.aws.kinesis.demand("s", 8)
    sent += await world.commit(Commit(transactions=50))
    assert await world.status() == ("IMPAIRED", "KINESIS_THROUGHPUT_EXCEEDED")
    await world.call.kinesis.update_stream_mode(StreamARN=world.target, StreamModeDetails={"StreamMode": "ON_DEMAND"})
    assert (await world.status(), world.arrived) == (("ACTIVE", ""), sent)


async def test_a_lag_beyond_the_threshold_fails_and_loses_what_was_held(world: World) -> None:
    await world.begin()
    await world.create()
    world.aws.dsql.pace.lag_limit = 3600
    await world.write(allow("*", "kinesis:ListShards"))
    await world.commit()
    world.aws.advance(3599)
    assert await world.status() == ("IMPAIRED", "KINESIS_ACCESS_DENIED")
    world.aws.advance(2)
    assert await world.status() == ("FAILED", "KINESIS_ACCESS_DENIED")
    await world.write(allow("*", "kinesis:*"))
    world.aws.advance(3600)
    assert (await world.status(), world.arrived) == (("FAILED", "KINESIS_ACCESS_DENIED"), 0)


async def test_a_new_stream_begins_now_and_what_came_between_is_delivered_by_no_one(world: World) -> None:
    await world.begin()
    await world.create()
    await world.commit()
    world.aws.dsql.stream(world.cluster, world.stream).fail("INTERNAL_ERROR")
    before = world.arrived
    assert await world.commit() == 0
    assert await world.create() == ("ACTIVE", "")
    assert world.arrived == before
    assert world.arrived + await world.commit() == world.arrived
    assert world.arrived > before


async def test_retries_back_off_and_the_next_one_after_the_mending_delivers(world: World) -> None:
    await world.begin()
    await world.create()
    world.aws.dsql.pace.retry = 10
    await world.write(allow("*", "kinesis:ListShards"))
    sent = await world.commit()
    await world.write(allow("*", "kinesis:*"))
    world.aws.advance(5)
    assert (await world.status(), world.arrived) == (("IMPAIRED", "KINESIS_ACCESS_DENIED"), 0)
    fresh = await world.commit()
    assert (await world.status(), world.arrived) == (("IMPAIRED", "KINESIS_ACCESS_DENIED"), fresh)
    world.aws.advance(6)
    assert (await world.status(), world.arrived) == (("ACTIVE", ""), sent + fresh)


MENDS = {
    "ROLE_ACCESS_DENIED": lambda world: world.trusts(world.trust),
    "KINESIS_ACCESS_DENIED": lambda world: world.write(allow(world.target, "kinesis:PutRecord*")),
    "KINESIS_KMS_ACCESS_DENIED": lambda world: world.write(allow("*", "kinesis:PutRecord*", "kms:GenerateDataKey")),
    "KINESIS_OVERSIZE_RECORD": lambda world: world.call.kinesis.update_max_record_size(StreamARN=world.target, MaxRecordSizeInKiB=10240),
    "KINESIS_THROUGHPUT_EXCEEDED": lambda world: world.call.kinesis.update_shard_count(
        StreamName="s", TargetShardCount=2, ScalingType="UNIFORM_SCALING"
    ),
    "CLUSTER_CMK_INACCESSIBLE": lambda world: world.call.kms.enable_key(
        KeyId=world.aws.dsql.cluster(world.cluster).kms_key.rpartition("/")[2]
    ),
}


@pytest.mark.parametrize("reason", get_args(Reason))
async def test_a_control_call_brings_every_cause_about_and_the_aws_call_that_mends_it_ends_it(world: World, reason: str) -> None:
    await world.begin()
    await world.create()
    told = await control(world.aws, "cause", cluster=world.cluster, stream=world.stream, reason=reason)
    final = reason == "KINESIS_STREAM_NOT_FOUND"
    assert (told["status"], told["reason"]) == ("FAILED" if final else "IMPAIRED", reason)
    assert (told["waiting"] > 0) is not final
    assert await world.status() == (told["status"], reason)
    if reason in MENDS:
        await MENDS[reason](world)
    elif not final:
        await control(world.aws, "cdc", cluster=world.cluster, stream=world.stream, impair="")
    assert (await world.status())[0] == ("FAILED" if final else "ACTIVE")
    assert world.aws.dsql.stream(world.cluster, world.stream).waiting == 0
    assert final or world.arrived == 16


async def test_a_stream_may_be_late_and_active(world: World) -> None:
    await world.begin()
    await world.create()
    key = {"cluster": world.cluster, "stream": world.stream}
    await control(world.aws, "cdc", **key, late=1200.0)
    sent = await world.commit()
    world.aws.advance(1000.0)
    told = await control(world.aws, "cdc", **key)
    assert (told["status"], told["waiting"], world.arrived) == ("ACTIVE", 0, 0)
    assert 1000.0 <= told["lag"] < 1100.0
    world.aws.advance(300.0)
    assert (await control(world.aws, "cdc", **key))["lag"] == 0.0
    assert world.arrived == sent
