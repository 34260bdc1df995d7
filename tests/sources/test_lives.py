"""Whole lives in virtual time: writes, reshards, empty answers, faults, expired iterators, crashes; every record once, in its order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsqlcdc.core.records import Mark
from dsqlcdc.errors import Lost, Unavailable
from dsqlcdc.sources import reader
from dsqlcdc.sources.fetched import Cursor
from dsqlcdc.sources.service import Expired, Throttled
from dsqlcdc.testing.virtual import run
from tests.sources.fake import FakeService
from tests.sources.reading import Gaps, Log, feeds_over, read_once, reading


class Life:
    """One stream's history and the runs that read it; a run settles what it is given at once and dies between two pages."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.service = FakeService(self.random.randint(1, 3), page=self.random.choice([1, 2, 5, 50]))
        self.written: dict[str, list[str]] = {}
        self.read: dict[str, list[str]] = {}
        self.marks: dict[str, Mark] = {}

    def open(self) -> list[str]:
        return [shard for shard, one in self.service.shards.items() if not one.closed]

    def happen(self) -> None:
        """One thing, of the stream or of the service."""
        draw = self.random.random()
        shard = self.random.choice(self.open())
        if draw < 0.6:
            self.written.setdefault(shard, []).extend(self.service.put(shard, count=self.random.randint(1, 12)))
        elif draw < 0.7 and len(self.service.shards) < 12:
            self.service.split(shard)
        elif draw < 0.76 and len(self.open()) > 1:
            ordered = sorted(self.open(), key=lambda s: self.service.shards[s].shard.low)
            at = self.random.randrange(len(ordered) - 1)
            self.service.merge(ordered[at], ordered[at + 1])
        elif draw < 0.82:
            self.service.empties[shard] = self.random.randint(1, 4)
        elif draw < 0.94:
            fault = self.random.choice([Unavailable("down"), Throttled("slow"), Expired("old")])
            self.service.faults["records"].append(fault)
        else:
            self.service.faults[self.random.choice(["list", "iterator"])].append(Unavailable("down"))

    def take(self, log: Log, known: int) -> None:
        for page in log.pages[known:]:
            self.read.setdefault(page.shard, []).extend(record.sequence_number for record in page.records)
        self.marks.update(log.marks)

    async def play(self, runs: int, pipelines: int) -> None:
        for _ in range(self.random.randint(0, 10)):
            self.happen()
        for _ in range(runs):
            feeds = await feeds_over(self.service, poll=4.0, rediscover=30, prefetch=self.random.choice([1, 10_000, 10**6]))
            others = [asyncio.create_task(self.follow(feeds, f"other{n}")) for n in range(pipelines - 1)]
            log = Log()
            async with reading(feeds) as source:
                log.marks = dict(await source.start(Log.checkpoint(self) if self.marks else None, warm_up=None))  # type: ignore[arg-type]
                pages = source.pages()
                for _ in range(self.random.randint(1, 25)):
                    log.take(await anext(pages))
                    if self.random.random() < 0.5:
                        self.happen()
                    await asyncio.sleep(self.random.choice([0] * 12 + [0.1] * 4 + [3] * 4 + [330]))
                await pages.aclose()  # type: ignore[attr-defined]
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            self.take(log, 0)
        log = await read_once(await feeds_over(self.service), Log.checkpoint(self) if self.marks else None)  # type: ignore[arg-type]
        self.take(log, 0)

    async def follow(self, feeds: object, name: str) -> None:
        async with reading(feeds, sink=name) as source:  # type: ignore[arg-type]
            await source.start(None, warm_up=None)
            async for _ in source.pages():
                await asyncio.sleep(self.random.choice([0, 0, 2]))


@settings(max_examples=25, deadline=None)
@example(seed=5673, runs=1, pipelines=3)  # a closed shard without records, then a restart before its child was read: no gap
@given(seed=st.integers(0, 2**32), runs=st.integers(1, 4), pipelines=st.integers(1, 3))
def test_over_crashes_reshards_and_faults_every_record_is_read_once_and_in_order(seed: int, runs: int, pipelines: int) -> None:
    life = Life(seed)
    run(life.play(runs, pipelines))
    assert {shard: read for shard, read in life.read.items() if read} == life.written


@pytest.fixture
def careless() -> Iterator[None]:
    """The control: a reader that goes on behind an expired iterator at the tip instead of renewing it from its position."""
    original = reader.patiently

    async def jump(feed: object, cursor: Cursor, *rest: object) -> object:
        if cursor.iterator is None and cursor.position.kind == "after":
            held = feed._service.shards[feed.shard].records  # type: ignore[attr-defined]
            cursor.iterator, cursor.verifying = feed._service._iterator(feed.shard, len(held)), False  # type: ignore[attr-defined]
        return await original(feed, cursor, *rest)  # type: ignore[arg-type]

    reader.patiently = jump  # type: ignore[assignment]
    yield
    reader.patiently = original


def test_control_a_reader_that_jumps_to_the_tip_loses_records(careless: None) -> None:
    wrong = 0
    for seed in range(12):
        life = Life(seed)
        run(life.play(3, 1))
        wrong += {shard: read for shard, read in life.read.items() if read} != life.written
    assert wrong > 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_is_trimmed_unread_is_a_gap(seed: int) -> None:
    """A pipeline dies, records are trimmed, it comes back: it reads all that was owed, or it halts."""

    async def main() -> None:
        draw = random.Random(seed)
        service = FakeService(1, page=draw.choice([1, 3, 50]))
        shard = "shardId-000000000000"
        written = service.put(shard, count=draw.randint(2, 30))
        log = Log()
        async with reading(await feeds_over(service)) as source:
            log.marks = dict(await source.start(None, warm_up=None))
            pages = source.pages()
            for _ in range(draw.randint(1, 5)):
                log.take(await anext(pages))
            await pages.aclose()  # type: ignore[attr-defined]
        written += service.put(shard, count=draw.randint(0, 5))
        service.trim(shard, draw.randint(0, len(written)))
        service.empties[shard] = draw.randint(0, 2)
        held = service.shards[shard].trimmed
        settled = len(log.sequences())
        gaps = Gaps()
        try:
            again = await read_once(await feeds_over(service), log.checkpoint(), gaps=gaps)
        except Lost:
            assert gaps.stored
            assert held >= settled
        else:
            assert not gaps.stored
            assert log.sequences() + again.sequences() == written
            assert held < settled

    run(main())
