"""Parts as Parquet: the lines of the JSON form as columns, so that either form gives the other back, byte for byte.

Needs the extra `parquet` (pyarrow), which is imported where it is used.
"""

from __future__ import annotations

import base64
import io
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from importlib import import_module
from typing import IO, Any

import msgspec

from dsqlcdc.contract import Misconfigured
from dsqlcdc.lines import rewritten

SUFFIX = ".parquet"
CONTENT = "application/vnd.apache.parquet"
TYPED = "typed"
"""The column with the typed values of a table with a row model: a struct of its columns."""
_ROWS = 20_000
"""Rows at a time when reading, at the most."""
_STEP = 1024 * 1024
"""Bytes at a time when reading, about: however large a file is, little of it is in memory."""
GROUP_ROWS = 100_000
"""Rows of a row group, at the most."""
GROUP_BYTES = 16 * 1024 * 1024
"""Bytes of the lines of a row group at the most, unless a single one is larger: writers hold one in memory, and readers a column of one."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Source = bytes | IO[bytes]
"""An object, or a file that holds one: read as it is needed."""
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


class Writer:
    """One object while it grows, a row group at a time. The same row groups give the same bytes, by the same pyarrow.

    What it holds is compressed: uncompressed is one row group. Raises Misconfigured where pyarrow is missing.
    """

    def __init__(self, *, columns: Columns, raw: bool, level: int) -> None:
        self._columns, self._raw, self._shape = columns, raw, schema(columns, raw=raw)
        self._out = io.BytesIO()
        self._writer = _writer(self._out, self._shape, level)

    def add(self, lines: Sequence[bytes]) -> None:
        """A row group of these lines: GROUP_ROWS of them at the most, and GROUP_BYTES, or one."""
        columns, pa = self._columns, _pyarrow()
        rows = [_decode(line) for line in lines]
        arrays: dict[str, Any] = {
            name: [getattr(row, name) for row in rows]
            for name in ("id", "op", "schema", "table", "cluster", "version", "transaction", "shard", "sequence", "late")
        }
        for name in ("key", "row", "before", *(("raw",) if self._raw else ())):
            arrays[name] = [_text(getattr(row, name)) for row in rows]
        arrays["committed_at"] = [row.version // 1000 for row in rows]
        arrays["arrived_at"] = [_millis(row.arrived_at) for row in rows]
        if columns:
            arrays[TYPED] = [_typed(row.row, columns) for row in rows]
        self._writer.write_table(pa.table([pa.array(arrays.pop(field.name), type=field.type) for field in self._shape], schema=self._shape))

    def finish(self) -> bytes:
        """The whole object."""
        self._writer.close()
        return self._out.getvalue()


def _writer(out: IO[bytes], shape: Any, level: int) -> Any:
    return _pyarrow().parquet.ParquetWriter(out, shape, compression="zstd", compression_level=level, version="2.6", store_schema=False)


def void() -> bytes:
    """The object that voids a part: no rows, and the columns that every part has. The same bytes whatever writes them: whoever looks at one can
    tell that nothing of it was changed."""
    return zlib.decompress(base64.b85decode(_VOID))


_VOID = (
    "c-jka3^EjDk^CcI${@j3oSc!Gn<y&BAj+f4Ai<QGqRQYS!@vOL<`*Dyp^A}(SW6O<a#E2+*pqWgi%U|A5MoRc%-N}xDEy-Qa%4VRQfgX$5!@ISkTGScMa7x<c@Q2?a(-@Z"
    "W=TnEN_=98s)$dIpo|U!1I$Y9lA^@C;>6?<pn4R?6=x(Cp?HX+IJK}eH7^;(Dz3z$qRcXg(Lx}jWgtc~0OeS65=&AU#26%bG!zOFi-4L-bdw7Tbb(s(%N3w*R4_8rGte`X"
    "{KF5_Njzd`Wn^Fo07eD?@L@^^"
)


def texts(source: Source) -> Iterator[list[bytes]]:
    """The lines that an object holds, about a MiB of them together. Raises ValueError where it is no Parquet of ours."""
    pa = _pyarrow()
    try:
        file = _opened(pa, source)
        names = [name for name in file.schema_arrow.names if name not in (TYPED, "committed_at")]
        for batch in _batches(file, names):
            yield [_line(row) for row in batch.to_pylist()]
    except (pa.ArrowException, KeyError, OSError) as error:
        raise ValueError(str(error)) from error


def lines(source: Source) -> Iterator[bytes]:
    """The same, as one text each time."""
    return map(b"".join, texts(source))


def rows(source: Source) -> int:
    """How many rows an object holds. Raises ValueError where it is no Parquet."""
    pa = _pyarrow()
    try:
        count: int = _opened(pa, source).metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise ValueError(str(error)) from error
    return count


def _opened(pa: Any, source: Source) -> Any:
    if not isinstance(source, bytes):
        source.seek(0)
        return pa.parquet.ParquetFile(source, buffer_size=64 * 1024)
    return pa.parquet.ParquetFile(io.BytesIO(source))


def _batches(file: Any, columns: Sequence[str] | None = None) -> Iterator[Any]:
    """Its rows, about a MiB at a time. One row group after the other: read in one go, pyarrow would let go of none before the last."""
    rows = _together(file)
    for group in range(file.metadata.num_row_groups):
        yield from file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False)


def _together(file: Any) -> int:
    """Rows that are about a MiB, by what the file says of its sizes."""
    meta = file.metadata
    size = sum(meta.row_group(n).total_byte_size for n in range(meta.num_row_groups))
    rows: int = _STEP * meta.num_rows // max(1, size)
    return max(1, min(_ROWS, rows))


class Run(msgspec.Struct, frozen=True):
    """Rows of an object that are to go into another: `rows` from `start` on, which are `bytes` of lines."""

    source: IO[bytes]
    start: int
    rows: int
    bytes: int


def join(runs: Sequence[Run], out: IO[bytes], level: int) -> None:
    """Write one object with these rows, in this order, to `out`: its row groups follow from the rows and what is said of their bytes. Runs of
    one source stand in its own order. In memory is a row group. Raises ValueError where a source is no Parquet of ours."""
    pa = _pyarrow()
    groups = list(_row_groups(runs))
    left = Counter(id(run.source) for group in groups for run in group)
    cursors: dict[int, _Cursor] = {}
    try:
        shape = _shape_of(pa, runs)
        with _writer(out, shape, level) as writer:
            for group in groups:
                tables = [shape.empty_table()]
                for run in group:
                    name = id(run.source)
                    cursor = cursors.pop(name, None) or _Cursor(pa, run.source)
                    tables.append(cursor.take(run.start, run.rows))
                    left[name] -= 1
                    if left[name]:
                        cursors[name] = cursor
                writer.write_table(pa.concat_tables(tables, promote_options="permissive").combine_chunks())
    except (pa.ArrowException, OSError) as error:
        raise ValueError(str(error)) from error


def _shape_of(pa: Any, runs: Sequence[Run]) -> Any:
    """The columns of all sources."""
    shapes: list[Any] = []
    for source in {id(run.source): run.source for run in runs}.values():
        shape = _opened(pa, source).schema_arrow
        if shape not in shapes:
            shapes.append(shape)
    return pa.unify_schemas(shapes, promote_options="permissive")


def _row_groups(runs: Sequence[Run]) -> Iterator[list[Run]]:
    group: list[Run] = []
    rows = size = 0
    for run in runs:
        pieces = max(1, -(-run.bytes // GROUP_BYTES), -(-run.rows // GROUP_ROWS))
        each = max(1, -(-run.rows // pieces))
        for start in range(0, run.rows, each):
            piece = min(each, run.rows - start)
            weight = run.bytes * piece // run.rows
            if group and (rows + piece > GROUP_ROWS or size + weight > GROUP_BYTES):
                yield group
                group, rows, size = [], 0, 0
            group.append(Run(run.source, run.start + start, piece, weight))
            rows, size = rows + piece, size + weight
    if group:
        yield group


class _Cursor:
    """One object, read once from its beginning."""

    def __init__(self, pa: Any, source: IO[bytes]) -> None:
        self._pa = pa
        file = _opened(pa, source)
        self.schema = file.schema_arrow
        self._batches = _batches(file)
        self._at, self._rest = 0, None

    def take(self, start: int, rows: int) -> Any:
        found: list[Any] = []
        while rows:
            batch = self._rest if self._rest is not None else next(self._batches, None)
            if batch is None:
                raise ValueError("it has fewer rows than its manifest says")
            skip = min(batch.num_rows, max(0, start - self._at))
            piece = batch.slice(skip, rows)
            used = skip + piece.num_rows
            self._at, self._rest = self._at + used, batch.slice(used) if used < batch.num_rows else None
            if piece.num_rows:
                found.append(piece)
            rows -= piece.num_rows
        return self._pa.Table.from_batches(found, self.schema)


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
