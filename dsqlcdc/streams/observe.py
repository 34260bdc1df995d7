"""What is there, asked of AWS with read rights only: cluster, its CDC streams, target, its key, role."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import unquote

import msgspec

from dsqlcdc.aws import error_code, errors, translate
from dsqlcdc.errors import Misconfigured
from dsqlcdc.streams.clients import MISSING, Clients
from dsqlcdc.streams.desired import Desired
from dsqlcdc.streams.observed import CdcStream, ClusterState, KeyState, Observed, Reason, RoleState, TargetState
from dsqlcdc.streams.wanted import wanted_role

AWS_KEY = "alias/aws/kinesis"
"""AWS's own key for Kinesis: nobody needs a permission for it."""


async def observe(desired: Desired, clients: Clients) -> Observed:
    """Everything `desired` speaks of, as it is now. Changes nothing; may be called again at any time, and cancelled at any time.

    The role is the one the CDC stream into the target has, where the config names none. Raises Misconfigured: E102 names the action that
    is denied, its resource and the statement to add; Stopped (E125) when AWS was not reached within the clients' deadline.
    """
    cluster, target = await asyncio.gather(get_cluster(clients, desired.cluster), get_target(clients, desired.target.name))
    streams = await list_streams(clients, desired.cluster) if cluster is not None else ()
    observed = Observed(
        account=clients.account,
        region=clients.region,
        partition=clients.partition,
        cluster=cluster,
        target=target,
        role=None,
        streams=streams,
    )
    key = desired.target.kms_key or (target.kms_key if target is not None else "")
    role, key_state = await asyncio.gather(get_role(clients, wanted_role(desired, observed)), get_key(clients, key))
    if role is not None and role.boundary:
        role = msgspec.structs.replace(role, bound=await _bound(clients, role.boundary))
    return msgspec.structs.replace(observed, role=role, key=key_state)


async def _bound(clients: Clients, boundary: str) -> Mapping[str, Any] | None:
    """What a permissions boundary says; None where it may not be read: much can be told without."""
    try:
        return await get_policy(clients, boundary)
    except Misconfigured:
        return None


async def get_cluster(clients: Clients, cluster: str) -> ClusterState | None:
    found = await clients.find(
        clients.dsql.get_cluster,
        doing="get the cluster",
        where=f"cluster {cluster}",
        resource=clients.cluster_arn(cluster),
        identifier=cluster,
    )
    if found is None:
        return None
    key = str(found.get("encryptionDetails", {}).get("kmsKeyArn", ""))
    return ClusterState(id=cluster, arn=str(found["arn"]), status=str(found["status"]), kms_key=key)


async def list_streams(clients: Clients, cluster: str) -> list[CdcStream]:
    """Every CDC stream of the cluster with its target, newest first. One that goes away meanwhile is left out."""
    found: list[CdcStream] = []
    token: dict[str, str] = {}
    while True:
        page = await clients.find(
            clients.dsql.list_streams,
            doing="list the CDC streams",
            where=f"cluster {cluster}",
            resource=clients.cluster_arn(cluster),
            clusterIdentifier=cluster,
            **token,
        )
        if page is None:
            return []
        for summary in page["streams"]:
            stream = await get_stream(clients, cluster, str(summary["streamIdentifier"]))
            if stream is not None:
                found.append(stream)
        if not page.get("nextToken"):
            return sorted(found, key=lambda stream: stream.created_at, reverse=True)
        token = {"nextToken": str(page["nextToken"])}


async def get_stream(clients: Clients, cluster: str, stream: str) -> CdcStream | None:
    """What GetStream says; None where there is no such stream (any more)."""
    found = await clients.find(
        clients.dsql.get_stream,
        doing="get the CDC stream",
        where=f"cluster {cluster}, stream {stream}",
        resource=clients.cdc_arn(cluster, stream),
        clusterIdentifier=cluster,
        streamIdentifier=stream,
    )
    return None if found is None else read_stream(found)


async def look_at(clients: Clients, cluster: str, stream: str) -> CdcStream | None:
    """As get_stream, asked once: whoever looks again and again decides by the answers how soon. Raises Unavailable (E121 when throttled)."""
    try:
        found = await clients.dsql.get_stream(clusterIdentifier=cluster, streamIdentifier=stream)
    except errors() as error:
        if error_code(error) in MISSING:
            return None
        where, resource = f"cluster {cluster}, stream {stream}", clients.cdc_arn(cluster, stream)
        raise translate(error, doing="look at the CDC stream", where=where, resource=resource) from error
    return read_stream(found)


def read_stream(found: Mapping[str, Any]) -> CdcStream:
    """GetStream's answer as a value."""
    target: Mapping[str, Any] = found.get("targetDefinition", {}).get("kinesis", {})
    said: Mapping[str, Any] = found.get("statusReason") or {}
    return CdcStream(
        cluster=str(found["clusterIdentifier"]),
        id=str(found["streamIdentifier"]),
        arn=str(found["arn"]),
        status=str(found["status"]),
        reason=Reason(str(said["error"]), _seconds(said.get("updatedAt"))) if said.get("error") else None,
        target=str(target.get("streamArn", "")),
        role=str(target.get("roleArn", "")),
        created_at=_seconds(found.get("creationTime")),
        tags=dict(found.get("tags") or {}),
    )


