"""Checkpoints in one SQLite file: marks, memories, the sink's word and gaps, each commit whole or not at all."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path

import msgspec

from dsqlcdc.core.ports import Checkpoint, Commit, Gap, Memory, Name
from dsqlcdc.core.records import Mark, Position
from dsqlcdc.errors import Misconfigured
from dsqlcdc.stores.database import Database, Layout
from dsqlcdc.stores.hold import RunnerLock, not_held
from dsqlcdc.stores.memory_checkpoints import acknowledged, ended
from dsqlcdc.stores.progress import advance

LAYOUT = Layout(
    what="state file",
    mark=0x44434B50,  # "DCKP"
    steps=(
        (
            "CREATE TABLE checkpoint (id INTEGER PRIMARY KEY, pipeline TEXT NOT NULL, sink TEXT NOT NULL, stream TEXT NOT NULL, "
            "word BLOB NOT NULL DEFAULT x'', UNIQUE (pipeline, sink, stream))",
            "CREATE TABLE mark (checkpoint INTEGER NOT NULL, shard TEXT NOT NULL, kind TEXT NOT NULL, sequence TEXT NOT NULL, "
            "position_arrived REAL NOT NULL, arrived REAL NOT NULL, PRIMARY KEY (checkpoint, shard)) WITHOUT ROWID",
            "CREATE TABLE memory (id INTEGER PRIMARY KEY AUTOINCREMENT, checkpoint INTEGER NOT NULL, newest REAL NOT NULL, "
            "kind TEXT NOT NULL, blob BLOB NOT NULL)",
            "CREATE INDEX memory_age ON memory (checkpoint, newest)",
            "CREATE TABLE gap (pipeline TEXT NOT NULL, id TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (pipeline, id))",
        ),
    ),
)

_gap = msgspec.json.Decoder(Gap).decode
_no_checkpoint: Checkpoint | None = None
_no_names: list[Name] = []
_no_gaps: list[Gap] = []


class SqliteCheckpoints:
    """A CheckpointStore in the file `path` (created with its directory by the first write; reading creates nothing).

    Several may be open on one file, in one process or many: a runner, which holds, and readers and short writers, which do not. With
    `read_only` every write is refused. `clock`: seconds since the epoch, written into the lock for people to read.
    Raises Unavailable (E210) when the file is locked or the disk full, Misconfigured (E202 to E206) when waiting will not help.
    A call that is cancelled is stored whole or not at all.
    """

    remembers = True

    def __init__(self, path: str | PathLike[str], *, read_only: bool = False, clock: Callable[[], float] = time.time) -> None:
        self._path = Path(path)
        self._read_only = read_only
        self._clock = clock
        self._database = Database(self._path, LAYOUT, read_only=read_only)
        self._locks: dict[tuple[str, str], RunnerLock] = {}

    async def hold(self, name: Name) -> None:
        """Become the one runner until `close`. A file that cannot be used is refused here. Raises Held (E201)."""
        if self._read_only:
            raise Misconfigured("The state file cannot be held", where=str(self._path), why="it was opened for reading only", code="E204")
        # Taken without a thread: a cancelled call could otherwise leave a lock that nobody knows of.
        lock = RunnerLock.take(self._path, name, self._clock())
        try:
            await self._database.write(lambda connection: None)
        except BaseException:
            lock.release()
            raise
        self._locks[name.pipeline, name.sink] = lock

    async def load(self, name: Name) -> Checkpoint | None:
        return await self._database.read(lambda connection: _load(connection, name), _no_checkpoint)

    async def commit(self, name: Name, commit: Commit) -> None:
        """Store, durably and atomically. Raises Misconfigured (E205) when a mark would move back: then nothing is stored."""
        await self._database.write(lambda connection: _commit(connection, name, commit))

    async def reset(self, name: Name, marks: Mapping[str, Mark], *, gaps: Sequence[Gap] = (), forget: bool = False) -> None:
        """See ResettableStore.reset."""
        if (name.pipeline, name.sink) not in self._locks:
            raise not_held(name)
        await self._database.write(lambda connection: _reset(connection, name, marks, gaps, forget))

    async def names(self) -> Sequence[Name]:
        return await self._database.read(_names, _no_names)

    async def record_gap(self, gap: Gap) -> Gap:
        return await self._database.write(lambda connection: _record_gap(connection, gap))

    async def gaps(self, pipeline: str) -> Sequence[Gap]:
        """The pipeline's gaps, in the order in which they were found."""
        return await self._database.read(lambda connection: _gaps(connection, pipeline), _no_gaps)

    async def ack_gap(self, pipeline: str, id: str, reason: str, at: float) -> Gap:
        """Acknowledge. Raises KeyError for an unknown id, ValueError for an empty reason; creates no file."""
        if not await asyncio.to_thread(self._path.exists):
            raise KeyError((pipeline, id))
        return await self._database.write(lambda connection: _ack_gap(connection, pipeline, id, reason, at))

    async def end_gap(self, pipeline: str, id: str, *, until: str, to_time: float) -> Gap:
        """See CheckpointStore.end_gap. Creates no file."""
        if not await asyncio.to_thread(self._path.exists):
            raise KeyError((pipeline, id))
        return await self._database.write(lambda connection: _end_gap(connection, pipeline, id, until, to_time))

    async def close(self) -> None:
        """Close the file and let go of what is held. Twice is no error."""
        try:
            await self._database.close()
        finally:
            locks, self._locks = self._locks, {}
            for lock in locks.values():
                lock.release()


