"""The sink through aiobotocore against an S3 over HTTP, and the lake read back by DuckDB."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from dsqlcdc.aws import Aws, client
from dsqlcdc.contract import Misconfigured, Op
from dsqlcdc.errors import Held
from dsqlcdc.testing.local import LocalAws
from dsqlcdc_s3 import S3Sink
from dsqlcdc_s3.encode import void

from .lake import change, context, resume

HOUR = 3600 * 10**9


@pytest.fixture(scope="module")
def server() -> Iterator[LocalAws]:
    with LocalAws() as aws:
        yield aws


@pytest.fixture
async def s3(server: LocalAws, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    server.reset()
    for name, value in server.environ.items():
        monkeypatch.setenv(name, value)
    async with client("s3", Aws()) as opened:
        await opened.create_bucket(Bucket="lake")
        yield opened


def sink(**options: Any) -> S3Sink:
    return S3Sink.from_options({"bucket": "lake", "prefix": "cdc/", **options}, context())


async def test_a_batch_is_in_and_the_store_has_verified_it(s3: Any) -> None:
    async with sink() as writer:
        assert list(await writer.resume(resume())) == []
        assert list(await writer.write([change(1), change(2, version=change(2).version + HOUR)])) == []
    manifest = json.loads(await body(s3, "cdc/manifests/000000000001.json"))
    assert [part["key"] for part in manifest["parts"]] == [
        "cdc/data/public.orders/dt=2027-01-15/hour=08/000000000001-0000.jsonl.gz",
        "cdc/data/public.orders/dt=2027-01-15/hour=09/000000000001-0001.jsonl.gz",
    ]
    for part in manifest["parts"]:
        text = await body(s3, part["key"])
        assert (hashlib.sha256(text).hexdigest(), len(text)) == (part["object_sha256"], part["bytes"])
        head = await s3.head_object(Bucket="lake", Key=part["key"], ChecksumMode="ENABLED")
        assert base64.b64decode(head["ChecksumSHA256"]).hex() == part["object_sha256"]
        assert head["ContentType"] == "application/gzip"


async def test_a_killed_writer_is_succeeded_and_a_zombie_stopped(s3: Any) -> None:
    async with sink() as old, sink() as new:
        await old.resume(resume())
        await old.write([change(1)])
        assert [known.id for known in await new.resume(resume(old.word()))] == [change(1).id]
        await new.write([change(2)])
        with pytest.raises(Held):
            await old.write([change(3)])
    listed = await s3.list_objects_v2(Bucket="lake", Prefix="cdc/data/")
    assert len(listed["Contents"]) == 2


async def test_a_bucket_that_is_not_there_stops_the_start(s3: Any) -> None:
    async with sink(bucket="no-such-lake") as writer:
        with pytest.raises(Misconfigured, match="does not exist"):
            await writer.resume(resume())


async def test_duckdb_reads_the_lake_back_value_for_value_with_void_parts_in_it(s3: Any, tmp_path: Path) -> None:
    row = {"id": 7, "big": 2**62, "price": "29.99", "name": "naïve \u2028 \n", "nothing": None, "nested": {"a": [1, 2.5]}}
    given = [
        change(1),
        change(2, op=Op.DELETE, image=None, old_image=msgspec.Raw(b'{"id":2}')),
        change(7, image=msgspec.Raw(msgspec.json.encode(row)), version=change(7).version + HOUR),
    ]
    async with sink(raw=True) as writer:
        await writer.resume(resume())
        await writer.write(given)
    key = "cdc/data/public.orders/dt=2027-01-15/hour=10/000000000002-0000.jsonl.gz"
    await s3.put_object(Bucket="lake", Key=key, Body=void())
    await download(s3, tmp_path)
    names = (
        "id, op, version::VARCHAR, shard, sequence, dt::VARCHAR, hour::VARCHAR, row::VARCHAR, before::VARCHAR, committed_at::VARCHAR, raw"
    )
    columns = (
        "{id: 'VARCHAR', op: 'VARCHAR', version: 'BIGINT', shard: 'VARCHAR', sequence: 'VARCHAR', row: 'JSON', before: 'JSON', "
        "committed_at: 'VARCHAR', raw: 'VARCHAR'}"
    )
    found = duckdb.sql(
        f"select {names} from read_json('{tmp_path}/cdc/data/**/*.jsonl.gz', format='newline_delimited', hive_partitioning=true, "
        f"columns={columns}) order by version"
    ).fetchall()
    assert [line[0] for line in found] == [one.id.hex() for one in given]
    assert [line[1] for line in found] == ["insert", "delete", "insert"]
    assert [int(line[2]) for line in found] == [one.version for one in given]
    assert [line[6] for line in found] == ["08", "08", "09"]
    assert {line[5] for line in found} == {"2027-01-15"}
    assert json.loads(found[2][7]) == row
    assert (found[1][7], json.loads(found[1][8])) in [(None, {"id": 2}), ("null", {"id": 2})]
    assert found[0][9] == "2027-01-15T08:00:00.000000001Z"
    assert [line[10].encode() for line in found] == [one.raw for one in given]


async def test_duckdb_guesses_the_columns_of_a_lake_by_itself(s3: Any, tmp_path: Path) -> None:
    async with sink() as writer:
        await writer.resume(resume())
        await writer.write([change(n) for n in range(50)])
    await s3.put_object(Bucket="lake", Key="cdc/data/public.orders/dt=2027-01-15/hour=10/000000000002-0000.jsonl.gz", Body=void())
    await download(s3, tmp_path)
    (found,) = duckdb.sql(
        f"select count(*), count(distinct id), sum(row.id) from read_json('{tmp_path}/cdc/data/**/*.jsonl.gz')"
    ).fetchall()
    assert found == (50, 50, sum(range(50)))


async def body(s3: Any, key: str) -> bytes:
    answer = await s3.get_object(Bucket="lake", Key=key)
    async with answer["Body"] as stream:
        text: bytes = await stream.read()
    return text


async def download(s3: Any, directory: Path) -> None:
    listed = await s3.list_objects_v2(Bucket="lake", Prefix="cdc/data/")
    for entry in listed["Contents"]:
        path = directory / entry["Key"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(await body(s3, entry["Key"]))
