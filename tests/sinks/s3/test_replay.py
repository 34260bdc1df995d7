"""A replayed row and one the chain delivers never both exist, whoever is stopped where."""

from __future__ import annotations

import random
from asyncio import CancelledError
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from dsqlcdc.contract import Change, Misconfigured, Setback, Unavailable, Verdict
from dsqlcdc.errors import Held
from dsqlcdc_s3 import S3Sink
from dsqlcdc_s3.objects import Put
from dsqlcdc_s3.replay import Replays

from .lake import NOON, Bucket, FakeObjects, change, context, make_sink, resume, step

X = change(1)


async def replayed(bucket: Bucket, *changes: Change, **more: Any) -> list[Setback]:
    async with make_sink(FakeObjects(bucket), **more) as sink:
        return list(await sink.replay(changes or (X,)))


async def written(bucket: Bucket, *changes: Change, **more: Any) -> list[Setback]:
    async with make_sink(FakeObjects(bucket), **more) as sink:
        await sink.resume(resume())
        return list(await sink.write(changes or (X,)))


def verdicts(setbacks: list[Setback]) -> list[Verdict]:
    return [setback.verdict for setback in setbacks]


async def test_a_replay_is_an_object_and_a_manifest_of_its_own() -> None:
    bucket = Bucket()
    assert await replayed(bucket) == []
    name = f"replay-{X.id.hex()}"
    assert sorted(bucket.objects) == [
        f"cdc/data/public.orders/dt=2027-01-15/hour=08/{name}.jsonl.gz",
        f"cdc/manifests/{name}.json",
    ]
    (line,) = bucket.lines()
    assert line["id"] == X.id.hex()
    (manifest,) = bucket.manifests()
    assert (manifest["part"]["rows"], manifest["pipeline"], manifest["sink"]) == (1, "orders-cdc", "lake")


async def test_replaying_twice_and_another_copy_of_the_change_changes_nothing() -> None:
    bucket = Bucket()
    await replayed(bucket)
    before = dict(bucket.objects)
    copy = msgspec.structs.replace(X, shard="s9", sequence="77", arrived=float(NOON + 9))
    assert verdicts(await replayed(bucket)) == [Verdict.DUPLICATE]
    assert verdicts(await replayed(bucket, copy, copy)) == [Verdict.DUPLICATE] * 2
    assert bucket.objects == before


async def test_what_the_chain_has_is_not_replayed() -> None:
    bucket = Bucket()
    await written(bucket, change(2), X)
    assert verdicts(await replayed(bucket, X, change(3))) == [Verdict.DUPLICATE]
    assert sorted(bucket.ids()) == sorted({X.id, change(2).id, change(3).id})


async def test_what_was_replayed_the_chain_takes_no_more() -> None:
    bucket = Bucket()
    await replayed(bucket)
    assert verdicts(await written(bucket, X, change(2))) == [Verdict.DUPLICATE]
    assert sorted(bucket.ids()) == sorted({X.id, change(2).id})
    assert verdicts(await written(bucket, X, writer="next")) == [Verdict.DUPLICATE]


async def test_the_chain_goes_on_beside_replays_and_its_end_is_found() -> None:
    bucket = Bucket()
    await written(bucket, change(2))
    await replayed(bucket, *(change(number) for number in range(10, 60)))
    await written(bucket, change(3), writer="next")
    numbers = sorted(key for key in bucket.objects if "manifests/0" in key)
    assert numbers == ["cdc/manifests/000000000001.json", "cdc/manifests/000000000002.json"]
    assert len(bucket.ids()) == 52


async def test_a_running_writer_meets_a_replay_that_came_after_its_start() -> None:
    bucket = Bucket()
    async with make_sink(FakeObjects(bucket)) as sink:
        await sink.resume(resume())
        await sink.write([change(2)])
        assert await replayed(bucket) == []
        setbacks = list(await sink.write([change(3), X]))
        assert [(setback.index, setback.verdict) for setback in setbacks] == [(1, Verdict.DUPLICATE)]
        assert await sink.write([change(4)]) == []
    assert sorted(bucket.ids()) == sorted({change(number).id for number in (1, 2, 3, 4)})


async def test_a_row_under_way_in_the_chain_is_left_to_it() -> None:
    """The manifest is in, its part is not: who replays waits, and voids nothing."""
    bucket = Bucket()

    def fail(key: str, body: bytes) -> None:
        if "data/" in key:
            raise Unavailable("cannot put", where=key)

    async with make_sink(FakeObjects(bucket, before=fail)) as sink:
        await sink.resume(resume())
        with pytest.raises(Unavailable):
            await sink.write([X])
    assert verdicts(await replayed(bucket)) == [Verdict.RETRY]
    assert bucket.ids() == []
    await written(bucket, writer="next")  # voids the first batch, and takes the begun replay over
    assert verdicts(await replayed(bucket)) == [Verdict.DUPLICATE]
    assert bucket.ids() == [X.id]


