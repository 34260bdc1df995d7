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


def render(refusal: Refusal, service: str, request_id: str) -> tuple[bytes, dict[str, str]]:
    """The body and headers of a refusal, as this service's clients parse them."""
    code, message = escape(refusal.code), escape(refusal.message)
    if service == "s3":
        text = f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>{request_id}</RequestId></Error>"
        return text.encode(), {"Content-Type": "application/xml", "x-amz-request-id": request_id}
    if service in ("iam", "sts"):
        kind = "Sender" if refusal.status < 500 else "Receiver"
        error = f"<Error><Type>{kind}</Type><Code>{code}</Code><Message>{message}</Message></Error>"
        text = f"<ErrorResponse>{error}<RequestId>{request_id}</RequestId></ErrorResponse>"
        return text.encode(), {"Content-Type": "text/xml"}
    if service == "dsql":
        body = msgspec.json.encode({"message": refusal.message, **refusal.members})
        return body, {"Content-Type": "application/json", "x-amzn-ErrorType": refusal.code, "x-amzn-RequestId": request_id}
    version = "1.1" if service == "kinesis" else "1.0"
    body = msgspec.json.encode({"__type": refusal.code, "message": refusal.message, **refusal.members})
    return body, {"Content-Type": f"application/x-amz-json-{version}", "x-amzn-RequestId": request_id}
