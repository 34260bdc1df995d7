"""What a broken CDC stream is judged by, and the shape of what is said and done about it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from dsqlcdc.streams.desired import Desired
from dsqlcdc.streams.observed import CdcStream, Observed

Kind = Literal["", "record_size", "shards", "on_demand", "trust", "role", "policy", "recreate"]
"""What can be done from here. "" is for people."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One question that confirms a cause or clears it. `confirms`: None where it cannot be told from here. `command` asks AWS."""

    question: str
    found: str
    confirms: bool | None
    command: str


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do. `command`: for a shell. `policy`: the document it puts. `before` and `after`: what changes, in words or JSON."""

    what: str
    command: str = ""
    policy: Mapping[str, Any] | None = None
    kind: Kind = ""
    before: Any = None
    after: Any = None


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a cause is judged by. `stream`: None where there is no CDC stream into the target."""

    desired: Desired
    observed: Observed
    stream: CdcStream | None

    @property
    def target_arn(self) -> str:
        if self.stream is not None and self.stream.target:
            return self.stream.target
        seen = self.observed
        return f"arn:{seen.partition}:kinesis:{seen.region}:{seen.account}:stream/{self.desired.target.name}"

    @property
    def target_name(self) -> str:
        return self.target_arn.rpartition("/")[2]

    @property
    def role_name(self) -> str:
        """The role that the CDC stream writes with: the only one that is worth mending."""
        role = self.stream.role if self.stream is not None else ""
        return role.rpartition("/")[2] or self.desired.role

    @property
    def role_is_known(self) -> bool:
        """Is the role that was looked at the one that the CDC stream uses?"""
        return self.observed.role is None or self.observed.role.name == self.role_name

    @property
    def kms_key(self) -> str:
        """The user's key of the target, "" for none and for AWS's own."""
        key = self.observed.target.kms_key if self.observed.target is not None else self.desired.target.kms_key or ""
        return "" if key.endswith("alias/aws/kinesis") else key

    @property
    def key_arn(self) -> str:
        """What a policy names it by; "" where there is none, or nobody knows it."""
        return self.observed.key.arn if self.kms_key and self.observed.key is not None else ""


def command(*words: str, **documents: Any) -> str:
    """A command line for a shell. A document becomes a flag with JSON."""
    flags = [part for name, value in documents.items() for part in (f"--{name.replace('_', '-')}", json.dumps(value))]
    return shlex.join([*words, *flags])


def describe(facts: Facts) -> str:
    return command("aws", "kinesis", "describe-stream-summary", "--stream-name", facts.target_name)


def get_role(facts: Facts) -> str:
    return command("aws", "iam", "get-role", "--role-name", facts.role_name)
