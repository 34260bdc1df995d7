"""A model database: tables with rows, transactions that apply whole or not at all, and write sets compacted as DSQL compacts them."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from dsqlcdc.local.values import DRAWS

Row = dict[str, Any]
RowId = tuple[Any, ...]


class Statement(msgspec.Struct, forbid_unknown_fields=True):
    """One write. insert: `row`; update: `key` and the columns to change in `row`; delete: `key`. `table` is schema.table."""

    table: str
    verb: Literal["insert", "update", "delete"]
    row: Row = {}
    key: Row = {}


class Net(msgspec.Struct, frozen=True):
    """What a transaction did to one row, in the end. `key` is None where the table has no primary key."""

    table: Table
    op: Literal["c", "u", "d"]
    key: Row | None
    after: Row | None


class Table:
    """A table. `columns` by name and type; empty for a declared one, which takes any columns.

    A row of a keyless table is known by a number, which no record shows.
    """

    def __init__(self, name: str, key: Sequence[str], columns: Mapping[str, str]) -> None:
        self.schema, _, self.name = name.partition(".")
        self.key = tuple(key)
        self.columns = dict(columns)
        self.rows: dict[RowId, Row] = {}
        self.dropped: list[RowId] = []
        self.recent: deque[RowId] = deque(maxlen=500)
        self._renamed: dict[str, str] = {}
        self._made = 0
        self._evolved = 0

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    def row_id(self, values: Row) -> RowId:
        try:
            return tuple(values[column] for column in self.key)
        except KeyError as missing:
            raise ValueError(f"{self}: the key column {missing} is missing") from None

    def new_id(self, row: Row) -> RowId:
        if self.key:
            return self.row_id(row)
        self._made += 1
        return (self._made,)

    def project(self, row: Row) -> Row:
        """The row in today's columns; one written before a change of the table has NULL in what was added."""
        if not self.columns:
            return row
        return {column: row.get(column, row.get(self._renamed.get(column, ""))) for column in self.columns}

    def check(self, columns: Iterable[str]) -> None:
        unknown = sorted(set(columns) - set(self.columns)) if self.columns else []
        if unknown:
            raise ValueError(f"{self} has no column {', '.join(unknown)}")

    def evolve(self) -> str:
        """Add, rename and drop a column in turn; what was done."""
        self._evolved += 1
        step, name = self._evolved % 3, f"added_{(self._evolved + 2) // 3}"
        if step == 1:
            self.columns[name] = "text"
            return f"add {name}"
        old = name if step == 2 else f"renamed_{(self._evolved + 2) // 3}"
        kind = self.columns.pop(old)
        if step == 0:
            return f"drop {old}"
        new = f"renamed_{(self._evolved + 2) // 3}"
        self.columns[new], self._renamed[new] = kind, old
        return f"rename {old} to {new}"

    def draw(self, rng: random.Random) -> Row:
        """A new row; a key that was deleted comes back now and then."""
        row = self.values(rng, self.columns)
        if self.key and self.dropped and rng.random() < 0.3:
            row.update(zip(self.key, self.dropped.pop(rng.randrange(len(self.dropped))), strict=True))
        return row

    def values(self, rng: random.Random, columns: Iterable[str]) -> Row:
        return {name: None if name not in self.key and rng.random() < 0.1 else DRAWS[self.columns[name]](rng) for name in columns}

    def some_row(self, rng: random.Random) -> RowId:
        """A row that exists, one of the newer ones as a rule."""
        for row_id in rng.sample(self.recent, min(8, len(self.recent))):
            if row_id in self.rows:
                return row_id
        return next(iter(self.rows))


def catalogue() -> list[Table]:
    """The tables of a new database: every kind of key, one without, one with every type."""
    return [
        Table(
            "public.orders",
            ("order_id", "item_id"),
            {"order_id": "bigint", "item_id": "integer", "customer": "text", "quantity": "integer", "price": "numeric"}
            | {"placed_at": "timestamptz"},
        ),
        Table("public.accounts", ("id",), {"id": "bigint", "owner": "text", "balance": "numeric", "active": "boolean"}),
        Table("app.users", ("id",), {"id": "uuid", "email": "varchar", "profile": "json", "created_at": "timestamptz"}),
        Table("app.notes", ("slug",), {"slug": "text", "body": "text", "tags": "json"}),
        Table("audit.events", (), {"kind": "text", "detail": "json", "at": "timestamp"}),
        Table("public.every_type", ("id",), {"id": "bigint"} | {f"a_{kind}": kind for kind in DRAWS}),
    ]


class Database:
    """Tables by name. `transact` applies statements as one transaction."""

    def __init__(self) -> None:
        self.tables = {str(table): table for table in catalogue()}

    def declare(self, name: str, key: Sequence[str]) -> None:
        """Add a table that takes any columns. Raises ValueError where a table of this name has another key."""
        if "." not in name:
            raise ValueError(f"{name}: a table is named schema.table")
        if name in self.tables and self.tables[name].key != tuple(key):
            raise ValueError(f"{name} has the key {self.tables[name].key}")
        self.tables.setdefault(name, Table(name, key, {}))

    def table(self, name: str) -> Table:
        if name not in self.tables:
            raise ValueError(f"there is no table {name}")
        return self.tables[name]

    def transact(self, statements: Sequence[Statement]) -> list[Net]:
        """Apply all or, with a ValueError, none. Gives each touched row's net effect once; a row that came and went has none."""
        before: dict[tuple[str, RowId], Row | None] = {}
        try:
            for statement in statements:
                self._apply(statement, before)
        except ValueError:
            for (name, row_id), row in before.items():
                _restore(self.tables[name], row_id, row)
            raise
        return [net for (name, row_id), row in before.items() if (net := _net(self.tables[name], row_id, row)) is not None]

    def _apply(self, statement: Statement, before: dict[tuple[str, RowId], Row | None]) -> None:
        table = self.table(statement.table)
        table.check(statement.row)
        if statement.verb == "insert":
            row_id = table.new_id(statement.row)
            if row_id in table.rows:
                raise ValueError(f"{table}: the key {row_id} exists")
            before.setdefault((str(table), row_id), None)
            table.rows[row_id] = table.project(dict(statement.row))
            table.recent.append(row_id)
            return
        row_id = table.row_id(statement.key) if table.key else tuple(statement.key.values())
        row = table.rows.get(row_id)
        if row is None:
            raise ValueError(f"{table}: there is no row {row_id}")
        before.setdefault((str(table), row_id), row)
        if statement.verb == "delete":
            del table.rows[row_id]
            return
        if any(column in statement.row and statement.row[column] != row[column] for column in table.key):
            raise ValueError(f"{table}: a primary key cannot be changed")
        table.rows[row_id] = table.project(row) | statement.row


def _restore(table: Table, row_id: RowId, row: Row | None) -> None:
    if row is None:
        table.rows.pop(row_id, None)
    else:
        table.rows[row_id] = row


def _net(table: Table, row_id: RowId, before: Row | None) -> Net | None:
    after = table.rows.get(row_id)
    key = dict(zip(table.key, row_id, strict=True)) if table.key else None
    if after is None:
        if before is None:
            return None
        if table.key:
            table.dropped.append(row_id)
        return Net(table, "d", key, None)
    return Net(table, "c" if before is None else "u", key, after)
