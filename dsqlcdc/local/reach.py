"""Whether DSQL reaches a CDC stream's target: the role, its rights and the keys, as they are at this moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from dsqlcdc.local.kinesis import Kinesis
from dsqlcdc.local.policy import Asked, Verdict, says, together
from dsqlcdc.local.refusal import Refusal
from dsqlcdc.local.streams import ACCOUNT

DSQL_PRINCIPAL = "dsql.amazonaws.com"
WRITES = ("kinesis:PutRecord", "kinesis:PutRecords")
AWS_KEY = "alias/aws/kinesis"
"""The key of Kinesis itself: every principal of the account may use it through Kinesis."""
_ROOT = ("AWS", f"arn:aws:iam::{ACCOUNT}:root"), ("AWS", ACCOUNT)


class Role(msgspec.Struct, frozen=True):
    """`policies`: the documents of its policies, of which `inline` has the names, `attached` the ARNs. `boundary`: the document of its
    permissions boundary, "" for none. `trusted`: made by `Local.pipe`, may
    do everything."""

    arn: str
    trust: str = ""
    policies: tuple[str, ...] = ()
    inline: tuple[str, ...] = ()
    attached: tuple[str, ...] = ()
    boundary: str = ""
    trusted: bool = False

    def may(self, asked: Asked) -> Verdict:
        """What its policies say, as far as the boundary lets them."""
        own = together(self.policies, asked)
        bound = together((self.boundary,), asked) if self.boundary else "allow"
        return "deny" if "deny" in (own, bound) else own if bound == "allow" else "silent"


class Key(msgspec.Struct, frozen=True):
    """A KMS key. `state`: Enabled, Disabled, PendingDeletion, …"""

    arn: str
    state: str
    policy: str


class Account(Protocol):
    """Where roles and keys are looked up: moto's."""

    def role(self, arn: str) -> Role | None: ...

    def key(self, key_id: str) -> Key | None:
        """By identifier, ARN, alias or alias's ARN."""


def usable(account: Account, key_id: str) -> bool:
    """Whether a key is there and enabled."""
    key = account.key(key_id)
    return key is not None and key.state == "Enabled"


def obstacle(stream_arn: str, target: Mapping[str, str], kinesis: Kinesis, account: Account) -> str:
    """The statusReason code of what keeps DSQL from writing for this CDC stream, "" where nothing does.

    In the order in which the service meets them: it assumes the role, then writes, then Kinesis asks KMS.
    """
    role = account.role(target["roleArn"])
    if role is None or not _assumes(role, stream_arn):
        return "ROLE_ACCESS_DENIED"
    arn, region = target["streamArn"], kinesis.region
    context = {"aws:PrincipalArn": role.arn, "aws:PrincipalAccount": ACCOUNT, "aws:RequestedRegion": region, "aws:SecureTransport": "true"}
    if not role.trusted and any(role.may(Asked(action, arn, (), context)) != "allow" for action in WRITES):
        return "KINESIS_ACCESS_DENIED"
    try:
        stream = kinesis.stream(arn)
    except Refusal:
        return "KINESIS_STREAM_NOT_FOUND"
    if stream.status == "DELETING":
        return "KINESIS_STREAM_NOT_FOUND"
    if stream.key_id and not stream.key_id.endswith(AWS_KEY) and not _encrypts(account, role, stream.key_id, region, arn):
        return "KINESIS_KMS_ACCESS_DENIED"
    return ""


def _assumes(role: Role, stream_arn: str) -> bool:
    context = {"aws:SourceAccount": ACCOUNT, "aws:SourceArn": stream_arn, "aws:PrincipalServiceName": DSQL_PRINCIPAL}
    return role.trusted or says(role.trust, Asked("sts:AssumeRole", role.arn, (("Service", DSQL_PRINCIPAL),), context)) == "allow"


def _encrypts(account: Account, role: Role, key_id: str, region: str, stream_arn: str) -> bool:
    """The key's own policy may let the role in; or it lets the account decide, and the role's policies do."""
    key = account.key(key_id)
    if key is None or key.state != "Enabled":
        return False
    context = {
        "kms:ViaService": f"kinesis.{region}.amazonaws.com",
        "kms:CallerAccount": ACCOUNT,
        "kms:EncryptionContext:aws:kinesis:arn": stream_arn,
        "aws:PrincipalArn": role.arn,
        "aws:PrincipalAccount": ACCOUNT,
    }
    asked = Asked("kms:GenerateDataKey", key.arn, (("AWS", role.arn),), context)
    direct, own = says(key.policy, asked), role.may(asked)
    if "deny" in (direct, own):
        return False
    delegated = says(key.policy, msgspec.structs.replace(asked, principals=_ROOT)) == "allow"
    return direct == "allow" or (delegated and (own == "allow" or role.trusted))
