"""Random lives of the sink: crashes at every step, lost answers, zombies, late requests, a state store that is behind or lost.

A life is a coroutine that a scheduler steps from one request to the next; it may be left standing there, for a while (a zombie) or for
ever (a crash), and a request that was under way may still take place later. The driver keeps the pipeline's promises to a sink; which
of them it breaks is what `Habits` says, for the controls.
"""

from __future__ import annotations

import random
from asyncio import CancelledError
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from dsqlcdc.contract import Change, Progress, Unavailable, Verdict
from dsqlcdc.errors import Held
from dsqlcdc_s3 import S3Sink
from dsqlcdc_s3.objects import Objects

from .lake import NOON, Bucket, FakeObjects, change, make_sink, resume, step


@dataclass(frozen=True)
class Habits:
    """How the driver behaves. The defaults are right; each other value is a known mistake. `seals`: it ends periods, and the last run."""

    duplicates_share_fate: bool = True
    remembers: bool = True
    seals: bool = False


@dataclass(frozen=True)
class State:
    """What a commit stored."""

    frontier: tuple[int, ...]
    memory: frozenset[bytes] = frozenset()
    word: bytes = b""


@dataclass
class World:
    """One stream, one lake, one state store; `history` holds every commit, oldest first.

    `warm_up`: the store keeps no ids; what is before the frontiers is read again at start, to be remembered.
    """

    chance: random.Random
    habits: Habits
    kind: type[S3Sink]
    wrap: Callable[[Objects], Objects]
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    shards: list[list[Change]] = field(default_factory=list)
    bucket: Bucket = field(default_factory=Bucket)
    history: list[State] = field(default_factory=list)
    warm_up: bool = False
    late: list[tuple[str, bytes, bool]] = field(default_factory=list)
    lies: set[bytes] = field(default_factory=set[bytes])
    lives: int = 0

    def __post_init__(self) -> None:
        count = self.chance.randint(1, 3)
        self.shards = [[] for _ in range(count)]
        arrivals: list[int] = []
        for number in range(self.chance.randint(1, 12)):
            arrivals += [number] * self.chance.choice((1, 1, 1, 2, 3))
        # Copies of a change come within a while of each other, on any shards.
        arrivals.sort(key=lambda number: number + self.chance.random() * 4)
        for place, number in enumerate(arrivals):
            shard = self.chance.randrange(count)
            self.shards[shard].append(_copy(number, shard, len(self.shards[shard]) + 1, place))
        self.warm_up = self.chance.random() < 0.5
        self.history = [State((0,) * count)]

    def ids(self) -> set[bytes]:
        return {copy.id for shard in self.shards for copy in shard}


def _copy(number: int, shard: int, sequence: int, place: int) -> Change:
    """Copies of a change agree in all but position and arrival; every third change is of another hour."""
    version = (NOON + (3600 if number % 3 == 0 else 0)) * 10**9 + number
    return change(number, shard=f"s{shard}", sequence=sequence, arrived=float(place), version=version)


