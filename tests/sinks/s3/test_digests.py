"""Digests in virtual time: one every hour, whatever fails; what could not be written is written later, and nothing of it is missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from dsqlcdc.contract import Digests, Progress, Resume, Unavailable
from dsqlcdc.prometheus import Metrics
from dsqlcdc.testing.virtual import run
from dsqlcdc_s3 import S3Sink
from dsqlcdc_s3.objects import Objects

from ...hosts.samples import status
from .auditing import FakeLake, audit, troubles
from .lake import NOON, Bucket, change, context

HOUR = 3600.0


class World:
    """A sink over a bucket in memory whose digests, or whose manifests, are refused while `refused` begins their name."""

    def __init__(self) -> None:
        self.bucket, self.refused, self.read = Bucket(), "", 0

    def now(self) -> float:
        return NOON + asyncio.get_running_loop().time()

    def _before(self, key: str, body: bytes) -> None:
        if self.refused and key.startswith(f"cdc/{self.refused}"):
            raise Unavailable("cannot put", where=key, why="the bucket does not answer")

    @asynccontextmanager
    async def _opened(self) -> AsyncGenerator[Objects]:
        yield FakeLake(self.bucket, before=self._before)

    def _progress(self) -> list[Progress]:
        at = str(self.read)
        return [Progress("s1", "trim_horizon", at, self.read, {"delivered": self.read}, 0, frontier=at, arrived=1.0, first="1")]

    @asynccontextmanager
    async def sink(self, **digest: object) -> AsyncGenerator[S3Sink]:
        options = S3Sink.Options.model_validate({"bucket": "lake", "prefix": "cdc/", "digest": digest})
        async with S3Sink(options, context(), objects=self._opened, clock=self.now) as sink:
            await sink.resume(Resume("orders-cdc", "lake", b"", 0.0, self._progress, "s@1", lambda: {"s1": ()}))
            yield sink

    async def write(self, sink: S3Sink, number: int) -> None:
        assert await sink.write([change(number, sequence=number)]) == []
        self.read = number

    def digests(self) -> list[dict[str, object]]:
        bodies = [body.partition(b"\n")[0] for key, body in sorted(self.bucket.objects.items()) if "digests/" in key]
        return [msgspec.json.decode(body, type=dict[str, object]) for body in bodies]


@pytest.mark.parametrize("refused", ["digests/", "manifests/"])
def test_after_hours_in_which_no_digest_could_be_written_the_chain_of_digests_has_no_hole(refused: str) -> None:
    async def work() -> None:
        world = World()
        async with world.sink() as sink:
            await world.write(sink, 1)
            await asyncio.sleep(HOUR + 60)
            assert len(world.digests()) == 1
            await world.write(sink, 2)
            world.refused = refused
            await asyncio.sleep(5 * HOUR)
            assert len(world.digests()) == 1
            broken = sink.digests()
            assert broken is not None
            assert broken.failed > 100
            assert "does not answer" in broken.why
            world.refused = ""
            await world.write(sink, 3)
            await asyncio.sleep(60)
            mended = sink.digests()
            assert mended is not None
            assert (mended.why, mended.failed) == ("", broken.failed)
            assert mended.at > broken.at
            await asyncio.sleep(HOUR)
        digests = world.digests()
        # with digests refused each hour has its own all the same; with the whole lake away one covers the hours that could not end
        assert len(digests) == (1 + 5 + 1 + 1 if refused == "digests/" else 1 + 1 + 1 + 1)
        assert [one["first"] for one in digests] == [1, *(int(str(one["n"])) + 1 for one in digests[:-1])]
        report = await audit(world.bucket, deep=False)
        assert (report.verdict, troubles(report)) == ("whole", [])
        assert (report.digests, report.rows) == (len(digests), 3)

    run(work())


def test_control_a_digest_that_stays_missing_is_found() -> None:
    async def work() -> None:
        world = World()
        async with world.sink() as sink:
            await world.write(sink, 1)
            await asyncio.sleep(3 * HOUR)
        key = next(key for key in sorted(world.bucket.objects) if "digests/" in key)
        del world.bucket.objects[key]
        assert [one[1] for one in troubles(await audit(world.bucket, deep=False))] == ["digest"]

    run(work())


def told(digests: Digests | None, now: float) -> dict[str, float]:
    """What a scrape says of it."""
    registry = CollectorRegistry()
    registry.register(Metrics(lambda: [status(digests=digests)], clock=lambda: now))
    return {s.name: s.value for family in registry.collect() for s in family.samples if s.name.startswith("dsqlcdc_digest_")}


def test_the_metrics_say_how_old_the_last_digest_is_and_by_how_much_the_next_is_overdue() -> None:
    async def work() -> None:
        world = World()
        async with world.sink(every="1h") as sink:
            assert told(sink.digests(), world.now()) == {"dsqlcdc_digest_overdue_seconds": 0.0, "dsqlcdc_digest_failures_total": 0.0}
            await asyncio.sleep(HOUR + 100)
            found = told(sink.digests(), world.now())
            assert found["dsqlcdc_digest_age_seconds"] < HOUR
            assert found["dsqlcdc_digest_overdue_seconds"] == 0.0
            world.refused = "digests/"
            await asyncio.sleep(3 * HOUR)
            found = told(sink.digests(), world.now())
            assert 3 * HOUR < found["dsqlcdc_digest_age_seconds"] < 4 * HOUR
            assert found["dsqlcdc_digest_overdue_seconds"] == pytest.approx(found["dsqlcdc_digest_age_seconds"] - HOUR, abs=0.1)
            assert found["dsqlcdc_digest_failures_total"] > 100
            world.refused = ""
        # the next run knows the digest of the one before; overdue it is only when it had its own time
        await asyncio.sleep(10 * HOUR)
        async with world.sink(every="1h") as sink:
            await asyncio.sleep(1)
            found = told(sink.digests(), world.now())
            assert found["dsqlcdc_digest_age_seconds"] > 10 * HOUR
            assert found["dsqlcdc_digest_overdue_seconds"] == 0.0

    run(work())


def test_a_sink_without_digests_has_no_such_series() -> None:
    async def work() -> None:
        world = World()
        options = S3Sink.Options.model_validate({"bucket": "lake", "prefix": "cdc/", "digest": None})
        async with S3Sink(options, context(), objects=world._opened, clock=world.now) as sink:
            await sink.resume(Resume("orders-cdc", "lake", b"", 0.0, world._progress, "s@1"))
            assert sink.digests() is None
        assert told(None, NOON) == {}

    run(work())
