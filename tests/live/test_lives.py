"""Random lives on a real node that forgets deletes after a second and is killed again and again: the alias equals the database.

Rows live through rounds of logical time. In each round two sinks deliver, at once and in any order, what was committed just now or long ago,
some of it several times; the watermark moves and tombstones are purged while they do; the node is killed amid some rounds.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
import pytest

from dsqlcdc.contract import Change, Op, Unavailable
from dsqlcdc_opensearch import OpenSearchSink
from dsqlcdc_opensearch.purge import Purge

from ..sinks.opensearch.laws import Ask
from ..sinks.opensearch.replica import NOON, TABLE, Database, change_at
from ..sinks.opensearch.test_lives import TombstonesForLateDeletes
from .node import Node
from .replica import asks, deliver, found, sink

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

T = TypeVar("T")

ROWS, ROUNDS, STEP = 400, 16, 100.0
KILLED = (5, 10, 14)
"""Rounds amid which the node is killed."""
PLANTED = 5
"""Rows that live as no drawn one may happen to."""
FORGOTTEN = (3, 7, 12, 15)
"""Rounds before which the node forgets all deletes so far."""
RETENTION = 2 * STEP


class World:
    """Rows, what was committed to them, and when it is delivered."""

    def __init__(self, prefix: str, seed: int, *, cls: type[OpenSearchSink] = OpenSearchSink, apply: bool = False, **options: Any) -> None:
        self.prefix, self.random, self.cls, self.apply, self.options = prefix, random.Random(seed), cls, apply, options
        self.round = self.purged = 0
        self.commits: list[tuple[int, Change]] = []
        self.due: dict[int, list[Change]] = {round: [] for round in range(ROUNDS + 1)}
        for id in range(ROWS):
            alive = False
            for moment in sorted(self.random.uniform(0, ROUNDS * STEP) for _ in range(self.random.randint(1, 9))):
                op = self.random.choice([Op.UPDATE, Op.DELETE, Op.DELETE]) if alive else Op.INSERT
                alive = op is not Op.DELETE
                self.commit(int(moment // STEP), change_at(round((NOON + moment) * 10**9), {"id": id}, op=op, note=moment))

        for id in range(ROWS, ROWS + PLANTED):
            self.plant(id)

    def plant(self, id: int) -> None:
        """A row of the unlucky sort: gone and purged, when an older delete of it comes again, and then for the first time an older upsert."""
        life = [Op.INSERT, Op.DELETE, Op.UPDATE, Op.DELETE]
        commits = [change_at((NOON + 1 + n) * 10**9, {"id": id}, op=op, note=n) for n, op in enumerate(life)]
        self.commits += [(0, change) for change in commits]
        for change, round in zip(commits, (0, 10, 12, 1), strict=True):
            self.due[round].append(change)

    def commit(self, at: int, change: Change) -> None:
        self.commits.append((at, change))
        for _ in range(self.random.randint(1, 4)):
            self.due[self.random.choice([at, self.random.randint(at, ROUNDS)])].append(change)

    def database(self, now: int) -> Mapping[str, Change]:
        """The last change of each row that is, at the end of this round."""
        rows: dict[str, Change] = {}
        for at, change in self.commits:
            if at <= now:
                rows[str((change.key or {})["id"])] = change
        return {id: change for id, change in rows.items() if change.op is not Op.DELETE}

    def exists(self, change: Change) -> bool:
        return self.apply or str((change.key or {})["id"]) in self.database(self.round)

    async def live(self, node: Node, begin: asyncio.Barrier, end: asyncio.Barrier) -> dict[str, int]:
        """All rounds, each begun and ended together with the other worlds; ids and versions of what the alias shows at the end."""
        rows = Database(self.exists)
        sinks = [sink(node, self.prefix, rows=rows, cls=self.cls, **self.options) for _ in range(3)]
        for one in sinks:
            await one.__aenter__()
        await sinks[2]._watermark.prepare("probe")
        for self.round in range(ROUNDS + 1):
            await begin.wait()
            due = self.random.sample(self.due[self.round], len(self.due[self.round]))
            async with asyncio.TaskGroup() as group:
                group.create_task(self.move(sinks[2]) if self.round % 2 else self.purge(sinks[2]))
                while due:
                    some, due = due[: (count := self.random.randint(1, 40))], due[count:]
                    group.create_task(deliver(self.random.choice(sinks[:2]), some))
            for one in sinks:  # the grace: before a purge everybody knows of the watermark, and nothing is under way that does not
                await patient(one._watermark.load)
            await end.wait()
        for one in sinks:
            await one.__aexit__(None, None, None)
        async with asks(node) as ask:
            return {id: row["__cdc"]["version"] for id, row in (await found(ask, f"{self.prefix}{TABLE}")).items()}

    async def move(self, of: OpenSearchSink) -> None:
        """The watermark moves while others deliver who do not know of it yet."""
        watermark = round((NOON + max(0.0, self.round * STEP - RETENTION)) * 10**9)
        state = await patient(of._watermark.load)
        await patient(lambda: of._watermark.store(msgspec.structs.replace(state, watermark=watermark)))

    async def purge(self, of: OpenSearchSink) -> None:
        """What is below the watermark that everybody knows of is removed while others deliver."""
        job = Purge(
            of._cluster,
            of._watermark,
            of._bulk,
            indexes=of._indexes.owned,
            progress=tuple,
            newest=lambda: 0,
            retention=0,
            grace=0,
            me="other",
            remove=of._purging_operation,
        )
        self.purged += await patient(lambda: job.purge(of._watermark.state.watermark))


async def patient(what: Callable[[], Awaitable[T]]) -> T:
    while True:
        try:
            return await what()
        except Unavailable:
            await asyncio.sleep(0.2)


async def forget(ask: Ask) -> None:
    """Wait until the node has forgotten a delete of just now, and so all before it."""
    path = f"/lives-forgotten/_doc/{random.random()}"
    await ask("DELETE", f"{path}?version=9&version_type=external")
    while (await ask("PUT", f"{path}?version=1&version_type=external", {}))[0] == 409:
        await asyncio.sleep(0.05)
        await ask("POST", "/lives-*/_refresh")


WORLDS: dict[str, dict[str, Any]] = {
    "the algorithm": {"seed": 1},
    "the algorithm again": {"seed": 2},
    "by a script": {"seed": 3, "mode": "scripted"},
    "native deletes": {"seed": 1, "delete_mode": "native"},
    "late upserts applied": {"seed": 1, "apply": True},
    "tombstones for late deletes": {"seed": 1, "cls": TombstonesForLateDeletes},
}
"""Those that keep the algorithm's rules, and mutants that leave one out; all live at the same time on the same node."""


