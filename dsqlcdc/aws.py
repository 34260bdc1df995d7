"""AWS clients, and the one table that turns their errors into ours. Open to sinks; aiobotocore is imported at the first use only."""

from __future__ import annotations

import asyncio
import functools
import importlib
import json
import os
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

import msgspec

from dsqlcdc.errors import Fault, Misconfigured, Unavailable

__all__ = ["CODES", "EXPIRED", "Aws", "Kind", "client", "custom_endpoint", "error_code", "errors", "translate"]


class Aws(msgspec.Struct, frozen=True):
    """The config's `aws` block. What is None comes from the standard chain: environment, shared config, container, instance.

    `role`: its ARN; it is assumed with those credentials, for each client anew, for an hour.
    """

    region: str | None = None
    profile: str | None = None
    endpoint_url: str | None = None
    role: str | None = None


def custom_endpoint(aws: Aws, service: str = "") -> bool:
    """Does this configuration talk to something that is not AWS itself?"""
    names = ["AWS_ENDPOINT_URL", f"AWS_ENDPOINT_URL_{service.upper()}"]
    return bool(aws.endpoint_url) or any(os.environ.get(name) for name in names)


def client(service: str, aws: Aws, *, told: Callable[[Any], None] = lambda _: None, **config: Any) -> AbstractAsyncContextManager[Any]:
    """An aiobotocore client, open for the length of the `async with`.

    botocore does not retry: our loops decide. (aiohttp itself sends an idempotent request once more when a kept-alive connection turns out
    to be closed, so a conditional write may be answered 412 by its own success: whoever writes so must look.) `config` overrides fields
    of botocore's Config; `told` is given the session that the client is made from. Credentials are looked up and refreshed without blocking
    the loop. Raises Misconfigured (no region, no such profile, unusable setting) or Unavailable
    (credentials could not be fetched) on entering. Leaving, cancelled or not, closes the connections.
    """
    return _client(service, aws, told, config)


