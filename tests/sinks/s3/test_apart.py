"""Writers side by side without a chain: a batch that comes again, cut anew, killed or raced, goes in once."""

from __future__ import annotations

import random
from asyncio import CancelledError
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence, Set
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest

from dsqlcdc.contract import Change, Context, Misconfigured, Unavailable, Verdict
from dsqlcdc_s3 import S3Sink
from dsqlcdc_s3.apart import Attempts
from dsqlcdc_s3.batch_sink import BatchSink
from dsqlcdc_s3.objects import Objects, Put
from dsqlcdc_s3.options import Options

from .lake import NOON, Bucket, FakeObjects, change, step


def make(objects: Objects, *, kind: type[BatchSink] = BatchSink, writer: str = "w", sink: str = "lake") -> BatchSink:
    @asynccontextmanager
    async def opened() -> Any:
        yield objects

    options = Options.model_validate({"bucket": "lake", "prefix": "cdc/", "gzip": 1, "parallel": 1})
    return kind(options, Context("orders-cdc", sink, whole=False), opened, writer=writer, clock=lambda: float(NOON))


async def put(bucket: Bucket, changes: Sequence[Change]) -> list[Verdict]:
    async with make(FakeObjects(bucket)) as sink:
        return [setback.verdict for setback in await sink.write(changes)]


def test_the_factory_makes_it_where_not_the_whole_stream_is_seen() -> None:
    made = [S3Sink.from_options({"bucket": "lake"}, Context("p", "s", whole=whole)) for whole in (True, False)]
    assert [type(sink) for sink in made] == [S3Sink, BatchSink]


async def test_a_batch_has_a_manifest_named_by_its_shard_and_its_first_and_last_record() -> None:
    bucket = Bucket()
    await put(bucket, [change(n, sequence=1000 + n) for n in (7, 3, 5)])
    manifest, data = sorted(bucket.objects, reverse=True)
    assert manifest == f"cdc/manifests/apart/s1/{1007:064d}-1003-0001.json"
    assert data == "cdc/data/public.orders/dt=2027-01-15/hour=08/s1-1003-1007-0001-0000.jsonl.gz"
    assert [line["sequence"] for line in bucket.lines()] == ["1003", "1005", "1007"]


async def test_what_comes_again_cut_anew_is_a_duplicate_and_the_rest_goes_in() -> None:
    bucket = Bucket()
    await put(bucket, [change(n) for n in range(1, 6)])
    assert await put(bucket, [change(n) for n in range(3, 9)]) == [Verdict.DUPLICATE] * 3
    assert await put(bucket, [change(n) for n in range(1, 9)]) == [Verdict.DUPLICATE] * 8
    assert Counter(bucket.ids()) == Counter({change(n).id: 1 for n in range(1, 9)})


async def test_the_same_batch_once_more_takes_up_what_the_last_attempt_began() -> None:
    """A sandbox that dies in mid-write leaves a manifest; the retry finishes it, under its names."""
    bucket, batch = Bucket(), [change(n, version=(NOON + 3600 * n) * 10**9) for n in range(1, 4)]

    def second(key: str, body: bytes) -> None:
        if "hour=10" in key:
            raise Misconfigured("the sandbox died")

    async with make(FakeObjects(bucket, before=second)) as sink:
        with pytest.raises(Misconfigured):
            await sink.write(batch)
    assert len(bucket.ids()) in (1, 2)
    assert await put(bucket, batch) == []
    assert Counter(bucket.ids()) == Counter({one.id: 1 for one in batch})
    assert len(bucket.manifests()) == 1


async def test_batches_of_one_shard_that_interleave_do_not_touch_each_other() -> None:
    """A parallelization factor gives every second record to another invocation: spans overlap, rows do not."""
    bucket = Bucket()
    assert await put(bucket, [change(n) for n in range(1, 20, 2)]) == []
    assert await put(bucket, [change(n) for n in range(2, 20, 2)]) == []
    assert len(bucket.ids()) == 19
    assert all(body for key, body, put in bucket.calls if put is Put.CREATED)
    assert sum("data/" in key for key, _, _ in bucket.calls) == 2, "nothing was voided"


@pytest.mark.parametrize("first", [0, 1, 9, 10, 99])
async def test_numbers_of_different_lengths_are_compared_as_numbers(first: int) -> None:
    bucket = Bucket()
    batch = [change(n) for n in (first, first + 1, first + 1000)]
    await put(bucket, batch)
    for again in batch:
        assert await put(bucket, [again]) == [Verdict.DUPLICATE]
    assert await put(bucket, [change(first + 1001)]) == []
    padded = [change(first + 2000 + n) for n in range(2)]
    padded = [msgspec.structs.replace(one, sequence=one.sequence.zfill(56)) for one in padded]
    assert await put(bucket, padded) == []
    assert await put(bucket, padded[1:]) == [Verdict.DUPLICATE]


async def test_a_prefix_of_another_sink_and_a_store_without_conditions_stop_it() -> None:
    bucket = Bucket()
    await put(bucket, [change(1)])
    async with make(FakeObjects(bucket), sink="other") as sink:
        with pytest.raises(Misconfigured, match="belongs to another sink"):
            await sink.write([change(1)])

    class Careless(Bucket):
        def store(self, key: str, body: bytes, if_none_match: bool) -> Put:
            return super().store(key, body, False)

    with pytest.raises(Misconfigured, match="ignores If-None-Match"):
        await put(Careless(), [change(1)])


