"""The CloudFormation custom resource on the embedded AWS, by events as CloudFormation sends them: made, replaced, deleted, always answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from dsqlcdc.errors import Unavailable
from dsqlcdc.hosts import cfn
from dsqlcdc.local import Commit, Fault, Local
from dsqlcdc.streams.clients import Clients
from dsqlcdc.streams.desired import OWNER_TAG
from dsqlcdc.streams.policies import trust_policy, write_policy

ACCOUNT, REGION = "123456789012", "us-east-1"
STACK = f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/orders/5f1c7a10-0000-11f0-8000-0a58a9feac02"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/service/orders-cdc-dsql"


class Remaining:
    """Lambda's context, as far as it is used."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.seconds = seconds

    def get_remaining_time_in_millis(self) -> int:
        return int(self.seconds * 1000)


class Stack:
    """CloudFormation: it sends events, hears answers at a pre-signed URL, and deletes what was replaced."""

    def __init__(self, aws: Local, cluster: str, url: str) -> None:
        self.aws, self.cluster, self.url = aws, cluster, url
        self.answers: list[dict[str, Any]] = []
        self.content_types: list[str | None] = []
        self.broken = 0
        self.requests = 0
        self.called: list[tuple[str, str]] = []
        self._call = asyncio.Event()
        self._answers = aws.dsql.call
        aws.dsql.call = self._hear_call  # type: ignore[method-assign]
        self.properties: dict[str, Any] = {
            "ServiceToken": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:stream",
            "ClusterIdentifier": cluster,
            "StreamArn": f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/orders-cdc",
            "RoleArn": ROLE,
            "Tags": {"team": "shop"},
        }

    async def hear(self, request: web.Request) -> web.Response:
        if self.broken:
            self.broken -= 1
            return web.Response(status=503)
        self.content_types.append(request.headers.get("content-type"))
        self.answers.append(json.loads(await request.read()))
        return web.Response()

    def event(self, kind: str, *, physical: str = "", old: dict[str, Any] | None = None, **changed: Any) -> dict[str, Any]:
        self.requests += 1
        made: dict[str, Any] = {
            "RequestType": kind,
            "ServiceToken": self.properties["ServiceToken"],
            "ResponseURL": self.url,
            "StackId": STACK,
            "RequestId": f"3f0c9a9e-7f66-4b9f-8a0d-{self.requests:012d}",
            "LogicalResourceId": "CdcStream",
            "ResourceType": "Custom::DsqlCdcStream",
            "ResourceProperties": {**self.properties, **changed},
        }
        if physical:
            made["PhysicalResourceId"] = physical
        if old is not None:
            made["OldResourceProperties"] = old
        return made

    async def send(self, event: dict[str, Any], seconds: float = 60.0) -> dict[str, Any]:
        told = await asyncio.to_thread(cfn.handler, event, Remaining(seconds))
        assert self.answers[-1] == told
        assert {name: told[name] for name in ("StackId", "RequestId", "LogicalResourceId")} == {
            name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")
        }
        return told

    def live(self) -> list[Any]:
        return [one for one in self.aws.dsql.cluster(self.cluster).live_streams() if one.status != "DELETING"]

    def _hear_call(self, method: str, path: str, query: Any, body: bytes) -> dict[str, Any]:
        try:
            return self._answers(method, path, query, body)
        finally:
            self.called.append((method, path))
            self._call.set()

    async def until(self, done: Callable[[], bool]) -> None:
        """Until a call of DSQL has made it so: the handler, in a thread of its own, is what calls."""
        async with asyncio.timeout(60):
            while not done():
                self._call.clear()
                await self._call.wait()

    async def appears(self, number: int = 1) -> Any:
        """The newest, once there are so many."""
        await self.until(lambda: len(self.live()) >= number)
        return self.live()[-1]


