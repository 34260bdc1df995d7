"""Provisioning through real calls: from nothing to ACTIVE, again without a change, and what stops it."""

from __future__ import annotations

from pathlib import Path

import botocore
import pytest
from botocore.loaders import Loader

from dsqlcdc.aws import Aws
from dsqlcdc.errors import Misconfigured, Unavailable
from dsqlcdc.local import Commit, Fault, Local
from dsqlcdc.streams.policies import trust_policy
from dsqlcdc.streams.provision import Plan, provision

PLAN = Plan(stream="orders-cdc", role="orders-cdc-dsql", tags={"team": "shop"})


LOADER = Loader(extra_search_paths=[str(Path(botocore.__file__).parent / "data")])


@pytest.fixture(autouse=True)
def quick(aws: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short creations, and the API models parsed once for all clients."""
    monkeypatch.setattr("botocore.loaders.create_loader", lambda *_: LOADER)
    aws.dsql.delay = 0.05
    aws.kinesis.delay = 0.02


async def test_from_nothing_to_a_stream_that_delivers_and_again_without_a_change(aws: Local, account: Aws) -> None:
    steps: list[str] = []
    made = await provision(PLAN, account, poll=0.02, say=steps.append)
    assert (await aws.commit(Commit(transactions=3))).sent[made.cdc_stream] > 0
    stream = aws.kinesis.stream(made.stream_arn)
    assert (stream.mode, stream.max_record_kib, stream.tags) == ("ON_DEMAND", 10240, {"team": "shop"})
    assert len(steps) == 5
    assert await provision(PLAN, account, poll=0.02) == made
    assert len(aws.dsql.clusters) == 1
    assert len(aws.dsql.cluster(made.cluster).streams) == 1


async def test_an_existing_stream_gets_the_record_size_and_retention_that_cdc_needs(aws: Local, account: Aws) -> None:
    pipe = aws.pipe("orders-cdc", shards=1, max_record_kib=1024)
    plan = Plan(stream="orders-cdc", role="r", cluster=pipe.cluster, retention_hours=48)
    assert (await provision(plan, account, poll=0.02)).cdc_stream == pipe.cdc_stream
    stream = aws.kinesis.stream("orders-cdc")
    assert (stream.max_record_kib, stream.retention_hours) == (10240, 48)


async def test_a_role_that_is_not_usable_yet_is_asked_for_again(aws: Local, account: Aws) -> None:
    aws.dsql.role_delay = 0.3
    made = await provision(PLAN, account, poll=0.02)
    assert aws.dsql.stream(made.cluster, made.cdc_stream).status == "ACTIVE"


async def test_a_role_that_never_becomes_usable_ends_in_the_services_words(
    aws: Local, account: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsqlcdc.streams.provision.ROLE_WAIT", 0.1)
    aws.dsql.role_delay = 3600
    with pytest.raises(Misconfigured, match="IAM role"):
        await provision(PLAN, account, poll=0.02)


async def test_a_failed_stream_stops_the_waiting_with_its_reason(aws: Local, account: Aws) -> None:
    def say(step: str) -> None:
        if step.startswith("waiting"):
            (cluster,) = aws.dsql.clusters.values()
            next(iter(cluster.streams.values())).fail("CLUSTER_CMK_INACCESSIBLE")

    with pytest.raises(Misconfigured, match=r"FAILED.*CLUSTER_CMK_INACCESSIBLE"):
        await provision(PLAN, account, poll=0.02, say=say)


async def test_a_deadline_that_passes_says_how_to_go_on(aws: Local, account: Aws) -> None:
    aws.dsql.delay = 3600
    with pytest.raises(Unavailable, match="not ACTIVE within"):
        await provision(PLAN, account, poll=0.02, deadline=1.0)


async def test_access_denied_names_what_was_being_done(aws: Local, account: Aws) -> None:
    aws.faults.add(Fault(kind="error", service="kinesis", code="AccessDeniedException", status=400, times=0))
    with pytest.raises(Misconfigured, match="describe the stream"):
        await provision(PLAN, account)


def test_the_trust_policy_names_the_streams_of_one_cluster_and_the_account() -> None:
    (statement,) = trust_policy("eu-west-1", "1" * 12, "c")["Statement"]
    assert statement["Condition"]["ArnLike"] == {"aws:SourceArn": "arn:aws:dsql:eu-west-1:111111111111:cluster/c/stream/*"}
    assert statement["Condition"]["StringEquals"] == {"aws:SourceAccount": "111111111111"}
