"""Both sinks over DynamoDB: daemons killed and succeeded twenty times, rivals refused; nothing lost, the lake exact, no checkpoint back."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dsqlcdc.aws import Aws
from dsqlcdc.core.records import Position
from dsqlcdc.errors import Unavailable
from dsqlcdc.local.compare import compare
from dsqlcdc.stores.dynamodb_checkpoints import DynamoCheckpoints

from .command import Command
from .receiver import SECRET, Receiver, lines, receiving
from .test_durable_state import BLOCKS
from .world import World, free_port, lake

KILLS = 20
SINKS = ("lake", "hook")
_ORDER = ("trim_horizon", "time", "after", "end")


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with receiving(tmp_path) as started:
        yield started


class Machine:
    """Where daemons of the one config run, one after the other, each on a port of its own."""

    def __init__(self, world: World, receiver: Receiver) -> None:
        self._world, self._number = world, 0
        hook = {"type": "webhook", "url": receiver.url, "secrets": [SECRET], "allow_http": True, "allow_private": ["127.0.0.0/8"]}
        world.configure(sinks={"lake": lake(age="200ms", records=250), "hook": hook}, **BLOCKS)

    def start(self) -> Daemon:
        body = json.loads(self._world.config.read_text())
        port = free_port()
        body["http"] = {"listen": f"127.0.0.1:{port}"}
        self._number += 1
        path = self._world.directory / f"machine-{self._number}.yaml"
        path.write_text(json.dumps(body))
        return Daemon(self._world, self._world.start("run", str(path)), port)


class Daemon:
    """One of them."""

    def __init__(self, world: World, command: Command, port: int) -> None:
        self._world, self.command, self._port = world, command, port
        self.began = time.monotonic()

    def states(self) -> dict[str, str]:
        """Of each sink; {} where nobody answers yet."""
        code, body = self._world.get("/status", self._port)
        return {one["sink"]: one["state"] for one in json.loads(body)["pipelines"]} if code == 200 else {}

    def answers(self) -> None:
        self.command.until(self.states, "it answers")

    def runs(self) -> bool:
        """Wait until it has both sinks; False where it was refused one of them."""
        self.command.until(lambda: self.refused() or all(self.states().get(sink) == "running" for sink in SINKS), "it runs or is refused")
        return not self.refused()

    def refused(self) -> bool:
        return "DSQLCDC-E201" in self.command.err

    def named(self, other: Daemon) -> list[str]:
        """The sinks that it was refused because the other has them."""
        said, pid = self.command.err, other.command.process.pid
        return [sink for sink in SINKS if f"E201 Another runner has this pipeline and sink, acceptance/{sink}: process {pid} on " in said]


class Watch:
    """Looks at every checkpoint all along. `back`: those that were behind where they had been seen before."""

    def __init__(self, world: World) -> None:
        self._aws = Aws(region=world.server.region, endpoint_url=world.server.endpoint)
        self._seen: dict[tuple[str, str], tuple[int, int]] = {}
        self.looks, self.moves, self.back = 0, 0, list[str]()

    async def look(self, stop: threading.Event) -> None:
        store = DynamoCheckpoints("dsqlcdc", self._aws, create=True, read_only=True)
        while not stop.is_set():
            try:
                for name in await store.names():
                    checkpoint = await store.load(name)
                    for shard, mark in checkpoint.marks.items() if checkpoint is not None else ():
                        self._judge((name.sink, shard), mark.position)
                self.looks += 1
            except Unavailable:
                continue
            await asyncio.to_thread(stop.wait, 0.4)
        await store.close()

    def _judge(self, where: tuple[str, str], position: Position) -> None:
        found = _ORDER.index(position.kind), int(position.sequence or 0)
        before = self._seen.get(where, found)
        self.moves += found > before
        if found < before:
            self.back.append(f"{where}: {before} → {found}")
        self._seen[where] = found


@contextmanager
def watching(world: World) -> Iterator[Watch]:
    watch, stop = Watch(world), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(watch.look(stop)), name="watch")
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join(30)


@pytest.mark.slow
@pytest.mark.timeout(900)  # 70 s of both cores: minutes on a busy machine
def test_nothing_is_lost_and_no_id_has_two_bodies_over_twenty_kills_and_rivals(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in world.server.environ.items():
        monkeypatch.setenv(name, value)
    machine, rng = Machine(world, receiver), random.Random(17)
    world.commit(100, oversize=1)
    with watching(world) as watch:
        with world.writing(2, tables=["public.orders", "app.notes", "audit.events"]):
            holder = rivals(machine)
            for kill in range(KILLS):
                successor = machine.start()
                successor.answers()
                if kill % 4 == 3:  # while it looks whether the holder lives
                    successor.command.lives(rng.uniform(0, 0.4))
                    successor.command.kill()
                    continue
                holder.command.kill()
                killed = time.monotonic()
                while not successor.runs():  # it had seen a last sign of life, and was refused
                    successor.command.kill()
                    successor = machine.start()
                assert time.monotonic() - killed < 30, "a dead holder was not succeeded within seconds"
                holder = successor
                holder.command.lives(rng.uniform(0, 0.3))
                if kill in (4, 12):
                    world.commit(10, oversize=1)
            holder.command.kill()
        world.once(within=240).expect(0)
    assert watch.back == []
    assert watch.looks > KILLS
    assert watch.moves > KILLS
    world.exact()
    bodies = receiver.bodies()
    assert [id for id, several in bodies.items() if len(set(several)) > 1] == []
    hook = compare(world.changes(), lines(bodies))
    assert hook.holds, hook
    assert {line["id"] for line in world.lines()} == set(bodies)
    assert sum(map(len, bodies.values())) > len(bodies), "killed and refused, something was delivered twice"


def rivals(machine: Machine) -> Daemon:
    """Two daemons at once: of each sink one of them is refused, and told who has it. The one that is left has both in the end."""
    one, two = machine.start(), machine.start()
    one.command.until(
        lambda: sorted([*one.named(two), *two.named(one)]) == sorted(SINKS), "each sink is refused to one of them, naming the other"
    )
    for daemon in (one, two):
        if len(daemon.named(two if daemon is one else one)) == len(SINKS):
            daemon.command.end().expect(1)
            return two if daemon is one else one
    one.command.kill()  # each has one of the sinks
    two.command.kill()
    again = machine.start()
    assert again.runs(), again.command.err
    return again
