"""What the database is asked about late upserts, and what becomes of its answers."""

from __future__ import annotations

from typing import Any

import pytest

from dsqlcdc.contract import Context, Misconfigured, Unavailable
from dsqlcdc_opensearch import OpenSearchSink
from dsqlcdc_opensearch.database import TYPES, Database, literal
from tests.sinks.opensearch.replica import change, change_at


class Connection:
    def __init__(self, types: dict[str, str], rows: set[tuple[str, ...]]) -> None:
        self.types, self.rows = types, rows
        self.queries: list[tuple[str, tuple[Any, ...]]] = []
        self.closed = 0

    async def fetch(self, query: str, *arguments: Any) -> list[tuple[str, str]]:
        assert query == TYPES
        return list(self.types.items())

    async def fetchval(self, query: str, *arguments: Any) -> int | None:
        self.queries.append((query, arguments))
        return 1 if arguments in self.rows else None

    async def close(self) -> None:
        self.closed += 1


def database(connection: Connection) -> Database:
    async def connect() -> Connection:
        return connection

    return Database("h", "admin", region=None, profile=None, where="sink s", connect=connect)


async def test_rows_are_asked_for_by_their_keys_in_the_types_of_the_catalogue() -> None:
    connection = Connection({"id": "bigint", "a": "uuid", "b": "character varying(10)"}, {("1",), ("u", 'x"y')})
    asked = [change(2, 1), change_at(5, {"a": "u", "b": 'x"y'}, table="public.pairs"), change(1, 1)]
    assert await database(connection).exist(asked) == [False, True, True]
    queries = [query for query, _ in connection.queries]
    assert queries[0] == 'select 1 from "public"."orders" where "id" = cast($1::text as bigint)'
    assert queries[2].endswith('"a" = cast($1::text as uuid) and "b" = cast($2::text as character varying(10))')
    assert connection.closed == 1


async def test_of_a_table_or_key_that_is_not_there_nothing_is_known() -> None:
    connection = Connection({}, set())
    assert await database(connection).exist([change(1, 1)]) == [None]
    assert connection.queries == []


@pytest.mark.parametrize(
    ("value", "type", "text"),
    [
        (5, "bigint", "5"),
        ("29.990", "numeric(10,3)", "29.990"),
        ("a", "character varying(5)", "a"),
        ("a", "character(5)", "a"),
        (True, "boolean", "true"),
        (1, "boolean", None),
        (True, "bigint", None),
        (20_645, "date", "2026-07-11"),
        (2**31 - 1, "date", None),
        (1_795_213_921_993_907, "timestamp with time zone", "2026-11-20T22:32:01.993907+00:00"),
        (1_795_213_921_993_907, "timestamp(6) without time zone", "2026-11-20T22:32:01.993907"),
        (9223372036825200000, "timestamp with time zone", None),
        ("AQI=", "bytea", "\\x0102"),
        ("not base64", "bytea", None),
        (5, "interval", None),
    ],
)
def test_values_are_written_as_postgresql_reads_them(value: Any, type: str, text: str | None) -> None:
    assert literal(value, type) == text


async def test_a_database_that_cannot_be_asked_is_backpressure_and_one_that_refuses_stops() -> None:
    import asyncpg

    for error, fault in (
        (ConnectionRefusedError("no"), Unavailable),
        (TimeoutError(), Unavailable),
        (asyncpg.exceptions.TooManyConnectionsError("many"), Unavailable),
        (asyncpg.exceptions.InsufficientPrivilegeError("permission denied"), Misconfigured),
        (asyncpg.exceptions.InvalidAuthorizationSpecificationError("who"), Misconfigured),
    ):

        async def connect(error: Exception = error) -> Any:
            raise error

        with pytest.raises(fault):
            await Database("h", "admin", region=None, profile=None, where="sink s", connect=connect).exist([change(1, 1)])


async def test_the_sink_makes_one_when_it_is_configured() -> None:
    options = {"url": "http://127.0.0.1:9", "purge": "off", "late_upsert": "verify", "verify": {"endpoint": "abc.dsql.us-east-1.on.aws"}}
    async with OpenSearchSink.from_options(options, Context("p", "s")) as one:
        assert isinstance(one._rows, Database)
    for wrong in ({"late_upsert": "verify"}, {"verify": {"endpoint": "h"}}):
        with pytest.raises(ValueError, match=r"late_upsert|verify"):
            OpenSearchSink.from_options({"url": "https://h", **wrong}, Context("p", "s"))
