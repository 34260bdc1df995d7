"""Digests of batches that were written in Lambda: named by a seal when nothing more becomes of them, and verified like the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dsqlcdc_s3.batch_sink import BatchSink
from dsqlcdc_s3.encode import void
from dsqlcdc_s3.job import seal_apart
from dsqlcdc_s3.objects import Objects
from dsqlcdc_s3.options import Options

from .auditing import FakeLake, audit, troubles
from .lake import NOON, Bucket, change, context

HOUR = 3600
OPTIONS = Options.model_validate({"bucket": "lake", "prefix": "cdc/", "gzip": 1})


async def written(bucket: Bucket, *numbers: int, at: float = NOON, shard: str = "s1", **more: object) -> None:
    """One invocation with these changes."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Objects]:
        yield FakeLake(bucket, **more)

    async with BatchSink(OPTIONS, context(), opened, writer="w", clock=lambda: at) as sink:
        assert await sink.write([change(number, shard=shard) for number in numbers]) == []


async def sealed(bucket: Bucket, at: float, *, every: bool = False) -> list[str]:
    return list(await seal_apart(FakeLake(bucket), OPTIONS, context(), lambda: at, every=every))


def named(bucket: Bucket) -> list[int]:
    """How many manifests beside the chain each seal names."""
    return [len(manifest["seal"].get("beside", ())) for manifest in bucket.manifests() if manifest.get("seal")]


async def test_batches_are_named_once_when_they_are_final_and_then_proved() -> None:
    bucket = Bucket()
    await written(bucket, 1, 2)
    await written(bucket, 3, shard="s2")
    await written(bucket, 5, at=NOON + 3000)
    assert (await audit(bucket, deep=False)).verdict == "whole"
    assert len(await sealed(bucket, NOON + 3600)) == 1
    assert len(await sealed(bucket, NOON + 7200)) == 1
    assert len(await sealed(bucket, NOON + 9000)) == 1, "an empty one too"
    assert named(bucket) == [2, 1, 0]
    report = await audit(bucket, deep=False)
    assert (report.verdict, report.rows, report.digests) == ("whole", 4, 3)
    assert any("Lambda" in sentence for sentence in report.unproved)
    data = [key for key, _ in bucket.data()]
    manifests = [key for key in bucket.objects if "/apart/" in key]
    for key in [*data, *manifests]:
        changed = Bucket()
        changed.objects = dict(bucket.objects)
        del changed.objects[key]
        assert [one[:3] for one in troubles(await audit(changed, deep=False)) if one[2] == key], key
    for key in data:
        changed = Bucket()
        changed.objects = {**bucket.objects, key: void()}
        assert [one[1:3] for one in troubles(await audit(changed, deep=False))] == [("emptied", key)]
    for key in manifests:
        changed = Bucket()
        changed.objects = {**bucket.objects, key: bucket.objects[key].replace(b'"writer":"w"', b'"writer":"x"')}
        assert ("manifest", key) in [one[1:3] for one in troubles(await audit(changed, deep=False))]


async def test_a_batch_that_was_killed_is_decided_when_it_is_sealed() -> None:
    bucket = Bucket()
    await written(bucket, 1)
    (part,) = [key for key, _ in bucket.data()]
    del bucket.objects[part]
    assert [one.code for one in (await audit(bucket, deep=False)).findings if one.where == part] == ["undecided"]
    await sealed(bucket, NOON + 3600)
    assert bucket.objects[part] == void()
    assert (await audit(bucket, deep=False)).verdict == "whole"


async def unsealed(bucket: Bucket) -> bool:
    return any(one.code == "unsealed" for one in (await audit(bucket, deep=False)).findings)


async def test_a_batch_that_comes_late_is_named_when_all_are_looked_at() -> None:
    bucket = Bucket()
    await written(bucket, 10, at=NOON)
    for hour in (1, 2, 3):
        await sealed(bucket, NOON + HOUR * hour)
    await written(bucket, 4, at=NOON + 3700)
    await sealed(bucket, NOON + HOUR * 5)
    assert await unsealed(bucket)
    await sealed(bucket, NOON + HOUR * 6, every=True)
    assert not (await audit(bucket, deep=False)).findings


@pytest.mark.parametrize("late", [1, 2, 26, 24 * 7])
async def test_a_batch_that_comes_late_is_named_by_the_first_digest_of_the_next_day(late: int) -> None:
    """However late Lambda may be: it gives a record up after a week."""
    bucket = Bucket()
    numbers = iter(range(10, 10_000, 2))
    for hour in range(1, late + 30):
        await written(bucket, next(numbers), at=NOON + HOUR * (hour - 0.9))
        if hour == late + 1:
            await written(bucket, 9, at=NOON + HOUR * (hour - 0.8))
        await sealed(bucket, NOON + HOUR * hour)
        if hour == late + 1:
            assert await unsealed(bucket) == (late > 1), "one that is not two seals behind is named at once"
    assert not (await audit(bucket, deep=False)).findings
    assert sum(named(bucket)) == late + 30


async def test_control_what_is_later_than_lambda_can_be_is_named_when_asked_for() -> None:
    bucket = Bucket()
    for day in range(12):
        await written(bucket, 10 + day, at=NOON + 24 * HOUR * day)
        await sealed(bucket, NOON + 24 * HOUR * day + HOUR)
    await written(bucket, 5, at=NOON + 24 * HOUR * 12)
    await sealed(bucket, NOON + 24 * HOUR * 12 + HOUR)
    assert await unsealed(bucket)
    await sealed(bucket, NOON + 24 * HOUR * 12 + 2 * HOUR, every=True)
    assert not await unsealed(bucket)


async def test_a_look_costs_what_is_new_and_once_a_day_nine_days() -> None:
    bucket, costs = Bucket(), list[int]()
    for hour in range(1, 24 * 20):
        await written(bucket, 10 + hour, at=NOON + HOUR * (hour - 0.9))
        lake = FakeLake(bucket)
        await seal_apart(lake, OPTIONS, context(), lambda hour=hour: NOON + HOUR * hour)  # type: ignore[misc]
        costs.append(len(lake.gets))
    days = [max(costs[day : day + 24]) for day in range(24, 24 * 19, 24)]
    assert sorted(costs)[len(costs) // 2] <= 8
    assert max(days[10:]) <= 24 * 9 + 10, "it does not grow with the lake"
