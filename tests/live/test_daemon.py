"""The real command against the embedded AWS and a real node: killed together, started again, and the whole stream once more."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

import pytest

from dsqlcdc.contract import Table
from dsqlcdc_opensearch.names import alias_of, id_of, index_of

from ..acceptance.world import World
from .node import Node
from .replica import asks, found, stamps

pytestmark = [pytest.mark.live, pytest.mark.timeout(400)]

TABLES = ("public.orders", "public.accounts", "app.users", "app.notes")


def search(node: Node, prefix: str, **options: Any) -> dict[str, Any]:
    """The sink's block."""
    return {"type": "opensearch", "url": node.url, "index_prefix": prefix, "settings": {"replicas": 0}, "tables": list(TABLES), **options}


def aliases(prefix: str) -> Mapping[str, str]:
    return {table: alias_of(prefix, Table("", *table.split("."))) for table in TABLES}


def compared(world: World, node: Node, prefix: str) -> int:
    """How many rows the aliases show; every one is the database's newest, value for value, and none is missing."""
    wanted = {f"{change.schema}.{change.table}": {} for change in world.changes()}
    for change in world.server.state(world.pipe.cluster):
        assert change.key is not None
        row = {name: value for name, value in (change.row or {}).items() if value is not None}
        wanted[f"{change.schema}.{change.table}"][id_of(change.key)] = (change.version, row)

    async def read() -> dict[str, dict[str, dict[str, Any]]]:
        async with asks(node) as ask:
            return {table: await found(ask, alias) for table, alias in aliases(prefix).items()}

    shown = asyncio.run(read())
    for table, rows in shown.items():
        here = {
            id: (row["__cdc"]["version"], {name: value for name, value in row.items() if name != "__cdc" and value is not None})
            for id, row in rows.items()
        }
        assert here == wanted.get(table, {}), table
    return sum(map(len, shown.values()))


def stamped(node: Node, prefix: str) -> Mapping[str, Mapping[str, tuple[int, int]]]:
    async def read() -> dict[str, Mapping[str, tuple[int, int]]]:
        async with asks(node) as ask:
            return {table: await stamps(ask, index_of(alias)) for table, alias in aliases(prefix).items()}

    return asyncio.run(read())


def test_killed_together_with_its_node_it_ends_with_the_database_and_a_replay_changes_nothing(world: World, node: Node) -> None:
    chance = random.Random(3)
    world.configure(sinks={"search": search(node, "daemon-")})
    world.commit(200, duplicates=0.2)
    with world.writing(20, duplicates=0.2):
        for number in range(3):
            daemon = world.daemon()
            before = world.settled("search") + chance.randint(50, 300)
            daemon.until(lambda before=before: world.settled("search") >= before, "something is settled")  # type: ignore[misc]
            (node.kill, daemon.kill)[number % 2]()
            (daemon.kill, node.kill)[number % 2]()
            node.start()
    done = world.once().expect(0)
    assert done.json["sinks"]["search"]["open"] == 0
    assert compared(world, node, "daemon-") > 100

    before_replay = stamped(node, "daemon-")
    assert sum(map(len, before_replay.values())) > compared(world, node, "daemon-"), "there are no tombstones"
    node.kill()
    node.start()
    world.run("checkpoint", "reset", str(world.config), "--sink", "search", "--to", "trim_horizon", "--forget", "--yes").expect(0)
    again = world.once().expect(0).json["sinks"]["search"]
    assert again["read"] >= world.sent
    assert again["settled"]["delivered"] == 0
    assert stamped(node, "daemon-") == before_replay
    compared(world, node, "daemon-")


def test_a_node_that_is_away_is_waited_for_and_nothing_is_lost(world: World, node: Node) -> None:
    world.configure(sinks={"search": search(node, "away-")})
    daemon = world.daemon()
    world.commit(50)
    world.caught_up(daemon, "search")
    node.kill()
    world.commit(100)
    daemon.until(lambda: "E160" in daemon.err, "the outage is told")
    node.start()
    world.caught_up(daemon, "search")
    daemon.kill()
    compared(world, node, "away-")
