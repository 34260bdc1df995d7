"""Random lives: duplicates, disorder, deletes, forgetful restarts, purges while requests are on their way. The alias equals the database.

The mutants are the same lives with one rule of the algorithm left out; each must be found out.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from dsqlcdc.contract import Change, Op, Unavailable, Verdict
from dsqlcdc.testing import virtual
from dsqlcdc.testing.opensearch import FakeOpenSearch
from dsqlcdc_opensearch import OpenSearchSink
from dsqlcdc_opensearch.document import Operation
from dsqlcdc_opensearch.purge import Purge
from dsqlcdc_opensearch.sink import _Row  # pyright: ignore[reportPrivateUsage]
from dsqlcdc_opensearch.watermark import Watermark
from tests.sinks.opensearch.replica import NOON, TABLE, Database, Direct, change_at, sink

LIVES = 100
SPAN = 3000.0
"""Seconds in which everything is committed."""
LATE = 4000.0
"""Seconds that a delivery may be late."""
KEYS = 8
RETENTION, GRACE = 400.0, 300.0


async def until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - asyncio.get_running_loop().time()))


class Life:
    """One life: what the database committed, and how it was delivered."""

    def __init__(
        self, seed: int, *, cls: type[OpenSearchSink] = OpenSearchSink, grace: float = GRACE, apply: bool = False, **options: Any
    ) -> None:
        self.random = random.Random(seed)
        self.clock = lambda: NOON + asyncio.get_running_loop().time()
        scripted = options.get("mode") == "scripted"
        self.engine = FakeOpenSearch(self.clock, gc_deletes=self.random.choice([1.0, 60.0]), external_versions=not scripted)
        self.commits: list[tuple[float, Change]] = []
        self.cls, self.grace, self.apply, self.options = cls, grace, apply, options
        alive = dict.fromkeys(range(KEYS), False)
        for moment in sorted(self.random.uniform(1, SPAN) for _ in range(self.random.randint(4, 24))):
            id = self.random.randrange(KEYS)
            op = self.random.choice([Op.UPDATE, Op.DELETE, Op.DELETE]) if alive[id] else Op.INSERT
            alive[id] = op is not Op.DELETE
            self.commits.append((moment, change_at(round((NOON + moment) * 10**9), {"id": id}, op=op, note=moment)))

    def database(self, now: float) -> dict[str, int]:
        """The rows that are at this moment, and the versions of their last changes."""
        rows: dict[str, int] = {}
        for moment, change in self.commits:
            if moment <= now:
                id = str((change.key or {})["id"])
                if change.op is Op.DELETE:
                    rows.pop(id, None)
                else:
                    rows[id] = change.version
        return rows

    def exists(self, change: Change) -> bool:
        return self.apply or str((change.key or {})["id"]) in self.database(asyncio.get_running_loop().time())

    def delays(self) -> tuple[float, float]:
        return (self.random.choice([0, 1, 30, 59, 59]), self.random.choice([0, 0, 1]))

    async def run(self, rewrite: Callable[[str, bytes], bytes] | None = None) -> None:
        self.transport = Direct(self.engine, self.delays)
        if rewrite is not None:
            self.transport.rewrite = rewrite
        sinks = [sink(self.transport, Database(self.exists), cls=self.cls, **self.options) for _ in range(2)]
        for one in sinks:
            await one.__aenter__()
        purges = [self.random.uniform(0, SPAN + LATE) for _ in range(self.random.randint(0, 6))]
        deliveries = [(self.late(moment), change) for moment, change in self.commits for _ in range(self.random.randint(1, 3))]
        deliveries += [delivery for moment in purges for delivery in self.again(moment)]
        async with asyncio.TaskGroup() as group:
            for at, change in deliveries:
                group.create_task(self.deliver(self.random.choice(sinks), at, change))
            for _ in range(self.random.randint(0, 3)):
                group.create_task(self.restart(self.random.uniform(0, SPAN + LATE)))
            group.create_task(self.purge(purges))
        for one in sinks:
            await one.__aexit__(None, None, None)
        self.replica = self.read()

    def late(self, moment: float) -> float:
        """When something is delivered that was committed at this moment: soon, or late."""
        return moment + self.random.choice([self.random.uniform(0, 60), self.random.uniform(0, LATE)])

    def again(self, purge: float) -> list[tuple[float, Change]]:
        """What comes once more just before a purge, to be on its way when it happens."""
        old = [change for moment, change in self.commits if moment < purge - RETENTION]
        return [(purge - self.random.uniform(0, 60), self.random.choice(old)) for _ in range(12)] if old else []

    async def deliver(self, to: OpenSearchSink, at: float, change: Change) -> None:
        await until(at)
        while True:
            try:
                said = await to.write([change])
            except Unavailable as error:
                await asyncio.sleep(error.after or 1.0)
                continue
            if not said or said[0].verdict is not Verdict.RETRY:
                assert not said or said[0].verdict is not Verdict.DEAD, said
                return
            await asyncio.sleep(1.0)

    async def restart(self, at: float) -> None:
        await until(at)
        self.engine.restart()

    async def purge(self, moments: Iterable[float]) -> None:
        """Another process moves the watermark, waits, and removes what is below."""
        async with sink(Direct(self.engine), **self.options) as other:
            watermark, bulk, cluster, indexes = other._watermark, other._bulk, other._cluster, other._indexes
            job = Purge(
                cluster,
                watermark,
                bulk,
                indexes=indexes.owned,
                progress=tuple,
                newest=lambda: 0,
                retention=0,
                grace=self.grace,
                me="other",
                remove=other._purging_operation,
            )
            for moment in sorted(moments):
                await until(moment)
                await self.move(watermark, round((self.clock() - RETENTION) * 10**9))
                await asyncio.sleep(self.grace)
                await job.purge(watermark.state.watermark)

    @staticmethod
    async def move(watermark: Watermark, to: int) -> None:
        state = await watermark.load()
        assert await watermark.store(type(state)(max(to, state.watermark), "other", state.count))

    def read(self) -> dict[str, int]:
        """What a search of the alias finds: ids and versions."""
        alias = f"cdc-{TABLE}"
        return {id: row["__cdc"]["version"] for id, row in self.engine.rows(alias).items()} if alias in self.engine.aliases else {}

    @property
    def right(self) -> bool:
        return self.replica == self.database(SPAN)


def lived(seed: int, rewrite: Callable[[str, bytes], bytes] | None = None, **life: Any) -> Life:
    one = Life(seed, **life)
    virtual.run(one.run(rewrite))
    return one


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["external", "scripted"])
def test_the_alias_equals_the_database(mode: str) -> None:
    assert [seed for seed in range(LIVES) if not lived(seed, mode=mode).right] == []


class TombstonesForLateDeletes(OpenSearchSink):
    async def _operations(self, rows: Iterable[_Row], watermark: int, verdicts: Any) -> list[Operation]:
        rows = list(rows)
        deletes = [row for row in rows if row.change.image is None]
        others = await super()._operations([row for row in rows if row.change.image is not None], watermark, verdicts)
        return others + await super()._operations(deletes, 0, verdicts)


MUTANTS: dict[str, dict[str, Any]] = {
    "native deletes": {"delete_mode": "native"},
    "no grace": {"grace": 0.0},
    "late upserts applied": {"apply": True},
    "tombstones for late deletes": {"cls": TombstonesForLateDeletes},
    "scripted, no grace": {"mode": "scripted", "grace": 0.0},
    "scripted, late upserts applied": {"mode": "scripted", "apply": True},
    "scripted, tombstones for late deletes": {"mode": "scripted", "cls": TombstonesForLateDeletes},
    "scripted, whatever comes last": {
        "mode": "scripted",
        "rewrite": lambda path, body: body.replace(b"params.doc.__cdc.version >", b"1 != "),
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_without_this_rule_the_alias_is_wrong_in_some_life(mutant: str) -> None:
    assert any(not lived(seed, **MUTANTS[mutant]).right for seed in range(20 * LIVES))


def written(life: Life) -> dict[str, tuple[int, int]]:
    """Versions and sequence numbers of all documents, tombstones among them."""
    (index,) = [index for index in life.engine.indexes.values() if index.name.endswith("-000001")]
    return {document.id: (document.version, document.seq_no) for document in index.documents.values()}


def replayed(seed: int, rewrite: Callable[[str, bytes], bytes] = lambda path, body: body, **options: Any) -> bool:
    """A life without a purge; then the engine is started anew and everything comes again. Is every document left alone?"""
    life = Life(seed, **options)

    async def run() -> bool:
        life.transport = Direct(life.engine)
        life.transport.rewrite = rewrite
        async with sink(life.transport, **options) as one:
            await one.write([change for _, change in life.commits])
            before = written(life)
            life.engine.restart()
            for _, change in life.random.sample(life.commits, len(life.commits)):
                await one.write([change])
            return written(life) == before

    return virtual.run(run())


@pytest.mark.parametrize("mode", ["external", "scripted"])
def test_a_replay_of_the_whole_stream_changes_no_document(mode: str) -> None:
    assert all(replayed(seed, mode=mode) for seed in range(50))


def test_with_gte_for_gt_a_replay_writes_documents_anew() -> None:
    """Control: the mutant that takes an equal version for a newer one."""
    assert not replayed(1, lambda path, body: body.replace(b'"version_type":"external"', b'"version_type":"external_gte"'))
    assert not replayed(1, lambda path, body: body.replace(b"__cdc.version >", b"__cdc.version >="), mode="scripted")
