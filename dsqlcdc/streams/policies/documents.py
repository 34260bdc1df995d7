"""The two policies of the service role: who may assume it, and what it may do (spec §1, IAM)."""

from __future__ import annotations

from typing import Any

SERVICE = "dsql.amazonaws.com"
WRITE_ACTIONS = ("kinesis:PutRecord", "kinesis:PutRecords", "kinesis:DescribeStreamSummary", "kinesis:ListShards")
"""What DSQL does with the Kinesis stream as this role."""
KEY_ACTION = "kms:GenerateDataKey"
"""What Kinesis does with the stream's customer key on this role's behalf."""


def trust_policy(region: str, account: str, cluster: str, partition: str = "aws") -> dict[str, Any]:
    """DSQL may assume the role, only for streams of this cluster: without the conditions any customer's stream could (confused deputy)."""
    condition = {
        "StringEquals": {"aws:SourceAccount": account},
        "ArnLike": {"aws:SourceArn": f"arn:{partition}:dsql:{region}:{account}:cluster/{cluster}/stream/*"},
    }
    statement = {"Effect": "Allow", "Principal": {"Service": SERVICE}, "Action": "sts:AssumeRole", "Condition": condition}
    return {"Version": "2012-10-17", "Statement": [statement]}


def write_policy(stream_arn: str, key: str = "") -> dict[str, Any]:
    """What the role needs on the Kinesis stream. `key`: the ARN of the stream's customer key, "" where it has none."""
    statements: list[dict[str, Any]] = [{"Effect": "Allow", "Action": list(WRITE_ACTIONS), "Resource": stream_arn}]
    if key:
        via = {"StringEquals": {"kms:ViaService": via_kinesis(stream_arn.split(":")[3])}}
        statements.append({"Effect": "Allow", "Action": KEY_ACTION, "Resource": key, "Condition": via})
    return {"Version": "2012-10-17", "Statement": statements}


def via_kinesis(region: str) -> str:
    """The value of kms:ViaService when Kinesis uses a key for its caller."""
    return f"kinesis.{region}.amazonaws.com"


def key_arn(key: str, *, region: str, account: str, partition: str = "aws") -> str:
    """The ARN of a key that is written as an ARN or an id; "" for an alias, which only KMS can resolve (policies do not take aliases)."""
    if key.startswith("arn:"):
        return key if ":key/" in key else ""
    return "" if not key or key.startswith("alias/") else f"arn:{partition}:kms:{region}:{account}:key/{key}"
