"""Parts as Parquet: the lines of the JSON form as columns, so that either form gives the other back, byte for byte.

Needs the extra `parquet` (pyarrow), which is imported where it is used.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from importlib import import_module
from typing import Any

import msgspec

from dsqlcdc.contract import Misconfigured
from dsqlcdc.lines import rewritten

SUFFIX = ".parquet"
CONTENT = "application/vnd.apache.parquet"
TYPED = "typed"
"""The column with the typed values of a table with a row model: a struct of its columns."""
_ROWS = 20_000
"""Rows at a time when reading."""
_GROUP = 100_000
"""Rows of a row group."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Columns = Mapping[str, str] | None
"""The PostgreSQL types of a table's columns by name; None where it has no row model, or typed columns are not wanted."""


class _Line(msgspec.Struct, gc=False):
    id: str
    op: str
    schema: str
    table: str
    cluster: str
    key: msgspec.Raw
    row: msgspec.Raw
    before: msgspec.Raw
    version: int
    transaction: str
    shard: str
    sequence: str
    arrived_at: str
    late: bool = False
    raw: msgspec.Raw = msgspec.Raw(b"null")


_decode = msgspec.json.Decoder(_Line).decode
_decode_row = msgspec.json.Decoder(dict[str, Any]).decode


def _pyarrow() -> Any:
    try:
        import_module("pyarrow.parquet")
    except ImportError as error:
        raise Misconfigured(
            "Parquet cannot be read or written here", where="pyarrow", why=f"{error}", run="pip install 'dsqlcdc[parquet]'", code="E398"
        ) from None
    return import_module("pyarrow")


def schema(columns: Columns = None, *, raw: bool = False) -> Any:
    """The columns of a part. Raises Misconfigured where pyarrow is missing."""
    pa = _pyarrow()
    text, moment = pa.string(), pa.timestamp("us", tz="UTC")
    fields = [(name, text, False) for name in ("id", "op", "schema", "table", "cluster")]
    fields += [(name, text, True) for name in ("key", "row", "before")]
    fields += [("version", pa.int64(), False), ("committed_at", moment, False)]
    fields += [(name, text, False) for name in ("transaction", "shard", "sequence")]
    fields += [("arrived_at", pa.timestamp("ms", tz="UTC"), False), ("late", pa.bool_(), False)]
    if raw:
        fields.append(("raw", text, True))
    if columns:
        fields.append((TYPED, pa.struct([(name, _type(pa, kind)) for name, kind in columns.items()]), True))
    return pa.schema([pa.field(name, kind, nullable=nullable) for name, kind, nullable in fields])


