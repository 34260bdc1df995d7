"""Owners of one head that come, stall, lose their network, go on and die: no checkpoint moves back, and the living are left alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dsqlcdc.core.ports import Commit, Name
from dsqlcdc.core.records import Mark, Position
from dsqlcdc.errors import Held, Unavailable
from dsqlcdc.stores.dynamodb_checkpoints import DynamoCheckpoints
from dsqlcdc.stores.dynamodb_items import HEAD, Item
from dsqlcdc.stores.head import joined, marks_of, read_content, read_head
from dsqlcdc.testing import virtual

from .items import FakeItems, Table

T = TypeVar("T")
NAME = Name("p", "lake", "orders@1")
LOOKS = 6


class Watched(Table):
    """The table, which is told of every head and finds out whether it breaks the law."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: list[str] = []
        self.place = 0
        self.former: set[str] = set()

    def apply(self, item: Item, over: Item | None, *, condition: bool) -> bool:
        old = self.items.get((item.pk, item.sk))
        done = super().apply(item, over, condition=condition)
        if done and item.sk == HEAD:
            self._judge(item, old)
        return done

    def _judge(self, item: Item, old: Item | None) -> None:
        if old is not None and item.version != old.version + 1:
            self.broken.append(f"version {old.version} → {item.version}")
        if old is not None and old.token and old.token != item.token:
            self.former.add(old.token)
        if item.token in self.former:
            self.broken.append("a former owner wrote")
        kept = read_head(item.body, "").streams.get(NAME.stream)
        if kept is None:
            return
        pieces = [self.items.get((item.pk, piece)) for piece in kept.pieces]
        if None in pieces:
            self.broken.append("a piece is missing")
            return
        content = read_content(joined(kept, [piece.body for piece in pieces if piece is not None]), "")
        place = int(marks_of(content)["shard"].position.sequence)
        if place < self.place:
            self.broken.append(f"the checkpoint moved back, {self.place} → {place}")
        self.place = place


class Life:
    """One process that runs the pipeline: holds, reads where it stands, commits on and on."""

    def __init__(self, table: Watched, rng: random.Random, trouble: float, room: int, make: type[DynamoCheckpoints]) -> None:
        self.items = FakeItems(table, rng, trouble, slow=0.2)
        self.table, self.rng = table, rng
        self.store = make("", items=self.items, looks=LOOKS, room=room)
        self.state = "starting"
        self.task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        try:
            await self._ask(lambda: self.store.hold(NAME))
            found = await self._ask(lambda: self.store.load(NAME))
            place = int(found.marks["shard"].position.sequence) if found is not None else 0
            self.state = "running"
            while True:
                place += self.rng.randrange(3)  # now and then only time passes
                mark = Mark(Position("after", str(place)), asyncio.get_running_loop().time())
                await self._ask(lambda mark=mark: self.store.commit(NAME, Commit({"shard": mark})))  # type: ignore[misc]
                if self.table.place < place:
                    self.table.broken.append(f"{place} was answered for and is not stored")
                await asyncio.sleep(self.rng.uniform(0.5, 2))
        except Held:
            self.state = "held"

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await call()
            except Unavailable:
                await asyncio.sleep(self.rng.uniform(0, 3))

    def stop(self) -> None:
        self.items.going.clear()

    def resume(self) -> None:
        self.items.going.set()

    @property
    def lives(self) -> bool:
        return self.items.going.is_set() and self.state == "running" and not self.task.done()


