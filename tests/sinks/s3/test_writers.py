"""Two writers of one lake, other sinks in its place, batches and states that change under it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from dsqlcdc.contract import Known, Misconfigured, Setback, Unavailable, Verdict
from dsqlcdc.errors import Fault, Held
from dsqlcdc_s3 import S3Sink
from dsqlcdc_s3.encode import void
from dsqlcdc_s3.objects import Put

from .lake import Bucket, FakeObjects, change, context, make_sink, resume


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def lake(bucket: Bucket) -> Callable[..., S3Sink]:
    return lambda **more: make_sink(FakeObjects(bucket), more.pop("options", None), **more)


async def test_an_older_writer_stops_and_stays_stopped(lake: Callable[..., S3Sink], bucket: Bucket) -> None:
    old, new = lake(writer="old"), lake(writer="new")
    async with old, new:
        await old.resume(resume())
        assert await old.write([change(1)]) == []
        assert [known.id for known in await new.resume(resume(old.word()))] == [change(1).id]
        assert await new.write([change(2)]) == []
        for number in (3, 4):
            with pytest.raises(Held, match="by new with epoch 2; we are old with epoch 1"):
                await old.write([change(number)])
        assert await new.write([change(3)]) == []
    assert bucket.ids() == [change(n).id for n in (1, 2, 3)]


async def test_two_writers_of_one_age_are_not_both_right(lake: Callable[..., S3Sink], bucket: Bucket) -> None:
    one, two = lake(writer="one"), lake(writer="two")
    async with one, two:
        await one.resume(resume())
        await two.resume(resume())
        assert await one.write([change(1)]) == []
        with pytest.raises(Held, match="by one with epoch 1; we are two with epoch 1"):
            await two.write([change(1)])
    assert bucket.ids() == [change(1).id]


async def test_a_part_voided_by_a_newer_writer_stops_the_older(lake: Callable[..., S3Sink], bucket: Bucket) -> None:
    def stop_at_part(key: str, body: bytes) -> None:
        if "data/" in key:
            raise Unavailable("cannot put", why="no answer")

    old, new = make_sink(FakeObjects(bucket, before=stop_at_part), writer="old"), lake()
    async with old, new:
        await old.resume(resume())
        with pytest.raises(Unavailable):
            await old.write([change(1)])
        assert list(await new.resume(resume(old.word()))) == []
        old._parts._objects.before = lambda key, body: None  # type: ignore[union-attr]
        with pytest.raises(Held, match="voided"):
            await old.write([change(1)])
        assert await new.write([change(1)]) == []
    assert bucket.ids() == [change(1).id]
    first, second = bucket.manifests()
    assert second["voided"] == [first["parts"][0]["key"]]
    assert bucket.objects[first["parts"][0]["key"]] == void()


@pytest.mark.parametrize("other", [{"sink": "audit"}, {"pipeline": "other"}])
async def test_a_manifest_of_another_sink_stops_this_one(lake: Callable[..., S3Sink], other: dict[str, str]) -> None:
    async with lake() as sink:
        await sink.write([change(1)])
    async with lake(context=context(**other)) as sink:
        with pytest.raises(Misconfigured, match="belongs to another sink"):
            await sink.resume(resume(**other))
        with pytest.raises(Misconfigured, match="belongs to another sink"):
            await sink.write([change(1)])


async def test_another_batch_after_no_answer_voids_what_was_begun(bucket: Bucket) -> None:
    """Part 0 is in, part 1 is not: the copy of part 0's row comes back as a duplicate, part 1's row goes in anew."""
    failing = True

    def no_answer(key: str, body: bytes) -> None:
        if failing and key.endswith("0001.jsonl.gz"):
            raise Unavailable("cannot put", why="no answer")

    hour = 3600 * 10**9
    one, two = change(1), change(2, version=change(2).version + hour)
    async with make_sink(FakeObjects(bucket, before=no_answer), {"parallel": 1}) as sink:
        await sink.resume(resume())
        with pytest.raises(Unavailable):
            await sink.write([one, two])
        failing = False
        assert await sink.write([change(3), one, two]) == [Setback(1, Verdict.DUPLICATE)]
    assert sorted(bucket.ids()) == sorted([one.id, two.id, change(3).id])
    assert bucket.manifests()[1]["voided"] == [bucket.manifests()[0]["parts"][1]["key"]]


async def test_a_write_cancelled_in_mid_batch_leaves_what_the_next_start_voids(lake: Callable[..., S3Sink], bucket: Bucket) -> None:
    waiting = asyncio.Event()

    async def wait_at_parts() -> None:
        if bucket.manifests():
            waiting.set()
            await asyncio.Event().wait()

    async with make_sink(FakeObjects(bucket, pause=wait_at_parts), {"parallel": 1}) as sink:
        await sink.resume(resume())
        writing = asyncio.create_task(sink.write([change(1)]))
        await waiting.wait()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
    assert bucket.ids() == []
    async with lake() as sink:
        assert list(await sink.resume(resume())) == []
        assert await sink.write([change(1)]) == []
    assert bucket.ids() == [change(1).id]


async def test_a_store_that_ignores_conditions_is_refused_before_anything_is_harmed(bucket: Bucket) -> None:
    class Overwrites(FakeObjects):
        async def put(self, key: str, body: bytes, *, if_none_match: bool, sha256: bytes, content_type: str) -> Put:
            return await super().put(key, body, if_none_match=False, sha256=sha256, content_type=content_type)

    async with make_sink(Overwrites(bucket)) as sink:
        await sink.write([change(1)])
    async with make_sink(Overwrites(bucket)) as sink:
        with pytest.raises(Misconfigured, match="ignores If-None-Match"):
            await sink.resume(resume())
    assert bucket.ids() == [change(1).id]


async def test_state_lost_is_found_in_the_lake_and_only_what_can_come_again_is_read(bucket: Bucket) -> None:
    async with make_sink(FakeObjects(bucket)) as sink:
        await sink.resume(resume())
        for number in range(1, 40):
            await sink.write([change(number)])
    objects = FakeObjects(bucket)
    async with make_sink(objects) as sink:
        since = change(35).arrived
        newest = change(39).version
        assert list(await sink.resume(resume(since=since))) == [Known(change(n).id, change(n).arrived, newest) for n in range(35, 40)]
        assert len([key for key in objects.gets if "data/" in key]) == 5
        assert len(objects.gets) < 20
        assert await sink.write([change(50)]) == []
    assert bucket.manifests()[-1]["n"] == 40
    assert bucket.manifests()[-1]["epoch"] == 2


async def test_a_state_without_its_lake_stops_the_sink_and_a_new_place_is_said(
    lake: Callable[..., S3Sink], bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    async with lake() as sink:
        await sink.resume(resume())
        await sink.write([change(1)])
        word = msgspec.json.encode({**msgspec.json.decode(sink.word()), "oldest": 2})
    bucket.objects.clear()
    async with lake() as sink:
        with pytest.raises(Misconfigured, match="manifests are gone"):
            await sink.resume(resume(word=word))
    moved = msgspec.json.encode({**msgspec.json.decode(word), "place": "s3://elsewhere/"})
    async with lake() as sink:
        assert list(await sink.resume(resume(word=moved))) == []
    assert "what it delivered before stays in s3://elsewhere/" in caplog.text


async def test_a_word_far_behind_costs_no_more_than_what_can_come_again(bucket: Bucket) -> None:
    objects = FakeObjects(bucket)
    async with make_sink(objects) as sink:
        await sink.resume(resume())
        word = sink.word()
        for number in range(1, 200):
            await sink.write([change(number)])
    async with make_sink(objects) as sink:
        objects.gets.clear()
        known = list(await sink.resume(resume(word, since=change(190).arrived)))
        assert [one.id for one in known] == [change(n).id for n in range(190, 200)]
        assert len(objects.gets) < 40


async def test_a_chain_of_thousands_is_found_in_a_few_dozen_requests(bucket: Bucket) -> None:
    async with make_sink(FakeObjects(bucket)) as sink:
        await sink.write([change(1)])
        body = bucket.objects["cdc/manifests/000000000001.json"]
        for n in range(2, 4321):
            bucket.objects[f"cdc/manifests/{n:012d}.json"] = body.replace(b'"n":1', b'"n":%d' % n).replace(
                b'"parts":[{', b'"parts":[],"was":[{'
            )
        assert sink._chain is not None
        assert await sink._chain.last(0) == 4320
        assert await sink._chain.last(4319) == 4320
        assert await sink._chain.last(4320) is None


@pytest.mark.parametrize("word", [b"nonsense", b'{"format":2}', b'{"format":1}'])
async def test_a_word_that_cannot_be_read_stops_the_sink(lake: Callable[..., S3Sink], word: bytes) -> None:
    async with lake() as sink:
        with pytest.raises(Misconfigured, match="word"):
            await sink.resume(resume(word))


async def test_a_manifest_of_a_newer_format_stops_the_sink(lake: Callable[..., S3Sink], bucket: Bucket) -> None:
    async with lake() as sink:
        await sink.write([change(1)])
        key = "cdc/manifests/000000000001.json"
        bucket.objects[key] = bucket.objects[key].replace(b'"format":1', b'"format":2')
        with pytest.raises(Misconfigured, match="its format is 2"):
            await sink.resume(resume())


async def test_the_same_change_twice_in_a_batch_goes_in_once(lake: Callable[..., S3Sink], bucket: Bucket) -> None:
    async with lake() as sink:
        assert await sink.write([change(1), change(1, shard="s2")]) == [Setback(1, Verdict.DUPLICATE)]
    assert bucket.ids() == [change(1).id]


async def test_faults_of_parallel_parts_one_that_stops_goes_first(bucket: Bucket) -> None:
    def refuse(key: str, body: bytes) -> None:
        if "hour=08" in key:
            raise Unavailable("cannot put", why="slow down")
        if "hour=09" in key:
            raise Misconfigured("cannot put", why="denied")

    hour = 3600 * 10**9
    async with make_sink(FakeObjects(bucket, before=refuse, pause=lambda: asyncio.sleep(0))) as sink:
        with pytest.raises(Fault) as stopped:
            await sink.write([change(1), change(2, version=change(2).version + hour)])
    assert isinstance(stopped.value, Misconfigured)
