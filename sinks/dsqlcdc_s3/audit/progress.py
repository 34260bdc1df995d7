"""How far a verification came, kept beside it: one that was stopped, however, goes on from there.

What is kept of an object is only that it was found to be as it should be: against which words of a manifest, and by which stamp of the store
(version, ETag, size, last modified). It counts while both are the same; an object with a finding is judged again each time. Names, manifests
and digests are always read anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import sqlite3
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import msgspec

from dsqlcdc.contract import Misconfigured
from dsqlcdc_s3.audit.ids import Ids, Span
from dsqlcdc_s3.audit.spill import Torn
from dsqlcdc_s3.room import no_room, unnamed

EVERY = 2.0
"""Seconds after which what is new is to be written: as much is judged again after a kill."""
_OURS = 0x64637661
_SCHEMA = """
create table if not exists said (name text primary key, value blob) without rowid;
create table if not exists judged (
  key text primary key, against blob, stamp text, run integer, attempt integer,
  void integer, bytes integer, rows integer, uncompressed integer, unmade integer) without rowid;
create table if not exists spans (number integer primary key, object text, part text, beside text, attempt integer);
"""
_OLD_NOTE = b'{"place":'


class Judged(msgspec.Struct, frozen=True):
    """An object that is as it should be. `unmade`: its rows without a key whose ids could not be made again."""

    void: bool
    bytes: int
    rows: int
    uncompressed_bytes: int
    unmade: int


class Progress:
    """Of one verification of one lake. Without `path` it is kept nowhere: for one run. Methods raise Misconfigured where the disk is full."""

    def __init__(self, path: Path | None, about: Sequence[str], *, deep: bool, fresh: bool = False) -> None:
        """`about`: what lake it is, and what is asked; what was noted of another does not count. Raises Misconfigured for a file that is none of
        ours, and BlockingIOError where another process has it."""
        self._path, self._deep = path, deep
        self._about = msgspec.json.encode([version("dsqlcdc"), deep, *about])
        self._lock = -1 if path is None else _take(path)
        self._base: sqlite3.Connection | None = None
        self.ids: Ids | None = None
        try:
            if path is not None:
                _ours(path)
            if fresh:
                self._clear()
            try:
                self._open()
            except (Torn, sqlite3.DatabaseError):
                self._let_go()
                self._clear()
                self._open()
        except BaseException as error:
            self.close()
            if isinstance(error, sqlite3.Error):
                raise self._full(error) from error
            raise

    def _open(self) -> None:
        # in any thread, one at a time: ids are compared beside the loop
        base = self._base = sqlite3.connect(str(self._path or ""), isolation_level="DEFERRED", check_same_thread=False)
        base.execute(f"pragma application_id={_OURS}")
        if self._path is not None:
            base.execute("pragma journal_mode=wal")
        base.execute("pragma synchronous=normal")
        base.execute("pragma cache_size=-8192")
        base.executescript(_SCHEMA)
        found = self._said("about")
        if found is not None and bytes(found) != self._about:
            raise Torn("it is of another lake, or of another version of dsqlcdc")
        self._restore(bytes(self._said("ids") or b""))
        self.before: int = self._one("select count(*) from judged")
        self._run: int = 1 + int(self._said("run") or 0)
        self._attempts = itertools.count(1 + (self._one("select max(attempt) from judged") or 0))
        self._say("about", self._about)
        self._say("run", self._run)
        base.commit()

    def _restore(self, state: bytes) -> None:
        if self._deep:
            first = 1 + (self._one("select max(number) from spans") or 0)
            self.ids = Ids(self._ids_file(), state, first)

    def _ids_file(self) -> IO[bytes]:
        if self._path is None:
            return unnamed()
        path = _ids(self._path)
        try:
            return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b")
        except OSError as error:
            raise no_room(error, str(path)) from error

    @property
    def _sql(self) -> sqlite3.Connection:
        assert self._base is not None, "it is closed"
        return self._base

    def _said(self, name: str) -> Any:
        return self._one("select value from said where name = ?", name)

    def _say(self, name: str, value: Any) -> None:
        self._sql.execute("insert or replace into said values (?, ?)", (name, value))

    def _one(self, sql: str, *given: Any) -> Any:
        found = self._sql.execute(sql, given).fetchone()
        return None if found is None else found[0]

    def see(self, key: str, stamp: str) -> None:
        """This object is there, so stamped: what was noted of it before counts, if it was noted by the same stamp."""
        if self.before:
            self._sql.execute("update judged set run = ? where key = ? and stamp = ?", (self._run, key, stamp))

    @property
    def seen(self) -> int:
        """Objects that were noted before, and were seen as they were."""
        return int(self._one("select count(*) from judged where run = ?", self._run))

    def known(self, key: str, against: bytes) -> Judged | None:
        """What was noted of an object that was seen in this run, and judged against these words."""
        if not self.before:
            return None
        sql = "select void, bytes, rows, uncompressed, unmade from judged where key = ? and against = ? and run = ?"
        found = self._sql.execute(sql, (key, against, self._run)).fetchone()
        return None if found is None else Judged(bool(found[0]), *found[1:])

    def note(self, key: str, against: bytes, stamp: str, judged: Judged, spans: Sequence[tuple[int, Span]]) -> None:
        """An object was judged, and is as it should be."""
        if self._path is None and not self._deep:
            return
        attempt = next(self._attempts)
        row = (key, against, stamp, self._run, attempt, judged.void, judged.bytes, judged.rows, judged.uncompressed_bytes, judged.unmade)
        try:
            self._sql.execute("insert or replace into judged values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            where = [(number, span.object, span.part, span.beside, attempt) for number, span in spans]
            self._sql.executemany("insert or replace into spans values (?, ?, ?, ?, ?)", where)
        except sqlite3.OperationalError as error:
            raise self._full(error) from error

    def keep(self) -> None:
        """Write what is new. First the ids, then which objects they are of: of what is cut off between the two, nothing counts."""
        try:
            if self.ids is not None and self._path is not None:
                self._say("ids", self.ids.state())
            self._sql.commit()
        except sqlite3.OperationalError as error:
            raise self._full(error) from error

    def span(self, number: int) -> Span | None:
        """Where the rows with this number stand; None for those of an object that was not judged to its end, or is another by now."""
        sql = (
            "select part, object, beside from spans join judged on judged.key = spans.object and judged.attempt = spans.attempt"
            " where number = ? and run = ?"
        )
        found = self._sql.execute(sql, (number, self._run)).fetchone()
        return None if found is None else Span(*found)

    def done(self) -> None:
        """The verdict is out: nothing is kept."""
        self._let_go()
        self._clear()
        if self._path is not None:
            _lock_of(self._path).unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Write what is new, and let go. Closing twice is fine."""
        if self._base is not None:
            with contextlib.suppress(sqlite3.Error, Misconfigured):  # what is not written is judged again
                self.keep()
        self._let_go()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def _let_go(self) -> None:
        ids, self.ids, base, self._base = self.ids, None, self._base, None
        if base is not None:
            base.close()
        if ids is not None:
            ids.close()

    def _clear(self) -> None:
        if self._path is not None:
            for path in (_ids(self._path), Path(f"{self._path}-wal"), Path(f"{self._path}-shm"), self._path):
                path.unlink(missing_ok=True)

    def _full(self, error: BaseException) -> Misconfigured:
        return no_room(OSError(str(error)), str(self._path or tempfile.tempdir or "TMPDIR"))


def _ids(path: Path) -> Path:
    return path.with_name(f"{path.name}.ids")


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _take(path: Path) -> int:
    """A held lock. Raises BlockingIOError where another process has it."""
    lock = _lock_of(path)
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):  # else its holder has just removed it
                if os.fstat(handle).st_ino == lock.stat().st_ino:
                    return handle
        except OSError:
            os.close(handle)
            raise
        os.close(handle)


def _ours(path: Path) -> None:
    """Raises Misconfigured where this file is somebody's who meant something else by it."""
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except FileNotFoundError:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        return
    if head.startswith(_OLD_NOTE):
        path.unlink()
    elif head and (head[:15] != b"SQLite format 3" or head[68:72] != _OURS.to_bytes(4, "big")):
        raise Misconfigured(
            "this file is not the progress of a verification",
            where=str(path),
            why="something else is in it, which is left as it is",
            run=f"dsqlcdc audit verify CONFIG --resume FILE, with another file than {path.name}",
            code="E387",
        )
