"""A CDC stream as a custom resource of CloudFormation, which has no type for it: `dsqlcdc.hosts.cfn.handler` is the Lambda function behind it."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
import orjson

from dsqlcdc.aws import Aws
from dsqlcdc.errors import Fault, Misconfigured, Unavailable
from dsqlcdc.streams import cdc
from dsqlcdc.streams.clients import Clients, open_clients
from dsqlcdc.streams.desired import Desired, Target
from dsqlcdc.streams.observe import get_stream
from dsqlcdc.streams.observed import CdcStream, Observed, RoleState
from dsqlcdc.streams.remedies import blind
from dsqlcdc.streams.work import Work

__all__ = ["Context", "handler"]

log = logging.getLogger("dsqlcdc.cfn")

REQUIRED = ("ClusterIdentifier", "StreamArn", "RoleArn")
OPTIONAL = ("Generation", "Tags")
"""`Generation` means nothing: another value of it asks for another stream."""
GENERATION = "dsqlcdc:generation"
"""The tag that keeps it."""
OF_CLOUDFORMATION = ("ServiceToken", "ServiceTimeout")
_MARGIN = 20.0
"""Seconds of an invocation that are left for the answer."""
_SLACK = 30.0
"""Seconds by which DSQL's clock and ours may differ. Lambda waits a minute before it sends an event again."""
_REASON_AT_MOST = 2000
"""Characters; CloudFormation takes an answer of 4,096 bytes."""
_NAME = re.compile(r"[a-z0-9]{26}/[a-z0-9]{26}")
"""A physical id that is a stream's."""
_ANSWERS = 5
_FIRST = 0.5
"""Seconds before the second attempt to answer; each later one waits twice as long."""
_RUN = "aws cloudformation describe-stack-events --stack-name STACK"


class Context(Protocol):
    """What is used of Lambda's context object."""

    def get_remaining_time_in_millis(self) -> int: ...


class Answer(msgspec.Struct, frozen=True):
    """What CloudFormation is told. `physical` names the stream as `cluster/stream`: another name than before makes it delete the old one."""

    physical: str
    fault: str = ""
    data: Mapping[str, str] = {}


class Failed(Exception):
    """A fault after a stream was made: `physical` must be told, or nobody would ever delete it."""

    def __init__(self, physical: str, fault: Fault) -> None:
        super().__init__(str(fault))
        self.physical, self.fault = physical, fault


class Unfinished(Unavailable):
    """The stream that this invocation began is not ACTIVE in its time: the next one goes on with it (E484)."""


def handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Make, replace or delete the CDC stream that a custom resource asks for, and tell CloudFormation; gives what was told.

    Properties: ClusterIdentifier, StreamArn, RoleArn; Tags and Generation where wanted. Create waits until the stream is ACTIVE. Update
    changes tags in place; for anything else it makes a new stream beside the old one, which CloudFormation deletes after: both deliver for
    a while, so nothing is lost and duplicates are told as always. Delete is content where there is nothing, and waits for what is being
    made. The client token is the RequestId, so an invocation that Lambda repeats goes on with the stream of the first. Whatever goes wrong
    is reported as FAILED with its reason, for CloudFormation waits an hour for an answer that does not come. Raises Unavailable (E482)
    where the answer cannot be sent, and Unfinished (E484), without an answer, where the time is over for the invocation that began a
    stream: Lambda sends an event again whose invocation raised, twice if need be, and the next one answers whatever comes.
    """
    logging.getLogger("dsqlcdc").setLevel(logging.INFO)
    return asyncio.run(_handle(event, context.get_remaining_time_in_millis() / 1000 - _MARGIN))


async def _handle(event: dict[str, Any], seconds: float) -> dict[str, Any]:
    before = str(event.get("PhysicalResourceId", ""))
    try:
        async with asyncio.timeout(max(1.0, seconds)):
            answer = await _done(event, before, seconds)
    except Unfinished as error:
        log.warning("%s", error)
        raise
    except TimeoutError:
        late = Unavailable("the CDC stream was not done in time", where=_where(event), why=f"{seconds:.0f} s have passed", code="E483")
        answer = Answer(before or _nothing(event), str(late))
    except Failed as error:
        answer = Answer(error.physical, str(error.fault))
    except Fault as error:
        answer = Answer(before or _nothing(event), str(error))
    except Exception as error:  # told, or the stack hangs until CloudFormation gives up
        log.exception("unexpected")
        answer = Answer(before or _nothing(event), f"unexpected {type(error).__name__}: see the function's log")
    body = _body(event, answer)
    log.info("%s %s: %s %s", event.get("RequestType"), answer.physical, body["Status"], answer.fault)
    await _send(str(event["ResponseURL"]), body)
    return body


async def _done(event: dict[str, Any], before: str, seconds: float) -> Answer:
    kind = event.get("RequestType")
    if kind == "Delete":
        return await _delete(event, before, seconds)
    properties = _properties(event)
    desired, observed = _wanted(event, properties)
    async with open_clients(Aws(region=observed.region), desired, deadline=seconds) as clients:
        work = _work(desired, observed, clients)
        if kind == "Update" and (there := await _kept(work, before)) is not None:
            await cdc.tag(work, there)
            return _told(there)
        return await _make(event, work, before, seconds)


async def _kept(work: Work, before: str) -> CdcStream | None:
    """The stream that is there, where it is the one asked for: a rollback asks for the old one again. Only its tags can be changed."""
    cluster, _, stream = before.partition("/")
    if cluster != work.desired.cluster:
        return None
    there = await get_stream(work.clients, cluster, stream)
    if there is None or there.status in ("FAILED", "DELETING", "DELETED") or work.observed.role is None:
        return None
    same = (there.target, there.role, there.tags.get(GENERATION)) == (
        work.desired.target.arn,
        work.observed.role.arn,
        work.desired.tags.get(GENERATION),
    )
    return there if same else None


async def _make(event: dict[str, Any], work: Work, before: str, seconds: float) -> Answer:
    made = await cdc.create(work, token=str(event["RequestId"]))
    physical = f"{made.cluster}/{made.id}"
    try:
        stream = await cdc.until_active(work, made.id, mending=False)
        if stream.status != "ACTIVE":
            if before:  # an update that fails leaves the old one, and nothing beside it
                await cdc.delete(work, made.id)
            raise Failed(before or physical, _unwell(event, work, stream))
    except Fault as error:
        raise Failed(physical, error) from error
    except asyncio.CancelledError:
        # The time is over. Whoever began it leaves it to another; else what was made must be known, so that a rollback deletes it.
        if work.clock() - made.created_at < seconds + _SLACK:
            why = "this invocation's time is over, and Lambda sends the event again"
            raise Unfinished("the CDC stream is still CREATING", where=f"CDC stream {made.id}", why=why, code="E484") from None
        late = Unavailable("the CDC stream was not done in time", where=_where(event), why=f"{made.id} is not ACTIVE yet", code="E483")
        raise Failed(physical, late) from None
    return _told(stream)


def _unwell(event: dict[str, Any], work: Work, stream: CdcStream) -> Misconfigured:
    code = stream.reason.error if stream.reason is not None else ""
    found = blind(code, work.desired, stream.status)
    why = " ".join(
        [f"it is {stream.status}, {code or 'without a reason'}: {found.explanation}", *(action.what for action in found.actions[:1])]
    ).rstrip(".")
    return Misconfigured("the CDC stream did not become ACTIVE", where=_where(event), why=why, run=_RUN, code="E481")


async def _delete(event: dict[str, Any], before: str, seconds: float) -> Answer:
    """What was never made has no such name; what is gone is fine."""
    cluster, _, stream = before.partition("/")
    if not _NAME.fullmatch(before):
        return Answer(before)
    region = str(event["StackId"]).split(":")[3]
    desired = Desired(pipeline=_owner(event), cluster=cluster, target=Target(name="unknown"), role="unknown")
    async with open_clients(Aws(region=region), desired, deadline=seconds) as clients:
        observed = Observed(account=clients.account, region=region, partition=clients.partition, cluster=None, target=None, role=None)
        await cdc.delete(_work(desired, observed, clients), stream)
    return Answer(before)


def _work(desired: Desired, observed: Observed, clients: Clients) -> Work:
    return Work(desired=desired, observed=observed, clients=clients, say=log.info, clock=time.time)


def _properties(event: dict[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in event.get("ResourceProperties", {}).items() if name not in OF_CLOUDFORMATION}
    missing = [name for name in REQUIRED if not isinstance(found.get(name), str) or not found[name]]
    unknown = sorted(found.keys() - {*REQUIRED, *OPTIONAL})
    if missing or unknown or not isinstance(found.get("Tags", {}), dict):
        said = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"unknown: {', '.join(unknown)}"] * bool(unknown)
        why = "; ".join(said) or "Tags is a map of names and values"
        raise Misconfigured("the custom resource's properties are wrong", where=_where(event), why=why, run=_RUN, code="E480")
    return found


def _wanted(event: dict[str, Any], properties: dict[str, Any]) -> tuple[Desired, Observed]:
    """What is desired, and as observed only the role with its ARN, which may have a path."""
    stream, role = str(properties["StreamArn"]), str(properties["RoleArn"])
    parts = stream.split(":")
    if len(parts) != 6 or parts[2] != "kinesis" or not parts[5].startswith("stream/") or ":role/" not in role:
        why = f"StreamArn {stream} and RoleArn {role} are to be the ARNs of a Kinesis data stream and of a role"
        raise Misconfigured("the custom resource's properties are wrong", where=_where(event), why=why, run=_RUN, code="E480")
    name = role.rpartition("/")[2]
    tags = {str(key): str(value) for key, value in properties.get("Tags", {}).items()}
    if "Generation" in properties:
        tags[GENERATION] = str(properties["Generation"])
    target = Target(name=parts[5].removeprefix("stream/"), arn=stream)
    desired = Desired(pipeline=_owner(event), cluster=str(properties["ClusterIdentifier"]), target=target, role=name, tags=tags)
    there = RoleState(name=name, arn=role, trust={})
    return desired, Observed(account=parts[4], region=parts[3], partition=parts[1], cluster=None, target=None, role=there)


def _owner(event: dict[str, Any]) -> str:
    """In the tag that says who made it: a stack, so that no `dsqlcdc stream delete` takes it for a pipeline's."""
    return f"cloudformation:{[*str(event.get('StackId', '')).split('/'), '', ''][1]}"


