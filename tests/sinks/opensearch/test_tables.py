"""Indexes, mappings and documents: made before the first write, whole rows only, nothing of a deleted row, no document refused for its type."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsqlcdc.contract import Context, Misconfigured, Op, Unavailable, Verdict
from dsqlcdc.testing import virtual
from dsqlcdc.testing.opensearch import FakeOpenSearch, Reply
from dsqlcdc_opensearch import OpenSearchSink, Options
from tests.sinks.opensearch.replica import TABLE, Direct, change, change_at, resumed, sink

ALIAS, INDEX = f"cdc-{TABLE}", f"cdc-{TABLE}-000001"


def engine() -> FakeOpenSearch:
    return FakeOpenSearch(time.monotonic)


async def test_an_index_is_made_with_mapping_and_alias_before_the_first_write() -> None:
    fake = engine()
    async with sink(Direct(fake), settings={"replicas": 0, "shards": 2, "refresh_interval": "5s"}) as one:
        await one.write([change(1, 1, note="x")])
    paths = [(method, path) for method, path, _ in fake.requests]
    assert paths.index(("PUT", f"/{INDEX}")) < paths.index(("POST", "/_bulk"))
    index = fake.indexes[INDEX]
    assert index.mappings["dynamic"] is False
    assert index.mappings["_meta"]["dsqlcdc"] == {"pipeline": "p", "sink": "search", "table": TABLE, "cluster": "cluster"}
    assert index.settings["index.number_of_shards"] == 2
    assert index.settings["index.refresh_interval"] == "5000ms"
    assert "filter" in fake.aliases[ALIAS][INDEX]
    assert not [path for _, path in paths if "refresh" in path], "a replica never refreshes"


async def test_a_document_is_the_row_and_its_version_and_a_deleted_one_is_hidden_and_empty() -> None:
    fake = engine()
    async with sink(Direct(fake)) as one:
        await one.write([change(1, 1, note="x", secret="s"), change(2, 1, note="y")])
        await one.write([change(1, 2, op=Op.DELETE)])
    assert fake.rows(ALIAS) == {
        "2": {
            "id": 2,
            "note": "y",
            "__cdc": {"version": 1_800_000_000_000_000_001, "transaction": "tx1800000000000000001", "deleted": False},
        }
    }
    tombstone = fake.indexes[INDEX].documents["1"].row()
    assert tombstone == {"__cdc": {"version": 1_800_000_000_000_000_002, "transaction": "tx1800000000000000002", "deleted": True}}


async def test_a_column_that_became_null_and_was_left_out_is_gone() -> None:
    fake = engine()
    async with sink(Direct(fake)) as one:
        await one.write([change(1, 1, a=1, b=2)])
        await one.write([change(1, 2, a=1)])
    assert "b" not in fake.rows(ALIAS)["1"]


async def test_two_processes_that_begin_at_once_make_one_index() -> None:
    fake = engine()

    async def delivering(first: int) -> None:
        async with sink(Direct(fake)) as one:
            await one.resume(resumed())
            for n in range(5):
                assert await one.write([change(first + n, 1, **{f"c{first + n}": n, "shared": n if first else "x"})]) == []

    await asyncio.gather(delivering(0), delivering(10), delivering(20))
    assert len(fake.rows(ALIAS)) == 15
    assert sorted(fake.indexes) == ["cdc-__dsqlcdc", INDEX]


async def test_an_index_of_another_sink_is_left_alone() -> None:
    fake = engine()
    async with sink(Direct(fake)) as one:
        await one.write([change(1, 1)])
    async with sink(Direct(fake), name="other") as two:
        with pytest.raises(Misconfigured, match="E169"):
            await two.write([change(2, 1)])
    fake.create("own-public.orders-000001", {"aliases": {"own-public.orders": {}}})
    async with sink(Direct(fake), index_prefix="own-") as three:
        with pytest.raises(Misconfigured, match="not made by dsqlcdc"):
            await three.write([change(2, 1)])


async def test_an_alias_of_several_indexes_stops_the_sink() -> None:
    fake = engine()
    for n in (1, 2):
        fake.create(f"{ALIAS}-00000{n}", {"aliases": {ALIAS: {}}})
    async with sink(Direct(fake)) as one:
        with pytest.raises(Misconfigured, match="E167"):
            await one.write([change(1, 1)])


async def test_a_rebuilt_index_behind_the_alias_is_written_to() -> None:
    fake = engine()
    async with sink(Direct(fake)) as one:
        await one.write([change(1, 1)])
        owner = fake.indexes[INDEX].mappings
        fake.create(f"{ALIAS}-000002", {"mappings": owner})
        actions = [{"remove": {"index": INDEX, "alias": ALIAS}}, {"add": {"index": f"{ALIAS}-000002", "alias": ALIAS}}]
        fake.handle("POST", "/_aliases", msgspec.json.encode({"actions": actions}))
        assert await one.write([change(2, 1)]) == []
    assert set(fake.rows(ALIAS)) == {"2"}


async def test_too_many_fields_stop_the_sink_with_the_limit() -> None:
    fake = engine()
    async with sink(Direct(fake)) as one:
        await one.write([change(1, 1)])
        fake.indexes[INDEX].field_limit = 10
        with pytest.raises(Misconfigured, match="Limit of total fields"):
            await one.write([change(2, 1, **{f"c{n}": n for n in range(20)})])


TYPES = {
    "id": "bigint", "at": "timestamptz", "day": "date", "price": "numeric", "note": "text", "doc": "json", "image": "bytea", "flag": "boolean",
    "ratio": "double precision", "ref": "uuid",
}  # fmt: skip


async def test_a_row_model_says_how_columns_are_indexed() -> None:
    fake = engine()
    async with sink(Direct(fake), columns=lambda table: TYPES) as one:
        row = {
            "at": "infinity",
            "price": "12.50",
            "doc": [1, {"a": 2}],
            "image": "AAAA",
            "ratio": "NaN",
            "day": "+294246-12-31",
            "later": 5,
        }
        assert await one.write([change(1, 1, **row)]) == []
    fields = {name: field.get("type") for name, field in fake.indexes[INDEX].properties.items() if name != "__cdc"}
    assert fields == {
        "id": "long", "at": "date", "day": "date", "price": "keyword", "note": "text", "doc": "object", "flag": "boolean", "ratio": "double",
        "ref": "keyword",
    }  # fmt: skip
    assert fake.indexes[INDEX].properties["price"]["fields"]["num"]["type"] == "double"
    document = fake.rows(ALIAS)["1"]
    assert "image" not in document
    assert document["doc"] == [1, {"a": 2}]
    assert document["later"] == 5, "a column that the model does not know is kept"


async def test_json_is_searchable_and_bytea_kept_when_asked() -> None:
    fake = engine()
    async with sink(Direct(fake), columns=lambda table: TYPES, json_columns="object", bytea_columns="base64") as one:
        assert await one.write([change(1, 1, doc={"a": 1}, image="AAAA"), change(2, 1, doc=[1]), change(3, 1, doc=None)]) == []
    assert fake.indexes[INDEX].properties["doc"] == {"type": "flat_object"}
    rows = fake.rows(ALIAS)
    assert [rows[id]["doc"] for id in "123"] == [{"a": 1}, {"value": [1]}, None]
    assert rows["1"]["image"] == "AAAA"


async def shown(fake: FakeOpenSearch, *rows: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Write these rows, one batch each; the types of the fields afterwards."""
    async with sink(Direct(fake), **options) as one:
        for n, row in enumerate(rows):
            assert await one.write([change(1, len(fake.requests) * 1000 + n + 1, **row)]) == []
    return {name: field.get("type") for name, field in fake.indexes[INDEX].properties.items() if name != "__cdc"}


