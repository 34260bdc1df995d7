"""The examples, run as they stand: the row model, the queries over a lake, a sink of one's own as an installed package."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import botocore.session
import duckdb
import pytest

from dsqlcdc import config as config_module
from dsqlcdc.assemble import make_sink, make_tables
from dsqlcdc.contract import Change, Sink
from dsqlcdc.core.pipeline import Pipeline, Recipe
from dsqlcdc.core.ports import Name
from dsqlcdc.core.tables import Tables
from dsqlcdc.errors import Unavailable
from dsqlcdc.hosts import daemon
from dsqlcdc.lines import line
from dsqlcdc.stores.files import FileDeadLetters
from dsqlcdc.stores.fragments import MemoryFragments
from dsqlcdc.stores.memory_checkpoints import MemoryCheckpoints
from dsqlcdc.testing import MemorySource, MemoryStream, RecordingSink, check_sink
from dsqlcdc.testing.local import LocalAws
from dsqlcdc.testing.records import chunked, full

from .reading import ROOT

EXAMPLES = ROOT / "examples"
SECOND = 1_000_000_000


async def deliver(stream: MemoryStream, tables: Tables, sink: Sink, letters: Path, order: Any = "unique") -> Pipeline:
    """The real road from a stream in memory to a sink, to the stream's end."""
    pipeline = Pipeline(
        Recipe(
            name=Name("examples", "sink", stream.name),
            source=MemorySource(stream),
            sink=sink,
            tables=tables,
            checkpoints=MemoryCheckpoints(),
            dead_letters=FileDeadLetters(letters),
            fragments=MemoryFragments(("sink",)),
            clock=lambda: stream.now,
            random=random.Random(1).random,
            order=order,
        )
    )
    await pipeline.run(asyncio.Event())
    return pipeline


# typed_models ------------------------------------------------------------------------------------------------------------------------


async def test_the_row_model_makes_of_dsqls_encodings_what_people_read(tmp_path: Path) -> None:
    config = config_module.load(EXAMPLES / "typed_models" / "typed.yaml")
    stream = MemoryStream()
    row = {"order_id": 2**60, "item_id": 1, "customer": "Ada", "quantity": 2, "price": "9.50", "placed_at": 1782913500000001}
    stream.put("shardId-000000000000", full("c", "public.orders", {**row, "details": '{"gift": true}', "added_later": 5}, SECOND))
    stream.put("shardId-000000000000", full("c", "public.orders", {**row, "price": 9.5}, 2 * SECOND))
    sink = RecordingSink()
    pipeline = await deliver(stream, make_tables(config), sink, tmp_path / "dead")
    assert pipeline.status().settled == {"delivered": 1, "stale": 0, "duplicate": 0, "unrouted": 0, "parked": 0, "dead": 1}
    (change,) = sink.written
    assert str(change.typed.price) == "9.50"
    written = json.loads(line(change))["row"]
    assert written["placed_at"] == "2026-07-01T13:45:00.000001Z"
    assert (written["price"], written["details"], written["added_later"]) == ("9.50", {"gift": True}, 5)
    (letter,) = [letter async for _, letter in FileDeadLetters(tmp_path / "dead").letters()]
    assert (letter.code, "price" in letter.detail) == ("bad_row", True)


# lake_duckdb -------------------------------------------------------------------------------------------------------------------------

LAKE = """
pipeline: examples
aws: {{region: us-east-1, endpoint_url: "{endpoint}"}}
source: {{stream: orders-cdc}}
tables: {{"public.orders": {{key: [order_id, item_id]}}}}
sinks: {{lake: {{type: s3, bucket: lake, prefix: cdc/, roll: {{records: 40, age: 1s}}}}}}
"""


