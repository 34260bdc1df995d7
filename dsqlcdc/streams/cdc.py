"""The CDC stream itself: created once however often it is asked for, waited for, deleted."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from typing import Any

from dsqlcdc.aws import error_code
from dsqlcdc.errors import Misconfigured
from dsqlcdc.streams.observe import get_cluster, get_stream, list_streams
from dsqlcdc.streams.observed import CdcStream, in_words
from dsqlcdc.streams.obstacles import AWAKE, asleep, quota
from dsqlcdc.streams.remedies import remedy
from dsqlcdc.streams.wanted import ADOPTED_TAG, ours, target_arn, wanted_role_arn, wanted_tags
from dsqlcdc.streams.work import Work

_APPEARS = 10.0
"""Seconds after which a stream that was created and is not found is one that an earlier call created, and that was deleted since."""
_TOKENS = 20


async def create(work: Work, *, token: str = "") -> CdcStream:
    """Create the CDC stream, or find the one that an earlier call created.

    The client token is made of what is asked for, so that a call whose answer was lost, in this process or one that was killed, creates
    nothing twice. The service may remember a token longer than its stream lives: then the next of a fixed row of tokens is taken.
    `token`: a name of this very wish, which is to have a stream of its own beside others that are asked for in the same words.
    Raises Misconfigured: E172 (the cluster sleeps), E173 (no room), E175 (the role stays refused), or what AWS says.
    """
    await _awake(work)
    for number in range(_TOKENS):
        made = await _created(work, number, token)
        stream = await _appeared(work, str(made["streamIdentifier"]))
        if stream is not None and stream.status not in ("DELETING", "DELETED"):
            return stream
    what, why = "the CDC stream cannot be created", f"the service gives back streams that were deleted, for {_TOKENS} client tokens"
    raise Misconfigured(what, where=_where(work), why=why, run="the same command again tomorrow", code="E178")


async def _awake(work: Work) -> None:
    """Wait for a cluster that is being made or changed."""
    cluster = await work.until(
        lambda: get_cluster(work.clients, work.desired.cluster),
        lambda seen: seen is None or seen.status == "ACTIVE" or seen.status not in AWAKE,
        lambda seen: f"cluster {work.desired.cluster} is {seen.status if seen is not None else 'gone'}",
    )
    if cluster is not None and cluster.status != "ACTIVE":
        raise asleep(work.desired, cluster.status)


async def _created(work: Work, number: int, wish: str) -> dict[str, Any]:
    clients, desired = work.clients, work.desired
    role = wanted_role_arn(desired, work.observed)
    given: dict[str, Any] = {
        "clusterIdentifier": desired.cluster,
        "targetDefinition": {"kinesis": {"streamArn": target_arn(desired, work.observed), "roleArn": role}},
        "ordering": "UNORDERED",
        "format": "JSON",
        "tags": wanted_tags(desired),
    }
    token = hashlib.sha256(json.dumps([given, number], sort_keys=True).encode()).hexdigest()
    if wish:
        token = wish if number == 0 else f"{wish}-{number}"
    loop, pause, since = asyncio.get_running_loop(), work.poll, math.inf
    while True:
        try:
            return await clients.ask(
                clients.dsql.create_stream,
                doing="create the CDC stream",
                where=_where(work),
                resource=clients.cluster_arn(desired.cluster),
                clientToken=token,
                **given,
            )
        except Misconfigured as error:
            since = min(since, loop.time())
            await _refused(work, error, role, loop.time() - since)
        work.say(f"DSQL does not take the role yet, a new one needs some seconds ({loop.time() - since:.0f} s)")
        await asyncio.sleep(pause * (0.5 + clients.random()))
        pause = min(pause * 2, work.poll_most)


async def _refused(work: Work, error: Misconfigured, role: str, waited: float) -> None:
    """Nothing for a role that is not usable yet; raises for every other refusal, in plain words where they are known."""
    cause = error.__cause__
    code = error_code(cause) if cause is not None else ""
    if code == "ServiceQuotaExceededException":
        held = [one for one in await list_streams(work.clients, work.desired.cluster) if one.status not in ("DELETING", "DELETED")]
        raise quota(work.desired, held) from error
    if code != "ValidationException":
        raise error
    if role in str(cause) or "iam role" in str(cause).lower():
        if waited < work.role_wait:
            return
        why = f"refused for {waited:.0f} s: {error.why}"
        run = "dsqlcdc stream plan CONFIG, which judges its trust policy"
        raise Misconfigured("DSQL does not take the role", where=f"iam role {role}", why=why, run=run, code="E175") from error
    cluster = await get_cluster(work.clients, work.desired.cluster)
    if cluster is not None and cluster.status != "ACTIVE":
        raise asleep(work.desired, cluster.status) from error
    raise error


async def _appeared(work: Work, stream: str) -> CdcStream | None:
    """What was created, once it can be seen."""
    loop = asyncio.get_running_loop()
    until, pause = loop.time() + _APPEARS, work.poll
    while (found := await get_stream(work.clients, work.desired.cluster, stream)) is None and loop.time() < until:
        await asyncio.sleep(pause)
        pause = min(pause * 2, work.poll_most)
    return found


async def until_active(work: Work, stream: str, *, mending: bool) -> CdcStream:
    """The CDC stream as soon as it is ACTIVE, or will not be by itself: FAILED, gone, or IMPAIRED. `mending`: what impairs it was just
    changed, so that it may become ACTIVE yet."""
    stays = ("CREATING", "IMPAIRED") if mending else ("CREATING",)
    gone = CdcStream(cluster=work.desired.cluster, id=stream, arn="", status="DELETED")

    async def look() -> CdcStream:
        return await get_stream(work.clients, work.desired.cluster, stream) or gone

    return await work.until(look, lambda seen: seen.status not in stays, lambda seen: f"CDC stream {stream} is {in_words(seen)}")


def unwell(work: Work, stream: CdcStream) -> Misconfigured | None:
    """Why a stream that is not ACTIVE is not, with its remedy."""
    if stream.status == "ACTIVE":
        return None
    code = stream.reason.error if stream.reason is not None else ""
    found = remedy(code, work.desired, work.observed, stream=stream)
    said = [f"{code}: {found.explanation}" if code else found.explanation, *(action.what for action in found.actions)]
    return Misconfigured(
        f"the CDC stream is {stream.status}",
        where=f"{_where(work)}, stream {stream.id}",
        why=" ".join(said).rstrip("."),
        run="dsqlcdc stream status CONFIG",
        code="E178",
    )


async def tag(work: Work, stream: CdcStream) -> None:
    """Our tags on one that we made; on another only that we use it."""
    clients, desired = work.clients, work.desired
    tags = wanted_tags(desired) if ours(stream.tags, desired) else {ADOPTED_TAG: desired.pipeline}
    about = {"where": f"{_where(work)}, stream {stream.id}", "resource": stream.arn}
    await clients.ask(clients.dsql.tag_resource, doing="tag the CDC stream", **about, resourceArn=stream.arn, tags=tags)


async def delete(work: Work, stream: str) -> None:
    """Delete the CDC stream and wait until it is gone. One that is being made is waited for: it cannot be deleted before; one that is being
    deleted already is only waited for."""
    clients, cluster = work.clients, work.desired.cluster
    there = await get_stream(clients, cluster, stream)
    if there is not None and there.status != "DELETING":
        await clients.find(
            clients.dsql.delete_stream,
            doing="delete the CDC stream",
            where=f"{_where(work)}, stream {stream}",
            resource=clients.cdc_arn(cluster, stream),
            clusterIdentifier=cluster,
            streamIdentifier=stream,
        )
    await work.until(
        lambda: get_stream(clients, cluster, stream),
        lambda seen: seen is None or seen.status == "DELETED",
        lambda seen: f"CDC stream {stream} is {seen.status if seen is not None else 'gone'}",
    )


def _where(work: Work) -> str:
    return f"cluster {work.desired.cluster}"
