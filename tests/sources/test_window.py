"""Pages kept for those who follow: each is read about once, nobody is waited for for long, and the bytes keep their bound."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsqlcdc.sources.feed import Feed
from dsqlcdc.sources.feeds import Feeds
from dsqlcdc.sources.kinesis import KinesisSource
from dsqlcdc.sources.share import Credit, Share
from dsqlcdc.sources.window import Window
from dsqlcdc.testing.virtual import run
from tests.sources.fake import FakeService
from tests.sources.reading import Gaps, Log, feeds_over, reading, tasks_left

PAGE = 10
DATA = b"x" * 5000
SIZE = PAGE * (len(DATA) + 300)
"""Bytes a page of the tests takes."""


class Race:
    """Pipelines over one stream: how often it was read, what each got, and the most bytes there were in window and shares."""

    def __init__(self, *, shards: int, pages: int, prefetch: int, data: bytes = DATA) -> None:
        self.service = FakeService(shards, page=PAGE)
        self.count, self.prefetch, self.pages = shards * pages * PAGE, prefetch, shards * pages
        for shard in self.service.shards:
            self.service.put(shard, data, count=pages * PAGE)
        self.most = 0
        self.began = 0.0
        self.took: dict[int, float] = {}

    @property
    def reads(self) -> int:
        return sum(len(one.reads) for one in self.service.shards.values())

    async def run(self, paces: Sequence[float | None]) -> None:
        """`paces`: seconds a page takes each pipeline; None: it takes one and no more."""
        feeds = await feeds_over(self.service, prefetch=self.prefetch)
        self.began = asyncio.get_running_loop().time()
        sources = [KinesisSource(feeds, pipeline="p", sink=f"s{n}", on_gap=Gaps(), once=True) for n in range(len(paces))]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._follow(feeds, n, sources[n], pace)) for n, pace in enumerate(paces)]
            await asyncio.gather(*(task for task, pace in zip(tasks, paces, strict=True) if pace is not None))
            for task in tasks:
                task.cancel()
        for source in sources:
            await source.close()
        assert feeds.cached_bytes == 0
        assert not tasks_left()

    async def _follow(self, feeds: Feeds, number: int, source: KinesisSource, pace: float | None) -> None:
        log = Log()
        await source.start(None, warm_up=None)
        async with aclosing(source.pages()) as pages:
            async for page in pages:
                log.take(page)
                self.most = max(self.most, feeds.cached_bytes)
                await asyncio.sleep(1e6 if pace is None else pace if page.records else 0)
        assert len(set(log.sequences())) == len(log.sequences()) == self.count
        self.took[number] = asyncio.get_running_loop().time() - self.began


@pytest.mark.parametrize("sinks", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("shards", [1, 4, 30])
def test_pipelines_of_like_speed_read_each_page_about_once_however_many_they_are(sinks: int, shards: int) -> None:
    async def main() -> None:
        race = Race(shards=shards, pages=30, prefetch=20 * SIZE)
        await race.run([0.01 + 0.001 * n / sinks for n in range(sinks)])
        assert race.reads <= 1.05 * race.pages
        assert race.most <= race.prefetch // 4
        assert max(race.took.values()) < 0.02 * race.pages + 1

    run(main())


@pytest.mark.parametrize("sinks", [2, 5, 8])
@pytest.mark.parametrize("shards", [4, 30])
def test_first_pages_larger_than_anybody_could_know_lock_nobody_up_and_are_read_once(sinks: int, shards: int) -> None:
    """Those of all shards together are more than is kept."""

    async def main() -> None:
        race = Race(shards=shards, pages=30, prefetch=80 * SIZE, data=DATA * 4)
        await race.run([0.01] * sinks)
        assert race.reads <= race.pages + 3
        assert max(race.took.values()) < 0.01 * race.pages + 1

    run(main())


def test_without_waiting_for_those_behind_pages_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Feed, "_followed", lambda *_: False)

    async def main() -> None:
        race = Race(shards=4, pages=30, prefetch=20 * SIZE)
        await race.run([0.01 + 0.001 * n / 5 for n in range(5)])
        assert race.reads > 1.5 * race.pages

    run(main())


@pytest.mark.parametrize("stuck", [1, 3])
def test_a_pipeline_that_takes_nothing_holds_the_others_up_for_a_second_at_most(stuck: int) -> None:
    async def main() -> None:
        race = Race(shards=4, pages=30, prefetch=20 * SIZE)
        await race.run([None] * stuck + [0.01] * 2)
        alone = Race(shards=4, pages=30, prefetch=20 * SIZE)
        await alone.run([0.01] * 2)
        assert max(race.took.values()) <= max(alone.took.values()) + Credit.FULL * 1.2  # however many: they are waited for together
        assert race.reads <= 1.05 * race.pages
        assert race.most <= race.prefetch // 4

    run(main())


def test_a_slow_pipeline_costs_the_others_a_second_and_a_tenth_of_the_time() -> None:
    async def main() -> None:
        race = Race(shards=4, pages=60, prefetch=20 * SIZE)
        await race.run([0.2, 0.01])
        assert race.took[1] <= 1.3 * (0.01 * race.pages) + 2 * Credit.FULL
        assert race.took[0] <= 1.2 * (0.2 * race.pages) + 1

    run(main())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.05, 0.3]), min_size=2, max_size=5),
    st.integers(1, 6),
    st.integers(1, 12),
    st.integers(1, 40),
)
def test_every_pipeline_gets_everything_once_and_in_its_bytes_at_any_pace(paces: list[float], shards: int, pages: int, room: int) -> None:
    async def main() -> None:
        race = Race(shards=shards, pages=pages, prefetch=room * SIZE)
        await race.run(paces)
        assert race.most <= max(race.prefetch // 4, SIZE)

    run(main())


def test_whoever_was_left_behind_and_has_caught_up_shares_again() -> None:
    async def main() -> None:
        service = FakeService(1, page=PAGE)
        shard = next(iter(service.shards))
        service.put(shard, DATA, count=60 * PAGE)
        feeds = await feeds_over(service, prefetch=20 * SIZE)
        async with reading(feeds, sink="a") as ahead, reading(feeds, sink="b") as late:
            logs = Log(), Log()

            async def follow(source: KinesisSource, log: Log, pause: float) -> None:
                await source.start(None, warm_up=None)
                async for page in source.pages():
                    log.take(page)
                    if pause:
                        await asyncio.sleep(pause)
                        pause = 0.0

            tasks = [asyncio.create_task(follow(ahead, logs[0], 0.0)), asyncio.create_task(follow(late, logs[1], 30.0))]
            await asyncio.sleep(60)
            assert [len(log.records()) for log in logs] == [60 * PAGE] * 2
            before = len(service.shards[shard].reads)
            assert before > 100  # each for itself
            service.put(shard, DATA, count=60 * PAGE)
            await asyncio.sleep(60)
            assert [len(log.records()) for log in logs] == [120 * PAGE] * 2
            assert len(service.shards[shard].reads) - before <= 60 * 1.1 + 75  # once, and a poll a second
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    run(main())


class Owing:
    """Keeps one page, which one pipeline owes."""

    def __init__(self) -> None:
        self.credit = Credit()

    def forget(self, thing: object) -> None:
        pass

    def owed(self, thing: object) -> Sequence[Credit]:
        return [self.credit]


@pytest.mark.parametrize("working", [True, False])
def test_while_the_processor_works_nobody_is_charged(working: bool) -> None:
    """Pipelines that share it are behind each other for want of it, not for what they do."""

    async def main() -> None:
        loop, keeper, share = asyncio.get_running_loop(), Owing(), Share(100)
        window: Window[object] = Window(50, loop.time if working else lambda: 0.0)
        hold = window.hold(50, called=False)
        assert hold is not None
        window.keep(object(), 50, keeper, hold)
        share.hungry = True
        waiting = asyncio.create_task(window.wait(50, keeper, share))
        await asyncio.sleep(Credit.FULL * 1.2)
        assert keeper.credit.spent is not working
        waiting.cancel()

    run(main())


def test_a_page_that_nobody_takes_holds_nobody_up_for_long_though_the_processor_works() -> None:
    async def main() -> None:
        loop, keeper, share = asyncio.get_running_loop(), Owing(), Share(100)
        window: Window[object] = Window(50, loop.time)
        pages = [object() for _ in range(30)]
        share.hungry = True
        for page in pages:  # taken, if slowly
            hold = window.hold(50, called=True)
            assert hold is not None
            window.keep(page, 50, keeper, hold)
            waiting = asyncio.create_task(window.wait(50, keeper, share))
            await asyncio.sleep(5)
            assert not keeper.credit.spent
            window.drop(page)
            await waiting
        hold = window.hold(50, called=True)
        assert hold is not None
        window.keep(pages[0], 50, keeper, hold)
        waiting = asyncio.create_task(window.wait(50, keeper, share))
        await asyncio.sleep(11)
        assert keeper.credit.spent
        waiting.cancel()

    run(main())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 60)), max_size=60))
def test_a_window_never_holds_more_than_its_bytes_or_one_page(steps: list[tuple[int, int]]) -> None:
    class Keeper:
        def __init__(self) -> None:
            self.things: list[object] = []

        def forget(self, thing: object) -> None:
            self.things.remove(thing)

        def owed(self, thing: object) -> Sequence[Credit]:
            return [credit] if self.things.index(thing) % 2 else []

    credit, keeper = Credit(), Keeper()
    window: Window[object] = Window(50, lambda: 0.0)
    for what, size in steps:
        hold = window.hold(size, called=False)
        if hold is None:
            assert window.bytes + size > 50
            continue
        assert window.bytes + size <= 50 or not keeper.things
        if what == 0:
            window.widen(hold, size + 10)
        if what < 4:
            thing = object()
            keeper.things.append(thing)
            window.keep(thing, size, keeper, hold)
            assert hold.size == 0
        if what == 2 and keeper.things:
            window.drop(keeper.things.pop(0))
        window.let_go(hold)
        assert window.bytes <= 50 or len(keeper.things) == 1
    for thing in keeper.things:
        window.drop(thing)
    assert window.bytes == 0


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=100))
def test_nobody_is_waited_for_longer_than_a_second_and_a_tenth_of_the_time(steps: list[tuple[float, bool]]) -> None:
    credit, now, waited = Credit(), 0.0, 0.0
    for passed, met in steps:
        now += passed
        if met:
            credit.met(now)
        if not credit.spent:
            credit.spend(0.1, now)
            waited += 0.1
    assert waited <= Credit.FULL + Credit.RATE * now + 0.1 + 1e-6
