"""What the DSQL API accepts, and how it refuses: identifiers, targets, tags, pages."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from multidict import MultiMapping

from dsqlcdc.local.refusal import Refusal
from dsqlcdc.local.streams import ACCOUNT

Query = MultiMapping[str]
_T = TypeVar("_T")
_ID = re.compile(r"[a-z0-9]{26}")
_KINESIS = re.compile(r"arn:aws[a-zA-Z-]*:kinesis:([a-z0-9-]*):([0-9]{12}):stream/[a-zA-Z0-9+=,.@_/-]+")
_ROLE = re.compile(r"arn:aws(?:-[^:]+)?:iam::([0-9]{12}):role(?:/[a-zA-Z0-9+=,.@_-]+)+")
_TOKEN = re.compile(r"[!-~]{1,128}")
_TAG = re.compile(r"[a-zA-Z0-9_.:/=+\-@ ]*")


def check_stream(given: Mapping[str, Any], region: str) -> Mapping[str, str]:
    """CreateStream's input; its Kinesis target."""
    for name, only in (("ordering", "UNORDERED"), ("format", "JSON")):
        if given.get(name) != only:
            raise malformed(name, f"Member must satisfy enum value set: [{only}]")
    definition: Mapping[str, Any] = given.get("targetDefinition") or {}
    target: Mapping[str, str] = definition.get("kinesis") or {}
    stream, role = _KINESIS.fullmatch(target.get("streamArn") or ""), _ROLE.fullmatch(target.get("roleArn") or "")
    if stream is None:
        raise malformed("targetDefinition.kinesis.streamArn", f"Member must satisfy regular expression pattern: {_KINESIS.pattern}")
    if role is None:
        raise malformed("targetDefinition.kinesis.roleArn", f"Member must satisfy regular expression pattern: {_ROLE.pattern}")
    if stream[1] != region:
        raise refused(f"The Kinesis stream {target['streamArn']} must be in the Region of the cluster, {region}.")
    if stream[2] != ACCOUNT or role[1] != ACCOUNT:
        raise refused(f"The Kinesis stream and the IAM role must be in the account of the cluster, {ACCOUNT}.")
    token = given.get("clientToken")
    if token is not None and not _TOKEN.fullmatch(token):
        raise malformed("clientToken", f"Member must satisfy regular expression pattern: {_TOKEN.pattern}")
    check_tags(given.get("tags") or {})
    return target


def check_tags(tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        if not 1 <= len(key) <= 128 or len(value) > 256 or not _TAG.fullmatch(key) or not _TAG.fullmatch(value):
            raise malformed("tags", "a key has 1 to 128, a value up to 256 characters: letters, digits, blanks and _.:/=+-@")
        if key.lower().startswith("aws:"):
            raise malformed("tags", "keys that begin with aws: are reserved")
    if len(tags) > 200:
        raise malformed("tags", "Member must have length less than or equal to 200")


def check_id(found: str, name: str) -> str:
    if not _ID.fullmatch(found):
        raise malformed(name, f"Member must satisfy regular expression pattern: {_ID.pattern}")
    return found


def page(items: Sequence[_T], query: Query) -> tuple[Sequence[_T], dict[str, str]]:
    """One page, and the token of the next where there is one."""
    try:
        size = int(query.get("max-results") or 10)
        start = int(base64.urlsafe_b64decode(query.get("next-token") or "MA=="))
    except (binascii.Error, ValueError):
        raise malformed("nextToken", "the token is not one of this service") from None
    if not 1 <= size <= 100:
        raise malformed("maxResults", "Member must be between 1 and 100")
    more = {"nextToken": base64.urlsafe_b64encode(str(start + size).encode()).decode()} if len(items) > start + size else {}
    return items[start : start + size], more


def missing(resource: str, kind: str) -> Refusal:
    return Refusal("ResourceNotFoundException", f"The {kind} {resource} does not exist.", 404, resourceId=resource, resourceType=kind)


def conflict(why: str, resource: str, kind: str = "stream") -> Refusal:
    return Refusal("ConflictException", why, 409, resourceId=resource, resourceType=kind)


def refused(why: str, reason: str = "other") -> Refusal:
    return Refusal("ValidationException", why, 400, reason=reason)


def malformed(field: str, why: str) -> Refusal:
    message = f"1 validation error detected: Value at '{field}' failed to satisfy constraint: {why}"
    fields = [{"name": field, "message": why}]
    return Refusal("ValidationException", message, 400, reason="fieldValidationFailed", fieldList=fields)
