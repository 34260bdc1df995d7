"""The S3 sink in Lambda: a batch of one shard has a manifest of its own, and what an earlier attempt at it left is decided first."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from types import TracebackType
from typing import ClassVar, Self

import msgspec

from dsqlcdc.contract import Batching, Change, Context, Setback, Sink, Unavailable, Verdict
from dsqlcdc_s3.apart import Attempt, Attempts, Manifest, marks, span
from dsqlcdc_s3.batch import entry
from dsqlcdc_s3.chain import Owner
from dsqlcdc_s3.encode import CAP, Part, encode
from dsqlcdc_s3.manifest import FORMAT
from dsqlcdc_s3.objects import Objects
from dsqlcdc_s3.options import Options as S3Options

_INLINE = 128 * 1024
"""Batches below this many bytes are encoded in the loop: a thread would cost more."""
_ROUNDS = 4
"""How often a batch is begun anew at once where others void it or get in its way; after that with a pause."""


class BatchSink(Sink):
    """JSON Lines in S3 by many writers. A record that comes again, in whatever batch, goes in once; copies of a change that DSQL sent to
    different shards or in different batches may both go in: readers take one line for each (schema, table, key, version).

    Keeps nothing from call to call but which store it writes to. See dsqlcdc_s3.apart for why nothing is lost or repeated.
    """

    Options: ClassVar[type[S3Options]] = S3Options

    def __init__(
        self,
        options: S3Options,
        context: Context,
        open: Callable[[], AbstractAsyncContextManager[Objects]],
        *,
        writer: str,
        clock: Callable[[], float] = time.time,
        cap: int = CAP,
    ) -> None:
        self._options, self._context, self._open, self._writer, self._clock, self._cap = options, context, open, writer, clock, cap
        self.lanes = 1
        self.batching = Batching(bytes=options.roll.bytes, records=options.roll.records, age=options.roll.age)
        self._opened: AbstractAsyncContextManager[Objects] | None = None
        self._attempts: Attempts | None = None

    async def __aenter__(self) -> Self:
        opening, context, options = self._open(), self._context, self._options
        objects = await opening.__aenter__()
        self._opened = opening
        owner = Owner(context.pipeline, context.sink, f"s3://{options.bucket}/{options.prefix}", options.prefix)
        self._attempts = Attempts(objects, owner, options.parallel)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        opened, self._opened, self._attempts = self._opened, None, None
        if opened is not None:
            await opened.__aexit__(kind, error, trace)

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        """All in when this returns. After Unavailable or a cancellation the same changes may come in any other batch.

        Raises Misconfigured where the store ignores conditions, or the prefix is another sink's.
        """
        attempts = self._attempts
        if attempts is None:
            raise RuntimeError("the sink has not been entered")
        shards: dict[str, list[int]] = defaultdict(list)
        for index, change in enumerate(changes):
            shards[change.shard].append(index)
        setbacks: list[Setback] = []
        for shard, indexes in shards.items():
            setbacks += await self._write(attempts, shard, {index: changes[index] for index in indexes})
        return setbacks

    async def _write(self, attempts: Attempts, shard: str, changes: Mapping[int, Change]) -> list[Setback]:
        first, last_one = span(changes.values())
        prefix, attempt = self._options.prefix, Attempt(shard, first, last_one, 1)
        rows, setbacks = _once(changes)
        decided: set[str] = set()
        for _ in range(_ROUNDS):
            there = set(await attempts.overlapping(attempt.shard, attempt.first, attempt.last)) - decided
            last = attempt.last_of(prefix, there)
            key = "" if last is None else last.manifest(prefix)
            rows = await self._without(attempts, there - {key}, rows, decided, setbacks)
            attempt = last or attempt
            parts, manifest, dead = await self._prepare(attempt, rows)
            if last is not None and not (parts and await attempts.same(key, manifest)):
                rows = await self._without(attempts, {key}, rows, decided, setbacks)
                attempt = attempt.next()
                parts, manifest, dead = await self._prepare(attempt, rows)
                last = None
            if not parts:
                return setbacks + dead
            if last is None:
                key = attempt.manifest(prefix)
                if not await attempts.announce(attempt, msgspec.json.encode(manifest) + b"\n"):
                    continue  # somebody has that name, or we have and the answer was lost: the next look tells
                beside = set(await attempts.overlapping(attempt.shard, attempt.first, attempt.last)) - decided - {key}
                left = await self._without(attempts, beside, rows, decided, setbacks)
                if len(left) < len(rows):  # our manifest names rows that are in elsewhere: its parts are not put
                    rows = left
                    continue
            refused = await attempts.upload(manifest.parts, [part.body for part in parts])
            if refused is not None:
                setbacks += [Setback(parts[n].indexes[0], Verdict.DEAD, "too_large", why) for n, why in refused.items()]
                return setbacks + dead
            rows = await self._without(attempts, {key}, rows, decided, setbacks)
            attempt = attempt.next()
        raise Unavailable("a batch was taken over", where=attempt.manifest(prefix), why="other invocations with the same records are at it")

    async def _without(
        self, attempts: Attempts, keys: Set[str], rows: Sequence[tuple[int, Change]], decided: set[str], setbacks: list[Setback]
    ) -> list[tuple[int, Change]]:
        """Decide these attempts: the rows that none of them has put, or ever will. Each of the others gets its DUPLICATE."""
        found = await attempts.decide(keys, {change.id for _, change in rows})
        decided |= keys
        setbacks += [Setback(index, Verdict.DUPLICATE) for index, change in rows if change.id in found]
        return [row for row in rows if row[1].id not in found]

    async def _prepare(self, attempt: Attempt, rows: Sequence[tuple[int, Change]]) -> tuple[list[Part], Manifest, list[Setback]]:
        parts, dead = await self._encode(rows)
        return parts, self._manifest(attempt, parts, rows), dead

    async def _encode(self, rows: Sequence[tuple[int, Change]]) -> tuple[list[Part], list[Setback]]:
        options = self._options
        if sum(change.size for _, change in rows) < _INLINE:
            return encode(rows, raw=options.raw, level=options.gzip, cap=self._cap)
        return await asyncio.to_thread(encode, rows, raw=options.raw, level=options.gzip, cap=self._cap)

    def _manifest(self, attempt: Attempt, parts: Sequence[Part], rows: Sequence[tuple[int, Change]]) -> Manifest:
        return Manifest(
            format=FORMAT,
            pipeline=self._context.pipeline,
            sink=self._context.sink,
            shard=attempt.shard,
            first=attempt.first,
            last=attempt.last,
            attempt=attempt.number,
            writer=self._writer,
            created_at=datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            parts=[entry(part, attempt.part(self._options.prefix, part, number)) for number, part in enumerate(parts)],
            rows=marks(change for _, change in rows),
        )


def _once(changes: Mapping[int, Change]) -> tuple[list[tuple[int, Change]], list[Setback]]:
    """Each change once, by index, and a DUPLICATE for each that stands twice in the batch."""
    seen: set[bytes] = set()
    rows: list[tuple[int, Change]] = []
    setbacks: list[Setback] = []
    for index, change in changes.items():
        if change.id in seen:
            setbacks.append(Setback(index, Verdict.DUPLICATE))
        else:
            seen.add(change.id)
            rows.append((index, change))
    return rows, setbacks
