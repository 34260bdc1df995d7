"""A receiver that is down: the breaker's states, and an hour of it on the real road, on virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.core.pipeline import Pipeline, Recipe
from dsqlcdc.core.ports import Name
from dsqlcdc.core.tables import Rule, Tables
from dsqlcdc.errors import Unavailable
from dsqlcdc.stores.files import FileDeadLetters
from dsqlcdc.stores.fragments import MemoryFragments
from dsqlcdc.stores.memory_checkpoints import MemoryCheckpoints
from dsqlcdc.testing import MemorySource, MemoryStream, virtual
from dsqlcdc.testing.records import full
from dsqlcdc_webhook.answers import Answer
from dsqlcdc_webhook.breaker import Breaker, Window
from dsqlcdc_webhook.post import NoAnswer

from .receiver import Script, change, webhook

HOUR = 3600.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_ten_failures_in_a_row_open_the_circuit() -> None:
    breaker = Breaker(Clock())
    assert [breaker.failed() for _ in range(9)] == [False] * 9
    assert breaker.wait == 0
    assert breaker.failed()
    assert (breaker.wait, breaker.probing) == (30, True)


def test_over_half_failing_opens_the_circuit_only_within_a_minute() -> None:
    for spacing, opens in ((1.0, True), (10.0, False)):
        clock = Clock()
        breaker = Breaker(clock)
        opened = False
        for n in range(40):
            clock.now += spacing
            opened = (breaker.failed() if n % 3 else breaker.succeeded()) or opened
        assert opened == opens


def test_each_probe_that_fails_doubles_the_wait_and_one_that_succeeds_closes() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(10):
        breaker.failed()
    waits = []
    for _ in range(7):
        waits.append(breaker.wait)
        clock.now += breaker.wait
        assert (breaker.wait, breaker.probing) == (0, True)
        assert breaker.failed()
    assert waits == [30, 60, 120, 240, 480, 600, 600]
    clock.now += 600
    assert breaker.succeeded()
    assert not breaker.probing
    assert not breaker.failed()


@given(st.lists(st.booleans(), max_size=200), st.integers(1, 40))
def test_the_window_stays_within_its_bounds(answers: list[bool], most: int) -> None:
    window = Window(most)
    for good in answers:
        before, round = window.size, window.start()
        if good:
            window.good()
        else:
            window.bad(round)
            window.bad(round)  # the same overload, told twice
            assert window.size == max(1, before // 2)
        assert 1 <= window.size <= most


def test_an_open_circuit_lets_one_probe_through() -> None:
    async def refuse(headers: Mapping[str, str], event: Any) -> Answer:
        raise NoAnswer("refused")

    async def story() -> None:
        post = Script(refuse)
        async with webhook(post=post) as sink:
            batch = [change(n) for n in range(200)]
            for _ in range(3):
                with pytest.raises(Unavailable):
                    await sink.write(batch)
            before = len(post.sent)
            assert before < 30
            await asyncio.sleep(31)
            post.most = 0
            with pytest.raises(Unavailable) as raised:
                await sink.write(batch)
            assert (len(post.sent) - before, post.most) == (1, 1)
            assert raised.value.after == pytest.approx(60)

    virtual.run(story())


def test_a_receiver_down_for_an_hour_costs_no_record_no_order_and_few_requests(tmp_path: Path) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        delivered: list[tuple[str, str]] = []
        during = 0

        async def answer(headers: Mapping[str, str], event: Any) -> Answer:
            nonlocal during
            if 5 < loop.time() < 5 + HOUR:
                during += 1
                raise NoAnswer("connection refused")
            await asyncio.sleep(0.05)
            delivered.append((event["subject"], event["sequence"]))
            return Answer(204)

        stream, rows, count = MemoryStream(shards=2), 50, 5000
        for n in range(count):
            stream.put(sorted(stream.shards)[n % rows % 2], full("u", "public.orders", {"id": n % rows, "n": n}, (n + 1) * 10**9))
        pipeline = Pipeline(
            Recipe(
                name=Name("p", "hook", stream.name), source=MemorySource(stream), sink=webhook(post=Script(answer)),
                tables=Tables({"*": Rule(key=("id",))}), checkpoints=MemoryCheckpoints(), dead_letters=FileDeadLetters(tmp_path),
                fragments=MemoryFragments(("hook",)), clock=lambda: stream.now, random=random.Random(1).random, room=200_000,
            )
        )  # fmt: skip
        await pipeline.run(asyncio.Event())
        status = pipeline.status()
        assert status.settled["delivered"] == status.read == count
        assert status.settled["dead"] == 0
        assert loop.time() > HOUR
        assert 0 < during < 60  # ten to open the circuit, those then under way, and the probes
        assert len(delivered) == len(set(delivered)) == count
        for key in range(rows):
            seen = [sequence for subject, sequence in delivered if subject == f"public.orders/{key}"]
            assert seen == sorted(seen)

    virtual.run(story(), grace=0.01)
