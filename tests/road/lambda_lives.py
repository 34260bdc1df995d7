"""A Lambda account in virtual time: sandboxes that are killed at a random step, what outlives them, and a trigger that sends a world to them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal

from dsqlcdc.contract import Context, Sink, Unavailable
from dsqlcdc.core.ports import FragmentStore
from dsqlcdc.core.tables import Tables
from dsqlcdc.errors import Fault
from dsqlcdc.hosts.invocation import Kept, Outfit, Outlet, Work, answer, work
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
from .mortal import Letters, Life
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
    """What outlives every sandbox: the lake, the pieces, the dead letters.

    `longest`: seconds that an invocation may last; `pace`: that a request may take. `sandbox` makes the pieces' store of a sandbox, `outlet`
    its sink, which is given the trouble that the destination has: raise it or not.
    """

    def __init__(
        self,
        seed: int,
        sandbox: Callable[[Account, Life], FragmentStore] | None = None,
        outlet: Callable[[Life, Callable[[str, bytes], None]], Outlet] | None = None,
    ) -> None:
        self.chance = random.Random(seed)
        self.longest, self.pace = 900.0, 0.5
        self.lake, self.parts, self.letters = lake.Bucket(), parts.Bucket(), Letters()
        self._outlet = outlet or self.s3
        self._fragments = sandbox or (lambda account, life: S3Fragments(MortalParts(account.parts, life), ["lake"], claims=True, every=0.0))

    def outfit(self, life: Life, trouble: float) -> Outfit:
        def fault(key: str, body: bytes) -> None:
            if self.chance.random() < trouble:
                raise Unavailable("cannot put", where=key)

        return Outfit(
            pipeline="p",
            outlets={"lake": self._outlet(life, fault)},
            tables=Tables(RULES),
            dead_letters=self.letters,
            fragments=self._fragments(self, life),  # type: ignore[arg-type]
            clock=virtual.wall(),
            random=self.chance.random,
        )

    def s3(self, life: Life, fault: Callable[[str, bytes], None], order: Literal["unique", "latest"] = "unique") -> Outlet:
        objects = lake.FakeObjects(self.lake, before=fault, after=fault, pause=life.step)
        return Outlet(Kept(sink_over(objects)), order=order)

    async def invoke(self, event: Event) -> Mapping[str, Any]:
        """One sandbox's invocation: new, perhaps killed, perhaps with S3 in trouble or too little time."""
        killed = self.chance.random() < 0.35
        life = Life(self.chance.randint(0, 40) if killed else None, self.chance.getrandbits(32), pace=self.pace)
        outfit = self.outfit(life, trouble=self.chance.choice((0.0, 0.0, 0.2)))
        batch = read_event(event, "memory")
        assert batch is not None
        done = await work(outfit, {"lake": LambdaSource(batch, 0.0)}, self.chance.choice((3.0, self.longest / 15, self.longest)))
        if life.steps is not None and life.steps < 0:
            raise FunctionError("the sandbox died")
        balanced(done)
        try:
            owed = answer(batch, done)
        except Fault as fault:
            raise FunctionError(str(fault)) from fault
        return {"batchItemFailures": [{"itemIdentifier": owed}] if owed else []}

    async def sweep(self) -> Work:
        """The sweeper, when no invocation can be under way any more."""
        self.parts.ahead += 10_000.0
        done = await self._sweep(Life(), 0.0)
        assert not done.faults
        return done

    async def sweep_beside(self) -> int:
        """A sweep while invocations are under way, which may be killed or in trouble; how many records it finished."""
        life = Life(self.chance.randint(0, 20) if self.chance.random() < 0.4 else None, self.chance.getrandbits(32), pace=self.pace)
        done = await self._sweep(life, self.chance.choice((0.0, 0.2)))
        return sum(status.settled["delivered"] for status in done.statuses)

    async def _sweep(self, life: Life, trouble: float) -> Work:
        outfit = self.outfit(life, trouble)
        source = ParkedSource(outfit.fragments, "lake", "memory", age=self.longest, clock=outfit.clock)
        done = await work(outfit, {"lake": source}, self.longest, look_every=0.0)
        if life.steps is None or life.steps >= 0:
            balanced(done)
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


async def live(
    seed: int, account: Account, *, retries: int | None = None, max_age: float | None = None, bisect: bool | None = None
) -> tuple[World, Trigger]:
    """A world through a trigger of some settings."""
    world, chance = World(seed), random.Random(seed + 1)
    world.write(10_000)
    parallel = chance.choice((1, 2, 3, 10))
    halves = chance.random() < 0.5 if bisect is None else bisect
    window = chance.choice((None, 2.0))
    settings = Settings(chance.randint(1, 12), window, parallel, retries=retries, max_age=max_age, bisect=halves)
    started = asyncio.get_running_loop().time()

    def clock() -> float:
        """Of the stream's records: the last has just arrived."""
        return world.stream.now + asyncio.get_running_loop().time() - started

    trigger = Trigger(account.invoke, ARN, settings, clock=clock, pause=asyncio.sleep, twice=lambda: chance.random() < 0.2)
    await trigger.run(Shard(shard.name, shard.records, shard.parents) for shard in world.stream.shards.values())
    return world, trigger


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
