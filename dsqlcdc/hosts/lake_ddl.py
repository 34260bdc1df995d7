"""SQL that makes a lake readable: a table over its objects, its changes once each, and the rows as they are now. For Athena and DuckDB."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from urllib.parse import quote

import msgspec

_TEXT = ("id", "op", "schema", "table", "cluster", "key", "row", "before")
_TAIL = ("transaction", "shard", "sequence")
_DUCKDB = {
    "smallint": "smallint",
    "integer": "integer",
    "bigint": "bigint",
    "oid": "bigint",
    "interval": "bigint",
    "real": "real",
    "double precision": "double",
    "boolean": "boolean",
    "date": "date",
    "time": "time",
    "timestamp": "timestamp",
    "timestamptz": "timestamptz",
    "uuid": "uuid",
}
_ATHENA = {
    "smallint": "smallint",
    "integer": "integer",
    "bigint": "bigint",
    "oid": "bigint",
    "interval": "bigint",
    "real": "real",
    "double precision": "double",
    "boolean": "boolean",
    "date": "date",
}


class Target(msgspec.Struct, frozen=True):
    """One table of a lake. `place`: what is before data/, an s3:// address or a folder, with a slash at its end; `columns`: the PostgreSQL
    types of its columns by name, None where there is no row model; `typed`: Parquet has them as a struct; `since`: the day of its first
    commit."""

    schema: str
    name: str
    place: str
    format: str
    columns: Mapping[str, str] | None
    typed: bool
    since: date

    @property
    def folder(self) -> str:
        """Where its objects are."""
        return f"{self.place}data/{_encoded(self.schema)}.{_encoded(self.name)}/"

    @property
    def base(self) -> str:
        """What the names of its table and views begin with: schema_name, in letters, digits and underscores."""
        return "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in f"{self.schema}_{self.name}".lower())


def _encoded(name: str) -> str:
    return quote(name.encode("utf-8", "surrogatepass"), safe="").replace(".", "%2E")


def duckdb(target: Target) -> str:
    """A view over the objects, one of the changes, one of the rows as they are now."""
    parquet = target.format == "parquet"
    glob = _literal(f"{target.folder}**/*.{'parquet' if parquet else 'jsonl.gz'}")
    if parquet:
        source = f"read_parquet({glob}, hive_partitioning = true, union_by_name = true)"
    else:
        kinds = dict.fromkeys((*_TEXT, *_TAIL), "varchar") | {"key": "json", "row": "json", "before": "json"}
        kinds |= {"version": "bigint", "committed_at": "timestamptz", "arrived_at": "timestamptz", "late": "boolean"}
        columns = ", ".join(f"{_quoted(name)}: '{kind}'" for name, kind in kinds.items())
        source = (
            f"read_json({glob}, format = 'newline_delimited', maximum_object_size = 268435456, hive_partitioning = true,\n"
            f"               columns = {{{columns}}})"
        )
    raw, changes, current = (_quoted(f"{target.base}_{word}") for word in ("lake", "changes", "current"))
    return "\n".join(
        (
            f"create or replace view {raw} as\nselect * from {source};",
            "",
            f"create or replace view {changes} as\n{_once(raw)};",
            "",
            f"create or replace view {current} as\n{_newest(changes, _duckdb_columns(target))};",
            "",
        )
    )


def athena(target: Target) -> str:
    """An external table with partition projection (no crawler, no partitions to add), one view of the changes, one of the rows as they are."""
    parquet = target.format == "parquet"
    moment = "timestamp" if parquet else "string"
    kinds = dict.fromkeys(_TEXT, "string") | {"version": "bigint", "committed_at": moment} | dict.fromkeys(_TAIL, "string")
    kinds |= {"arrived_at": moment, "late": "boolean"}
    if parquet and target.typed and target.columns:
        fields = ",".join(f"{_field(name)}:{_hive(kind)}" for name, kind in target.columns.items())
        kinds["typed"] = f"struct<{fields}>"
    columns = ",\n".join(f"  `{name}` {kind}" for name, kind in kinds.items())
    stored = (
        "STORED AS PARQUET"
        if parquet
        else "ROW FORMAT SERDE 'org.openx.data.jsonserde.JsonSerDe'\n"
        "WITH SERDEPROPERTIES ('ignore.malformed.json' = 'false', 'case.insensitive' = 'false')"  # or it writes the columns of rows in lower case
    )
    properties = {
        "projection.enabled": "true",
        "projection.dt.type": "date",
        "projection.dt.format": "yyyy-MM-dd",
        "projection.dt.range": f"{target.since.isoformat()},NOW",
        "projection.dt.interval": "1",
        "projection.dt.interval.unit": "DAYS",
        "projection.hour.type": "integer",
        "projection.hour.range": "0,23",
        "projection.hour.digits": "2",
        "storage.location.template": f"{target.folder}dt=${{dt}}/hour=${{hour}}/",
    }
    settings = ",\n".join(f"  {_hive_literal(name)} = {_hive_literal(value)}" for name, value in properties.items())
    raw, changes, current = (f"{target.base}_{word}" for word in ("lake", "changes", "current"))
    return "\n".join(
        (
            f"CREATE EXTERNAL TABLE IF NOT EXISTS `{raw}` (\n{columns}\n)\nPARTITIONED BY (`dt` string, `hour` string)\n{stored}",
            f"LOCATION {_hive_literal(target.folder)}\nTBLPROPERTIES (\n{settings}\n);",
            "",
            f"CREATE OR REPLACE VIEW {_quoted(changes)} AS\n{_once(_quoted(raw))};",
            "",
            f"CREATE OR REPLACE VIEW {_quoted(current)} AS\n{_newest(_quoted(changes), _athena_columns(target))};",
            "",
        )
    )


def _once(source: str) -> str:
    """One row for each id: whatever was delivered at least once, or compacted, counts once."""
    names = ", ".join(_quoted(name) for name in (*_TEXT, "version", "committed_at", *_TAIL, "arrived_at", "late", "dt", "hour"))
    return (
        f"select {names}\nfrom (select *, row_number() over (partition by id order by arrived_at, shard, sequence) as copy from {source}) as s\n"
        "where copy = 1"
    )


def _newest(source: str, columns: str) -> str:
    """The newest version of each row, unless that is a delete. Changes without a key are of no row that could be told."""
    return (
        f'select "key", "row", {columns}version, committed_at, "transaction"\n'
        f'from (select *, row_number() over (partition by cast("key" as varchar) order by version desc, id) as place from {source}\n'
        "      where \"key\" is not null) as s\nwhere place = 1 and op <> 'delete'"
    )


def _duckdb_columns(target: Target) -> str:
    made = [
        f'try_cast(json_extract_string("row", {_literal(_pointer(name))}) as {_DUCKDB.get(kind, "varchar")}) as {_quoted(_free(name))}'
        for name, kind in (target.columns or {}).items()
    ]
    return "".join(f"\n       {one}, " for one in made)


def _athena_columns(target: Target) -> str:
    """As text where Athena's cast knows less than PostgreSQL."""
    made: list[str] = []
    for name, kind in (target.columns or {}).items():
        quoted = name.replace("\\", "\\\\").replace('"', '\\"')
        path = _literal(f'$["{quoted}"]')
        if kind == "json":
            made.append(f'json_format(json_extract("row", {path})) as {_quoted(_free(name))}')
        else:
            value = f'json_extract_scalar("row", {path})'
            made.append(f"try_cast({value} as {_ATHENA.get(kind, 'varchar')}) as {_quoted(_free(name))}")
    return "".join(f"\n       {one}, " for one in made)


def _free(name: str) -> str:
    """A column's name, with an underscore where the view has one of that name."""
    return f"{name}_" if name.lower() in ("key", "row", "version", "committed_at", "transaction") else name


def _pointer(name: str) -> str:
    return "/" + name.replace("~", "~0").replace("/", "~1")


def _hive(kind: str) -> str:
    return {
        "smallint": "smallint",
        "integer": "int",
        "bigint": "bigint",
        "oid": "bigint",
        "interval": "bigint",
        "real": "float",
        "double precision": "double",
        "boolean": "boolean",
        "bytea": "binary",
        "date": "date",
        "time": "bigint",
        "timetz": "bigint",
        "timestamp": "timestamp",
        "timestamptz": "timestamp",
    }.get(kind, "string")


def _field(name: str) -> str:
    """A field of a struct in Athena's DDL, which takes plain names as they are."""
    plain = name.isascii() and name.isidentifier() and name == name.lower()
    return name if plain else f"`{name.replace('`', '``')}`"


def _hive_literal(text: str) -> str:
    """In DDL, which Athena reads as Hive does: there two quotes are the end of one text and the beginning of another."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
