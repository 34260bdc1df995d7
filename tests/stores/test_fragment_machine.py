"""Fragments against a simple model: any order of adds, repeats, verdicts, done marks and reopenings, by two sinks."""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from dsqlcdc.core.ports import FragmentStore, Parked, Part
from dsqlcdc.stores import parking, s3_parts
from dsqlcdc.stores.fragments import MemoryFragments, SqliteFragments
from dsqlcdc.stores.s3_fragments import S3Fragments
from dsqlcdc.testing.stores import cut

from .bucket import Bucket, FakeObjects

T = TypeVar("T")
SINKS = ("a", "b")
ROWS = {
    "one": cut("one", {"after": [b"{}"]}, arrived=10.0),
    "two": cut("two", {"after": [b"{", b"}"]}, arrived=20.0),
    "both": cut("both", {"after": [b"{", b"}"], "before": [b"{}"]}, arrived=30.0),
}
PARTS = [(row, part) for row, parts in ROWS.items() for part in parts]


class Fragments(RuleBasedStateMachine):
    """The model: which parts are stored, what each sink is done with, and which (group, parts) each sink has judged."""

    durable = True

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory()
        self.stored: set[tuple[str, int]] = set()
        self.done: set[tuple[str, str]] = set()
        self.judged: set[tuple[str, str]] = set()
        self.mains: set[str] = set()
        self.store = self.open()

    def open(self) -> FragmentStore:
        return SqliteFragments(Path(self.directory.name) / "f.db", SINKS) if self.durable else MemoryFragments(SINKS)

    def teardown(self) -> None:
        self.run(self.store.close())
        self.loop.close()
        self.directory.cleanup()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def group(self, row: str, part: Part) -> str:
        return row if row in self.mains else part.chunk_id

    def complete(self, row: str) -> bool:
        return all((part.chunk_id, part.index) in self.stored for part in ROWS[row])

    @rule(which=st.sampled_from(PARTS), sink=st.sampled_from(SINKS))
    def add(self, which: tuple[str, Part], sink: str) -> None:
        row, part = which
        answer = self.run(self.store.add(sink, part))
        known = row in self.mains or part.index == -1
        if known and (sink, row) in self.done:
            assert answer == Parked("done", row)
            return
        if part.index == -1:
            self.mains.add(row)
        place = (part.chunk_id, part.index)
        if place not in self.stored:
            self.stored.add(place)
            groups = {self.group(row, other) for other in ROWS[row]} if part.index == -1 else {self.group(row, part)}
            gone = groups | ({other.chunk_id for other in ROWS[row]} if part.index == -1 else set())
            self.judged -= {(s, g) for s in SINKS for g in gone}
        assert answer == Parked("complete" if self.complete(row) else "waiting", row if known else "")

    @rule(row=st.sampled_from(sorted(ROWS)), sink=st.sampled_from(SINKS))
    def finish(self, row: str, sink: str) -> None:
        if not self.complete(row):
            return
        self.run(self.store.done(sink, [row]))
        self.done.add((sink, row))
        if all((s, row) in self.done for s in SINKS):
            self.stored -= {(part.chunk_id, part.index) for part in ROWS[row]}

    @rule(sink=st.sampled_from(SINKS), before=st.sampled_from([15.0, 25.0, math.inf]), judge=st.booleans())
    def judge(self, sink: str, before: float, judge: bool) -> None:
        found = self.run(self.store.overdue(sink, before))
        expected = {
            (part.chunk_id, part.index)
            for row, part in PARTS
            if (part.chunk_id, part.index) in self.stored
            and not self.complete(row)
            and part.arrived < before
            and (sink, self.group(row, part)) not in self.judged
        }
        assert {(part.chunk_id, part.index) for part in found} == expected
        assert len(found) == len(expected)
        assert all(part in [p for _, p in PARTS] for part in found)
        if judge:
            self.run(self.store.judged(sink, sorted({part.chunk_id for part in found})))
            self.judged |= {(sink, self.group(row, part)) for row, part in PARTS if (part.chunk_id, part.index) in expected}

    @precondition(lambda self: self.durable)
    @rule()
    def reopen(self) -> None:
        self.run(self.store.close())
        self.store = self.open()

    @invariant()
    def what_is_stored_is_there(self) -> None:
        waiting = [part for row, part in PARTS if (part.chunk_id, part.index) in self.stored and not self.complete(row)]
        assert self.run(self.store.waiting()) == (len(waiting), sum(len(part.raw) for part in waiting))
        for row, parts in ROWS.items():
            whole = [parts[0], *sorted(parts[1:], key=lambda part: (part.chunk_id, part.index))]
            assert list(self.run(self.store.row(row))) == (whole if self.complete(row) else [])


class InMemory(Fragments):
    durable = False


class InS3(Fragments):
    """A process of its own after each reopening."""

    def open(self) -> FragmentStore:
        self.bucket = getattr(self, "bucket", None) or Bucket()
        return S3Fragments(FakeObjects(self.bucket), SINKS, every=0.0)


SETTINGS = settings(max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), database=None)


# Any failure will do: neither shrunk nor collected.
HUNT = settings(SETTINGS, max_examples=400, derandomize=True, print_blob=False, phases=[Phase.generate], report_multiple_bugs=False)


def test_durable_fragments_agree_with_the_model() -> None:
    run_state_machine_as_test(Fragments, settings=settings(SETTINGS, max_examples=15))


def test_fragments_in_s3_agree_with_the_model() -> None:
    run_state_machine_as_test(InS3, settings=settings(SETTINGS, max_examples=40))


def test_fragments_in_memory_agree_with_the_model() -> None:
    run_state_machine_as_test(InMemory, settings=settings(SETTINGS, max_examples=60))


@pytest.mark.parametrize("mutant", ["markers of others", "verdicts stick"])
def test_broken_fragments_in_s3_disagree_with_the_model(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mutant == "verdicts stick":
        monkeypatch.setattr(s3_parts.Group, "fingerprint", "all")
    else:
        true_marks = S3Fragments._marks

        async def marks(self: S3Fragments, chunk: str) -> frozenset[str]:
            found = await true_marks(self, chunk)
            return found | set(SINKS) if found & set(SINKS) else found

        monkeypatch.setattr(S3Fragments, "_marks", marks)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(InS3, settings=HUNT)


@pytest.mark.parametrize("mutant", ["no markers", "verdicts stick", "last sink is not waited for"])
def test_a_broken_fragment_store_disagrees_with_the_model(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true_done, true_store = parking.done, parking._store  # pyright: ignore[reportPrivateUsage]

    def done(connection: Any, sink: int, row: str) -> None:
        true_done(connection, sink, row)
        if mutant == "no markers":
            connection.execute("DELETE FROM done")
        else:
            parking.drop(connection, row)

    def store(connection: Any, grp: str, part: Part, *, replaced: int, new: bool) -> None:
        flags = connection.execute("SELECT grp, sink FROM judged").fetchall()
        true_store(connection, grp, part, replaced=replaced, new=new)
        connection.executemany("INSERT OR IGNORE INTO judged VALUES (?, ?)", flags)

    monkeypatch.setattr(parking, *(("_store", store) if mutant == "verdicts stick" else ("done", done)))
    with pytest.raises(AssertionError):
        run_state_machine_as_test(InMemory, settings=HUNT)