# ── random lives ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Lives:
    """Invocations of one shard as Lambda makes them: side by side, killed anywhere, some twice, what failed cut anew until it is in."""

    def __init__(self, seed: int, kind: type[BatchSink], wrap: Callable[[Objects], Objects]) -> None:
        self.chance = random.Random(seed)
        self.kind, self.wrap, self.bucket, self.writers = kind, wrap, Bucket(), 0
        self.records = [change(n, sequence=n + 1) for n in range(self.chance.randint(1, 12))]
        self.late: list[tuple[str, bytes, bool]] = []
        self.settled: set[bytes] = set()
        self.lies: set[bytes] = set()

    async def invoke(self, batch: Sequence[Change], objects: FakeObjects) -> None:
        self.writers += 1
        async with make(self.wrap(objects), kind=self.kind, writer=f"w{self.writers}") as sink:
            while True:
                try:
                    await sink.write(batch)
                    break
                except Unavailable:
                    await step()
        ids = {one.id for one in batch}
        self.lies |= ids.difference(self.bucket.ids())
        self.settled |= ids

    def start(self, batch: Sequence[Change], *, clean: bool = False) -> tuple[FakeObjects, Coroutine[Any, None, None]]:
        def fault(key: str, body: bytes) -> None:
            if not clean and self.chance.random() < 0.08:
                raise Unavailable("cannot put", where=key)

        objects = FakeObjects(self.bucket, before=fault, after=fault, pause=step)
        return objects, self.invoke(batch, objects)

    def cut(self) -> list[Change]:
        """What Lambda would send: a stretch of what is not settled, by a bisect or a parallelization factor perhaps every second."""
        owed = [one for one in self.records if one.id not in self.settled]
        at = self.chance.randrange(len(owed))
        some = owed[at : at + self.chance.randint(1, len(owed))]
        return some[:: self.chance.choice((1, 1, 2))]

    def play(self) -> None:
        running: list[tuple[FakeObjects, Coroutine[Any, None, None]]] = []
        for _ in range(400):
            if len(running) < 3 and len(self.settled) < len(self.records):
                running.append(self.start(self.cut()))
            if not running:
                break
            at = self.chance.randrange(len(running))
            lot = self.chance.random()
            if lot < 0.03:
                self.kill(*running.pop(at))
            elif not _step(running[at][1]):
                del running[at]
            if self.late and self.chance.random() < 0.1:
                self.bucket.store(*self.late.pop(self.chance.randrange(len(self.late))))
        for objects, one in running:
            self.kill(objects, one)
        while len(self.settled) < len(self.records):
            _, last = self.start(self.cut(), clean=True)
            while _step(last):
                pass
        for late in self.late:
            self.bucket.store(*late)

    def kill(self, objects: FakeObjects, one: Coroutine[Any, None, None]) -> None:
        if objects.in_flight is not None and self.chance.random() < 0.5:
            self.late.append(objects.in_flight)
        with suppress(CancelledError, RuntimeError):
            one.throw(CancelledError())

    def verdict(self) -> tuple[int, int]:
        """(lost, repeated)."""
        found, wanted = Counter(self.bucket.ids()), {one.id for one in self.records}
        assert found.keys() <= wanted
        return len((wanted - found.keys()) | self.lies), sum(count > 1 for count in found.values())


def _step(one: Coroutine[Any, None, None]) -> bool:
    try:
        one.send(None)
    except StopIteration:
        return False
    return True


def lives(count: int, kind: type[BatchSink] = BatchSink, wrap: Callable[[Objects], Objects] = lambda objects: objects) -> tuple[int, int]:
    lost = repeated = 0
    for seed in range(count):
        world = Lives(seed, kind, wrap)
        world.play()
        one, two = world.verdict()
        lost, repeated = lost + one, repeated + two
    return lost, repeated


def test_nothing_is_lost_or_repeated_in_random_lives() -> None:
    assert lives(400) == (0, 0)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_nothing_is_lost_or_repeated_in_many_random_lives() -> None:
    assert lives(10_000) == (0, 0)


def test_a_writer_that_does_not_look_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: without decisions about earlier attempts a retry puts its rows again."""

    async def blind(self: Attempts, keys: object, wanted: Set[bytes]) -> set[bytes]:
        return set()

    monkeypatch.setattr(Attempts, "decide", blind)
    assert lives(60)[1] > 0


def test_a_writer_that_looks_only_before_it_announces_itself_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: two with the same rows then miss each other."""
    look, announce = Attempts.overlapping, Attempts.announce

    async def announced(self: Attempts, attempt: Any, body: bytes) -> bool:
        self.__dict__["announced"] = done = await announce(self, attempt, body)
        return done

    async def looks(self: Attempts, *span: str) -> list[str]:
        return [] if self.__dict__.pop("announced", False) else await look(self, *span)

    monkeypatch.setattr(Attempts, "announce", announced)
    monkeypatch.setattr(Attempts, "overlapping", looks)
    assert lives(200)[1] > 0


def test_a_writer_that_takes_412_for_done_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: a part that somebody voided is not in."""

    async def trusting(self: Attempts, entry: object) -> bool:
        return True

    monkeypatch.setattr(Attempts, "_ours", trusting)
    assert lives(200)[0] > 0