@pytest.mark.parametrize(("evolve", "more"), [("add", {"later": "long", "text": "keyword"}), ("off", {}), (None, {})])
async def test_beyond_a_row_model_a_new_column_is_added_where_that_is_asked_for(evolve: str | None, more: dict[str, str]) -> None:
    fake = engine()
    rows = [{"note": "x"}, {"later": 5, "text": "a"}, {"later": "no number", "text": {"a": [1]}, "ref": "r"}, {"later": [1], "text": [2]}]
    fields = await shown(fake, *rows, evolve=evolve, columns=lambda table: {"id": "bigint", "note": "text", "ref": "uuid"})
    assert fields == {"id": "long", "note": "text", "ref": "keyword", **more}
    assert fake.rows(ALIAS)["1"]["later"] == ("[1]" if more else [1]), "a value that the field does not take is its JSON text"


@pytest.mark.parametrize(("evolve", "more"), [("add", {"id": "long", "later": "long"}), ("off", {}), (None, {})])
async def test_beyond_a_mapping_file_too(evolve: str | None, more: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "orders.json").write_text('{"properties": {"note": {"type": "text"}}}')
    fields = await shown(engine(), {"note": "x", "later": 5}, evolve=evolve, mappings={"public.*": tmp_path / "orders.json"})
    assert fields == {"note": "text", **more}


async def test_with_nothing_known_and_nothing_added_no_row_is_refused_and_what_was_added_before_stays() -> None:
    fake = engine()
    assert await shown(fake, {"a": 1, "b": {"c": 1}}, evolve="off") == {}
    fake = engine()
    await shown(fake, {"a": 1})
    assert await shown(fake, {}, {"a": {"x": 1}, "b": 2}, {"a": [1, "x"], "b": {}}, evolve="off") == {"a": "long", "id": "long"}
    assert fake.rows(ALIAS)["1"]["a"] == '[1,"x"]'


