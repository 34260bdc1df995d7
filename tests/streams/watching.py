"""A watched account on virtual time: the embedded AWS, a stream that `apply` made, and watches over it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from dsqlcdc.aws import Aws
from dsqlcdc.core.ports import CheckpointStore
from dsqlcdc.local import Clock, Commit, Local
from dsqlcdc.local.causes import cause
from dsqlcdc.local.cdc import CdcStream, Reason
from dsqlcdc.stores.sqlite_checkpoints import SqliteCheckpoints
from dsqlcdc.streams.apply import apply
from dsqlcdc.streams.clients import open_clients
from dsqlcdc.streams.deeds import acting_name
from dsqlcdc.streams.desired import Desired, Target
from dsqlcdc.streams.health import Event
from dsqlcdc.streams.observe import observe
from dsqlcdc.streams.plan import plan
from dsqlcdc.streams.watch import Watch
from dsqlcdc.streams.work import Work
from dsqlcdc.testing import virtual

START = 1_800_000_000.0


class Watched:
    """`watch` begins a watch of its own process's making: its own connection to the same state."""

    def __init__(self, aws: Local, desired: Desired, state: Path) -> None:
        self.aws, self.desired, self.state = aws, desired, state
        self.events: list[Event] = []
        self.clock = aws.clock.now
        self.account = Aws(region="us-east-1", endpoint_url=aws.endpoint)

    async def provide(self) -> None:
        """As `stream apply`."""
        async with open_clients(self.account, self.desired) as clients:
            seen = await observe(self.desired, clients)
            work = Work(desired=self.desired, observed=seen, clients=clients, say=lambda _: None, clock=self.clock)
            assert (await apply(plan(self.desired, seen), work)).fault is None

    def streams(self) -> list[CdcStream]:
        return [one for one in self.aws.dsql.cluster(self.desired.cluster).live_streams() if one.status != "DELETING"]

    @property
    def stream(self) -> CdcStream:
        [one] = self.streams()
        return one

    async def commit(self, transactions: int = 5) -> None:
        await self.aws.commit(Commit(transactions=transactions, tables=["public.accounts"], cluster=self.desired.cluster))

    async def cause(self, reason: Reason) -> None:
        await cause(self.aws, self.stream, reason)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def of(self, *kinds: str) -> list[Event]:
        return [event for event in self.events if event.kind in kinds]

    def store(self) -> CheckpointStore:
        return SqliteCheckpoints(self.state)

    @asynccontextmanager
    async def lease(self) -> AsyncGenerator[CheckpointStore, None]:
        store = self.store()
        try:
            await store.hold(acting_name(self.desired))
            yield store
        finally:
            await store.close()

    @asynccontextmanager
    async def watch(self, **given: Any) -> AsyncGenerator[Watch, None]:
        """A watch that runs until this is left."""
        store = self.store()
        desired = msgspec.structs.replace(self.desired, **given)
        watch = Watch(
            desired,
            lambda: open_clients(self.account, desired, deadline=60.0, metrics=True),
            store,
            self.lease,
            durable=True,
            tell=self.events.append,
            clock=self.clock,
            random=random.Random(1).random,
        )
        running = asyncio.create_task(watch.run())
        try:
            yield watch
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await store.close()


async def until(done: Callable[[], object], *, within: float = 7200.0) -> None:
    """Wait, in virtual time, until it is so."""
    async with asyncio.timeout(within):
        while not done():  # noqa: ASYNC110 (virtual time: a pause costs nothing)
            await asyncio.sleep(5.0)


def play(act: Callable[[Watched], Awaitable[None]], tmp_path: Path, **target: Any) -> None:
    """Run on virtual time, in an account that has a stream."""

    async def main() -> None:
        clock = Clock(START, asyncio.get_running_loop().time)
        async with Local(read_throttle=False, delay=60.0, clock=clock) as aws:
            made = aws.dsql.create_cluster({"deletionProtectionEnabled": False})
            made.activate()
            wanted = Desired(
                pipeline="orders", cluster=made.id, target=Target(name="orders-cdc", **target), role="orders-cdc-dsql", poll=60.0
            )
            world = Watched(aws, wanted, tmp_path / "state.db")
            await world.provide()
            await act(world)

    virtual.run(main(), grace=0.002)
