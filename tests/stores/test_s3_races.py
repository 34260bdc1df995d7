"""Processes that share nothing but a bucket put one row together: they race, stall, lose answers and are killed, and sinks come and go."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsqlcdc.core.ports import Part
from dsqlcdc.errors import Unavailable
from dsqlcdc.stores.s3_fragments import Look, S3Fragments
from dsqlcdc.stores.s3_parts import Group
from dsqlcdc.testing import virtual
from dsqlcdc.testing.stores import cut

from .bucket import Bucket, FakeObjects

T = TypeVar("T")
ROWS = {
    "two": cut("two", {"after": [b"{", b"}"]}),
    "both": cut("both", {"after": [b"{", b"}"], "before": [b"{}"]}),
}


class World:
    """Every record is read until it is settled, each time by a process of its own, as Lambda does; `late` reads from the beginning what the
    others have read, by a config that did not have it."""

    def __init__(self, seed: int, make: type[S3Fragments], *, claims: bool, trouble: float, kills: bool, hasty: bool) -> None:
        self.rng, self.make, self.claims, self.trouble, self.kills, self.hasty = random.Random(seed), make, claims, trouble, kills, hasty
        self.bucket = Bucket()
        self.delivered: list[tuple[str, str]] = []
        self.orphans: list[str] = []

    def store(self, *sinks: str, trouble: float | None = None) -> S3Fragments:
        objects = FakeObjects(self.bucket, self.rng, self.trouble if trouble is None else trouble, slow=self.rng.choice((0.05, 1.0)))
        return self.make(objects, sinks, claims=self.claims, every=0.0)

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await call()
            except Unavailable:
                await asyncio.sleep(self.rng.uniform(0, 1))

    async def invocation(self, sinks: Sequence[str], sink: str, part: Part) -> None:
        store, row = self.store(*sinks), part.chunk_id.split(".")[0]
        while True:
            parked = await self.ask(lambda: store.add(sink, part))
            if parked.state != "complete":
                assert parked.state != "refused", parked
                return
            parts = await self.ask(lambda: store.row(row))
            if parts:
                break
        if self.hasty:
            await self.ask(lambda: store.done(sink, [row]))
        await asyncio.sleep(self.rng.uniform(0, 1))
        assert [(p.chunk_id, p.index, p.raw, p.text) for p in parts] == [(p.chunk_id, p.index, p.raw, p.text) for p in _whole(row)]
        self.delivered.append((sink, row))
        await asyncio.sleep(self.rng.uniform(0, 1))
        await self.ask(lambda: store.done(sink, [row]))

    async def record(self, sinks: Sequence[str], sink: str, part: Part) -> None:
        """Read again until an invocation has settled it; one may be killed, and even be running still when the next one begins."""
        for attempt in range(100):
            running = asyncio.ensure_future(self.invocation(sinks, sink, part))
            if not self.kills or attempt > 4 or self.rng.random() < 0.5:
                return await running
            done, _ = await asyncio.wait({running}, timeout=self.rng.uniform(0, 8))
            if done:
                return running.result()
            if self.rng.random() < 0.7:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running
            else:
                self.zombies.append(running)
        return None

    async def play(self) -> None:
        self.zombies: list[asyncio.Task[None]] = []
        jobs: list[Any] = []
        for row, parts in ROWS.items():
            for n, part in enumerate(parts):
                for copy in range(self.rng.choice((1, 1, 2))):
                    one = msgspec.structs.replace(part, shard=f"shard-{copy}", sequence=f"{row}{n}{copy}", arrived=1000.0 + n)
                    late = self.rng.choice((0.0, 0.0, 0.0, 20.0))
                    jobs += [self._later(late, ("a", "b"), sink, one) for sink in ("a", "b")]
                    jobs.append(self._later(self.rng.choice((0.0, 5.0, 10.0, 15.0)), ("c",), "c", one))
        await asyncio.gather(*jobs)
        await asyncio.gather(*self.zombies, *self.bucket.late)
        await self.judge()

    async def _later(self, delay: float, sinks: Sequence[str], sink: str, part: Part) -> None:
        await asyncio.sleep(delay + self.rng.choice((0.0, self.rng.uniform(0, 3))))
        await self.record(sinks, sink, part)

    async def judge(self) -> None:
        for sink in ("a", "b", "c"):
            for row in ROWS:
                assert (sink, row) in self.delivered, f"{row} is lost for {sink}"
        if self.claims and not self.kills and not self.trouble:
            assert len(set(self.delivered)) == len(self.delivered), "delivered twice"
        store = self.store("a", "b", "c", trouble=0.0)
        for sink in ("a", "b", "c"):
            shown = await store.overdue(sink, 1e12)
            assert not shown, f"parts of rows that were delivered to {sink} are declared incomplete: {[p.chunk_id for p in shown]}"
            assert not await store.unfinished(sink, 0.0)
        assert not [name for name in self.bucket.objects if name.startswith("parts/")], "parts stay"
        for sink in ("a", "b", "c"):
            for row, parts in ROWS.items():
                for part in parts:
                    assert (await store.add(sink, part)).state == "done", row


def _whole(row: str) -> list[Part]:
    main, *pieces = ROWS[row]
    return [main, *sorted(pieces, key=lambda part: (part.chunk_id, part.index))]


def play(seed: int, make: type[S3Fragments] = S3Fragments, *, claims: bool, trouble: float, kills: bool, hasty: bool = False) -> None:
    virtual.run(World(seed, make, claims=claims, trouble=trouble, kills=kills, hasty=hasty).play())


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.integers(0, 2**32), st.booleans(), st.sampled_from((0.0, 0.05, 0.3)), st.booleans())
def test_no_race_loses_a_row_or_leaves_a_part(seed: int, claims: bool, trouble: float, kills: bool) -> None:
    play(seed, claims=claims, trouble=trouble, kills=kills)


class LooksBeforeItWrites(S3Fragments):
    async def add(self, sink: str, part: Part) -> Any:
        self.__dict__["own"], self.__dict__["seen"] = part, None
        return await super().add(sink, part)

    async def _look(self, chunks: Sequence[str]) -> Look:
        seen: Look | None = self.__dict__["seen"]
        if seen is None:
            seen = self.__dict__["seen"] = await super()._look(chunks)
            return seen
        own = await super()._look(chunks)
        kept = {
            c: [s for s in found if s.index == self.__dict__["own"].index or s in seen.stored.get(c, ())] for c, found in own.stored.items()
        }
        pieces = {place: s for place, s in own.group.pieces.items() if s in kept[s.chunk]}
        return msgspec.structs.replace(own, stored=kept, group=msgspec.structs.replace(own.group, pieces=pieces))


class RemovesWhenOneIsDone(S3Fragments):
    async def _release(self, look: Look) -> None:
        for name in look.group.names:
            await self._objects.delete(name)


class RemovesWithoutClosing(S3Fragments):
    async def _release(self, look: Look) -> None:
        marks = await self._marks(look.group.name)
        if marks >= self._names and marks >= await self._sinks():
            await asyncio.sleep(self._objects.rng.uniform(0, 5))  # type: ignore[attr-defined]
            for name in look.group.names:
                await self._objects.delete(name)


class ClaimsForItself(S3Fragments):
    async def _claim(self, sink: str, part: Part, look: Look) -> bool:
        return await super()._claim(sink, msgspec.structs.replace(part, sequence=str(id(self))), look)


class TakesLateOnesForNew(S3Fragments):
    async def _over(self, sink: str, found: Group) -> bool:
        return False


class ClaimsNothing(S3Fragments):
    async def _claim(self, sink: str, part: Part, look: Look) -> bool:
        return True


CONTROLS: dict[str, tuple[type[S3Fragments], dict[str, Any]]] = {
    "looked before written": (LooksBeforeItWrites, {"claims": False, "trouble": 0.0, "kills": False}),
    "done before delivered": (S3Fragments, {"claims": False, "trouble": 0.0, "kills": True, "hasty": True}),
    "removed when one sink is done": (RemovesWhenOneIsDone, {"claims": False, "trouble": 0.0, "kills": False}),
    "removed without closing": (RemovesWithoutClosing, {"claims": False, "trouble": 0.0, "kills": False}),
    "a claim belongs to a process": (ClaimsForItself, {"claims": True, "trouble": 0.0, "kills": True}),
    "a write that arrives late is a row to come": (TakesLateOnesForNew, {"claims": False, "trouble": 0.3, "kills": False}),
    "nobody claims": (ClaimsNothing, {"claims": True, "trouble": 0.0, "kills": False}),
}


@pytest.mark.parametrize("control", CONTROLS)
def test_a_broken_rule_loses_a_row_or_repeats_it_or_leaves_a_part(control: str) -> None:
    make, how = CONTROLS[control]

    def lives() -> None:
        for seed in range(300):
            play(seed, make, **how)

    with pytest.raises(AssertionError):
        lives()
