"""The policies of the stream manager allow what its commands call, on what they call it, and nothing more: recorded in real runs."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from string import Template
from typing import Any

import msgspec
import pytest

from dsqlcdc.aws import Aws
from dsqlcdc.errors import Misconfigured
from dsqlcdc.local import Deny, Local
from dsqlcdc.stores.memory_checkpoints import MemoryCheckpoints
from dsqlcdc.streams import apply as applying
from dsqlcdc.streams import delete as deleting
from dsqlcdc.streams import target as target_of
from dsqlcdc.streams.clients import MISSING, Clients, open_clients
from dsqlcdc.streams.desired import Desired, Target
from dsqlcdc.streams.lag import behind
from dsqlcdc.streams.observe import list_streams, look_at, observe
from dsqlcdc.streams.plan import plan
from dsqlcdc.streams.policies import grants, trust_policy
from dsqlcdc.streams.work import Work

from ..docs.reading import POLICIES, VALUES, action, actions, operation
from ..docs.test_policies import MANAGER, ROOT, calls

BESIDE = {
    "iam:PassRole": "CreateStream of dsql hands the role over",
    "kinesis:TagResource": "CreateStream of kinesis with tags, by its newer name",
    "kms:Decrypt": "CreateStream of dsql, where the cluster has a key of the user's",
}
"""What AWS asks for beside what is called, and where."""
WIDE = '{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kinesis:ListShards", "Resource": "*"}}'
OTHERS = json.dumps({"Version": "2012-10-17", "Statement": {**trust_policy("us-east-1", "1" * 12, "c")["Statement"][0]}})
"""A trust policy that leaves us out."""
Called = set[tuple[str, str]]


class Recording(Clients, frozen=True, kw_only=True):
    """Clients that note the IAM action and the ARN of every call."""

    called: Called

    async def find(
        self,
        call: Callable[..., Awaitable[Any]],
        *,
        doing: str,
        where: str,
        resource: str,
        done: Sequence[str] = (),
        missing: Sequence[str] = MISSING,
        **given: Any,
    ) -> dict[str, Any] | None:
        service = resource.split(":")[2]
        called = operation(service, call.__name__)
        assert called is not None
        self.called.add((action(service, called), resource))
        return await super().find(call, doing=doing, where=where, resource=resource, done=done, missing=missing, **given)


class Runs:
    """The commands, run in turn on one account."""

    def __init__(self, aws: Local, account: Aws, clients: Clients, desired: Desired) -> None:
        self.aws, self.account, self.desired, self.plain = aws, account, desired, clients
        self.called: Called = set()
        self.said: list[str] = []
        self.clients = Recording(**{name: getattr(clients, name) for name in Clients.__struct_fields__}, called=self.called)

    async def work(self, **change: Any) -> Work:
        self.desired = msgspec.structs.replace(self.desired, **change)
        observed = await observe(self.desired, self.clients)
        return Work(
            desired=self.desired,
            observed=observed,
            clients=self.clients,
            say=self.said.append,
            clock=lambda: 1e9,
            poll=0.01,
            poll_most=0.05,
        )

    async def apply(self, **change: Any) -> None:
        work = await self.work(**change)
        await applying.apply(plan(work.desired, work.observed), work, replace=True, store=MemoryCheckpoints())

    async def delete(self) -> None:
        work = await self.work()
        await deleting.delete(deleting.deletion(work.desired, work.observed, everything=True), work)

    async def attach(self) -> None:
        """A managed policy on the role, or off it."""
        iam = self.plain.iam
        made = (await iam.create_policy(PolicyName="wide", PolicyDocument=WIDE))["Policy"]["Arn"]
        await iam.attach_role_policy(RoleName=self.desired.role, PolicyArn=made)

    async def detach(self) -> None:
        arn = f"arn:aws:iam::{self.plain.account}:policy/wide"
        await self.plain.iam.detach_role_policy(RoleName=self.desired.role, PolicyArn=arn)

    def policy(self, *names: str) -> dict[str, Any]:
        """Policies filled in for this account, as one."""
        values = {**VALUES, "CLUSTER": self.desired.cluster}
        read = [json.loads(Template((POLICIES / f"{name}.json").read_text(encoding="utf-8")).substitute(values)) for name in names]
        return {"Version": "2012-10-17", "Statement": [statement for one in read for statement in one["Statement"]]}

    def hold(self, names: Sequence[str], beside: Mapping[str, str]) -> None:
        """The policies allow what was called since, and nothing more."""
        document = self.policy(*names)
        assert actions(document) == {called for called, _ in self.called} | beside.keys()
        refused = {one for one in self.called if not one[1].startswith("arn:aws:kms") and grants([document], *one) != "allowed"}
        assert refused == set()
        self.called.clear()


@pytest.fixture
def runs(aws: Local, account: Aws, clients: Clients, desired: Desired) -> Runs:
    return Runs(aws, account, clients, desired)


async def test_each_command_may_do_what_it_calls_and_nothing_more(runs: Runs) -> None:
    target = Target(name="orders-cdc", mode="provisioned", shards=1, max_record_kib=1024, retention_hours=24)
    await runs.apply(target=target)
    await runs.attach()
    await runs.apply(target=Target(name="orders-cdc"), tags={"team": "other"})
    await runs.plain.iam.update_assume_role_policy(RoleName=runs.desired.role, PolicyDocument=OTHERS)
    await runs.apply()
    (stream,) = runs.aws.dsql.cluster(runs.desired.cluster).live_streams()
    stream.fail("INTERNAL_ERROR")
    await runs.apply()
    beside = {name: BESIDE[name] for name in ("iam:PassRole", "kinesis:TagResource")}
    everything = set(runs.called)
    runs.hold(["stream-apply"], beside)

    [stream] = await list_streams(runs.clients, runs.desired.cluster)
    assert await look_at(runs.clients, runs.desired.cluster, stream.id) == stream
    async with open_clients(runs.account, runs.desired, metrics=True) as measuring:
        assert await behind(measuring, stream, runs.aws.clock.now()) == 0.0
        runs.aws.denials.add(Deny(action="cloudwatch:GetMetricData", times=1))
        with pytest.raises(Misconfigured, match=r"cloudwatch:GetMetricData on \*"):
            await behind(measuring, stream, runs.aws.clock.now())
    runs.called.add(("cloudwatch:GetMetricData", "*"))
    everything |= runs.called
    runs.hold(["stream-watch"], {})

    plan((await runs.work()).desired, (await runs.work()).observed)
    everything |= runs.called
    runs.hold(["stream-read"], {})

    await runs.work()
    await runs.detach()
    await runs.delete()
    everything |= runs.called
    runs.hold(["stream-delete"], {})

    key = (await runs.plain.kms.create_key())["KeyMetadata"]["Arn"]
    await runs.work(target=Target(name="orders-cdc", kms_key=key))
    seen = {called for called, resource in runs.called if resource == key}
    assert seen == {"kms:DescribeKey"} == actions(runs.policy("stream-read-kms"))
    runs.aws.kinesis.create("orders-cdc", 1).activate()
    await runs.apply()
    everything |= runs.called
    more = {called for called, _ in runs.called} & {"kms:DescribeKey", "kinesis:StartStreamEncryption"}
    assert actions(runs.policy("stream-apply-kms")) == more | {"kms:Decrypt"}

    runs.aws.kinesis.stream("orders-cdc").mode = "PROVISIONED"
    runs.called.clear()
    await target_of.reshard(await runs.work(), 2)
    everything |= runs.called
    assert {called for called, _ in runs.called} - actions(runs.policy("stream-apply", "stream-apply-kms")) == actions(
        runs.policy("stream-remedies")
    )

    assert {called for called, _ in everything} == in_the_sources(), "a call that no run above makes"


def in_the_sources() -> set[str]:
    """The IAM actions of every call the stream manager's modules hold."""
    found: set[str] = set()
    for path in MANAGER:
        for service, method in calls((ROOT / path).read_text(encoding="utf-8")):
            if (called := operation(service, method)) is not None:
                found.add(action(service, called))
    return found - {"sts:GetCallerIdentity"}


async def test_a_right_that_is_missing_is_found(runs: Runs) -> None:
    """The control: a policy of another command, and one of another stream, are not enough."""
    await runs.work()
    with pytest.raises(AssertionError):
        runs.hold(["stream-delete"], {})
    runs.called.add(("kinesis:DescribeStreamSummary", "arn:aws:kinesis:us-east-1:123456789012:stream/another"))
    with pytest.raises(AssertionError):
        runs.hold(["stream-read"], {})
