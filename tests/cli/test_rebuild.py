"""`opensearch rebuild` over the embedded AWS and the model of OpenSearch: another index takes the place of the old one, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest

from dsqlcdc.testing.local import LocalAws
from dsqlcdc.testing.opensearch import FakeOpenSearch, Reply, said, serving
from dsqlcdc.testing.serverless import FakeCollection
from dsqlcdc_opensearch.names import id_of

from .conftest import Answer, Project

TABLE, ALIAS = "public.orders", "cdc-public.orders"
OLD, NEW = f"{ALIAS}-000001", f"{ALIAS}-000002"


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Iterator[tuple[FakeOpenSearch, str]]:
    """The model (or what the parameter makes), served in a thread of its own; its URL."""
    make: Callable[[Callable[[], float]], FakeOpenSearch] = getattr(request, "param", FakeOpenSearch)
    model, ready, ending = make(time.monotonic), threading.Event(), asyncio.Event()
    url: list[str] = []

    async def serve() -> None:
        async with serving(model) as at:
            url.append(at)
            ready.set()
            await ending.wait()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait(10)
    yield model, url[0]
    loop.call_soon_threadsafe(ending.set)
    thread.join(10)
    loop.close()


class Search(Project):
    """A project with a lake and an index of one table."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str], aws: LocalAws, model: FakeOpenSearch, url: str) -> None:
        super().__init__(directory, capsys)
        self.aws, self.model, self.url = aws, model, url
        self.pipe = aws.pipe("orders-cdc", shards=2)
        boto3.client("s3", endpoint_url=aws.endpoint, region_name=aws.region).create_bucket(Bucket="lake")
        aws.control("throttle", reads=False)
        self.configure()

    def configure(self, lake: dict[str, Any] | None = None, **search: Any) -> None:
        sinks = {
            "lake": {"type": "s3", "bucket": "lake", "prefix": "cdc/", "roll": {"age": "50ms", "records": 40}, **(lake or {})},
            "search": {"type": "opensearch", "url": self.url, "tables": [TABLE], **search},
        }
        tables = {"public.orders": {"key": ["order_id", "item_id"]}}
        source = {"stream": "orders-cdc", "poll": "200ms", "reads_per_second": 50, "bytes_per_second": "100MiB"}
        self.config.write_text(json.dumps({"pipeline": "orders-cdc", "source": source, "tables": tables, "sinks": sinks}))

    def deliver(self, transactions: int = 60) -> None:
        self.aws.commit(transactions=transactions, tables=[TABLE], duplicates=0.1)
        self.run("run", "CONFIG", "--once", "--json")

    def age(self) -> None:
        """Time passes until the stream has dropped what it holds; the runs in between find nothing new."""
        for _ in range(2):
            self.aws.advance(20 * 3600)
            self.run("run", "CONFIG", "--once", "--json")

    def rebuild(self, *words: str) -> Answer:
        return self.run("opensearch", "rebuild", "CONFIG", "--table", TABLE, "--yes", "--json", *words)

    @property
    def owned(self) -> list[str]:
        """The indexes that the sink's purge goes through."""
        return [name for name, index in self.model.indexes.items() if "dsqlcdc" in index.mappings.get("_meta", {})]

    @property
    def right(self) -> bool:
        """Does the alias show the database's rows, each at its newest change?"""
        wanted = {id_of(change.key or {}): (change.version, change.row) for change in self.aws.state(self.pipe.cluster, TABLE)}
        shown = {
            id: (row["__cdc"]["version"], {name: value for name, value in row.items() if name != "__cdc"})
            for id, row in self.model.rows(ALIAS).items()
        }
        return bool(wanted) and shown == wanted


@pytest.fixture
def search(
    local_aws: LocalAws,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    engine: tuple[FakeOpenSearch, str],
) -> Search:
    for name, value in local_aws.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_COLOR", "1")
    return Search(tmp_path, capsys, local_aws, *engine)


