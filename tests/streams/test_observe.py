"""Observing: all pages, nothing that is not there, and denials that say what to allow on what."""

from __future__ import annotations

import json

import msgspec
import pytest

from dsqlcdc.aws import Aws
from dsqlcdc.errors import Misconfigured
from dsqlcdc.local import Fault, Local
from dsqlcdc.streams.clients import Clients, open_clients
from dsqlcdc.streams.desired import Desired, Target
from dsqlcdc.streams.observe import observe

ACCOUNT = "123456789012"
TRUST: dict[str, object] = {"Version": "2012-10-17", "Statement": []}
WRITE = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kinesis:PutRecord", "Resource": "*"}]}


async def test_an_empty_account_is_a_cluster_and_nothing_else(desired: Desired, clients: Clients) -> None:
    seen = await observe(desired, clients)
    assert seen.cluster is not None
    assert (seen.cluster.status, seen.target, seen.role, seen.key, list(seen.streams)) == ("ACTIVE", None, None, None, [])
    assert (seen.account, seen.region, seen.partition) == (ACCOUNT, "us-east-1", "aws")


async def test_a_cluster_that_is_not_there_is_none(desired: Desired, clients: Clients) -> None:
    seen = await observe(msgspec.structs.replace(desired, cluster="a" * 26), clients)
    assert (seen.cluster, list(seen.streams)) == (None, [])


async def test_every_page_of_everything_is_read(aws: Local, desired: Desired, clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsqlcdc.local.dsql.QUOTA", 30)
    pipe = aws.pipe("orders-cdc")
    for _ in range(23):
        made = aws.dsql.create_stream(pipe.cluster, {"targetDefinition": {"kinesis": target_of(aws, pipe.cluster)}, **ORDER})
        made.activate()
    aws.kinesis.stream("orders-cdc").tags.update({f"k{n:03}": str(n) for n in range(120)})
    await clients.iam.create_role(RoleName="orders-cdc-dsql", AssumeRolePolicyDocument=json.dumps(TRUST))
    names = [f"p{n:03}" for n in range(130)]
    for name in names:
        await clients.iam.put_role_policy(RoleName="orders-cdc-dsql", PolicyName=name, PolicyDocument=json.dumps(WRITE))
    made = await clients.iam.create_policy(PolicyName="managed", PolicyDocument=json.dumps(WRITE))
    await clients.iam.attach_role_policy(RoleName="orders-cdc-dsql", PolicyArn=made["Policy"]["Arn"])
    seen = await observe(msgspec.structs.replace(desired, cluster=pipe.cluster), clients)
    assert len(seen.streams) == 24
    assert seen.target is not None
    assert len(seen.target.tags) == 120
    assert seen.role is not None
    assert sorted(seen.role.inline) == names
    assert seen.role.inline["p000"] == WRITE
    assert list(seen.role.attached.values()) == [WRITE]
    assert seen.role.trust == TRUST


ORDER = {"ordering": "UNORDERED", "format": "JSON"}


def target_of(aws: Local, cluster: str) -> dict[str, str]:
    (first, *_) = aws.dsql.cluster(cluster).streams.values()
    return dict(first.target)


async def test_the_role_is_that_of_the_stream_where_the_config_names_none(aws: Local, desired: Desired, clients: Clients) -> None:
    pipe = aws.pipe("orders-cdc")
    aws.dsql.stream(pipe.cluster, pipe.cdc_stream).target = {
        "streamArn": pipe.stream_arn,
        "roleArn": f"arn:aws:iam::{ACCOUNT}:role/a/other",
    }
    for name in ("other", desired.role):
        await clients.iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(TRUST))
    there = msgspec.structs.replace(desired, cluster=pipe.cluster)
    named = await observe(there, clients)
    unnamed = await observe(msgspec.structs.replace(there, role_named=False), clients)
    assert named.role is not None
    assert unnamed.role is not None
    assert (named.role.name, unnamed.role.name) == (desired.role, "other")


