"""Rights that a test takes away, and every code the service answers with, as botocore parses them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from botocore.exceptions import ClientError

from dsqlcdc.local import Deny, Fault, Local
from dsqlcdc.local.rights import CALLER

if TYPE_CHECKING:
    from tests.local.conftest import Clients

SERVICES = ["dsql", "kinesis", "iam", "s3", "kms", "dynamodb", "sts", "sns", "sqs"]
ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/r"

TOPIC = f"arn:aws:sns:us-east-1:{ACCOUNT}:t"


async def refusal(calling: Any) -> ClientError:
    with pytest.raises(ClientError) as caught:
        await calling
    return caught.value


def told(error: ClientError) -> tuple[str, str, int]:
    meta = error.response["ResponseMetadata"]
    return error.response["Error"]["Code"], error.response["Error"]["Message"], meta["HTTPStatusCode"]


def words(action: str, resource: str) -> str:
    why = f"because no identity-based policy allows the {action} action"
    return f"User: {CALLER} is not authorized to perform: {action} on resource: {resource} {why}"


ON_EACH_SERVICE = [
    ("kinesis", "describe_stream_summary", {"StreamName": "s"}, "kinesis:DescribeStreamSummary", "stream/s", 400),
    ("kinesis", "list_shards", {"StreamName": "s"}, "kinesis:ListShards", "stream/s", 400),
    ("kinesis", "list_streams", {}, "kinesis:ListStreams", "*", 400),
    ("iam", "create_role", {"RoleName": "r", "AssumeRolePolicyDocument": "{}"}, "iam:CreateRole", ROLE, 403),
    ("iam", "put_role_policy", {"RoleName": "r", "PolicyName": "p", "PolicyDocument": "{}"}, "iam:PutRolePolicy", ROLE, 403),
    ("s3", "put_object", {"Bucket": "b", "Key": "a/k", "Body": b""}, "s3:PutObject", "arn:aws:s3:::b/a/k", 403),
    ("s3", "list_objects_v2", {"Bucket": "b"}, "s3:ListBucket", "arn:aws:s3:::b", 403),
    ("kms", "describe_key", {"KeyId": "k"}, "kms:DescribeKey", f"arn:aws:kms:us-east-1:{ACCOUNT}:key/k", 400),
    ("sns", "publish", {"TopicArn": TOPIC, "Message": "m"}, "sns:Publish", TOPIC, 403),
    (
        "sqs",
        "send_message",
        {"QueueUrl": f"http://sqs/{ACCOUNT}/q", "MessageBody": "m"},
        "sqs:SendMessage",
        f"arn:aws:sqs:us-east-1:{ACCOUNT}:q",
        400,
    ),
    ("dynamodb", "describe_table", {"TableName": "t"}, "dynamodb:DescribeTable", f"arn:aws:dynamodb:us-east-1:{ACCOUNT}:table/t", 400),
]


@pytest.mark.parametrize(("service", "operation", "given", "action", "resource", "status"), ON_EACH_SERVICE)
async def test_a_denied_action_is_refused_in_the_words_of_its_service(
    aws: Local, call: Clients, service: str, operation: str, given: dict[str, Any], action: str, resource: str, status: int
) -> None:
    arn = f"arn:aws:kinesis:us-east-1:{ACCOUNT}:{resource}" if resource.startswith("stream/") else resource
    aws.denials.add(Deny(action=action))
    code = {400: "AccessDeniedException", 403: "AuthorizationError" if service == "sns" else "AccessDenied"}[status]
    assert told(await refusal(getattr(getattr(call, service), operation)(**given))) == (code, words(action, arn), status)


async def test_creating_a_cdc_stream_needs_the_right_to_pass_the_role_and_to_tag(aws: Local, call: Clients) -> None:
    pipe = aws.pipe("s")
    cluster = aws.dsql.cluster(pipe.cluster)
    target = {"streamArn": pipe.stream_arn, "roleArn": ROLE}
    given = {"clusterIdentifier": pipe.cluster, "targetDefinition": {"kinesis": target}, "ordering": "UNORDERED", "format": "JSON"}
    for action, resource in (("dsql:CreateStream", cluster.arn), ("iam:PassRole", ROLE), ("dsql:TagResource", f"{cluster.arn}/stream/*")):
        aws.denials.add(Deny(action=action, times=1))
        error = await refusal(call.dsql.create_stream(**given, tags={"a": "b"}))
        assert told(error) == ("AccessDeniedException", words(action, resource), 403)
        assert isinstance(error, call.dsql.exceptions.AccessDeniedException)
    assert aws.denials.listed() == []


async def test_a_denial_holds_for_its_resource_and_its_wildcards_only(aws: Local, call: Clients) -> None:
    aws.pipe("s")
    aws.pipe("other")
    aws.denials.add(Deny(action="kinesis:Describe*", resource="*:stream/s", explicit=True))
    error = await refusal(call.kinesis.describe_stream_summary(StreamName="s"))
    assert told(error)[1].endswith("with an explicit deny in an identity-based policy")
    await call.kinesis.describe_stream_summary(StreamName="other")
    await call.kinesis.list_shards(StreamName="s")
    iterator = await call.kinesis.get_shard_iterator(StreamName="s", ShardId="shardId-000000000000", ShardIteratorType="LATEST")
    aws.denials.add(Deny(action="kinesis:GetRecords", resource="*:stream/s"))
    assert told(await refusal(call.kinesis.get_records(ShardIterator=iterator["ShardIterator"])))[0] == "AccessDeniedException"
    assert (await call.sts.get_caller_identity())["Arn"] == CALLER


DSQL_ERRORS = {
    "AccessDeniedException": 403,
    "ConflictException": 409,
    "InternalServerException": 500,
    "ResourceNotFoundException": 404,
    "ServiceQuotaExceededException": 402,
    "ThrottlingException": 429,
    "ValidationException": 400,
}


@pytest.mark.parametrize("code", DSQL_ERRORS)
async def test_every_error_of_the_dsql_api_comes_as_its_modelled_exception_with_its_members(aws: Local, call: Clients, code: str) -> None:
    aws.faults.add(Fault(kind="error", service="dsql", operation="GetStream", code=code))
    error = await refusal(call.dsql.get_stream(clusterIdentifier="a" * 26, streamIdentifier="b" * 26))
    assert isinstance(error, getattr(call.dsql.exceptions, code))
    assert told(error)[2] == DSQL_ERRORS[code]
    assert told(error)[1]
    shape = call.dsql.meta.service_model.shape_for(code)
    assert set(shape.required_members) <= {name[0].lower() + name[1:] for name in error.response["Error"]} | set(error.response)


def test_the_table_of_dsql_errors_is_complete(aws: Local, call: Clients) -> None:
    assert {shape.name for shape in call.dsql.meta.service_model.error_shapes} == set(DSQL_ERRORS)


def test_a_denial_needs_an_action_and_takes_nothing_unknown(aws: Local) -> None:
    with pytest.raises(ValueError, match="service:Name"):
        aws.denials.add(Deny(action="CreateStream"))
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"action": "a:b", "on": "x"}', type=Deny)
