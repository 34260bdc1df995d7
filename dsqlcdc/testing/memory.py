"""A stream and a source in memory, and a sink that records: the road without AWS, for tests and for trying sinks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence

from dsqlcdc.contract import Batching, Change, Known, Resume, Setback, Sink
from dsqlcdc.core.ports import Checkpoint
from dsqlcdc.core.records import TRIM_HORIZON, Mark, Page, Position, Record

AT_ONCE = Batching(age=0.0)


class MemoryShard:
    """One shard: its records in order, its parents, whether it takes no more records."""

    def __init__(self, name: str, parents: Sequence[str] = ()) -> None:
        self.name, self.parents, self.closed = name, tuple(parents), False
        self.records: list[Record] = []


class MemoryStream:
    """Shards in memory. Sequence numbers grow over the whole stream; `now` is its clock, seconds, and moves with what arrives."""

    def __init__(self, name: str = "memory@0", shards: int = 1, now: float = 1_700_000_000.0) -> None:
        self.name, self.now = name, now
        self.shards: dict[str, MemoryShard] = {}
        self._sequence = 0
        for _ in range(shards):
            self._add(())

    def _add(self, parents: Sequence[str]) -> MemoryShard:
        shard = MemoryShard(f"shardId-{len(self.shards):012d}", parents)
        self.shards[shard.name] = shard
        return shard

    def open_shards(self) -> list[MemoryShard]:
        return [shard for shard in self.shards.values() if not shard.closed]

    def put(self, shard: str, data: bytes, *, after: float = 0.001) -> Record:
        """Append a record that arrives `after` seconds after the one before."""
        self._sequence += 1
        self.now += after
        record = Record(f"{self._sequence:056d}", data, self.now)
        self.shards[shard].records.append(record)
        return record

    def split(self, shard: str) -> tuple[str, str]:
        """Close a shard; its two children's names."""
        self.shards[shard].closed = True
        return self._add((shard,)).name, self._add((shard,)).name

    def merge(self, one: str, two: str) -> str:
        """Close two shards; their child's name."""
        self.shards[one].closed = self.shards[two].closed = True
        return self._add((one, two)).name


class MemorySource:
    """A Source over a MemoryStream: every shard from its mark to its present end, in pages of random size and in random turns.

    Ends when all shards have been read so far, as `--once` does; with `follow` it goes on and polls once a second.
    """

    whole = True

    def __init__(self, stream: MemoryStream, *, seed: int = 0, page: int = 10, follow: bool = False) -> None:
        self._stream, self._random, self._page, self._follow = stream, random.Random(seed), page, follow
        self.stream = stream.name
        self._marks: dict[str, Mark] = {}
        self._read: dict[str, float] = {}
        self._warm_up: float | None = None

    async def start(self, checkpoint: Checkpoint | None, *, warm_up: float | None) -> Mapping[str, Mark]:
        stored: Mapping[str, Mark] = checkpoint.marks if checkpoint is not None else {}
        self._marks = {name: stored.get(name, Mark(TRIM_HORIZON)) for name in self._stream.shards}
        self._warm_up = warm_up
        return self._marks

    async def pages(self) -> AsyncGenerator[Page, None]:
        if self._warm_up is not None:
            since = min((m.arrived for m in self._marks.values()), default=0.0) - self._warm_up
            for name, mark in self._marks.items():
                again = [_fresh(r) for r in self._stream.shards[name].records if r.arrived >= since and not _behind(mark.position, r)]
                if again:
                    yield Page(name, again, self._stream.now, 0, remember=True)
        at = {name: self._index(name) for name in self._marks}
        ended = {name for name, mark in self._marks.items() if mark.position.kind == "end"}
        while True:
            names = [n for n, shard in self._stream.shards.items() if n not in ended and all(p in ended for p in shard.parents)]
            page = self._next(names, at, ended)
            if page is not None:
                yield page
            elif not self._follow:
                return
            else:
                for name in names:
                    yield Page(name, [], self._stream.now, 0)
                await asyncio.sleep(1.0)

    def _next(self, names: list[str], at: dict[str, int], ended: set[str]) -> Page | None:
        self._random.shuffle(names)
        for name in names:
            shard = self._stream.shards[name]
            start = at.setdefault(name, 0)
            count = self._random.randint(1, self._page)
            records = [_fresh(r) for r in shard.records[start : start + count]]
            at[name] = start + len(records)
            rest = len(shard.records) - at[name]
            over = shard.closed and rest == 0
            if over:
                ended.add(name)
            if records or over:
                self._read[name] = records[-1].arrived if rest and records else self._stream.now
                return Page(name, records, self._stream.now, rest, ended=over)
            self._read[name] = self._stream.now
        return None

    def _index(self, name: str) -> int:
        position = self._marks[name].position
        return sum(not _behind(position, record) for record in self._stream.shards[name].records)

    def forgettable(self) -> Sequence[str]:
        return ()

    def lineage(self) -> Mapping[str, Sequence[str]]:
        return {name: tuple(shard.parents) for name, shard in self._stream.shards.items()}

    def oldest_readable(self) -> float:
        return min((s.records[0].arrived for s in self._stream.shards.values() if s.records), default=0.0)

    def slowest(self) -> float:
        open_ = [self._read.get(name, 0.0) for name, shard in self._stream.shards.items() if not shard.closed]
        return min(open_, default=self._stream.now)

    async def close(self) -> None:
        return None


def _behind(position: Position, record: Record) -> bool:
    """Is the record behind the position, so still to be read?"""
    if position.kind == "after":
        return int(record.sequence_number) > int(position.sequence)
    if position.kind == "time":
        return record.arrived >= position.arrived
    return position.kind == "trim_horizon"


def _fresh(record: Record) -> Record:
    return Record(record.sequence_number, record.data, record.arrived)


class RecordingSink(Sink):
    """Keeps what it is given. `answer`, if given, is asked at each write and may raise; what it does not name counts as in.

    `written` are the changes that went in, in order; `known` is what resume answers.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Change]], Awaitable[Sequence[Setback]]] | None = None,
        *,
        batching: Batching = AT_ONCE,
        lanes: int = 1,
        known: Iterable[Known] = (),
    ) -> None:
        self.written: list[Change] = []
        self.resumed: list[Resume] = []
        self.batching, self.lanes = batching, lanes
        self._answer, self._known = answer, tuple(known)

    async def resume(self, resume: Resume) -> Iterable[Known]:
        self.resumed.append(resume)
        return self._known

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        setbacks = await self._answer(changes) if self._answer is not None else ()
        refused = {setback.index for setback in setbacks}
        self.written.extend(change for index, change in enumerate(changes) if index not in refused)
        return setbacks
