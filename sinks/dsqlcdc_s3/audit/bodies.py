"""The data objects, a few at a time, against their manifests: in bounded memory, and in threads where there is much to compute."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from dsqlcdc_s3.audit.compacted import Compacted, told
from dsqlcdc_s3.audit.content import Content
from dsqlcdc_s3.audit.findings import Report
from dsqlcdc_s3.audit.lake import Lake
from dsqlcdc_s3.audit.spill import mark
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
    beside: Literal["", "replay", "apart", "compaction"] = ""
    compaction: Compaction | None = None


class Bodies:
    """Judges objects. `voided`: marks of parts that are to be void; `hidden`: of names of which it has been reported that a marker hides them."""

    def __init__(self, lake: Lake, report: Report, voided: set[int], hidden: set[int], *, deep: bool, parallel: int) -> None:
        self._lake, self._report, self._voided, self._hidden, self._deep = lake, report, voided, hidden, deep
        self._parallel = parallel
        self._compacted: set[int] = set()

    async def judge(self, jobs: AsyncIterator[Job], done: Callable[[Job], None]) -> None:
        """Judge them all. `done` is told each, in any order."""
        queue: asyncio.Queue[Job | None] = asyncio.Queue(self._parallel * 4)

        async def produce() -> None:
            async for job in jobs:
                await queue.put(job)
            for _ in range(self._parallel):
                await queue.put(None)

        async def work() -> None:
            while (job := await queue.get()) is not None:
                await self._one(job)
                done(job)

        async with asyncio.TaskGroup() as group:
            group.create_task(produce())
            for _ in range(self._parallel):
                group.create_task(work())

    async def _one(self, job: Job) -> None:
        entry, report = job.entry, self._report
        content = Content(entry, self._deep) if job.compaction is None else Compacted(job.compaction, self._deep)
        try:
            await self._read(entry.key, content)
        except Missing:
            if job.compaction is not None or mark(told(entry)) in self._compacted:
                return  # begun and not put, or compacted again: its parts are judged where they are
            if job.open_end:
                report.add("note", "undecided", entry.key, "it was begun and not finished: nobody has said yet what becomes of it")
            elif mark(entry.key) not in self._hidden:
                report.add("missing", "object", entry.key, f"a manifest{f' ({job.n})' if job.n else ''} names it, and it is not there")
            return
        report.bytes += content.bytes
        if content.void:
            report.void += 1
        else:
            report.objects += 1
            report.rows += content.rows
            report.uncompressed_bytes += content.uncompressed_bytes
        if isinstance(content, Compacted):
            self._compacted.update(mark(told(part)) for part in content.parts)
        self._decide(job, content)
        if job.lock:
            await self._held(job)

    async def _read(self, key: str, content: Content | Compacted) -> None:
        waiting: list[bytes] = []
        size = 0
        async with aclosing(self._lake.get(key)) as chunks:
            async for chunk in chunks:
                waiting.append(chunk)
                size += len(chunk)
                if size >= 4 * _THREAD:
                    await asyncio.to_thread(content.feed, b"".join(waiting))
                    waiting, size = [], 0
        rest = b"".join(waiting)
        if size >= _THREAD:
            await asyncio.to_thread(content.feed, rest)
        elif rest:
            content.feed(rest)
        content.end()

    def _decide(self, job: Job, content: Content | Compacted) -> None:
        key, report = job.entry.key, self._report
        given_up = mark(key) in self._voided
        if content.void and not given_up:
            if job.open_end and job.beside:
                return
            if job.open_end:
                report.add("note", "undecided", key, "it was given up, and the manifest that will say so is not written yet")
            else:
                report.add(
                    "altered", "emptied", key, f"it is empty, its manifest says {job.entry.rows} rows, and none says that it was given up"
                )
        elif not content.void and given_up:
            report.add("altered", "filled", key, "a manifest says that it was given up and is void, and it holds something: filled later")
        elif not content.void and content.wrong:
            report.add("altered", "bytes", key, "; ".join(content.wrong[:3]))

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
