"""A sink of one's own: the newest version of every row, in an SQLite file.

It imports nothing but the contract and the option types, and is found by its entry point. What makes it right:
- every write compares versions in the database, so order, repetition and restarts do not matter: an older change never wins;
- a delete leaves its version behind (`row` becomes null), or a late older update would bring the row back;
- a batch is one transaction: when `write` returns, all of it is in; when it raises Unavailable, none of it counts as in.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from dsqlcdc.contract import Change, Context, Misconfigured, Setback, Sink, Unavailable, Verdict
from dsqlcdc.options import Duration, StrictOptions, duration

_TABLE = """
create table if not exists rows (
  "table" text not null, key text not null, version integer not null, row text,
  primary key ("table", key)
) without rowid
"""
_UPSERT = """
insert into rows values (?, ?, ?, ?)
on conflict do update set version = excluded.version, row = excluded.row where excluded.version > version
"""


class Options(StrictOptions):
    """The keys beside `type` in the config; they show in `dsqlcdc config schema`."""

    path: Path
    busy: Duration = duration("5s", description="how long another writer of the file is waited for")


class Replica(Sink):
    """One row a key, the newest. Refused changes are named with a verdict; what is not named is in."""

    Options: ClassVar[type[Options]] = Options
    needs_key = True
    order = "latest"

    def __init__(self, path: Path, busy: float) -> None:
        self._path, self._busy = path, busy
        self._database: sqlite3.Connection | None = None
        self._one = threading.Lock()

    @classmethod
    def from_options(cls, options: Mapping[str, Any], context: Context) -> Self:
        """The factory that the entry point names: checks the options, does no I/O."""
        given = cls.Options.model_validate(dict(options))
        return cls(Path(context.directory) / given.path, given.busy)

    async def __aenter__(self) -> Self:
        self._database = await asyncio.to_thread(self._open)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.to_thread(self._close)

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        """Raises Unavailable while somebody else holds the file: the same batch comes again."""
        return await asyncio.to_thread(self._write, changes)

    def _open(self) -> sqlite3.Connection:
        try:
            database = sqlite3.connect(self._path, timeout=self._busy, check_same_thread=False, isolation_level=None)
            database.execute("pragma synchronous = full")
            database.execute(_TABLE)
        except sqlite3.OperationalError as error:
            if _locked(error):
                raise Unavailable("the replica is locked", where=str(self._path), why=str(error)) from error
            raise Misconfigured("the replica cannot be opened", where=str(self._path), why=str(error)) from error
        return database

    def _close(self) -> None:
        with self._one:  # a write that was cancelled may still be at it: threads cannot be
            if self._database is not None:
                self._database.close()
                self._database = None

    def _write(self, changes: Sequence[Change]) -> list[Setback]:
        with self._one:
            return self._put(changes)

    def _put(self, changes: Sequence[Change]) -> list[Setback]:
        database = self._database
        assert database is not None
        setbacks: list[Setback] = []
        try:
            database.execute("begin immediate")
            with database, closing(database.cursor()) as cursor:
                for index, change in enumerate(changes):
                    table, key = str(change.table), bytes(change.key_image or b"").decode()
                    row = None if change.image is None else bytes(change.image).decode()
                    if cursor.execute(_UPSERT, (table, key, change.version, row)).rowcount == 0:
                        found = cursor.execute('select version from rows where "table" = ? and key = ?', (table, key)).fetchone()
                        setbacks.append(Setback(index, Verdict.DUPLICATE if found[0] == change.version else Verdict.STALE))
        except sqlite3.OperationalError as error:
            if _locked(error):
                raise Unavailable("the replica is locked", where=str(self._path), why=str(error)) from error
            raise Misconfigured("the replica cannot be written", where=str(self._path), why=str(error)) from error
        return setbacks


def _locked(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