def _id(connection: sqlite3.Connection, name: Name) -> int | None:
    row = connection.execute(
        "SELECT id FROM checkpoint WHERE pipeline = ? AND sink = ? AND stream = ?", (name.pipeline, name.sink, name.stream)
    ).fetchone()
    return None if row is None else row[0]


def _load(connection: sqlite3.Connection, name: Name) -> Checkpoint | None:
    id = _id(connection, name)
    if id is None:
        return None
    memories = connection.execute("SELECT kind, newest, blob FROM memory WHERE checkpoint = ? ORDER BY id", (id,))
    word = connection.execute("SELECT word FROM checkpoint WHERE id = ?", (id,)).fetchone()[0]
    return Checkpoint(marks=_marks(connection, id), memories=tuple(Memory(*row) for row in memories), word=word)


def _marks(connection: sqlite3.Connection, id: int) -> dict[str, Mark]:
    rows = connection.execute("SELECT shard, kind, sequence, position_arrived, arrived FROM mark WHERE checkpoint = ?", (id,))
    return {shard: Mark(Position(kind, sequence, place), arrived) for shard, kind, sequence, place, arrived in rows}


def _commit(connection: sqlite3.Connection, name: Name, commit: Commit) -> None:
    id = _id(connection, name)
    if id is None:
        cursor = connection.execute(
            "INSERT INTO checkpoint (pipeline, sink, stream) VALUES (?, ?, ?)", (name.pipeline, name.sink, name.stream)
        )
        assert cursor.lastrowid is not None
        id = cursor.lastrowid
    marks = advance(name, _marks(connection, id), commit.marks)
    _put_marks(connection, id, marks)
    connection.executemany("DELETE FROM mark WHERE checkpoint = ? AND shard = ?", [(id, shard) for shard in commit.forget])
    if commit.memory is not None:
        connection.execute(
            "INSERT INTO memory (checkpoint, newest, kind, blob) VALUES (?, ?, ?, ?)",
            (id, commit.memory.newest, commit.memory.kind, commit.memory.blob),
        )
    connection.execute("DELETE FROM memory WHERE checkpoint = ? AND newest < ?", (id, commit.horizon))
    if commit.word is not None:
        connection.execute("UPDATE checkpoint SET word = ? WHERE id = ?", (commit.word, id))


def _put_marks(connection: sqlite3.Connection, id: int, marks: Mapping[str, Mark]) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO mark VALUES (?, ?, ?, ?, ?, ?)",
        [(id, shard, m.position.kind, m.position.sequence, m.position.arrived, m.arrived) for shard, m in marks.items()],
    )


def _reset(connection: sqlite3.Connection, name: Name, marks: Mapping[str, Mark], gaps: Sequence[Gap], forget: bool) -> None:
    id = _id(connection, name)
    if id is None:
        raise KeyError(name)
    _put_marks(connection, id, marks)
    connection.execute("UPDATE checkpoint SET word = x'' WHERE id = ?", (id,))
    if forget:
        connection.execute("DELETE FROM memory WHERE checkpoint = ?", (id,))
    for gap in gaps:
        _record_gap(connection, gap)


def _names(connection: sqlite3.Connection) -> list[Name]:
    return [Name(*row) for row in connection.execute("SELECT pipeline, sink, stream FROM checkpoint ORDER BY id")]


def _find_gap(connection: sqlite3.Connection, pipeline: str, id: str) -> Gap | None:
    row = connection.execute("SELECT body FROM gap WHERE pipeline = ? AND id = ?", (pipeline, id)).fetchone()
    return None if row is None else _gap(row[0])


def _record_gap(connection: sqlite3.Connection, gap: Gap) -> Gap:
    stored = _find_gap(connection, gap.pipeline, gap.id)
    if stored is None:
        connection.execute("INSERT INTO gap VALUES (?, ?, ?)", (gap.pipeline, gap.id, msgspec.json.encode(gap)))
    return stored or gap


def _gaps(connection: sqlite3.Connection, pipeline: str) -> list[Gap]:
    gaps = [_gap(body) for (body,) in connection.execute("SELECT body FROM gap WHERE pipeline = ?", (pipeline,))]
    return sorted(gaps, key=lambda gap: (gap.found_at, gap.id))


def _ack_gap(connection: sqlite3.Connection, pipeline: str, id: str, reason: str, at: float) -> Gap:
    gap = _find_gap(connection, pipeline, id)
    if gap is None:
        raise KeyError((pipeline, id))
    if not gap.acked:
        gap = acknowledged(gap, reason, at)
        _put_gap(connection, gap)
    return gap


def _end_gap(connection: sqlite3.Connection, pipeline: str, id: str, until: str, to_time: float) -> Gap:
    gap = _find_gap(connection, pipeline, id)
    if gap is None:
        raise KeyError((pipeline, id))
    gap = ended(gap, until, to_time)
    _put_gap(connection, gap)
    return gap


def _put_gap(connection: sqlite3.Connection, gap: Gap) -> None:
    connection.execute("UPDATE gap SET body = ? WHERE pipeline = ? AND id = ?", (msgspec.json.encode(gap), gap.pipeline, gap.id))
