"""Worlds through Lambda: invocations side by side, some twice, many killed at a random step, in virtual time; then the lake is exact."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dsqlcdc.contract import Context, Sink, Unavailable
from dsqlcdc.core.ports import FragmentStore
from dsqlcdc.core.tables import Tables
from dsqlcdc.hosts.invocation import Kept, Outfit, Outlet, Work, first_owed, work
from dsqlcdc.sources.lambda_event import LambdaSource, read_event
from dsqlcdc.sources.parked import ParkedSource
from dsqlcdc.stores.s3_fragments import S3Fragments
from dsqlcdc.stores.s3_objects import Listing
from dsqlcdc.testing import virtual
from dsqlcdc.testing.trigger import Event, FunctionError, Settings, Shard, Trigger
from dsqlcdc_s3.batch_sink import BatchSink
from dsqlcdc_s3.options import Options

from ..sinks.s3 import lake
from ..stores import bucket as parts
from .mortal import DurableFragments, Letters, Life
from .worlds import RULES, World

ARN = "arn:aws:kinesis:us-east-1:123456789012:stream/memory"


class MortalParts(parts.FakeObjects):
    """One sandbox's way to the pieces: every request is a step of its life."""

    def __init__(self, bucket: parts.Bucket, life: Life) -> None:
        super().__init__(bucket)
        self._life = life

    async def _turn(self, kind: str) -> None:
        await self._life.step()
        await super()._turn(kind)

    async def put(self, name: str, body: bytes, *, new: bool = False) -> bool:
        answer = await super().put(name, body, new=new)
        await self._life.step()
        return answer

    async def list(self, start: str) -> Listing:
        return await super().list(start)


class Account:
    """What outlives every sandbox: the lake, the pieces, the dead letters."""

    def __init__(self, seed: int, sandbox: Callable[[Account, Life], FragmentStore] | None = None) -> None:
        self.chance = random.Random(seed)
        self.lake, self.parts, self.letters = lake.Bucket(), parts.Bucket(), Letters()
        self._fragments = sandbox or (lambda account, life: S3Fragments(MortalParts(account.parts, life), ["lake"], claims=True, every=0.0))

    def outfit(self, life: Life, trouble: float) -> Outfit:
        def fault(key: str, body: bytes) -> None:
            if self.chance.random() < trouble:
                raise Unavailable("cannot put", where=key)

        objects = lake.FakeObjects(self.lake, before=fault, after=fault, pause=life.step)
        return Outfit(
            pipeline="p",
            outlets={"lake": Outlet(Kept(sink_over(objects)))},
            tables=Tables(RULES),
            dead_letters=self.letters,
            fragments=self._fragments(self, life),  # type: ignore[arg-type]
            clock=virtual.wall(),
            random=self.chance.random,
        )

    async def invoke(self, event: Event) -> Mapping[str, Any]:
        """One sandbox's invocation: new, perhaps killed, perhaps with S3 in trouble or too little time."""
        killed = self.chance.random() < 0.35
        life = Life(self.chance.randint(0, 40) if killed else None, self.chance.getrandbits(32), pace=0.5)
        outfit = self.outfit(life, trouble=self.chance.choice((0.0, 0.0, 0.2)))
        batch = read_event(event, "memory")
        assert batch is not None
        done = await work(outfit, {"lake": LambdaSource(batch, 0.0)}, self.chance.choice((3.0, 60.0, 900.0)))
        if life.steps is not None and life.steps < 0:
            raise FunctionError("the sandbox died")
        balanced(done)
        owed = first_owed(batch, done)
        return {"batchItemFailures": [{"itemIdentifier": owed}] if owed else []}

    async def sweep(self) -> Work:
        """The sweeper, when no invocation can be under way any more."""
        self.parts.ahead += 10_000.0
        outfit = self.outfit(Life(), 0.0)
        source = ParkedSource(outfit.fragments, "lake", "memory", age=900.0, clock=outfit.clock)
        done = await work(outfit, {"lake": source}, 900.0, look_every=0.0)
        balanced(done)
        assert not done.faults
        return done


def sink_over(objects: lake.FakeObjects) -> Sink:
    @asynccontextmanager
    async def opened() -> Any:
        yield objects

    options = Options.model_validate({"bucket": "lake", "prefix": "cdc/", "gzip": 1})
    return BatchSink(options, Context("p", "lake", whole=False), opened, writer="w", clock=lambda: 0.0)


def balanced(done: Work) -> None:
    for status in done.statuses:
        assert status.read == sum(status.settled.values()) + status.open


