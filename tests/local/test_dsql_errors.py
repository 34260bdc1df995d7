"""What the DSQL control plane refuses and why, as botocore parses it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError

from dsqlcdc.local import Clock, Commit, Fault, Local, Pipe
from dsqlcdc.testing.local import LocalAws

if TYPE_CHECKING:
    from tests.local.conftest import Clients

SERVICES = ["dsql", "kinesis", "iam"]
ACCOUNT = "123456789012"
TRUST = '{"Statement": {"Effect": "Allow", "Principal": {"Service": "dsql.amazonaws.com"}, "Action": "sts:AssumeRole"}}'
UNKNOWN = "z" * 26


@pytest.fixture
async def aws() -> AsyncIterator[Local]:
    async with Local(read_throttle=False, clock=Clock(1_700_000_000.0, lambda: 0.0)) as local:
        yield local


@pytest.fixture
def pipe(aws: Local) -> Pipe:
    return aws.pipe("s")


def wanted(aws: Local, pipe: Pipe, **more: Any) -> dict[str, Any]:
    target = dict(aws.dsql.stream(pipe.cluster, pipe.cdc_stream).target) | more.pop("target", {})
    given = {"clusterIdentifier": pipe.cluster, "targetDefinition": {"kinesis": target}, "ordering": "UNORDERED", "format": "JSON"}
    return given | more


async def refusal(calling: Any) -> dict[str, Any]:
    with pytest.raises(ClientError) as caught:
        await calling
    return dict(caught.value.response) | {"code": caught.value.response["Error"]["Code"], "why": caught.value.response["Error"]["Message"]}


MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "an ordering that is none": ({"ordering": "ORDERED"}, "ordering"),
    "a format that is none": ({"format": "AVRO"}, "format"),
    "a stream that is no Kinesis stream": ({"target": {"streamArn": "arn:aws:sqs:us-east-1:1:q"}}, "targetDefinition.kinesis.streamArn"),
    "a role that is no role": ({"target": {"roleArn": f"arn:aws:iam::{ACCOUNT}:user/somebody"}}, "targetDefinition.kinesis.roleArn"),
    "a token with a blank": ({"clientToken": "a b"}, "clientToken"),
    "a tag of AWS's own": ({"tags": {"aws:x": "y"}}, "tags"),
    "a tag of other characters": ({"tags": {"a": "naïve"}}, "tags"),
    "a cluster identifier in capitals": ({"clusterIdentifier": "A" * 26}, "clusterIdentifier"),
}


@pytest.mark.parametrize("mistake", MALFORMED)
async def test_what_the_api_model_does_not_allow_names_its_field(aws: Local, call: Clients, pipe: Pipe, mistake: str) -> None:
    more, field = MALFORMED[mistake]
    found = await refusal(call.dsql.create_stream(**wanted(aws, pipe, **more)))
    assert (found["code"], found["reason"]) == ("ValidationException", "fieldValidationFailed")
    assert [one["name"] for one in found["fieldList"]] == [field]
    assert len(aws.dsql.cluster(pipe.cluster).live_streams()) == 1


ELSEWHERE = {
    "another Region": ({"streamArn": f"arn:aws:kinesis:eu-west-1:{ACCOUNT}:stream/s"}, "Region"),
    "another account's stream": ({"streamArn": "arn:aws:kinesis:us-east-1:210987654321:stream/s"}, "account"),
    "another account's role": ({"roleArn": "arn:aws:iam::210987654321:role/r"}, "account"),
    "a stream that is not there": ({"streamArn": f"arn:aws:kinesis:us-east-1:{ACCOUNT}:stream/none"}, "does not exist"),
    "a role that is not there": ({"roleArn": f"arn:aws:iam::{ACCOUNT}:role/none"}, "IAM role"),
}


@pytest.mark.parametrize("place", ELSEWHERE)
async def test_a_target_elsewhere_or_nowhere_is_a_validation_error(aws: Local, call: Clients, pipe: Pipe, place: str) -> None:
    target, word = ELSEWHERE[place]
    found = await refusal(call.dsql.create_stream(**wanted(aws, pipe, target=target)))
    assert (found["code"], found["reason"]) == ("ValidationException", "other")
    assert word in found["why"]


async def test_a_missing_cluster_or_stream_is_named(aws: Local, call: Clients, pipe: Pipe) -> None:
    found = await refusal(call.dsql.create_stream(**wanted(aws, pipe, clusterIdentifier=UNKNOWN)))
    assert (found["code"], found["resourceId"], found["resourceType"]) == ("ResourceNotFoundException", UNKNOWN, "cluster")
    for operation in (call.dsql.get_stream, call.dsql.delete_stream):
        found = await refusal(operation(clusterIdentifier=pipe.cluster, streamIdentifier=UNKNOWN))
        assert (found["code"], found["resourceId"], found["resourceType"]) == ("ResourceNotFoundException", UNKNOWN, "stream")


@pytest.mark.parametrize("asleep", ["IDLE", "INACTIVE"])
async def test_a_sleeping_cluster_takes_no_stream_until_a_query_wakes_it(aws: Local, call: Clients, pipe: Pipe, asleep: str) -> None:
    aws.dsql.cluster(pipe.cluster).asleep = asleep
    assert (await call.dsql.get_cluster(identifier=pipe.cluster))["status"] == asleep
    found = await refusal(call.dsql.create_stream(**wanted(aws, pipe)))
    assert found["code"] == "ValidationException"
    assert asleep in found["why"]
    await aws.commit(Commit(transactions=1))
    assert (await call.dsql.create_stream(**wanted(aws, pipe)))["status"] == "CREATING"


async def test_a_role_just_made_is_refused_at_first_by_count_and_by_age(aws: Local, call: Clients, pipe: Pipe) -> None:
    aws.dsql.role_refusals, aws.dsql.role_delay = 2, 10.0
    made = await call.iam.create_role(RoleName="new", AssumeRolePolicyDocument=TRUST)
    given = wanted(aws, pipe, target={"roleArn": made["Role"]["Arn"]})
    for _ in range(2):
        found = await refusal(call.dsql.create_stream(**given))
        assert found["code"] == "ValidationException"
        assert f"IAM role {made['Role']['Arn']}" in found["why"]
    assert (await refusal(call.dsql.create_stream(**given)))["code"] == "ValidationException"
    aws.clock.advance(11)
    await call.dsql.create_stream(**given)


async def test_a_new_role_is_refused_once_where_nothing_else_is_said(aws: Local, call: Clients, pipe: Pipe) -> None:
    made = await call.iam.create_role(RoleName="new", AssumeRolePolicyDocument=TRUST)
    given = wanted(aws, pipe, target={"roleArn": made["Role"]["Arn"]})
    assert "IAM role" in (await refusal(call.dsql.create_stream(**given)))["why"]
    await call.dsql.create_stream(**given)


async def test_the_same_token_means_the_same_stream_and_never_another(aws: Local, call: Clients, pipe: Pipe) -> None:
    given = wanted(aws, pipe, clientToken="t", tags={"a": "b"})
    made = await call.dsql.create_stream(**given)
    again = await call.dsql.create_stream(**given)
    assert (again["streamIdentifier"], again["status"]) == (made["streamIdentifier"], "CREATING")
    aws.clock.advance(1)
    assert (await call.dsql.create_stream(**given))["status"] == "ACTIVE"
    found = await refusal(call.dsql.create_stream(**given | {"tags": {"a": "c"}}))
    assert (found["code"], found["resourceId"]) == ("ConflictException", made["streamIdentifier"])
    await call.dsql.delete_stream(clusterIdentifier=pipe.cluster, streamIdentifier=made["streamIdentifier"])
    aws.clock.advance(1)
    assert (await call.dsql.create_stream(**given))["streamIdentifier"] != made["streamIdentifier"]


async def test_streams_have_tags_of_their_own(aws: Local, call: Clients, pipe: Pipe) -> None:
    made = await call.dsql.create_stream(**wanted(aws, pipe, tags={"a": "1", "b": "2"}))
    await call.dsql.tag_resource(resourceArn=made["arn"], tags={"b": "3", "c": "4"})
    await call.dsql.untag_resource(resourceArn=made["arn"], tagKeys=["a"])
    assert (await call.dsql.list_tags_for_resource(resourceArn=made["arn"]))["tags"] == {"b": "3", "c": "4"}
    got = await call.dsql.get_stream(clusterIdentifier=pipe.cluster, streamIdentifier=made["streamIdentifier"])
    assert got["tags"] == {"b": "3", "c": "4"}
    elsewhere = made["arn"].replace("us-east-1", "eu-west-1")
    assert (await refusal(call.dsql.list_tags_for_resource(resourceArn=elsewhere)))["code"] == "ValidationException"
    gone = made["arn"][:-26] + UNKNOWN
    assert (await refusal(call.dsql.tag_resource(resourceArn=gone, tags={})))["code"] == "ResourceNotFoundException"


async def test_streams_are_listed_ten_at_a_time_where_nothing_else_is_said(aws: Local, call: Clients, pipe: Pipe) -> None:
    page = await call.dsql.list_streams(clusterIdentifier=pipe.cluster, maxResults=1)
    assert [one["streamIdentifier"] for one in page["streams"]] == [pipe.cdc_stream]
    assert "nextToken" not in page
    for _ in range(11):
        await call.dsql.create_cluster()
    page = await call.dsql.list_clusters()
    assert len(page["clusters"]) == 10
    assert len((await call.dsql.list_clusters(nextToken=page["nextToken"]))["clusters"]) == 2
    wrong = call.dsql.list_streams(clusterIdentifier=pipe.cluster, nextToken="ours")
    assert (await refusal(wrong))["code"] == "ValidationException"


async def test_throttling_says_when_to_come_back_and_ends(aws: Local, call: Clients, pipe: Pipe) -> None:
    aws.faults.add(Fault(kind="error", service="dsql", operation="GetStream", code="ThrottlingException", times=2))
    key = {"clusterIdentifier": pipe.cluster, "streamIdentifier": pipe.cdc_stream}
    for _ in range(2):
        found = await refusal(call.dsql.get_stream(**key))
        assert (found["code"], found["retryAfterSeconds"]) == ("ThrottlingException", 1)
    await call.dsql.get_stream(**key)


def test_boto3_and_its_waiters_see_the_same_life_of_a_stream() -> None:
    with LocalAws(delay=0.01) as aws:
        pipe = aws.pipe("s")
        credentials = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
        dsql = boto3.client("dsql", endpoint_url=aws.endpoint, region_name=aws.region, **credentials)
        key = {"clusterIdentifier": pipe.cluster, "streamIdentifier": pipe.cdc_stream}
        dsql.get_waiter("stream_active").wait(**key, WaiterConfig={"Delay": 0, "MaxAttempts": 5})
        assert aws.cdc(pipe.cluster, pipe.cdc_stream, impair="INTERNAL_ERROR")["status"] == "IMPAIRED"
        reason = dsql.get_stream(**key)["statusReason"]
        assert reason["error"] == "INTERNAL_ERROR"
        aws.deny("dsql:DeleteStream")
        with pytest.raises(dsql.exceptions.AccessDeniedException):
            dsql.delete_stream(**key)
        aws.mend()
        dsql.delete_stream(**key)
        aws.advance(1)
        dsql.get_waiter("stream_not_exists").wait(**key, WaiterConfig={"Delay": 0, "MaxAttempts": 5})
        with pytest.raises(dsql.exceptions.ResourceNotFoundException):
            dsql.get_stream(**key)
        assert aws.rules(retry=2.0)["retry"] == 2.0
        aws.reset()
        assert aws.rules()["retry"] == 0.0