async def test_the_key_of_the_target_is_described_and_awss_own_is_not(aws: Local, desired: Desired, clients: Clients) -> None:
    made = await clients.kms.create_key()
    arn = made["KeyMetadata"]["Arn"]
    await clients.kms.create_alias(AliasName="alias/mine", TargetKeyId=arn)
    keyed = msgspec.structs.replace(desired, target=Target(name="orders-cdc", kms_key="alias/mine"))
    seen = await observe(keyed, clients)
    assert seen.key is not None
    assert (seen.key.arn, seen.key.state) == (arn, "Enabled")
    own = msgspec.structs.replace(desired, target=Target(name="orders-cdc", kms_key="alias/aws/kinesis"))
    aws.faults.add(Fault(kind="error", service="kms", times=0))
    assert (await observe(own, clients)).key is None


READS = {
    ("kinesis", "DescribeStreamSummary"): "stream/orders-cdc",
    ("kinesis", "ListTagsForStream"): "stream/orders-cdc",
    ("dsql", "GetCluster"): "cluster/{cluster}",
    ("dsql", "ListStreams"): "cluster/{cluster}",
    ("dsql", "GetStream"): "cluster/{cluster}/stream/{stream}",
    ("iam", "GetRole"): "role/orders-cdc-dsql",
    ("iam", "ListRolePolicies"): "role/orders-cdc-dsql",
    ("iam", "GetRolePolicy"): "role/orders-cdc-dsql",
    ("iam", "ListAttachedRolePolicies"): "role/orders-cdc-dsql",
}


@pytest.mark.parametrize(("service", "operation"), READS, ids=lambda word: str(word))
async def test_a_denial_names_action_and_resource_and_prints_the_statement(
    aws: Local, desired: Desired, clients: Clients, service: str, operation: str
) -> None:
    pipe = aws.pipe("orders-cdc")
    await clients.iam.create_role(RoleName=desired.role, AssumeRolePolicyDocument=json.dumps(TRUST))
    await clients.iam.put_role_policy(RoleName=desired.role, PolicyName="p", PolicyDocument=json.dumps(WRITE))
    code = "AccessDenied" if service == "iam" else "AccessDeniedException"
    aws.faults.add(Fault(kind="error", service=service, operation=operation, code=code, status=403, times=0, message="denied"))
    with pytest.raises(Misconfigured) as caught:
        await observe(msgspec.structs.replace(desired, cluster=pipe.cluster), clients)
    resource = READS[service, operation].format(cluster=pipe.cluster, stream=pipe.cdc_stream)
    place = f"iam::{ACCOUNT}" if service == "iam" else f"{service}:us-east-1:{ACCOUNT}"
    statement = {"Effect": "Allow", "Action": f"{service}:{operation}", "Resource": f"arn:aws:{place}:{resource}"}
    assert caught.value.code == "E102"
    assert json.dumps(statement) in caught.value.why


async def test_throttling_is_waited_for_with_jitter(aws: Local, desired: Desired, clients: Clients) -> None:
    aws.faults.add(Fault(kind="error", service="dsql", code="ThrottlingException", status=429, times=2))
    quick = msgspec.structs.replace(clients, random=lambda: 0.0)
    assert (await observe(desired, quick)).cluster is not None
    assert aws.faults.hits == 2


@pytest.mark.parametrize(
    ("arn", "what"),
    [
        ("arn:aws:kinesis:us-east-1:210987654321:stream/s", "another account"),
        ("arn:aws:kinesis:eu-west-1:123456789012:stream/s", "another Region"),
    ],
)
async def test_a_stream_elsewhere_is_refused_in_plain_words(account: Aws, desired: Desired, arn: str, what: str) -> None:
    there = msgspec.structs.replace(desired, target=Target(name="s", arn=arn))
    with pytest.raises(Misconfigured, match=what) as caught:
        async with open_clients(account, there):
            pass
    assert caught.value.code == "E170"
