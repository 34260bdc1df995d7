"""The conformance kit: what the pipeline relies on in every sink, as laws that any sink can be put through.

await check_sink(lambda: MySink(path), holds=lambda change: in_my_database(change))
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import msgspec

from dsqlcdc.contract import Change, Op, Resume, Setback, Sink, Verdict
from dsqlcdc.core.records import Record
from dsqlcdc.core.tables import Rule, Tables
from dsqlcdc.errors import Stopped, Unavailable
from dsqlcdc.testing.records import full

_START = 1_800_000_000
_TABLE = "public.conformance"
_STEPS = (0, 1, 2, 3, 5, 8, 13, 30, 100)
_LIMIT = 120.0


class LawBroken(AssertionError):
    """A sink does not keep one of the laws; the message names it."""


class Conformance(msgspec.Struct, frozen=True):
    """A sink under test.

    `make_sink` makes a new instance over the same destination. `holds` says whether the destination has a change, or a later one of its row.
    `copies`, for sinks that promise exactly once, counts how often it has it. `outage` is entered to make the destination unreachable.
    `refused` makes of a change one that the destination refuses for good.
    """

    make_sink: Callable[[], Sink]
    holds: Callable[[Change], Awaitable[bool]]
    copies: Callable[[Change], Awaitable[int]] | None = None
    outage: Callable[[], AbstractAsyncContextManager[Any]] | None = None
    refused: Callable[[Change], Change] | None = None


async def check_sink(
    make_sink: Callable[[], Sink],
    *,
    holds: Callable[[Change], Awaitable[bool]],
    copies: Callable[[Change], Awaitable[int]] | None = None,
    outage: Callable[[], AbstractAsyncContextManager[Any]] | None = None,
    refused: Callable[[Change], Change] | None = None,
) -> Sequence[str]:
    """Put a sink through all laws; the names of those checked. The parameters are those of Conformance.

    Without `outage` and `refused` the laws that need them are left out. Changes are of the table `public.conformance` with the key `id`. An empty
    batch is never sent, as the pipeline never does. Raises LawBroken. Takes seconds (where a sink waits after an outage, so long: virtual time
    helps), and leaves what it wrote in the destination.
    """
    kit = _Kit(Conformance(make_sink, holds, copies, outage, refused))
    laws = [kit.redelivery, kit.disorder, kit.unknown_delete, kit.large_row, kit.cancelled, kit.closed_twice, kit.concurrency]
    laws += [kit.partial_refusal] if refused is not None else []
    laws += [kit.outage] if outage is not None else []
    for law in laws:
        try:
            async with asyncio.timeout(_LIMIT):
                await law()
        except TimeoutError:
            raise LawBroken(f"{law.__name__}: did not end within {_LIMIT:.0f} s") from None
        except LawBroken:
            raise
        except Exception as error:
            raise LawBroken(f"{law.__name__}: raises {type(error).__name__}: {error}") from error
    return [law.__name__ for law in laws]


class _Kit:
    def __init__(self, given: Conformance) -> None:
        self._given = given
        self._tables = Tables({_TABLE: Rule(key=("id",))})
        self._next = 0
        self._word = b""

    def _change(self, id: int | None = None, op: Op = Op.INSERT, note: str = "", version: int | None = None) -> Change:
        """A change of a row of its own, or of row `id`; a later call has the later version unless one is given."""
        self._next += 1
        row = {"id": self._next if id is None else id}
        moment = _START * 10**9 + (self._next if version is None else version)
        image = None if op is Op.DELETE else {**row, "note": note or "ü"}
        data = full(op.value, _TABLE, image, moment, before=row if image is None else None)
        change = self._tables.read("shard", Record(str(self._next), data, float(_START + self._next)))
        assert isinstance(change, Change)
        return change

    @asynccontextmanager
    async def _life(self) -> AsyncGenerator[tuple[Sink, set[bytes]], None]:
        """An instance that has been entered and resumed, and the ids it knows to be in."""
        async with self._given.make_sink() as sink:
            known = {entry.id for entry in await sink.resume(Resume("conformance", "sink", self._word, 0.0, tuple))}
            self._word = sink.word()
            yield sink, known
            self._word = sink.word()

    async def _write(self, law: str, sink: Sink, changes: Sequence[Change]) -> dict[int, Setback]:
        """One write as the pipeline judges it."""
        said = await sink.write(changes)
        setbacks = {setback.index: setback for setback in said}
        if len(setbacks) != len(said) or not all(0 <= index < len(changes) for index in setbacks):
            raise LawBroken(f"{law}: the answer names a change twice, or one that was not given")
        return setbacks

    async def _deliver(self, law: str, sink: Sink, changes: Sequence[Change], known: Collection[bytes] = ()) -> None:
        """Write until nothing is to be tried again. Nothing of it may be refused."""
        rest = [change for change in changes if change.id not in known]
        for _ in range(50):
            if not rest:
                return
            try:
                setbacks = await self._write(law, sink, rest)
            except Unavailable as error:
                await asyncio.sleep(error.after or 0.01)
                continue
            if dead := [setback for setback in setbacks.values() if setback.verdict is Verdict.DEAD]:
                raise LawBroken(f"{law}: refuses a good change ({dead[0].code} {dead[0].detail})")
            rest = [rest[index] for index in sorted(setbacks) if setbacks[index].verdict is Verdict.RETRY]
        raise LawBroken(f"{law}: never takes a good change")

    async def _expect(self, law: str, changes: Sequence[Change]) -> None:
        for change in changes:
            if not await self._given.holds(change):
                raise LawBroken(f"{law}: a change counts as in and is not ({change.op.word} {change.key})")
            if self._given.copies is not None and (count := await self._given.copies(change)) != 1:
                raise LawBroken(f"{law}: a change is in {count} times ({change.op.word} {change.key})")

    async def redelivery(self) -> None:
        """What comes again after a restart is taken, and does no harm."""
        changes = [self._change() for _ in range(20)]
        for _ in range(3):
            async with self._life() as (sink, known):
                await self._deliver("redelivery", sink, changes, known)
                await self._expect("redelivery", changes)

    async def disorder(self) -> None:
        """A row's changes may come in any order; an older one never takes the place of a newer one."""
        old = self._change()
        new = self._change((old.key or {})["id"], Op.UPDATE, "new")
        async with self._life() as (sink, _):
            await self._deliver("disorder", sink, [new])
            await self._deliver("disorder", sink, [old])
            await self._expect("disorder", [new, old])

    async def unknown_delete(self) -> None:
        """A delete of a row that was never seen is a change like others."""
        change = self._change(op=Op.DELETE)
        async with self._life() as (sink, _):
            await self._deliver("unknown_delete", sink, [change])
            await self._expect("unknown_delete", [change])

    async def large_row(self) -> None:
        """A row of 9 MiB goes in or is dead by a verdict; the others of its batch go in."""
        changes = [self._change(), self._change(note="x" * 9 * 1024 * 1024), self._change()]
        async with self._life() as (sink, _):
            try:
                setbacks = await self._write("large_row", sink, changes)
            except (Unavailable, Stopped) as error:
                raise LawBroken(f"large_row: a large row is no outage ({error})") from error
            dead = {n for n, setback in setbacks.items() if setback.verdict is Verdict.DEAD}
            if not dead <= {1}:
                raise LawBroken("large_row: refuses the others of its batch")
            await self._deliver("large_row", sink, [changes[n] for n, s in setbacks.items() if s.verdict is Verdict.RETRY])
            await self._expect("large_row", [change for n, change in enumerate(changes) if n not in dead])

    async def partial_refusal(self) -> None:
        """A change that the destination refuses is DEAD by name, and the others of its batch go in."""
        assert self._given.refused is not None
        changes = [self._change(), self._given.refused(self._change()), self._change()]
        async with self._life() as (sink, _):
            setbacks = await self._write("partial_refusal", sink, changes)
            dead = [n for n, setback in setbacks.items() if setback.verdict is Verdict.DEAD]
            if dead != [1]:
                raise LawBroken(f"partial_refusal: of three changes the second is bad, and dead are {dead}")
            if not setbacks[1].code:
                raise LawBroken("partial_refusal: DEAD without a code")
            rest = [changes[n] for n in (0, 2) if n in setbacks and setbacks[n].verdict is Verdict.RETRY]
            await self._deliver("partial_refusal", sink, rest)
            await self._expect("partial_refusal", [changes[0], changes[2]])

    async def outage(self) -> None:
        """An outage is Unavailable or RETRY, and nothing else; when it is over the same instance goes on."""
        assert self._given.outage is not None
        changes = [self._change() for _ in range(20)]
        async with self._life() as (sink, _):
            async with self._given.outage():
                try:
                    setbacks = await self._write("outage", sink, changes)
                except Unavailable:
                    pass
                else:
                    if any(n not in setbacks or setbacks[n].verdict is not Verdict.RETRY for n in range(len(changes))):
                        raise LawBroken("outage: a change has a verdict that nobody could have given")
            await self._deliver("outage", sink, changes)
            await self._expect("outage", changes)

    async def cancelled(self) -> None:
        """Cancelled in mid-write, a sink ends at once; the next instance takes the batch again, all of it."""
        for steps in _STEPS:
            changes = [self._change() for _ in range(5)]
            async with self._life() as (sink, _):
                writing = asyncio.create_task(self._write("cancelled", sink, changes))
                for _ in range(steps):
                    await asyncio.sleep(0)
                ended = writing.done()
                writing.cancel()
                await asyncio.wait({writing})
                if not ended and not writing.cancelled() and writing.exception() is not None:
                    raise LawBroken(f"cancelled: makes of it {type(writing.exception()).__name__}")
            async with self._life() as (sink, known):
                await self._deliver("cancelled", sink, changes, known)
                await self._expect("cancelled", changes)

    async def closed_twice(self) -> None:
        """Leaving twice is leaving once."""
        sink = self._given.make_sink()
        await sink.__aenter__()
        for _ in range(2):
            await sink.__aexit__(None, None, None)

    async def concurrency(self) -> None:
        """As many writes at a time as it has lanes do not disturb each other."""
        async with self._life() as (sink, _):
            for _ in range(5):
                batches = [[self._change() for _ in range(10)] for _ in range(sink.lanes)]
                await asyncio.gather(*(self._deliver("concurrency", sink, batch) for batch in batches))
                await self._expect("concurrency", [change for batch in batches for change in batch])
