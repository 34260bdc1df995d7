"""Parts as Parquet: the same lines, byte for byte, and columns that others read."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dsqlcdc import parquet
from dsqlcdc.contract import Change, Context, Op, Table
from dsqlcdc.lines import line
from dsqlcdc_s3 import S3Sink
from dsqlcdc_s3.delivered import Damaged, Delivered, collect, content_sha256, is_void, search
from dsqlcdc_s3.encode import encode
from dsqlcdc_s3.form import void_of
from dsqlcdc_s3.options import Options

from .lake import Bucket, FakeObjects, change, make_sink, resume

texts = st.text(st.characters(codec="utf-8"), max_size=20)
images = st.dictionaries(texts, st.none() | st.integers() | texts | st.floats(allow_nan=False) | st.booleans(), max_size=4)


@st.composite
def changes(draw: Any) -> Change:
    image = None if (row := draw(st.none() | images)) is None else msgspec.Raw(msgspec.json.encode(row) if row else b'{ \n "a":\r1}')
    return Change(
        draw(st.binary(min_size=16, max_size=16)),
        draw(st.sampled_from(Op)),
        Table(draw(texts), "s", "t", ("id",)),
        draw(st.none() | st.just(msgspec.Raw(b'{"id":1}'))),
        draw(st.integers(0, 2**62)),
        draw(texts),
        image,
        draw(st.none() | st.just(msgspec.Raw(b'{"id":2}'))),
        draw(texts).encode(),
        draw(texts),
        draw(texts),
        draw(st.floats(0, 4e9)),
        assembled=draw(st.none() | st.just({"after": b'{"x":1}'})),
        late=draw(st.booleans()),
    )


@settings(max_examples=60, deadline=None)
def made(lines: list[bytes], raw: bool) -> bytes:
    writer = parquet.Writer(columns=None, raw=raw, level=3)
    for start in range(0, len(lines), 3):
        writer.add(lines[start : start + 3])
    return writer.finish()


def test_a_void_part_is_a_table_without_rows_that_is_the_same_everywhere() -> None:
    assert parquet.rows(parquet.void()) == 0
    assert list(parquet.lines(parquet.void())) == []
    assert pq.read_schema(BytesIO(parquet.void())) == parquet.schema()
    assert hashlib.sha256(parquet.void()).hexdigest() == "75cc33e1a9e408c34366e3387c251431f81fb1120ac5ca849130a408b1e6aedd"


@given(st.lists(changes(), min_size=1, max_size=8), st.booleans())
def test_a_part_gives_back_the_very_lines_it_was_made_of(some: list[Change], raw: bool) -> None:
    lines = [line(one, raw) for one in some]
    body = made(lines, raw)
    assert b"".join(parquet.lines(body)) == b"".join(parquet.lines(BytesIO(body))) == b"".join(lines)
    assert body == made(lines, raw)
    assert parquet.rows(body) == len(lines)


def part_of(some: list[Change], **more: Any) -> Any:
    (part,), dead = encode(list(enumerate(some)), raw=False, level=3, shape=more.pop("shape", lambda table: None), **more)
    assert not dead
    return part


async def test_parts_are_read_back_as_lines_are() -> None:
    some = [change(n) for n in range(5)]
    part, bucket = part_of(some), Bucket()
    key = part.partition.key("cdc/", 1, 0, part.suffix)
    assert key.endswith("/000000000001-0000.parquet")
    bucket.store(key, part.body, True)
    objects, found = FakeObjects(bucket), Delivered()
    assert await content_sha256(objects, key) == (part.content_sha256, False)
    assert await collect(objects, key, some[2].arrived, found)
    assert set(found.ids) == {one.id for one in some[2:]}
    assert found.newest == some[-1].version
    assert await search(objects, key, None) == {one.id for one in some}
    assert not await is_void(objects, key)
    assert part.content_sha256 == hashlib.sha256(b"".join(map(line, some))).hexdigest()


async def test_a_void_part_has_no_rows_and_a_damaged_one_is_told() -> None:
    bucket = Bucket()
    bucket.store("data/x.parquet", void_of("data/x.parquet"), True)
    bucket.objects["data/y.parquet"] = b"PAR1 no more"
    assert await is_void(FakeObjects(bucket), "data/x.parquet")
    assert void_of("data/x.parquet") == void_of("data/z.parquet")
    with pytest.raises(Damaged):
        await is_void(FakeObjects(bucket), "data/y.parquet")


def test_parts_are_cut_at_the_cap() -> None:
    some = [change(n) for n in range(50)]
    parts, _ = encode(list(enumerate(some)), raw=False, level=3, cap=200_000, shape=lambda table: None)
    assert len(parts) == 1
    parts, _ = encode(list(enumerate(some)), raw=False, level=3, cap=132_000, shape=lambda table: None)
    assert len(parts) > 1
    assert sorted(n for part in parts for n in part.indexes) == list(range(50))


async def test_duckdb_reads_a_lake_of_parquet_voids_and_all(tmp_path: Path) -> None:
    bucket = Bucket()
    sink = make_sink(FakeObjects(bucket), {"format": "parquet"})
    async with sink:
        await sink.resume(resume())
        assert not await sink.write([change(n) for n in range(20)])
    first = next(key for key, _ in bucket.data())
    bucket.store(first.replace("0000.parquet", "0009.parquet"), void_of(first), True)
    for key, body in bucket.data():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(body)
    with duckdb.connect() as lake:
        found = lake.execute(
            f"select id, op, \"table\", key, version, epoch_ns(committed_at), late from read_parquet('{tmp_path}/**/*.parquet') order by version"
        ).fetchall()
    assert found == [
        (one.id.hex(), "insert", "orders", bytes(one.key_image or b"").decode(), one.version, one.version // 1000 * 1000, False)
        for one in (change(n) for n in range(20))
    ]


def test_typed_columns_are_what_the_row_model_says() -> None:
    columns = {
        "a": "smallint",
        "b": "numeric",
        "c": "timestamptz",
        "d": "date",
        "e": "bytea",
        "f": "double precision",
        "g": "json",
        "h": "timetz",
        "i": "bigint",
    }
    row = {
        "a": 7,
        "b": "1.50",
        "c": "2026-07-01T13:45:00.000001Z",
        "d": "2026-07-01",
        "e": "AAH/",
        "f": "Infinity",
        "g": {"x": [1]},
        "h": "13:45:00.000001Z",
        "i": 2**63 - 1,
    }
    odd = {"a": 70_000, "c": "infinity", "d": "-infinity", "e": "?", "i": 2**63}
    some = [
        change(1, image=msgspec.Raw(msgspec.json.encode(row))),
        change(2, image=msgspec.Raw(msgspec.json.encode(odd))),
        change(3, image=None),
    ]
    part = part_of(some, shape=lambda table: columns if table == "public.orders" else None)

    typed = pq.read_table(BytesIO(part.body)).column("typed").to_pylist()
    assert typed[0]["a"] == 7
    assert Decimal(typed[0]["b"]) == Decimal("1.50")
    assert typed[0]["c"].isoformat() == "2026-07-01T13:45:00.000001+00:00"
    assert typed[0]["e"] == b"\0\x01\xff"
    assert typed[0]["f"] == float("inf")
    assert typed[0]["g"] == '{"x":[1]}'
    assert (typed[0]["h"].isoformat(), typed[0]["i"]) == ("13:45:00.000001", 2**63 - 1)
    assert typed[1] == dict.fromkeys(columns)
    assert typed[2] is None
    assert b"".join(parquet.lines(part.body)) == b"".join(map(line, some))


def test_options_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValidationError, match="write format: parquet"):
        Options.model_validate({"bucket": "lake", "typed": True})


def test_in_lambda_it_is_refused() -> None:
    with pytest.raises(ValueError, match="in Lambda"):
        S3Sink.from_options({"bucket": "lake", "format": "parquet"}, Context("p", "lake", whole=False))
