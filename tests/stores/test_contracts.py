"""Every store keeps the published laws; a store that breaks one is caught."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from dsqlcdc.core.ports import CheckpointStore, Commit, DeadLetter, DeadLetterStore, FragmentStore, Gap, Name, Part
from dsqlcdc.core.records import Mark
from dsqlcdc.stores import letters, parking, pieces
from dsqlcdc.stores.files import FileDeadLetters
from dsqlcdc.stores.fragments import MemoryFragments, SqliteFragments
from dsqlcdc.stores.memory_checkpoints import MemoryCheckpoints
from dsqlcdc.stores.sqlite_checkpoints import SqliteCheckpoints
from dsqlcdc.testing.stores import (
    check_checkpoint_store,
    check_dead_letter_store,
    check_fragment_store,
    check_letter_box,
    check_resettable_store,
)


def checkpoints(kind: str, path: Path) -> Callable[[], CheckpointStore]:
    memory = MemoryCheckpoints()
    return (lambda: memory) if kind == "memory" else (lambda: SqliteCheckpoints(path / "new" / "state.db"))


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_checkpoint_stores_keep_the_contract(kind: str, tmp_path: Path) -> None:
    await check_checkpoint_store(checkpoints(kind, tmp_path))


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_fragment_stores_keep_the_contract(kind: str, tmp_path: Path) -> None:
    def make(sinks: Sequence[str]) -> FragmentStore:
        return MemoryFragments(sinks) if kind == "memory" else SqliteFragments(tmp_path / "new" / "fragments.db", sinks)

    await check_fragment_store(make)


async def test_dead_letter_files_keep_the_contract(tmp_path: Path) -> None:
    def make() -> DeadLetterStore:
        return FileDeadLetters(tmp_path / "new" / "letters", "abc")

    await check_dead_letter_store(make)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_checkpoints_are_reset_by_the_contract(kind: str, tmp_path: Path) -> None:
    memory = MemoryCheckpoints()
    await check_resettable_store((lambda: memory) if kind == "memory" else (lambda: SqliteCheckpoints(tmp_path / "state.db")))


async def test_dead_letter_files_are_dealt_with_by_the_contract(tmp_path: Path) -> None:
    await check_letter_box(lambda: FileDeadLetters(tmp_path / "letters"))


class ResetsWithoutTheWord(SqliteCheckpoints):
    async def reset(self, name: Name, marks: Mapping[str, Mark], *, gaps: Sequence[Gap] = (), forget: bool = False) -> None:
        stored = await self.load(name)
        await super().reset(name, marks, gaps=gaps, forget=forget)
        await self.commit(name, Commit({}, word=stored.word if stored else b""))


class ResetsBesideARunner(SqliteCheckpoints):
    async def reset(self, name: Name, marks: Mapping[str, Mark], *, gaps: Sequence[Gap] = (), forget: bool = False) -> None:
        await self.hold(name)
        await super().reset(name, marks, gaps=gaps, forget=forget)


@pytest.mark.parametrize("broken", [ResetsWithoutTheWord, ResetsBesideARunner])
async def test_a_reset_that_breaks_a_law_is_caught(broken: type[SqliteCheckpoints], tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        await check_resettable_store(lambda: broken(tmp_path / "state.db"))


class CountsNothing(FileDeadLetters):
    async def tried(self, name: str, code: str, detail: str, at: float) -> None:
        return


class KeepsListing(FileDeadLetters):
    async def close_letter(
        self, name: str, folder: Literal["replayed", "discarded"], outcome: str, reason: str, at: float, *, keep: bool = False
    ) -> bool:
        letter = await self.letter(name)
        moved = await super().close_letter(name, folder, outcome, reason, at, keep=keep)
        await self.put(letter)
        return moved


@pytest.mark.parametrize("broken", [CountsNothing, KeepsListing])
async def test_a_letter_box_that_breaks_a_law_is_caught(broken: type[FileDeadLetters], tmp_path: Path) -> None:
    with pytest.raises((AssertionError, KeyError)):
        await check_letter_box(lambda: broken(tmp_path / "letters"))


# What the kit must catch: stores with one law broken.


class ForgetsWord(SqliteCheckpoints):
    async def commit(self, name: Name, commit: Commit) -> None:
        await super().commit(name, Commit(commit.marks, commit.memory, commit.horizon, commit.word or b"", commit.forget))


class MovesBack(SqliteCheckpoints):
    async def commit(self, name: Name, commit: Commit) -> None:
        await super().commit(name, Commit({}, forget=tuple(commit.marks)))
        await super().commit(name, commit)


class KeepsHalf(SqliteCheckpoints):
    """Stores the memory, then the marks: a refused commit leaves the memory."""

    async def commit(self, name: Name, commit: Commit) -> None:
        await super().commit(name, Commit({}, commit.memory, commit.horizon))
        await super().commit(name, Commit(commit.marks, None, commit.horizon, commit.word, commit.forget))


class NobodyHolds(SqliteCheckpoints):
    async def hold(self, name: Name) -> None:
        return None


class ForgetsAcks(SqliteCheckpoints):
    async def ack_gap(self, pipeline: str, id: str, reason: str, at: float) -> object:  # type: ignore[override]
        return {gap.id: gap for gap in await self.gaps(pipeline)}[id]


class MovesEnds(SqliteCheckpoints):
    async def end_gap(self, pipeline: str, id: str, *, until: str, to_time: float) -> Gap:
        ended = await super().end_gap(pipeline, id, until=until, to_time=to_time)
        return msgspec.structs.replace(ended, until=until, to_time=to_time)


@pytest.mark.parametrize("mutant", [ForgetsWord, MovesBack, KeepsHalf, NobodyHolds, ForgetsAcks, MovesEnds])
async def test_a_checkpoint_store_that_breaks_a_law_is_caught(mutant: type[SqliteCheckpoints], tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        await check_checkpoint_store(lambda: mutant(tmp_path / "state.db"))


def _drops_markers(connection: sqlite3.Connection, sink: int, row: str) -> None:
    parking_done(connection, sink, row)
    connection.execute("DELETE FROM done WHERE NOT EXISTS (SELECT 1 FROM part WHERE part.grp = done.grp)")


def _drops_at_once(connection: sqlite3.Connection, sink: int, row: str) -> None:
    parking_done(connection, sink, row)
    parking.drop(connection, row)


def _sticky_verdict(connection: sqlite3.Connection, grp: str, part: Part, *, replaced: int, new: bool) -> None:
    flags = connection.execute("SELECT grp, sink FROM judged").fetchall()
    parking_store(connection, grp, part, replaced=replaced, new=new)
    connection.executemany("INSERT OR IGNORE INTO judged VALUES (?, ?)", flags)


def _counts_twice(connection: sqlite3.Connection, chunk_id: str, index: int) -> None:
    return None


parking_done = parking.done
parking_store = parking._store  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(
    ("module", "name", "mutant"),
    [
        (parking, "done", _drops_markers),
        (parking, "done", _drops_at_once),
        (parking, "_store", _sticky_verdict),
        (pieces, "stored", _counts_twice),
        (parking, "refusal", lambda connection, part: ""),
    ],
)
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_fragment_store_that_breaks_a_law_is_caught(
    module: object, name: str, mutant: object, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, mutant)

    def make(sinks: Sequence[str]) -> FragmentStore:
        return MemoryFragments(sinks) if kind == "memory" else SqliteFragments(tmp_path / "fragments.db", sinks)

    with pytest.raises((AssertionError, sqlite3.IntegrityError)):
        await check_fragment_store(make)


@pytest.mark.parametrize("flaw", ["sink everywhere", "sink nowhere", "bytes"])
async def test_a_dead_letter_store_that_breaks_a_law_is_caught(flaw: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name_of, encode = letters.name_of, letters.encode

    def misnamed(letter: DeadLetter) -> str:
        name = name_of(letter)
        return name[name.index("dt=") :] if flaw == "sink nowhere" else f"{len(letter.raw)}{name}" if flaw == "sink everywhere" else name

    def damaged(letter: DeadLetter, *, version: str, config_sha256: str) -> bytes:
        raw = letter.raw.decode("utf-8", "replace").encode() if flaw == "bytes" else letter.raw
        fields = {name: getattr(letter, name) for name in letter.__struct_fields__}
        return encode(DeadLetter(**{**fields, "raw": raw}), version=version, config_sha256=config_sha256)

    monkeypatch.setattr(letters, "name_of", misnamed)
    monkeypatch.setattr(letters, "encode", damaged)
    with pytest.raises(AssertionError):
        await check_dead_letter_store(lambda: FileDeadLetters(tmp_path))