async def live(seed: int, account: Account, *, retries: int | None = None) -> tuple[World, Trigger]:
    """A world through a trigger of some settings. What was given up is invoked once more, as a replay of the destination would."""
    world, chance = World(seed), random.Random(seed + 1)
    world.write(10_000)
    settings = Settings(batch=chance.randint(1, 12), parallel=chance.randint(1, 3), retries=retries, bisect=chance.random() < 0.5)
    clock = virtual.wall()
    trigger = Trigger(account.invoke, ARN, settings, clock=clock, pause=asyncio.sleep, twice=lambda: chance.random() < 0.2)
    await trigger.run(Shard(shard.name, shard.records, shard.parents) for shard in world.stream.shards.values())
    return world, trigger


@pytest.fixture(autouse=True)
def unsaid(caplog: pytest.LogCaptureFixture) -> None:
    """Every sandbox that is killed would be told with its traceback."""
    caplog.set_level(logging.CRITICAL + 1, "dsqlcdc")


def judge(world: World, account: Account) -> tuple[int, int, int]:
    """(lost, repeated, unknown) rows of the lake. Repeated: a record that went in twice, or more lines than copies that DSQL sent."""
    lines, rows = account.lake.lines(), {(change.key, change.version): change.row for change in world.history}
    names = [((f"{line['schema']}.{line['table']}", line["key"]["id"]), line["version"]) for line in lines]
    found, places = Counter(names), Counter((line["shard"], line["sequence"]) for line in lines)
    copies = {(change.key, change.version): len(change.records) for change in world.history}
    assert all(line["row"] == rows.get(name, "unknown") for line, name in zip(lines, names, strict=True))
    repeated = sum(count > 1 for count in places.values())
    repeated += sum(count > 1 for name, count in found.items() if copies.get(name, 1) > 1)  # a row in pieces has one carrier
    return len(world.versions - found.keys()), repeated, len(found.keys() - world.versions)


async def whole(seed: int) -> None:
    account = Account(seed)
    world, trigger = await live(seed, account)
    assert not trigger.failed
    await account.sweep()
    assert judge(world, account) == (0, 0, 0), seed
    assert not account.letters.kept


@pytest.mark.parametrize("start", range(0, 120, 40))
def test_nothing_is_lost_and_no_record_goes_in_twice(start: int) -> None:
    for seed in range(start, start + 40):
        virtual.run(whole(seed))


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_nothing_is_lost_and_no_record_goes_in_twice_in_very_many_worlds() -> None:
    for seed in range(10_000, 12_000):
        virtual.run(whole(seed))


def test_what_was_given_up_is_all_that_is_missing_and_the_sweeper_finishes_its_rows() -> None:
    """Few retries: batches end in the destination, carriers of oversized rows among them."""
    given_up = swept = 0
    for seed in range(40):

        async def one(seed: int = seed) -> tuple[int, int]:
            account = Account(seed)
            world, trigger = await live(seed, account, retries=1)
            before = len(account.lake.lines())
            await account.sweep()
            finished = len(account.lake.lines()) - before
            for failed in trigger.failed:
                event = json.loads(json.loads(failed.body)["payload"])
                outfit, batch = account.outfit(Life(), 0.0), read_event(event, "memory")
                assert batch is not None
                done = await work(outfit, {"lake": LambdaSource(batch, 0.0)}, 900.0)
                assert first_owed(batch, done) == ""
            await account.sweep()
            assert judge(world, account) == (0, 0, 0), seed
            return len(trigger.failed), finished

        failed, finished = virtual.run(one())
        given_up, swept = given_up + failed, swept + finished
    assert given_up > 20
    assert swept > 0


def test_pieces_that_stay_in_their_sandbox_are_lost() -> None:
    """Control: fragments that other invocations cannot see."""
    lost = 0
    for seed in range(25):

        async def one(seed: int = seed) -> int:
            account = Account(seed, lambda account, life: DurableFragments(["lake"]))
            world, _ = await live(seed, account)
            return judge(world, account)[0]

        lost += virtual.run(one())
    assert lost > 0


def test_without_claims_a_row_in_pieces_goes_in_twice() -> None:
    """Control: two invocations that see the last piece both deliver."""
    repeated = 0
    for seed in range(60):

        async def one(seed: int = seed) -> int:
            account = Account(seed, lambda account, life: S3Fragments(MortalParts(account.parts, life), ["lake"], every=0.0))
            world, _ = await live(seed, account)
            return judge(world, account)[1]

        repeated += virtual.run(one())
    assert repeated > 0


def test_an_answer_that_names_a_later_record_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: what stands between the first failure and the one that is named never comes again."""
    lost = 0
    for seed in range(25):

        async def one(seed: int = seed) -> int:
            account = Account(seed)
            real = account.invoke

            async def late(event: Event) -> Mapping[str, Any]:
                answer = await real(event)
                names = [record["kinesis"]["sequenceNumber"] for record in event["Records"]]
                owed = [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]
                return {"batchItemFailures": [{"itemIdentifier": names[-1]}]} if owed and owed[0] != names[-1] else answer

            account.invoke = late  # type: ignore[method-assign]
            world, _ = await live(seed, account)
            return judge(world, account)[0]

        lost += virtual.run(one())
    assert lost > 0
