"""Watching: each reason is named with its remedy, mended where the config says so, once however many watch; silence backs off."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dsqlcdc.local import Deny, Fault
from dsqlcdc.local.cdc import Reason
from dsqlcdc.streams.observed import CODES

from .watching import Watched, play, until

APPLY = {"default": "apply"}
MENDED: tuple[Reason, ...] = (
    "KINESIS_THROUGHPUT_EXCEEDED",
    "ROLE_ACCESS_DENIED",
    "KINESIS_ACCESS_DENIED",
    "KINESIS_KMS_ACCESS_DENIED",
    "KINESIS_OVERSIZE_RECORD",
)
PROVISIONED = {"mode": "provisioned", "shards": 2, "max_shards": 4}


@pytest.mark.parametrize("reason", CODES)
def test_each_reason_is_named_with_its_remedy_and_nothing_is_touched(reason: Reason, tmp_path: Path) -> None:
    async def act(world: Watched) -> None:
        async with world.watch() as watch:
            await until(lambda: world.of("found"))
            await world.cause(reason)
            status = "FAILED" if reason == "KINESIS_STREAM_NOT_FOUND" else "IMPAIRED"
            await until(lambda: world.of(status.lower()))
            await until(lambda: watch.view().remedy is not None)
            found = watch.view()
            assert found.remedy is not None
            assert (found.health.status, found.health.code, found.remedy.error) == (status, reason, reason)
            assert any(check.confirms for check in found.remedy.checks) or reason in ("CLUSTER_CMK_INACCESSIBLE", "INTERNAL_ERROR")
            assert bool(found.health.kept_until) == (status == "IMPAIRED")
            await asyncio.sleep(300.0)
            assert not world.of("acting", "acted")
            assert world.stream.status == status

    play(act, tmp_path, **PROVISIONED)


@pytest.mark.parametrize("reason", MENDED)
def test_what_can_be_mended_is_and_what_was_held_arrives(reason: Reason, tmp_path: Path) -> None:
    async def act(world: Watched) -> None:
        async with world.watch(remedies=APPLY) as watch:
            await until(lambda: world.of("found"))
            await world.cause(reason)
            assert world.stream.waiting
            await until(lambda: world.of("mended"))
            assert world.stream.waiting == 0
            assert (watch.view().health.status, watch.view().remedy) == ("ACTIVE", None)
            kinds = world.kinds()
            assert kinds.index("acting") < kinds.index("acted") < kinds.index("mended")
            acting = world.of("acting")
            assert all(event.after != event.before for event in acting)
            await asyncio.sleep(1800.0)
            assert world.of("acting") == acting

    play(act, tmp_path, **PROVISIONED)


@pytest.mark.parametrize("reason", ["CLUSTER_CMK_INACCESSIBLE", "INTERNAL_ERROR"])
def test_what_only_people_can_mend_is_explained_waited_for_and_escalated(reason: Reason, tmp_path: Path) -> None:
    async def act(world: Watched) -> None:
        async with world.watch(remedies=APPLY):
            await until(lambda: world.of("found"))
            await world.cause(reason)
            await until(lambda: world.of("impaired"))
            assert not world.of("escalate")
            world.aws.advance(3600.0)
            await until(lambda: world.of("escalate"))
            assert not world.of("acting")
            assert world.stream.status == "IMPAIRED"

    play(act, tmp_path)


def test_a_stream_that_failed_is_created_again_and_the_gap_is_recorded(tmp_path: Path) -> None:
    async def act(world: Watched) -> None:
        async with world.watch(remedies=APPLY) as watch:
            await until(lambda: world.of("found"))
            old = world.stream.id
            await asyncio.sleep(600.0)
            healthy = watch.view().health.healthy_at
            world.stream.fail("INTERNAL_ERROR")
            failed = world.clock()
            await until(lambda: world.of("replaced"))
            await until(lambda: watch.view().health.status == "ACTIVE")
            active = world.clock()
            await until(lambda: watch.view().gaps)
        store = world.store()
        [gap] = await store.gaps("orders")
        await store.close()
        assert (gap.kind, gap.after, gap.until) == ("recreated", old, world.stream.id)
        assert healthy <= gap.from_time <= failed < gap.to_time <= active + 120.0
        assert world.aws.kinesis.stream("orders-cdc").status == "ACTIVE"
        assert [event.after for event in world.of("gap")] == [gap.id]

    play(act, tmp_path)


def test_a_kinesis_stream_that_is_gone_is_made_again_with_its_cdc_stream(tmp_path: Path) -> None:
    async def act(world: Watched) -> None:
        async with world.watch(remedies=APPLY) as watch:
            await until(lambda: world.of("found"))
            await world.cause("KINESIS_STREAM_NOT_FOUND")
            await until(lambda: world.of("failed"))
            await until(lambda: watch.view().health.status == "ACTIVE")
            await world.commit()
            assert world.stream.waiting == 0
            assert len(world.of("gap")) == 1

    play(act, tmp_path)


def test_two_watches_act_once(tmp_path: Path) -> None:
    async def act(world: Watched) -> None:
        async with world.watch(remedies=APPLY), world.watch(remedies=APPLY):
            await until(lambda: len(world.of("found")) == 2)
            await world.cause("KINESIS_OVERSIZE_RECORD")
            await until(lambda: len(world.of("mended")) == 2)
            assert len(world.of("acting")) == len(world.of("acted")) == 1
            world.stream.fail("INTERNAL_ERROR")
            await until(lambda: len(world.of("replaced")) == 2)
            await until(lambda: world.stream.status == "ACTIVE")
            await asyncio.sleep(600.0)
            assert [event.kind for event in world.of("acting", "acted")] == ["acting", "acted"] * 2
        store = world.store()
        assert len(await store.gaps("orders")) == 1
        await store.close()

    play(act, tmp_path)


def test_what_does_not_help_is_not_done_for_ever(tmp_path: Path) -> None:
    """Somebody takes the policy away again and again."""

    async def act(world: Watched) -> None:
        async with world.watch(remedies=APPLY):
            await until(lambda: world.of("found"))
            for _ in range(6):
                await world.cause("KINESIS_ACCESS_DENIED")
                await asyncio.sleep(120.0)
                world.aws.advance(3600.0)
            assert 1 < len(world.of("acting")) <= 3
            assert any("24 hours" in event.what for event in world.of("not_acted"))

    play(act, tmp_path)


def test_a_watch_that_is_denied_says_so_once_and_goes_on_when_it_may(tmp_path: Path) -> None:
    async def act(world: Watched) -> None:
        async with world.watch() as watch:
            await until(lambda: world.of("found"))
            world.aws.denials.add(Deny(action="dsql:GetStream"))
            await until(lambda: world.of("denied"))
            await asyncio.sleep(3600.0)
            assert len(world.of("denied")) == 1
            assert "dsql:GetStream" in watch.view().health.fault
            world.aws.denials.clear()
            await until(lambda: world.of("answered"))
            assert world.kinds() == ["found", "denied", "answered"]

    play(act, tmp_path)


def test_throttling_makes_looks_rare(tmp_path: Path) -> None:
    async def act(world: Watched) -> None:
        async with world.watch():
            await until(lambda: world.of("found"))
            fault = Fault(kind="error", service="dsql", operation="GetStream", code="ThrottlingException", status=429, times=0)
            world.aws.faults.add(fault)
            await asyncio.sleep(4 * 3600.0)
            assert 8 < world.aws.faults.hits < 30
            world.aws.faults.clear()
            await until(lambda: world.of("answered"))

    play(act, tmp_path)


def test_roles_that_may_not_be_looked_at_leave_the_remedy_in_words(tmp_path: Path) -> None:
    async def act(world: Watched) -> None:
        world.aws.denials.add(Deny(action="iam:GetRole"))
        async with world.watch(remedies=APPLY) as watch:
            await until(lambda: world.of("found"))
            await world.cause("KINESIS_OVERSIZE_RECORD")
            await until(lambda: watch.view().remedy is not None)
            found = watch.view().remedy
            assert found is not None
            assert (found.error, found.checks, found.can_apply) == ("KINESIS_OVERSIZE_RECORD", [], False)
            await asyncio.sleep(300.0)
            assert ["iam:GetRole" in event.what for event in world.of("unanswered")] == [True]

    play(act, tmp_path)


def test_another_process_knows_what_the_one_before_it_saw(tmp_path: Path) -> None:
    async def act(world: Watched) -> None:
        async with world.watch():
            await until(lambda: world.of("found"))
            healthy = world.clock()
        await world.cause("INTERNAL_ERROR")
        async with world.watch() as watch:
            await until(lambda: world.of("impaired"))
            since = watch.view().health.broken_since
            await asyncio.sleep(60.0)
        await asyncio.sleep(86_400.0)
        async with world.watch() as watch:
            await until(lambda: watch.view().health.status)
            assert watch.view().health.broken_since == since
            assert watch.complete_since() == float("inf")
            world.stream.impair("")
            await until(lambda: watch.view().health.status == "ACTIVE")
            assert healthy < watch.complete_since() <= world.clock()

    play(act, tmp_path)


def test_a_stream_that_others_put_in_its_place_leaves_a_gap(tmp_path: Path) -> None:
    async def act(world: Watched) -> None:
        async with world.watch():
            await until(lambda: world.of("found"))
            world.stream.delete(0.0)
            await until(lambda: world.of("gone"))
            await world.provide()
            await until(lambda: world.of("gap"))
            assert world.kinds().count("replaced") == 1

    play(act, tmp_path)


def test_a_stream_that_is_active_and_late_is_told_and_so_is_that_it_caught_up(tmp_path: Path) -> None:
    async def act(world: Watched) -> None:
        async with world.watch() as watch:
            await until(lambda: world.of("found"))
            world.stream.late = 1200.0
            await world.commit()
            await until(lambda: world.of("lagging"))
            assert (watch.view().health.status, world.of("caught_up")) == ("ACTIVE", [])
            assert (watch.view().health.lag or 0.0) >= 900.0
            await until(lambda: world.of("caught_up"))
            assert (world.of("unmeasured", "impaired"), watch.view().health.lag) == ([], 0.0)

    play(act, tmp_path)


def test_what_is_held_is_counted_from_the_oldest_change_that_cloudwatch_knows_of(tmp_path: Path) -> None:
    async def act(world: Watched) -> None:
        await world.cause("INTERNAL_ERROR")
        begun = world.clock()
        await asyncio.sleep(7200.0)
        async with world.watch() as watch:
            await until(lambda: world.of("impaired"))
            assert abs(watch.view().health.broken_since - begun) < 1.0

    play(act, tmp_path)


def test_without_the_right_to_ask_cloudwatch_that_is_said_once_and_the_rest_is_watched(tmp_path: Path) -> None:
    async def act(world: Watched) -> None:
        world.aws.denials.add(Deny(action="cloudwatch:GetMetricData"))
        async with world.watch() as watch:
            await asyncio.sleep(4 * 3600.0)
            [told] = world.of("unmeasured")
            assert '"cloudwatch:GetMetricData"' in told.what
            assert (watch.view().health.status, watch.view().health.lag) == ("ACTIVE", None)
            world.aws.denials.clear()
            await until(lambda: watch.view().health.lag == 0.0)

    play(act, tmp_path)
