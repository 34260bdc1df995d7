"""One SQLite file as a store uses it: opened late, one connection, format versions, errors translated."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from dsqlcdc.errors import Fault, Misconfigured, Unavailable
from dsqlcdc.stores.durable import fault_of, make_directory

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

_PATIENCE = 5.0  # seconds that a statement waits for another process's lock

_PASSING = {
    sqlite3.SQLITE_BUSY: "another process has it locked",
    sqlite3.SQLITE_LOCKED: "another process has it locked",
    sqlite3.SQLITE_PROTOCOL: "another process has it locked",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk cannot be read or written",
    sqlite3.SQLITE_NOMEM: "the system is out of memory",
    sqlite3.SQLITE_INTERRUPT: "the operation was interrupted",
    sqlite3.SQLITE_ABORT: "the operation was interrupted",
}
_REFUSED = {
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened or created",
    sqlite3.SQLITE_PERM: "access is denied",
    sqlite3.SQLITE_AUTH: "access is denied",
    sqlite3.SQLITE_READONLY: "the file or its directory cannot be written",
    sqlite3.SQLITE_NOLFS: "the file system cannot hold a file of this size",
}
_DAMAGED = {
    sqlite3.SQLITE_NOTADB: "the file is not a database",
    sqlite3.SQLITE_CORRUPT: "the file is damaged",
    sqlite3.SQLITE_FORMAT: "the file is damaged",
    sqlite3.SQLITE_EMPTY: "the file is damaged",
    sqlite3.SQLITE_ERROR: "the file does not hold what it should",
    sqlite3.SQLITE_SCHEMA: "the file does not hold what it should",
}


class Layout(msgspec.Struct, frozen=True):
    """What a file holds. `what`: its word in messages. `mark`: SQLite's application_id, which tells our files from others'.

    `steps`: the statements that lead from each format version to the next. Version 0 is an empty file; the current version is len(steps).
    A step that has been released never changes.
    """

    what: str
    mark: int
    steps: Sequence[Sequence[str]]
    page_size: int = 4096


class Database:
    """A file (or, with path None, memory) behind one connection. Nothing is opened or created before the first call.

    A call that is cancelled goes on in its thread and is stored whole or not at all; the next call waits for it. Calls with path None
    run at once, without a thread. `opened` runs once on every new connection, in a transaction, when it may write.
    """

    def __init__(
        self, path: Path | None, layout: Layout, *, read_only: bool = False, opened: Callable[[sqlite3.Connection], object] | None = None
    ) -> None:
        self.path = path
        self._layout = layout
        self._read_only = read_only
        self._opened = opened
        self._guard = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    async def read(self, work: Work[T], missing: T) -> T:
        """Run `work` on one snapshot; `missing` is the answer where there is no file yet (none is made). Errors as `write`."""
        return await self._run(lambda: self._reading(work, missing))

    async def write(self, work: Work[T]) -> T:
        """Run `work` in one transaction: durable on return, undone when it raises.

        Raises Unavailable (E210: locked, disk full, I/O error) and Misconfigured (E202 newer or, read-only, older format; E203 not our file
        or damaged; E204 access).
        """
        return await self._run(lambda: self._writing(work))

    async def close(self) -> None:
        """Close the connection; a later call opens it anew. Closing twice is no error."""
        await self._run(self._close)

    async def _run(self, work: Callable[[], T]) -> T:
        return self._guarded(work) if self.path is None else await asyncio.to_thread(self._guarded, work)

    def _guarded(self, work: Callable[[], T]) -> T:
        with self._guard:
            try:
                return work()
            except sqlite3.Error as error:
                fault = self._translate(error)
                if fault is None:
                    raise
                raise fault from error
            except OSError as error:
                raise fault_of(error, f"The {self._layout.what} cannot be used", self._where) from error

    def _reading(self, work: Work[T], missing: T) -> T:
        connection = self._connect(reading=True)
        if connection is None:
            return missing
        connection.execute("BEGIN")
        try:
            return work(connection)
        finally:
            connection.execute("ROLLBACK")

    def _writing(self, work: Work[T]) -> T:
        if self._read_only:
            raise self._misconfigured("E204", "it was opened for reading only")
        connection = self._connect(reading=False)
        assert connection is not None

        def checked(connection: sqlite3.Connection) -> T:
            self._check_version(connection)
            return work(connection)

        answer = _transaction(connection, checked)
        self._check_still_there()
        return answer

    def _connect(self, reading: bool) -> sqlite3.Connection | None:
        if self._connection is not None:
            return self._connection
        if self.path is None:
            target = ":memory:"
        else:
            if not self.path.exists():
                if reading:
                    return None
                make_directory(self.path.parent)
            target = f"{self.path.absolute().as_uri()}?mode={'rw' if reading else 'rwc'}"
        connection = sqlite3.connect(target, uri=True, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            ready = self._prepare(connection, reading)
        except BaseException:
            connection.close()
            raise
        if not ready:
            connection.close()
            return None
        self._inode = 0 if self.path is None else os.stat(self.path).st_ino
        self._connection = connection
        return connection

    def _prepare(self, connection: sqlite3.Connection, reading: bool) -> bool:
        """Check the format, migrate, set the modes. False: the file holds nothing yet, and a reader leaves it so."""
        version, current = self._version(connection), len(self._layout.steps)
        if version < current:
            if version == 0 and reading:
                return False
            if self._read_only:
                raise self._misconfigured("E202", f"its format is {version}, older than {current}: the next run brings it up to date")
            connection.execute(f"PRAGMA page_size={self._layout.page_size}")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA fullfsync=ON")  # macOS: fsync alone does not reach the disk
        connection.execute("PRAGMA journal_size_limit=67108864")
        if self._read_only:
            connection.execute("PRAGMA query_only=ON")
            return True
        mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if self.path is not None and mode != "wal":
            raise self._misconfigured("E204", f"its file system cannot do write-ahead logging (journal mode {mode}); use a local disk")
        if version < current or self._opened is not None:
            _transaction(connection, self._migrate)
        return True

    def _migrate(self, connection: sqlite3.Connection) -> None:
        version = self._version(connection)
        for step in self._layout.steps[version:]:
            for statement in step:
                connection.execute(statement)
        if version < len(self._layout.steps):
            connection.execute(f"PRAGMA application_id={self._layout.mark}")
            connection.execute(f"PRAGMA user_version={len(self._layout.steps)}")
        if self._opened is not None:
            self._opened(connection)

    def _version(self, connection: sqlite3.Connection) -> int:
        mark: int = connection.execute("PRAGMA application_id").fetchone()[0]
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if mark == 0 and version == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            return 0
        if mark != self._layout.mark:
            raise self._misconfigured("E203", "the file belongs to another program or holds something else")
        if version > len(self._layout.steps):
            raise self._misconfigured("E202", f"its format is {version}, this dsqlcdc knows {len(self._layout.steps)}: use a newer dsqlcdc")
        return version

    def _check_version(self, connection: sqlite3.Connection) -> None:
        """A newer dsqlcdc may have migrated the file under us."""
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != len(self._layout.steps):
            raise self._misconfigured("E202", f"its format became {version} while this dsqlcdc, which knows {len(self._layout.steps)}, ran")

    def _check_still_there(self) -> None:
        """What goes into a file that was removed or replaced is lost with it: not durable."""
        if self.path is None:
            return
        try:
            same = os.stat(self.path).st_ino == self._inode
        except FileNotFoundError:
            same = False
        if not same:
            raise self._misconfigured("E204", "the file was removed or replaced while it was in use")

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _translate(self, error: sqlite3.Error) -> Fault | None:
        code: int | None = getattr(error, "sqlite_errorcode", None)
        if code is None:
            return None
        primary, what = code & 0xFF, f"The {self._layout.what} cannot be used"
        if primary in _PASSING:
            return Unavailable(what, where=str(self._where), why=_PASSING[primary], code="E210")
        if primary in _REFUSED:
            return self._misconfigured("E204", _REFUSED[primary])
        if primary in _DAMAGED:
            return self._misconfigured("E203", f"{_DAMAGED[primary]} ({error}); restore it, or move it away to begin anew")
        return None

    def _misconfigured(self, code: str, why: str) -> Misconfigured:
        return Misconfigured(
            f"The {self._layout.what} cannot be used", where=str(self._where), why=why, run="dsqlcdc config show CONFIG", code=code
        )

    @property
    def _where(self) -> Path:
        return self.path or Path(":memory:")


def _transaction(connection: sqlite3.Connection, work: Work[T]) -> T:
    connection.execute("BEGIN IMMEDIATE")
    try:
        answer = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return answer