class Life:
    """One run of the driver with a sink of its own, over the world's lake."""

    def __init__(self, world: World, state: State, *, clean: bool) -> None:
        self.world, self.state, self.clean = world, state, clean
        self.fenced = False
        self.objects = FakeObjects(world.bucket, before=self._fault, after=self._fault, pause=step)
        world.lives += 1
        options = {"parallel": 1, "digest": {} if world.habits.seals else None, **world.options}
        self.sink = make_sink(world.wrap(self.objects), options, kind=world.kind, writer=f"w{world.lives}", ticking=False)
        self.read = [0 for _ in world.shards]
        self.started = state.frontier
        self.delivered = [0 for _ in world.shards]
        self.settled: list[set[int]] = [set() for _ in world.shards]
        self.joined: dict[bytes, list[tuple[int, int]]] = {}
        self.pending: list[tuple[Change, tuple[int, int]]] = []
        self.memory: set[bytes] = set()

    def _fault(self, key: str, body: bytes) -> None:
        if not self.clean and self.world.chance.random() < 0.06:
            raise Unavailable("cannot put", where=key, why="no answer")

    def progress(self) -> list[Progress]:
        return [self._progress(n) for n in range(len(self.read))]

    def _progress(self, n: int) -> Progress:
        at, start, done = self.read[n], self.started[n], len(self.settled[n])
        delivered, frontier = self.delivered[n], str(_frontier(self.settled[n]) or "")
        counts = {"delivered": delivered, "duplicate": done - start - delivered}
        begun, end, first = str(start or "trim_horizon"), str(at) if at > start else "", str(start + 1) if at > start else ""
        settled = {outcome: count for outcome, count in counts.items() if count}
        return Progress(f"s{n}", begun, end, at - start, settled, at - done, frontier=frontier, arrived=1.0, first=first)

    async def run(self) -> None:
        """Read, write, settle and commit until nothing is left."""
        world, chance = self.world, self.world.chance
        self.read = list(self.state.frontier)
        self.settled = [set(range(at)) for at in self.read]
        if world.habits.remembers:
            passed = (copy.id for shard, at in zip(world.shards, self.read, strict=True) for copy in shard[:at])
            self.memory = set(passed if world.warm_up else self.state.memory)
        async with self.sink:
            since = min((shard[at].arrived for shard, at in zip(world.shards, self.read, strict=True) if at < len(shard)), default=1e9)
            while True:
                try:
                    known = await self.sink.resume(resume(self.state.word, since, self.progress))
                    break
                except Unavailable:
                    await step()
            self.memory |= {one.id for one in known}
            await self._commit()
            while await self._read_some():
                if chance.random() < 0.5 and self.pending:
                    await self._write()
                if world.habits.seals and chance.random() < 0.2:
                    await self._seal()
            while self.pending:
                await self._write()
            await self._commit()
            if world.habits.seals:
                await self._seal(closing=True)

    async def _seal(self, *, closing: bool = False) -> None:
        while True:
            try:
                assert await self.sink.seal(closing=closing)
                return
            except Unavailable:
                await step()

    async def _read_some(self) -> bool:
        open_shards = [n for n, shard in enumerate(self.world.shards) if self.read[n] < len(shard)]
        if not open_shards:
            return False
        n = self.world.chance.choice(open_shards)
        copy, debt = self.world.shards[n][self.read[n]], (n, self.read[n])
        self.read[n] += 1
        if copy.id in self.memory:
            self._settle(debt)
        elif copy.id in self.joined:
            if self.world.habits.duplicates_share_fate:
                self.joined[copy.id].append(debt)
            else:
                self._settle(debt)
                self.memory.add(copy.id)
        else:
            self.joined[copy.id] = [debt]
            self.pending.append((copy, debt))
        return True

    async def _write(self) -> None:
        """One batch of some of what waits, until it is in; sometimes cut anew when it was not answered."""
        chance = self.world.chance
        batch = self._cut()
        while True:
            try:
                setbacks = await self.sink.write([copy for copy, _ in batch])
                break
            except Unavailable:
                await step()
                if chance.random() < 0.3:
                    await self._read_some()
                    self.pending += batch
                    batch = self._cut()
        assert all(setback.verdict is Verdict.DUPLICATE for setback in setbacks), setbacks
        self.world.lies |= {copy.id for copy, _ in batch}.difference(self.world.bucket.ids())
        self._done(batch)
        word = self.sink.word()
        if self.clean or chance.random() < 0.7:
            await self._commit(word)

    def _cut(self) -> list[tuple[Change, tuple[int, int]]]:
        self.world.chance.shuffle(self.pending)
        count = self.world.chance.randint(1, len(self.pending))
        batch, self.pending = self.pending[:count], self.pending[count:]
        return batch

    def _done(self, batch: list[tuple[Change, tuple[int, int]]]) -> None:
        for copy, (shard, _) in batch:
            self.delivered[shard] += 1
            for debt in self.joined.pop(copy.id):
                self._settle(debt)
            self.memory.add(copy.id)

    def _settle(self, debt: tuple[int, int]) -> None:
        self.settled[debt[0]].add(debt[1])

    async def _commit(self, word: bytes | None = None) -> None:
        frontier = tuple(map(_frontier, self.settled))
        said = self.sink.account(self.sink.word() if word is None else word)
        self.state = State(frontier, frozenset(self.memory), said)
        await step()
        if not self.fenced:  # a zombie's commits go nowhere: the store is another runner's now
            self.world.history.append(self.state)
        await step()


