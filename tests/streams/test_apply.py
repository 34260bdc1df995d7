"""Applying: from nothing to ACTIVE, again without a change, killed at every call, and beside what is there already."""

from __future__ import annotations

import json

import msgspec
import pytest

from dsqlcdc.errors import Misconfigured, Unavailable
from dsqlcdc.local import Commit, Fault
from dsqlcdc.streams.desired import CLUSTER_TAG, OWNER_TAG, Target
from dsqlcdc.streams.policies import trust_policy, write_policy
from dsqlcdc.streams.wanted import ADOPTED_TAG, policy_name

from .manager import ACCOUNT, REGION, STREAM_ARN, Manager, steps
from .mortal import Killed, Life


async def test_an_empty_account_becomes_a_stream_that_delivers_and_the_second_apply_changes_nothing(manager: Manager) -> None:
    assert steps(await manager.plan()) == [
        ("create", "target"),
        ("update", "retention"),
        ("create", "role"),
        ("update", "policy"),
        ("create", "stream"),
    ]
    done = await manager.apply()
    assert (done.stream.status, done.fault) == ("ACTIVE", None)
    seen = (await manager.work()).observed
    assert seen.target is not None
    assert seen.role is not None
    assert (seen.target.mode, seen.target.max_record_kib, seen.target.retention_hours) == ("on_demand", 10240, 168)
    tags = {"team": "shop", OWNER_TAG: "orders-cdc"}
    of_cluster = {**tags, CLUSTER_TAG: manager.desired.cluster}
    assert (seen.target.tags, seen.role.tags, dict(done.stream.tags)) == (of_cluster, of_cluster, tags)
    assert seen.role.trust == trust_policy(REGION, ACCOUNT, manager.desired.cluster)
    assert seen.role.inline == {"dsqlcdc-write-orders-cdc": write_policy(STREAM_ARN)}
    assert (await manager.aws.commit(Commit(cluster=manager.desired.cluster, transactions=3))).sent[done.stream.id] > 0
    again = Life()
    assert steps(await manager.apply(again)) == []
    assert again.writes == []


async def test_a_provisioned_stream_with_a_key_gives_the_role_the_kms_statement(manager: Manager) -> None:
    key = (await manager.clients.kms.create_key())["KeyMetadata"]["Arn"]
    await manager.clients.kms.create_alias(AliasName="alias/mine", TargetKeyId=key)
    target = Target(name="orders-cdc", mode="provisioned", shards=2, kms_key="alias/mine")
    manager.desired = msgspec.structs.replace(manager.desired, target=target)
    await manager.apply()
    seen = (await manager.work()).observed
    assert seen.target is not None
    assert seen.role is not None
    assert (seen.target.mode, seen.target.open_shards, seen.target.kms_key) == ("provisioned", 2, "alias/mine")
    assert seen.role.inline[policy_name(manager.desired)] == write_policy(STREAM_ARN, key)
    assert steps(await manager.apply()) == []


@pytest.mark.slow
async def test_an_apply_that_is_killed_at_any_call_is_completed_by_the_next(manager: Manager) -> None:
    whole = Life()
    await manager.apply(whole)
    assert len({whole.calls[number] for number in whole.writes}) == 5, [whole.calls[number] for number in whole.writes]
    assert len(whole.calls) > 20
    killed = 0
    for life in [*(Life(last) for last in range(len(whole.calls))), *(Life(*death, by_write=True) for death in whole.deaths)]:
        await _wipe(manager)
        try:
            await manager.apply(life)
        except Killed:
            killed += 1
        else:  # where less waiting was needed than in the whole life, there is no such call
            assert len(life.writes if life.by_write else life.calls) <= life.last
        assert (await manager.apply()).stream.status == "ACTIVE"
        assert len(manager.live()) == 1
        assert steps(await manager.plan()) == []
    assert killed > 25


async def _wipe(manager: Manager) -> None:
    """Back to an empty account with one cluster."""
    for stream in manager.live():
        stream.activate()
        stream.delete(0.0)
    manager.aws.kinesis.reset()
    for policy in (await manager.clients.iam.list_role_policies(RoleName="orders-cdc-dsql"))["PolicyNames"]:
        await manager.clients.iam.delete_role_policy(RoleName="orders-cdc-dsql", PolicyName=policy)
    await manager.clients.iam.delete_role(RoleName="orders-cdc-dsql")


LOST = ("CreateStream", "CreateRole", "PutRolePolicy", "IncreaseStreamRetentionPeriod", "DescribeStreamSummary", "GetStream")


@pytest.mark.parametrize("operation", LOST)
async def test_an_answer_that_is_lost_doubles_nothing(manager: Manager, operation: str) -> None:
    for service in ("kinesis", "dsql", "iam"):
        manager.aws.faults.add(Fault(kind="lost", service=service, operation=operation, times=2))
    manager.clients = msgspec.structs.replace(manager.clients, random=lambda: 0.0)
    assert (await manager.apply()).stream.status == "ACTIVE"
    assert len(manager.live()) == 1
    assert manager.aws.faults.hits >= 2


THROTTLED = [
    ("kinesis", "LimitExceededException"),
    ("dsql", "ThrottlingException"),
    ("iam", "Throttling"),
    ("dsql", "InternalServerException"),
]


@pytest.mark.parametrize(("service", "code"), THROTTLED)
async def test_throttling_and_conflicts_pass(manager: Manager, service: str, code: str) -> None:
    manager.aws.faults.add(Fault(kind="error", service=service, code=code, status=500 if "Internal" in code else 400, times=3, skip=1))
    manager.clients = msgspec.structs.replace(manager.clients, random=lambda: 0.0)
    assert (await manager.apply()).stream.status == "ACTIVE"