async def get_target(clients: Clients, name: str) -> TargetState | None:
    """The Kinesis stream with its tags; None where there is none."""
    about = {"where": f"kinesis stream {name}", "resource": clients.stream_arn(name)}
    found = await clients.find(clients.kinesis.describe_stream_summary, doing="describe the stream", StreamName=name, **about)
    if found is None:
        return None
    summary = found["StreamDescriptionSummary"]
    return TargetState(
        name=name,
        arn=str(summary["StreamARN"]),
        status=str(summary["StreamStatus"]),
        mode="provisioned" if summary.get("StreamModeDetails", {}).get("StreamMode") == "PROVISIONED" else "on_demand",
        open_shards=int(summary.get("OpenShardCount", 0)),
        retention_hours=int(summary["RetentionPeriodHours"]),
        max_record_kib=int(summary.get("MaxRecordSizeInKiB", 1024)),
        kms_key=str(summary.get("KeyId", "")) if summary.get("EncryptionType") == "KMS" else "",
        created_at=_seconds(summary.get("StreamCreationTimestamp")),
        tags=await _target_tags(clients, name, about),
    )


async def _target_tags(clients: Clients, name: str, about: Mapping[str, Any]) -> dict[str, str]:
    tags: dict[str, str] = {}
    start: dict[str, str] = {}
    while True:
        page = await clients.find(clients.kinesis.list_tags_for_stream, doing="list the stream's tags", StreamName=name, **start, **about)
        for tag in (page or {}).get("Tags", ()):
            tags[str(tag["Key"])] = str(tag.get("Value", ""))
        if not page or not page.get("HasMoreTags") or not page["Tags"]:
            return tags
        start = {"ExclusiveStartTagKey": str(page["Tags"][-1]["Key"])}


async def get_key(clients: Clients, key: str) -> KeyState | None:
    """The user's KMS key; None for none, for AWS's own, and where there is no such key."""
    if key in ("", AWS_KEY):
        return None
    about = {"doing": "describe the KMS key", "where": f"KMS key {key}", "resource": clients.key_arn(key)}
    found = await clients.find(clients.kms.describe_key, KeyId=key, **about)
    if found is None or found["KeyMetadata"].get("KeyManager") == "AWS":
        return None
    return KeyState(arn=str(found["KeyMetadata"]["Arn"]), state=str(found["KeyMetadata"]["KeyState"]))


async def get_role(clients: Clients, name: str) -> RoleState | None:
    """The role with all its policies; None where there is none."""
    about = {"where": f"iam role {name}", "resource": clients.role_arn(name)}
    found = await clients.find(clients.iam.get_role, doing="get the role", RoleName=name, **about)
    if found is None:
        return None
    role = found["Role"]
    return RoleState(
        name=name,
        arn=str(role["Arn"]),
        trust=document(role["AssumeRolePolicyDocument"]),
        inline=await _inline(clients, name, about),
        attached=await _attached(clients, name, about),
        boundary=str(role.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn", "")),
        tags={str(tag["Key"]): str(tag.get("Value", "")) for tag in role.get("Tags", ())},
    )


async def _inline(clients: Clients, role: str, about: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    marker: dict[str, str] = {}
    while True:
        page = await clients.find(clients.iam.list_role_policies, doing="list the role's policies", RoleName=role, **marker, **about) or {}
        for policy in page.get("PolicyNames", ()):
            said = await clients.find(
                clients.iam.get_role_policy, doing="read a policy of the role", RoleName=role, PolicyName=policy, **about
            )
            if said is not None:
                found[str(policy)] = document(said["PolicyDocument"])
        if not page.get("IsTruncated"):
            return found
        marker = {"Marker": str(page["Marker"])}


async def _attached(clients: Clients, role: str, about: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    marker: dict[str, str] = {}
    listing = clients.iam.list_attached_role_policies
    while True:
        page = await clients.find(listing, doing="list the policies attached to the role", RoleName=role, **marker, **about) or {}
        for policy in page.get("AttachedPolicies", ()):
            said = await get_policy(clients, str(policy["PolicyArn"]))
            if said is not None:
                found[str(policy["PolicyArn"])] = said
        if not page.get("IsTruncated"):
            return found
        marker = {"Marker": str(page["Marker"])}


async def get_policy(clients: Clients, arn: str) -> Mapping[str, Any] | None:
    """The default version of a managed policy."""
    about = {"where": f"iam policy {arn}", "resource": arn}
    found = await clients.find(clients.iam.get_policy, doing="get a policy of the role", PolicyArn=arn, **about)
    if found is None:
        return None
    version = str(found["Policy"]["DefaultVersionId"])
    said = await clients.find(clients.iam.get_policy_version, doing="read a policy of the role", PolicyArn=arn, VersionId=version, **about)
    return None if said is None else document(said["PolicyVersion"]["Document"])


def document(given: Any) -> Mapping[str, Any]:
    """A policy document: botocore decodes it already, other clients hand on the URL-encoded text. One that cannot be read is empty."""
    if isinstance(given, Mapping):
        return given  # pyright: ignore[reportUnknownVariableType]
    try:
        read: Any = json.loads(unquote(str(given)))
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def _seconds(moment: Any) -> float:
    return moment.timestamp() if isinstance(moment, datetime) else float(moment or 0.0)