Histories = dict[str, tuple[World, dict[str, int]]]


async def lived(node: Node) -> Histories:
    worlds = {name: World(f"lives-{n}-", **given) for n, (name, given) in enumerate(WORLDS.items())}
    begin, end = asyncio.Barrier(len(worlds) + 1), asyncio.Barrier(len(worlds) + 1)
    async with asks(node) as ask, asyncio.TaskGroup() as group:
        settings = {"index.gc_deletes": "1s", "index.number_of_replicas": 0}
        status, _ = await ask("PUT", "/_index_template/lives", {"index_patterns": ["lives-*"], "template": {"settings": settings}})
        assert status == 200
        assert (await ask("PUT", "/lives-forgotten"))[0] == 200
        found = {name: group.create_task(world.live(node, begin, end)) for name, world in worlds.items()}
        for round in range(ROUNDS + 1):
            if round in FORGOTTEN:
                await forget(ask)
            await begin.wait()
            if round in KILLED:
                await asyncio.to_thread(node.kill)
                await asyncio.to_thread(node.start)
            await end.wait()
    return {name: (world, found[name].result()) for name, world in worlds.items()}


@pytest.fixture(scope="module")
def histories(node: Node) -> Histories:
    return asyncio.run(lived(node))


def wrong(world: World, shown: Mapping[str, int]) -> list[str]:
    """Rows that the alias shows and the database does not have, or has otherwise, or has and the alias does not show."""
    right = {id: change.version for id, change in world.database(ROUNDS).items()}
    return sorted(id for id in right.keys() | shown.keys() if right.get(id) != shown.get(id))


@pytest.mark.parametrize("name", list(WORLDS)[:3])
def test_the_alias_equals_the_database(name: str, histories: Histories) -> None:
    world, shown = histories[name]
    assert wrong(world, shown) == []
    assert len(shown) > ROWS // 4
    assert world.purged > ROWS // 4


@pytest.mark.parametrize("mutant", list(WORLDS)[3:])
def test_without_this_rule_the_alias_is_wrong(mutant: str, histories: Histories) -> None:
    assert wrong(*histories[mutant])
