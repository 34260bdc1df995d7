"""The SQL for Athena, read by a parser of its two languages (of Hive for tables, of Trino for views); its partitions by AWS's rules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Any

import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlglot import exp
from sqlglot.errors import ErrorLevel, ParseError

from dsqlcdc.contract import Table
from dsqlcdc.hosts.lake_ddl import Target, athena
from dsqlcdc_s3.paths import partition

COLUMNS = {"order_id": "bigint", "price": "numeric", "note": "text", "details": "json", "placed_at": "timestamptz", "raw": "bytea"}
ODD = {"Order Id": "text", 'with "quote"': "integer", "date": "date", "row": "text", "tick`": "real"}
FORMS = [("jsonl", None, False), ("jsonl", COLUMNS, False), ("parquet", None, False), ("parquet", COLUMNS, True), ("parquet", ODD, True)]


def target(format: str, columns: Mapping[str, str] | None, typed: bool, **more: Any) -> Target:
    named = {"schema": "app", "name": "orders", "place": "s3://lake/cdc/", **more}
    return Target(format=format, columns=columns, typed=typed, since=date(2026, 11, 1), **named)


def read(text: str) -> list[exp.Expression]:
    """The statements as trees, each read by itself, as Athena does. Raises ParseError for what is not in the grammar, also where the parser
    would only carry it along."""
    parts = [part for part in text.split(";\n") if part.strip()]
    trees = [sqlglot.parse_one(part, dialect="athena", error_level=ErrorLevel.RAISE) for part in parts]
    for tree in trees:
        if tree.find(exp.Command) is not None or tree.find(exp.Anonymous) is not None:
            raise ParseError(f"not understood: {tree.sql()[:200]}")
    return trees


def properties(table: exp.Expression) -> dict[str, str]:
    """TBLPROPERTIES and SERDEPROPERTIES by name."""
    return {one.name: one.args["value"].name for one in table.find_all(exp.Property) if type(one) is exp.Property}


UNITS = ("YEARS", "MONTHS", "WEEKS", "DAYS", "HOURS", "MINUTES", "SECONDS", "MILLIS")


def faults(given: Mapping[str, str], partitions: list[str], location: str) -> list[str]:
    """What AWS's page "Supported types for partition projection" does not allow in these properties."""
    wrong = [] if given.get("projection.enabled") == "true" else ["projection.enabled is not true"]
    template = given.get("storage.location.template", "")
    wrong += [f"no place for {name}" for name in partitions if f"${{{name}}}" not in template]
    if not template.endswith("/") or not template.startswith(location):
        wrong.append("the template ends with no slash, or leads out of the table's location")
    for name in partitions:
        kind, range = given.get(f"projection.{name}.type"), given.get(f"projection.{name}.range", "")
        ends = range.split(",")
        if kind == "integer":
            wrong += [] if len(ends) == 2 and int(ends[0]) <= int(ends[1]) else [f"{name}: no range of two integers"]
            digits = given.get(f"projection.{name}.digits", "")
            wrong += [] if digits.isdigit() and int(digits) >= len(ends[-1]) else [f"{name}: digits do not hold its range"]
        elif kind == "date":
            day = r"\d{4}-\d\d-\d\d"
            wrong += (
                [] if re.fullmatch(rf"(?:{day}|NOW(?:[-+]\d+[A-Z]+)?),(?:{day}|NOW(?:[-+]\d+[A-Z]+)?)", range) else [f"{name}: {range}"]
            )
            wrong += [] if given.get(f"projection.{name}.format") == "yyyy-MM-dd" else [f"{name}: no format"]
            wrong += [] if given.get(f"projection.{name}.interval.unit") in UNITS else [f"{name}: no unit"]
            wrong += [] if given.get(f"projection.{name}.interval", "").isdigit() else [f"{name}: no interval"]
        else:
            wrong.append(f"{name}: of type {kind}")
    known = {
        f"projection.{name}.{end}" for name in partitions for end in ("type", "range", "digits", "format", "interval", "interval.unit")
    }
    return wrong + [name for name in given if name.startswith("projection.") and name not in {*known, "projection.enabled"}]