async def play(seed: int, *, table: Watched | None = None, make: type[DynamoCheckpoints] = DynamoCheckpoints) -> Watched:
    """A quarter of an hour of lives; then peace, in which one that lives must be left alone, or a new one must succeed within seconds."""
    rng, table = random.Random(seed), table or Watched()
    trouble, room = rng.choice([0.0, 0.02, 0.2]), rng.choice([300_000, 150])
    lives: list[Life] = []
    dead: list[Life] = []
    for _ in range(rng.randrange(5, 40)):
        match rng.choice(["start", "stop", "resume", "kill", "outage", "wait", "wait"]):
            case "start" if len(lives) < 12:
                lives.append(Life(table, rng, trouble, room, make))
            case "stop" if lives:
                rng.choice(lives).stop()
            case "resume" if lives:
                rng.choice(lives).resume()
            case "kill" if lives:
                dead.append(lives.pop(rng.randrange(len(lives))))
                dead[-1].stop()
            case "outage" if lives:
                one = rng.choice(lives)
                one.items.out = not one.items.out
            case _:
                pass
        await asyncio.sleep(rng.choice([0.1, 1.0, 4.0, 12.0, 40.0]))
    for life in lives:
        life.items.out, life.items.trouble = False, 0.0
        life.resume()
    await asyncio.sleep(60)
    running = [life for life in lives if life.lives]
    if len(running) > 1:
        table.broken.append("two run")
    fresh = Life(table, rng, 0.0, room, make)
    await asyncio.sleep(20)
    if fresh.state != ("held" if running else "running") or (running and not running[0].lives):
        table.broken.append(f"{fresh.state} beside {len(running)} that ran")
    for life in (*running, fresh):
        life.stop()
    last = Life(table, rng, 0.0, room, make)
    await asyncio.sleep(LOOKS + 4)
    if last.state != "running":
        table.broken.append("a dead owner was not succeeded")
    for life in (*dead, *lives, fresh, last):
        if life.task.done() and not life.task.cancelled() and life.task.exception() is not None:
            table.broken.append(repr(life.task.exception()))
    return table


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
@example(98582264)  # one that was succeeded before it knew that it was the owner comes again
def test_owners_come_and_go_and_no_checkpoint_moves_back(seed: int) -> None:
    assert virtual.run(play(seed)).broken == []


class Unfenced(Watched):
    """Writes whatever stands there."""

    def apply(self, item: Item, over: Item | None, *, condition: bool) -> bool:
        return super().apply(item, over, condition=False)


class OwnerOnly(Watched):
    """Looks at who owns it and not at the version: what is still on its way from the same owner is taken late."""

    def apply(self, item: Item, over: Item | None, *, condition: bool) -> bool:
        stored = self.items.get((item.pk, item.sk))
        if condition and over is not None and stored is not None and stored.token == over.token:
            over = stored
        return super().apply(item, over, condition=condition)


class Hasty(DynamoCheckpoints):
    """Succeeds without having looked."""

    def __init__(self, *given: str, **more: object) -> None:
        super().__init__(*given, **{**more, "looks": 0})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Silent(DynamoCheckpoints):
    """Never answers a note, and writes but once a minute."""

    def __init__(self, *given: str, **more: object) -> None:
        super().__init__(*given, **{**more, "beat": 1.0})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    async def hold(self, name: Name) -> None:
        await super().hold(name)
        seat = self._seat(name)
        seat.tenure._answered = "nothing"
        heart = seat.tenure._heart
        assert heart is not None
        heart.cancel()

    async def commit(self, name: Name, commit: Commit) -> None:
        await asyncio.sleep(30)
        await super().commit(name, commit)


class Usurper(DynamoCheckpoints):
    """Goes on in the name of whoever succeeded it."""

    async def commit(self, name: Name, commit: Commit) -> None:
        tenure = self._seat(name).tenure
        tenure._certain = False
        head = await self._items.get(tenure.pk, HEAD)
        if head is not None:
            tenure._token = head.token
        await super().commit(name, commit)


@pytest.mark.parametrize("table", [Unfenced, OwnerOnly])
def test_a_table_without_a_fence_is_found_out(table: type[Watched]) -> None:
    """Control."""
    assert any(virtual.run(play(seed, table=table())).broken for seed in range(60))


@pytest.mark.parametrize("make", [Hasty, Silent, Usurper])
def test_an_owner_that_breaks_the_rules_is_found_out(make: type[DynamoCheckpoints]) -> None:
    """Control."""
    assert any(virtual.run(play(seed, make=make)).broken for seed in range(60))
