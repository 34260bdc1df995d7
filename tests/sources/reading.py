"""Helpers: a source over the fake service, and what it read."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from dsqlcdc.core.ports import Checkpoint, Gap
from dsqlcdc.core.records import END, Mark, Page, Position, Record
from dsqlcdc.sources.budget import ReadLimits
from dsqlcdc.sources.feeds import Feeds
from dsqlcdc.sources.kinesis import KinesisSource
from dsqlcdc.testing.virtual import wall
from tests.sources.fake import FakeService


class Gaps:
    """Keeps gaps as a store would."""

    def __init__(self) -> None:
        self.stored: dict[str, Gap] = {}

    async def __call__(self, gap: Gap) -> Gap:
        return self.stored.setdefault(gap.id, gap)

    def ack(self) -> None:
        self.stored = {id: msgspec.structs.replace(gap, acked="seen") for id, gap in self.stored.items()}


async def feeds_over(service: FakeService, **settings: Any) -> Feeds:
    settings.setdefault("limits", ReadLimits.none())
    feeds = Feeds(service, clock=wall(), random=random.Random(7).random, busy=lambda: 0.0, **settings)
    await feeds.open()
    return feeds


@asynccontextmanager
async def reading(feeds: Feeds, gaps: Gaps | None = None, **settings: Any) -> AsyncIterator[KinesisSource]:
    settings.setdefault("sink", "s")
    source = KinesisSource(feeds, pipeline="p", on_gap=gaps or Gaps(), **settings)
    try:
        yield source
    finally:
        await source.close()


class Log:
    """What came out of pages: records by shard, marks as a pipeline that settles at once would have them."""

    def __init__(self) -> None:
        self.pages: list[Page] = []
        self.marks: dict[str, Mark] = {}

    def take(self, page: Page) -> None:
        self.pages.append(page)
        if page.remember:
            return
        old = self.marks.get(page.shard, Mark(Position("trim_horizon")))
        position = old.position
        arrived = old.arrived
        if page.records:
            position = Position("after", page.records[-1].sequence_number, page.records[-1].arrived)
            arrived = max(arrived, page.records[-1].arrived)
        if page.behind == 0:
            arrived = max(arrived, page.read_at)
        self.marks[page.shard] = Mark(END if page.ended else position, arrived)

    def records(self, shard: str | None = None, remember: bool = False) -> list[Record]:
        return [r for p in self.pages if p.remember is remember and shard in (None, p.shard) for r in p.records]

    def sequences(self, shard: str | None = None, remember: bool = False) -> list[str]:
        return [record.sequence_number for record in self.records(shard, remember)]

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(dict(self.marks))


async def read_once(
    feeds: Feeds, checkpoint: Checkpoint | None = None, *, warm_up: float | None = None, gaps: Gaps | None = None, **settings: Any
) -> Log:
    log = Log()
    async with reading(feeds, gaps, once=True, **settings) as source:
        log.marks = dict(await source.start(checkpoint, warm_up=warm_up))
        async for page in source.pages():
            log.take(page)
    return log


async def read_until(source: KinesisSource, log: Log, count: int) -> None:
    """Read until the log holds `count` records. The iterator is closed then."""
    pages = source.pages()
    try:
        async for page in pages:
            log.take(page)
            if len(log.records()) >= count:
                return
    finally:
        await pages.aclose()  # type: ignore[attr-defined]


def tasks_left() -> list[Any]:
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