async def test_the_queries_say_what_the_database_says(local_aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in local_aws.environ.items():
        monkeypatch.setenv(name, value)
    local_aws.pipe("orders-cdc", shards=2)
    local_aws.commit(transactions=80, tables=["public.orders"], duplicates=0.1, disorder=20)
    client = botocore.session.get_session().create_client("s3")
    client.create_bucket(Bucket="lake")
    path = tmp_path / "lake.yaml"
    path.write_text(LAKE.format(endpoint=local_aws.endpoint), encoding="utf-8")
    assert (await daemon.run(config_module.load(path), once=True, deadline=30)).exit_code == 0
    for entry in client.list_objects_v2(Bucket="lake", Prefix="cdc/")["Contents"]:
        copy = tmp_path / entry["Key"]
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(client.get_object(Bucket="lake", Key=entry["Key"])["Body"].read())

    with duckdb.connect() as database:
        database.execute("set variable lake = ?", [str(tmp_path / "cdc")])
        last = _ask(database, "last_state.sql", "order_id, item_id, row")
        truth = local_aws.state(table="public.orders")
        assert {(order, item): json.loads(row) for order, item, row in last} == {tuple((c.key or {}).values()): c.row for c in truth}

        changes = [change for change in local_aws.changes() if change.table == "orders"]
        busiest = max((change.key for change in changes if change.key), key=lambda key: sum(c.key == key for c in changes))
        database.execute("set variable order_id = ?", [busiest["order_id"]])
        database.execute("set variable item_id = ?", [busiest["item_id"]])
        history = _ask(database, "row_history.sql", "op, row")
        words = {"c": "insert", "u": "update", "d": "delete"}
        assert [(op, row and json.loads(row)) for op, row in history] == [
            (words[c.sent_op], c.row if c.op != "d" else None) for c in sorted(changes, key=lambda c: c.version) if c.key == busiest
        ]
        assert len(history) > 1

        days = _ask(database, "daily.sql", "sum(inserted), sum(updated), sum(deleted)")
        assert days == [tuple(sum(change.sent_op == op for change in changes) for op in "cud")]


def _ask(database: duckdb.DuckDBPyConnection, name: str, columns: str) -> list[Any]:
    """The statements of a file; of the last one, a query, these columns."""
    first, query = (EXAMPLES / "lake_duckdb" / name).read_text(encoding="utf-8").rstrip().rstrip(";").split(";", 1)
    database.execute(first)
    return database.execute(f"select {columns} from ({query})").fetchall()


# custom_sink -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The example's package, built by its own pyproject.toml and put where pip would put it."""
    work = tmp_path_factory.mktemp("custom_sink")
    shutil.copytree(EXAMPLES / "custom_sink", work / "source")
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", build, str(work)], cwd=work / "source", capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(work / done.stdout.split()[-1]) as wheel:
        wheel.extractall(work / "site")
    sys.path.insert(0, str(work / "site"))
    yield work / "site"
    sys.path.remove(str(work / "site"))
    sys.modules.pop("dsqlcdc_sqlite_replica", None)


def replica(directory: Path) -> tuple[config_module.Config, Sink]:
    path = directory / "replica.yaml"
    shutil.copyfile(EXAMPLES / "custom_sink" / "replica.yaml", path)
    config = config_module.load(path)
    return config, make_sink(config, "copy")


def rows(directory: Path) -> dict[str, tuple[int, Any]]:
    with sqlite3.connect(directory / "replica.db") as database:
        found = database.execute("select key, version, row from rows").fetchall()
    database.close()
    return {key: (version, row and json.loads(row)) for key, version, row in found}


def orders() -> MemoryStream:
    """Two rows over two shards: a late older update after a delete, a duplicate, an oversized row, and a table that is not taken."""
    stream, one, two = MemoryStream(shards=2), "shardId-000000000000", "shardId-000000000001"
    key = {"order_id": 1, "item_id": 1}
    stream.put(one, full("d", "public.orders", None, 9 * SECOND, before=key))
    stream.put(two, full("u", "public.orders", {**key, "quantity": 8}, 8 * SECOND))
    big = {"order_id": 2, "item_id": 1, "note": "x" * 300_000}
    for number, record in enumerate(chunked("c", "public.orders", big, 5 * SECOND, size=100_000)):
        stream.put((one, two)[number % 2], record)
    stream.put(two, full("c", "public.orders", {**key, "quantity": 1}, 1 * SECOND))
    stream.put(one, full("d", "public.orders", None, 9 * SECOND, before=key))
    return stream


async def test_the_custom_sink_keeps_the_newest_version_of_every_row(installed: Path, tmp_path: Path) -> None:
    config, sink = replica(tmp_path)
    pipeline = await deliver(orders(), make_tables(config), sink, tmp_path / "dead", order=config.sinks["copy"].order)
    status = pipeline.status()
    assert status.read == sum(status.settled.values())
    assert status.settled["dead"] == 0
    first, second = '{"order_id":1,"item_id":1}', '{"order_id":2,"item_id":1}'
    found = rows(tmp_path)
    assert found[first] == (9 * SECOND, None)  # no older update brings it back
    assert found[second][1]["note"] == "x" * 300_000
    # All of it again, to the sink itself and in the other order: it alone knows what is in.
    pipeline = await deliver(orders(), make_tables(config), replica(tmp_path)[1], tmp_path / "dead", order="unique")
    assert rows(tmp_path) == found
    assert pipeline.status().settled["delivered"] == 0
    assert pipeline.status().settled["stale"] == 2


async def test_the_custom_sink_keeps_the_laws_of_the_conformance_kit(installed: Path, tmp_path: Path) -> None:
    import dsqlcdc_sqlite_replica as example  # type: ignore[import-not-found]

    async def holds(change: Change) -> bool:
        with closing(sqlite3.connect(tmp_path / "r.db")) as database:
            found = database.execute("select version from rows where key = ?", (bytes(change.key_image or b"").decode(),)).fetchone()
        return found is not None and found[0] >= change.version

    @asynccontextmanager
    async def locked() -> AsyncGenerator[None, None]:
        with closing(sqlite3.connect(tmp_path / "r.db", isolation_level=None)) as database:
            database.execute("begin immediate")
            yield

    checked = await check_sink(lambda: example.Replica(tmp_path / "r.db", 0.01), holds=holds, outage=locked)
    assert len(checked) == 8


async def test_a_locked_replica_is_unavailable_and_takes_nothing(installed: Path, tmp_path: Path) -> None:
    import dsqlcdc_sqlite_replica as example  # type: ignore[import-not-found]

    tables = make_tables(replica(tmp_path)[0])
    recorded = RecordingSink()
    await deliver(orders(), tables, recorded, tmp_path / "dead")
    async with example.Replica(tmp_path / "replica.db", busy=0.01) as sink:
        with sqlite3.connect(tmp_path / "replica.db", isolation_level=None) as other:
            other.execute("begin immediate")
            with pytest.raises(Unavailable):
                await sink.write(recorded.written)
            other.execute("rollback")
        other.close()
        assert rows(tmp_path) == {}
        assert [setback.verdict for setback in await sink.write(recorded.written)].count("stale") >= 1
    assert len(rows(tmp_path)) == 2


def test_the_custom_sinks_options_are_checked_and_published(installed: Path, tmp_path: Path) -> None:
    path = tmp_path / "replica.yaml"
    text = (EXAMPLES / "custom_sink" / "replica.yaml").read_text(encoding="utf-8")
    path.write_text(text.replace("path: replica.db", "pth: replica.db"), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-P", "-m", "dsqlcdc", "config"]
    done = subprocess.run([*command, "lint", str(path), "--json"], capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 2
    assert "Did you mean 'path'?" in done.stdout + done.stderr
    made = subprocess.run([*command, "schema"], capture_output=True, text=True, timeout=60, check=False, env=environment)
    kinds = [branch["title"] for branch in json.loads(made.stdout)["properties"]["sinks"]["additionalProperties"]["oneOf"]]
    assert "sink sqlite_replica" in kinds


def test_every_example_config_has_no_mistake(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "AWS_REGION": "us-east-1",
        "STREAM": "orders-cdc",
        "BUCKET": "my-lake",
        "PREFIX": "cdc/",
        "SEARCH_URL": "http://127.0.0.1:9200",
        "CLUSTER": "a" * 26,
        "HOOK_SECRET": f"whsec_{base64.b64encode(bytes(32)).decode()}",
        "MASK_KEY": "0123456789abcdef",
        "ALERT_URL": "https://alerts.example/",
        "ALERT_SECRET": f"whsec_{base64.b64encode(bytes(32)).decode()}",
    }
    paths = sorted(EXAMPLES.rglob("*.yaml"))
    assert len(paths) == 8
    assert {str(path): [str(f) for f in config_module.lint(path, values)] for path in paths} == {str(path): [] for path in paths}
