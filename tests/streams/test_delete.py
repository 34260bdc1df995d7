"""Deleting: what `apply` made for this pipeline and cluster, and nothing else."""

from __future__ import annotations

import msgspec
import pytest

from dsqlcdc.errors import Misconfigured, Unavailable
from dsqlcdc.streams import role, target
from dsqlcdc.streams.delete import deletion
from dsqlcdc.streams.desired import CLUSTER_TAG

from .manager import REGION, ROLE_ARN, STREAM_ARN, Manager, steps
from .mortal import Killed, Life


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


async def test_a_cdc_stream_that_is_being_deleted_already_is_waited_for(manager: Manager) -> None:
    await manager.apply()
    (stream,) = manager.live()
    await manager.clients.dsql.delete_stream(clusterIdentifier=manager.desired.cluster, streamIdentifier=stream.id)
    done = await manager.delete()
    assert [(action.resource, "waited for" in action.detail) for action in done.actions] == [("cdc_stream", True), ("iam_role", False)]
    assert list((await manager.work()).observed.streams) == []


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


def drop_cluster(manager: Manager) -> None:
    """The cluster is deleted by hand, with its CDC streams."""
    cluster = manager.aws.dsql.cluster(manager.desired.cluster)
    for stream in cluster.live_streams():
        stream.delete(0.0)
    cluster.delete(0.0)


async def test_what_is_left_of_a_cluster_that_is_gone_is_tidied_up(manager: Manager) -> None:
    await manager.apply()
    drop_cluster(manager)
    done = await manager.delete()
    assert ([action.resource for action in done.actions], done.obstacle) == (["iam_role"], None)
    assert any("is not there" in note for note in done.notes)
    seen = (await manager.work()).observed
    assert (seen.role, seen.target is not None) == (None, True)
    assert (await manager.delete()).actions == []
    assert [action.resource for action in (await manager.delete(everything=True)).actions] == ["kinesis_stream"]
    for _ in range(2):  # nothing is there at all
        assert (await manager.delete(everything=True)).actions == []


async def test_a_delete_without_its_cluster_goes_on_wherever_it_was_killed(manager: Manager) -> None:
    whole = Life()
    await manager.apply()
    drop_cluster(manager)
    seen = (await manager.work()).observed
    await manager.delete(whole, everything=True)
    assert len(whole.writes) == 3
    for last, after in whole.deaths:
        await target.make(await manager.work())
        await role.make(await manager.work())
        await role.permit(await manager.work())
        with pytest.raises(Killed):
            await manager.delete(Life(last, after=after, by_write=True), everything=True)
        await manager.delete(everything=True)
        seen = (await manager.work()).observed
        assert (seen.role, seen.target) == (None, None)


async def test_a_region_without_the_cluster_does_not_take_the_role_of_the_one_that_has_it(manager: Manager) -> None:
    await manager.apply()
    elsewhere = msgspec.structs.replace((await manager.work()).observed, region="eu-west-1", cluster=None, target=None, streams=())
    planned = deletion(manager.desired, elsewhere, everything=True)
    assert planned.actions == []
    assert any(f"for streams in {REGION}, and this is eu-west-1" in note for note in planned.notes)


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
