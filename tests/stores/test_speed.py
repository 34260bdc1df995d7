"""Checkpoints are quick enough to be taken often and to begin from at once, and large pieces do not hold up the rest."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import pytest

from dsqlcdc.core.ports import Commit, Memory, Name
from dsqlcdc.core.records import Mark, Position
from dsqlcdc.stores.fragments import SqliteFragments
from dsqlcdc.stores.sqlite_checkpoints import SqliteCheckpoints
from dsqlcdc.testing.stores import cut

pytestmark = pytest.mark.bench

NAME = Name("pipe", "lake", "s")


async def test_ten_thousand_ids_are_committed_in_20_ms_and_a_million_loaded_in_300(tmp_path: Path) -> None:
    store, spans = SqliteCheckpoints(tmp_path / "state.db"), []
    await store.hold(NAME)
    for at in range(1, 101):
        marks = {f"shardId-{shard:012}": Mark(Position("after", str(at)), float(at)) for shard in range(64)}
        commit = Commit(marks, Memory("ids", float(at), os.urandom(160_000)), horizon=0.0, word=b"word")
        started = time.perf_counter()
        await store.commit(NAME, commit)
        spans.append(time.perf_counter() - started)
    await store.close()
    started = time.perf_counter()
    found = await store.load(NAME)
    loading = time.perf_counter() - started
    await store.close()
    assert found is not None
    assert sum(len(memory.blob) for memory in found.memories) == 16_000_000
    print(f"commit {1000 * statistics.median(spans):.1f} ms, load {1000 * loading:.1f} ms")
    assert statistics.median(spans) < 0.020
    assert loading < 0.300


async def test_a_row_of_20_mib_is_parked_and_read_back_in_3_seconds(tmp_path: Path) -> None:
    store = SqliteFragments(tmp_path / "f.db", ["a", "b"])
    parts = cut("big", {"after": [b'{"a":"' + b"x" * 10_000_000, b"y" * 10_000_000]})
    started = time.perf_counter()
    for part in parts:
        await store.add("a", part)
    adding = time.perf_counter()
    for part in parts:
        await store.add("b", part)
    repeating = time.perf_counter()
    assert len(await store.row("big")) == 3
    reading = time.perf_counter()
    await store.close()
    print(f"add {adding - started:.3f} s, repeat {repeating - adding:.3f} s, read {reading - repeating:.3f} s")
    assert reading - started < 3.0
