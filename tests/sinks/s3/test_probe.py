"""The lake's probe: it lists, reads and is refused a put; it stores nothing, and says whose the prefix is."""

from __future__ import annotations

import pytest

from dsqlcdc.contract import Misconfigured

from .lake import Bucket, FakeObjects, change, context, make_sink, resume


async def test_a_probe_stores_nothing_before_the_first_batch_and_after() -> None:
    bucket = Bucket()
    async with make_sink(FakeObjects(bucket)) as sink:
        assert await sink.probe() is True
        assert bucket.objects == {}
        await sink.resume(resume())
        await sink.write([change(1)])
        before = dict(bucket.objects)
        assert await sink.probe() is True
        assert bucket.objects == before


async def test_a_prefix_of_another_sink_is_told_before_anything_is_written() -> None:
    bucket = Bucket()
    async with make_sink(FakeObjects(bucket)) as sink:
        await sink.resume(resume())
        await sink.write([change(1)])
    async with make_sink(FakeObjects(bucket), context=context("other")) as sink:
        with pytest.raises(Misconfigured, match="another sink"):
            await sink.probe()


async def test_a_store_that_ignores_conditions_is_told() -> None:
    class Careless(FakeObjects):
        async def try_put(self, key: str) -> bool:
            return True

    async with make_sink(Careless(Bucket())) as sink:
        with pytest.raises(Misconfigured, match="ignores If-Match"):
            await sink.probe()
