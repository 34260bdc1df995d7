"""From nothing to an ACTIVE CDC stream: Kinesis stream, cluster, role, CDC stream; what is there already is used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec

from dsqlcdc.aws import Aws, client, error_code, errors, translate
from dsqlcdc.errors import Misconfigured, Unavailable
from dsqlcdc.streams.policies import trust_policy, write_policy

OWNER_TAG = "dsqlcdc:stream"
"""A cluster that was made here carries the Kinesis stream's name under this tag."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is wanted. `cluster`: its identifier, "" makes one. `shards`: None for an on-demand stream.

    `max_record_kib`: 10240 lets the largest change records through (spec §1). It and `retention_hours` are raised, never lowered.
    """

    stream: str
    role: str
    cluster: str = ""
    shards: int | None = None
    max_record_kib: int = 10240
    retention_hours: int = 24
    tags: Mapping[str, str] = {}


class Provisioned(msgspec.Struct, frozen=True):
    """What is there now."""

    stream_arn: str
    role_arn: str
    cluster: str
    cdc_stream: str


class _Clients(msgspec.Struct, frozen=True):
    kinesis: Any
    dsql: Any
    iam: Any
    region: str
    account: str


async def provision(
    plan: Plan, aws: Aws, *, deadline: float = 300.0, poll: float = 0.2, say: Callable[[str], None] = lambda _: None
) -> Provisioned:
    """Make what is missing and wait until the CDC stream is ACTIVE. Calling it again changes nothing.

    `deadline`: seconds for everything; `poll`: seconds between two looks, doubled up to 2 s. `say` hears each step. Raises Misconfigured
    when the service refuses (with its words) or the CDC stream is FAILED (with its statusReason), Unavailable when the service cannot be
    asked or the deadline has passed. When cancelled, what was made stays; a second call goes on from there.
    """
    try:
        async with asyncio.timeout(deadline):
            async with _clients(aws) as clients:
                return await _provision(plan, clients, poll, say)
    except TimeoutError as error:
        what, run = (
            f"the CDC stream into {plan.stream} was not ACTIVE within {deadline:g} s",
            "the same command again: it goes on from here",
        )
        raise Unavailable(what, where=f"cluster {plan.cluster or 'to be made'}", run=run) from error


@asynccontextmanager
async def _clients(aws: Aws) -> AsyncGenerator[_Clients, None]:
    async with AsyncExitStack() as stack:
        kinesis, dsql, iam, sts = [await stack.enter_async_context(client(name, aws)) for name in ("kinesis", "dsql", "iam", "sts")]
        identity = await _ask("say whose credentials these are", "aws sts", sts.get_caller_identity)
        yield _Clients(kinesis, dsql, iam, kinesis.meta.region_name, identity["Account"])


async def _provision(plan: Plan, clients: _Clients, poll: float, say: Callable[[str], None]) -> Provisioned:
    stream_arn = await _kinesis_stream(plan, clients, poll, say)
    cluster = await _cluster(plan, clients, poll, say)
    role_arn = await _role(plan, clients, cluster, stream_arn, say)
    cdc_stream = await _cdc_stream(plan, clients, cluster, stream_arn, role_arn, poll, say)
    return Provisioned(stream_arn, role_arn, cluster, cdc_stream)


async def _kinesis_stream(plan: Plan, clients: _Clients, poll: float, say: Callable[[str], None]) -> str:
    where = f"kinesis stream {plan.stream}"

    async def look() -> dict[str, Any]:
        found = await _ask("describe the stream", where, clients.kinesis.describe_stream_summary, StreamName=plan.stream)
        summary: dict[str, Any] = found["StreamDescriptionSummary"]
        return summary

    async def settled() -> dict[str, Any]:
        return await _until(look, lambda summary: summary["StreamStatus"] == "ACTIVE", poll)

    if await _missing("describe the stream", where, clients.kinesis.describe_stream_summary, StreamName=plan.stream):
        say(f"creating {where}")
        mode = {"StreamMode": "PROVISIONED" if plan.shards else "ON_DEMAND"}
        shards = {"ShardCount": plan.shards} if plan.shards else {}
        given = {"MaxRecordSizeInKiB": plan.max_record_kib, "StreamModeDetails": mode, **shards}
        if plan.tags:
            given["Tags"] = dict(plan.tags)
        await _ask("create the stream", where, clients.kinesis.create_stream, StreamName=plan.stream, **given)
    summary = await settled()
    arn = str(summary["StreamARN"])
    if summary.get("MaxRecordSizeInKiB", 1024) < plan.max_record_kib:
        say(f"raising the record size of {where} to {plan.max_record_kib} KiB")
        update = clients.kinesis.update_max_record_size
        await _ask("raise the record size", where, update, StreamARN=arn, MaxRecordSizeInKiB=plan.max_record_kib)
        summary = await settled()
    if summary["RetentionPeriodHours"] < plan.retention_hours:
        increase = clients.kinesis.increase_stream_retention_period
        await _ask("raise the retention", where, increase, StreamARN=arn, RetentionPeriodHours=plan.retention_hours)
        await settled()
    return arn


async def _cluster(plan: Plan, clients: _Clients, poll: float, say: Callable[[str], None]) -> str:
    cluster = plan.cluster or await _own_cluster(plan, clients)
    if not cluster:
        say("creating a DSQL cluster")
        tags = {**plan.tags, OWNER_TAG: plan.stream}
        made = await _ask("create a cluster", "aws dsql", clients.dsql.create_cluster, deletionProtectionEnabled=False, tags=tags)
        cluster = str(made["identifier"])

    async def look() -> dict[str, Any]:
        return await _ask("get the cluster", f"cluster {cluster}", clients.dsql.get_cluster, identifier=cluster)

    found = await _until(look, lambda found: found["status"] not in ("CREATING", "UPDATING", "PENDING_SETUP"), poll)
    if found["status"] != "ACTIVE":
        why = f"the cluster is {found['status']}, not ACTIVE"
        raise Misconfigured(
            "a CDC stream cannot be created", where=f"cluster {cluster}", why=why, run="psql, to wake it, and the same again"
        )
    return cluster


async def _own_cluster(plan: Plan, clients: _Clients) -> str:
    token: dict[str, str] = {}
    while True:
        page = await _ask("list clusters", "aws dsql", clients.dsql.list_clusters, **token)
        for cluster in page["clusters"]:
            found = await _ask("get the cluster", "aws dsql", clients.dsql.get_cluster, identifier=cluster["identifier"])
            if found.get("tags", {}).get(OWNER_TAG) == plan.stream and found["status"] not in ("DELETING", "DELETED", "FAILED"):
                return str(found["identifier"])
        if not page.get("nextToken"):
            return ""
        token = {"nextToken": page["nextToken"]}


async def _role(plan: Plan, clients: _Clients, cluster: str, stream_arn: str, say: Callable[[str], None]) -> str:
    """The role that DSQL assumes. One that is there keeps its trust policy; its permission on the stream is (re)written."""
    where = f"iam role {plan.role}"
    if await _missing("get the role", where, clients.iam.get_role, RoleName=plan.role):
        say(f"creating {where}")
        trust = msgspec.json.encode(trust_policy(clients.region, clients.account, cluster)).decode()
        await _ask("create the role", where, clients.iam.create_role, RoleName=plan.role, AssumeRolePolicyDocument=trust)
    policy = msgspec.json.encode(write_policy(stream_arn)).decode()
    put = clients.iam.put_role_policy
    await _ask("let the role write", where, put, RoleName=plan.role, PolicyName=f"write-{plan.stream}", PolicyDocument=policy)
    found = await _ask("get the role", where, clients.iam.get_role, RoleName=plan.role)
    return str(found["Role"]["Arn"])


async def _cdc_stream(
    plan: Plan, clients: _Clients, cluster: str, stream_arn: str, role_arn: str, poll: float, say: Callable[[str], None]
) -> str:
    found = await _own_stream(clients, cluster, stream_arn)
    if not found:
        say("creating the CDC stream")
        found = await _create_cdc_stream(plan, clients, cluster, {"streamArn": stream_arn, "roleArn": role_arn}, poll)
    where = f"cluster {cluster}, stream {found}"

    async def look() -> dict[str, Any]:
        return await _ask("get the CDC stream", where, clients.dsql.get_stream, clusterIdentifier=cluster, streamIdentifier=found)

    say("waiting until the CDC stream is ACTIVE")
    stream = await _until(look, lambda stream: stream["status"] != "CREATING", poll)
    if stream["status"] not in ("ACTIVE", "IMPAIRED"):
        reason = stream.get("statusReason", {}).get("error", "no reason given")
        run = f"aws dsql delete-stream --cluster-identifier {cluster} --stream-identifier {found}, mend it, then the same command again"
        raise Misconfigured(f"the CDC stream is {stream['status']}", where=where, why=reason, run=run)
    return found


async def _own_stream(clients: _Clients, cluster: str, stream_arn: str) -> str:
    token: dict[str, str] = {}
    while True:
        page = await _ask("list CDC streams", f"cluster {cluster}", clients.dsql.list_streams, clusterIdentifier=cluster, **token)
        for summary in page["streams"]:
            if summary["status"] in ("CREATING", "ACTIVE", "IMPAIRED"):
                key = {"clusterIdentifier": cluster, "streamIdentifier": summary["streamIdentifier"]}
                stream = await _ask("get the CDC stream", f"cluster {cluster}", clients.dsql.get_stream, **key)
                if stream.get("targetDefinition", {}).get("kinesis", {}).get("streamArn") == stream_arn:
                    return str(summary["streamIdentifier"])
        if not page.get("nextToken"):
            return ""
        token = {"nextToken": page["nextToken"]}


async def _create_cdc_stream(plan: Plan, clients: _Clients, cluster: str, target: dict[str, str], poll: float) -> str:
    """A role made seconds ago is refused at first, and so is a second operation in flight: both pass, within the deadline."""
    tags = {"tags": dict(plan.tags)} if plan.tags else {}
    given = {"clusterIdentifier": cluster, "targetDefinition": {"kinesis": target}, "ordering": "UNORDERED", "format": "JSON", **tags}
    refused = 0.0
    while True:
        try:
            made = await clients.dsql.create_stream(**given)
            return str(made["streamIdentifier"])
        except errors() as error:
            role_is_new = error_code(error) == "ValidationException" and "role" in str(error).lower() and refused < ROLE_WAIT
            if not role_is_new and error_code(error) != "ConflictException":
                raise translate(error, doing="create the CDC stream", where=f"cluster {cluster}") from error
            refused += poll if role_is_new else 0.0
            await asyncio.sleep(poll)
            poll = min(poll * 2, 2.0)


ROLE_WAIT = 60.0
"""Seconds of waiting for a new role; refused longer than that, it is the role itself that is wrong."""


async def _until(look: Callable[[], Awaitable[dict[str, Any]]], done: Callable[[dict[str, Any]], bool], poll: float) -> dict[str, Any]:
    while not done(found := await look()):
        await asyncio.sleep(poll)
        poll = min(poll * 2, 2.0)
    return found


async def _missing(doing: str, where: str, call: Callable[..., Awaitable[Any]], **given: Any) -> bool:
    """Whether what the call asks for does not exist."""
    try:
        await call(**given)
    except errors() as error:
        if error_code(error) in ("ResourceNotFoundException", "NoSuchEntity"):
            return True
        raise translate(error, doing=doing, where=where) from error
    return False


async def _ask(doing: str, where: str, call: Callable[..., Awaitable[Any]], **given: Any) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = await call(**given)
        return answer
    except errors() as error:
        raise translate(error, doing=doing, where=where) from error
