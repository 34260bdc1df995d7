"""Names are injective and within what OpenSearch takes."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsqlcdc.contract import Table
from dsqlcdc_opensearch.names import alias_of, field_of, id_of, index_of

NAMES = st.text(min_size=1, max_size=63) | st.text("ab_x-.A05é", min_size=1, max_size=12)
VALUES = st.text(max_size=40) | st.text("ab|%~h-. ", max_size=5)


def table(schema: str, name: str) -> Table:
    return Table("c", schema, name)


@given(NAMES, NAMES)
@example("public", "Orders")
@example("_", "-")
def test_an_index_name_is_one_that_opensearch_takes(schema: str, name: str) -> None:
    index = index_of(alias_of("cdc-", table(schema, name)))
    assert index == index.lower()
    assert len(index.encode()) <= 255
    assert re.fullmatch(r"cdc-[a-z0-9_.-]+-000001", index)


@given(NAMES, NAMES, NAMES, NAMES)
@example("a", "_x41", "a", "A")
@example("a.b", "c", "a", "b.c")
@example("a", "b-000001", "a", "b")
@example("A" * 60, "B" * 60, "A" * 60, "B" * 59 + "C")
def test_different_tables_have_different_names(schema: str, name: str, schema_b: str, name_b: str) -> None:
    one, two = alias_of("p", table(schema, name)), alias_of("p", table(schema_b, name_b))
    assert (one == two) == ((schema, name) == (schema_b, name_b))
    assert index_of(one) != two
    assert one != index_of(two)


def test_plain_names_stay_as_they_are() -> None:
    assert alias_of("cdc-", table("public", "order_items")) == "cdc-public.order_items"
    assert alias_of("cdc-", table("App", "a_x.b")) == "cdc-_x41pp.a_x5fx_x2eb"


@given(st.lists(VALUES, min_size=1, max_size=3), st.lists(VALUES, min_size=1, max_size=3))
@example(["a-b", "c"], ["a", "b-c"])
@example(["a|b"], ["a", "b"])
@example([""], ["%"])
@example(["", ""], ["|"])
@example(["h~x"], ["h%7Ex"])
@example(["é" * 300], ["é" * 301])
def test_different_keys_have_different_ids(one: list[str], two: list[str]) -> None:
    ids = [id_of({f"k{n}": value for n, value in enumerate(key)}) for key in (one, two)]
    assert all(0 < len(id.encode()) <= 512 for id in ids)
    if len(one) == len(two):
        assert (ids[0] == ids[1]) == (one == two)


@pytest.mark.parametrize(
    ("key", "id"),
    [
        ({"id": 7}, "7"),
        ({"id": -(2**63)}, str(-(2**63))),
        ({"id": "a-b_c.d~e"}, "a-b_c.d~e"),
        ({"id": True}, "true"),
        ({"a": 1, "b": "x y"}, "1|x%20y"),
        ({"id": "é"}, "%C3%A9"),
        ({"id": "h~x"}, "h%7Ex"),
    ],
)
def test_ids_are_readable(key: dict[str, object], id: str) -> None:
    assert id_of(key) == id


def test_a_long_key_is_hashed() -> None:
    id = id_of({"id": "x" * 600})
    assert id.startswith("h~")
    assert len(id) == 45


@given(NAMES, NAMES)
@example("_id", "%5Fid")
@example("a.b", "a%2Eb")
@example(" ", "%20")
def test_different_columns_have_different_fields(one: str, two: str) -> None:
    assert (field_of(one) == field_of(two)) == (one == two)
    assert "." not in field_of(one)
    assert field_of(one).strip()
    assert field_of(one) != "__cdc"
