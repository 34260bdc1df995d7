"""The data objects, a few at a time, against their manifests: in bounded memory, and in threads where there is much to compute."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Self

import msgspec

from dsqlcdc_s3.audit.compacted import Compacted, compacted_of
from dsqlcdc_s3.audit.content import Content, content_of
from dsqlcdc_s3.audit.findings import Report
from dsqlcdc_s3.audit.ids import Beside, Seen, Span
from dsqlcdc_s3.audit.inventory import Inventory
from dsqlcdc_s3.audit.lake import Lake
from dsqlcdc_s3.audit.progress import EVERY, Judged, Progress
from dsqlcdc_s3.compaction import Compaction
from dsqlcdc_s3.manifest import PartEntry
from dsqlcdc_s3.objects import Missing

_THREAD = 128 * 1024
"""Bytes from which on a thread pays."""
_DAY = 86_400.0


class Job(msgspec.Struct, frozen=True):
    """One object to be judged. `n`: its manifest's number, 0 beside the chain. `lock`: the retention that its manifest says it was put with.

    `open_end`: nobody has said yet whether it is in: its batch is the last one. `written`: when its manifest was.
    """

    entry: PartEntry
    n: int
    lock: str = ""
    open_end: bool = False
    written: str = ""
    beside: Beside = ""
    compaction: Compaction | None = None

    def words(self) -> bytes:
        """A hash of all that the object is judged against."""
        return hashlib.blake2b(msgspec.json.encode((self.entry, self.compaction)), digest_size=16).digest()


class Bodies:
    """Judges objects, and says in the inventory how each was met. Used as a context manager. It computes in as many threads as there are cores:
    more would only take memory."""

    def __init__(self, lake: Lake, report: Report, inventory: Inventory, progress: Progress, parallel: int) -> None:
        self._lake, self._report, self._inventory, self._progress, self._parallel = lake, report, inventory, progress, parallel
        self._threads = ThreadPoolExecutor(min(parallel, os.cpu_count() or 1), "dsqlcdc-audit")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()

    async def judge(self, jobs: AsyncIterator[Job], done: Callable[[], None]) -> None:
        """Judge them all. `done` is told of each."""
        queue: asyncio.Queue[Job | None] = asyncio.Queue(self._parallel)

        async def produce() -> None:
            async for job in jobs:
                await queue.put(job)
            for _ in range(self._parallel):
                await queue.put(None)

        async def work() -> None:
            while (job := await queue.get()) is not None:
                await self._one(job)
                done()

        async def keep() -> None:
            while True:
                await asyncio.sleep(EVERY)
                self._progress.keep()

        async with asyncio.TaskGroup() as keeping:
            keeper = keeping.create_task(keep())
            async with asyncio.TaskGroup() as group:
                group.create_task(produce())
                for _ in range(self._parallel):
                    group.create_task(work())
            keeper.cancel()

    async def _one(self, job: Job) -> None:
        entry, report, words = job.entry, self._report, job.words()
        judged = self._progress.known(entry.key, words)
        if judged is not None:
            report.skipped += 1
            self._right(job)
        else:
            try:
                judged = await self._read(job, words)
            except Missing:
                if job.compaction is None:  # else begun and not put, or compacted again: its parts are judged where they are
                    self._inventory.add("missing", entry.key, job.n, entry.object_sha256, open=job.open_end)
                return
        report.bytes += judged.bytes
        report.unmade += judged.unmade
        if judged.void:
            report.void += 1
            self._inventory.add("empty", entry.key, job.n, str(entry.rows), open=job.open_end)
        else:
            report.objects += 1
            report.rows += judged.rows
            report.uncompressed_bytes += judged.uncompressed_bytes
        if job.lock:
            await self._held(job)

    async def _read(self, job: Job, words: bytes) -> Judged:
        """Judge the bytes; what is as it should be is noted, and only that."""
        spans: list[tuple[int, Span]] = []

        def see(part: PartEntry) -> Seen | None:
            if self._progress.ids is None:
                return None
            seen = self._progress.ids.part()
            spans.append((seen.number, Span(part.key, job.entry.key, job.beside)))
            return seen

        opened = await self._lake.open(job.entry.key)
        content = content_of(job.entry, see(job.entry)) if job.compaction is None else compacted_of(job.compaction, see)
        try:
            async with aclosing(opened.chunks) as chunks:
                await self._feed(chunks, content)
        finally:
            content.close()
        judged = Judged(content.void, content.bytes, content.rows, content.uncompressed_bytes, content.unmade)
        if content.wrong:
            self._inventory.add("wrong", job.entry.key, job.n, "; ".join(content.wrong[:3]))
        else:
            self._progress.note(job.entry.key, words, opened.stamp, judged, spans)
            self._right(job)
        return judged

    async def _feed(self, chunks: AsyncIterator[bytes], content: Content | Compacted) -> None:
        loop = asyncio.get_running_loop()
        waiting: list[bytes] = []
        size = 0
        async for chunk in chunks:
            waiting.append(chunk)
            size += len(chunk)
            if size >= 4 * _THREAD:
                await loop.run_in_executor(self._threads, content.feed, b"".join(waiting))
                waiting, size = [], 0
        rest = b"".join(waiting)
        if content.bytes + size >= _THREAD:
            await loop.run_in_executor(self._threads, _finish, content, rest)
        else:
            _finish(content, rest)

    def _right(self, job: Job) -> None:
        """It is as it should be: so are the parts in it."""
        for one in job.compaction.inputs if job.compaction is not None else ():
            self._inventory.add("found", one.part.key, 0, one.part.object_sha256)

    async def _held(self, job: Job) -> None:
        mode, _, days = job.lock.partition(":")
        key, report = job.entry.key, self._report
        try:
            hold = await self._lake.hold(key)
        except Missing:
            return
        until = datetime.fromisoformat(job.written) + timedelta(days=int(days or 0))
        if hold.until == 0.0 and until.timestamp() < hold.written:
            return
        if hold.mode != mode or hold.until + _DAY < until.timestamp():
            said = f"{hold.mode or 'no retention'}" + (f" until {datetime.fromtimestamp(hold.until).date()}" if hold.until else "")
            report.add("altered", "retention", key, f"it was put with {mode} until {until.date()}, and has {said}")


def _finish(content: Content | Compacted, rest: bytes) -> None:
    if rest:
        content.feed(rest)
    content.end()