def _frontier(settled: set[int]) -> int:
    """How many records of a shard, from its first on, are settled."""
    return next(at for at in range(len(settled) + 1) if at not in settled)


class Stuck(AssertionError):
    """The last, clean run did not come to its end."""


def play(
    seed: int,
    *,
    habits: Habits | None = None,
    kind: type[S3Sink] = S3Sink,
    wrap: Callable[[Objects], Objects] = lambda o: o,
    options: Mapping[str, Any] | None = None,
) -> World:
    """Several lives that crash, then a clean one that does not. What the lake holds then is for the caller to judge."""
    chance = random.Random(seed)
    world = World(chance, habits or Habits(), kind, wrap, options or {})
    zombies: list[tuple[Life, Coroutine[Any, None, None]]] = []
    for _ in range(chance.randint(1, 5)):
        life = Life(world, _found(world), clean=False)
        running = life.run()
        steps = int(chance.expovariate(1 / 40)) + 1
        alive = True
        while alive and steps:
            steps -= 1
            if zombies and chance.random() < 0.25:
                _step_one(zombies, chance)
            if world.late and chance.random() < 0.2:
                world.bucket.store(*world.late.pop(chance.randrange(len(world.late))))
            alive = _step(running)
        if alive:
            life.fenced = True
            if chance.random() < 0.4:
                zombies.append((life, running))
            else:
                _crash(world, life, running)
    for _ in range(12):  # a zombie of the same age may stop a run; then the next one is newer
        if _last_run(world, zombies):
            break
    else:
        raise Stuck(f"seed {seed}")
    for _, zombie in zombies:  # whoever is still there lives on
        while _step(zombie):
            pass
    for put in world.late:
        world.bucket.store(*put)
    return world


def _last_run(world: World, zombies: list[tuple[Life, Coroutine[Any, None, None]]]) -> bool:
    """A run without faults of its own, while zombies live on. False when one of them has stopped it."""
    running = Life(world, _found(world), clean=True).run()
    for _ in range(20_000):
        if zombies and world.chance.random() < 0.1:
            _step_one(zombies, world.chance)
        if world.late and world.chance.random() < 0.1:
            world.bucket.store(*world.late.pop())
        try:
            running.send(None)
        except StopIteration:
            return True
        except Held:
            return False
    raise Stuck("it does not end")


def verdict(world: World) -> tuple[int, int]:
    """(lost, repeated) changes. One that a write called delivered while it was not counts as lost."""
    found = Counter(world.bucket.ids())
    assert found.keys() <= world.ids()
    return len((world.ids() - found.keys()) | world.lies), sum(1 for count in found.values() if count > 1)


def _found(world: World) -> State:
    """What a life finds in the state store: the last commit, at times an earlier one (restored from a copy), at times nothing."""
    lot = world.chance.random()
    if lot < 0.08:
        return world.history[0]
    return world.chance.choice(world.history) if lot < 0.16 else world.history[-1]


def _step(running: Coroutine[Any, None, None]) -> bool:
    try:
        running.send(None)
    except (StopIteration, Held):
        return False
    return True


def _step_one(zombies: list[tuple[Life, Coroutine[Any, None, None]]], chance: random.Random) -> None:
    at = chance.randrange(len(zombies))
    if not _step(zombies[at][1]):
        del zombies[at]


def _crash(world: World, life: Life, running: Coroutine[Any, None, None]) -> None:
    """Kill it. A put that was on its way may still take place, later."""
    if life.objects.in_flight is not None and world.chance.random() < 0.5:
        world.late.append(life.objects.in_flight)
    with suppress(CancelledError):  # close() would trip over the generators it is in
        running.throw(CancelledError())