async def test_a_replay_begun_and_left_costs_no_row() -> None:
    """Only its manifest is there: the chain voids the replay and delivers, and the replay never comes back."""
    bucket = Bucket()

    def fail(key: str, body: bytes) -> None:
        if "data/" in key:
            raise Unavailable("cannot put", where=key)

    async with make_sink(FakeObjects(bucket, before=fail)) as sink:
        with pytest.raises(Unavailable):
            await sink.replay([X])
    assert await written(bucket) == []
    assert bucket.ids() == [X.id]
    assert verdicts(await replayed(bucket)) == [Verdict.DUPLICATE]


async def test_a_row_that_no_object_can_hold_is_dead_and_leaves_nothing() -> None:
    bucket = Bucket()
    late = change(5, version=2**63 - 1)
    setbacks = await replayed(bucket, late)
    assert bucket.ids() in ([], [late.id])
    lone = change(6, raw=b"\xff")
    assert verdicts(await replayed(bucket, lone, options={"raw": True})) == [Verdict.DEAD]
    assert verdicts(setbacks) == []


async def test_another_sinks_replay_is_refused() -> None:
    bucket = Bucket()
    await replayed(bucket)
    with pytest.raises(Misconfigured, match="another sink"):
        await replayed(bucket, context=context("other"))


async def test_a_store_without_conditions_is_refused() -> None:
    class Careless(FakeObjects):
        async def put(self, key: str, body: bytes, *, if_none_match: bool, sha256: bytes, content_type: str) -> Put:
            return await super().put(key, body, if_none_match=False, sha256=sha256, content_type=content_type)

    async with make_sink(Careless(Bucket())) as sink:
        with pytest.raises(Misconfigured, match="If-None-Match"):
            await sink.replay([X])


# any interleaving ------------------------------------------------------------------------------------------------------------------------


class Blind(Replays):
    """The control: a writer that does not look after its claim."""

    async def look(self) -> None:
        return


def play(seed: int, *, blind: bool = False) -> Bucket:
    """Writers and replayers of the same change step by step in any order, any of them left standing for ever; then whole ones."""
    chance, bucket, lives = random.Random(seed), Bucket(), 0
    told: list[bool] = []

    def fault(key: str, body: bytes) -> None:
        if chance.random() < 0.08:
            raise Unavailable("cannot put", where=key)

    async def write(objects: FakeObjects, number: int) -> None:
        async with make_sink(objects, {"parallel": 1}, writer=f"w{number}") as sink:
            _blinded(sink, objects, blind)
            while (known := await _known(sink)) is None:
                await step()
            if chance.random() < 0.5:
                await _patiently(sink.write, [change(100 + number)])
            await _patiently(sink.write, [*([] if X.id in known else [X]), change(200 + number)])

    async def again(objects: FakeObjects, number: int) -> None:
        copy = msgspec.structs.replace(X, sequence=str(1000 + number))
        async with make_sink(objects, {"parallel": 1}, writer=f"r{number}") as sink:
            for _ in range(4):
                setbacks = list(await _patiently(sink.replay, [copy]))
                if not any(setback.verdict is Verdict.RETRY for setback in setbacks):
                    told.append(True)
                    return

    def life(kind: Any, clean: bool) -> Coroutine[Any, Any, None]:
        nonlocal lives
        lives += 1
        around: dict[str, Any] = {} if clean else {"before": fault, "after": fault}
        return kind(FakeObjects(bucket, pause=step, **around), lives)

    running = [life(chance.choice((write, again)), clean=False) for _ in range(chance.randint(2, 4))]
    while running:
        one = chance.choice(running)
        if chance.random() < 0.02:
            running.remove(one)  # left standing: a crash
            with suppress(CancelledError, StopIteration):
                one.throw(CancelledError())
            continue
        try:
            one.send(None)
        except (StopIteration, Held, Unavailable):
            running.remove(one)
        assert bucket.ids().count(X.id) <= 1, "never both"
    if told:
        assert bucket.ids().count(X.id) == 1, "what a replay says is in, is in"
    for kind in chance.sample((write, again), 2):
        last = life(kind, clean=True)
        with suppress(StopIteration):
            while True:
                last.send(None)
    return bucket


def _blinded(sink: S3Sink, objects: FakeObjects, blind: bool) -> None:
    if blind:
        sink._replays = Blind(objects, "cdc/")


async def _known(sink: S3Sink) -> set[bytes] | None:
    """What the pipeline is told at start, and writes no more."""
    try:
        return {known.id for known in await sink.resume(resume())}
    except Unavailable:
        return None


async def _patiently(call: Any, changes: list[Change]) -> Any:
    while True:
        try:
            return await call(changes)
        except Unavailable:
            await step()


@pytest.mark.parametrize("block", range(8))
def test_whatever_is_stopped_where_the_row_is_in_exactly_once(block: int) -> None:
    for seed in range(block * 250, block * 250 + 250):
        assert play(seed).ids().count(X.id) == 1, seed


def test_a_writer_that_does_not_look_is_found_out() -> None:
    def breaks(seed: int) -> bool:
        try:
            return play(seed, blind=True).ids().count(X.id) != 1
        except AssertionError:
            return True

    assert any(breaks(seed) for seed in range(400))
