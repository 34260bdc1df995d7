"""Several replays at once over one bucket, each killed anywhere: no letter and no attempt is lost, and nothing closed comes back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsqlcdc.core.ports import DeadLetter
from dsqlcdc.errors import Unavailable
from dsqlcdc.stores import s3_dead_letters
from dsqlcdc.stores.letters import name_of
from dsqlcdc.stores.s3_dead_letters import S3DeadLetters
from dsqlcdc.testing import virtual

from .buckets import Bucket, Killed, Process

LETTER = DeadLetter(pipeline="p", sink="", stream="s@1", shard="s", sequence="5", arrived=1e9, code="bad", detail="d", raw=b"\xff")
NAME = name_of(LETTER)


@pytest.fixture(autouse=True)
def in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoding in the loop itself: what a seed plays, it plays again."""

    async def inline(work: Callable[..., Any], *given: Any, **named: Any) -> Any:
        return work(*given, **named)

    monkeypatch.setattr(s3_dead_letters.asyncio, "to_thread", inline)
    monkeypatch.setattr(s3_dead_letters, "client", lambda _service, process: process.opened())


async def work(store: S3DeadLetters, rng: random.Random, number: int) -> None:
    """One replay: some attempts, and in the end the letter is dealt with. A call that was not answered is made again."""
    calls: list[Callable[[], Any]] = [partial(store.tried, NAME, "refused", "again", number * 100.0 + n) for n in range(rng.randrange(4))]
    folder = rng.choice(["replayed", "replayed", "discarded"])
    calls += [
        partial(store.close_letter, NAME, folder, "delivered", "", 1.0, keep=keep) for keep in ((True, False) if number % 2 else (False,))
    ]
    for call in calls:
        while True:
            try:
                await call()
                break
            except Unavailable:
                continue


async def process(bucket: Bucket, rng: random.Random, number: int, make: type[S3DeadLetters], trouble: float) -> None:
    """Killed, it is started again, until it comes to its end."""
    dies = rng.randrange(1, 20)
    while True:
        client = Process(bucket, rng, trouble, dies)
        try:
            await work(make("b", aws=client), rng, number)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            return
        except Killed:
            dies = rng.choice([-1, rng.randrange(1, 20)])


async def play(seed: int, make: type[S3DeadLetters] = S3DeadLetters, blind: str = "") -> list[str]:
    rng, bucket = random.Random(seed), Bucket(blind)
    trouble = rng.choice([0.0, 0.0, 0.1])
    quiet = Process(bucket, random.Random(0))
    store = S3DeadLetters("b", aws=quiet)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert await store.put(LETTER)
    async with asyncio.TaskGroup() as group:
        for number in range(rng.randrange(1, 5)):
            group.create_task(process(bucket, rng, number, make, trouble))
    if NAME in bucket.objects:
        bucket.broken.append("it was dealt with, and is still there")
    assert await store.put(LETTER), "the same record may die again"
    return bucket.broken


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32))
def test_replays_at_once_killed_anywhere_lose_no_letter_and_no_attempt_and_nothing_comes_back(seed: int) -> None:
    assert virtual.run(play(seed)) == []


class Hasty(S3DeadLetters):
    """Removes before it has put aside."""

    async def _put_aside(self, name: str, letter: bytes, closed: bytes) -> bool:
        return True


class Forgetful(S3DeadLetters):
    """Takes a copy that was there before for all that is known."""

    async def _put_aside(self, name: str, letter: bytes, closed: bytes) -> bool:
        return await self._write(name, closed, IfNoneMatch="*") is not None


@pytest.mark.parametrize(("make", "blind"), [(Hasty, ""), (Forgetful, ""), (S3DeadLetters, "put"), (S3DeadLetters, "delete")])
def test_a_box_that_breaks_a_rule_is_found_out(make: type[S3DeadLetters], blind: str) -> None:
    """Control: the order of the steps, the attempts of a stopped closing, and both conditions are needed."""
    assert any(virtual.run(play(seed, make, blind)) for seed in range(100))
