"""Real causes for each reason a CDC stream can give, done to what is there: mended as on AWS, by the call that undoes them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import msgspec

from dsqlcdc.local.cdc import CdcStream, Reason
from dsqlcdc.local.database import Statement
from dsqlcdc.local.generator import Commit
from dsqlcdc.local.others import Others
from dsqlcdc.local.reach import DSQL_PRINCIPAL
from dsqlcdc.local.region import Region
from dsqlcdc.local.streams import ACCOUNT

TABLE = "local.cause"
"""The rows that show a cause are written here: it has the key `id`."""
LARGE = 1_200_000


async def cause(region: Region, stream: CdcStream, reason: Reason) -> None:
    """Bring the cause about, and commit what shows it. The role must be one of IAM's: `Local.pipe` makes none.

    ROLE_ACCESS_DENIED: the trust policy names the cluster, not its streams. KINESIS_ACCESS_DENIED: the role's policies are gone.
    KINESIS_KMS_ACCESS_DENIED: the Kinesis stream is encrypted with a new key, which the role may not use. KINESIS_OVERSIZE_RECORD: the
    stream takes records of 1 MiB, and a larger one comes. KINESIS_THROUGHPUT_EXCEEDED: the writes would fill twice the shards, of a stream
    that is provisioned. KINESIS_STREAM_NOT_FOUND: it is deleted. CLUSTER_CMK_INACCESSIBLE: the cluster's key, a new one where it has none,
    is disabled. INTERNAL_ERROR has no cause of ours: it is told, until `impair` is "".
    """
    role = stream.target["roleArn"].rpartition("/")[2]
    if reason == "ROLE_ACCESS_DENIED":
        await _mistrust(region, role, region.dsql.cluster(stream.cluster).arn)
    elif reason == "KINESIS_ACCESS_DENIED":
        await _strip(region, stream.target["roleArn"])
    elif reason == "KINESIS_KMS_ACCESS_DENIED":
        target = region.kinesis.stream(stream.target["streamArn"])
        target.encryption, target.key_id = "KMS", await _new_key(region)
    elif reason == "KINESIS_OVERSIZE_RECORD":
        region.kinesis.stream(stream.target["streamArn"]).max_record_kib = 1024
    elif reason == "KINESIS_THROUGHPUT_EXCEEDED":
        target = region.kinesis.stream(stream.target["streamArn"])
        target.mode = "PROVISIONED"
        region.kinesis.demand(target.name, 2 * len(target.open_shards()))
    elif reason == "KINESIS_STREAM_NOT_FOUND":
        region.kinesis.stream(stream.target["streamArn"]).delete()
    elif reason == "CLUSTER_CMK_INACCESSIBLE":
        cluster = region.dsql.cluster(stream.cluster)
        cluster.kms_key = cluster.kms_key or await _new_key(region)
        await _kms(region.others, "DisableKey", KeyId=cluster.kms_key.rpartition("/")[2])
    else:
        stream.impair(reason)
    await _show(region, stream.cluster, LARGE if reason == "KINESIS_OVERSIZE_RECORD" else 1)
    region.dsql.look()


async def _show(region: Region, cluster: str, size: int) -> None:
    """Sixteen changes, one of them of this size."""
    first = len(region.generator(cluster).changes)
    rows = [{"id": first + n, "body": "x" * (size if n == 0 else 1)} for n in range(16)]
    await region.commit(Commit(cluster=cluster, declare={TABLE: ["id"]}, explicit=[[Statement(TABLE, "insert", row)] for row in rows]))


async def _mistrust(region: Region, role: str, cluster_arn: str) -> None:
    condition = {"StringEquals": {"aws:SourceAccount": ACCOUNT}, "ArnLike": {"aws:SourceArn": cluster_arn}}
    statement = {"Effect": "Allow", "Principal": {"Service": DSQL_PRINCIPAL}, "Action": "sts:AssumeRole", "Condition": condition}
    document = msgspec.json.encode({"Version": "2012-10-17", "Statement": [statement]}).decode()
    await _iam(region.others, "UpdateAssumeRolePolicy", RoleName=role, PolicyDocument=document)


async def _strip(region: Region, role_arn: str) -> None:
    role, found = role_arn.rpartition("/")[2], region.others.role(role_arn)
    for name in found.inline if found else ():
        await _iam(region.others, "DeleteRolePolicy", RoleName=role, PolicyName=name)
    for arn in found.attached if found else ():
        await _iam(region.others, "DetachRolePolicy", RoleName=role, PolicyArn=arn)


async def _new_key(region: Region) -> str:
    made = await _kms(region.others, "CreateKey", Description="made to be in the way")
    return str(made["KeyMetadata"]["Arn"])


async def _iam(others: Others, action: str, **given: str) -> None:
    headers = _signed("iam") | {"Content-Type": "application/x-www-form-urlencoded"}
    body = urlencode({"Action": action, "Version": "2010-05-08", **given}).encode()
    reply = await others.call("POST", "/", headers, body)
    if reply.status != 200:
        raise ValueError(f"iam {action}: {reply.body.decode()}")


async def _kms(others: Others, operation: str, **given: str) -> dict[str, Any]:
    headers = _signed("kms") | {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": f"TrentService.{operation}"}
    reply = await others.call("POST", "/", headers, msgspec.json.encode(given))
    if reply.status != 200:
        raise ValueError(f"kms {operation}: {reply.body.decode()}")
    answer: dict[str, Any] = msgspec.json.decode(reply.body) if reply.body else {}
    return answer


def _signed(service: str) -> dict[str, str]:
    scope = f"AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=0"
    return {"Host": f"{service}.us-east-1.amazonaws.com", "Authorization": scope}