@asynccontextmanager
async def _client(service: str, aws: Aws, told: Callable[[Any], None], config: dict[str, Any]) -> AsyncGenerator[Any, None]:
    session_module = importlib.import_module("aiobotocore.session")
    config_module = importlib.import_module("aiobotocore.config")
    settings: dict[str, Any] = {
        "retries": {"mode": "standard", "total_max_attempts": 1},
        "connect_timeout": 5,
        "read_timeout": 30,
        "max_pool_connections": 64,
        "tcp_keepalive": True,
    }
    if custom_endpoint(aws, service):
        # stores that merely speak S3 may refuse the checksums newer clients add unasked, and have no wildcard DNS
        settings |= {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
        if service == "s3":
            settings["s3"] = {"addressing_style": "path"}
    settings |= config
    try:
        session = session_module.AioSession(profile=aws.profile)
        told(session)
        # AWS_REGION is what every other SDK, Lambda and ECS call it; botocore knows AWS_DEFAULT_REGION only.
        region = aws.region or os.environ.get("AWS_REGION") or None
        credentials = {} if aws.role is None else await _assume(aws)
        making = session.create_client(
            service, region_name=region, endpoint_url=aws.endpoint_url or None, config=config_module.AioConfig(**settings), **credentials
        )
        opened = await making.__aenter__()
        _forget_endpoints(session)
    except _opening() as error:
        raise translate(error, doing=f"open a {service} client", where=f"aws {service}") from error
    try:
        yield opened
    finally:
        await making.__aexit__(None, None, None)


def _forget_endpoints(session: Any) -> None:
    """Let go of botocore's list of all endpoints, 7 MiB a session, which only making a client reads. It is read again for another one, as
    when credentials come from an assumed role. Where botocore keeps it elsewhere, it stays."""
    components = getattr(getattr(session, "_internal_components", None), "_components", {})
    register = getattr(session, "_register_endpoint_resolver", None)
    if register is not None and components.pop("endpoint_resolver", None) is not None:
        register()
    getattr(session.get_component("data_loader"), "_cache", {}).clear()


async def _assume(aws: Aws) -> dict[str, str]:
    """The credentials of `aws.role`, as arguments of create_client."""
    async with client("sts", msgspec.structs.replace(aws, role=None)) as sts:
        try:
            answer: dict[str, Any] = await sts.assume_role(RoleArn=aws.role, RoleSessionName="dsqlcdc")
        except errors() as error:
            raise translate(error, doing="assume a role", where=str(aws.role), resource=str(aws.role)) from error
    found: dict[str, str] = answer["Credentials"]
    return {
        "aws_access_key_id": found["AccessKeyId"],
        "aws_secret_access_key": found["SecretAccessKey"],
        "aws_session_token": found["SessionToken"],
    }


def _opening() -> tuple[type[Exception], ...]:
    return (*errors(), ValueError)  # botocore says ValueError for an endpoint that is no URL


@functools.cache
def errors() -> tuple[type[Exception], ...]:
    """What an AWS call may raise: `except errors() as error: raise translate(error, …) from error`."""
    botocore = importlib.import_module("botocore.exceptions")
    parsers = importlib.import_module("botocore.parsers")
    aiohttp = importlib.import_module("aiohttp")
    return (botocore.ClientError, botocore.BotoCoreError, parsers.ResponseParserError, aiohttp.ClientError, TimeoutError, OSError)


class Kind(Enum):
    """What an error code means for us."""

    THROTTLED = "throttled"
    BUSY = "busy"
    EXPIRED = "expired"
    DENIED = "denied"
    MISSING = "missing"
    INVALID = "invalid"
    CREDENTIALS = "credentials"


def _codes(table: Mapping[Kind, str]) -> dict[str, Kind]:
    return {code: kind for kind, codes in table.items() for code in codes.split()}


CODES: Mapping[str, Kind] = _codes(
    {
        Kind.THROTTLED: """
            Throttling ThrottlingException ThrottledException RequestThrottled RequestThrottledException TooManyRequestsException
            ProvisionedThroughputExceededException ProvisionedThroughputExceeded LimitExceededException RequestLimitExceeded
            BandwidthLimitExceeded KMSThrottlingException SlowDown PriorRequestNotComplete TransactionInProgressException
            EC2ThrottledException ThrottlingError""",
        Kind.BUSY: """
            InternalFailure InternalServerException InternalServerError InternalError InternalFailureException ServiceUnavailable
            ServiceUnavailableException Unavailable RequestTimeout RequestTimeoutException OperationAborted ConditionalRequestConflict
            ConflictException ResourceInUseException TransactionConflictException ReplicatedWriteConflictException DependencyTimeout
            ServiceException ExpiredIteratorException ExpiredNextTokenException BadDigest IncompleteBody XAmzContentChecksumMismatch
            TransactionConflict""",
        Kind.EXPIRED: "ExpiredToken ExpiredTokenException RequestExpired RequestTimeTooSkewed TokenRefreshRequired",
        Kind.DENIED: """
            AccessDenied AccessDeniedException AllAccessDisabled KMSAccessDeniedException UnauthorizedOperation NotAuthorized
            AuthorizationError AccountProblem""",
        Kind.MISSING: """
            ResourceNotFoundException ResourceNotFound NoSuchBucket NoSuchKey NoSuchUpload NotFound NotFoundException
            TableNotFoundException KMSNotFoundException NoSuchEntity NoSuchEntityException""",
        Kind.INVALID: """
            ValidationException ValidationError InvalidArgumentException InvalidArgument InvalidRequest InvalidRequestException
            InvalidParameterValue InvalidParameterException InvalidParameterCombination MalformedQueryString MissingParameter
            MissingAction InvalidAction UnknownOperationException UnknownOperation SerializationException InvalidBucketName
            PermanentRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException MalformedPolicyDocument MalformedXML
            MethodNotAllowed NotImplemented EntityTooLarge KeyTooLongError PreconditionFailed ConditionalCheckFailedException
            ConditionalCheckFailed TransactionCanceledException ItemCollectionSizeLimitExceeded
            ServiceQuotaExceededException KMSDisabledException KMSInvalidStateException KMSOptInRequired InvalidObjectState
            DryRunOperationException
            ItemCollectionSizeLimitExceededException""",
        Kind.CREDENTIALS: """
            UnrecognizedClientException InvalidClientTokenId InvalidAccessKeyId InvalidToken InvalidTokenId SignatureDoesNotMatch
            InvalidSignatureException InvalidSignature IncompleteSignature IncompleteSignatureException MissingAuthenticationToken
            MissingAuthenticationTokenException AuthFailure OptInRequired NotSignedUp InvalidIdentityToken""",
    }
)
"""Every code we know of Kinesis, DSQL, S3, DynamoDB, IAM, STS and KMS. A code not named here goes by its HTTP status."""

_WORDS = {
    Kind.THROTTLED: "the service throttles",
    Kind.BUSY: "the service could not answer just now",
    Kind.EXPIRED: "the credentials have expired or the clock is wrong; they are fetched anew",
    Kind.DENIED: "access is denied",
    Kind.MISSING: "it does not exist",
    Kind.INVALID: "the service refuses the request",
    Kind.CREDENTIALS: "the credentials are not accepted",
}
_FAULT_CODES = {
    Kind.THROTTLED: "E121",
    Kind.BUSY: "E120",
    Kind.EXPIRED: "E122",
    Kind.DENIED: "E102",
    Kind.MISSING: "E103",
    Kind.INVALID: "E104",
    Kind.CREDENTIALS: "E105",
}
EXPIRED = _FAULT_CODES[Kind.EXPIRED]
"""The code of credentials that have expired and are fetched anew: passing, unless it lasts."""
_SAYING = ("ConflictException", "LimitExceededException", "ResourceInUseException")
"""What passes, perhaps: the service's words say what it is waiting for."""
_PASSING = (Kind.THROTTLED, Kind.BUSY, Kind.EXPIRED)


def error_code(error: BaseException) -> str:
    """The service's error code, of a cancelled transaction the first reason's; "" for what is not an answer of the service."""
    response: Any = getattr(error, "response", None)
    if not isinstance(response, dict):
        return ""
    answer: dict[str, Any] = response  # pyright: ignore[reportUnknownVariableType]
    reasons: Sequence[dict[str, Any]] = answer.get("CancellationReasons") or ()
    code = next((reason["Code"] for reason in reasons if reason.get("Code", "None") != "None"), "")
    return str(code or answer.get("Error", {}).get("Code", ""))


def translate(error: BaseException, *, doing: str, where: str, resource: str = "") -> Fault:
    """The Fault for an error of an AWS call: Unavailable for what passes, Misconfigured for what somebody must mend.

    `doing` completes "cannot …" ("read shard 1"); `where` names the resource, `resource` is the ARN that a missing permission is needed
    on, where AWS does not say it. The message never holds credentials, signatures or tokens. Raises the error itself when it is none of
    errors().
    """
    if isinstance(error, Fault):
        return error
    botocore = importlib.import_module("botocore.exceptions")
    if isinstance(error, botocore.ClientError):
        return _answered(error, doing, where, resource)
    return _unanswered(error, botocore, doing, where)


def _answered(error: Any, doing: str, where: str, named: str) -> Fault:
    response: dict[str, Any] = error.response
    metadata: dict[str, Any] = response.get("ResponseMetadata", {})
    code = error_code(error)
    message = str(response.get("Error", {}).get("Message", "") or "")
    kind = _kind(code, int(metadata.get("HTTPStatusCode", 0) or 0), message)
    what = f"cannot {doing}"
    if kind in _PASSING:
        why = f"{_WORDS[kind]} ({code})"
        if code in _SAYING and message:
            why = f"{why}: {_scrub(message)}"
        return Unavailable(what, where=where, why=why, code=_FAULT_CODES[kind], after=_retry_after(metadata.get("HTTPHeaders", {})))
    why, run = f"{_WORDS[kind]} ({code})", ""
    if kind is Kind.DENIED:
        action, resource = _denied(code, str(error.operation_name), message, named)
        statement = json.dumps({"Effect": "Allow", "Action": action, "Resource": resource or "the ARN of what is named above"})
        why = f"{why}; the action is {action}{f' on {resource}' if resource else ''}. IAM statement to add: {statement}"
        run = "aws sts get-caller-identity, to see whose credentials these are"
    elif kind is Kind.CREDENTIALS:
        run = "aws sts get-caller-identity"  # the service's text may quote signatures: left out
    else:
        why = f"{why}: {_scrub(message)}" if message else why
        run = "dsqlcdc config show CONFIG"
    return Misconfigured(what, where=where, why=why, run=run, code=_FAULT_CODES[kind])


def _kind(code: str, status: int, message: str) -> Kind:
    if code in ("InvalidSignatureException", "SignatureDoesNotMatch") and re.search("expired|not yet current", message, re.IGNORECASE):
        return Kind.EXPIRED
    known = CODES.get(code)
    if known is not None:
        return known
    if status == 429 or "Throttl" in code:
        return Kind.THROTTLED
    if status >= 500 or status == 408 or status < 300:  # an error inside a 200 is the service's own trouble
        return Kind.BUSY
    return {401: Kind.CREDENTIALS, 403: Kind.DENIED, 404: Kind.MISSING}.get(status, Kind.INVALID)


_UNANSWERED: tuple[tuple[str, Kind, str, str], ...] = (
    ("NoRegionError", Kind.INVALID, "no AWS region is set", "set aws.region in CONFIG, or AWS_REGION"),
    ("ProfileNotFound", Kind.INVALID, "there is no such AWS profile", "aws configure list-profiles"),
    ("NoCredentialsError", Kind.CREDENTIALS, "no AWS credentials were found in the standard chain", "aws configure list"),
    ("PartialCredentialsError", Kind.CREDENTIALS, "the AWS credentials are incomplete", "aws configure list"),
    ("NoAuthTokenError", Kind.CREDENTIALS, "no AWS token was found", "aws configure list"),
    ("SSOTokenLoadError", Kind.CREDENTIALS, "the SSO session has to be renewed by its owner", "aws sso login"),
    ("UnauthorizedSSOTokenError", Kind.CREDENTIALS, "the SSO session has to be renewed by its owner", "aws sso login"),
    ("LoginRefreshRequired", Kind.CREDENTIALS, "the login session has to be renewed by its owner", "aws login"),
    ("RefreshWithMFAUnsupportedError", Kind.CREDENTIALS, "credentials that ask for MFA cannot be refreshed here", "aws configure list"),
    ("CredentialRetrievalError", Kind.EXPIRED, "credentials could not be fetched", ""),
    ("MetadataRetrievalError", Kind.EXPIRED, "credentials could not be fetched", ""),
    ("TokenRetrievalError", Kind.EXPIRED, "a token could not be fetched", ""),
    ("SSOError", Kind.EXPIRED, "credentials could not be fetched by SSO", ""),
    ("ReadTimeoutError", Kind.BUSY, "no answer in time", ""),
    ("ConnectTimeoutError", Kind.BUSY, "no connection in time", ""),
    ("ConnectionClosedError", Kind.BUSY, "the connection was closed before the answer was whole", ""),
    ("IncompleteReadError", Kind.BUSY, "the answer broke off", ""),
    ("ResponseStreamingError", Kind.BUSY, "the answer broke off", ""),
    ("ChecksumError", Kind.BUSY, "the answer's checksum does not match", ""),
    ("FlexibleChecksumError", Kind.BUSY, "the answer's checksum does not match", ""),
    ("SSLError", Kind.BUSY, "TLS could not be set up", ""),
    ("EndpointConnectionError", Kind.BUSY, "the endpoint cannot be reached", ""),
    ("ProxyConnectionError", Kind.BUSY, "the proxy cannot be reached", ""),
    ("ConnectionError", Kind.BUSY, "the endpoint cannot be reached", ""),
    ("HTTPClientError", Kind.BUSY, "the connection failed", ""),
)
"""By the names of botocore's exceptions, the first that fits: what it is, in words, and the next command."""


def _unanswered(error: BaseException, botocore: Any, doing: str, where: str) -> Fault:
    what = f"cannot {doing}"
    for name, kind, why, run in _UNANSWERED:
        if isinstance(error, getattr(botocore, name)):
            if kind in _PASSING:
                why = f"{why}{_endpoint(error)} ({type(error).__name__})"
                return Unavailable(what, where=where, why=why, code=_FAULT_CODES[kind])
            code = "E106" if name == "NoRegionError" else _FAULT_CODES[kind]
            return Misconfigured(what, where=where, why=why, run=run, code=code)
    if isinstance(error, (botocore.BotoCoreError, ValueError)):
        return Misconfigured(what, where=where, why=_scrub(str(error)), run="dsqlcdc config show CONFIG", code="E104")
    if isinstance(error, (asyncio.TimeoutError, TimeoutError)):
        return Unavailable(what, where=where, why="no answer in time", code="E120")
    if isinstance(error, errors()):
        return Unavailable(what, where=where, why=f"the connection failed ({type(error).__name__})", code="E120")
    raise error


def _endpoint(error: BaseException) -> str:
    """`: host:port`, where the client says whom it asked: nothing else of the address, which may hold a user."""
    try:
        address = urlsplit(str(getattr(error, "kwargs", {}).get("endpoint_url", "")))
        return f": {address.hostname}:{address.port or (443 if address.scheme == 'https' else 80)}" if address.hostname else ""
    except ValueError:
        return ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    try:
        if "x-amz-retry-after" in headers:
            return max(0.0, float(headers["x-amz-retry-after"]) / 1000)
        return max(0.0, float(headers["retry-after"])) if "retry-after" in headers else None
    except ValueError:
        return None


_NOT_AUTHORIZED = re.compile(
    r"not authorized to perform:? ([a-z0-9-]+:[A-Za-z*]+)(?:.*?on (?:the )?resource:? \"?(arn:[^\s\"]+))?", re.DOTALL
)
_PREFIXES: Mapping[str, str] = {
    "kinesis": "ListShards GetRecords GetShardIterator DescribeStreamSummary SubscribeToShard UpdateMaxRecordSize PutRecords",
    "dynamodb": "GetItem PutItem UpdateItem DeleteItem Query Scan BatchGetItem BatchWriteItem DescribeTable CreateTable",
    "dsql": "CreateStream GetStream ListStreams DeleteStream GetCluster",
    "iam": "GetRole CreateRole PutRolePolicy GetRolePolicy UpdateAssumeRolePolicy",
    "cloudwatch": "GetMetricData GetMetricStatistics",
}
_OTHERWISE = {"TransactWriteItems": "dynamodb:PutItem"}  # the actions of what is in it
_S3_ACTIONS = {"HeadBucket": "ListBucket", "ListObjectsV2": "ListBucket", "ListObjects": "ListBucket", "HeadObject": "GetObject"}


def _denied(code: str, operation: str, message: str, resource: str) -> tuple[str, str]:
    if code == "KMSAccessDeniedException":
        return "kms:Decrypt", "".join(re.findall(r"arn:aws[\w-]*:kms:[^\s\"',]+", message)[:1])
    found = _NOT_AUTHORIZED.search(message)
    if found:
        return found[1], (found[2] or "").rstrip(".") or resource
    if operation in _OTHERWISE:
        return _OTHERWISE[operation], resource
    if resource.count(":") >= 5:
        return f"{resource.split(':')[2]}:{operation}", resource
    for prefix, operations in _PREFIXES.items():
        if operation in operations.split():
            return f"{prefix}:{operation}", resource
    if operation in _S3_ACTIONS or operation.endswith(("Object", "Bucket", "MultipartUpload", "UploadPart")):
        return f"s3:{_S3_ACTIONS.get(operation, operation)}", ""
    return operation, ""


_SECRETS = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{8,}|(?i:(?:x-amz-(?:signature|security-token|credential)|signature|credential|token|password|secret)[\"']?\s*[=:]\s*\S+)"
    r"|(?<=//)[^/\s@]+@|[A-Za-z0-9+/=_-]{120,}"
)


def _scrub(text: str) -> str:
    """The text of a service or client, cut short, without what looks like a secret."""
    clean = _SECRETS.sub("***", " ".join(text.split()))
    return clean if len(clean) <= 400 else clean[:400] + "…"
