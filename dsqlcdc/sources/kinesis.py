"""The Source over Kinesis: all shards of the stream, for one run of one pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import msgspec

from dsqlcdc.core.ports import Checkpoint, Gap
from dsqlcdc.core.records import TRIM_HORIZON, Mark, Page
from dsqlcdc.sources import trimmed
from dsqlcdc.sources.counts import Counts, ShardCounts
from dsqlcdc.sources.feeds import Feeds
from dsqlcdc.sources.merge import Bell, Merge
from dsqlcdc.sources.reader import Reader
from dsqlcdc.sources.shards import Shard, children, readable
from dsqlcdc.sources.starts import Start, Starts, remember_from, resolve

__all__ = ["KinesisSource", "Start"]

_GATHER = 10.0
"""Seconds for which a pipeline that must halt on a gap looks for gaps in its other shards, so that one halt names them all."""


class KinesisSource:
    """Every shard of a stream, parents before children, each from its mark.

    `on_gap` persists a gap and answers with the stored one; `on_trimmed` says whether one that nobody acknowledged halts. `start` is used
    where there is no checkpoint. `skew`: seconds by which a shard may be ahead of the slowest. `once`: pages end at the tip. `deadline`:
    seconds for which an unavailable service is asked again, None for ever. One run: start, then pages, then close.
    """

    whole = True

    def __init__(
        self,
        feeds: Feeds,
        *,
        pipeline: str,
        sink: str,
        on_gap: Callable[[Gap], Awaitable[Gap]],
        start: Start = "trim_horizon",
        on_trimmed: Literal["halt", "continue"] = "halt",
        skew: float = 300.0,
        once: bool = False,
        deadline: float | None = None,
    ) -> None:
        self.stream = feeds.stream
        self.pipeline, self.sink = pipeline, sink
        self.once, self.deadline = once, deadline
        self.started_at = 0.0
        self._feeds = feeds
        self._on_gap = on_gap
        self._start_at: Start = start
        self._halt = on_trimmed == "halt"
        self._skew = skew
        self._warm_up: float | None = None
        self._starts: Starts | None = None
        self._share = feeds.join()
        self._joined = True
        self._readers: dict[str, Reader] = {}
        self._ended: set[str] = set()
        self._relisted: set[str] = set()
        self._followed: set[str] = set()
        self._marks: dict[str, Mark] = {}
        self._merge: Merge[tuple[Reader, Page, int, float]] = Merge()
        self._moved = Bell()
        self._changed = Bell()
        self._gaps: list[Gap] = []
        self._slowest = 0.0
        self._least = float("-inf")
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()

    async def start(self, checkpoint: Checkpoint | None, *, warm_up: float | None) -> Mapping[str, Mark]:
        """See Source.start. Raises Lost when a shard with unread records has gone altogether and nobody has acknowledged that."""
        since = asyncio.get_running_loop().time()
        listed = await self._feeds.patiently(partial(self._feeds.list, since=since), self.deadline)
        now, retention = self._feeds.now(), self._feeds.description.retention
        self.started_at = now + 1.0  # our reading of the service's clock may be that much behind
        known: Mapping[str, Mark] = checkpoint.marks if checkpoint is not None else {}
        starts = resolve(listed, known, self._start_at, now=now, retention=retention)
        for shard, mark in starts.vanished.items():
            found = self._vanished(shard, mark, now, retention)
            stored = await self._feeds.patiently(partial(self._on_gap, found), self.deadline)
            if self._halt and not stored.acked:
                self._gaps.append(stored)
        if self._gaps:
            raise trimmed.lost(self._gaps)
        self._starts, self._marks = starts, dict(starts.marks)
        self._ended = {shard for shard, mark in starts.marks.items() if mark.position.kind == "end"}
        self._relisted = set(self._ended)
        self._warm_up = warm_up if known else None
        self._slowest = self.oldest_readable()
        return starts.marks

    def _vanished(self, shard: str, mark: Mark, now: float, retention: float) -> Gap:
        return trimmed.gap(
            pipeline=self.pipeline,
            sink=self.sink,
            stream=self.stream,
            shard=shard,
            position=mark.position,
            arrived=mark.arrived,
            now=now,
            first=None,
            horizon=now - retention,
        )

    def forgettable(self) -> Sequence[str]:
        """Shards of the checkpoint whose marks may go: no longer listed, and read to the end or given up as a gap."""
        starts = self._starts
        return () if starts is None else (*starts.forget, *starts.vanished)

    def lineage(self) -> Mapping[str, Sequence[str]]:
        return {shard.id: shard.parents for shard in self._feeds.shards}

    def oldest_readable(self) -> float:
        return self._feeds.now() - self._feeds.description.retention

    def slowest(self) -> float:
        """See Source.slowest: by what was handed over. Never moves back."""
        behind = [reader.handed_to for reader in self._readers.values() if reader.shard.id not in self._followed]
        if behind:
            self._slowest = max(self._slowest, min(behind))
        return self._slowest

    def counts(self) -> Counts:
        """What reading has cost, and where every shard stands."""
        shards = tuple(
            ShardCounts(
                shard=reader.shard.id,
                state=self._state(reader),
                position=str(reader.cursor.position),
                behind_ms=reader.behind,
                arrived=reader.last_arrived,
                read_to=reader.handed_to,
                records=reader.records,
            )
            for reader in self._readers.values()
        )
        return msgspec.structs.replace(
            self._feeds.counters.snapshot(), buffered_bytes=self._share.held, cached_bytes=self._feeds.cached_bytes, shards=shards
        )

    def _state(self, reader: Reader) -> str:
        if reader.ended:
            return "ended"
        if reader.paused:
            return "paused"
        return "tip" if reader.at_tip else "reading"

    def pages(self) -> AsyncGenerator[Page, None]:
        """See Source.pages. Closing the iterator, or cancelling who waits for it, ends all reading and leaves no task behind."""
        return self._pages()

    async def _pages(self) -> AsyncGenerator[Page, None]:
        if self._starts is None:
            raise RuntimeError("start comes before pages")
        try:
            self._spawn(self._supervise())
            while (taken := await self._next()) is not None:
                reader, page, held, read_to = taken
                del taken
                reader.queued -= 1
                if not page.remember:
                    reader.handed_to = max(reader.handed_to, read_to)
                self._share.release(held)
                self._moved.ring()
                del reader
                yield page
                del page  # the caller's now: not kept alive while waiting for the next
        finally:
            await self._stop()

    async def _next(self) -> tuple[Reader, Page, int, float] | None:
        self._share.hungry = True
        try:
            return await self._merge.take()
        finally:
            self._share.hungry = False

    async def close(self) -> None:
        """End all reading and give back the memory. Closing twice is fine."""
        await self._stop()
        if self._joined:
            self._joined = False
            self._feeds.leave(self._share)

    async def _stop(self) -> None:
        """On return all reading has ended, whoever else is stopping it."""
        for task in self._tasks - self._ending:  # once: a second time would break off how it ends
            self._ending.add(task)
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._ending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._merge.fail(error)

    # what readers ask of their source

    def put(self, reader: Reader, page: Page, held: int, read_to: float) -> None:
        reader.queued += 1
        self._merge.put((reader, page, held, read_to))
        self._moved.ring()

    def moved(self) -> None:
        """A shard was read further, though there is no page to say so."""
        self._moved.ring()

    async def may_read(self, reader: Reader) -> None:
        """Wait while this shard is too far ahead of the slowest. The slowest never waits, so this cannot lock up."""
        while True:
            if reader.floor - self._least > self._skew:  # floors only rise: the slowest is looked for when its last one is too far back
                self._least = min([one.floor for one in self._readers.values() if not one.finished], default=reader.floor)
            if reader.floor - self._least <= self._skew:
                reader.paused = False
                return
            reader.paused = True
            await self._moved.wait()

    async def gap(self, reader: Reader, gap: Gap) -> None:
        """Persist a gap. Returns where reading may go on; otherwise waits to be ended by the halt."""
        stored = await self._feeds.patiently(partial(self._on_gap, gap), self.deadline)
        if stored.acked or not self._halt:
            return
        self._gaps.append(stored)
        reader.verified = True
        self._changed.ring()
        await asyncio.Event().wait()

    # the supervisor: which shards are read, until when

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        listed, listed_at = self._feeds.shards, loop.time()
        if self._warm_up is not None:
            await self._remember(listed, self._warm_up)
        every = self._feeds.rediscover * (0.9 + 0.2 * self._feeds.random())
        while not self._merge.failed:
            self._begin(listed)
            if self._gaps:
                return await self._halt_on_gaps()
            if self._ended - self._relisted or loop.time() - listed_at >= every:
                listed, listed_at = await self._relist(), loop.time()
            elif self.once and all(reader.finished for reader in self._readers.values()):
                return self._merge.end()
            else:
                await self._changed.wait(max(listed_at + every - loop.time(), 0.01))

    async def _remember(self, listed: Sequence[Shard], warm_up: float) -> None:
        """Read again what was settled lately, in every shard, before anything else."""
        since = remember_from(self._marks, warm_up, now=self._feeds.now(), retention=self._feeds.description.retention)
        marks = [(shard, self._marks[shard.id]) for shard in listed if shard.id in self._marks]
        readers = [
            Reader(shard, self._feeds, self._share, self, mark, mark.arrived)
            for shard, mark in marks
            if mark.position.kind in ("after", "end")
        ]
        if readers:
            await asyncio.wait([self._spawn(reader.remember(since)) for reader in readers])

    def _begin(self, listed: Sequence[Shard]) -> None:
        """Start reading every shard that may be read and is not yet."""
        for shard in readable(listed, self._ended):
            if shard.id not in self._readers:
                reader = self._reader(shard)
                self._readers[shard.id] = reader
                self._least = min(self._least, reader.floor)
                self._spawn(self._read(reader))
        begun = self._ended.union(self._readers)
        self._followed = {shard for shard in self._relisted if all(child.id in begun for child in children(listed, shard))}

    def _reader(self, shard: Shard) -> Reader:
        """A child's records are no older than the end of its parents: what was read of those bounds it from below."""
        mark = self._marks.get(shard.id, Mark(TRIM_HORIZON))
        parents = [self._readers[parent] for parent in shard.parents if parent in self._readers]
        whole = bool(parents) and len(parents) == len(shard.parents)
        floor = mark.arrived or (min(parent.floor for parent in parents) if whole else self.oldest_readable())
        known = min(parent.known for parent in parents) if whole and all(parent.guarded for parent in parents) else 0.0
        return Reader(shard, self._feeds, self._share, self, Mark(mark.position, mark.arrived or known), floor)

    async def _read(self, reader: Reader) -> None:
        await reader.run()
        if reader.ended:
            self._ended.add(reader.shard.id)
        self._changed.ring()
        self._moved.ring()

    async def _relist(self) -> Sequence[Shard]:
        ended = frozenset(self._ended)
        expected = {child.id for shard in ended - self._relisted if shard in self._readers for child in self._readers[shard].children}
        since = asyncio.get_running_loop().time()
        ask = partial(self._feeds.list, since=since, ended=ended, expected=expected)
        listed = await self._feeds.patiently(ask, self.deadline)
        self._relisted |= ended
        return listed

    async def _halt_on_gaps(self) -> None:
        """Other shards may have gaps too: let them be found, so that one halt names them all."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _GATHER
        while loop.time() < until and not all(reader.verified for reader in self._readers.values()):
            await self._changed.wait(0.1)
        self._merge.fail(trimmed.lost(self._gaps))