@pytest.fixture
async def stack(aws: Local, cluster: str, clients: Clients, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stack]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.endpoint)
    monkeypatch.setattr(cfn, "_FIRST", 0.01)
    await clients.kinesis.create_stream(StreamName="orders-cdc", StreamModeDetails={"StreamMode": "ON_DEMAND"}, MaxRecordSizeInKiB=10240)
    await clients.iam.create_role(
        RoleName="orders-cdc-dsql", Path="/service/", AssumeRolePolicyDocument=json.dumps(trust_policy(REGION, ACCOUNT, cluster))
    )
    allowed = json.dumps(write_policy(f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/orders-cdc"))
    await clients.iam.put_role_policy(RoleName="orders-cdc-dsql", PolicyName="write", PolicyDocument=allowed)
    made = Stack(aws, cluster, "")
    app = web.Application()
    app.router.add_put("/answer", made.hear)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/answer?X-Amz-Signature=secret"
    yield made
    await runner.cleanup()


async def test_create_makes_a_stream_that_delivers_and_tells_its_name(stack: Stack) -> None:
    told = await stack.send(stack.event("Create"))
    (stream,) = stack.live()
    assert (told["Status"], told["PhysicalResourceId"]) == ("SUCCESS", f"{stack.cluster}/{stream.id}")
    assert told["Data"] == {"StreamIdentifier": stream.id, "Arn": stream.arn, "Status": "ACTIVE"}
    assert stream.tags == {"team": "shop", OWNER_TAG: "cloudformation:orders"}
    assert stack.content_types == [""] or stack.content_types == [None]
    assert (await stack.aws.commit(Commit(cluster=stack.cluster, transactions=3))).sent[stream.id] > 0


async def test_an_invocation_that_lambda_repeats_goes_on_with_the_stream_of_the_first(stack: Stack) -> None:
    event = stack.event("Create")
    first, second = await stack.send(event), await stack.send(event)
    assert first == second
    assert len(stack.live()) == 1


async def test_a_role_that_is_refused_at_first_and_a_conflict_are_waited_for(stack: Stack) -> None:
    refused = f"The IAM role {ROLE} cannot be assumed"
    for code, status, message in (("ValidationException", 400, refused), ("ConflictException", 409, "another operation is in flight")):
        stack.aws.faults.add(
            Fault(kind="error", service="dsql", operation="CreateStream", code=code, status=status, times=1, message=message)
        )
    assert (await stack.send(stack.event("Create")))["Status"] == "SUCCESS"
    assert stack.aws.faults.hits == 2


@pytest.mark.parametrize("changed", [{"Generation": "2"}, {"StreamArn": f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/other"}])
async def test_an_update_makes_another_stream_and_the_old_one_lives_until_it_is_deleted(
    stack: Stack, clients: Clients, changed: dict[str, str]
) -> None:
    allowed = json.dumps(write_policy(f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/other"))
    await clients.kinesis.create_stream(StreamName="other", StreamModeDetails={"StreamMode": "ON_DEMAND"}, MaxRecordSizeInKiB=10240)
    await clients.iam.put_role_policy(RoleName="orders-cdc-dsql", PolicyName="write-other", PolicyDocument=allowed)
    old = (await stack.send(stack.event("Create")))["PhysicalResourceId"]
    told = await stack.send(stack.event("Update", physical=old, old=stack.properties, **changed))
    assert told["Status"] == "SUCCESS", told
    assert told["PhysicalResourceId"] != old
    assert len(stack.live()) == 2  # no moment without one: nothing is lost by it
    assert (await stack.send(stack.event("Delete", physical=old)))["Status"] == "SUCCESS"
    (left,) = stack.live()
    assert told["PhysicalResourceId"].endswith(left.id)


async def test_an_update_of_tags_and_one_of_nothing_keep_the_stream(stack: Stack) -> None:
    physical = (await stack.send(stack.event("Create")))["PhysicalResourceId"]
    for tags in ({"team": "warehouse"}, {"team": "warehouse"}):
        told = await stack.send(stack.event("Update", physical=physical, old=stack.properties, Tags=tags))
        assert (told["Status"], told["PhysicalResourceId"]) == ("SUCCESS", physical)
    (stream,) = stack.live()
    assert stream.tags["team"] == "warehouse"


async def test_a_rollback_that_asks_for_the_old_stream_again_keeps_it(stack: Stack) -> None:
    physical = (await stack.send(stack.event("Create")))["PhysicalResourceId"]
    back = stack.event("Update", physical=physical, old={**stack.properties, "Generation": "2"})
    assert (await stack.send(back))["PhysicalResourceId"] == physical
    assert len(stack.live()) == 1


async def test_an_update_makes_anew_what_has_failed(stack: Stack) -> None:
    physical = (await stack.send(stack.event("Create")))["PhysicalResourceId"]
    stack.live()[0].fail("KINESIS_STREAM_NOT_FOUND")
    told = await stack.send(stack.event("Update", physical=physical, old=stack.properties))
    assert (told["Status"], told["PhysicalResourceId"] != physical) == ("SUCCESS", True)


@pytest.mark.parametrize("how", ["fail", "impair"])
async def test_a_stream_that_does_not_become_active_is_reported_with_its_reason_and_its_name(stack: Stack, how: str) -> None:
    stack.aws.dsql.delay = 30.0
    sending = asyncio.create_task(stack.send(stack.event("Create")))
    stream = await stack.appears()
    stack.aws.dsql.delay = 0.01
    getattr(stream, how)("ROLE_ACCESS_DENIED")
    stream.activate()
    told = await sending
    assert told["Status"] == "FAILED"
    assert told["PhysicalResourceId"] == f"{stack.cluster}/{stream.id}"  # so that the rollback deletes it
    for said in ("DSQLCDC-E481", "ROLE_ACCESS_DENIED", "DSQL cannot assume the role"):
        assert said in told["Reason"]
    assert (await stack.send(stack.event("Delete", physical=told["PhysicalResourceId"])))["Status"] == "SUCCESS"
    assert stack.live() == []


async def test_an_update_whose_stream_fails_leaves_the_old_one_and_nothing_beside_it(stack: Stack) -> None:
    physical = (await stack.send(stack.event("Create")))["PhysicalResourceId"]
    (old,) = stack.live()
    stack.aws.dsql.delay = 30.0
    sending = asyncio.create_task(stack.send(stack.event("Update", physical=physical, old=stack.properties, Generation="2")))
    await stack.appears(2)
    stack.aws.dsql.delay = 0.01
    new = next(one for one in stack.live() if one.id != old.id)
    new.fail("KINESIS_ACCESS_DENIED")
    new.activate()
    told = await sending
    assert (told["Status"], told["PhysicalResourceId"]) == ("FAILED", physical)
    assert stack.live() == [old]


async def test_what_takes_longer_than_an_invocation_is_finished_by_the_next(stack: Stack) -> None:
    """Lambda sends an event again, as it is, whose invocation raised."""
    stack.aws.dsql.delay = 600.0
    event = stack.event("Create")
    with pytest.raises(cfn.Unfinished, match="E484"):
        await stack.send(event, seconds=cfn._MARGIN + 3.0)
    assert stack.answers == []
    (stream,) = stack.live()
    again = asyncio.create_task(stack.send(event))
    stream.activate()
    told = await again
    assert (told["Status"], told["PhysicalResourceId"]) == ("SUCCESS", f"{stack.cluster}/{stream.id}")
    assert stack.live() == [stream]


async def too_slow(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the second invocation answers, that waited in vain as well."""
    stack.aws.dsql.delay = 600.0
    monkeypatch.setattr(cfn, "_SLACK", -2.0)  # as if it came a minute later, when the stream is older than its time
    return await stack.send(stack.event("Create"), seconds=cfn._MARGIN + 3.0)


async def test_a_stream_that_takes_too_long_is_reported_by_name_while_there_is_time_to(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = await too_slow(stack, monkeypatch)
    (stream,) = stack.live()
    assert (told["Status"], told["PhysicalResourceId"]) == ("FAILED", f"{stack.cluster}/{stream.id}")
    assert "E483" in told["Reason"]


async def test_delete_waits_for_what_is_being_made(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    told = await too_slow(stack, monkeypatch)
    (stream,) = stack.live()
    assert stream.status == "CREATING"
    stack.aws.dsql.delay = 0.01
    deleting = asyncio.create_task(stack.send(stack.event("Delete", physical=told["PhysicalResourceId"])))
    await stack.until(lambda: sum(method == "DELETE" for method, _ in stack.called) >= 2)  # asked and refused
    assert not deleting.done()
    stream.activate()
    assert (await deleting)["Status"] == "SUCCESS"
    assert stack.live() == []


@pytest.mark.parametrize(
    "physical",
    [
        "none/3f0c9a9e",
        "CLUSTER/aaaaaaaaaaaaaaaaaaaaaaaaaa",
        "orders-CdcStream-1ABC",
        "gonegonegonegonegonegonego/gonegonegonegonegonegonego",
    ],
)
async def test_delete_is_content_where_there_is_nothing(stack: Stack, physical: str) -> None:
    told = await stack.send(stack.event("Delete", physical=physical.replace("CLUSTER", stack.cluster)))
    assert (told["Status"], told["PhysicalResourceId"]) == ("SUCCESS", physical.replace("CLUSTER", stack.cluster))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"StreamArn": ""}, "missing: StreamArn"),
        ({"Ordering": "UNORDERED"}, "unknown: Ordering"),
        ({"StreamArn": "orders-cdc"}, "to be the ARNs"),
        ({"StreamArn": f"arn:aws:kinesis:{REGION}:999999999999:stream/orders-cdc"}, "another account"),
        ({"ClusterIdentifier": "b" * 26}, "b" * 26),
    ],
)
async def test_what_cannot_be_made_is_reported_and_its_rollback_finds_nothing_to_delete(
    stack: Stack, changed: dict[str, str], said: str
) -> None:
    told = await stack.send(stack.event("Create", **changed))
    assert told["Status"] == "FAILED"
    assert said in told["Reason"]
    assert stack.live() == []
    assert (await stack.send(stack.event("Delete", physical=told["PhysicalResourceId"])))["Status"] == "SUCCESS"


async def test_what_nobody_thought_of_is_told_too_without_its_words(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(cfn, "_properties", broken)
    told = await stack.send(stack.event("Create"))
    assert (told["Status"], "KeyError" in told["Reason"], "secret" in told["Reason"]) == ("FAILED", True, False)


async def test_the_answer_is_sent_again_and_its_url_is_in_no_error(stack: Stack) -> None:
    stack.broken = 2
    assert (await stack.send(stack.event("Delete", physical="none/x")))["Status"] == "SUCCESS"
    stack.broken = 99
    with pytest.raises(Unavailable, match="E482") as caught:
        await stack.send(stack.event("Delete", physical="none/x"))
    assert "secret" not in str(caught.value)