async def test_a_conflict_is_waited_for_and_told(manager: Manager, caplog: pytest.LogCaptureFixture) -> None:
    fault = Fault(
        kind="error", service="dsql", operation="CreateStream", code="ConflictException", status=409, times=2, message="in flight"
    )
    manager.aws.faults.add(fault)
    assert (await manager.apply()).stream.status == "ACTIVE"
    assert manager.aws.faults.hits == 2
    assert "in flight" in caplog.text


async def test_a_refusal_that_does_not_pass_ends_it_at_once_in_the_services_words(manager: Manager) -> None:
    fault = Fault(
        kind="error", service="dsql", operation="CreateStream", code="ValidationException", status=400, times=0, message="no such thing"
    )
    manager.aws.faults.add(fault)
    with pytest.raises(Misconfigured, match="no such thing") as caught:
        await manager.apply()
    assert (caught.value.code, manager.aws.faults.hits) == ("E104", 1)


async def test_a_stream_into_the_same_target_is_adopted_and_not_doubled(manager: Manager) -> None:
    await manager.apply()
    (stream,) = manager.live()
    stream.tags.clear()
    assert steps(await manager.plan()) == [("adopt", "stream_tags")]
    done = await manager.apply()
    assert (steps(done), done.stream.id) == ([("adopt", "stream_tags")], stream.id)
    assert stream.tags == {ADOPTED_TAG: "orders-cdc"}
    assert steps(await manager.apply()) == []
    assert [one.id for one in manager.live()] == [stream.id]


async def test_a_stream_that_is_being_made_is_waited_for(manager: Manager) -> None:
    manager.aws.dsql.delay = 0.5
    with pytest.raises(Unavailable, match="not ACTIVE within") as caught:
        await manager.apply(deadline=0.4)
    assert caught.value.code == "E179"
    (stream,) = manager.live()
    assert stream.status == "CREATING"
    assert (await manager.apply()).stream.id == stream.id


async def test_a_stream_of_another_role_is_used_with_its_role_where_the_config_names_none(manager: Manager) -> None:
    manager.desired = msgspec.structs.replace(manager.desired, role="older")
    await manager.apply()
    manager.desired = msgspec.structs.replace(manager.desired, role="orders-cdc-dsql", role_named=False)
    assert steps(await manager.plan()) == []
    manager.desired = msgspec.structs.replace(manager.desired, role_named=True)
    assert steps(await manager.plan())[-1] == ("replace", "replace")


async def test_a_trust_policy_that_is_right_in_another_spelling_is_left_alone(manager: Manager) -> None:
    await manager.apply()
    trust = trust_policy(REGION, ACCOUNT, manager.desired.cluster)
    (statement,) = trust["Statement"]
    condition = {
        "StringLike": {"aws:sourceaccount": [ACCOUNT]},
        "ArnEquals": {"AWS:SourceArn": statement["Condition"]["ArnLike"]["aws:SourceArn"]},
    }
    other = {**trust, "Statement": {**statement, "Action": ["sts:AssumeRole"], "Condition": condition}}
    put = manager.clients.iam.update_assume_role_policy
    await put(RoleName="orders-cdc-dsql", PolicyDocument=json.dumps(other))
    assert steps(await manager.plan()) == []
    other["Statement"]["Condition"] = {"ArnLike": {"aws:SourceArn": f"arn:aws:dsql:{REGION}:{ACCOUNT}:cluster/{manager.desired.cluster}"}}
    await put(RoleName="orders-cdc-dsql", PolicyDocument=json.dumps(other))
    assert steps(await manager.apply()) == [("update", "trust")]  # the cluster-ARN mistake
    assert steps(await manager.plan()) == []


async def test_a_role_of_others_keeps_its_statements_and_policies(manager: Manager) -> None:
    theirs = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": theirs})
    await manager.clients.iam.create_role(RoleName="orders-cdc-dsql", AssumeRolePolicyDocument=document)
    done = await manager.apply()
    role = (await manager.work()).observed.role
    assert role is not None
    assert role.trust["Statement"] == [theirs, *trust_policy(REGION, ACCOUNT, manager.desired.cluster)["Statement"]]
    assert done.stream.status == "ACTIVE"
    assert steps(await manager.plan()) == []
    assert OWNER_TAG not in role.tags


async def test_permissions_by_an_attached_policy_are_enough(manager: Manager) -> None:
    trust = json.dumps(trust_policy(REGION, ACCOUNT, manager.desired.cluster))
    await manager.clients.iam.create_role(RoleName="orders-cdc-dsql", AssumeRolePolicyDocument=trust)
    wide = json.dumps({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kinesis:*", "Resource": "*"}})
    made = await manager.clients.iam.create_policy(PolicyName="wide", PolicyDocument=wide)
    await manager.clients.iam.attach_role_policy(RoleName="orders-cdc-dsql", PolicyArn=made["Policy"]["Arn"])
    assert [action.resource for action in (await manager.plan()).changes] == ["kinesis_stream", "kinesis_stream", "cdc_stream"]


async def test_a_target_is_raised_and_never_lowered(manager: Manager) -> None:
    stream = manager.aws.kinesis.create("orders-cdc", 2, "PROVISIONED", 1024)
    stream.activate()
    stream.retention_hours = 200
    manager.desired = msgspec.structs.replace(manager.desired, target=Target(name="orders-cdc", mode_named=False))
    done = await manager.apply()
    assert [action.step for action in done.changes if action.resource == "kinesis_stream"] == ["record_size"]
    assert (stream.max_record_kib, stream.retention_hours, stream.mode, stream.tags) == (10240, 200, "PROVISIONED", {})
    manager.desired = msgspec.structs.replace(manager.desired, target=Target(name="orders-cdc", mode="on_demand"))
    assert steps(await manager.apply()) == [("update", "mode")]
