"""A store's file: created late, migrated, refused when it is newer, foreign or damaged; faults in plain words."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from dsqlcdc.core.ports import Commit, Gap, Memory, Name, Part
from dsqlcdc.core.records import Mark, Position
from dsqlcdc.errors import Fault, Misconfigured, Unavailable
from dsqlcdc.stores import database, pieces, sqlite_checkpoints
from dsqlcdc.stores.database import Database, Layout
from dsqlcdc.stores.fragments import SqliteFragments
from dsqlcdc.stores.sqlite_checkpoints import SqliteCheckpoints

NAME = Name("pipe", "lake", "s")
COMMIT = Commit({"shard": Mark(Position("after", "5"))}, Memory("ids", 1.0, b"x" * 16))
PART = Part("row", 0, b"raw", b"text", "shard", "1", 1.0)


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def sql(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


async def test_reading_what_is_missing_creates_nothing(tmp_path: Path) -> None:
    for read_only in (True, False):
        store = SqliteCheckpoints(tmp_path / "no" / "state.db", read_only=read_only)
        assert await store.load(NAME) is None
        assert not await store.gaps("pipe")
        assert not await store.names()
        with pytest.raises(KeyError):
            await store.ack_gap("pipe", "g", "reason", 1.0)
        await store.close()
    fragments = SqliteFragments(tmp_path / "no" / "fragments.db", ["a"])
    assert await fragments.waiting() == (0, 0)
    assert not await fragments.overdue("a", 1.0)
    await fragments.close()
    assert files(tmp_path) == []


async def test_a_closed_store_leaves_one_file_and_opens_again(tmp_path: Path) -> None:
    store = SqliteCheckpoints(tmp_path / "state.db")
    await store.commit(NAME, COMMIT)
    await store.close()
    reader = SqliteCheckpoints(tmp_path / "state.db", read_only=True)
    assert await reader.load(NAME) is not None
    with pytest.raises(Misconfigured, match=r"E204.*for reading only"):
        await reader.commit(NAME, COMMIT)
    with pytest.raises(Misconfigured, match=r"E204.*for reading only"):
        await reader.hold(NAME)
    await reader.close()
    assert files(tmp_path) == ["state.db"]
    assert await store.load(NAME) is not None
    await store.close()


async def test_a_reader_sees_whole_commits_beside_a_runner(tmp_path: Path) -> None:
    runner, reader = SqliteCheckpoints(tmp_path / "state.db"), SqliteCheckpoints(tmp_path / "state.db", read_only=True)
    await runner.hold(NAME)
    for at in range(1, 40):
        commit = Commit({s: Mark(Position("after", str(at))) for s in ("x", "y")}, word=str(at).encode())
        _, found = await asyncio.gather(runner.commit(NAME, commit), reader.load(NAME))
        if found is not None:
            assert {mark.position.sequence for mark in found.marks.values()} == {found.word.decode()}
    await runner.close()
    await reader.close()


ONE = ("CREATE TABLE pet (name TEXT)",)
TWO = ("ALTER TABLE pet ADD COLUMN legs INTEGER NOT NULL DEFAULT 4", "INSERT INTO pet (name) VALUES ('made by step two')")
OLD, NEW = Layout("zoo", 0x5A4F4F, (ONE,)), Layout("zoo", 0x5A4F4F, (ONE, TWO))


def pets(connection: sqlite3.Connection) -> list[tuple[str, int]]:
    return connection.execute("SELECT name, legs FROM pet").fetchall()


async def test_an_older_format_is_migrated_step_by_step(tmp_path: Path) -> None:
    path = tmp_path / "zoo.db"
    sql(path, *ONE, "INSERT INTO pet VALUES ('hand-made')", "PRAGMA application_id=5918543", "PRAGMA user_version=1")
    with pytest.raises(Misconfigured, match=r"E202.*its format is 1, older than 2: the next run brings it up to date"):
        await Database(path, NEW, read_only=True).read(pets, [])
    for _ in range(2):
        new = Database(path, NEW)
        assert await new.read(pets, []) == [("hand-made", 4), ("made by step two", 4)]
        await new.close()


async def test_a_migration_that_fails_leaves_the_old_format(tmp_path: Path) -> None:
    path = tmp_path / "zoo.db"
    await Database(path, OLD).write(lambda c: c.execute("INSERT INTO pet VALUES ('old')"))
    broken = Layout("zoo", 0x5A4F4F, (ONE, (*TWO, "INSERT INTO nowhere VALUES (1)")))
    with pytest.raises(Misconfigured, match="E203"):
        await Database(path, broken).write(lambda c: None)
    new = Database(path, NEW)
    assert [name for name, _ in await new.read(pets, [])] == ["old", "made by step two"]


async def test_a_process_stops_when_a_newer_one_has_migrated_its_file(tmp_path: Path) -> None:
    old, new = Database(tmp_path / "zoo.db", OLD), Database(tmp_path / "zoo.db", NEW)
    await old.write(lambda c: c.execute("INSERT INTO pet VALUES ('old')"))
    await new.write(lambda c: None)
    with pytest.raises(Misconfigured, match=r"E202.*its format became 2 while this dsqlcdc, which knows 1, ran"):
        await old.write(lambda c: c.execute("INSERT INTO pet (name) VALUES ('too late')"))
    assert len(await new.read(pets, [])) == 2


async def try_checkpoints(path: Path) -> None:
    store = SqliteCheckpoints(path)
    try:
        await store.hold(NAME)
        await store.commit(NAME, COMMIT)
        assert await store.load(NAME) is not None
    finally:
        await store.close()


async def try_fragments(path: Path) -> None:
    store = SqliteFragments(path, ["a"])
    try:
        await store.add("a", PART)
        assert await store.waiting() == (1, 3)
    finally:
        await store.close()


STORES = pytest.mark.parametrize(
    ("attempt", "layout"), [(try_checkpoints, sqlite_checkpoints.LAYOUT), (try_fragments, pieces.LAYOUT)], ids=["checkpoints", "fragments"]
)


@STORES
async def test_an_empty_file_is_version_0(attempt: object, layout: Layout, tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.touch()
    await attempt(path)  # type: ignore[operator]
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(layout.steps),)
    assert connection.execute("PRAGMA application_id").fetchone() == (layout.mark,)
    connection.close()


@STORES
async def test_a_newer_format_is_refused(attempt: object, layout: Layout, tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    await attempt(path)  # type: ignore[operator]
    sql(path, f"PRAGMA user_version={len(layout.steps) + 1}")
    with pytest.raises(
        Misconfigured, match=rf"E202 The {layout.what} cannot be used, .*x.db: its format is 2, this dsqlcdc knows 1: use a newer"
    ):
        await attempt(path)  # type: ignore[operator]


@STORES
@pytest.mark.parametrize("foreign", ["text", "other program", "other store", "damaged", "no table", "directory"])
async def test_a_file_that_is_not_ours_is_refused(attempt: object, layout: Layout, foreign: str, tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    if foreign == "text":
        path.write_text("pipeline: orders\n" * 100)
    elif foreign == "other program":
        sql(path, "CREATE TABLE theirs (x)")
    elif foreign == "other store":
        sql(path, "CREATE TABLE theirs (x)", "PRAGMA application_id=77", "PRAGMA user_version=1")
    elif foreign == "directory":
        path.mkdir()
    else:
        await attempt(path)  # type: ignore[operator]
        if foreign == "no table":
            sql(path, f"DROP TABLE {'mark' if layout is sqlite_checkpoints.LAYOUT else 'part'}")
        else:
            data = bytearray(path.read_bytes())
            data[200:] = b"\xff" * (len(data) - 200)
            path.write_bytes(data)
    before = path.read_bytes() if foreign in ("text", "other program") else b""
    with pytest.raises(Misconfigured) as caught:
        await attempt(path)  # type: ignore[operator]
    assert caught.value.code == ("E204" if foreign == "directory" else "E203")
    assert caught.value.why
    if before:
        assert path.read_bytes() == before


async def test_a_full_disk_is_unavailable_and_leaves_the_last_commit(tmp_path: Path) -> None:
    store = SqliteCheckpoints(tmp_path / "state.db")
    await store.commit(NAME, COMMIT)
    await store._database.write(lambda c: c.execute("PRAGMA max_page_count=20").fetchall())  # pyright: ignore[reportPrivateUsage]
    big = Commit({"shard": Mark(Position("after", "6"))}, Memory("ids", 2.0, b"x" * 1_000_000))
    with pytest.raises(Unavailable, match=r"E210.*the disk is full"):
        await store.commit(NAME, big)
    found = await store.load(NAME)
    assert found is not None
    assert found.marks == COMMIT.marks
    await store._database.write(lambda c: c.execute("PRAGMA max_page_count=20000").fetchall())  # pyright: ignore[reportPrivateUsage]
    await store.commit(NAME, big)
    await store.close()


async def test_a_locked_file_is_unavailable_and_then_serves_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_PATIENCE", 0.01)
    store = SqliteCheckpoints(tmp_path / "state.db")
    await store.commit(NAME, COMMIT)
    other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match=r"E210.*another process has it locked"):
        await store.commit(NAME, COMMIT)
    assert await store.load(NAME) is not None
    other.close()
    await store.commit(NAME, COMMIT)
    await store.close()


async def test_what_goes_into_a_removed_file_is_not_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = SqliteCheckpoints(path)
    await store.commit(NAME, COMMIT)
    path.unlink()
    with pytest.raises(Misconfigured, match=r"E204.*removed or replaced"):
        await store.commit(NAME, COMMIT)
    await store.close()


async def test_a_cancelled_commit_is_whole_and_the_next_waits_for_it(tmp_path: Path) -> None:
    store = SqliteCheckpoints(tmp_path / "state.db")
    await store.commit(NAME, COMMIT)
    for at in range(6, 26):
        task = asyncio.create_task(store.commit(NAME, Commit({"shard": Mark(Position("after", str(at)))}, word=str(at).encode())))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        found = await store.load(NAME)
        assert found is not None
        assert found.word in (b"", found.marks["shard"].position.sequence.encode())
    await store.close()


async def test_an_unreadable_sequence_number_is_refused(tmp_path: Path) -> None:
    store = SqliteCheckpoints(tmp_path / "state.db")
    for sequence in ("", "-1", "0x10", "1e3", "١"):
        with pytest.raises(Misconfigured, match="E206"):
            await store.commit(NAME, Commit({"shard": Mark(Position("after", sequence))}))
    await store.record_gap(Gap("g", "pipe", "lake", "s", "reset", "shard"))
    with pytest.raises(ValueError, match="reason"):
        await store.ack_gap("pipe", "g", "", 1.0)
    await store.close()


def test_every_result_code_of_sqlite_has_its_word() -> None:
    bugs = {"CONSTRAINT", "MISMATCH", "MISUSE", "RANGE", "TOOBIG", "INTERNAL", "NOTFOUND", "NOTICE", "WARNING"}
    store = Database(Path("x.db"), OLD)
    codes = {"ERROR", "PERM", "ABORT", "BUSY", "LOCKED", "NOMEM", "READONLY", "INTERRUPT", "IOERR", "CORRUPT", "FULL", "CANTOPEN"}
    codes |= {"PROTOCOL", "EMPTY", "SCHEMA", "NOLFS", "AUTH", "FORMAT", "NOTADB"} | bugs
    for name in codes:
        error = sqlite3.OperationalError(name)
        error.sqlite_errorcode = getattr(sqlite3, f"SQLITE_{name}") | 0x100
        fault = store._translate(error)  # pyright: ignore[reportPrivateUsage]
        assert (fault is None) == (name in bugs)
        assert fault is None or (isinstance(fault, Fault) and fault.why and fault.where)
