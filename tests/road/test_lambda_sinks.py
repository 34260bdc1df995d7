"""The road's scenarios through Lambda: what each kind of sink may count on there, whatever order it asks for."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from dsqlcdc.contract import Change, Setback, Sink, Verdict
from dsqlcdc.core.records import Record
from dsqlcdc.errors import Fault as AnyFault
from dsqlcdc.hosts.invocation import Kept, Outlet, Work, answer, first_owed, work
from dsqlcdc.sources.lambda_event import Batch, LambdaSource, read_event
from dsqlcdc.testing import virtual
from dsqlcdc.testing.records import full
from dsqlcdc.testing.trigger import Event, FunctionError, Settings, Shard, Trigger

from .lambda_lives import ARN, Account, live
from .mortal import Destination, Life
from .worlds import World

Fault = Callable[[str, bytes], None]
WORLDS = 40


@pytest.fixture(autouse=True)
def unsaid(caplog: pytest.LogCaptureFixture) -> None:
    """Every sandbox that is killed would be told with its traceback."""
    caplog.set_level(logging.CRITICAL + 1, "dsqlcdc")


class Plain(Sink):
    """Takes what it is given, one by one, and compares nothing: a webhook whose receiver applies blindly."""

    lanes = 2

    def __init__(self, destination: Destination, life: Life, fault: Fault) -> None:
        self._destination, self._life, self._fault = destination, life, fault

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        said: list[Setback] = []
        for index, change in enumerate(changes):
            await self._life.step()
            self._fault("", b"")
            said += self.apply(index, change)
        await self._life.step()
        return said

    def apply(self, index: int, change: Change) -> list[Setback]:
        self._destination.take(change)
        return []


class Versioned(Plain):
    """Keeps the version of each row, of deleted ones too, and takes only newer ones: as the OpenSearch sink does."""

    def __init__(self, destination: Destination, versions: dict[Any, int], life: Life, fault: Fault) -> None:
        super().__init__(destination, life, fault)
        self._versions = versions

    def apply(self, index: int, change: Change) -> list[Setback]:
        name = (str(change.table), (change.key or {})["id"])
        if (known := self._versions.get(name, 0)) >= change.version:
            return [Setback(index, Verdict.DUPLICATE if known == change.version else Verdict.STALE)]
        self._versions[name] = change.version
        self._destination.take(change)
        return []


async def through(seed: int, outlet: Callable[[Life, Fault], Outlet] | None) -> tuple[World, Account]:
    account = Account(seed, outlet=outlet)
    world, trigger = await live(seed, account)
    assert not trigger.failed
    await account.sweep()
    assert not account.letters.kept
    return world, account


def names(destination: Destination) -> Counter[tuple[tuple[str, int], int]]:
    return Counter(((str(change.table), (change.key or {})["id"]), change.version) for change in destination.log)


@pytest.mark.parametrize("order", ["unique", "latest"])
def test_a_sink_that_remembers_nothing_gets_what_its_order_promises_at_least_once(order: Any) -> None:
    """Of order latest: each row's newest change, for an older one may have been overtaken within a batch."""
    repeated = 0
    for seed in range(WORLDS):
        destination = Destination()

        def plain(life: Life, fault: Fault, destination: Destination = destination) -> Outlet:
            return Outlet(Kept(Plain(destination, life, fault)), order=order)

        world, _ = virtual.run(through(seed, plain))
        found = names(destination)
        wanted = world.versions if order == "unique" else set(dict(sorted(world.versions)).items())
        assert wanted <= found.keys() <= world.versions, seed
        repeated += sum(found.values()) - len(found)
    assert repeated, "sandboxes died between the sink and the answer"