def _nothing(event: dict[str, Any]) -> str:
    """The physical id of what could not be made."""
    return f"none/{event.get('RequestId', '')}"


def _where(event: dict[str, Any]) -> str:
    return f"custom resource {event.get('LogicalResourceId', '')}"


def _told(stream: CdcStream) -> Answer:
    data = {"StreamIdentifier": stream.id, "Arn": stream.arn, "Status": stream.status}
    return Answer(f"{stream.cluster}/{stream.id}", data=data)


def _body(event: dict[str, Any], answer: Answer) -> dict[str, Any]:
    echoed = {name: event.get(name, "") for name in ("StackId", "RequestId", "LogicalResourceId")}
    status = "FAILED" if answer.fault else "SUCCESS"
    reason = answer.fault[:_REASON_AT_MOST]
    return {"Status": status, "Reason": reason, "PhysicalResourceId": answer.physical, **echoed, "Data": dict(answer.data)}


async def _send(url: str, body: Mapping[str, Any]) -> None:
    """Put the answer to the pre-signed URL, which is a secret: it is in no message."""
    data = orjson.dumps(body)
    for attempt in range(_ANSWERS):
        try:
            await asyncio.to_thread(_put, url, data)
            return
        except (urllib.error.URLError, OSError) as error:
            if attempt + 1 == _ANSWERS:
                why = f"{_ANSWERS} times: {type(error).__name__}"
                raise Unavailable("CloudFormation cannot be told", where="ResponseURL", why=why, code="E482") from None
            await asyncio.sleep(_FIRST * 2**attempt)


def _put(url: str, data: bytes) -> None:
    # signed for a content type that is empty
    request = urllib.request.Request(url, data, {"content-type": ""}, method="PUT")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        error.close()
        raise
