"""Applying: from nothing to ACTIVE, again without a change, killed at every call, and what stops it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from dsqlcdc.core.ports import Gap
from dsqlcdc.errors import Misconfigured, Unavailable
from dsqlcdc.local import Commit, Deny, Fault, Local
from dsqlcdc.stores.memory_checkpoints import MemoryCheckpoints
from dsqlcdc.streams.apply import Applied, apply
from dsqlcdc.streams.clients import Clients
from dsqlcdc.streams.delete import delete, deletion
from dsqlcdc.streams.desired import CLUSTER_TAG, OWNER_TAG, Desired, Target
from dsqlcdc.streams.observe import observe
from dsqlcdc.streams.plan import Plan, plan
from dsqlcdc.streams.policies import trust_policy, write_policy
from dsqlcdc.streams.sighting import Sighting, remember
from dsqlcdc.streams.wanted import ADOPTED_TAG, policy_name
from dsqlcdc.streams.work import Work

from .mortal import Killed, Life

ACCOUNT, REGION = "123456789012", "us-east-1"
STREAM_ARN = f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/orders-cdc"
ROLE_ARN = f"arn:aws:iam::{ACCOUNT}:role/orders-cdc-dsql"


class Manager:
    """The stream manager as the commands use it."""

    def __init__(self, aws: Local, clients: Clients, desired: Desired) -> None:
        self.aws, self.clients, self.desired = aws, clients, desired
        self.said: list[str] = []
        self.store = MemoryCheckpoints()
        self.role_wait = 5.0

    async def work(self, clients: Clients | None = None) -> Work:
        clients = clients or self.clients
        return Work(
            desired=self.desired,
            observed=await observe(self.desired, clients),
            clients=clients,
            say=self.said.append,
            clock=time.time,
            poll=0.01,
            poll_most=0.05,
            role_wait=self.role_wait,
        )

    async def plan(self) -> Plan:
        return plan(self.desired, (await self.work()).observed)

    async def apply(self, life: Life | None = None, *, replace: bool = False, deadline: float = 20.0) -> Applied:
        life = life or Life()
        work = await self.work(life.clients(self.clients))
        planned = plan(self.desired, work.observed)
        return await apply(planned, work, replace=replace, store=life.store(self.store), deadline=deadline)

    async def delete(self, life: Life | None = None, *, everything: bool = False) -> Plan:
        work = await self.work((life or Life()).clients(self.clients))
        planned = deletion(self.desired, work.observed, everything=everything)
        await delete(planned, work, deadline=20.0)
        return planned

    def live(self) -> list[Any]:
        return [one for one in self.aws.dsql.cluster(self.desired.cluster).live_streams() if one.status != "DELETING"]

    async def gaps(self) -> list[Gap]:
        return list(await self.store.gaps(self.desired.pipeline))


@pytest.fixture
def manager(aws: Local, clients: Clients, desired: Desired) -> Manager:
    return Manager(aws, clients, desired)


def steps(planned: Plan | Applied) -> list[tuple[str, str]]:
    return [(action.action, action.step) for action in planned.changes]


# from nothing ------------------------------------------------------------------------------------------------------------------------


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


# what is there already -----------------------------------------------------------------------------------------------------------------


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


# what stops it -------------------------------------------------------------------------------------------------------------------------


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


# replacing -----------------------------------------------------------------------------------------------------------------------------


async def test_a_failed_stream_is_recreated_only_when_asked_and_leaves_a_gap_with_bounds(manager: Manager) -> None:
    first = (await manager.apply()).stream
    manager.live()[0].fail("KINESIS_STREAM_NOT_FOUND")
    with pytest.raises(Misconfigured, match="changes would be lost") as caught:
        await manager.apply()
    assert (caught.value.code, await manager.gaps(), manager.live()[0].id) == ("E174", [], first.id)
    done = await manager.apply(replace=True)
    assert (done.stream.status, steps(done)) == ("ACTIVE", [("replace", "replace")])
    assert [one.id for one in manager.live()] == [done.stream.id] != [first.id]
    (gap,) = await manager.gaps()
    assert [gap] == list(done.gaps)
    assert (gap.kind, gap.after, gap.until, gap.acked) == ("recreated", first.id, done.stream.id, "")
    assert abs(gap.from_time - first.created_at) < 1.0
    assert gap.to_time >= done.stream.created_at
    assert steps(await manager.apply(replace=True)) == []


@pytest.mark.slow
async def test_a_replacement_that_is_killed_at_any_call_loses_neither_stream_nor_gap(manager: Manager) -> None:
    await manager.apply()
    whole = Life()
    manager.live()[0].fail("KINESIS_STREAM_NOT_FOUND")
    await manager.apply(whole, replace=True)
    assert [whole.calls[number][1] for number in whole.writes] == ["record_gap", "delete_stream", "create_stream", "end_gap"]
    for last, after in whole.deaths:
        (old,) = manager.live()
        old.fail("KINESIS_STREAM_NOT_FOUND")

        def watch(old: Any = old) -> None:
            gone = old.status in ("DELETING", "DELETED")
            gaps = [gap for (_, _), gap in manager.store._gaps.items() if gap.after == old.id]  # pyright: ignore[reportPrivateUsage]
            assert gaps or not gone, "a stream was deleted before its gap was recorded"

        with pytest.raises(Killed):
            await manager.apply(Life(last, after=after, by_write=True, watch=watch), replace=True)
        done = await manager.apply(replace=True)
        assert done.stream.status == "ACTIVE"
        assert [one.id for one in manager.live()] == [done.stream.id] != [old.id]
        (gap,) = [gap for gap in await manager.gaps() if gap.after == old.id]
        assert gap.to_time >= done.stream.created_at
        assert gap.from_time <= old.created + 0.001  # the API gives milliseconds
        assert gap.until == done.stream.id


async def test_a_replacement_that_was_killed_after_the_deletion_needs_no_second_permission(manager: Manager) -> None:
    await manager.apply()
    old = manager.live()[0]
    old.fail("INTERNAL_ERROR")
    life = Life()
    manager.aws.faults.add(Fault(kind="error", service="dsql", operation="CreateStream", code="AccessDeniedException", status=403))
    with pytest.raises(Misconfigured):
        await manager.apply(life, replace=True)
    (open_gap,) = await manager.gaps()
    assert open_gap.to_time == 0.0
    done = await manager.apply()
    (gap,) = await manager.gaps()
    assert (gap.id, gap.until) == (open_gap.id, done.stream.id)


async def test_the_gap_begins_when_a_daemon_last_saw_the_stream_well(manager: Manager) -> None:
    done = await manager.apply()
    seen = time.time() - 0.5
    await remember(manager.store, manager.desired, Sighting(stream=done.stream.id, healthy_at=seen))
    manager.live()[0].fail("INTERNAL_ERROR")
    (gap,) = (await manager.apply(replace=True)).gaps
    assert gap.from_time == seen


async def test_a_stream_that_somebody_deleted_by_hand_leaves_its_gap_too(manager: Manager) -> None:
    done = await manager.apply()
    await remember(manager.store, manager.desired, Sighting(stream=done.stream.id, healthy_at=5.0))
    manager.live()[0].delete(0.0)
    (gap,) = (await manager.apply()).gaps
    assert (gap.after, gap.from_time) == (done.stream.id, 5.0)


async def test_a_gap_that_was_acknowledged_before_the_deletion_does_not_hide_the_loss(manager: Manager) -> None:
    await manager.apply()
    manager.live()[0].fail("INTERNAL_ERROR")
    manager.aws.faults.add(Fault(kind="error", service="dsql", operation="DeleteStream", code="AccessDeniedException", status=403))
    with pytest.raises(Misconfigured):
        await manager.apply(replace=True)
    (gap,) = await manager.gaps()
    await manager.store.ack_gap("orders-cdc", gap.id, "not deleted", 1.0)
    done = await manager.apply(replace=True)
    assert [gap.acked for gap in done.gaps if not gap.acked] == [""]
    assert len(await manager.gaps()) == 2


async def test_a_token_that_the_service_remembers_longer_than_its_stream_is_not_used_again(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsqlcdc.streams.cdc._APPEARS", 0.1)
    first = (await manager.apply()).stream
    tokens: dict[str, str] = {manager.live()[0].given["clientToken"]: first.id}
    create = manager.aws.dsql.create_stream

    def remembers(cluster: str, given: dict[str, Any]) -> Any:
        known = tokens.get(given["clientToken"])
        if known is not None:
            return manager.aws.dsql.clusters[cluster].streams[known]
        made = create(cluster, given)
        tokens[given["clientToken"]] = made.id
        return made

    monkeypatch.setattr(manager.aws.dsql, "create_stream", remembers)
    manager.live()[0].fail("INTERNAL_ERROR")
    done = await manager.apply(replace=True)
    assert done.stream.id != first.id
    assert len(tokens) == 2


# deleting ------------------------------------------------------------------------------------------------------------------------------


async def test_delete_takes_down_what_apply_made_and_keeps_the_records(manager: Manager) -> None:
    await manager.apply()
    done = await manager.delete()
    assert [(action.resource, action.step) for action in done.actions] == [("cdc_stream", "stream"), ("iam_role", "role")]
    seen = (await manager.work()).observed
    assert (list(seen.streams), seen.role) == ([], None)
    assert seen.target is not None
    assert [action.resource for action in (await manager.delete(everything=True)).actions] == ["kinesis_stream"]
    assert (await manager.work()).observed.target is None
    assert (await manager.delete(everything=True)).actions == []


async def test_delete_leaves_what_apply_did_not_make(manager: Manager) -> None:
    manager.aws.kinesis.create("orders-cdc", 1, "PROVISIONED", 10240).activate()
    await manager.clients.iam.create_role(RoleName="orders-cdc-dsql", AssumeRolePolicyDocument='{"Version": "2012-10-17", "Statement": []}')
    await manager.apply()
    manager.live()[0].tags.clear()
    await manager.apply()
    done = await manager.delete(everything=True)
    assert (done.actions, len(done.notes)) == ([], 3)
    assert len(manager.live()) == 1


async def test_a_config_of_another_cluster_deletes_nothing_of_this_ones(manager: Manager) -> None:
    await manager.apply()
    right = manager.desired
    other = manager.aws.dsql.create_cluster({"deletionProtectionEnabled": False})
    other.activate()
    manager.desired = msgspec.structs.replace(right, cluster=other.id)
    done = await manager.delete(everything=True)
    assert done.actions == []
    assert sum(right.cluster in note for note in done.notes) == 2
    manager.desired = msgspec.structs.replace(right, cluster="nobody2s2cluster2in2nobody")
    planned = deletion(manager.desired, (await manager.work()).observed, everything=True)
    assert planned.actions == []
    with pytest.raises(Misconfigured, match="E171"):
        await manager.delete(everything=True)
    manager.desired = right  # the control: the same with the right cluster
    assert len((await manager.delete(everything=True)).actions) == 3


async def test_what_says_no_cluster_stays_until_apply_has_tagged_it(manager: Manager) -> None:
    await manager.apply()
    await manager.clients.kinesis.remove_tags_from_stream(StreamName="orders-cdc", TagKeys=[CLUSTER_TAG])
    await manager.clients.iam.untag_role(RoleName="orders-cdc-dsql", TagKeys=[CLUSTER_TAG])
    seen = (await manager.work()).observed
    before = deletion(manager.desired, seen, everything=True)
    assert [action.resource for action in before.actions] == ["cdc_stream", "iam_role"]  # the role's trust policy says it
    assert any(CLUSTER_TAG in note for note in before.notes)
    assert steps(await manager.apply()) == [("update", "target_tags"), ("update", "role_tags")]
    assert len((await manager.delete(everything=True)).actions) == 3


async def test_a_role_that_another_stream_writes_with_stays(manager: Manager) -> None:
    await manager.apply()
    manager.aws.kinesis.create("other", 1).activate()
    target = {"kinesis": {"streamArn": STREAM_ARN.replace("orders-cdc", "other"), "roleArn": ROLE_ARN}}
    given = {"targetDefinition": target, "ordering": "UNORDERED", "format": "JSON"}
    manager.aws.dsql.create_stream(manager.desired.cluster, given).activate()
    assert [action.resource for action in (await manager.delete()).actions] == ["cdc_stream"]


async def test_delete_waits_for_a_stream_that_is_being_made(manager: Manager) -> None:
    manager.aws.dsql.delay = 0.3
    with pytest.raises(Unavailable):
        await manager.apply(deadline=0.25)
    manager.clients = msgspec.structs.replace(manager.clients, random=lambda: 0.0)
    await manager.delete()
    assert manager.live() == []


@pytest.mark.slow
async def test_a_delete_that_is_killed_at_any_call_is_completed_by_the_next(manager: Manager) -> None:
    await manager.apply()
    whole = Life()
    await manager.delete(whole, everything=True)
    assert len(whole.writes) == 4
    for last, after in whole.deaths:
        await manager.apply()
        with pytest.raises(Killed):
            await manager.delete(Life(last, after=after, by_write=True), everything=True)
        await manager.delete(everything=True)
        seen = (await manager.work()).observed
        assert (list(seen.streams), seen.role, seen.target) == ([], None, None)