def encode(lines: Sequence[bytes], *, columns: Columns, raw: bool, level: int) -> bytes:
    """The object that holds these lines of one table. The same lines give the same bytes, by the same pyarrow."""
    pa, shape = _pyarrow(), schema(columns, raw=raw)
    rows = [_decode(line) for line in lines]
    arrays: dict[str, Any] = {
        name: [getattr(row, name) for row in rows]
        for name in ("id", "op", "schema", "table", "cluster", "version", "transaction", "shard", "sequence", "late")
    }
    for name in ("key", "row", "before", *(("raw",) if raw else ())):
        arrays[name] = [_text(getattr(row, name)) for row in rows]
    arrays["committed_at"] = [row.version // 1000 for row in rows]
    arrays["arrived_at"] = [_millis(row.arrived_at) for row in rows]
    if columns:
        arrays[TYPED] = [_typed(row.row, columns) for row in rows]
    table = pa.table([pa.array(arrays[field.name], type=field.type) for field in shape], schema=shape)
    return _write(table, level)


def _write(table: Any, level: int) -> bytes:
    out = io.BytesIO()
    _pyarrow().parquet.write_table(
        table, out, compression="zstd", compression_level=level, version="2.6", row_group_size=_GROUP, store_schema=False
    )
    return out.getvalue()


def void() -> bytes:
    """The object that voids a part: no rows, and the columns that every part has."""
    return _write(schema().empty_table(), 3)


def lines(body: bytes) -> Iterator[bytes]:
    """The lines that an object holds, some thousands together. Raises ValueError where it is no Parquet of ours."""
    pa = _pyarrow()
    try:
        file = pa.parquet.ParquetFile(io.BytesIO(body))
        names = [name for name in file.schema_arrow.names if name not in (TYPED, "committed_at")]
        for batch in file.iter_batches(_ROWS, columns=names):
            yield b"".join([_line(row) for row in batch.to_pylist()])
    except (pa.ArrowException, KeyError, OSError) as error:
        raise ValueError(str(error)) from error


def rows(body: bytes) -> int:
    """How many rows an object holds. Raises ValueError where it is no Parquet."""
    pa = _pyarrow()
    try:
        return int(pa.parquet.ParquetFile(io.BytesIO(body)).metadata.num_rows)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(str(error)) from error


def joined(bodies: Sequence[tuple[bytes, int, int]], level: int) -> bytes:
    """One object with the rows of several, each (object, first row, how many), in this order."""
    pa = _pyarrow()
    tables = [pa.parquet.read_table(io.BytesIO(body)).slice(start, count) for body, start, count in bodies]
    return _write(pa.concat_tables(tables, promote_options="permissive"), level)


def _line(row: Mapping[str, Any]) -> bytes:
    return rewritten(
        id=row["id"],
        op=row["op"],
        schema=row["schema"],
        table=row["table"],
        cluster=row["cluster"],
        key=row["key"],
        row=row["row"],
        before=row["before"],
        version=row["version"],
        transaction=row["transaction"],
        shard=row["shard"],
        sequence=row["sequence"],
        arrived_millis=(row["arrived_at"] - _EPOCH) // timedelta(milliseconds=1),
        late=row["late"],
        raw=row.get("raw"),
    )


def _text(image: msgspec.Raw) -> str | None:
    text = bytes(image)
    return None if text == b"null" else text.decode()


def _millis(moment: str) -> int:
    return (datetime.fromisoformat(moment) - _EPOCH) // timedelta(milliseconds=1)


# ── typed columns: what a row model says of a value, as Parquet knows it; null where it cannot (infinite times, say): `row` has it exact ──


def _type(pa: Any, kind: str) -> Any:
    made: dict[str, Callable[[], Any]] = {
        "smallint": pa.int16,
        "integer": pa.int32,
        "bigint": pa.int64,
        "oid": pa.int64,
        "interval": pa.int64,
        "real": pa.float32,
        "double precision": pa.float64,
        "boolean": pa.bool_,
        "bytea": pa.binary,
        "date": pa.date32,
        "time": lambda: pa.time64("us"),
        "timetz": lambda: pa.time64("us"),
        "timestamp": lambda: pa.timestamp("us"),
        "timestamptz": lambda: pa.timestamp("us", tz="UTC"),
    }
    make: Callable[[], Any] = made.get(kind) or pa.string
    return make()


def _typed(image: msgspec.Raw, columns: Mapping[str, str]) -> dict[str, Any] | None:
    if bytes(image) == b"null":
        return None
    row = _decode_row(image)
    return {name: _value(row.get(name), kind) for name, kind in columns.items()}


def _value(value: Any, kind: str) -> Any:
    if value is None:
        return None
    try:
        read: Callable[[Any], Any] = _FROM_JSON.get(kind, _as_text)
        return read(value)
    except (ValueError, TypeError, OverflowError):
        return None


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _whole(bits: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        number = int(value)
        if not -(1 << bits - 1) <= number < 1 << bits - 1:
            raise OverflowError
        return number

    return read


def _real(value: Any) -> float:
    number = float(value)
    return number if math.isfinite(number) or isinstance(value, str) else math.nan


_FROM_JSON: Mapping[str, Callable[[Any], Any]] = {
    "smallint": _whole(16),
    "integer": _whole(32),
    "bigint": _whole(64),
    "oid": _whole(64),
    "interval": _whole(64),
    "real": _real,
    "double precision": _real,
    "boolean": bool,
    "bytea": lambda value: base64.b64decode(value, validate=True),
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timetz": lambda value: time.fromisoformat(value).replace(tzinfo=None),
    "timestamp": datetime.fromisoformat,
    "timestamptz": datetime.fromisoformat,
}
