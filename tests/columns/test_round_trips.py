"""Wire to value and back is the identity, over the whole range of every column type; and what is out of range is refused."""

from __future__ import annotations

import base64
import json
import math
import struct
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsqlcdc.columns import RowError, Timestamptz, decode, row_json, wire
from tests.columns.models import Everything

INT64 = st.integers(-(2**63), 2**63 - 1)
SPECIALS = st.sampled_from(["NaN", "Infinity", "-Infinity"])
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def _single(number: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", number))[0])


def _digits(parts: tuple[str, int, str, int]) -> str:
    sign, whole, fraction, width = parts
    return f"{sign}{whole}" + (f".{fraction[:width]}" if fraction[:width] else "")


NUMERIC = st.one_of(
    SPECIALS,
    st.tuples(
        st.sampled_from(["", "-"]), st.integers(0, 10**60), st.text("0123456789", max_size=40), st.integers(0, 40)
    ).map(_digits),
)  # fmt: skip
JSON_TEXT = st.one_of(
    st.recursive(
        st.none() | st.booleans() | INT64 | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=8,
    ).flatmap(lambda value: st.sampled_from([json.dumps(value), json.dumps(value, indent=1), json.dumps(value, ensure_ascii=False)])),
    st.sampled_from([' {"a": 1.10e+5, "a":0.000 }\n', "12345678901234567890123", "1E400", '"\\ud800"', '["\\u00e9\\/"]', "-0"]),
)
WIRE: dict[str, st.SearchStrategy[Any]] = {
    "small": st.integers(-(2**15), 2**15 - 1),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "big": INT64,
    "oid": st.integers(0, 2**32 - 1),
    "oids": st.lists(st.integers(0, 2**32 - 1), max_size=3),
    "real": SPECIALS | st.floats(allow_nan=False, allow_infinity=False, width=32),
    "double": SPECIALS | st.floats(allow_nan=False, allow_infinity=False),
    "numeric": NUMERIC,
    "flag": st.booleans(),
    "text": TEXT,
    "varchar": TEXT,
    "bpchar": TEXT,
    "name": TEXT,
    "char": TEXT,
    "blob": st.binary().map(lambda data: base64.b64encode(data).decode()),
    "day": INT64,
    "clock": st.integers(0, 86_400_000_000),
    "clock_utc": st.integers(0, 86_400_000_000),
    "local": INT64,
    "moment": INT64,
    "span": INT64,
    "ref": st.uuids().map(str),
    "doc": JSON_TEXT,
}
IMAGE = st.fixed_dictionaries({}, optional={name: st.none() | values for name, values in WIRE.items()})


@given(IMAGE)
@example({"moment": 9_223_372_036_825_200_000, "local": -9_223_372_036_832_400_000, "day": 2**31 - 1})
@example({"moment": 2**63 - 1, "day": -(2**63), "span": -(2**63), "numeric": "-0.00", "double": -0.0})
def test_wire_to_value_to_wire_is_the_identity(image: dict[str, Any]) -> None:
    row = decode(Everything, json.dumps(image).encode())
    assert json.loads(wire(row)) == image
    assert list(json.loads(wire(row))) == [name for name in WIRE if name in image]
    assert decode(Everything, wire(row)).model_fields_set == row.model_fields_set


@given(st.fixed_dictionaries(WIRE))
def test_no_value_of_any_column_type_is_lost_or_changed_on_the_way_to_python(image: dict[str, Any]) -> None:
    row = decode(Everything, json.dumps(image).encode())
    counts = (row.day, row.clock, row.clock_utc, row.local, row.moment)
    assert [value.count() for value in counts if value is not None] == [image[n] for n in ("day", "clock", "clock_utc", "local", "moment")]
    assert row.numeric is not None
    assert (row.numeric.is_nan() and image["numeric"] == "NaN") or row.numeric == Decimal(image["numeric"])
    assert row.blob == base64.b64decode(image["blob"])
    assert row.doc is not None
    assert row.doc.text == image["doc"]
    assert (row.big, row.text, row.flag) == (image["big"], image["text"], image["flag"])


def test_the_round_trip_law_fails_for_a_column_read_as_a_float() -> None:
    """Control: a reader that goes through a float loses digits that the law sees."""
    image = {"big": 2**63 - 1, "numeric": "0.10000000000000000001"}
    row = decode(Everything, json.dumps(image).encode())
    assert row.big is not None
    assert row.numeric is not None
    through_floats = row.model_copy(update={"big": int(float(row.big)), "numeric": Decimal(str(float(row.numeric)))})
    assert json.loads(wire(row)) == image
    assert json.loads(wire(through_floats)) != image


@given(st.fixed_dictionaries(WIRE))
def test_the_json_form_is_one_line_of_json_that_strict_readers_take(image: dict[str, Any]) -> None:
    line = row_json(decode(Everything, json.dumps(image).encode()))
    assert b"\n" not in line
    assert set(msgspec.json.decode(line, type=dict[str, msgspec.Raw])) == set(WIRE)


@pytest.mark.parametrize(
    ("column", "sent"),
    [
        ("small", 2**15), ("small", -(2**15) - 1), ("integer", 2**31), ("big", 2**63), ("big", -(2**63) - 1), ("oid", -1), ("oid", 2**32),
        ("big", 1.0), ("big", "1"), ("big", True), ("oids", [2**32]), ("oids", "1"), ("oids", [None]),
        ("real", 3.5e38), ("real", -3.5e38), ("double", "nan"), ("double", "1.5"), ("double", True), ("double", 10**400),
        ("numeric", 1), ("numeric", 1.5), ("numeric", "1e5"), ("numeric", "1_000"), ("numeric", " 1"), ("numeric", ""), ("numeric", "sNaN"),
        ("numeric", "١"), ("numeric", "1\n"), ("numeric", "inf"), ("numeric", "-NaN"), ("numeric", "."), ("numeric", "1."),
        ("flag", 1), ("flag", "true"), ("text", 1), ("text", ["a"]),
        ("blob", "a"), ("blob", "QQ"), ("blob", "Q-=="), ("blob", "QQ==\n"), ("blob", "é==="), ("blob", 5),
        ("day", 2**63), ("day", 1.5), ("day", "2026-07-01"), ("clock", -1), ("clock", 86_400_000_001), ("clock_utc", "10:00Z"),
        ("local", 2**63), ("moment", -(2**63) - 1), ("moment", "2026-07-01T00:00:00Z"), ("moment", 1.5), ("span", 2**63), ("span", "PT1S"),
        ("ref", "not-a-uuid"), ("ref", 5), ("doc", "{"), ("doc", "NaN"), ("doc", "[Infinity]"), ("doc", ""), ("doc", {"a": 1}),
        ("doc", "[" * 100_000 + "]" * 100_000), ("doc", "1 2"),
    ],
)  # fmt: skip
def test_what_the_column_cannot_hold_is_refused_by_name_and_without_its_value(column: str, sent: Any) -> None:
    with pytest.raises(RowError) as caught:
        decode(Everything, json.dumps({column: sent}).encode())
    assert (caught.value.column, len(caught.value.findings)) == (column, 1)
    assert column in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("number", [b"1e400", b"-1e400", b"NaN", b"Infinity", b"-Infinity"])
@pytest.mark.parametrize("column", ["real", "double", "big", "unknown"])
def test_a_number_that_no_float_holds_is_refused(column: str, number: bytes) -> None:
    with pytest.raises(RowError, match=column):
        decode(Everything, b'{"%s":%s}' % (column.encode(), number))


@pytest.mark.parametrize(("sent", "value"), [("NaN", math.nan), ("Infinity", math.inf), ("-Infinity", -math.inf), (5, 5.0), (-0.0, -0.0)])
@pytest.mark.parametrize("column", ["real", "double"])
def test_floats_take_the_three_specials_and_whole_numbers(column: str, sent: Any, value: float) -> None:
    got = getattr(decode(Everything, json.dumps({column: sent}).encode()), column)
    assert struct.pack("<d", got) == struct.pack("<d", value)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_a_real_keeps_its_four_bytes(number: float) -> None:
    row = decode(Everything, json.dumps({"real": number}).encode())
    assert row.real is not None
    assert _single(row.real) == number


@given(INT64, INT64)
def test_timestamps_order_as_their_microseconds_with_infinity_above_all(a: int, b: int) -> None:
    first, second = Timestamptz(a), Timestamptz(b)
    finite = not first.infinite() and not second.infinite()
    assert not finite or ((first < second) == (a < b) and (first >= second) == (a >= b))
    assert Timestamptz.minus_infinity() <= first <= Timestamptz.infinity()
