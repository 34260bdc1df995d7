"""The real client and the source against the embedded AWS: reshards of every kind while reading, trimming, expiring iterators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from dsqlcdc.aws import Aws, client
from dsqlcdc.core.ports import Checkpoint
from dsqlcdc.core.records import Mark
from dsqlcdc.errors import Lost, Misconfigured
from dsqlcdc.local import Commit, Local
from dsqlcdc.sources.feeds import Feeds, open_feeds
from dsqlcdc.sources.kinesis import KinesisSource
from tests.sources.reading import Gaps, Log

STREAM = "orders-cdc"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)


@pytest.fixture
async def aws() -> AsyncIterator[Local]:
    async with Local(delay=0.01) as local:
        yield local


async def post(aws: Local, what: str, body: dict[str, str]) -> None:
    async with aiohttp.ClientSession() as http, http.post(f"{aws.endpoint}/_dsqlcdc/{what}", json=body) as answer:
        assert answer.status == 200, await answer.text()


@asynccontextmanager
async def feeds(aws: Local, **settings: float) -> AsyncIterator[Feeds]:
    async with open_feeds(STREAM, Aws(endpoint_url=aws.endpoint), poll=0.25, **settings) as opened:  # type: ignore[arg-type]
        yield opened


async def read_once(opened: Feeds, checkpoint: Checkpoint | None = None, gaps: Gaps | None = None) -> Log:
    source = KinesisSource(opened, pipeline="p", sink="s", on_gap=gaps or Gaps(), once=True, deadline=20)
    log = Log()
    try:
        log.marks = dict(await source.start(checkpoint, warm_up=None))
        async for page in source.pages():
            log.take(page)
    finally:
        await source.close()
    return log


async def test_splits_merges_and_update_shard_count_while_reading(aws: Local) -> None:
    aws.pipe(STREAM, shards=2)
    sent = 0

    async def commit() -> None:
        nonlocal sent
        sent += sum((await aws.commit(Commit(transactions=150, duplicates=0.05, disorder=20))).sent.values())

    async def reshard() -> None:
        async with client("kinesis", Aws(region="us-east-1", endpoint_url=aws.endpoint)) as kinesis:

            async def settled() -> list[dict[str, object]]:
                while (await kinesis.describe_stream_summary(StreamName=STREAM))["StreamDescriptionSummary"]["StreamStatus"] != "ACTIVE":  # noqa: ASYNC110 a status can only be asked for
                    await asyncio.sleep(0.02)
                listed: list[dict[str, object]] = (await kinesis.list_shards(StreamName=STREAM))["Shards"]
                open_now = [s for s in listed if "EndingSequenceNumber" not in s["SequenceNumberRange"]]  # type: ignore[operator]
                return sorted(open_now, key=lambda s: int(s["HashKeyRange"]["StartingHashKey"]))  # type: ignore[index]

            await commit()
            first = (await settled())[0]
            await kinesis.split_shard(StreamName=STREAM, ShardToSplit=first["ShardId"], NewStartingHashKey=str(2**125))
            shards = await settled()
            await commit()
            await kinesis.merge_shards(StreamName=STREAM, ShardToMerge=shards[1]["ShardId"], AdjacentShardToMerge=shards[2]["ShardId"])
            await settled()
            await commit()
            await kinesis.update_shard_count(StreamName=STREAM, TargetShardCount=4, ScalingType="UNIFORM_SCALING")
            await settled()
            await commit()

    log = Log()
    async with feeds(aws) as opened:
        source = KinesisSource(opened, pipeline="p", sink="s", on_gap=Gaps(), deadline=20)
        await source.start(None, warm_up=None)
        resharding = asyncio.create_task(reshard())
        async with asyncio.timeout(40):
            async for page in source.pages():
                log.take(page)
                if resharding.done() and len(log.records()) >= sent:
                    break
        await source.close()
        await resharding
        again = await read_once(opened, log.checkpoint())
    places = [(page.shard, record.sequence_number) for page in log.pages for record in page.records]
    assert len(places) == len(set(places)) == sent > 600
    assert again.records() == []
    assert source.counts().reshards >= 1


async def test_trimmed_records_become_a_gap(aws: Local) -> None:
    aws.pipe(STREAM, shards=1)
    await aws.commit(Commit(transactions=50))
    async with feeds(aws) as opened:
        log = await read_once(opened)
        (shard,) = log.marks
        await aws.commit(Commit(transactions=50))
        await post(aws, "trim", {"stream": STREAM, "shard": shard})
        gaps = Gaps()
        with pytest.raises(Lost, match="gaps ack"):
            await read_once(opened, log.checkpoint(), gaps)
        (gap,) = gaps.stored.values()
        assert gap.after == log.records()[-1].sequence_number
        assert log.records()[-1].arrived <= gap.from_time <= gap.to_time  # two clocks: equal where they differ
        gaps.ack()
        assert (await read_once(opened, log.checkpoint(), gaps)).records() == []


async def test_expired_iterators_and_throttling_lose_nothing(aws: Local) -> None:
    aws.pipe(STREAM, shards=2)
    sent = sum((await aws.commit(Commit(transactions=100))).sent.values())
    log = Log()
    async with feeds(aws) as opened:
        source = KinesisSource(opened, pipeline="p", sink="s", on_gap=Gaps(), deadline=20)
        await source.start(None, warm_up=None)
        async with asyncio.timeout(30):
            async for page in source.pages():
                log.take(page)
                if len(log.records()) == sent and not source.counts().expired:
                    aws.kinesis.expire_iterators()
                    sent += sum((await aws.commit(Commit(transactions=100))).sent.values())
                elif len(log.records()) >= sent:
                    break
        await source.close()
        assert source.counts().expired >= 1
    assert len({record.sequence_number for record in log.records()}) == sent == len(log.records())


async def test_a_stream_deleted_while_it_is_read_says_what_to_do(aws: Local) -> None:
    aws.pipe(STREAM, shards=1)
    async with feeds(aws) as opened, client("kinesis", Aws(region="us-east-1", endpoint_url=aws.endpoint)) as kinesis:
        source = KinesisSource(opened, pipeline="p", sink="s", on_gap=Gaps())
        await source.start(None, warm_up=None)
        pages = source.pages()
        await anext(pages)
        await kinesis.delete_stream(StreamName=STREAM, EnforceConsumerDeletion=True)
        with pytest.raises(Misconfigured, match="deleted while it was read") as caught:
            async with asyncio.timeout(20):
                [page async for page in pages]
        assert caught.value.run
        await source.close()


async def test_marks_of_a_checkpoint_of_another_stream_are_refused(aws: Local) -> None:
    aws.pipe(STREAM, shards=1)
    aws.pipe("other", shards=1)
    await aws.commit(Commit(cluster=next(iter(aws.dsql.clusters)), transactions=3))
    async with feeds(aws) as opened:
        log = await read_once(opened)
        ((shard, mark),) = log.marks.items()
        odd = Mark(type(mark.position)("after", "9" * 56, mark.position.arrived), mark.arrived)
        with pytest.raises(Misconfigured, match="never had"):
            await read_once(opened, Checkpoint({shard: odd}))
