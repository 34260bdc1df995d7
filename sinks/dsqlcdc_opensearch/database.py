"""The database, asked whether rows exist: late upserts whose row has no document. Needs the extra `dsql`."""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime as dt
import importlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from dsqlcdc.aws import errors, translate
from dsqlcdc.contract import Change, Misconfigured, Table, Unavailable

TYPES = """
select a.attname, format_type(a.atttypid, a.atttypmod)
from pg_catalog.pg_attribute a
join pg_catalog.pg_class c on c.oid = a.attrelid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relname = $2 and a.attnum > 0 and not a.attisdropped
"""
_AS_TEXT = ("smallint", "integer", "bigint", "oid", "text", "character", "uuid", "numeric", "name", '"char"', "real", "double precision")
_EPOCH = dt.datetime(1970, 1, 1)

Connect = Callable[[], Awaitable[Any]]
"""Opens a connection as asyncpg's: `fetch`, `fetchval`, `close`."""


class Database:
    """A cluster of Aurora DSQL. Each asking opens a connection of its own, in a thread: the token is made and fetched without holding up
    the loop, and late upserts are rare."""

    def __init__(
        self, endpoint: str, user: str, *, region: str | None, profile: str | None, where: str, connect: Connect | None = None
    ) -> None:
        self._endpoint, self._where = endpoint, where
        self._settings = {"host": endpoint, "user": user, "database": "postgres", "timeout": 10.0, "command_timeout": 30.0}
        self._settings |= {name: value for name, value in (("region", region), ("profile", profile)) if value}
        self._connect = connect or self._dsql

    @staticmethod
    def check() -> None:
        """Raises ImportError where the extra is not installed."""
        importlib.import_module("aurora_dsql_asyncpg")

    async def exist(self, changes: Sequence[Change]) -> Sequence[bool | None]:
        """Of each change: does its row exist now? None where that cannot be asked of its table or key.

        Raises Unavailable, and Misconfigured (no such user, no permission).
        """
        return await asyncio.to_thread(asyncio.run, self._exist(changes))

    async def _dsql(self) -> Any:
        return await importlib.import_module("aurora_dsql_asyncpg").connect(**self._settings)

    async def _exist(self, changes: Sequence[Change]) -> Sequence[bool | None]:
        where = f"{self._where}, {self._endpoint}"
        try:
            connection = await self._connect()
            try:
                found: dict[int, bool | None] = {}
                order = sorted(range(len(changes)), key=lambda n: str(changes[n].table))
                for table, places in groupby(order, key=lambda n: changes[n].table):
                    types: Mapping[str, str] = dict(map(tuple, await connection.fetch(TYPES, table.schema, table.name)))
                    for place in places:
                        found[place] = await self._row(connection, table, changes[place].key or {}, types)
                return [found[n] for n in range(len(changes))]
            finally:
                await connection.close()
        except _failures() as error:
            raise _fault(error, where) from error

    @staticmethod
    async def _row(connection: Any, table: Table, key: Mapping[str, Any], types: Mapping[str, str]) -> bool | None:
        if not key or not types.keys() >= key.keys():
            return None
        texts = [literal(value, types[column]) for column, value in key.items()]
        if None in texts:
            return None
        tests = [f"{_quoted(column)} = cast(${n}::text as {types[column]})" for n, column in enumerate(key, 1)]
        query = f"select 1 from {_quoted(table.schema)}.{_quoted(table.name)} where {' and '.join(tests)}"
        return await connection.fetchval(query, *texts) is not None


def literal(value: Any, type: str) -> str | None:
    """The text that PostgreSQL reads as this value of this type, which came in DSQL's encoding; None where there is none to be had."""
    kind = type.partition("(")[0].strip()
    if kind.startswith("timestamp"):
        kind = "timestamptz" if type.endswith("with time zone") else "timestamp"
    if kind == "boolean":
        return str(value).lower() if isinstance(value, bool) else None
    if isinstance(value, bool):
        return None
    if kind.startswith(_AS_TEXT):
        return str(value)
    try:
        if kind == "date" and isinstance(value, int):
            return (_EPOCH + dt.timedelta(days=value)).date().isoformat()
        if kind in ("timestamp", "timestamptz") and isinstance(value, int):
            return (_EPOCH + dt.timedelta(microseconds=value)).isoformat() + ("+00:00" if kind == "timestamptz" else "")
        if kind == "bytea" and isinstance(value, str):
            return "\\x" + base64.b64decode(value, validate=True).hex()
    except (OverflowError, binascii.Error):
        pass
    return None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _failures() -> tuple[type[Exception], ...]:
    """What asking may raise: the connection, the credentials, the database."""
    asyncpg = importlib.import_module("asyncpg")
    return (OSError, TimeoutError, *errors(), asyncpg.PostgresError, asyncpg.InterfaceError)


def _fault(error: Exception, where: str) -> Unavailable | Misconfigured:
    state = str(getattr(error, "sqlstate", "") or "")
    if state.startswith("28") or state == "42501":
        run = "dsqlcdc config show CONFIG"
        return Misconfigured("the database may not be asked for late rows", where=where, why=f"SQLSTATE {state}", run=run, code="E173")
    if isinstance(error, errors()) and not isinstance(error, OSError):
        fault = translate(error, doing="connect to the database", where=where)
        if isinstance(fault, (Unavailable, Misconfigured)):
            return fault
    why = f"{type(error).__name__} {state}".strip()
    return Unavailable("the database cannot be asked for late rows", where=where, why=why, code="E174")