@pytest.mark.parametrize(("format", "columns", "typed"), FORMS)
def test_table_and_views_are_in_athenas_grammar(format: str, columns: Mapping[str, str] | None, typed: bool) -> None:
    table, changes, current = read(athena(target(format, columns, typed)))
    assert isinstance(table, exp.Create)
    assert (table.kind, table.find(exp.ExternalProperty) is not None) == ("TABLE", True)
    kinds = {column.name: column.args["kind"].sql("hive") for column in table.this.find_all(exp.ColumnDef) if column.parent is table.this}
    assert list(kinds)[:8] == ["id", "op", "schema", "table", "cluster", "key", "row", "before"]
    assert kinds["version"] == "BIGINT"
    assert ("typed" in kinds) == typed
    serde = table.find(exp.RowFormatSerdeProperty)
    assert (serde is None) == (format == "parquet")
    assert serde is None or serde.this.name == "org.openx.data.jsonserde.JsonSerDe"
    for view, name in ((changes, "app_orders_changes"), (current, "app_orders_current")):
        assert isinstance(view, exp.Create)
        assert (view.kind, view.this.name, view.args["replace"]) == ("VIEW", name, True)
    assert {one.name for one in changes.find_all(exp.Table)} == {"app_orders_changes", "app_orders_lake"}
    assert {one.name for one in current.find_all(exp.Table)} == {"app_orders_current", "app_orders_changes"}
    selected = [column.alias_or_name for column in current.expression.expressions]
    assert len({name.lower() for name in selected}) == len(selected) == 5 + len(columns or ()), "a column stands once"


@pytest.mark.parametrize(("format", "columns", "typed"), FORMS)
def test_partition_projection_is_what_aws_asks_for_and_finds_what_the_sink_writes(
    format: str, columns: Mapping[str, str] | None, typed: bool
) -> None:
    (table, *_) = read(athena(target(format, columns, typed)))
    found = properties(table)
    partitions = [column.name for column in table.find(exp.PartitionedByProperty).this.expressions]  # type: ignore[union-attr]
    location = table.find(exp.LocationProperty).this.name  # type: ignore[union-attr]
    assert partitions == ["dt", "hour"]
    assert faults(found, partitions, location) == []
    written = partition(Table("c", "app", "orders"), 1_800_000_000 * 10**9).folder("s3://lake/cdc/")
    assert found["storage.location.template"].replace("${dt}", "2027-01-15").replace("${hour}", "08") == written


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("projection.enabled", "yes"),
        ("projection.hour.range", "23,0"),
        ("projection.hour.digits", "1"),
        ("projection.dt.range", "2026-11-01"),
        ("projection.dt.interval.unit", "DAY"),
        ("projection.dt.type", "datum"),
        ("projection.hour.step", "1"),
        ("storage.location.template", "s3://lake/cdc/data/app.orders/dt=${dt}/hour=${hour}"),
    ],
)
def test_a_projection_that_aws_would_refuse_is_found(name: str, value: str) -> None:
    """Control."""
    (table, *_) = read(athena(target("jsonl", None, False)))
    assert faults({**properties(table), name: value}, ["dt", "hour"], "s3://lake/cdc/data/app.orders/")


@pytest.mark.parametrize(
    "text",
    [
        "CREATE EXTERNAL TABLE t (a string) PARTITIONED BY LOCATION 's3://x/'",
        "CREATE OR REPLACE VIEW v AS select a from (select * from t",
        "CREATE OR REPLACE VIEW v AS select row_number() over (partition a) from t",
        "MAKE TABLE t",
    ],
)
def test_what_is_not_in_the_grammar_is_found(text: str) -> None:
    """Control."""
    with pytest.raises(ParseError):
        read(text)


names = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(schema=names, name=names, prefix=names, columns=st.dictionaries(names, st.sampled_from(["text", "bigint", "json"]), max_size=4))
def test_no_name_breaks_out_of_its_place(schema: str, name: str, prefix: str, columns: dict[str, str]) -> None:
    """Whatever tables, columns and the prefix are called: three statements, and the address is what it was."""
    made = target("jsonl", columns, False, schema=schema, name=name, place=f"s3://lake/{prefix}/")
    table, _, _ = read(athena(made))
    assert table.find(exp.LocationProperty).this.name == made.folder  # type: ignore[union-attr]
    assert properties(table)["storage.location.template"] == f"{made.folder}dt=${{dt}}/hour=${{hour}}/"
