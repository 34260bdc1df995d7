"""Models that the tests of row models share."""

from dsqlcdc.columns import (
    BigInt,
    Boolean,
    Bpchar,
    Bytea,
    Char,
    Date,
    Double,
    Integer,
    Interval,
    Json,
    Name,
    Numeric,
    Oid,
    OidVector,
    Real,
    Row,
    SmallInt,
    Text,
    Time,
    Timestamp,
    Timestamptz,
    Timetz,
    Uuid,
    Varchar,
)


class Everything(Row):
    """Every column type, each of them nullable."""

    small: SmallInt | None
    integer: Integer | None
    big: BigInt | None
    oid: Oid | None
    oids: OidVector | None
    real: Real | None
    double: Double | None
    numeric: Numeric | None
    flag: Boolean | None
    text: Text | None
    varchar: Varchar | None
    bpchar: Bpchar | None
    name: Name | None
    char: Char | None
    blob: Bytea | None
    day: Date | None
    clock: Time | None
    clock_utc: Timetz | None
    local: Timestamp | None
    moment: Timestamptz | None
    span: Interval | None
    ref: Uuid | None
    doc: Json | None


class Order(Row):
    """Eight typed columns, two of them nullable."""

    id: BigInt
    customer: Text
    total: Numeric
    placed_at: Timestamptz
    day: Date | None
    paid: Boolean
    ref: Uuid | None
    weight: Double


ORDER = (
    b'{"id":1152921504606846976,"customer":"M\xc3\xbcller","total":"1234.50","placed_at":1782912345678901,"day":20600,"paid":true,'
    b'"ref":"aa4e1b97-36eb-4779-b1a0-4ef860951f0c","weight":1.25}'
)
