"""An error as an AWS service answers it, in the service's own protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

import msgspec


class Refusal(Exception):
    """A call was refused: the service's error code, its message, the HTTP status and, for some codes, further members."""

    def __init__(self, code: str, message: str, status: int = 400, **members: Any) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status, self.members = code, message, status, members


def invalid(what: str) -> Refusal:
    """What a service says of a member that its API model does not allow."""
    return Refusal("ValidationException", f"1 validation error detected: {what}")


def need(given: Mapping[str, Any], name: str) -> Any:
    """A member that must be there."""
    value = given.get(name)
    if value is None:
        raise invalid(f"Value null at '{name}' failed to satisfy constraint: Member must not be null")
    return value


def bad_argument(why: str) -> Refusal:
    return Refusal("InvalidArgumentException", why)


WORDS: Mapping[str, tuple[int, str]] = {
    "AccessDeniedException": (400, "You are not authorized to perform this operation."),
    "AccessDenied": (403, "Access Denied"),
    "ThrottlingException": (400, "Rate exceeded"),
    "Throttling": (400, "Rate exceeded"),
    "LimitExceededException": (400, "Rate exceeded: this operation may be called less often."),
    "ProvisionedThroughputExceededException": (400, "Rate exceeded for a shard."),
    "InternalServerException": (500, "An internal server error occurred. Try again."),
    "InternalFailure": (500, "The request processing has failed because of an unknown error, exception or failure."),
    "InternalFailureException": (500, "The request processing has failed because of an unknown error, exception or failure."),
    "ServiceUnavailable": (503, "Service is unable to handle request."),
    "SlowDown": (503, "Please reduce your request rate."),
    "ExpiredTokenException": (403, "The security token included in the request is expired"),
    "UnrecognizedClientException": (403, "The security token included in the request is invalid."),
    "InvalidSignatureException": (403, "Signature expired: it is too old."),
    "ConflictException": (409, "Another operation is in progress."),
    "ResourceNotFoundException": (400, "The resource does not exist."),
    "ValidationException": (400, "1 validation error detected"),
    "ServiceQuotaExceededException": (400, "A service quota is exceeded."),
}
"""The HTTP status and words of a code where an injected fault says nothing; DSQL, which speaks REST, has its own."""
_QUERY = ("iam", "sts", "sns")
"""Services that answer in the XML of the query protocol."""
_DSQL: Mapping[str, tuple[int, dict[str, Any]]] = {
    "AccessDeniedException": (403, {}),
    "ThrottlingException": (429, {"serviceCode": "dsql", "quotaCode": "L-RATE"}),
    "ResourceNotFoundException": (404, {"resourceId": "", "resourceType": ""}),
    "ConflictException": (409, {"resourceId": "", "resourceType": ""}),
    "ValidationException": (400, {"reason": "other"}),
    "ServiceQuotaExceededException": (402, {"resourceId": "", "resourceType": "stream", "serviceCode": "dsql", "quotaCode": "L-STREAMS"}),
}


def injected(service: str, code: str, status: int = 0, message: str = "") -> Refusal:
    """An error that a test asked for, in the shape this service gives it; status 0 and no message: the service's own."""
    usual, words = WORDS.get(code, (500, "injected"))
    members: dict[str, Any] = {}
    if service == "dsql" and code in _DSQL:
        usual, members = _DSQL[code]
    return Refusal(code, message or words, status or usual, **members)


def denied(service: str, caller: str, action: str, resource: str, *, explicit: bool = False) -> Refusal:
    """What IAM answers a caller without a right, in this service's shape."""
    why = (
        "with an explicit deny in an identity-based policy" if explicit else f"because no identity-based policy allows the {action} action"
    )
    code = {"s3": "AccessDenied", "iam": "AccessDenied", "sts": "AccessDenied", "sns": "AuthorizationError"}.get(
        service, "AccessDeniedException"
    )
    if service == "kinesis" and action.startswith("kms:"):
        code = "KMSAccessDeniedException"
    status = 403 if service in ("s3", "dsql", *_QUERY) else 400
    return Refusal(code, f"User: {caller} is not authorized to perform: {action} on resource: {resource} {why}", status)


def render(refusal: Refusal, service: str, request_id: str) -> tuple[bytes, dict[str, str]]:
    """The body and headers of a refusal, as this service's clients parse them."""
    code, message = escape(refusal.code), escape(refusal.message)
    if service == "s3":
        text = f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>{request_id}</RequestId></Error>"
        return text.encode(), {"Content-Type": "application/xml", "x-amz-request-id": request_id}
    if service in _QUERY:
        kind = "Sender" if refusal.status < 500 else "Receiver"
        error = f"<Error><Type>{kind}</Type><Code>{code}</Code><Message>{message}</Message></Error>"
        text = f"<ErrorResponse>{error}<RequestId>{request_id}</RequestId></ErrorResponse>"
        return text.encode(), {"Content-Type": "text/xml"}
    if service == "dsql":
        body = msgspec.json.encode({"message": refusal.message, **refusal.members})
        wait = {"Retry-After": "1"} if refusal.code in ("ThrottlingException", "InternalServerException") else {}
        return body, {"Content-Type": "application/json", "x-amzn-ErrorType": refusal.code, "x-amzn-RequestId": request_id, **wait}
    version = "1.1" if service == "kinesis" else "1.0"
    body = msgspec.json.encode({"__type": refusal.code, "message": refusal.message, **refusal.members})
    return body, {"Content-Type": f"application/x-amz-json-{version}", "x-amzn-RequestId": request_id}
