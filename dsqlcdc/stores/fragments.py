"""Parts of oversized rows, shared by all sinks of a process: in one SQLite file, or in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from os import PathLike
from pathlib import Path

from dsqlcdc.core.ports import Parked, Part
from dsqlcdc.stores import parking, pieces
from dsqlcdc.stores.database import Database

_KEEP = 8 * 86400.0  # DSQL delivers again for a week
_HANDFUL = 64 * 1024 * 1024  # bytes that one `overdue` brings into memory
_no_parts: list[Part] = []


class _Fragments:
    """A FragmentStore over a database. Both stores follow the same rules; they differ in where the bytes are.

    A part that comes again with the same text is left as it was stored; with another text it replaces the stored one (the CRC decides).
    Sinks that are no longer named are waited for no more; their done markers stay until they are old.
    """

    def __init__(self, path: Path | None, sinks: Collection[str], max_bytes: int, keep: float) -> None:
        if not sinks or max_bytes < 1:
            raise ValueError("a fragment store needs the names of its sinks and room for at least one byte")
        self._names = frozenset(sinks)
        self._sinks: dict[str, int] = {}
        self._max_bytes = max_bytes
        self._keep = keep
        self._database = Database(path, pieces.LAYOUT, opened=self._register)
        # What `overdue` has shown: by sink and chunk, the last part of its row then. `judged` speaks of no more than that.
        self._shown: dict[tuple[str, str], int] = {}

    def _register(self, connection: sqlite3.Connection) -> None:
        """Make the sinks of this run the ones that count; what only others waited for goes."""
        connection.execute("UPDATE sink SET active = 0")
        for name in sorted(self._names):
            connection.execute("INSERT INTO sink (name, active) VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET active = 1", (name,))
        self._sinks = dict(connection.execute("SELECT name, id FROM sink WHERE active").fetchall())
        for table in ("holder", "judged"):
            connection.execute(f"DELETE FROM {table} WHERE sink NOT IN (SELECT id FROM sink WHERE active)")
        for (name,) in connection.execute("SELECT name FROM grp WHERE EXISTS (SELECT 1 FROM done WHERE done.grp = name)").fetchall():
            parking.release(connection, name)
        parking.expire(connection, self._keep)
        parking.trim(connection, self._max_bytes)

    def _check(self, sink: str) -> None:
        if sink not in self._names:
            raise ValueError(f"sink {sink!r} is not one of those that this store was opened for")

    async def add(self, sink: str, part: Part) -> Parked:
        """Store a part and say what its row is now; the verdicts on a row are withdrawn when a part joins it."""
        self._check(sink)
        return await self._database.write(lambda connection: parking.add(connection, self._sinks[sink], part))

    async def row(self, row: str) -> Sequence[Part]:
        """All parts of a complete row: the main record first, then by chunk id and index. Empty where it is not (or no longer) complete."""

        def work(connection: sqlite3.Connection) -> list[Part]:
            return pieces.parts_of(connection, row) if parking.is_complete(connection, row) else []

        return await self._database.read(work, _no_parts)

    async def done(self, sink: str, rows: Sequence[str]) -> None:
        """This sink is done with these rows, durably where the store is."""
        self._check(sink)
        if not rows:
            return

        def work(connection: sqlite3.Connection) -> None:
            for row in rows:
                parking.done(connection, self._sinks[sink], row)
            parking.expire(connection, self._keep)
            parking.trim(connection, self._max_bytes)

        await self._database.write(work)

    async def overdue(self, sink: str, before: float) -> Sequence[Part]:
        """As the port says, whole rows, oldest first, and about 64 MiB at most: ask again after `judged` until nothing comes."""
        self._check(sink)

        def work(connection: sqlite3.Connection) -> list[Part]:
            parts: list[Part] = []
            taken = 0
            for name in parking.overdue(connection, self._sinks[sink], before, self._max_bytes):
                last, size = connection.execute("SELECT last, bytes FROM grp WHERE name = ?", (name,)).fetchone()
                if parts and taken + size > _HANDFUL:
                    break
                taken += size
                found = pieces.parts_of(connection, name)
                parts += found
                self._shown.update({(sink, part.chunk_id): last for part in found})
            return parts

        return await self._database.read(work, _no_parts)

    async def judged(self, sink: str, chunk_ids: Sequence[str]) -> None:
        """This sink has passed its verdict on the rows of these chunk ids, as `overdue` showed them: a row that a part has joined since
        stays overdue. A row that has become complete is left alone."""
        self._check(sink)
        if not chunk_ids:
            return

        def work(connection: sqlite3.Connection) -> None:
            for chunk_id in chunk_ids:
                shown = self._shown.get((sink, chunk_id))
                found = connection.execute(
                    "SELECT name, last FROM grp JOIN chunk ON chunk.grp = grp.name WHERE chunk_id = ?", (chunk_id,)
                ).fetchone()
                if found is not None and (shown is None or shown == found[1]):
                    parking.judged(connection, self._sinks[sink], found[0])
            parking.expire(connection, self._keep)
            parking.trim(connection, self._max_bytes)

        await self._database.write(work)
        for chunk_id in chunk_ids:
            self._shown.pop((sink, chunk_id), None)

    async def waiting(self) -> tuple[int, int]:
        """(parts, bytes) of incomplete rows."""

        def work(connection: sqlite3.Connection) -> tuple[int, int]:
            parts, size = connection.execute(
                "SELECT coalesce(sum(have), 0), coalesce(sum(bytes), 0) FROM grp WHERE need IS NULL OR have < need"
            ).fetchone()
            return parts, size

        return await self._database.read(work, (0, 0))

    async def close(self) -> None:
        await self._database.close()


class SqliteFragments(_Fragments):
    """A FragmentStore in the file `path`, created with its directory by the first write: what was added survives the process.

    `sinks`: all that run, whose verdicts and done markers count. `max_bytes`: what incomplete rows may take before the oldest become
    overdue. `keep`: seconds that done markers stay, counted by the arrival times of what the sink adds, never by the wall clock.
    Raises Unavailable (E210), Misconfigured (E202 to E204), ValueError for a sink that is not named. A call that is cancelled is
    stored whole or not at all.
    """

    durable = True

    def __init__(self, path: str | PathLike[str], sinks: Collection[str], max_bytes: int = 10 * 1024**3, *, keep: float = _KEEP) -> None:
        super().__init__(Path(path), sinks, max_bytes, keep)


class MemoryFragments(_Fragments):
    """A FragmentStore that ends with `close`: parts hold the checkpoint back until their row is settled. It never leaves the loop."""

    durable = False

    def __init__(self, sinks: Collection[str], max_bytes: int = 256 * 1024**2, *, keep: float = _KEEP) -> None:
        super().__init__(None, sinks, max_bytes, keep)
