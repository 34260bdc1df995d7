"""Row models: annotated types that decode DSQL's column encodings exactly, both ways, and the JSON form sinks write.

    from dsqlcdc.columns import BigInt, Numeric, Row, Text, Timestamptz

    class Order(Row):
        id: BigInt
        total: Numeric
        placed_at: Timestamptz
        note: Text | None

`decode(Order, image)` reads an image as DSQL sent it, `wire(order)` gives it back, `row_json(order)` is what sinks write:

| type                           | PostgreSQL         | in Python                      | in the JSON form
|--------------------------------|--------------------|--------------------------------|--------------------------------------------------------
| SmallInt, Integer, BigInt, Oid | the same           | int, within its range          | number, also beyond 2^53
| OidVector                      | oidvector          | tuple of int                   | array
| Real, Double                   | real, double       | float                          | number; "NaN", "Infinity", "-Infinity"
| Numeric                        | numeric            | Decimal, exact                 | string, every digit; "NaN", "Infinity", "-Infinity"
| Boolean                        | boolean            | bool                           | boolean
| Text, Varchar, Bpchar, …       | the same           | str                            | string
| Bytea                          | bytea              | bytes                          | Base64 string (standard alphabet, padded)
| Date                           | date               | Date: days                     | "2026-07-01", "infinity", "-infinity"
| Time                           | time               | Time: microseconds             | "13:45:00.000001"; "24:00:00.000000"
| Timetz                         | timetz             | Timetz: microseconds, UTC      | "13:45:00.000001Z"
| Timestamp                      | timestamp          | Timestamp: microseconds        | "2026-07-01T13:45:00.000001", "infinity" …
| Timestamptz                    | timestamptz        | Timestamptz: microseconds, UTC | "2026-07-01T13:45:00.000001Z", "infinity" …
| Interval                       | interval           | timedelta                      | number: microseconds, as sent
| Uuid                           | uuid               | uuid.UUID                      | string 8-4-4-4-12, lower case
| Json                           | json               | Json: the text; .value()       | the JSON value itself, digit for digit
| X or None                      | a column with NULL | None                           | null, also where it was absent
| a column the model lacks       |                    | in model_extra                 | as sent, value for value

"…" stands for Name and Char, of `name` and `"char"`, and for "-infinity". Times are RFC 3339 with six digits of fraction. Years before 0
and after 9999 have a sign and at least six digits, as in ISO 8601's expanded form: "+294246-12-31T00:00:00.000000Z"; year 0 is 1 BC.

Plain int, str, bool, uuid.UUID, Literal and Enum annotations are taken too, and hold what DSQL sends; datetime, date, time, timedelta,
bytes, Decimal, float and containers are refused, since plain pydantic would misread the wire: it takes a timestamp for seconds.
"""

from dsqlcdc.columns.check import check_model, load_model
from dsqlcdc.columns.jsontext import Json
from dsqlcdc.columns.kinds import (
    BigInt,
    Boolean,
    Bpchar,
    Bytea,
    Char,
    Column,
    Double,
    Integer,
    Interval,
    Name,
    Numeric,
    Oid,
    OidVector,
    Real,
    SmallInt,
    Text,
    Uuid,
    Varchar,
)
from dsqlcdc.columns.moments import Date, Time, Timestamp, Timestamptz, Timetz
from dsqlcdc.columns.rows import Row, RowError, decode, row_json, wire

__all__ = [
    "BigInt",
    "Boolean",
    "Bpchar",
    "Bytea",
    "Char",
    "Column",
    "Date",
    "Double",
    "Integer",
    "Interval",
    "Json",
    "Name",
    "Numeric",
    "Oid",
    "OidVector",
    "Real",
    "Row",
    "RowError",
    "SmallInt",
    "Text",
    "Time",
    "Timestamp",
    "Timestamptz",
    "Timetz",
    "Uuid",
    "Varchar",
    "check_model",
    "decode",
    "load_model",
    "row_json",
    "wire",
]
