"""The documented JSON form, as a table: what the wire sends and what sinks write."""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.columns import Json, decode, row_json
from tests.columns.models import ORDER, Everything, Order

TABLE = [
    ("small", "-32768", "-32768"),
    ("integer", "2147483647", "2147483647"),
    ("big", "9223372036854775807", "9223372036854775807"),
    ("big", "-9223372036854775808", "-9223372036854775808"),
    ("oid", "4294967295", "4294967295"),
    ("oids", "[]", "[]"),
    ("oids", "[1,2]", "[1,2]"),
    ("real", "0.1", "0.1"),
    ("double", "-0.0", "-0.0"),
    ("double", "1e22", "1e22"),
    ("double", '"NaN"', '"NaN"'),
    ("double", '"Infinity"', '"Infinity"'),
    ("real", '"-Infinity"', '"-Infinity"'),
    ("numeric", '"0.10"', '"0.10"'),
    ("numeric", '"-12345678901234567890123456789.000"', '"-12345678901234567890123456789.000"'),
    ("numeric", '"0.0000000000"', '"0.0000000000"'),
    ("numeric", '"0.00000001"', '"0.00000001"'),
    ("numeric", '"NaN"', '"NaN"'),
    ("numeric", '"Infinity"', '"Infinity"'),
    ("numeric", '"-Infinity"', '"-Infinity"'),
    ("flag", "true", "true"),
    ("text", '"\\u00e9\\n\\"\\\\/"', '"é\\n\\"\\\\/"'),
    ("bpchar", '"ab"', '"ab"'),
    ("blob", '"AP+/"', '"AP+/"'),
    ("blob", '""', '""'),
    ("day", "20635", '"2026-07-01"'),
    ("day", "2147483647", '"infinity"'),
    ("day", "-2147483648", '"-infinity"'),
    ("day", "2932897", '"+010000-01-01"'),
    ("clock", "0", '"00:00:00.000000"'),
    ("clock", "86400000000", '"24:00:00.000000"'),
    ("clock_utc", "49500000001", '"13:45:00.000001Z"'),
    ("local", "1782912345678901", '"2026-07-01T13:25:45.678901"'),
    ("moment", "1782912345678901", '"2026-07-01T13:25:45.678901Z"'),
    ("moment", "0", '"1970-01-01T00:00:00.000000Z"'),
    ("moment", "9223372036825200000", '"infinity"'),
    ("local", "-9223372036832400000", '"-infinity"'),
    ("moment", "-62167219200000001", '"-000001-12-31T23:59:59.999999Z"'),
    ("span", "-2629800000000", "-2629800000000"),
    ("ref", '"AA4E1B97-36EB-4779-B1A0-4EF860951F0C"', '"aa4e1b97-36eb-4779-b1a0-4ef860951f0c"'),
    ("doc", '"{\\"a\\": 1.10, \\"b\\":12345678901234567890123}"', '{"a": 1.10, "b":12345678901234567890123}'),
    ("doc", '"[1.0e+5,\\n  \\"x\\\\n\\"]"', '[1.0e+5,"x\\n"]'),
    ("doc", '"null"', "null"),
    ("doc", '"\\"\\\\ud800\\""', '"\\"\\\\ud800\\""'),
    ("doc", "null", "null"),
    ("unknown", "12345678901234567890", "12345678901234567890"),
    ("unknown", '"2026"', '"2026"'),
]


@pytest.mark.parametrize(("column", "sent", "written"), TABLE)
def test_the_json_form_is_the_documented_one(column: str, sent: str, written: str) -> None:
    row = decode(Everything, f'{{"{column}":{sent}}}'.encode())
    assert msgspec.json.decode(row_json(row), type=dict[str, msgspec.Raw])[column] == msgspec.Raw(written)


def test_every_column_of_the_model_is_written_in_the_models_order_and_then_the_unknown_ones() -> None:
    row = decode(Order, ORDER[:-1] + b',"zz":1,"aa":2}')
    assert list(json.loads(row_json(row))) == ["id", "customer", "total", "placed_at", "day", "paid", "ref", "weight", "zz", "aa"]


def test_pydantics_own_dump_gives_the_same_values() -> None:
    row = decode(Order, ORDER)
    assert json.loads(row.model_dump_json()) == json.loads(row_json(row))
    documented = decode(Everything, b'{"doc":"[1, 2.5]","moment":9223372036825200000,"double":"NaN","span":5}')
    assert json.loads(documented.model_dump_json()) == json.loads(row_json(documented))


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_a_json_value_made_in_python_is_given_back(value: object) -> None:
    assert Json.of(value).value() == value


def test_numbers_in_a_json_column_are_exact() -> None:
    doc = Json.parse('{"a": 0.1000000000000000000000001, "b": 123456789012345678901234567890}')
    assert str(doc.value()["a"]) == "0.1000000000000000000000001"
    assert doc.value()["b"] == 123456789012345678901234567890
    assert len(str(Json.parse("9" * 5000).value())) == 5000


def test_importing_the_package_loads_no_pydantic() -> None:
    code = "import sys, dsqlcdc; print(sorted(m for m in sys.modules if m.startswith('pydantic')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
