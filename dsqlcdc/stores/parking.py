"""The rules of parked parts, as work inside one transaction: what a part completes, contradicts or repeats, and what may go."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator

from dsqlcdc.core.ports import Parked, Part
from dsqlcdc.stores import pieces


def refusal(connection: sqlite3.Connection, part: Part) -> str:
    """Why a part contradicts itself or what is stored; "" where it does not."""
    if part.index != pieces.MAIN:
        known = _chunk(connection, part.chunk_id)
        if part.index < 0:
            return f"index {part.index} is negative"
        if known and known[1] is not None and part.index >= known[1]:
            return f"index {part.index} of {known[1]} pieces"
        return ""
    chunk_ids = [need.chunk_id for need in part.needs.values()]
    if part.chunk_id not in chunk_ids or len(set(chunk_ids)) < len(chunk_ids):
        return "the main record does not name its chunks, each once"
    for need in part.needs.values():
        if need.total < 1:
            return f"chunk {need.chunk_id} has {need.total} pieces"
        known = _chunk(connection, need.chunk_id)
        if known and known[1] is not None and known != (part.chunk_id, need.total, need.crc32c):
            return f"chunk {need.chunk_id}: row {part.chunk_id}, {need.total} pieces, CRC-32C {need.crc32c}; another main record says " + (
                f"row {known[0]}, {known[1]} pieces, CRC-32C {known[2]}"
            )
        (last,) = connection.execute("SELECT max(idx) FROM part WHERE chunk_id = ?", (need.chunk_id,)).fetchone()
        if last is not None and last >= need.total:
            return f"chunk {need.chunk_id} has {need.total} pieces, but piece {last} is stored"
    needs = pieces.needs_of(connection, part.chunk_id)
    if needs and needs != dict(part.needs):
        return f"another main record of row {part.chunk_id} names other chunks"
    return ""


def add(connection: sqlite3.Connection, sink: int, part: Part) -> Parked:
    """Store a part for a sink and say what its row is now."""
    why = refusal(connection, part)
    if why:
        return Parked("refused", why=why)
    connection.execute("UPDATE sink SET clock = max(clock, ?) WHERE id = ?", (part.arrived, sink))
    if part.index == pieces.MAIN:
        grp, known = part.chunk_id, True
    else:
        chunk = _chunk(connection, part.chunk_id)
        grp, known = (chunk[0], chunk[1] is not None) if chunk else (part.chunk_id, False)
    if known and _is_done(connection, grp, sink):
        return Parked("done", grp)
    before = pieces.stored(connection, part.chunk_id, part.index)
    if before is None or before[0] != pieces.digest(part):
        _store(connection, grp, part, replaced=0 if before is None else before[1], new=before is None)
    connection.execute("INSERT OR IGNORE INTO holder VALUES (?, ?)", (grp, sink))
    if is_complete(connection, grp):
        return Parked("complete", grp)
    return Parked("waiting", grp if known else "")


def _store(connection: sqlite3.Connection, grp: str, part: Part, *, replaced: int, new: bool) -> None:
    if part.index == pieces.MAIN:
        _name_row(connection, part)
    else:
        connection.execute("INSERT OR IGNORE INTO chunk (chunk_id, grp) VALUES (?, ?)", (part.chunk_id, grp))
    last = pieces.insert(connection, grp, part)
    (need,) = connection.execute("SELECT sum(total) + 1 FROM chunk WHERE grp = ?", (grp,)).fetchone()
    connection.execute("INSERT OR IGNORE INTO grp VALUES (?, NULL, 0, 0, ?, 0)", (grp, part.arrived))
    connection.execute(
        "UPDATE grp SET need = ?, have = have + ?, bytes = bytes + ?, newest = max(newest, ?), last = ? WHERE name = ?",
        (need, 1 if new else 0, pieces.size(part) - replaced, part.arrived, last, grp),
    )
    # Nobody has judged the row with this part in it: it would be forgotten otherwise if the row stays incomplete.
    connection.execute("DELETE FROM judged WHERE grp = ?", (grp,))


def _name_row(connection: sqlite3.Connection, main: Part) -> None:
    """The main record says which chunks are one row: what waited under each chunk id becomes one group."""
    row = main.chunk_id
    for image, need in main.needs.items():
        connection.execute(
            "INSERT OR REPLACE INTO chunk (chunk_id, grp, image, total, crc32c) VALUES (?, ?, ?, ?, ?)",
            (need.chunk_id, row, image, need.total, need.crc32c),
        )
        waiting = connection.execute("SELECT have, bytes, newest FROM grp WHERE name = ?", (need.chunk_id,)).fetchone()
        if need.chunk_id == row or waiting is None:
            continue
        connection.execute("INSERT OR IGNORE INTO grp VALUES (?, NULL, 0, 0, ?, 0)", (row, main.arrived))
        connection.execute("UPDATE grp SET have = have + ?, bytes = bytes + ?, newest = max(newest, ?) WHERE name = ?", (*waiting, row))
        connection.execute("UPDATE part SET grp = ? WHERE grp = ?", (row, need.chunk_id))
        connection.execute("INSERT OR IGNORE INTO holder SELECT ?, sink FROM holder WHERE grp = ?", (row, need.chunk_id))
        _forget_group(connection, need.chunk_id)


def is_complete(connection: sqlite3.Connection, grp: str) -> bool:
    """Every part of the row is stored."""
    return connection.execute("SELECT 1 FROM grp WHERE name = ? AND have = need", (grp,)).fetchone() is not None


def done(connection: sqlite3.Connection, sink: int, row: str) -> None:
    """Mark a row as done for a sink; its parts go with the last sink's mark."""
    connection.execute(
        "INSERT OR IGNORE INTO done SELECT ?1, id, coalesce((SELECT newest FROM grp WHERE name = ?1), clock) FROM sink WHERE id = ?2",
        (row, sink),
    )
    release(connection, row)