@pytest.mark.parametrize("order", ["unique", "latest"])
def test_a_replica_that_compares_versions_equals_the_database(order: Any) -> None:
    for seed in range(WORLDS):
        destination, versions = Destination(), dict[Any, int]()

        def replica(life: Life, fault: Fault, destination: Destination = destination, versions: dict[Any, int] = versions) -> Outlet:
            return Outlet(Kept(Versioned(destination, versions, life, fault)), order=order)

        world, _ = virtual.run(through(seed, replica))
        assert destination.state == world.newest, seed


def test_a_replica_that_compares_none_ends_stale_whatever_its_order() -> None:
    """Why a sink that needs order is refused (E458), and the control of the test above."""
    stale = 0
    for seed in range(WORLDS):
        destination = Destination()

        def plain(life: Life, fault: Fault, destination: Destination = destination) -> Outlet:
            return Outlet(Kept(Plain(destination, life, fault)), order="latest")

        world, _ = virtual.run(through(seed, plain))
        stale += destination.state != world.newest
    assert stale


def test_a_lake_of_order_latest_has_each_rows_newest_and_no_record_twice() -> None:
    overtaken = 0
    for seed in range(WORLDS):
        held: list[Account] = []

        def latest(life: Life, fault: Fault, held: list[Account] = held) -> Outlet:
            return held[0].s3(life, fault, "latest")

        async def one(seed: int = seed, held: list[Account] = held, latest: Any = latest) -> tuple[World, Account]:
            held.append(account := Account(seed, outlet=latest))
            world, trigger = await live(seed, account)
            assert not trigger.failed
            await account.sweep()
            return world, account

        world, account = virtual.run(one())
        lines = account.lake.lines()
        found = {((f"{line['schema']}.{line['table']}", line["key"]["id"]), line["version"]) for line in lines}
        assert set(dict(sorted(world.versions)).items()) <= found <= world.versions, seed
        assert max(Counter((line["shard"], line["sequence"]) for line in lines).values()) == 1
        overtaken += len(world.versions - found)
    assert overtaken, "no older change was overtaken within a batch"


class Slow(Plain):
    """Takes a batch as a whole, a second for each change of it."""

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        await asyncio.sleep(1.0 * len(changes))
        for change in changes:
            self._destination.take(change)
        return ()


async def hurried(said: Callable[[Batch, Work], str]) -> tuple[list[int], Trigger]:
    """Eight changes through invocations that have time for four; the sizes of the batches that were sent."""
    destination, sizes = Destination(), list[int]()
    account = Account(0, outlet=lambda life, fault: Outlet(Kept(Slow(destination, life, fault))))

    async def invoke(event: Event) -> dict[str, Any]:
        batch = read_event(event, "memory")
        assert batch is not None
        sizes.append(len(batch.records))
        done = await work(account.outfit(Life(), 0.0), {"lake": LambdaSource(batch, 0.0)}, 6.0)
        try:
            owed = said(batch, done)
        except AnyFault as fault:
            raise FunctionError(str(fault)) from fault
        return {"batchItemFailures": [{"itemIdentifier": owed}] if owed else []}

    records = [Record(str(100 + n), full("c", "app.t0", {"id": n}, 1_700_000_000_000_000_000 + n), 1000.0) for n in range(8)]
    trigger = Trigger(invoke, ARN, Settings(batch=8, retries=20), clock=lambda: 1000.0, pause=asyncio.sleep)
    await trigger.run([Shard("shardId-000000000000", records)])
    assert trigger.failed or len(destination.log) == 8
    return sizes, trigger


def test_a_batch_that_does_not_fit_into_an_invocation_is_halved_until_it_does() -> None:
    sizes, trigger = virtual.run(hurried(answer))
    assert sizes == [8, 4, 4]
    assert not trigger.failed


def test_an_answer_where_nothing_moved_for_want_of_time_is_given_up_at_last() -> None:
    """Control: Lambda sends the same batch again, as large as it was."""
    sizes, trigger = virtual.run(hurried(first_owed))
    assert sizes == [8] * 21
    assert trigger.failed
