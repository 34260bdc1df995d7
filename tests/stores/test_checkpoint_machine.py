"""Checkpoints against a simple model: commits that move on and back, memories, words, forgotten shards, reopenings."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from dsqlcdc.core.ports import Commit, Memory, Name
from dsqlcdc.core.records import END, TRIM_HORIZON, Mark, Position
from dsqlcdc.errors import Misconfigured
from dsqlcdc.stores import sqlite_checkpoints
from dsqlcdc.stores.memory_checkpoints import MemoryCheckpoints
from dsqlcdc.stores.sqlite_checkpoints import SqliteCheckpoints

T = TypeVar("T")
NAMES = [Name("p", sink, stream) for sink in ("a", "b") for stream in ("s@1", "s@2")]
# In their order; each position is told by its place in this list.
ORDER = [
    TRIM_HORIZON,
    Position("time", arrived=1.0),
    Position("time", arrived=2.0),
    *(Position("after", s) for s in ("9", "10", "100")),
    END,
]
PLACES = st.integers(0, len(ORDER) - 1)


class Checkpoints(RuleBasedStateMachine):
    durable = True

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory()
        self.memory = MemoryCheckpoints()
        self.store: SqliteCheckpoints | MemoryCheckpoints = self.open()
        self.marks: dict[Name, dict[str, int]] = {}
        self.words: dict[Name, bytes] = {}
        self.memories: dict[Name, list[Memory]] = {}

    def open(self) -> SqliteCheckpoints | MemoryCheckpoints:
        return SqliteCheckpoints(Path(self.directory.name) / "state.db") if self.durable else self.memory

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.run(self.store.close())
        self.loop.close()
        self.directory.cleanup()

    @rule(
        name=st.sampled_from(NAMES),
        places=st.dictionaries(st.sampled_from("xyz"), PLACES),
        newest=st.none() | st.integers(0, 9),
        horizon=st.integers(0, 9),
        word=st.none() | st.binary(max_size=3),
        forget=st.sets(st.sampled_from("xyz"), max_size=1),
    )
    def commit(self, name: Name, places: dict[str, int], newest: int | None, horizon: int, word: bytes | None, forget: set[str]) -> None:
        memory = None if newest is None else Memory("ids", float(newest), bytes([newest]))
        marks = {shard: Mark(ORDER[place], 5.0) for shard, place in places.items()}
        commit = Commit(marks, memory, float(horizon), word, tuple(forget))
        stored = self.marks.get(name, {})
        if any(place < stored.get(shard, 0) for shard, place in places.items()):
            with pytest.raises(Misconfigured, match="E205"):
                self.run(self.store.commit(name, commit))
            return
        self.run(self.store.commit(name, commit))
        self.marks[name] = {shard: place for shard, place in {**stored, **places}.items() if shard not in forget}
        self.words[name] = self.words.get(name, b"") if word is None else word
        memories = [*self.memories.get(name, []), *([memory] if memory else [])]
        self.memories[name] = [memory for memory in memories if memory.newest >= horizon]

    @rule()
    def reopen(self) -> None:
        self.run(self.store.close())
        self.store = self.open()

    @invariant()
    def what_was_committed_is_there(self) -> None:
        assert set(self.run(self.store.names())) == set(self.marks)
        for name in NAMES:
            found = self.run(self.store.load(name))
            if name not in self.marks:
                assert found is None
                continue
            assert found is not None
            assert dict(found.marks) == {shard: Mark(ORDER[place], 5.0) for shard, place in self.marks[name].items()}
            assert found.word == self.words[name]
            assert list(found.memories) == (self.memories[name] if self.store.remembers else [])


class InMemory(Checkpoints):
    durable = False


SETTINGS = settings(max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck), database=None)


def test_checkpoints_in_sqlite_agree_with_the_model() -> None:
    run_state_machine_as_test(Checkpoints, settings=SETTINGS)


def test_checkpoints_in_memory_agree_with_the_model() -> None:
    run_state_machine_as_test(InMemory, settings=settings(SETTINGS, max_examples=60))


def test_a_store_that_compares_sequence_numbers_as_text_disagrees_with_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def advance(name: Name, stored: dict[str, Mark], marks: dict[str, Mark]) -> dict[str, Mark]:
        for shard, mark in marks.items():
            if shard in stored and mark.position.sequence < stored[shard].position.sequence:
                raise Misconfigured("back", code="E205")
        return marks

    monkeypatch.setattr(sqlite_checkpoints, "advance", advance)
    hunt = settings(SETTINGS, max_examples=200, derandomize=True, phases=[Phase.generate], report_multiple_bugs=False, print_blob=False)
    with pytest.raises((AssertionError, Misconfigured, pytest.fail.Exception)):
        run_state_machine_as_test(Checkpoints, settings=hunt)