def release(connection: sqlite3.Connection, row: str) -> None:
    """Let a row's parts go when every sink is done with it."""
    missing = connection.execute(
        "SELECT 1 FROM sink WHERE active AND NOT EXISTS (SELECT 1 FROM done WHERE done.grp = ? AND done.sink = sink.id)", (row,)
    ).fetchone()
    if missing is None:
        drop(connection, row)


def judged(connection: sqlite3.Connection, sink: int, grp: str) -> None:
    """Mark a row, or a chunk without one, as judged by a sink; a complete one is left alone."""
    if not is_complete(connection, grp):
        connection.execute("INSERT OR IGNORE INTO judged SELECT name, ? FROM grp WHERE name = ?", (sink, grp))


def overdue(connection: sqlite3.Connection, sink: int, before: float, bound: int) -> Iterator[str]:
    """Names of what is incomplete and not judged by this sink, and too old or beyond the bound; oldest first."""
    groups = _incomplete(connection)
    excess = sum(bytes for _, bytes, _ in groups) - bound
    for name, bytes, newest in groups:
        if (newest < before or excess > 0) and not _is_judged(connection, name, sink):
            yield name
        excess -= bytes


def trim(connection: sqlite3.Connection, bound: int) -> None:
    """Beyond the bound, let go of what nobody waits for any more, oldest first.

    First, incomplete rows on which every sink has passed its verdict. Then complete rows with which every sink that has added to them is
    done: the others have yet to read all of their records and bring them again.
    """
    excess = sum(bytes for _, bytes, _ in _incomplete(connection)) - bound
    for name, bytes in _judged_by_all(connection):
        if excess <= 0:
            break
        drop(connection, name)
        excess -= bytes
    (total,) = connection.execute("SELECT coalesce(sum(bytes), 0) FROM grp").fetchone()
    if total > bound:
        for name, bytes in _done_by_holders(connection, float("inf")):
            if total <= bound:
                break
            drop(connection, name)
            total -= bytes


