"""The table of errors is complete for the codes we know, says what to do, and tells no secrets."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import Any

import pytest
from aiohttp import ClientPayloadError
from botocore import exceptions as botocore
from botocore.exceptions import ClientError
from botocore.regions import EndpointResolver
from botocore.session import get_session

from dsqlcdc.aws import CODES, Aws, Kind, client, custom_endpoint, errors, translate
from dsqlcdc.errors import Misconfigured, Unavailable

PASSING = {Kind.THROTTLED, Kind.BUSY, Kind.EXPIRED}


def failure(code: str, message: str = "no", status: int = 400, operation: str = "GetRecords", **headers: str) -> ClientError:
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    return ClientError({"Error": {"Code": code, "Message": message}, "ResponseMetadata": metadata}, operation)  # type: ignore[arg-type,typeddict-item]


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_listed_code_becomes_the_fault_of_its_kind(code: str) -> None:
    fault = translate(failure(code), doing="read", where="shard 1")
    assert type(fault) is (Unavailable if CODES[code] in PASSING else Misconfigured)
    assert code in str(fault)


@pytest.mark.parametrize("service", ["kinesis", "dsql", "dynamodb", "sts"])
def test_every_modelled_error_of_the_services_we_call_is_in_the_table(service: str) -> None:
    model = get_session().get_service_model(service)
    used = {
        "kinesis": ["GetRecords", "GetShardIterator", "ListShards", "DescribeStreamSummary", "SubscribeToShard", "UpdateMaxRecordSize"],
        "dsql": ["CreateStream", "GetStream", "ListStreams", "DeleteStream", "GetCluster"],
        "dynamodb": ["GetItem", "PutItem", "UpdateItem", "DeleteItem", "Query", "DescribeTable", "CreateTable"],
        "sts": ["GetCallerIdentity"],
    }[service]
    named = {shape.name for operation in used for shape in model.operation_model(operation).error_shapes}
    assert named - set(CODES) == set()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, Unavailable), (500, Unavailable), (503, Unavailable), (403, Misconfigured), (404, Misconfigured), (400, Misconfigured)],
)
def test_an_unknown_code_goes_by_its_status(status: int, kind: type) -> None:
    assert type(translate(failure("NeverHeardOfIt", status=status), doing="read", where="x")) is kind


def test_access_denied_names_the_action_the_resource_and_the_statement_to_add() -> None:
    arn = "arn:aws:kinesis:us-east-1:123456789012:stream/orders-cdc"
    message = (
        f"User: arn:aws:iam::123456789012:user/app is not authorized to perform: kinesis:ListShards on resource: {arn} because no policy"
    )
    fault = translate(failure("AccessDeniedException", message, operation="ListShards"), doing="list the shards", where="stream orders-cdc")
    assert '{"Effect": "Allow", "Action": "kinesis:ListShards", "Resource": "' + arn + '"}' in str(fault)
    assert "kinesis:GetRecords" in str(translate(failure("AccessDenied"), doing="read", where="x"))
    assert "s3:ListBucket" in str(translate(failure("403", status=403, operation="HeadBucket"), doing="read", where="x"))
    assert "s3:PutObject" in str(translate(failure("AccessDenied", operation="PutObject"), doing="write", where="x"))


@pytest.mark.parametrize(
    "message",
    [
        "The security token AQoDYXdzEJr1K1mEXAMPLE" + "a" * 200 + " is invalid",
        "Credential=AKIAIOSFODNN7EXAMPLE/20260101 is wrong",
        "https://b.s3.amazonaws.com/?X-Amz-Signature=0123456789abcdef&X-Amz-Security-Token=IQoJb3JpZ2luX2VjE",
        "see https://user:hunter2secret@proxy/ for more",
    ],
)
@pytest.mark.parametrize("code", ["ValidationException", "SignatureDoesNotMatch", "AccessDenied", "Odd"])
def test_no_secret_is_ever_told(message: str, code: str) -> None:
    told = str(translate(failure(code, message), doing="read", where="x"))
    for secret in ("AKIAIOSFODNN7EXAMPLE", "a" * 100, "0123456789abcdef", "IQoJb3JpZ2luX2VjE", "hunter2secret"):
        assert secret not in told


def test_the_wait_the_service_asks_for_is_passed_on() -> None:
    slow = translate(failure("SlowDown", status=503, **{"retry-after": "7"}), doing="write", where="x")
    assert isinstance(slow, Unavailable)
    assert slow.after == 7.0
    odd = translate(failure("SlowDown", status=503, **{"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}), doing="write", where="x")
    assert isinstance(odd, Unavailable)
    assert odd.after is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (botocore.NoCredentialsError(), Misconfigured),
        (botocore.NoRegionError(), Misconfigured),
        (botocore.PartialCredentialsError(provider="env", cred_var="x"), Misconfigured),
        (botocore.UnauthorizedSSOTokenError(), Misconfigured),
        (botocore.ParamValidationError(report="bad"), Misconfigured),
        (botocore.CredentialRetrievalError(provider="p", error_msg="m"), Unavailable),
        (botocore.EndpointConnectionError(endpoint_url="http://x", error="e"), Unavailable),
        (botocore.ConnectTimeoutError(endpoint_url="http://x"), Unavailable),
        (botocore.ReadTimeoutError(endpoint_url="http://x"), Unavailable),
        (botocore.ConnectionClosedError(endpoint_url="http://x"), Unavailable),
        (botocore.HTTPClientError(error="e"), Unavailable),
        (ClientPayloadError("reset"), Unavailable),
        (TimeoutError(), Unavailable),
        (ConnectionResetError(), Unavailable),
    ],
)
def test_errors_that_are_no_answers_have_their_kind_too(error: Exception, kind: type) -> None:
    assert isinstance(error, errors())
    assert type(translate(error, doing="read", where="x")) is kind


def test_whom_nobody_reached_is_named_without_a_user() -> None:
    said = str(
        translate(botocore.EndpointConnectionError(endpoint_url="http://u:hunter2@host:4566/path?q", error="e"), doing="read", where="x")
    )
    assert said == "DSQLCDC-E120 cannot read, x: the endpoint cannot be reached: host:4566 (EndpointConnectionError)."
    assert ": s3.eu-west-1.amazonaws.com:443" in str(
        translate(botocore.ReadTimeoutError(endpoint_url="https://s3.eu-west-1.amazonaws.com/b"), doing="read", where="x")
    )
    assert translate(botocore.ReadTimeoutError(endpoint_url="http://[::1"), doing="read", where="x").code == "E120"


def test_a_clock_that_is_wrong_is_not_taken_for_wrong_credentials() -> None:
    fault = translate(failure("InvalidSignatureException", "Signature expired: 1 is now earlier than 2"), doing="read", where="x")
    assert isinstance(fault, Unavailable)


def test_an_error_of_the_program_is_not_translated() -> None:
    with pytest.raises(KeyError):
        translate(KeyError("x"), doing="read", where="x")


async def test_a_client_without_a_region_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(Misconfigured) as caught:
        async with client("kinesis", Aws()):
            pass
    assert caught.value.code == "E106"
    with pytest.raises(Misconfigured, match="profile"):
        async with client("kinesis", Aws(region="us-east-1", profile="nobody")):
            pass


async def test_the_region_may_come_from_aws_region_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what the message of a missing one advises, and what other SDKs, ECS and Lambda set."""
    for name in ("AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    async with client("kinesis", Aws()) as found:
        assert found.meta.region_name == "eu-central-1"
    async with client("kinesis", Aws(region="us-east-2")) as configured:
        assert configured.meta.region_name == "us-east-2"


async def test_settings_for_servers_that_are_not_aws_are_used_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    assert not custom_endpoint(Aws())
    async with client("s3", Aws(region="us-east-1")) as plain:
        assert plain.meta.config.request_checksum_calculation == "when_supported"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert custom_endpoint(Aws())
    async with client("s3", Aws(region="us-east-1")) as local:
        assert local.meta.config.request_checksum_calculation == "when_required"
        assert local.meta.endpoint_url == "http://127.0.0.1:1"


def test_importing_the_module_loads_no_aws_client() -> None:
    code = "import sys, dsqlcdc.aws; print(any(m.split('.')[0] in ('aiobotocore', 'botocore', 'aiohttp') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


async def test_a_client_leaves_no_list_of_all_endpoints_in_memory_and_its_session_makes_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")

    def lists() -> int:
        gc.collect()
        return sum(isinstance(one, EndpointResolver) for one in gc.get_objects())

    before, sessions = lists(), list[Any]()
    async with client("kinesis", Aws(region="eu-west-1"), told=sessions.append) as opened:
        assert lists() == before
        assert opened.meta.endpoint_url == "https://kinesis.eu-west-1.amazonaws.com"
        async with sessions[0].create_client("sts", region_name="eu-west-1") as another:
            assert another.meta.endpoint_url == "https://sts.eu-west-1.amazonaws.com"
            assert lists() == before + 1
