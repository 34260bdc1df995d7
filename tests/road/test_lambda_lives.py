"""Worlds through Lambda: invocations side by side, some twice, many killed at a random step, in virtual time; then the lake is exact."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

import pytest

from dsqlcdc.hosts.invocation import first_owed, work
from dsqlcdc.sources.lambda_event import LambdaSource, read_event
from dsqlcdc.stores.s3_fragments import S3Fragments
from dsqlcdc.testing import virtual
from dsqlcdc.testing.trigger import Event

from .lambda_lives import Account, MortalParts, judge, live
from .mortal import DurableFragments, Life


@pytest.fixture(autouse=True)
def unsaid(caplog: pytest.LogCaptureFixture) -> None:
    """Every sandbox that is killed would be told with its traceback."""
    caplog.set_level(logging.CRITICAL + 1, "dsqlcdc")


async def whole(seed: int) -> None:
    account = Account(seed)
    world, trigger = await live(seed, account)
    assert not trigger.failed
    await account.sweep()
    assert judge(world, account) == (0, 0, 0), seed
    assert not account.letters.kept


@pytest.mark.parametrize("start", range(0, 120, 40))
def test_nothing_is_lost_and_no_record_goes_in_twice(start: int) -> None:
    for seed in range(start, start + 40):
        virtual.run(whole(seed))


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_nothing_is_lost_and_no_record_goes_in_twice_in_very_many_worlds() -> None:
    for seed in range(10_000, 12_000):
        virtual.run(whole(seed))


@pytest.mark.parametrize("limits", [{"retries": 1}, {"max_age": 60.0}], ids=["retries", "age"])
def test_what_was_given_up_is_all_that_is_missing_and_the_sweeper_finishes_its_rows(limits: dict[str, Any]) -> None:
    """Batches end in the destination, carriers of oversized rows among them, and are replayed from there."""
    given_up = swept = 0
    for seed in range(40):

        async def one(seed: int = seed) -> tuple[int, int]:
            account = Account(seed)
            world, trigger = await live(seed, account, **limits)
            before = len(account.lake.lines())
            await account.sweep()
            finished = len(account.lake.lines()) - before
            for failed in trigger.failed:
                event = json.loads(json.loads(failed.body)["payload"])
                outfit, batch = account.outfit(Life(), 0.0), read_event(event, "memory")
                assert batch is not None
                done = await work(outfit, {"lake": LambdaSource(batch, 0.0)}, 900.0)
                assert first_owed(batch, done) == ""
            await account.sweep()
            assert judge(world, account) == (0, 0, 0), seed
            return len(trigger.failed), finished

        failed, finished = virtual.run(one())
        given_up, swept = given_up + failed, swept + finished
    assert given_up > 20
    assert swept > 0


def test_sweepers_beside_the_trigger_finish_rows_and_repeat_none() -> None:
    """Two at a time now and then, some killed; the trigger comes back with what they have delivered, and with what they have begun."""

    async def one(seed: int) -> int:
        account, swept = Account(seed), 0
        account.longest, account.pace = 3.0, 0.1

        async def sweeping() -> None:
            nonlocal swept
            while True:
                swept += sum(await asyncio.gather(*(account.sweep_beside() for _ in range(account.chance.randint(1, 2)))))
                await asyncio.sleep(account.chance.uniform(0, 3))

        sweeper = asyncio.create_task(sweeping())
        world, trigger = await live(seed, account)
        sweeper.cancel()
        await asyncio.gather(sweeper, return_exceptions=True)
        assert not trigger.failed
        await account.sweep()
        assert judge(world, account) == (0, 0, 0), seed
        return swept

    assert sum(virtual.run(one(seed)) for seed in range(40)) > 0


def test_pieces_that_stay_in_their_sandbox_are_lost() -> None:
    """Control: fragments that other invocations cannot see."""
    lost = 0
    for seed in range(25):

        async def one(seed: int = seed) -> int:
            account = Account(seed, lambda account, life: DurableFragments(["lake"]))
            world, _ = await live(seed, account)
            return judge(world, account)[0]

        lost += virtual.run(one())
    assert lost > 0


def test_without_claims_a_row_in_pieces_goes_in_twice() -> None:
    """Control: two invocations that see the last piece both deliver."""
    repeated = 0
    for seed in range(60):

        async def one(seed: int = seed) -> int:
            account = Account(seed, lambda account, life: S3Fragments(MortalParts(account.parts, life), ["lake"], every=0.0))
            world, _ = await live(seed, account)
            return judge(world, account)[1]

        repeated += virtual.run(one())
    assert repeated > 0


def test_an_answer_that_names_a_later_record_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: what stands between the first failure and the one that is named never comes again."""
    lost = 0
    for seed in range(25):

        async def one(seed: int = seed) -> int:
            account = Account(seed)
            real = account.invoke

            async def late(event: Event) -> Mapping[str, Any]:
                answer = await real(event)
                names = [record["kinesis"]["sequenceNumber"] for record in event["Records"]]
                owed = [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]
                return {"batchItemFailures": [{"itemIdentifier": names[-1]}]} if owed and owed[0] != names[-1] else answer

            account.invoke = late  # type: ignore[method-assign]
            world, _ = await live(seed, account)
            return judge(world, account)[0]

        lost += virtual.run(one())
    assert lost > 0
