"""What the documents say, in a form that tests can hold against the code: code blocks, tables, policies, AWS commands."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import botocore.session
from botocore import xform_name

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
REFERENCE = ROOT / "docs" / "reference.md"
POLICIES = ROOT / "deploy" / "iam"

VALUES = {
    "REGION": "us-east-1",
    "ACCOUNT": "123456789012",
    "STREAM": "orders-cdc",
    "ROLE": "orders-cdc-dsql",
    "CLUSTER": "abcdefghijklmnopqrstuvwxyz",
    "BUCKET": "my-lake",
    "PREFIX": "cdc/",
    "TABLE": "dsqlcdc",
    "STREAM_KEY_ARN": "arn:aws:kms:us-east-1:123456789012:key/stream",
    "CLUSTER_KEY_ARN": "arn:aws:kms:us-east-1:123456789012:key/cluster",
    "DIGEST_BUCKET": "my-digests",
    "DIGEST_KEY_ARN": "arn:aws:kms:us-east-1:123456789012:key/digests",
    "DIGEST_ROLE_ARN": "arn:aws:iam::123456789012:role/orders-cdc-digests",
    "BUCKET_KEY_ARN": "arn:aws:kms:us-east-1:123456789012:key/bucket",
}
"""A value for each placeholder of the policies."""


class Code(NamedTuple):
    """A fenced block: its language and text, and the heading it stands under."""

    language: str
    text: str
    heading: str


def blocks(path: Path, language: str = "") -> list[Code]:
    """The fenced code blocks of a document, of one language or of all."""
    found: list[Code] = []
    heading, lines = "", iter(path.read_text(encoding="utf-8").splitlines())
    for line in lines:
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if fence := re.match(r"( *)```(\w*)", line):
            body: list[str] = []
            for inner in lines:
                if inner.strip() == "```":
                    break
                body.append(inner.removeprefix(fence[1]))
            found.append(Code(fence[2], "\n".join(body) + "\n", heading))
    return [block for block in found if not language or block.language == language]


def rows(path: Path, heading: str) -> list[list[str]]:
    """The cells of all tables under a heading, without their header lines; backslashes that escape a bar are taken out."""
    section = sections(path)[heading]
    found: list[list[str]] = []
    for line in section.splitlines():
        if line.startswith("|"):
            cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found.append(cells)
    ruled = [n for n, cells in enumerate(found) if set("".join(cells)) <= set("-:")]
    return [cells for n, cells in enumerate(found) if n not in ruled and n + 1 not in ruled]


def sections(path: Path) -> dict[str, str]:
    """The text under each heading, up to the next of any level; a `#` inside a code block is none."""
    found: dict[str, str] = {}
    heading, fenced = "", False
    for line in path.read_text(encoding="utf-8").splitlines():
        fenced ^= line.lstrip().startswith("```")
        if not fenced and (match := re.match(r"#+ (.*)", line)):
            heading = match[1]
        else:
            found[heading] = found.get(heading, "") + line + "\n"
    return found


def named(text: str) -> list[str]:
    """What stands between backquotes."""
    return re.findall(r"`([^`]+)`", text)


def policy(name: str) -> dict[str, Any]:
    """A policy of deploy/iam, filled in. A placeholder without a value, or a value nobody asks for by a wrong name, is an error."""
    text = (POLICIES / name).read_text(encoding="utf-8")
    filled: dict[str, Any] = json.loads(Template(text).substitute(VALUES))
    return filled


def statements(document: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document["Statement"]
    return found


def actions(document: dict[str, Any]) -> set[str]:
    """The actions a policy allows. None of them may be a pattern."""
    found: set[str] = set()
    for statement in statements(document):
        assert statement["Effect"] == "Allow"
        action = statement["Action"]
        found.update([action] if isinstance(action, str) else action)
    assert not [action for action in found if "*" in action]
    return found


_SESSION = botocore.session.get_session()


@cache
def model(service: str) -> Any:
    """botocore's model of a service."""
    return _SESSION.get_service_model(service)


@cache
def _spelt(service: str, separator: str) -> dict[str, str]:
    return {xform_name(name, separator): name for name in model(service).operation_names}


def operation(service: str, spelt: str, separator: str = "_") -> str | None:
    """The operation that a client method (create_stream) or a command (create-stream) calls; None where there is none."""
    return _spelt(service, separator).get(spelt)


def waits_for(service: str, waiter: str) -> str:
    """The operation that `aws SERVICE wait WAITER` calls."""
    waiters = _SESSION.get_waiter_model(service)
    return next(str(waiters.get_waiter(name).operation) for name in waiters.waiter_names if xform_name(name, "-") == waiter)


def action(service: str, operation: str) -> str:
    """The IAM action of an operation. S3 names some of its actions otherwise; a transaction of puts takes what each put takes."""
    other = {
        "s3": {
            "ListObjectsV2": "ListBucket",
            "HeadObject": "GetObject",
            "HeadBucket": "ListBucket",
            "ListObjectVersions": "ListBucketVersions",
            "GetObjectLockConfiguration": "GetBucketObjectLockConfiguration",
        },
        "dynamodb": {"TransactWriteItems": "PutItem"},
    }
    return f"{service}:{other.get(service, {}).get(operation, operation)}"


class AwsCommand(NamedTuple):
    """`aws SERVICE OPERATION --flag value …` as a document has it."""

    service: str
    operation: str
    flags: dict[str, str]


def aws_commands(text: str) -> list[AwsCommand]:
    """Every `aws …` command of a shell script, those inside $( ) too."""
    joined = re.sub(r"\\\n\s*", " ", text)
    found: list[AwsCommand] = []
    for match in re.finditer(r"(?:^|\$\()aws ([a-z0-9]+) (?:(wait) )?([a-z0-9-]+)(.*)$", joined, re.MULTILINE):
        if match[1] == "s3":  # the transfer commands are not operations
            continue
        service = {"s3api": "s3"}.get(match[1], match[1])
        spelt = waits_for(service, match[3]) if match[2] else operation(service, match[3], "-")
        assert spelt is not None, f"aws {match[1]} {match[3]}: no such command"
        flags = re.findall(r"--([a-z0-9-]+)(?:\s+(?!--)(\"(?:[^\"\\]|\\.)*\"|[^\s)]+))?", match[4].partition(" #")[0])
        found.append(AwsCommand(service, spelt, {name: value.strip('"') for name, value in flags}))
    return found
