"""The same law with the real core: pipelines in virtual time over a faulty bucket, killed at any request, then run once to the end."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import google_crc32c
import msgspec
import pytest

from dsqlcdc.contract import Misconfigured, Unavailable
from dsqlcdc.core.pipeline import Pipeline, Recipe
from dsqlcdc.core.ports import Checkpoint, Commit, DeadLetter, Memory, Name
from dsqlcdc.core.tables import Rule, Tables
from dsqlcdc.stores.fragments import MemoryFragments
from dsqlcdc.stores.memory_checkpoints import MemoryCheckpoints
from dsqlcdc.testing import MemorySource, MemoryStream
from dsqlcdc.testing.virtual import run
from dsqlcdc_s3 import S3Sink
from dsqlcdc_s3.batch import Begun
from dsqlcdc_s3.chain import Chain
from dsqlcdc_s3.manifest import PartEntry
from dsqlcdc_s3.memory import Memory as Reach
from dsqlcdc_s3.parts import Parts

from .lake import Bucket, FakeObjects, context, make_sink

NAME = Name("orders-cdc", "lake", "memory@0")
TABLES = Tables({"*.*": Rule(("id",))})


class Killed(BaseException):
    """The process is gone."""


class NoLetters:
    async def put(self, letter: DeadLetter) -> bool:
        raise Misconfigured("a dead letter", why=f"{letter.code} {letter.detail}")

    async def close(self) -> None:
        return None


class Checkpoints(MemoryCheckpoints):
    """Keeps memories where it `remembers`, and drops every commit of a run that has been killed."""

    def __init__(self, remembers: bool) -> None:
        super().__init__()
        self.remembers = remembers  # type: ignore[misc]
        self._memories: list[Memory] = []
        self.alive = True

    async def load(self, name: Name) -> Checkpoint | None:
        stored = await super().load(name)
        return None if stored is None else Checkpoint(stored.marks, tuple(self._memories), stored.word)

    async def commit(self, name: Name, commit: Commit) -> None:
        await asyncio.sleep(0)
        if not self.alive:
            raise Killed
        await super().commit(name, commit)
        if commit.memory is not None:
            self._memories.append(commit.memory)

    async def again(self) -> None:
        await self.close()
        self.alive = True


def records(n: int, pieces: int) -> list[bytes]:
    """The records of change `n`: one, or a main record with its image in so many pieces."""
    source = {"version": "1.0", "ts_ns": 1_700_000_000_000_000_000 + n * 10**12, "txId": f"t{n}", "schema": "public"}
    source |= {"table": "orders", "db": "postgres", "cluster": "c1"}
    envelope: dict[str, Any] = {"type": "full", "op": "c", "before": None, "after": {"id": n}, "source": source}
    if not pieces:
        return [msgspec.json.encode(envelope)]
    text = msgspec.json.encode({"id": n, "blob": "x" * 20}).decode()
    size = len(text) // pieces + 1
    cuts = [text[at : at + size] for at in range(0, len(text), size)]
    chunk = {"chunk_id": f"c{n}", "total_fragments": len(cuts), "crc32c": str(google_crc32c.value(text.encode()))}
    main = {**envelope, "type": "chunked", "after": None, "chunked": {"after": chunk}}
    cut = [{"type": "fragment", "chunk_id": f"c{n}", "index": index, "data": data} for index, data in enumerate(cuts)]
    return [msgspec.json.encode(record) for record in (main, *cut)]


def fill(stream: MemoryStream, chance: random.Random) -> set[int]:
    """Changes of distinct rows, some of them cut, every record up to three times, on any shards, out of order; their numbers."""
    numbers = range(chance.randint(1, 40))
    copies: list[tuple[float, bytes]] = []
    for n in numbers:
        for record in records(n, chance.choice((0, 0, 0, 0, 0, 2, 3))):
            copies += [(n + chance.random() * 6, record) for _ in range(chance.choice((1, 1, 1, 2, 3)))]
    for _, record in sorted(copies):
        stream.put(chance.choice(stream.open_shards()).name, record)
        if chance.random() < 0.03:
            stream.split(chance.choice(stream.open_shards()).name)
    return set(numbers)


async def life(
    stream: MemoryStream, checkpoints: Checkpoints, bucket: Bucket, chance: random.Random, kill_after: int | None, **more: Any
) -> bool:
    """One run with these options more, killed at its request number `kill_after`. True when it came to its end."""
    left = kill_after

    def fault(key: str, body: bytes) -> None:
        nonlocal left
        if left is None:
            return
        left -= 1
        if left <= 0:
            checkpoints.alive = False
            raise Killed
        if chance.random() < 0.05:
            raise Unavailable("cannot put", where=key, why="no answer")

    async def pause() -> None:
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)

    options = {"roll": {"bytes": "1KiB", "records": chance.randint(1, 9), "age": "1s"}, "parallel": chance.randint(1, 4), **more}
    sink = make_sink(FakeObjects(bucket, before=fault, after=fault, pause=pause), options, context=context(), writer=f"w{chance.random()}")
    recipe = Recipe(
        name=NAME,
        source=MemorySource(stream, seed=chance.randrange(10**6), page=chance.randint(1, 6)),
        sink=sink,
        tables=TABLES,
        checkpoints=checkpoints,
        dead_letters=NoLetters(),  # type: ignore[arg-type]
        fragments=MemoryFragments(("lake",)),
        clock=lambda: stream.now,
        random=chance.random,
        commit_every=chance.choice((0.01, 0.5, 5.0)),
    )
    try:
        await Pipeline(recipe).run(asyncio.Event())
    except (Killed, BaseExceptionGroup):
        assert not checkpoints.alive
        await checkpoints.again()
        return False
    await checkpoints.again()
    return True


async def history(seed: int) -> tuple[int, int]:
    """(lost, repeated) after several killed runs and one that comes to its end."""
    chance = random.Random(seed)
    stream = MemoryStream(shards=chance.randint(1, 3))
    checkpoints, bucket = Checkpoints(remembers=chance.random() < 0.5), Bucket()
    numbers = fill(stream, chance)
    for _ in range(chance.randint(1, 5)):
        await life(stream, checkpoints, bucket, chance, kill_after=int(chance.expovariate(1 / 12)) + 1)
    assert await life(stream, checkpoints, bucket, chance, kill_after=None)
    found = Counter(bucket.ids())
    return len(numbers) - len(found), sum(1 for count in found.values() if count > 1)


def histories(seeds: Sequence[int]) -> list[tuple[int, tuple[int, int]]]:
    async def all_of_them() -> list[tuple[int, tuple[int, int]]]:
        return [(seed, found) for seed in seeds if (found := await history(seed)) != (0, 0)]

    return run(all_of_them())


@pytest.mark.parametrize("block", range(3))
def test_the_real_core_delivers_every_change_exactly_once_whatever_is_killed(block: int) -> None:
    assert histories(range(block * 60, (block + 1) * 60)) == []


def test_a_word_that_passes_what_no_frontier_has_passed_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reach, "wrote", lambda self, n, furthest: None)
    assert any(repeated for _, (_, repeated) in histories(range(20)))


def test_a_manifest_after_its_parts_repeats_with_the_real_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsqlcdc_s3.sink.S3Sink._claim", _parts_first(S3Sink._claim))
    monkeypatch.setattr("dsqlcdc_s3.parts.Parts._ours", _done)
    assert any(lost or repeated for _, (lost, repeated) in histories(range(20)))


def _parts_first(claim: Any) -> Any:
    async def claim_last(self: S3Sink, chain: Chain, parts: Parts, begun: Begun) -> bool:
        await parts.upload(begun)
        claimed: bool = await claim(self, chain, parts, begun)
        return claimed

    return claim_last


async def _done(self: Parts, entry: PartEntry) -> None:
    return


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_the_real_core_delivers_every_change_exactly_once_in_ten_thousand_histories() -> None:
    assert histories(range(10_000, 20_000)) == []
