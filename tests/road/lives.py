"""Plays a world's lives: runs of the pipeline, most of them killed at a random step, the last one clean."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from unittest import mock

from dsqlcdc.contract import Batching, Outcome
from dsqlcdc.core.backoff import Backoff
from dsqlcdc.core.ledger import Ledger
from dsqlcdc.core.pipeline import Pipeline, Recipe
from dsqlcdc.core.ports import CheckpointStore, FragmentStore, Name
from dsqlcdc.core.tables import Tables
from dsqlcdc.stores.fragments import MemoryFragments
from dsqlcdc.stores.memory_checkpoints import MemoryCheckpoints
from dsqlcdc.stores.spill import FileSpill
from dsqlcdc.testing import virtual
from dsqlcdc.testing.memory import MemorySource

from .mortal import (
    Destination,
    DurableFragments,
    Killed,
    Letters,
    Life,
    MortalCheckpoints,
    MortalFragments,
    MortalSink,
    MortalSource,
    RememberingCheckpoints,
)
from .worlds import LATENESS, RULES, World

Law = Literal["once", "least", "newest", "log", "order"]
Order = Literal["unique", "latest", "commit"]
Says = Literal["nothing", "all", "word"]


@dataclass(frozen=True)
class Scenario:
    """One way to set up the road, and the law that its destination must keep.

    law: "once" every change exactly once; "least" at least once; "newest" a replica that compares no versions equals the database; "log" no
    change twice, and each row's newest is there; "order" every change exactly once, and in commit order but for those marked late.
    """

    name: str
    law: Law
    order: Order = "unique"
    remembers: bool = True
    durable: bool = True
    says: Says = "nothing"
    needs_order: bool = False


_LAWS: list[tuple[Law, Order, tuple[Says, ...]]] = [
    ("least", "unique", ("nothing",)),
    ("once", "unique", ("all", "word")),
    ("newest", "latest", ("nothing", "all")),
    ("log", "latest", ("all", "word")),
    ("order", "commit", ("all", "word")),
    ("least", "commit", ("nothing",)),
]


def _name(*words: str) -> str:
    return "-".join(word for word in words if word != "nothing")


SCENARIOS = [
    Scenario(
        _name(law, order, "remembered" if remembers else "warm-up", "durable" if durable else "held-back", says),
        law,
        order,
        remembers,
        durable,
        says,
        needs_order=law == "newest",
    )
    for law, order, answers in _LAWS
    for says in answers
    for remembers in (True, False)
    for durable in (True, False)
]


@dataclass(frozen=True)
class Broken(AssertionError):
    """A law did not hold; the message names the seed."""

    scenario: str
    seed: int
    what: str

    def __str__(self) -> str:
        return f"scenario {self.scenario}, seed {self.seed}: {self.what}"


@dataclass
class Parts:
    """What a control may exchange for a broken one."""

    checkpoints: Callable[[bool], CheckpointStore] = lambda remembers: RememberingCheckpoints() if remembers else MemoryCheckpoints()
    fragments: Callable[[bool], FragmentStore] = lambda durable: DurableFragments(["s"]) if durable else MemoryFragments(["s"])
    ledger: type[Ledger] = Ledger
    survives: Callable[[FragmentStore], bool] = lambda store: store.durable
    mortal: Callable[[FragmentStore, Life], FragmentStore] = MortalFragments


def play(scenario: Scenario, seed: int, parts: Parts | None = None) -> int:
    """One world to its end; the number of lives it took. Raises Broken."""
    parts = parts or Parts()
    with mock.patch("dsqlcdc.core.pipeline.Ledger", parts.ledger):
        return virtual.run(_play(scenario, seed, parts))


async def _play(scenario: Scenario, seed: int, parts: Parts) -> int:
    rng, world, destination = random.Random(seed), World(seed), Destination()
    checkpoints = parts.checkpoints(scenario.remembers)
    fragments = parts.fragments(scenario.durable)
    letters, lives = Letters(), 0
    while True:
        lives += 1
        last = world.written and rng.random() < 0.5
        world.write(rng.randint(0, 30))
        last = last and world.written
        if not parts.survives(fragments):
            fragments = parts.fragments(scenario.durable)
        how = "clean" if last else rng.choice(("kill", "kill", "kill", "cancel", "stop", "clean"))
        life = Life(rng.randint(1, 120) if how == "kill" else None, seed=seed * 1000 + lives, pace=rng.choice((0.0, 0.1, 1.0)))
        sink = MortalSink(
            destination,
            life,
            says=scenario.says,
            needs_order=scenario.needs_order,
            lanes=1 if scenario.says != "nothing" else rng.randint(1, 3),
            batching=Batching(bytes=rng.choice((600, 5000, 1 << 20)), records=rng.choice((1, 3, 100)), age=rng.choice((0.0, 0.5, 5.0))),
        )
        pipeline = Pipeline(
            Recipe(
                name=Name("p", "s", world.stream.name),
                source=MortalSource(MemorySource(world.stream, seed=rng.randrange(1 << 30), page=rng.choice((1, 4, 20))), life),
                sink=sink,
                tables=Tables(RULES),
                checkpoints=MortalCheckpoints(checkpoints, life),
                dead_letters=letters,
                fragments=parts.mortal(fragments, life),
                clock=lambda: world.stream.now,
                random=rng.random,
                order=scenario.order,
                lateness=LATENESS,
                hold_back=rng.choice((0.0, 1.0, 20.0)),
                held_room=rng.choice((0, 2_000, 1 << 20)),
                spill=FileSpill() if scenario.order == "commit" else None,
                commit_every=rng.choice((0.2, 1.0, 5.0)),
                backoff=Backoff(0.1, 1.0),
                room=rng.choice((2_000, 1 << 20)),
            )
        )
        await _live(pipeline, how, rng.random() * 20)
        pipeline._ledger.check()
        if last:
            _judge(scenario, seed, world, destination, letters, pipeline)
            if fragments.durable and await fragments.overdue("s", 0.0):
                raise Broken(scenario.name, seed, "parts are overdue though every row was complete")
            if fragments.durable and await fragments.waiting() != (0, 0):
                raise Broken(scenario.name, seed, f"parts wait though every row was complete: {await fragments.waiting()}")
            return lives


async def _live(pipeline: Pipeline, how: str, after: float) -> None:
    stop = asyncio.Event()
    task = asyncio.ensure_future(pipeline.run(stop))
    if how in ("stop", "cancel"):
        await asyncio.wait({task}, timeout=after)
        if how == "stop":
            stop.set()
        else:
            task.cancel()
    try:
        await task
    except (Killed, asyncio.CancelledError):
        assert how in ("kill", "cancel")


def _judge(scenario: Scenario, seed: int, world: World, destination: Destination, letters: Letters, pipeline: Pipeline) -> None:
    status = pipeline.status()
    log = [((str(change.table), (change.key or {})["id"]), change.version) for change in destination.log]

    def demand(held: bool, what: str) -> None:
        if not held:
            raise Broken(scenario.name, seed, what)

    demand(status.open == 0, f"{status.open} records are still owed after a clean end")
    demand(status.read == sum(status.settled.values()), "read is not what was settled")
    demand(not letters.kept and status.settled[Outcome.DEAD.value] == 0, f"dead letters: {list(letters.kept)}")
    demand(set(log) <= world.versions, "something was delivered that was never committed")
    if scenario.law == "newest":
        demand(destination.state == world.newest, f"the replica has {destination.state}, the database {world.newest}")
    elif scenario.law == "log":
        newest = dict(sorted(world.versions))
        demand(set(newest.items()) <= set(log), f"lost: {sorted(set(newest.items()) - set(log))}")
    else:
        demand(set(log) == world.versions, f"lost: {sorted(world.versions - set(log))}")
    if scenario.law == "order":
        timely = [change.version for change in destination.log if not change.late]
        demand(timely == sorted(timely), f"out of order and not marked late: {timely}")
    if scenario.law in ("once", "log", "order"):
        demand(len(log) == len(set(log)), f"repeated: {sorted(c for c in log if log.count(c) > 1)}")
