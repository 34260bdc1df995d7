"""S3 away for an hour of virtual time, under the real pipeline: nothing is dead, nothing repeated, and no more is taken than there is room."""

from __future__ import annotations

import asyncio

from dsqlcdc.core.pipeline import Pipeline, Recipe
from dsqlcdc.core.ports import Name
from dsqlcdc.core.tables import Rule, Tables
from dsqlcdc.errors import Unavailable
from dsqlcdc.testing import MemorySource, MemoryStream, virtual
from dsqlcdc.testing.records import full
from tests.road.mortal import DurableFragments, Letters, RememberingCheckpoints

from .lake import Bucket, FakeObjects, make_sink

ROOM = 60_000
HOUR = 3600.0


def test_an_hour_without_s3_is_backpressure_and_the_lake_is_exact_afterwards() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        stream, bucket, letters = MemoryStream(shards=2), Bucket(), Letters()
        shards = list(stream.shards)
        for number in range(1000):
            stream.put(shards[number % 2], full("c", "app.t", {"id": number}, number + 1))

        def away(key: str, body: bytes) -> None:
            if 5.0 < loop.time() < 5.0 + HOUR:
                raise Unavailable("S3 is away", code="E120")

        # every other refusal comes after the write took place: the answer was lost
        lost = iter(range(10**6))

        def before(key: str, body: bytes) -> None:
            if next(lost) % 2:
                away(key, body)

        sink = make_sink(FakeObjects(bucket, before=before, after=away), {"roll": {"age": "1s", "records": 20}})
        pipeline = Pipeline(
            Recipe(
                name=Name("orders-cdc", "lake", stream.name),
                source=MemorySource(stream, follow=True, page=10),
                sink=sink,
                tables=Tables({"app.*": Rule(key=("id",))}),
                checkpoints=RememberingCheckpoints(),
                dead_letters=letters,
                fragments=DurableFragments(["lake"]),
                clock=lambda: stream.now,
                random=lambda: 0.5,
                room=ROOM,
            )
        )
        stop = asyncio.Event()
        running = asyncio.create_task(pipeline.run(stop))
        peak = 0
        await asyncio.sleep(6.0)
        for number in range(1000, 3000):
            stream.put(shards[number % 2], full("c", "app.t", {"id": number}, number + 1))
        while loop.time() < 5.0 + HOUR:
            await asyncio.sleep(30.0)
            status = pipeline.status()
            peak = max(peak, status.in_flight_bytes)
            assert status.state == "running", status.reason
        assert pipeline.status().settled["delivered"] < 3000  # it was away indeed
        assert ROOM <= peak < ROOM + 20_000  # full, and by no more than a page above
        await asyncio.sleep(600.0)  # virtual: long enough for the longest backoff and what was left
        assert pipeline.status().settled["delivered"] == 3000
        stop.set()
        await running
        status = pipeline.status()
        assert (status.open, status.settled["dead"], status.letters) == (0, 0, 0)
        assert len(bucket.ids()) == len(set(bucket.ids())) == 3000

    virtual.run(work())