@pytest.mark.parametrize("source", ["trim_horizon", "lake"])
def test_a_new_index_of_the_new_mapping_takes_the_place_and_what_comes_goes_there(source: str, search: Search) -> None:
    search.deliver()
    (search.directory / "orders.json").write_text(json.dumps({"properties": {"customer": {"type": "keyword"}}}))
    search.configure(mappings={TABLE: "orders.json"})
    done = search.rebuild("--from", source)
    assert done.code == 0, done.err
    count = len(search.model.rows(ALIAS))
    assert done.json == {"alias": ALIAS, "index": NEW, "replaced": OLD, "rows_before": count, "rows": count}
    assert search.right
    assert list(search.model.aliases[ALIAS]) == [NEW]
    assert search.model.indexes[NEW].properties["customer"] == {"type": "keyword"}
    before = search.model.indexes[OLD].seq_no
    search.deliver()
    assert search.right
    assert search.model.indexes[OLD].seq_no == before


def test_what_the_stream_no_longer_holds_comes_from_the_lake_and_is_never_dropped_by_accident(search: Search) -> None:
    search.deliver()
    search.age()
    search.deliver(5)
    short = search.rebuild()
    assert (short.code, "E153" in short.err) == (1, True)
    search.deliver(5)
    assert search.right, "the old index was not let go"
    done = search.rebuild("--from", "lake", "--anew")
    assert done.code == 0, done.err
    assert search.right
    assert list(search.model.aliases[ALIAS]) == [NEW]


def test_fewer_rows_are_put_in_place_only_where_that_is_said(search: Search) -> None:
    search.deliver()
    search.age()
    search.deliver(5)
    assert search.rebuild().code == 1
    done = search.rebuild("--fewer")
    assert done.code == 0, done.err
    assert done.json["rows"] < done.json["rows_before"]


def test_where_the_index_is_gone_it_is_filled_anew(search: Search) -> None:
    search.deliver()
    search.model.handle("DELETE", f"/{OLD}")
    done = search.rebuild()
    assert done.code == 0, done.err
    assert done.json["replaced"] == ""
    assert search.right


