"""Applying: what stands in its way is told plainly, before anything is changed or at the call that meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from dsqlcdc.errors import Misconfigured
from dsqlcdc.local import Commit, Deny, Fault
from dsqlcdc.streams import role
from dsqlcdc.streams.apply import apply
from dsqlcdc.streams.desired import CLUSTER_TAG, Desired, Target
from dsqlcdc.streams.remedies import remedy_of

from .manager import ACCOUNT, REGION, ROLE_ARN, STREAM_ARN, Manager, steps
from .mortal import Life


async def test_a_role_that_is_not_usable_yet_is_offered_again(manager: Manager) -> None:
    manager.aws.dsql.role_delay = 0.2
    assert (await manager.apply()).stream.status == "ACTIVE"
    assert any("does not take the role yet" in said for said in manager.said)


async def test_a_role_that_never_becomes_usable_is_given_up_in_the_services_words(manager: Manager) -> None:
    manager.aws.dsql.role_delay = 3600
    manager.role_wait = 0.2
    with pytest.raises(Misconfigured, match="IAM role") as caught:
        await manager.apply()
    assert caught.value.code == "E175"


OBSTACLES: dict[str, Callable[[Manager], Any]] = {
    "E171": lambda m: setattr(m, "desired", msgspec.structs.replace(m.desired, cluster="a" * 26)),
    "E172": lambda m: setattr(m.aws.dsql.cluster(m.desired.cluster), "asleep", "IDLE"),
    "E176": lambda m: setattr(m, "desired", msgspec.structs.replace(m.desired, target=Target(name="orders-cdc", kms_key="alias/none"))),
}


@pytest.mark.parametrize("code", OBSTACLES)
async def test_what_stands_in_the_way_is_said_plainly_before_anything_is_changed(manager: Manager, code: str) -> None:
    OBSTACLES[code](manager)
    life = Life()
    with pytest.raises(Misconfigured) as caught:
        await manager.apply(life)
    assert caught.value.code == code
    assert caught.value.run
    assert life.writes == []


async def test_a_full_cluster_is_named_with_the_streams_it_has(manager: Manager) -> None:
    cluster = manager.desired.cluster
    await manager.apply()
    for number in range(4):
        manager.aws.kinesis.create(f"other-{number}", 1).activate()
        target = {"kinesis": {"streamArn": STREAM_ARN.replace("orders-cdc", f"other-{number}"), "roleArn": ROLE_ARN}}
        manager.aws.dsql.create_stream(cluster, {"targetDefinition": target, "ordering": "UNORDERED", "format": "JSON"}).activate()
    manager.desired = msgspec.structs.replace(manager.desired, target=Target(name="sixth"))
    with pytest.raises(Misconfigured, match="other-3") as caught:
        await manager.apply()
    assert caught.value.code == "E173"


async def test_a_quota_that_is_met_only_at_the_call_is_told_as_plainly(manager: Manager) -> None:
    code, message = "ServiceQuotaExceededException", "You have reached the stream limit."
    manager.aws.faults.add(Fault(kind="error", service="dsql", operation="CreateStream", times=0, code=code, status=402, message=message))
    with pytest.raises(Misconfigured) as caught:
        await manager.apply()
    assert caught.value.code == "E173"


async def test_a_cluster_that_falls_asleep_meanwhile_is_told_as_plainly(manager: Manager) -> None:
    planned, work = await manager.plan(), await manager.work()
    manager.aws.dsql.cluster(manager.desired.cluster).asleep = "INACTIVE"
    with pytest.raises(Misconfigured, match="INACTIVE") as caught:
        await apply(planned, work, deadline=10.0)
    assert caught.value.code == "E172"


async def test_a_stream_that_fails_while_it_is_made_stops_the_waiting_with_reason_and_remedy(manager: Manager) -> None:
    manager.aws.dsql.delay = 30.0

    def fail() -> None:
        for stream in manager.live():
            stream.activate()
            stream.fail("CLUSTER_CMK_INACCESSIBLE")

    done = await manager.apply(Life(watch=fail))
    assert done.fault is not None
    assert (done.stream.status, done.fault.code) == ("FAILED", "E178")
    assert "CLUSTER_CMK_INACCESSIBLE" in str(done.fault)


WRITES = {
    "kinesis:CreateStream": STREAM_ARN,
    "kinesis:IncreaseStreamRetentionPeriod": STREAM_ARN,
    "iam:CreateRole": ROLE_ARN,
    "iam:PutRolePolicy": ROLE_ARN,
    "iam:PassRole": ROLE_ARN,
    "dsql:CreateStream": f"arn:aws:dsql:{REGION}:{ACCOUNT}:cluster/",
}


@pytest.mark.parametrize("action", WRITES)
async def test_a_denial_of_any_write_names_action_and_resource_and_the_next_apply_goes_on(manager: Manager, action: str) -> None:
    manager.aws.denials.add(Deny(action=action))
    with pytest.raises(Misconfigured) as caught:
        await manager.apply()
    assert caught.value.code == "E102"
    assert f'{{"Effect": "Allow", "Action": "{action}", "Resource": "{WRITES[action]}' in caught.value.why
    manager.aws.denials.clear()
    assert (await manager.apply()).stream.status == "ACTIVE"
    assert len(manager.live()) == 1


# permissions boundaries ----------------------------------------------------------------------------------------------------------------


async def bound(manager: Manager, *actions: str) -> None:
    """The role gets a permissions boundary that allows these."""
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": statement})
    made = await manager.clients.iam.create_policy(PolicyName="edge", PolicyDocument=document)
    put = manager.clients.iam.put_role_permissions_boundary
    await put(RoleName="orders-cdc-dsql", PermissionsBoundary=made["Policy"]["Arn"])


async def test_a_permissions_boundary_that_keeps_dsql_from_writing_is_said_before_anything_is_changed(manager: Manager) -> None:
    await role.make(await manager.work())
    await bound(manager, "s3:*", "kinesis:ListShards")
    life = Life()
    with pytest.raises(Misconfigured, match=r"policy/edge does not allow kinesis:PutRecord, kinesis:PutRecords") as caught:
        await manager.apply(life)
    assert (caught.value.code, life.writes) == ("E175", [])
    planned = await manager.plan()
    assert planned.obstacle is not None
    assert planned.obstacle.code == "E175"


async def test_a_permissions_boundary_that_lets_it_write_is_no_obstacle_and_so_is_one_that_may_not_be_read(manager: Manager) -> None:
    await role.make(await manager.work())
    await bound(manager, "kinesis:*")
    assert (await manager.apply()).stream.status == "ACTIVE"
    assert (await manager.plan()).notes == []
    manager.aws.denials.add(Deny(action="iam:GetPolicy"))
    planned = await manager.plan()
    assert (steps(planned), planned.obstacle) == ([], None)
    [note] = planned.notes
    assert "policy/edge" in note
    assert "cannot be told" in note


async def test_a_boundary_that_is_put_on_later_impairs_and_the_remedy_is_for_people(manager: Manager) -> None:
    await manager.apply()
    await bound(manager, "s3:*")
    await manager.aws.commit(Commit(cluster=manager.desired.cluster, transactions=2))
    found = remedy_of(manager.desired, (await manager.work()).observed)
    assert found is not None
    assert (found.error, found.can_apply) == ("KINESIS_ACCESS_DENIED", False)
    assert "permissions boundary" in found.actions[0].what


# what was made for another cluster -----------------------------------------------------------------------------------------------------


async def other_cluster(manager: Manager) -> tuple[Desired, Desired]:
    """The config of a cluster that has a living stream, and the same config with another cluster in it, which is ACTIVE too."""
    await manager.apply()
    made = manager.aws.dsql.create_cluster({"deletionProtectionEnabled": False})
    made.activate()
    right = manager.desired
    manager.desired = msgspec.structs.replace(right, cluster=made.id)
    return right, manager.desired


async def delivers(manager: Manager, right: Desired) -> bool:
    """Does the living stream still write?"""
    await manager.aws.commit(Commit(cluster=right.cluster, transactions=3))
    (stream,) = manager.aws.dsql.cluster(right.cluster).live_streams()
    return stream.status == "ACTIVE"


async def test_a_config_with_another_cluster_in_it_takes_neither_role_nor_kinesis_stream(manager: Manager) -> None:
    right, wrong = await other_cluster(manager)
    before = (await manager.work()).observed.role
    life = Life()
    with pytest.raises(Misconfigured) as caught:
        await manager.apply(life)
    assert (caught.value.code, life.writes) == ("E191", [])
    for word in (right.cluster, wrong.cluster, "iam role orders-cdc-dsql", "kinesis stream orders-cdc", "mend stream.cluster"):
        assert word in str(caught.value)
    planned = await manager.plan()
    assert planned.obstacle is not None
    assert planned.obstacle.code == "E191"
    assert (await manager.work()).observed.role == before
    assert await delivers(manager, right)
    manager.desired = right
    assert steps(await manager.plan()) == []


async def test_where_no_tag_says_it_the_trust_policy_of_our_role_does(manager: Manager) -> None:
    right, _ = await other_cluster(manager)
    await manager.clients.kinesis.remove_tags_from_stream(StreamName="orders-cdc", TagKeys=[CLUSTER_TAG])
    await manager.clients.iam.untag_role(RoleName="orders-cdc-dsql", TagKeys=[CLUSTER_TAG])
    with pytest.raises(Misconfigured, match=right.cluster) as caught:
        await manager.apply()
    assert (caught.value.code, "kinesis stream" in str(caught.value.where)) == ("E191", False)
    assert await delivers(manager, right)


async def test_what_was_handed_over_by_its_tags_is_taken_and_the_other_cluster_still_delivers(manager: Manager) -> None:
    right, wrong = await other_cluster(manager)
    await manager.clients.kinesis.add_tags_to_stream(StreamName="orders-cdc", Tags={CLUSTER_TAG: wrong.cluster})
    await manager.clients.iam.tag_role(RoleName="orders-cdc-dsql", Tags=[{"Key": CLUSTER_TAG, "Value": wrong.cluster}])
    assert (await manager.apply()).stream.status == "ACTIVE"
    assert steps(await manager.plan()) == []
    assert await delivers(manager, right), "the trust policy lets both in"


async def test_a_stream_that_writes_already_is_not_held_against_its_kinesis_streams_tag(manager: Manager) -> None:
    right, _ = await other_cluster(manager)
    manager.desired = msgspec.structs.replace(manager.desired, role="of-its-own")
    await manager.clients.kinesis.remove_tags_from_stream(StreamName="orders-cdc", TagKeys=[CLUSTER_TAG])
    await manager.apply()
    await manager.clients.kinesis.add_tags_to_stream(StreamName="orders-cdc", Tags={CLUSTER_TAG: right.cluster})
    assert (steps(await manager.apply()), await delivers(manager, right)) == ([], True)
