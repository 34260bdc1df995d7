"""Whole lives of the pipeline over fragments in S3: killed at any request, by two sinks at their own pace, and beside the DynamoDB state."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import msgspec
import pytest

from dsqlcdc.contract import Batching, Change, Setback
from dsqlcdc.core.pipeline import Pipeline
from dsqlcdc.core.ports import FragmentStore, Name
from dsqlcdc.errors import Stopped
from dsqlcdc.stores.dynamodb_checkpoints import DynamoCheckpoints
from dsqlcdc.stores.s3_fragments import Look, S3Fragments
from dsqlcdc.stores.s3_objects import Listing
from dsqlcdc.testing.memory import MemorySource, RecordingSink
from dsqlcdc.testing.records import chunked
from tests.stores.bucket import Bucket, FakeObjects
from tests.stores.items import FakeItems, Table

from .lives import SCENARIOS, Broken, Parts, Scenario
from .lives import play as play_lives
from .mortal import Letters, Life
from .rigs import Bench, insert, play, stream_of

WORLDS = 12


class MortalObjects(FakeObjects):
    """A process's way to the bucket, which ends with its life: before a request, or before its answer."""

    def __init__(self, bucket: Bucket, life: Life) -> None:
        super().__init__(bucket)
        self._life = life

    async def put(self, name: str, body: bytes, *, new: bool = False) -> bool:
        await self._life.step()
        answer = await super().put(name, body, new=new)
        await self._life.step()
        return answer

    async def get(self, name: str) -> bytes | None:
        await self._life.step()
        return await super().get(name)

    async def list(self, start: str) -> Listing:
        await self._life.step()
        return await super().list(start)

    async def delete(self, name: str) -> None:
        await self._life.step()
        await super().delete(name)


def parts(kind: type[S3Fragments] = S3Fragments) -> Parts:
    """Each life has a store of its own over the world's bucket."""

    def mortal(store: FragmentStore, life: Life) -> FragmentStore:
        assert isinstance(store, S3Fragments)
        objects = store._objects
        assert isinstance(objects, FakeObjects)
        return kind(MortalObjects(objects.bucket, life), ["s"], every=0.0)

    return Parts(fragments=lambda _: kind(FakeObjects(Bucket()), ["s"], every=0.0), mortal=mortal)


DURABLE = [scenario for scenario in SCENARIOS if scenario.durable]


@pytest.mark.parametrize("scenario", DURABLE, ids=lambda scenario: scenario.name)
def test_no_life_over_s3_loses_or_repeats_a_change(scenario: Scenario) -> None:
    lives = sum(play_lives(scenario, seed, parts()) for seed in range(WORLDS))
    assert lives > 2 * WORLDS


class _Unmarked(S3Fragments):
    """The parts go without a marker."""

    async def _mark(self, sink: str, row: str, look: Look) -> None:
        for name in look.group.names:
            await self._objects.delete(name)


@pytest.mark.parametrize("kind", [_Unmarked])
def test_the_lives_notice_a_broken_store(kind: type[S3Fragments]) -> None:
    scenario = next(scenario for scenario in DURABLE if scenario.name == "least-unique-remembered-durable")

    def lives() -> None:
        for seed in range(300):
            play_lives(scenario, seed, parts(kind))

    with pytest.raises(Broken):
        lives()


@pytest.mark.parametrize("seed", range(4))
def test_with_state_and_pieces_in_aws_two_sinks_go_on_where_each_was_killed(seed: int) -> None:
    """The DynamoDB state holds no ids: what is in the sinks already is known by reading again, and the rows by their markers."""

    async def work() -> None:
        rng, table, bucket = random.Random(seed), Table(), Bucket()
        records = [insert(n) for n in range(40)]
        for n in range(100, 104):
            records += chunked("c", "app.t", {"id": n, "text": "x" * 100}, n + 1, size=40)
        records += rng.sample(records, 12)
        rng.shuffle(records)
        stream, letters = stream_of(*records, shards=3), Letters()
        written: dict[str, list[int]] = {"one": [], "two": []}

        async def life(name: str, number: int, after: int) -> None:
            state = DynamoCheckpoints("", items=FakeItems(table), looks=2, beat=0.1)
            store = S3Fragments(FakeObjects(bucket, rng, trouble=0.05), ["one", "two"], every=0.0)
            left = [after]

            async def write(changes: Sequence[Change]) -> Sequence[Setback]:
                await asyncio.sleep(rng.uniform(0, 0.1))
                left[0] -= len(changes)
                if left[0] < 0:
                    raise Stopped("killed")
                written[name].extend((c.key or {})["id"] for c in changes)
                return ()

            bench = Bench(stream, checkpoints=state, fragments=store, commit_every=0.05)
            bench.letters = letters
            sink = RecordingSink(write, batching=Batching(records=4, age=0.0))
            recipe = bench.run(sink, source=MemorySource(stream, seed=number, page=5))._recipe
            try:
                await Pipeline(msgspec.structs.replace(recipe, name=Name("p", name, stream.name))).run(asyncio.Event())
            except Stopped:
                assert after < 10**9
            finally:
                await state.close()
                await store.close()

        async def lives(name: str) -> None:
            for number, after in enumerate([*(rng.randrange(3, 25) for _ in range(5)), 10**9]):
                await life(name, number, after)

        await asyncio.gather(lives("one"), lives("two"))
        await asyncio.gather(*bucket.late)
        for name in written:
            assert set(written[name]) == {*range(40), *range(100, 104)}, name
            assert len(written[name]) <= 44 + 5 * 4, "no more comes again than what was under way when a life ended"
        assert not letters.kept
        await S3Fragments(FakeObjects(bucket), ["one", "two"], every=0.0).overdue(
            "one", 0.0
        )  # a process that begins finishes what was cut off
        assert not [name for name in bucket.objects if name.startswith("parts/")]

    play(work())
