"""`audit ddl|transactions|show`: a lake as the sink writes it, read by the commands as a user types them."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from dsqlcdc.cli.picture import picture
from dsqlcdc.contract import Change, Context, Op, Table
from dsqlcdc_s3 import S3Sink

from ..sinks.s3.lake import NOON, Bucket, FakeObjects, resume
from .conftest import Answer, Project

ITEMS = Table("c1", "shop", "items", ("order_id", "item_id"))
NOTES = Table("c1", "shop", "notes", ("id",))
DAY = "2027-01-15"
"""NOON is 08:00 UTC of it."""


def change(
    table: Table, key: dict[str, Any], row: dict[str, Any] | None, second: float, tx: str, op: Op = Op.UPDATE, **more: Any
) -> Change:
    version = NOON * 10**9 + int(second * 1e9)
    text = msgspec.json.encode(key)
    image = None if row is None else msgspec.Raw(msgspec.json.encode({**key, **row}))
    id = hashlib.md5(str(table).encode() + text + str(version).encode()).digest()
    return Change(id, op, table, msgspec.Raw(text), version, tx, image, None, b"{}", "s1", str(version), NOON + second, **more)


HISTORY = [
    change(ITEMS, {"order_id": 1, "item_id": 1}, {"quantity": 1, "price": "9.50", "note": "first"}, 1, "tx1", Op.INSERT),
    change(ITEMS, {"order_id": 1, "item_id": 2}, {"quantity": 4, "price": "1.00", "note": None}, 1, "tx1", Op.INSERT),
    change(NOTES, {"id": 'it\'s "so"; drop table x; --'}, {"text": "hello"}, 1, "tx1", Op.INSERT),
    change(ITEMS, {"order_id": 1, "item_id": 1}, {"quantity": 3, "price": "9.50", "note": "first"}, 3600, "tx2"),
    change(ITEMS, {"order_id": 1, "item_id": 1}, {"quantity": 2, "price": "12.00", "note": "second"}, 7200, "tx3", late=True),
    change(ITEMS, {"order_id": 1, "item_id": 1}, None, 90_000, "tx4", Op.DELETE),
    change(ITEMS, {"order_id": 7, "item_id": 1}, {"quantity": 9, "price": "3.00", "note": "x"}, 90_001, "tx5", Op.INSERT),
]


@pytest.fixture(params=["jsonl", "parquet"])
def lake(project: Project, request: pytest.FixtureRequest) -> Project:
    project.config.write_text(
        "pipeline: orders-cdc\nsource: {stream: orders-cdc}\n"
        'tables:\n  "shop.items": {key: [order_id, item_id]}\n  "shop.notes": {key: [id]}\n  "bare.*": {}\n'
        f"sinks:\n  lake: {{type: s3, bucket: my-lake, prefix: cdc/, format: {request.param}}}\n"
    )
    bucket = Bucket()

    async def write() -> None:
        objects = FakeObjects(bucket)
        options = S3Sink.Options.model_validate({"bucket": "my-lake", "prefix": "cdc/", "format": request.param})

        class Opened:
            async def __aenter__(self) -> FakeObjects:
                return objects

            async def __aexit__(self, *_: object) -> None:
                return None

        async with S3Sink(options, Context("orders-cdc", "lake"), objects=Opened) as sink:  # type: ignore[arg-type]
            await sink.resume(resume())
            for one in (HISTORY[:3], HISTORY[3:5], HISTORY[5:]):
                assert not await sink.write(one)

    asyncio.run(write())
    for key, body in bucket.objects.items():
        path = project.directory / "copy" / key.removeprefix("cdc/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    (project.directory / "copy/data/shop.items/dt=2027-01-15/hour=08/compact.txt").write_text("not a part")
    return project


def copy(lake: Project) -> tuple[str, str]:
    return "--lake", str(lake.directory / "copy")


def shown(lake: Project, *words: str) -> Answer:
    return lake.run("audit", "show", *words, *copy(lake))


def test_transactions_of_a_time_are_listed_in_commit_order(lake: Project) -> None:
    answer = lake.run("audit", "transactions", "CONFIG", *copy(lake))
    assert answer.code == 0
    assert [line.split()[1] for line in answer.out.splitlines()[1:]] == ["tx1", "tx2", "tx3", "tx4", "tx5"]
    assert "shop.items: 2 insert; shop.notes: 1 insert" in answer.out
    some = lake.run("audit", "transactions", "CONFIG", *copy(lake), "--from", f"{DAY}T09:00:00Z", "--to", f"{DAY}T11:00:00Z", "--json")
    assert [(one["transaction"], one["changes"], one["late"]) for one in some.jsons] == [("tx2", 1, 0), ("tx3", 1, 1)]
    assert some.jsons[0]["tables"] == {"shop.items": {"update": 1}}


def test_a_transaction_is_shown_across_tables(lake: Project) -> None:
    answer = shown(lake, "tx1", "CONFIG", "--json")
    assert {(one["table"], one["op"]) for one in answer.jsons} == {("shop.items", "insert"), ("shop.notes", "insert")}
    assert len(answer.jsons) == 3
    assert shown(lake, "tx9", "CONFIG").code == 1


@pytest.mark.parametrize("key", ["order_id=1,item_id=1", '{"item_id": 1, "order_id": 1}'])
def test_the_history_of_a_row_is_shown(lake: Project, key: str) -> None:
    answer = shown(lake, "CONFIG", "--key", "shop.items", key, "--json")
    assert [one["transaction"] for one in answer.jsons] == ["tx1", "tx2", "tx3", "tx4"]
    assert [one["late"] for one in answer.jsons] == [False, False, True, False]
    assert answer.jsons[-1]["row"] is None
    diff = shown(lake, "CONFIG", "--key", "shop.items", key, "-o", "diff").out.splitlines()
    assert "  - quantity: 1" in diff
    assert "  + quantity: 3" in diff
    assert "  - price: 9.50" in diff
    table = shown(lake, "CONFIG", "--key", "shop.items", key).out
    assert "update (late)" in table


def test_a_row_is_shown_as_a_picture_of_its_values(lake: Project) -> None:
    answer = shown(lake, "CONFIG", "--key", "shop.items", "order_id=1,item_id=1", "-o", "picture")
    lines = {line.split()[0]: line for line in answer.out.splitlines()[2:]}
    assert answer.out.isascii()
    assert lines["quantity"].endswith(" 1 to 3")
    assert lines["price"].endswith(" 9.50 to 12.00")
    assert all(word in lines["note"] for word in ("first", "second", "deleted"))


def test_a_picture_draws_numbers_as_bars_and_texts_where_they_change() -> None:
    moments = [(f"t{n}", {"n": n, "s": "a" if n < 2 else "b", "gone": None}) for n in range(4)]
    drawn = picture([*moments, ("t4", None)], width=60, plain=False).splitlines()
    assert set("▁█x") <= set(drawn[1])
    assert drawn[2].count("├") == 3
    assert picture([("t", {})], width=60, plain=True) == ""
    assert all(len(line) <= 140 for line in picture(moments * 400, width=100, plain=True).splitlines())


def test_what_a_user_types_is_never_sql(lake: Project) -> None:
    odd = 'it\'s "so"; drop table x; --'
    answer = shown(lake, "CONFIG", "--key", "shop.notes", odd, "--json")
    assert [one["key"] for one in answer.jsons] == [{"id": odd}]
    assert shown(lake, "' or 1=1 --", "CONFIG").code == 1
    assert shown(lake, "CONFIG", "--key", "shop.notes", "x' or '1'='1").code == 1


def test_without_the_extra_it_says_what_to_install(lake: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    answer = shown(lake, "tx1", "CONFIG")
    assert answer.code == 1
    assert "DSQLCDC-E394" in answer.err
    assert answer.err.endswith("Run: pip install 'dsqlcdc[audit]'\n")


def damaged(lake: Project, hours: set[tuple[str, str]]) -> None:
    for part in (lake.directory / "copy/data").rglob("*"):
        if part.is_file() and (part.parts[-3], part.parts[-2]) in hours:
            part.write_bytes(b"damaged")


def test_a_transaction_is_looked_for_from_the_newest_hour_on_and_no_further_than_the_one_that_has_it(lake: Project) -> None:
    folder = lake.directory / "copy/data"
    hours = {(part.parts[-3], part.parts[-2]) for part in folder.rglob("*") if part.is_file()}
    older = {hour for hour in hours if hour < (f"dt={DAY}", "hour=10")}
    assert older
    damaged(lake, older)
    for transaction in ("tx5", "tx4", "tx3"):
        assert [one["transaction"] for one in shown(lake, transaction, "CONFIG", "--json").jsons] == [transaction]
    assert "E395" in shown(lake, "tx2", "CONFIG").err, "control: older ones are read where it is not found"
    assert "E395" in shown(lake, "CONFIG", "--key", "shop.items", "order_id=1,item_id=1").err, "a row's history is read whole"


def test_how_many_objects_are_asked_is_said_before_and_what_makes_it_fewer(lake: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "objects of" not in shown(lake, "tx1", "CONFIG").err
    monkeypatch.setattr("dsqlcdc.cli.lake._MANY", 0)
    said = shown(lake, "tx1", "CONFIG").err
    assert "5 objects of" in said or "6 objects of" in said
    assert "the newest hours are read first" in said
    assert "--from and --to" in said
    assert "--from and --to" not in shown(lake, "tx1", "CONFIG", "--from", DAY, "--to", "2027-01-17").err


def test_only_the_partitions_of_the_time_are_read(lake: Project) -> None:
    for part in (lake.directory / "copy/data").rglob("*"):
        if part.is_file() and "hour=10" in part.parts:
            part.write_bytes(b"no part at all")
    good = lake.run("audit", "transactions", "CONFIG", *copy(lake), "--to", f"{DAY}T10:00:00Z")
    assert good.code == 0
    bad = lake.run("audit", "transactions", "CONFIG", *copy(lake))
    assert bad.code == 1
    assert "DSQLCDC-E395" in bad.err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("show", "CONFIG"), "E390"),
        (("show", "CONFIG", "tx"), "E390 TXID comes before the config file"),
        (("show", "CONFIG", "--key", "items", "1"), "E389 rows of this table cannot be told, --key items: a table is written schema.table"),
        (("show", "tx", "CONFIG", "--key", "shop.items", "1"), "E390"),
        (("show", "CONFIG", "--key", "shop.items", "1"), "E396"),
        (("show", "CONFIG", "--key", "bare.t", "1"), "E389"),
        (("show", "tx", "CONFIG", "--sink", "other"), "E391"),
        (("show", "tx", "CONFIG", "--lake", "nowhere"), "E393"),
        (("show", "tx", "CONFIG", "--from", "1h", "--to", "24h"), "E090"),
        (("transactions", "CONFIG", "--from", "2027-01-16T00:00:00Z", "--to", "2027-01-16T00:00:00Z"), "E090"),
        (("verify", "CONFIG", "--from", "1h", "--to", "24h"), "E090"),
        (("verify", "CONFIG", "--resume", "/nowhere/noted.json"), "E090"),
        (("ddl", "CONFIG"), "E390"),
        (("ddl", "CONFIG", "--duckdb", "--since", "soon"), "E390"),
        (("ddl", "CONFIG", "--athena", "--lake", "x"), "E390"),
    ],
)
def test_what_cannot_be_answered_is_told_with_its_code(lake: Project, words: Sequence[str], code: str) -> None:
    answer = lake.run("audit", *words)
    assert answer.code == 2
    assert f"DSQLCDC-{code}" in answer.err


def test_the_sql_for_duckdb_runs_and_tells_the_truth(lake: Project) -> None:
    text = lake.run("audit", "ddl", "CONFIG", "--duckdb", *copy(lake)).out.replace("DIR/", f"{lake.directory}/")
    folder = lake.directory / "copy/data/shop.items/dt=2027-01-15/hour=08"
    (first, *_) = [path for path in folder.iterdir() if path.suffix != ".txt"]
    (folder / f"again-{first.name}").write_bytes(first.read_bytes())  # what was delivered twice counts once
    with duckdb.connect() as connection:
        connection.execute(text)
        assert connection.execute("select count(*) from shop_items_lake").fetchall() == [(8,)]
        assert connection.execute("select count(*), count(distinct id) from shop_items_changes").fetchall() == [(6, 6)]
        rows = connection.execute('select cast("key" as varchar), "transaction" from shop_items_current order by 1').fetchall()
        assert rows == [('{"order_id":1,"item_id":2}', "tx1"), ('{"order_id":7,"item_id":1}', "tx5")]
        assert connection.execute("select count(*) from shop_notes_current").fetchall() == [(1,)]


def test_the_sql_for_athena_has_projection_and_views_that_run(lake: Project, tmp_path: Path) -> None:
    text = lake.run("audit", "ddl", "CONFIG", "--athena", "--table", "shop.items", "--since", "2027-01-01").out
    table, changes, current = [one.strip() for one in text.split(";\n") if one.strip()]
    assert table.startswith("CREATE EXTERNAL TABLE IF NOT EXISTS `shop_items_lake` (\n  `id` string,")
    assert "'storage.location.template' = 's3://my-lake/cdc/data/shop.items/dt=${dt}/hour=${hour}/'" in table
    assert "'projection.dt.range' = '2027-01-01,NOW'" in table
    assert ("STORED AS PARQUET" in table) == ("parquet" in lake.config.read_text())
    raw = lake.run("audit", "ddl", "CONFIG", "--duckdb", "--table", "shop.items", *copy(lake)).out.replace("DIR/", f"{lake.directory}/")
    with duckdb.connect() as connection:
        connection.execute(raw.split(";\n")[0])
        connection.execute(changes)
        connection.execute(current)
        assert connection.execute("select count(*) from shop_items_current").fetchall() == [(2,)]


def test_tables_with_a_row_model_get_their_columns(lake: Project) -> None:
    (lake.directory / "models.py").write_text(
        "from dsqlcdc.columns import BigInt, Integer, Numeric, Row, Text\n\n\n"
        "class Item(Row):\n    order_id: BigInt\n    item_id: Integer\n    quantity: Integer\n    price: Numeric\n    note: Text | None\n"
    )
    lake.config.write_text(lake.config.read_text().replace("[order_id, item_id]}", '[order_id, item_id], model: "models:Item"}'))
    text = lake.run("audit", "ddl", "CONFIG", "--duckdb", "--table", "shop.items", *copy(lake)).out.replace("DIR/", f"{lake.directory}/")
    with duckdb.connect() as connection:
        connection.execute(text)
        rows = connection.execute("select order_id, item_id, quantity, price, note from shop_items_current order by order_id").fetchall()
    assert rows == [(1, 2, 4, "1.00", None), (7, 1, 9, "3.00", "x")]
    athena = lake.run("audit", "ddl", "CONFIG", "--athena", "--table", "shop.items").out
    assert """try_cast(json_extract_scalar("row", '$["quantity"]') as integer) as "quantity",""" in athena