async def test_columns_that_appear_in_a_batch_are_added_at_once_and_before_the_documents() -> None:
    fake = engine()
    async with sink(Direct(fake)) as one:
        await one.write([change(0, 1)])
        del fake.requests[:]
        assert await one.write([change(n, 2, **{f"c{n}": n}) for n in range(200)]) == []
    puts = [n for n, (method, path, _) in enumerate(fake.requests) if (method, path) == ("PUT", f"/{INDEX}/_mapping")]
    assert len(puts) == 1
    assert puts[0] < [path for _, path, _ in fake.requests].index("/_bulk")
    assert len(fake.indexes[INDEX].properties) == 202


def test_a_mapping_is_changed_ten_times_in_ten_seconds_at_the_most() -> None:
    async def run() -> None:
        fake = FakeOpenSearch(asyncio.get_running_loop().time)
        moments: list[float] = []

        def before(method: str, path: str, body: bytes) -> Reply | None:
            if method == "PUT" and path.endswith("/_mapping"):
                moments.append(asyncio.get_running_loop().time())
            return None

        fake.before = before
        async with sink(Direct(fake)) as one:
            for n in range(45):
                assert await one.write([change(1, n + 1, **{f"c{n}": n})]) == []
        assert len(moments) == 45
        assert all(later - earlier >= 10 for earlier, later in zip(moments, moments[10:], strict=False))
        assert moments[-1] - moments[0] < 50

    virtual.run(run())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "c", "a.b", "é"]), st.none() | st.integers() | st.text(max_size=5) | st.just([1]) |
                                st.just({"x": 1}), max_size=4), min_size=1, max_size=12), st.integers(2, 3))  # fmt: skip
def test_processes_that_meet_new_columns_at_once_agree_on_one_mapping_and_no_row_is_refused(rows: list[dict[str, Any]], sinks: int) -> None:
    async def run() -> None:
        fake = FakeOpenSearch(asyncio.get_running_loop().time)

        async def deliver(n: int, moments: list[float]) -> None:
            async with sink(Direct(fake, lambda: (moments[n % len(moments)], 0.0))) as one:
                for m in range(n, len(rows), sinks):
                    while True:
                        try:
                            assert await one.write([change(m, 1, **rows[m])]) == []
                            break
                        except Unavailable as error:
                            await asyncio.sleep(error.after or 1)

        await asyncio.gather(*(deliver(n, [0.0, 0.01, 0.003]) for n in range(sinks)))
        assert len(fake.rows(ALIAS)) == len(rows)
        columns = {name for row in rows for name, value in row.items() if value is not None}
        assert len(fake.indexes[INDEX].properties) == len(columns) + 2, "the columns, the key and __cdc"

    virtual.run(run())


async def test_a_full_mapping_stops_the_sink_and_without_new_columns_it_goes_on() -> None:
    fake = engine()
    await shown(fake, {"a": 1})
    fake.indexes[INDEX].field_limit = 8
    row = {f"c{n}": n for n in range(20)}
    async with sink(Direct(fake)) as one:
        with pytest.raises(Misconfigured, match=r"E164.*evolve: off"):
            await one.write([change(2, 1, **row)])
    async with sink(Direct(fake), evolve="off") as one:
        assert await one.write([change(2, 1, **row)]) == []
    assert fake.rows(ALIAS)["2"]["c7"] == 7


@pytest.mark.parametrize("whole", [True, False])
async def test_only_who_sees_every_shard_purges(whole: bool) -> None:
    """An invocation, and a replay of what a function gave up, see a few records: they cannot say that nothing older is owed."""
    options = Options.model_validate({"url": "https://h"})
    async with OpenSearchSink(options, Context("p", "s", whole=whole), transport=lambda: Direct(engine())) as one:
        await one.resume(resumed())
        assert (one._purging is not None) is whole


async def test_a_mapping_file_says_how_columns_are_indexed(tmp_path: Path) -> None:
    (tmp_path / "orders.json").write_text('{"properties": {"note": {"type": "text"}}}')
    fake = engine()
    options = Options.model_validate({"url": "https://h", "purge": "off", "mappings": {"public.*": tmp_path / "orders.json"}})
    async with OpenSearchSink(options, Context("p", "s"), transport=lambda: Direct(fake)) as one:
        await one.write([change(1, 1, note="x", more=5)])
    assert set(fake.indexes[INDEX].properties) == {"__cdc", "note"}
    assert fake.rows(ALIAS)["1"]["more"] == 5
    for text in ("", "[]", '{"properties": {"__cdc": {}}}', '{"properties": {"a": 1}}'):
        (tmp_path / "orders.json").write_text(text)
        with pytest.raises(Misconfigured, match="E472"):
            await OpenSearchSink(options, Context("p", "s"), transport=lambda: Direct(fake)).__aenter__()


SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20)
SCALARS |= st.sampled_from(["NaN", "Infinity", "x" * 40_000, "2026-01-01", "true"]) | st.lists(
    st.integers(0, 9) | st.just({"a": [1]}), max_size=3
)
SCALARS |= st.dictionaries(st.sampled_from(["a", "b", "[x"]), st.integers(), max_size=2)
COLUMNS = st.sampled_from(["a", "b", "c", "a.b", "_id", "__cdc", "x y", " ", ".", "%", "_source", "é"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(COLUMNS, SCALARS, max_size=6), min_size=1, max_size=8))
def test_without_a_model_no_row_is_refused_for_its_values_or_its_columns_names(rows: list[dict[str, Any]]) -> None:
    async def run() -> None:
        fake = engine()
        async with sink(Direct(fake)) as one:
            for n, row in enumerate(rows):
                assert await one.write([change_at(1_800_000_000_000_000_000 + n, {"id": n}, **row)]) == []
        assert len(fake.rows(ALIAS)) == len(rows)

    virtual.run(run())


async def test_a_row_that_was_sent_over_several_lines_is_one_line() -> None:
    fake = engine()
    one_change = change(1, 1, note="a\nb")
    spread = msgspec.structs.replace(one_change, image=msgspec.Raw(b'{\n "id":\r\n1,\n"note":"a\\nb"}'))
    async with sink(Direct(fake)) as one:
        assert await one.write([spread]) == []
    assert fake.rows(ALIAS)["1"]["note"] == "a\nb"


async def test_a_version_that_no_engine_holds_is_dead() -> None:
    async with sink(Direct(engine())) as one:
        setbacks = await one.write([msgspec.structs.replace(change(1, 1), version=version) for version in (0, 2**63, 10**21)])
    assert {setback.verdict for setback in setbacks} == {Verdict.DEAD}


def test_a_collection_denies_a_new_index_for_a_while() -> None:
    async def run() -> None:
        fake = FakeOpenSearch(asyncio.get_running_loop().time)

        def before(method: str, path: str, body: bytes) -> Reply | None:
            index = fake.indexes.get(INDEX)
            young = index is not None and asyncio.get_running_loop().time() - index.created_at < 15
            return Reply(404, b'{"error":{"type":"index_not_found_exception"}}') if young and path.startswith(f"/{INDEX}/") else None

        fake.before = before
        async with sink(Direct(fake), profile="serverless", sign={}) as one:
            waited = 0
            while True:
                try:
                    assert await one.write([change(1, 1)]) == []
                    break
                except Unavailable as error:
                    waited += 1
                    await asyncio.sleep(error.after or 1)
        assert waited >= 2
        assert set(fake.rows(ALIAS)) == {"1"}

    virtual.run(run())


async def test_an_index_that_took_anothers_place_is_followed_and_one_that_is_gone_is_missed() -> None:
    engine = FakeOpenSearch(asyncio.get_running_loop().time)
    async with sink(Direct(engine)) as to:
        assert await to.write([change(1, 1, a=1)]) == []
        engine.create(
            "cdc-public.orders-000002", {"mappings": {"_meta": {"dsqlcdc": {"pipeline": "p", "sink": "search"}}, "dynamic": False}}
        )
        engine.handle("PUT", "/cdc-public.orders-000001/_block/write")
        with pytest.raises(Unavailable):
            await to.write([change(2, 1, op=Op.DELETE), change(3, 1, a=1)])
        moved = [
            {"remove": {"index": "cdc-public.orders-000001", "alias": "cdc-public.orders"}},
            {"add": {"index": "cdc-public.orders-000002", "alias": "cdc-public.orders"}},
        ]
        engine.handle("POST", "/_aliases", msgspec.json.encode({"actions": moved}))
        assert await to.write([change(2, 1, op=Op.DELETE), change(3, 1, a=1)]) == []
        assert set(engine.indexes["cdc-public.orders-000002"].documents) == {"2", "3"}
        assert "a" in engine.indexes["cdc-public.orders-000002"].properties
        engine.handle("PUT", "/cdc-public.orders-000002/_block/write")
        with pytest.raises(Unavailable):
            await to.write([change(4, 1)])
        engine.handle("DELETE", "/cdc-public.orders-000002")
        with pytest.raises(Misconfigured, match="gone"):
            await to.write([change(4, 1)])
        assert "cdc-public.orders-000002" not in engine.indexes