def expire(connection: sqlite3.Connection, keep: float) -> None:
    """Forget markers, and what is left of rows that no sink will finish, when they are `keep` seconds older than what was added last.

    A sink's markers age by what that sink has added; those of a sink that is gone, and parts, by what any has added.
    """
    (newest,) = connection.execute("SELECT coalesce(max(clock), 0) FROM sink").fetchone()
    horizon = newest - keep
    for name, _ in [*_judged_by_all(connection, horizon), *_done_by_holders(connection, horizon)]:
        drop(connection, name)
    for sink, clock in connection.execute("SELECT id, CASE WHEN active THEN clock ELSE ? END FROM sink", (newest,)).fetchall():
        old = connection.execute("SELECT grp FROM done WHERE sink = ? AND newest < ?", (sink, clock - keep)).fetchall()
        for (grp,) in old:
            connection.execute("DELETE FROM done WHERE grp = ? AND sink = ?", (grp, sink))
            _forget_chunks(connection, grp)


def drop(connection: sqlite3.Connection, grp: str) -> None:
    """Delete parts, verdicts and holders; the chunks stay known as long as a done marker names their row."""
    connection.execute("DELETE FROM part WHERE grp = ?", (grp,))
    _forget_group(connection, grp)
    _forget_chunks(connection, grp)


def _forget_group(connection: sqlite3.Connection, grp: str) -> None:
    for table, column in (("grp", "name"), ("holder", "grp"), ("judged", "grp")):
        connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (grp,))


def _forget_chunks(connection: sqlite3.Connection, grp: str) -> None:
    connection.execute(
        "DELETE FROM chunk WHERE grp = ?1 AND NOT EXISTS (SELECT 1 FROM done WHERE grp = ?1) "
        "AND NOT EXISTS (SELECT 1 FROM part WHERE grp = ?1)",
        (grp,),
    )


def _chunk(connection: sqlite3.Connection, chunk_id: str) -> tuple[str, int | None, int | None] | None:
    row: tuple[str, int | None, int | None] | None = connection.execute(
        "SELECT grp, total, crc32c FROM chunk WHERE chunk_id = ?", (chunk_id,)
    ).fetchone()
    return row


def _is_done(connection: sqlite3.Connection, grp: str, sink: int) -> bool:
    return connection.execute("SELECT 1 FROM done WHERE grp = ? AND sink = ?", (grp, sink)).fetchone() is not None


def _is_judged(connection: sqlite3.Connection, grp: str, sink: int) -> bool:
    return connection.execute("SELECT 1 FROM judged WHERE grp = ? AND sink = ?", (grp, sink)).fetchone() is not None


def _incomplete(connection: sqlite3.Connection) -> list[tuple[str, int, float]]:
    return connection.execute("SELECT name, bytes, newest FROM grp WHERE need IS NULL OR have < need ORDER BY newest, last").fetchall()


def _judged_by_all(connection: sqlite3.Connection, before: float = float("inf")) -> Iterable[tuple[str, int]]:
    return connection.execute(
        "SELECT name, bytes FROM grp WHERE (need IS NULL OR have < need) AND newest < ? AND NOT EXISTS ("
        "SELECT 1 FROM sink WHERE active AND NOT EXISTS (SELECT 1 FROM judged WHERE judged.grp = grp.name AND judged.sink = sink.id)"
        ") ORDER BY newest, last",
        (before,),
    ).fetchall()


def _done_by_holders(connection: sqlite3.Connection, before: float) -> Iterable[tuple[str, int]]:
    return connection.execute(
        "SELECT name, bytes FROM grp WHERE have = need AND newest < ? AND NOT EXISTS ("
        "SELECT 1 FROM holder WHERE holder.grp = grp.name AND NOT EXISTS ("
        "SELECT 1 FROM done WHERE done.grp = grp.name AND done.sink = holder.sink)) ORDER BY newest, last",
        (before,),
    ).fetchall()
