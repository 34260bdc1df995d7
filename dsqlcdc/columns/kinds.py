"""The column types that decode to Python's own values, and what a column type is: how it is read, and written in both forms."""

from __future__ import annotations

import binascii
import datetime as dt
import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core import core_schema as cs

Write = Callable[[Any], Any]
"""Makes of a value something that msgspec writes as JSON."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column type of DSQL. Stands in the metadata of an Annotated type, or in COLUMNS for a class of our own.

    `schema` reads the wire when validating JSON, and checked Python values otherwise. `to_json` and `to_wire` make the JSON form and the
    wire's encoding of a value that is not None; None where msgspec writes the value itself as it should be.
    """

    name: str
    schema: CoreSchema = field(repr=False, compare=False)
    to_json: Write | None = field(default=None, repr=False, compare=False)
    to_wire: Write | None = field(default=None, repr=False, compare=False)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return self.schema


COLUMNS: Final[dict[type, Column]] = {}
"""Column types that are classes of their own."""

INT64: Final = (-(2**63), 2**63 - 1)


def column(
    name: str,
    wire: CoreSchema,
    value: CoreSchema,
    to_json: Write | None = None,
    to_wire: Write | None = None,
    dumped: Write | None = None,
) -> Column:
    """A column type: `wire` reads DSQL's JSON, `value` checks what Python code passes in. `dumped` is for pydantic's own model_dump_json,
    where that cannot take what `to_json` makes."""
    write = dumped or to_json
    written = None if write is None else cs.plain_serializer_function_ser_schema(write, when_used="json-unless-none")
    return Column(name, cs.json_or_python_schema(json_schema=wire, python_schema=value, serialization=written), to_json, to_wire)


def counted(name: str, cls: type[Any], low: int, high: int) -> Column:
    """A class of our own over one whole number on the wire; its `str` is the JSON form."""
    wire = cs.no_info_after_validator_function(cls, cs.int_schema(strict=True, ge=low, le=high))
    return column(name, wire, cs.is_instance_schema(cls), str, lambda value: value.count())


def _integer(name: str, low: int, high: int) -> Column:
    schema = cs.int_schema(strict=True, ge=low, le=high)
    return column(name, schema, schema)


def _text(name: str) -> Column:
    schema = cs.str_schema(strict=True)
    return column(name, schema, schema)


# numeric ---------------------------------------------------------------------------------------------------------------------------

_NUMERIC = r"^(?:-?[0-9]+(?:\.[0-9]+)?|NaN|-?Infinity)$"
_read_numeric = cs.custom_error_schema(
    cs.no_info_after_validator_function(Decimal, cs.str_schema(strict=True, pattern=_NUMERIC)),
    custom_error_type="dsql_numeric",
    custom_error_message="a numeric is a string of digits, or NaN, Infinity, -Infinity",
)


def _take_numeric(value: Any) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if type(value) is int:
        return Decimal(value)
    raise PydanticCustomError("dsql_numeric", "a numeric takes a Decimal or an int: a float is not exact")


def write_numeric(value: Decimal) -> str:
    """All digits, no exponent, trailing zeros kept: what PostgreSQL writes."""
    text = str(value)
    if "N" in text:
        return "NaN"
    return format(value, "f") if "E" in text or "e" in text else text


# real, double precision ------------------------------------------------------------------------------------------------------------

_FLOAT_SPECIALS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_REAL_LIMIT = 3.4028235677973366e38
"""From here on a number rounds to infinity in four bytes."""


def _read_float_special(sent: Any) -> float:
    special = _FLOAT_SPECIALS.get(sent) if type(sent) is str else None
    if special is None:
        raise ValueError("neither a number nor a special")
    return special


def _floating(name: str, limit: float | None) -> Column:
    number = cs.float_schema(strict=True, allow_inf_nan=False, lt=limit, gt=None if limit is None else -limit)
    wire = cs.union_schema(
        [number, cs.no_info_plain_validator_function(_read_float_special)],
        mode="left_to_right",
        custom_error_type="dsql_float",
        custom_error_message=f"a {name} is a number within its range, or the string NaN, Infinity or -Infinity",
    )
    return column(name, wire, cs.float_schema(), write_float, write_float)


def write_float(value: float) -> float | str:
    """The number, or one of the three specials as a string."""
    if math.isfinite(value):
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


# bytea, interval, oidvector --------------------------------------------------------------------------------------------------------


def _read_bytea(sent: Any) -> bytes:
    if type(sent) is str:
        try:
            return binascii.a2b_base64(sent, strict_mode=True)
        except ValueError:  # binascii.Error, or characters beyond ASCII
            pass
    raise PydanticCustomError("dsql_bytea", "a bytea is a Base64 string")


def _read_interval(micros: int) -> dt.timedelta:
    return dt.timedelta(microseconds=micros)


def write_interval(value: dt.timedelta) -> int:
    """Microseconds, exactly."""
    micros = (value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds
    if not INT64[0] <= micros <= INT64[1]:
        raise OverflowError("an interval beyond 64 bits of microseconds")
    return micros


_int64 = cs.int_schema(strict=True, ge=INT64[0], le=INT64[1])
_oid = cs.int_schema(strict=True, ge=0, le=2**32 - 1)
_oids = cs.no_info_after_validator_function(tuple, cs.list_schema(_oid, strict=True))

SmallInt = Annotated[int, _integer("smallint", -(2**15), 2**15 - 1)]
Integer = Annotated[int, _integer("integer", -(2**31), 2**31 - 1)]
BigInt = Annotated[int, _integer("bigint", *INT64)]
Oid = Annotated[int, _integer("oid", 0, 2**32 - 1)]
OidVector = Annotated[tuple[int, ...], column("oidvector", _oids, cs.tuple_schema([_oid], variadic_item_index=0, strict=True), list, list)]
Real = Annotated[float, _floating("real", _REAL_LIMIT)]
Double = Annotated[float, _floating("double precision", None)]
Numeric = Annotated[
    Decimal,
    column(
        "numeric", _read_numeric, cs.no_info_plain_validator_function(_take_numeric),
        write_numeric, write_numeric,
    ),
]  # fmt: skip
Boolean = Annotated[bool, column("boolean", cs.bool_schema(strict=True), cs.bool_schema(strict=True))]
Text = Annotated[str, _text("text")]
Varchar = Annotated[str, _text("varchar")]
Bpchar = Annotated[str, _text("bpchar")]
"""Trailing spaces are stripped by the service."""
Name = Annotated[str, _text("name")]
Char = Annotated[str, _text('"char"')]
Bytea = Annotated[bytes, column("bytea", cs.no_info_plain_validator_function(_read_bytea), cs.bytes_schema(strict=True))]
Interval = Annotated[
    dt.timedelta,
    column(
        "interval", cs.no_info_after_validator_function(_read_interval, _int64), cs.timedelta_schema(strict=True),
        write_interval, write_interval,
    ),
]  # fmt: skip
"""The service's approximation in microseconds (a month is 2,629,800 s); every one of 64 bits fits a timedelta."""
Uuid = Annotated[uuid.UUID, column("uuid", cs.uuid_schema(), cs.uuid_schema(strict=True))]
