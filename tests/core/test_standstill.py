"""The alarm of a sink that stands still: told once a level, before the stream forgets, and never for one that moves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.contract import Batching, Change, Setback
from dsqlcdc.core.pipeline import Pipeline, Recipe
from dsqlcdc.core.ports import Name
from dsqlcdc.core.standstill import LEVELS, PATIENCE, Standstill
from dsqlcdc.core.tables import Rule, Tables
from dsqlcdc.errors import Unavailable
from dsqlcdc.hosts.readiness import Readiness
from dsqlcdc.stores.fragments import MemoryFragments
from dsqlcdc.stores.memory_checkpoints import MemoryCheckpoints
from dsqlcdc.testing import MemorySource, MemoryStream, RecordingSink, virtual
from dsqlcdc.testing.records import full
from tests.road.mortal import Letters

HOUR = 3600.0
DAY = 24 * HOUR


@given(st.lists(st.floats(0, 2), min_size=1, max_size=40))
def test_a_level_is_told_once_and_in_order_while_the_sink_stands(shares: list[float]) -> None:
    alarm, peak = Standstill("p/hook"), 0.0
    for share in shares:
        alarm.look(2 * DAY, DAY, [2 * DAY - share * DAY], PATIENCE + 1)
        peak = max(peak, alarm.used)
        assert alarm.used == pytest.approx(share)
        assert alarm.level == max((level for level in LEVELS if peak >= level), default=0.0)


def test_one_that_moves_is_no_standstill_however_far_behind() -> None:
    alarm = Standstill("p/hook")
    alarm.look(2 * DAY, DAY, [DAY], PATIENCE)
    assert (alarm.used, alarm.level) == (1.0, 0.0)


def test_nothing_owed_or_no_retention_known_is_nothing_used() -> None:
    alarm = Standstill("p/hook")
    for now, oldest, owed in ((DAY, 0.0, []), (DAY, DAY, [0.0]), (DAY, 0.0, [DAY + 5])):
        alarm.look(now, oldest, owed, 1e6)
        assert (alarm.used, alarm.level) == (0.0, 0.0)


class Held(MemorySource):
    """A stream with a retention of a day, as far as the clock goes."""

    def oldest_readable(self) -> float:
        return self._stream.now - DAY


def test_a_pipeline_whose_sink_is_down_alarms_at_each_level_and_is_calm_again_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        loop, stream = asyncio.get_running_loop(), MemoryStream(shards=1)
        began = stream.now

        async def answer(changes: Sequence[Change]) -> Sequence[Setback]:
            if loop.time() < 23 * HOUR:
                raise Unavailable("down", after=60)
            return ()

        stream.put(next(iter(stream.shards)), full("c", "app.t", {"id": 1}, 1))
        pipeline = Pipeline(
            Recipe(
                name=Name("p", "hook", stream.name), source=Held(stream, follow=True), sink=RecordingSink(answer),
                tables=Tables({"*": Rule(key=("id",))}), checkpoints=MemoryCheckpoints(), dead_letters=Letters(),
                fragments=MemoryFragments(("hook",)), clock=lambda: stream.now, random=lambda: 0.5, commit_every=60.0,
            )
        )  # fmt: skip
        stop = asyncio.Event()
        running = asyncio.create_task(pipeline.run(stop))
        readiness = Readiness()
        seen: list[tuple[float, float]] = []
        while loop.time() < 25 * HOUR:
            await asyncio.sleep(600)
            stream.now = began + loop.time()
            status = pipeline.status()
            if not seen or seen[-1][1] != status.alarm:
                seen.append((round(loop.time() / HOUR, 1), status.alarm))
            reasons = [(r.code, "%" in r.reason) for r in readiness.ask([status], loop.time())]
            assert (("retention", True) in reasons) == (status.alarm > 0)
        stop.set()
        await running
        assert [level for _, level in seen] == [0.0, 0.5, 0.75, 0.9, 0.0]
        assert [hour for hour, _ in seen[1:4]] == pytest.approx([12, 18, 21.6], abs=0.4)

    caplog.set_level(logging.WARNING, "dsqlcdc.standstill")
    virtual.run(story())
    told = [record.getMessage() for record in caplog.records if record.name == "dsqlcdc.standstill"]
    assert [message.count("alarm,") for message in told] == [1, 1, 1, 0]
    assert "in 12.0 h" in told[0] or "in 11." in told[0]
    assert "alarm over" in told[3]


def test_a_sink_with_a_long_queue_that_moves_never_stands() -> None:
    async def story() -> None:
        loop, stream = asyncio.get_running_loop(), MemoryStream(shards=1)

        async def answer(changes: Sequence[Change]) -> Sequence[Setback]:
            await asyncio.sleep(30)
            return ()

        for n in range(20):
            stream.put(next(iter(stream.shards)), full("c", "app.t", {"id": n}, n + 1))
        pipeline = Pipeline(
            Recipe(
                name=Name("p", "hook", stream.name), source=Held(stream), sink=RecordingSink(answer, batching=Batching(records=1)),
                tables=Tables({"*": Rule(key=("id",))}), checkpoints=MemoryCheckpoints(), dead_letters=Letters(),
                fragments=MemoryFragments(("hook",)), clock=lambda: stream.now + 2 * DAY, random=lambda: 0.5,
            )
        )  # fmt: skip
        running = asyncio.create_task(pipeline.run(asyncio.Event()))
        while not running.done():
            await asyncio.sleep(10)
            assert pipeline.status().alarm == 0
        await running
        assert loop.time() > 500
        assert pipeline.status().retention_used > 0.5

    virtual.run(story())
