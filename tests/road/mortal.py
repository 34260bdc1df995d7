"""Ports that die: after the last step nothing they are asked takes place any more, as after kill -9."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

from dsqlcdc.contract import Batching, Change, Known, Progress, Resume, Setback, Sink
from dsqlcdc.core.ports import Checkpoint, CheckpointStore, Commit, DeadLetter, FragmentStore, Gap, Memory, Name, Parked, Part, Source
from dsqlcdc.core.records import Mark, Page
from dsqlcdc.stores.fragments import MemoryFragments
from dsqlcdc.stores.letters import name_of
from dsqlcdc.stores.memory_checkpoints import MemoryCheckpoints


class Killed(Exception):
    """The process is gone."""


class Life:
    """So many steps to live; None: for ever. Every effect on the outer world is one step, and so is every answer that comes back.

    A step takes up to `pace` seconds of virtual time, so that ticks of the commit fall anywhere.
    """

    def __init__(self, steps: int | None = None, seed: int = 0, pace: float = 0.0) -> None:
        self.steps, self._random, self._pace = steps, random.Random(seed), pace

    async def step(self) -> None:
        await asyncio.sleep(self._random.random() * self._pace)
        if self.steps is not None:
            self.steps -= 1
            if self.steps < 0:
                raise Killed


class RememberingCheckpoints(MemoryCheckpoints):
    """Checkpoints with memories, as SQLite keeps them: stored with the marks, dropped behind the horizon."""

    remembers = True

    def __init__(self) -> None:
        super().__init__()
        self.memories: dict[Name, list[Memory]] = {}

    async def load(self, name: Name) -> Checkpoint | None:
        stored = await super().load(name)
        return stored and Checkpoint(stored.marks, tuple(self.memories.get(name, ())), stored.word)

    async def commit(self, name: Name, commit: Commit) -> None:
        await super().commit(name, commit)
        if commit.memory is not None:
            self.memories.setdefault(name, []).append(commit.memory)
        self.memories[name] = [m for m in self.memories.get(name, ()) if m.newest >= commit.horizon]


class DurableFragments(MemoryFragments):
    """Kept by the test from life to life: what was added survives."""

    durable = True


class Letters:
    """Dead letters in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, DeadLetter] = {}

    async def put(self, letter: DeadLetter) -> bool:
        return self.kept.setdefault(name_of(letter), letter) is letter

    async def letters(self) -> AsyncIterator[tuple[str, DeadLetter]]:
        for name, letter in list(self.kept.items()):
            yield name, letter

    async def close(self) -> None:
        return None


class MortalCheckpoints:
    def __init__(self, store: CheckpointStore, life: Life) -> None:
        self._store, self._life = store, life
        self.remembers = store.remembers

    async def hold(self, name: Name) -> None:
        await self._life.step()

    async def load(self, name: Name) -> Checkpoint | None:
        await self._life.step()
        return await self._store.load(name)

    async def commit(self, name: Name, commit: Commit) -> None:
        await self._life.step()
        await self._store.commit(name, commit)
        await self._life.step()

    async def names(self) -> Sequence[Name]:
        return await self._store.names()

    async def record_gap(self, gap: Gap) -> Gap:
        await self._life.step()
        return await self._store.record_gap(gap)

    async def gaps(self, pipeline: str) -> Sequence[Gap]:
        return await self._store.gaps(pipeline)

    async def ack_gap(self, pipeline: str, id: str, reason: str, at: float) -> Gap:
        return await self._store.ack_gap(pipeline, id, reason, at)

    async def end_gap(self, pipeline: str, id: str, *, until: str, to_time: float) -> Gap:
        return await self._store.end_gap(pipeline, id, until=until, to_time=to_time)

    async def close(self) -> None:
        return None


class MortalFragments:
    def __init__(self, store: FragmentStore, life: Life) -> None:
        self._store, self._life = store, life
        self.durable = store.durable

    async def add(self, sink: str, part: Part) -> Parked:
        await self._life.step()
        answer = await self._store.add(sink, part)
        await self._life.step()
        return answer

    async def row(self, row: str) -> Sequence[Part]:
        await self._life.step()
        return await self._store.row(row)

    async def done(self, sink: str, rows: Sequence[str]) -> None:
        await self._life.step()
        await self._store.done(sink, rows)
        await self._life.step()

    async def overdue(self, sink: str, before: float) -> Sequence[Part]:
        await self._life.step()
        return await self._store.overdue(sink, before)

    async def judged(self, sink: str, chunk_ids: Sequence[str]) -> None:
        await self._life.step()
        await self._store.judged(sink, chunk_ids)

    async def waiting(self) -> tuple[int, int]:
        return await self._store.waiting()

    async def close(self) -> None:
        return None


class MortalSource:
    def __init__(self, source: Source, life: Life) -> None:
        self._source, self._life = source, life
        self.stream, self.whole = source.stream, source.whole

    async def start(self, checkpoint: Checkpoint | None, *, warm_up: float | None) -> Mapping[str, Mark]:
        await self._life.step()
        return await self._source.start(checkpoint, warm_up=warm_up)

    async def pages(self) -> AsyncIterator[Page]:
        async for page in self._source.pages():
            await self._life.step()
            yield page

    def oldest_readable(self) -> float:
        return self._source.oldest_readable()

    def lineage(self) -> Mapping[str, Sequence[str]]:
        return {}

    def forgettable(self) -> Sequence[str]:
        return self._source.forgettable()

    def slowest(self) -> float:
        return self._source.slowest()

    async def close(self) -> None:
        return None


class Destination:
    """What outlives every process: each change that went in, in order, and a replica that applies them blindly."""

    def __init__(self) -> None:
        self.log: list[Change] = []
        self.state: dict[tuple[str, int], dict[str, object]] = {}

    def take(self, change: Change) -> None:
        self.log.append(change)
        key = change.key
        assert key is not None
        name = (str(change.table), key["id"])
        if change.row is None:
            self.state.pop(name, None)
        else:
            self.state[name] = change.row


class MortalSink(Sink):
    """Writes a batch whole or not at all. `says`, what resume answers: nothing; all that is in; or by its word only what had not been passed
    by the frontiers when the word was asked for, as the S3 sink does."""

    def __init__(self, destination: Destination, life: Life, *, says: str, needs_order: bool, lanes: int, batching: Batching) -> None:
        self._destination, self._life, self._says = destination, life, says
        self.needs_order, self.lanes, self.batching = needs_order, lanes, batching  # type: ignore[misc]
        self._progress: Callable[[], Sequence[Progress]] = tuple
        self._passed = 0

    async def resume(self, resume: Resume) -> Iterable[Known]:
        await self._life.step()
        if self._says == "nothing":
            return ()
        self._progress = resume.progress
        self._passed = int(resume.word or b"0") if self._says == "word" else 0
        return [Known(change.id, change.arrived, change.version) for change in self._destination.log[self._passed :]]

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        await self._life.step()
        for change in changes:
            self._destination.take(change)
        await self._life.step()
        return ()

    def word(self) -> bytes:
        if self._says != "word":
            return b""
        frontiers = {p.shard: p.frontier for p in self._progress()}
        log = self._destination.log
        while self._passed < len(log) and _passed(frontiers.get(log[self._passed].shard, ""), log[self._passed].sequence):
            self._passed += 1
        return str(self._passed).encode()


def _passed(frontier: str, sequence: str) -> bool:
    return frontier == "end" or (frontier != "" and int(frontier) >= int(sequence))