class Cut:
    """Lets through so many requests that change something, and refuses all after them."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, method: str, path: str, body: bytes) -> Reply | None:
        if method != "GET" and not path.endswith(("_count", "_refresh")):
            self.left -= 1
        return said(400, "cut_exception", "cut") if self.left < 0 else None


@pytest.mark.slow
@pytest.mark.parametrize("source", ["trim_horizon", "lake"])
def test_cut_off_anywhere_the_alias_stays_right_and_the_same_command_goes_on(source: str, search: Search) -> None:
    search.deliver(30)
    number, allowed, stopped = 1, 0, 0
    while number <= 2:
        before = list(search.model.aliases[ALIAS])
        search.model.before = Cut(allowed)
        cut = search.rebuild("--from", source)
        search.model.before = lambda method, path, body: None
        assert search.right, f"cut off after {allowed} writes"
        if cut.code == 0 or list(search.model.aliases[ALIAS]) != before:
            number += 1
        stopped += cut.code != 0
        allowed += 1
        if allowed % 3 == 0:
            # Where the old index could not be let go, the rebuild that goes on does it; until then the daemon waits, so it is done first.
            assert search.rebuild("--from", source).code == 0
            search.deliver(3)
            assert search.right
            assert search.owned == list(search.model.aliases[ALIAS]), "somebody would purge what was replaced"
    assert stopped > 4


def test_a_row_that_does_not_fit_ends_it_and_leaves_the_old_one_in_use(search: Search) -> None:
    search.deliver()
    (search.directory / "orders.json").write_text(json.dumps({"properties": {"customer": {"type": "long"}}}))
    search.configure(mappings={TABLE: "orders.json"})
    for _ in range(2):
        refused = search.rebuild()
        assert (refused.code, "E151" in refused.err) == (1, True)
        assert list(search.model.aliases[ALIAS]) == [OLD]
    search.configure()
    assert search.rebuild("--anew").code == 0
    search.deliver()
    assert search.right


@pytest.mark.slow
@pytest.mark.parametrize("engine", [partial(FakeCollection, young=0.0)], indirect=True)
def test_in_a_collection_too_and_of_what_it_refuses_nothing_is_asked(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("options.SEND_WITHIN", "rebuild.SEARCHABLE"):  # what a collection and its writers are waited for
        monkeypatch.setattr(f"dsqlcdc_opensearch.{limit}", 0.0)
    given = {"profile": "serverless", "sign": {}, "timeout": "1s", "grace": "2s"}
    search.configure(**given)
    refused: list[str] = []

    def after(method: str, path: str, reply: Reply) -> Reply:
        if any(word in reply.body for word in (b"404 Not Found", b"unrecognized parameter", b"unknown setting")):
            refused.append(f"{method} {path}")
        return reply

    search.model.after = after
    search.deliver()
    assert search.right
    (search.directory / "orders.json").write_text(json.dumps({"properties": {"customer": {"type": "keyword"}}}))
    search.configure(**given, mappings={TABLE: "orders.json"})
    done = search.rebuild()
    assert done.code == 0, done.err
    assert done.json["index"] == NEW
    assert search.right
    search.deliver()
    assert search.right
    assert "customer" in search.model.indexes[NEW].properties
    assert search.model.indexes[OLD].documents.keys() <= search.model.indexes[NEW].documents.keys()
    assert refused == []
    assert isinstance(search.model, FakeCollection)
    assert search.model.unsigned == []


def test_what_no_longer_fits_the_row_model_is_a_dead_letter_and_said(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    search.deliver()
    lines = ["from dsqlcdc.columns import BigInt, Integer, Row", "class Order(Row):"]
    lines += [f"    {name}: {kind}" for name, kind in (("order_id", "BigInt"), ("item_id", "Integer"), ("quantity", "Integer"))]
    (search.directory / "models_of_rebuild.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(search.directory)
    config = json.loads(search.config.read_text())
    config["tables"]["public.orders"]["model"] = "models_of_rebuild:Order"
    search.config.write_text(json.dumps(config))
    done = search.rebuild("--fewer")
    without = [change for change in search.aws.changes() if change.row and change.row.get("quantity") is None]
    assert without
    assert (done.code, "dead letters were written" in done.err) == (4, True), done.err
    letters = search.run("dead", "list", "CONFIG", "--json").jsons
    assert {letter["code"] for letter in letters} == {"bad_row"}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--table", "orders"], "E154"),
        (["--table", "app.users"], "E154"),
        (["--table", TABLE, "--sink", "lake"], "E159"),
        (["--table", TABLE, "--from", "search"], "E155"),
    ],
)
def test_what_cannot_be_rebuilt_is_said(words: list[str], code: str, search: Search) -> None:
    answer = search.run("opensearch", "rebuild", "CONFIG", "--yes", *words)
    assert (answer.code, code in answer.err) == (2, True), answer.err
    assert search.model.indexes == {}


def test_a_lake_that_is_not_the_whole_table_is_refused(search: Search) -> None:
    search.deliver()
    for part in ({"ops": ["insert"]}, {"tables": ["app.*"]}, {"exclude": {TABLE: ["customer"]}}):
        search.configure(lake=part)
        answer = search.rebuild("--from", "lake")
        assert (answer.code, "E156" in answer.err) == (2, True), answer.err
        assert list(search.model.aliases[ALIAS]) == [OLD]


def test_nobody_is_asked_in_vain(search: Search) -> None:
    answer = search.run("opensearch", "rebuild", "CONFIG", "--table", TABLE)
    assert (answer.code, "--yes" in answer.err) == (2, True)
