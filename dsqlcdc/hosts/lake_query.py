"""Questions to a lake, answered by DuckDB: only the partitions that may hold an answer are read, object by object, from a private folder.

What a user types reaches DuckDB as bound parameters or as names that were listed, never as SQL. It is told to read nothing but that folder.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec

from dsqlcdc.errors import ConfigError, Misconfigured, Stopped
from dsqlcdc.hosts.lake_store import SUFFIXES, LakeStore

_AHEAD = 4
"""Objects fetched while one is asked."""
COLUMNS = (
    "id", "op", "schema", "table", "cluster", "key", "row", "before", "version", "transaction", "shard", "sequence", "late",
)  # fmt: skip
_TYPES = {"version": "bigint", "late": "boolean"}
_JSON_LINES = ", ".join(f"'{name}': '{_TYPES.get(name, 'varchar')}'" for name in COLUMNS)
_LARGEST = 256 * 1024 * 1024
"""Bytes of a line at the most: JSON escapes multiply a row."""


class Compacted(Stopped):
    """An object was compacted between its listing and its reading: its rows are elsewhere by now, and the lake is to be listed again."""


class Version(msgspec.Struct, frozen=True):
    """One change of one row, as a lake has it: `version` in nanoseconds, images decoded, `late` as in the line."""

    id: str
    op: str
    table: str
    key: dict[str, Any] | None
    row: dict[str, Any] | None
    version: int
    transaction: str
    late: bool = False

    @property
    def committed_at(self) -> str:
        """RFC 3339, UTC, with all nine digits."""
        seconds, nanos = divmod(self.version, 1_000_000_000)
        return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}.{nanos:09d}Z"


class Span(msgspec.Struct, frozen=True):
    """Commits from `start` up to before `end`, seconds since the epoch; None: open."""

    start: float | None = None
    end: float | None = None

    def holds(self, day: str, hour: str) -> bool:
        """May this partition hold such a commit?"""
        begin = datetime.fromisoformat(f"{day}T{hour}:00:00+00:00").timestamp()
        return (self.end is None or begin < self.end) and (self.start is None or begin + 3600 > self.start)

    @property
    def nanos(self) -> tuple[int, int]:
        """The same in nanoseconds; the least and the greatest there are where it is open."""
        low = 0 if self.start is None else int(self.start * 1e9)
        return low, 2**63 - 1 if self.end is None else int(self.end * 1e9)


async def objects(lake: LakeStore, tables: str, span: Span) -> list[str]:
    """The objects that may hold commits of the span in tables that match the pattern, in order of their names."""
    found: list[str] = []
    for folder in await lake.folders("data/"):
        if not fnmatchcase(unquote(folder), tables):
            continue
        for day in await lake.folders(f"data/{folder}/"):
            date = day.removeprefix("dt=")
            if not any(span.holds(date, f"{hour:02d}") for hour in range(24)):
                continue
            for name in await lake.names(f"data/{folder}/{day}/"):
                hour = name.split("/")[-2].removeprefix("hour=")
                if name.endswith(SUFFIXES) and span.holds(date, hour):
                    found.append(name)
    return found


async def ask(
    lake: LakeStore,
    names: Sequence[str],
    where: str,
    values: Sequence[Any],
    tell: Callable[[int, int], None] = lambda done, of: None,
    *,
    images: bool = True,
    once: bool = False,
) -> list[Version]:
    """The changes for which `where` holds, a condition over the columns with `values` for its marks; one for each id, in commit order.

    `once`: all of them have one commit time (a transaction's: spec §2). The newest hours are read first, and none behind the one that has it.
    `tell` hears how many objects of how many were read. Without `images` keys and rows are left out: memory grows with the answer. Raises what
    the lake raises, Compacted where an object is gone, and Misconfigured for one that cannot be read or where DuckDB is missing. Nothing is left
    behind, whatever ends it.
    """
    found: dict[str, Version] = {}
    hour, done = "", 0
    if once:
        names = sorted(names, key=lambda name: (hour_of(name), name), reverse=True)
    with tempfile.TemporaryDirectory(prefix="dsqlcdc-lake-") as folder:
        connection = _connect(Path(folder))
        try:
            async with aclosing(_fetched(lake, names, Path(folder))) as fetched:
                async for name, path in fetched:
                    if hour and hour_of(name) != hour:
                        break
                    for version in await asyncio.to_thread(_select, connection, path, where, values, lake.where, images):
                        found.setdefault(version.id, version)
                    path.unlink()
                    hour = hour_of(name) if once and found else ""
                    done += 1
                    tell(done, len(names))
        finally:
            connection.close()
    return sorted(found.values(), key=lambda one: (one.version, one.transaction, one.table, one.id))


def hour_of(name: str) -> str:
    """The hour of commit that an object is of, in an order that is that of time: dt=2026-11-20/hour=22."""
    return "/".join(name.split("/")[-3:-1])


async def _fetched(lake: LakeStore, names: Sequence[str], folder: Path) -> AsyncGenerator[tuple[str, Path], None]:
    """The objects as files, in order, each with its name, a few fetched ahead. The files are whoever takes them to remove."""
    ahead: list[asyncio.Task[tuple[str, Path]]] = []
    todo = iter(enumerate(names))

    async def fetch(number: int, name: str) -> tuple[str, Path]:
        to = folder / f"{number:08d}{next(suffix for suffix in SUFFIXES if name.endswith(suffix))}"
        try:
            await lake.fetch(name, to)
        except FileNotFoundError:
            why, run = "it was named a moment ago, and compacted since", "dsqlcdc audit show CONFIG, again"
            raise Compacted("an object of the lake is gone", where=f"{lake.where}{name}", why=why, run=run, code="E399") from None
        return name, to

    try:
        while True:
            while len(ahead) < _AHEAD and (following := next(todo, None)) is not None:
                ahead.append(asyncio.create_task(fetch(*following)))
            if not ahead:
                return
            named = await ahead[0]
            ahead.pop(0)
            yield named
    finally:
        for task in ahead:
            task.cancel()
        await asyncio.gather(*ahead, return_exceptions=True)


def _connect(folder: Path) -> Any:
    try:
        import duckdb
    except ImportError as error:
        raise Misconfigured(
            "the lake cannot be asked here", where="duckdb", why=f"{error}", run="pip install 'dsqlcdc[audit]'", code="E394"
        ) from None
    connection = duckdb.connect(config={"threads": 2, "temp_directory": str(folder)})
    connection.execute("set allowed_directories = [?]", [f"{folder}/"])
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")
    return connection


def _select(connection: Any, path: Path, where: str, values: Sequence[Any], place: str, images: bool) -> list[Version]:
    import duckdb

    shown = '"key", "row"' if images else "null, null"
    names = f'"id", "op", "schema", "table", {shown}, "version", "transaction", "late"'
    if path.suffix == ".parquet":
        source = "read_parquet(?)"
    else:
        source = (
            f"read_json(?, format = 'newline_delimited', compression = 'gzip', maximum_object_size = {_LARGEST}, "
            f"hive_partitioning = false, columns = {{{_JSON_LINES}}})"
        )
    try:
        rows = connection.execute(f"select {names} from {source} where {where}", [str(path), *values]).fetchall()
    except duckdb.Error as error:
        run = "dsqlcdc audit verify CONFIG"
        raise Misconfigured(
            "an object of the lake cannot be read", where=place, why=str(error).splitlines()[0], run=run, code="E395"
        ) from error
    return [
        Version(id, op, f"{schema}.{table}", _image(key), _image(row), version, transaction, bool(late))
        for id, op, schema, table, key, row, version, transaction, late in rows
    ]


def _image(text: str | None) -> dict[str, Any] | None:
    return None if text is None else msgspec.json.decode(text)


# ── the questions ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def of_span(span: Span) -> tuple[str, Sequence[Any]]:
    """Every commit of a span."""
    return '"version" >= ? and "version" < ?', span.nanos


def of_transaction(id: str, span: Span) -> tuple[str, Sequence[Any]]:
    """One transaction, in all tables."""
    where, values = of_span(span)
    return f'{where} and "transaction" = ?', (*values, id)


def of_key(keys: Sequence[str], span: Span) -> tuple[str, Sequence[Any]]:
    """One row, by the texts that its key may have in the lake."""
    where, values = of_span(span)
    return f'{where} and "key" in ({", ".join("?" * len(keys))})', (*values, *keys)


def key_texts(columns: Sequence[str], given: str, where: str) -> list[str]:
    """The JSON texts that the key of a row may have: `given` is a JSON object, COLUMN=VALUE pairs with commas, or the value alone.

    What is no JSON object says no types, so each value is tried as the number or boolean it may be, and as text. Raises ConfigError.
    """
    try:
        parsed: Any = msgspec.json.decode(given)
    except msgspec.DecodeError:
        parsed = None
    if isinstance(parsed, dict):
        choices: list[dict[str, list[Any]]] = [{name: [value] for name, value in parsed.items()}]  # pyright: ignore[reportUnknownVariableType]
    elif "=" in given and (len(columns) > 1 or given.partition("=")[0].strip() == columns[0]):
        pairs = [pair.partition("=") for pair in given.split(",")]
        choices = [{name.strip(): _readings(value.strip()) for name, _, value in pairs}]
    else:
        choices = [{columns[0]: _readings(given)}] if len(columns) == 1 else [{}]
    (named,) = choices
    if set(named) != set(columns):
        why, run = f"the key of this table is {', '.join(columns)}", "dsqlcdc audit show --key TABLE COLUMN=VALUE,… CONFIG"
        raise ConfigError("that names no row", where=where, why=why, run=run, code="E396")
    texts: list[dict[str, Any]] = [{}]
    for column in columns:
        texts = [{**text, column: value} for text in texts for value in named[column]]
    return [msgspec.json.encode(text).decode() for text in texts]


def _readings(text: str) -> list[Any]:
    try:
        value: Any = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return [text]
    return [text] if isinstance(value, (dict, list, str)) or value is None else [value, text]


def changed(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[tuple[str, Any, Any]]:
    """The columns in which two versions of a row differ, with both values; a column that is not there counts as null."""
    one, two = before or {}, after or {}
    return [(name, one.get(name), two.get(name)) for name in {**one, **two} if one.get(name) != two.get(name)]
