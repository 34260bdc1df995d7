"""The file format of parked parts: how one record of an oversized row is stored and read back, its text once where it can be."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable

import google_crc32c
import msgspec

from dsqlcdc.core.ports import Need, Part
from dsqlcdc.stores.database import Layout

MAIN = -1

LAYOUT = Layout(
    what="fragment store",
    mark=0x44465247,  # "DFRG"
    page_size=32768,  # parts are up to 10 MiB
    steps=(
        (
            # `active`: it runs now. `clock`: the newest arrival time of what it has added; markers age by it, never by the wall clock.
            "CREATE TABLE sink (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, active INTEGER NOT NULL, clock REAL NOT NULL DEFAULT 0)",
            # `grp`: the row, once its main record is known (`total` is not null then), else the chunk id. Kept as long as done markers.
            "CREATE TABLE chunk (chunk_id TEXT PRIMARY KEY, grp TEXT NOT NULL, image TEXT, total INTEGER, crc32c INTEGER) WITHOUT ROWID",
            "CREATE INDEX chunk_grp ON chunk (grp)",
            # `need`: parts of the whole row with its main record, null while that is unknown. `last`: the last part added.
            "CREATE TABLE grp (name TEXT PRIMARY KEY, need INTEGER, have INTEGER NOT NULL, bytes INTEGER NOT NULL, newest REAL NOT NULL, "
            "last INTEGER NOT NULL) WITHOUT ROWID",
            # `text` is null where `raw` holds it, as the string `data` of its JSON.
            "CREATE TABLE part (id INTEGER PRIMARY KEY AUTOINCREMENT, chunk_id TEXT NOT NULL, idx INTEGER NOT NULL, grp TEXT NOT NULL, "
            "shard TEXT NOT NULL, sequence TEXT NOT NULL, arrived REAL NOT NULL, digest INTEGER NOT NULL, size INTEGER NOT NULL, "
            "text BLOB, raw BLOB NOT NULL, UNIQUE (chunk_id, idx))",
            "CREATE INDEX part_grp ON part (grp)",
            "CREATE TABLE holder (grp TEXT NOT NULL, sink INTEGER NOT NULL, PRIMARY KEY (grp, sink)) WITHOUT ROWID",
            "CREATE TABLE judged (grp TEXT NOT NULL, sink INTEGER NOT NULL, PRIMARY KEY (grp, sink)) WITHOUT ROWID",
            "CREATE TABLE done (grp TEXT NOT NULL, sink INTEGER NOT NULL, newest REAL NOT NULL, PRIMARY KEY (grp, sink)) WITHOUT ROWID",
            "CREATE INDEX done_age ON done (sink, newest)",
        ),
    ),
)


class _Fragment(msgspec.Struct):
    data: str


_crc32c: Callable[[bytes], int] = google_crc32c.value  # pyright: ignore[reportUnknownVariableType] (no stubs)
_fragment = msgspec.json.Decoder(_Fragment).decode


def digest(part: Part) -> int:
    """Tells whether a part that comes again is the same."""
    return _crc32c(part.text)


def insert(connection: sqlite3.Connection, grp: str, part: Part) -> int:
    """Store a part, instead of an earlier one of its place; the id of its row."""
    text = None if part.index == MAIN or text_in(part.raw) == part.text else part.text
    cursor = connection.execute(
        "INSERT OR REPLACE INTO part (chunk_id, idx, grp, shard, sequence, arrived, digest, size, text, raw) VALUES (?,?,?,?,?,?,?,?,?,?)",
        (
            part.chunk_id,
            part.index,
            grp,
            part.shard,
            part.sequence,
            part.arrived,
            digest(part),
            size(part),
            text,
            part.raw,
        ),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def size(part: Part) -> int:
    """The bytes that a part counts in the store's bound: the record as received."""
    return len(part.raw)


def stored(connection: sqlite3.Connection, chunk_id: str, index: int) -> tuple[int, int] | None:
    """(digest, size) of the part in this place."""
    row: tuple[int, int] | None = connection.execute(
        "SELECT digest, size FROM part WHERE chunk_id = ? AND idx = ?", (chunk_id, index)
    ).fetchone()
    return row


def parts_of(connection: sqlite3.Connection, grp: str) -> list[Part]:
    """All stored parts of a row or of a chunk without one: the main record first, then by chunk id and index."""
    rows: Iterable[tuple[str, int, bytes, bytes | None, str, str, float]] = connection.execute(
        "SELECT chunk_id, idx, raw, text, shard, sequence, arrived FROM part WHERE grp = ? ORDER BY idx <> -1, chunk_id, idx", (grp,)
    )
    parts: list[Part] = []
    for chunk_id, index, raw, text, shard, sequence, arrived in rows:
        if index == MAIN:
            parts.append(Part(chunk_id, index, raw, b"", shard, sequence, arrived, needs_of(connection, grp)))
        else:
            parts.append(Part(chunk_id, index, raw, text_in(raw) or b"" if text is None else text, shard, sequence, arrived))
    return parts


def needs_of(connection: sqlite3.Connection, row: str) -> dict[str, Need]:
    """What the main record of a row names, by image; empty while it is unknown."""
    chunks = connection.execute("SELECT image, chunk_id, total, crc32c FROM chunk WHERE grp = ? AND total IS NOT NULL", (row,))
    needs = {image: Need(chunk_id, total, crc32c) for image, chunk_id, total, crc32c in chunks}
    return dict(sorted(needs.items(), key=lambda item: (item[1].chunk_id != row, item[0])))


def text_in(raw: bytes) -> bytes | None:
    """The UTF-8 text of the record's `data`, None where it has none."""
    try:
        return _fragment(raw).data.encode()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
