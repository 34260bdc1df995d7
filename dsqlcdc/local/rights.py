"""Which rights a call needs, as IAM names them, and refusing those that a test took away."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec

from dsqlcdc.local.policy import like
from dsqlcdc.local.refusal import denied
from dsqlcdc.local.streams import ACCOUNT

CALLER = f"arn:aws:sts::{ACCOUNT}:user/moto"
"""Who every caller is, whatever the credentials: as sts:GetCallerIdentity says."""
Right = tuple[str, str]
"""An IAM action, the ARN it is asked for."""
_JSON_NAME = re.compile(rb'"(?:TableName|KeyId|QueueUrl|TopicArn|FunctionName)"\s*:\s*"([^"]+)"')
_S3_ACTION = {
    "ListObjectsV2": "ListBucket",
    "ListObjects": "ListBucket",
    "HeadBucket": "ListBucket",
    "HeadObject": "GetObject",
    "ListBuckets": "ListAllMyBuckets",
    "DeleteObjects": "DeleteObject",
    "PostObject": "PutObject",
    "CopyObject": "PutObject",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "CompleteMultipartUpload": "PutObject",
    "AbortMultipartUpload": "AbortMultipartUpload",
    "ListParts": "ListMultipartUploadParts",
}
_PREFIX = {"monitoring": "cloudwatch", "email": "ses"}


class Deny(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The caller lacks `action` ("dsql:CreateStream", "kinesis:*") on `resource` (an ARN, with * and ?) for the next `times` calls that
    need it; 0 means until cleared. `explicit`: a policy denies it, instead of none allowing it."""

    action: str
    resource: str = "*"
    times: int = 0
    explicit: bool = False


class Call(msgspec.Struct, frozen=True):
    """One request, as far as its rights depend on it. `stream_of` gives the ARN of the Kinesis stream that a body means; the keys are the
    ARNs of customers' keys, "" where there is none."""

    service: str
    operation: str
    path: str
    body: bytes
    region: str
    stream_of: Callable[[bytes], str]
    stream_key: Callable[[str], str]
    cluster_key: Callable[[str], str]


class Denials:
    """What callers may not do."""

    def __init__(self) -> None:
        self._denied: list[Deny] = []

    def add(self, deny: Deny) -> None:
        if ":" not in deny.action:
            raise ValueError(f"{deny.action}: an action is service:Name, as in a policy")
        self._denied.append(deny)

    def clear(self) -> None:
        self._denied.clear()

    def listed(self) -> list[Deny]:
        return list(self._denied)

    def check(self, call: Call) -> None:
        """Refuse a call that needs a right that is denied, in the words of its service."""
        if not self._denied:
            return
        for action, resource in needs(call):
            for deny in self._denied:
                if not like(deny.action.lower(), action.lower()) or not like(deny.resource, resource):
                    continue
                if deny.times:
                    deny.times -= 1
                    if not deny.times:
                        self._denied.remove(deny)
                raise denied(call.service, CALLER, action, resource, explicit=deny.explicit)


def needs(call: Call) -> Iterator[Right]:
    """The rights that a call needs, its own action first; those of sts:GetCallerIdentity are none."""
    if call.service == "dsql":
        yield from _dsql(call)
    elif call.service == "kinesis":
        yield from _kinesis(call)
    elif call.service == "s3":
        yield from _s3(call)
    elif call.service in ("iam", "sts", "sns"):
        yield from _query(call)
    else:
        found = _JSON_NAME.search(call.body[:10_000])
        yield f"{_PREFIX.get(call.service, call.service)}:{call.operation}", _named(call, found[1].decode() if found else "")


def _dsql(call: Call) -> Iterator[Right]:
    parts = [unquote(part) for part in call.path.strip("/").split("/")]
    given = _json(call.body)
    arn = f"arn:aws:dsql:{call.region}:{ACCOUNT}:cluster/"
    if parts[0] == "tags":
        arn = "/".join(parts[1:])
    else:
        arn += parts[1] if len(parts) > 1 else "*"
        arn += f"/stream/{parts[2]}" if parts[0] == "stream" and len(parts) > 2 else ""
    yield f"dsql:{call.operation}", arn
    if call.operation in ("CreateStream", "CreateCluster") and given.get("tags"):
        yield "dsql:TagResource", f"{arn}/stream/*" if call.operation == "CreateStream" else arn
    if call.operation == "CreateStream":
        definition: Mapping[str, Mapping[str, str]] = given.get("targetDefinition") or {}
        yield "iam:PassRole", (definition.get("kinesis") or {}).get("roleArn", "")
        key = call.cluster_key(parts[1])
        if key:
            yield "kms:Decrypt", key


def _kinesis(call: Call) -> Iterator[Right]:
    if call.operation in ("ListStreams", "DescribeLimits"):
        yield f"kinesis:{call.operation}", "*"
        return
    arn = call.stream_of(call.body)
    yield f"kinesis:{call.operation}", arn
    uses = {"GetRecords": "kms:Decrypt", "PutRecord": "kms:GenerateDataKey", "PutRecords": "kms:GenerateDataKey"}.get(call.operation)
    key = call.stream_key(arn) if uses else ""
    if uses and key:
        yield uses, key
    if call.operation == "CreateStream" and _json(call.body).get("Tags"):
        yield "kinesis:AddTagsToStream", arn


def _s3(call: Call) -> Iterator[Right]:
    action = _S3_ACTION.get(call.operation, call.operation)
    bucket, _, key = unquote(call.path).lstrip("/").partition("/")
    whole = action.endswith("Bucket") or not key
    yield f"s3:{action}", f"arn:aws:s3:::{bucket}" if whole and action != "DeleteObject" else f"arn:aws:s3:::{bucket}/{key or '*'}"


def _query(call: Call) -> Iterator[Right]:
    if call.operation == "GetCallerIdentity":
        return
    given = {name: values[0] for name, values in parse_qs(call.body.decode("utf-8", "replace")).items()}
    named = next((name for name in ("RoleArn", "PolicyArn", "TopicArn") if name in given and "RoleName" not in given), "")
    if named:
        arn = given[named]
    elif "RoleName" in given:
        arn = f"arn:aws:iam::{ACCOUNT}:role/{given['RoleName']}"
    elif "PolicyName" in given:
        arn = f"arn:aws:iam::{ACCOUNT}:policy/{given['PolicyName']}"
    else:
        arn = f"arn:aws:iam::{ACCOUNT}:*"
    yield f"{call.service}:{call.operation}", arn
    if call.operation == "CreateRole" and any(name.startswith("Tags.") for name in given):
        yield "iam:TagRole", arn


def _named(call: Call, name: str) -> str:
    if not name or name.startswith("arn:"):
        return name or "*"
    kind = {"dynamodb": "table/", "kms": "" if name.startswith("alias/") else "key/", "lambda": "function:"}.get(call.service, "")
    return f"arn:aws:{call.service}:{call.region}:{ACCOUNT}:{kind}{name.rpartition('/')[2] if call.service == 'sqs' else name}"


def _json(body: bytes) -> Mapping[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any]) if body else {}
    except msgspec.DecodeError:
        return {}
