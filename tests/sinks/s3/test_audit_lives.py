"""The law of the audit: a chain that random lives leave behind verifies, and no single byte or object of it can be changed unseen."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from dsqlcdc.contract import Unavailable
from dsqlcdc.testing.virtual import run
from dsqlcdc_s3 import S3Sink
from dsqlcdc_s3.account import Books
from dsqlcdc_s3.encode import void
from dsqlcdc_s3.form import void_of
from dsqlcdc_s3.manifest import Manifest, Word
from dsqlcdc_s3.memory import Memory

from . import test_core_lives as core
from .auditing import audit, troubles
from .lake import Bucket, FakeObjects, change, make_sink, resume, text_of
from .lives import Habits, World, play, verdict
from .test_compaction import compact

SEALING = Habits(seals=True)


def lived(seed: int, format: str = "jsonl") -> World:
    """A world whose last run has closed its lake with a digest."""
    world = play(seed, habits=SEALING, options={"format": format})
    assert verdict(world) == (0, 0)
    return world


def unsound(seeds: Sequence[int]) -> list[tuple[int, Any]]:
    return [(seed, found) for seed in seeds if (found := troubles(run(audit(lived(seed).bucket, deep=True))))]


@pytest.mark.parametrize("block", range(3))
def test_the_chain_of_random_lives_verifies(block: int) -> None:
    assert unsound(range(block * 150, (block + 1) * 150)) == []


@pytest.mark.soak
@pytest.mark.timeout(2400)
def test_the_chain_of_twenty_thousand_random_lives_verifies() -> None:
    assert unsound(range(100_000, 120_000)) == []


async def history(seed: int) -> Bucket:
    """Lives of the real core, killed at any request, with a digest every two seconds; then one that comes to its end."""
    chance = random.Random(seed)
    stream = core.MemoryStream(shards=chance.randint(1, 3))
    checkpoints, bucket = core.Checkpoints(remembers=chance.random() < 0.5), Bucket()
    core.fill(stream, chance)
    for _ in range(chance.randint(1, 5)):
        kill_after = int(chance.expovariate(1 / 12)) + 1
        await core.life(stream, checkpoints, bucket, chance, kill_after=kill_after, digest={"every": "2s"})
    assert await core.life(stream, checkpoints, bucket, chance, kill_after=None, digest={"every": "2s"})
    return bucket


def core_troubles(seeds: Sequence[int]) -> list[tuple[int, Any]]:
    async def all_of_them() -> list[tuple[int, Any]]:
        return [(seed, found) for seed in seeds if (found := troubles(await audit(await history(seed), deep=True)))]

    return run(all_of_them())


def test_the_chain_of_the_real_core_verifies() -> None:
    assert core_troubles(range(80)) == []


# ── one change, anywhere ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def flip(bucket: Bucket, chance: random.Random) -> str:
    key = chance.choice(sorted(bucket.objects))
    body = bytearray(bucket.objects[key])
    at = chance.randrange(len(body))
    body[at] ^= 1 << chance.randrange(8)
    bucket.objects[key] = bytes(body)
    return f"bit of byte {at} of {key}"


def cut(bucket: Bucket, chance: random.Random) -> str:
    key = chance.choice(sorted(bucket.objects))
    bucket.objects[key] = bucket.objects[key][: -chance.randint(1, 5)]
    return f"end of {key}"


def lengthen(bucket: Bucket, chance: random.Random) -> str:
    key = chance.choice(sorted(bucket.objects))
    bucket.objects[key] += chance.choice((b"\n", b" ", b"\0", void()))
    return f"something behind {key}"


def delete(bucket: Bucket, chance: random.Random) -> str:
    key = chance.choice(sorted(bucket.objects))
    del bucket.objects[key]
    return f"deleted {key}"


def add(bucket: Bucket, chance: random.Random) -> str:
    key = chance.choice(sorted(key for key in bucket.objects if "data/" in key))
    name = key.replace("data/public.orders", chance.choice(("data/public.other", "data/public.orders/copy")))
    bucket.objects[name] = bucket.objects[key]
    return f"added {name}"


def empty(bucket: Bucket, chance: random.Random) -> str:
    key = chance.choice(sorted(key for key, body in bucket.objects.items() if "data/" in key and text_of(key, body)))
    bucket.objects[key] = void_of(key)
    return f"emptied {key}"


def swap(bucket: Bucket, chance: random.Random) -> str:
    while True:
        one, two = chance.sample(sorted(bucket.objects), 2)
        if bucket.objects[one] != bucket.objects[two]:
            bucket.objects[one], bucket.objects[two] = bucket.objects[two], bucket.objects[one]
            return f"swapped {one} and {two}"


CHANGES: Sequence[Callable[[Bucket, random.Random], str]] = (flip, flip, flip, cut, lengthen, delete, add, empty, swap)


async def closed(bucket: Bucket, format: str) -> Bucket:
    """The lake compacted, and a digest over that."""
    await compact(bucket)
    async with make_sink(FakeObjects(bucket), {"digest": {}, "format": format}, writer="last", ticking=False) as sink:
        await sink.resume(resume(since=2e9))
        assert await sink.seal(closing=True)
    return bucket


@pytest.mark.parametrize(
    ("format", "compacted", "block"),
    [("jsonl", False, 0), ("jsonl", False, 1), ("parquet", False, 2), ("jsonl", True, 3), ("parquet", True, 4)],
)
def test_no_byte_and_no_object_is_changed_unseen(format: str, compacted: bool, block: int) -> None:
    async def unseen() -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        for seed in range(block * 30, block * 30 + (30 if block < 2 else 12)):
            bucket, chance = lived(seed, format).bucket, random.Random(seed)
            if compacted:
                await closed(bucket, format)
            assert troubles(await audit(bucket, deep=True)) == [], "the control: unchanged it passes"
            for _ in range(12):
                changed = Bucket()
                changed.objects = dict(bucket.objects)
                what = chance.choice(CHANGES)(changed, chance)
                if (await audit(changed, deep=True)).exit_code != 1:
                    found.append((seed, what))
        return found

    assert run(unseen()) == []


# ── the controls: each mistake of the writer must show ───────────────────────────────────────────────────────────────────────────────


def test_what_a_killed_run_had_settled_is_missing_where_the_word_does_not_carry_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Books, "accounts", lambda self: [])
    assert len(core_troubles(range(60))) > 1


def test_what_is_told_twice_does_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Books, "_reduce", lambda self, manifest: None)
    assert len(core_troubles(range(60))) > 3


async def _voided_by_a_run_that_wrote_nothing() -> Bucket:
    """A run claims a batch and dies; the next one voids its part, commits and dies; the third closes the lake."""
    bucket = Bucket()

    def no_part(key: str, body: bytes) -> None:
        if "data/" in key:
            raise Unavailable("cannot put", why="no answer")

    word = b""
    for life, refuses in enumerate((True, False, False)):
        objects = FakeObjects(bucket, before=no_part) if refuses else FakeObjects(bucket)
        async with make_sink(objects, {"digest": {}}, writer=f"w{life}", ticking=False) as sink:
            await sink.resume(resume(word))
            if refuses:
                with pytest.raises(Unavailable):
                    await sink.write([change(1)])
            word = sink.account(sink.word())
    async with make_sink(FakeObjects(bucket), {"digest": {}}, writer="last", ticking=False) as sink:
        await sink.resume(resume(word))
        assert await sink.seal(closing=True)
    return bucket


async def test_a_void_part_is_told_by_the_first_run_that_writes_a_manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    assert troubles(await audit(await _voided_by_a_run_that_wrote_nothing(), deep=True)) == []

    def forgetful(self: S3Sink) -> bytes:
        oldest = Memory.oldest(self._memory, self._next, self._progress())
        return core.msgspec.json.encode(Word(1, self._epoch, oldest, self._place, self._next - 1))

    monkeypatch.setattr(S3Sink, "word", forgetful)
    found = troubles(await audit(await _voided_by_a_run_that_wrote_nothing(), deep=True))
    assert [one[:2] for one in found] == [("altered", "emptied")], "the control"


def test_a_manifest_that_leaves_a_shard_out_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    encode = Manifest.encode

    def careless(self: Manifest) -> bytes:
        return encode(core.msgspec.structs.replace(self, reads=self.reads[1:]))

    monkeypatch.setattr(Manifest, "encode", careless)
    assert len(unsound(range(20))) > 5
