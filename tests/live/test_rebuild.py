"""A rebuild on the real node, beside a daemon that goes on writing: the alias shows the database before, meanwhile and after."""

from __future__ import annotations

import asyncio
import signal

import pytest

from ..acceptance.world import World
from .node import Node
from .replica import asks
from .test_daemon import compared, search

pytestmark = [pytest.mark.live, pytest.mark.timeout(400)]


def behind(node: Node, alias: str) -> list[str]:
    async def read() -> list[str]:
        async with asks(node) as ask:
            return list((await ask("GET", f"/_alias/{alias}"))[1])

    return asyncio.run(read())


def test_beside_a_daemon_a_rebuild_killed_and_run_again_loses_nothing(world: World, node: Node) -> None:
    prefix = "rebuilt-"
    lake = {"type": "s3", "bucket": "lake", "prefix": "cdc/", "roll": {"age": "200ms"}}
    world.configure(sinks={"search": search(node, prefix), "lake": lake})
    world.commit(150, duplicates=0.1)
    daemon = world.daemon()
    world.caught_up(daemon, "search")
    world.caught_up(daemon, "lake")
    with world.writing(8, duplicates=0.1, reshards=False):
        words = ("opensearch", "rebuild", str(world.config), "--table", "public.orders", "--from", "lake", "--yes", "--json")
        first = world.start(*words)
        first.until(lambda: "starts at" in first.err or "objects" in first.err or "read" in first.err, "it has begun")
        first.kill()
        done = world.run(*words, within=120).expect(0)
        assert done.json["index"] == f"{prefix}public.orders-000002"
    daemon.until(lambda: world.settled("search") >= world.sent and not world.status("search")["open"], "search has caught up", 90)
    daemon.end(signal.SIGTERM).expect(0)
    assert behind(node, f"{prefix}public.orders") == [f"{prefix}public.orders-000002"]
    assert world.once().json["sinks"]["search"]["settled"]["delivered"] == 0
    assert compared(world, node, prefix) > 50
