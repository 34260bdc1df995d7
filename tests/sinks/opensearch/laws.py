"""What the sink relies on in OpenSearch, as laws that are put to the engine model and to a real node alike: the model is held to them.
Those of scripts are in laws_of_scripts.py, which adds them to LAWS.

Each law is given `ask`, and the name of an index nobody else uses.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp

Ask = Callable[..., Awaitable[tuple[int, Any]]]
Law = Callable[[Ask, str], Awaitable[None]]

LAWS: dict[str, Law] = {}
V = 1_800_000_000_000_000_000
ALIVE = {"bool": {"must_not": {"term": {"__cdc.deleted": True}}}}
MAPPING = {
    "dynamic": False,
    "properties": {
        "__cdc": {"properties": {"version": {"type": "long"}, "deleted": {"type": "boolean"}}},
        "n": {"type": "long"},
        "kind": {"type": "long", "ignore_malformed": True},
        "word": {"type": "keyword", "ignore_above": 8191},
        "long_word": {"type": "keyword"},
        "when": {"type": "date", "format": "strict_date_optional_time", "ignore_malformed": True},
        "flag": {"type": "boolean"},
        "kept": {"type": "object", "enabled": False},
        "flat": {"type": "flat_object"},
    },
}


def law(function: Law) -> Law:
    LAWS[function.__name__] = function
    return function


def asking(session: aiohttp.ClientSession, url: str) -> Ask:
    """Requests to a node: (method, path, body) to (status, data). A list is sent as JSON lines."""

    async def ask(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        lines = isinstance(body, list)
        data = "".join(json.dumps(line) + "\n" for line in body).encode() if lines else None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/x-ndjson" if lines else "application/json"}
        async with session.request(method, url + path, data=data, headers=headers) as response:
            text = await response.read()
            return response.status, json.loads(text) if text else None

    return ask


async def make(ask: Ask, index: str, *, alias: bool = True, settings: Mapping[str, Any] | None = None) -> None:
    body: dict[str, Any] = {"mappings": MAPPING, "settings": {"index": {"number_of_replicas": 0, **(settings or {})}}}
    if alias:
        body["aliases"] = {f"{index}-alias": {"filter": ALIVE}}
    status, said = await ask("PUT", f"/{index}", body)
    assert status == 200, said


async def put(ask: Ask, index: str, id: str, version: int, *, gte: bool = False, **row: Any) -> int:
    kind = "external_gte" if gte else "external"
    return (await ask("PUT", f"/{index}/_doc/{id}?version={version}&version_type={kind}", row))[0]


async def drop(ask: Ask, index: str, id: str, version: int, *, gte: bool = False) -> int:
    kind = "external_gte" if gte else "external"
    return (await ask("DELETE", f"/{index}/_doc/{id}?version={version}&version_type={kind}"))[0]


async def bulk(ask: Ask, lines: list[Any], query: str = "") -> list[dict[str, Any]]:
    status, said = await ask("POST", f"/_bulk{query}", lines)
    assert status == 200, said
    return [next(iter(item.values())) for item in said["items"]]


def write(index: str, id: str, version: int, row: Any = None) -> list[Any]:
    about = {"_index": index, "_id": id, "version": version, "version_type": "external"}
    return [{"index": about}, {} if row is None else row]


@law
async def a_document_is_replaced_by_a_newer_version_only(ask: Ask, index: str) -> None:
    await make(ask, index)
    assert await put(ask, index, "1", V + 2, n=1) == 201
    assert await put(ask, index, "1", V + 2, n=2) == 409
    assert await put(ask, index, "1", V + 1, n=2) == 409
    assert await put(ask, index, "1", V + 3, n=3) == 200
    _, got = await ask("GET", f"/{index}/_doc/1")
    assert (got["_version"], got["_source"]) == (V + 3, {"n": 3})


@law
async def external_gte_lets_the_same_version_through(ask: Ask, index: str) -> None:
    await make(ask, index)
    assert await put(ask, index, "1", V + 2, n=1) == 201
    assert await put(ask, index, "1", V + 2, gte=True, n=2) == 200
    assert await put(ask, index, "1", V + 1, gte=True, n=3) == 409
    assert await drop(ask, index, "1", V + 1, gte=True) == 409
    assert await drop(ask, index, "1", V + 2, gte=True) == 200


@law
async def a_delete_is_remembered_for_a_while_even_of_nothing(ask: Ask, index: str) -> None:
    await make(ask, index)
    assert await drop(ask, index, "1", V + 5) == 404
    assert await put(ask, index, "1", V + 4, n=1) == 409
    assert await drop(ask, index, "1", V + 5) == 409
    assert await put(ask, index, "1", V + 6, n=1) == 201


@law
async def a_delete_of_nothing_is_told_from_a_missing_index_by_the_error(ask: Ask, index: str) -> None:
    await make(ask, index)
    about = {"_id": "1", "version": V, "version_type": "external"}
    (gone,) = await bulk(ask, [{"delete": {"_index": index, **about}}])
    assert gone["status"] == 404
    assert "error" not in gone
    (missing,) = await bulk(ask, [{"delete": {"_index": f"{index}-not", "_id": "1"}}])
    assert missing["status"] == 404
    assert missing["error"]["type"] == "index_not_found_exception"


@law
async def deletes_are_forgotten_after_gc_deletes(ask: Ask, index: str) -> None:
    await make(ask, index, settings={"gc_deletes": "100ms"})
    assert await put(ask, index, "1", V + 5, n=1) == 201
    assert await drop(ask, index, "1", V + 9) == 200
    for _ in range(100):
        await asyncio.sleep(0.05)
        await ask("POST", f"/{index}/_refresh")
        if (status := await put(ask, index, "1", V + 1, n=1)) != 409:
            break
    assert status == 201, "the delete is remembered for ever"


@law
async def a_conflict_says_both_versions(ask: Ask, index: str) -> None:
    await make(ask, index)
    items = await bulk(ask, write(index, "1", V + 7) + write(index, "1", V + 7) + write(index, "1", V + 3))
    assert [item["status"] for item in items] == [201, 409, 409]
    for item, given in zip(items[1:], (V + 7, V + 3), strict=True):
        assert item["error"]["type"] == "version_conflict_engine_exception"
        assert f"current version [{V + 7}] is higher or equal to the one provided [{given}]" in item["error"]["reason"]


@law
async def a_tombstone_document_outlives_what_deletes_do_not(ask: Ask, index: str) -> None:
    await make(ask, index, settings={"gc_deletes": "0ms"})
    assert await put(ask, index, "1", V + 5, n=1, __cdc={"version": V + 5, "deleted": False}) == 201
    assert await put(ask, index, "1", V + 9, __cdc={"version": V + 9, "deleted": True}) == 200
    await ask("POST", f"/{index}/_flush")
    assert await put(ask, index, "1", V + 7, n=1) == 409


@law
async def an_alias_hides_what_its_filter_does_not_take_and_reads_by_id_do_not(ask: Ask, index: str) -> None:
    await make(ask, index)
    await put(ask, index, "1", V, n=1, __cdc={"version": V, "deleted": False})
    await put(ask, index, "2", V, __cdc={"version": V, "deleted": True})
    await put(ask, index, "3", V, n=1)
    await ask("POST", f"/{index}/_refresh")
    _, found = await ask("POST", f"/{index}-alias/_search", {"query": {"match_all": {}}})
    assert sorted(hit["_id"] for hit in found["hits"]["hits"]) == ["1", "3"]
    _, got = await ask("POST", "/_mget?realtime=true&_source=false", {"docs": [{"_index": f"{index}-alias", "_id": id} for id in "129"]})
    assert [(doc["found"], doc.get("_version")) for doc in got["docs"]] == [(True, V), (True, V), (False, None)]
    assert "_source" not in got["docs"][0]


@law
async def mget_reads_what_no_search_sees_yet(ask: Ask, index: str) -> None:
    await make(ask, index, settings={"refresh_interval": "-1"})
    await ask("POST", f"/{index}/_refresh")
    await put(ask, index, "1", V, n=1)
    _, got = await ask("POST", "/_mget?realtime=true&_source=false", {"docs": [{"_index": index, "_id": "1"}]})
    assert got["docs"][0]["_version"] == V


@law
async def writing_to_an_alias_goes_to_its_index_and_a_missing_one_is_not_made(ask: Ask, index: str) -> None:
    await make(ask, index)
    query = "?require_alias=true"
    (item,) = await bulk(ask, write(f"{index}-alias", "1", V, {"n": 1}), query)
    assert (item["status"], item["_index"]) == (201, index)
    (item,) = await bulk(ask, write(f"{index}-none", "1", V, {"n": 1}), query)
    assert (item["status"], item["error"]["type"]) == (404, "index_not_found_exception")
    assert (await ask("GET", f"/{index}-none/_mapping"))[0] == 404
    about = {"_index": index, "_id": "1", "version": V + 1, "version_type": "external"}
    (item,) = await bulk(ask, [{"delete": about}], query)
    assert item["status"] == 200, "a delete goes to the index, whatever require_alias says"


@law
async def an_index_is_made_once_with_its_alias(ask: Ask, index: str) -> None:
    await make(ask, index)
    status, said = await ask("PUT", f"/{index}", {"mappings": MAPPING})
    assert (status, said["error"]["type"]) == (400, "resource_already_exists_exception")
    status, found = await ask("GET", f"/_alias/{index}-alias")
    assert status == 200
    assert list(found) == [index]
    assert "filter" in found[index]["aliases"][f"{index}-alias"]
    assert (await ask("GET", f"/_alias/{index}-no"))[0] == 404


@law
async def aliases_are_swapped_in_one_step(ask: Ask, index: str) -> None:
    await make(ask, index)
    await make(ask, f"{index}-b", alias=False)
    alias = f"{index}-alias"
    add, remove = {"index": f"{index}-b", "alias": alias, "filter": ALIVE}, {"index": index, "alias": alias}
    assert (await ask("POST", "/_aliases", {"actions": [{"remove": remove}, {"add": add}]}))[0] == 200
    _, found = await ask("GET", f"/_alias/{alias}")
    assert list(found) == [f"{index}-b"]


@law
async def a_mapping_keeps_what_is_said_in_its_meta_and_takes_new_fields(ask: Ask, index: str) -> None:
    body = {"mappings": {**MAPPING, "_meta": {"dsqlcdc": {"sink": "s"}}}, "settings": {"index": {"number_of_replicas": 0}}}
    assert (await ask("PUT", f"/{index}", body))[0] == 200
    assert (await ask("PUT", f"/{index}/_mapping", {"properties": {"new": {"type": "double"}}}))[0] == 200
    _, found = await ask("GET", f"/{index}/_mapping")
    assert found[index]["mappings"]["_meta"] == {"dsqlcdc": {"sink": "s"}}
    assert {"new", "n", "__cdc"} <= set(found[index]["mappings"]["properties"])
    status, said = await ask("PUT", f"/{index}/_mapping", {"properties": {"new": {"type": "keyword"}}})
    assert (status, said["error"]["type"]) == (400, "illegal_argument_exception")
    _, found = await ask("GET", f"/{index[:-1]}*/_mapping?filter_path=*.mappings._meta")
    assert found[index] == {"mappings": {"_meta": {"dsqlcdc": {"sink": "s"}}}}


REFUSED = {
    "a word for a number": {"n": "x"},
    "an object for a number": {"n": {"a": 1}},
    "an object for a word": {"word": {"a": 1}},
    "a word for a boolean": {"flag": "yes"},
    "a value for an object": {"__cdc": 5},
    "a term too long": {"long_word": "x" * 40_000},
    "a name of the engine's": {"_id": "1"},
    "a name of dots": {"a..b": 1},
    "an array for a flat object": {"flat": 5},
}
EITHER = {"an object for a number where malformed is ignored": {"kind": {"a": 1}}}
"""2.19 refuses it, 3.6 takes it: nothing may rest on either."""
TAKEN = {
    "an unknown field": {"unknown": {"a": [1, "x"]}},
    "a word where malformed is ignored": {"kind": "x"},
    "NaN as a word where malformed is ignored": {"kind": "NaN"},
    "a fraction for a whole number": {"kind": 5.5},
    "a boolean for a word": {"word": True},
    "a number for a word": {"word": 5.5},
    "a word too long to be indexed": {"word": "x" * 40_000},
    "infinity for a date": {"when": "infinity"},
    "a far year": {"when": "+294246-12-31T00:00:00.000000Z"},
    "anything in a field that is only kept": {"kept": [1, {"a": "b"}, "c"]},
    "an object for a flat object": {"flat": {"a": {"b": 1}}},
    "a blank name": {" ": 1},
    "null": {"n": None, "flag": None, "word": None, "flat": None},
    "a number beyond 64 bits": {"kind": 10**30},
    "an empty array": {"kind": []},
}


@law
async def what_a_mapping_takes_and_refuses(ask: Ask, index: str) -> None:
    await make(ask, index)
    lines: list[Any] = []
    for id, row in enumerate([*REFUSED.values(), *TAKEN.values(), *EITHER.values()]):
        lines += write(index, str(id), V, row)
    items = await bulk(ask, lines)
    for name, item in zip([*REFUSED, *TAKEN, *EITHER], items, strict=True):
        assert item["status"] == (400 if name in REFUSED else 201) or name in EITHER, f"{name}: {item}"
    types = {name: item["error"]["type"] for name, item in zip(REFUSED, items, strict=False)}
    assert set(types.values()) <= {"mapper_parsing_exception", "illegal_argument_exception"}, types


@law
async def too_many_fields_are_refused_with_the_limit(ask: Ask, index: str) -> None:
    await make(ask, index, settings={"mapping.total_fields.limit": 15})
    status, said = await ask("PUT", f"/{index}/_mapping", {"properties": {f"f{n}": {"type": "long"} for n in range(20)}})
    assert status == 400
    assert "Limit of total fields [15] has been exceeded" in said["error"]["reason"]


@law
async def blocks_refuse_each_item_and_are_lifted(ask: Ask, index: str) -> None:
    await make(ask, index)
    for block, status in (("read_only_allow_delete", 429), ("write", 403)):
        await ask("PUT", f"/{index}/_settings", {"index.blocks": {block: True}})
        (item,) = await bulk(ask, write(index, "1", V))
        assert (item["status"], item["error"]["type"]) == (status, "cluster_block_exception")
        await ask("PUT", f"/{index}/_settings", {"index.blocks": {block: None}})
    assert (await bulk(ask, write(index, "1", V)))[0]["status"] == 201


@law
async def an_index_is_held_still_and_let_go(ask: Ask, index: str) -> None:
    await make(ask, index)
    assert (await ask("PUT", f"/{index}/_block/write"))[0] == 200
    about = {"_index": index, "_id": "1", "version": V, "version_type": "external"}
    items = await bulk(ask, [*write(f"{index}-alias", "1", V), {"delete": about}])
    assert [(item["status"], item["error"]["type"]) for item in items] == [(403, "cluster_block_exception")] * 2
    assert (await ask("PUT", f"/{index}/_mapping", {"_meta": {"a": 1}, "properties": {"new": {"type": "long"}}}))[0] == 200
    assert (await ask("PUT", f"/{index}/_settings", {"index.blocks.write": None}))[0] == 200
    assert (await bulk(ask, write(f"{index}-alias", "1", V)))[0]["status"] == 201


@law
async def what_is_kept_in_a_mapping_is_replaced_as_a_whole(ask: Ask, index: str) -> None:
    await make(ask, index)
    for meta in ({"a": {"b": 1}, "c": 2}, {"a": {"d": 3}}):
        assert (await ask("PUT", f"/{index}/_mapping", {"_meta": meta}))[0] == 200
        _, found = await ask("GET", f"/{index}*/_mapping?filter_path=*.mappings._meta")
        assert found == {index: {"mappings": {"_meta": meta}}}


@law
async def rows_are_counted_by_a_query(ask: Ask, index: str) -> None:
    await make(ask, index)
    await put(ask, index, "1", V, __cdc={"version": V, "deleted": False})
    await put(ask, index, "2", V, __cdc={"version": V, "deleted": True})
    assert (await ask("POST", f"/{index}/_refresh"))[0] == 200
    assert (await ask("POST", f"/{index}/_count", {"query": ALIVE}))[1]["count"] == 1


@law
async def a_wrong_version_refuses_the_whole_request(ask: Ask, index: str) -> None:
    await make(ask, index)
    status, said = await ask("POST", "/_bulk", write(index, "1", V) + write(index, "2", -5))
    assert status == 400, said
    assert (await ask("GET", f"/{index}/_doc/1"))[0] == 404


@law
async def an_id_has_at_most_512_bytes(ask: Ask, index: str) -> None:
    await make(ask, index)
    items = await bulk(ask, write(index, "x" * 512, V) + write(index, "h~|%2F-_.é", V))
    assert [item["status"] for item in items] == [201, 201]
    status, said = await ask("POST", "/_bulk", write(index, "é" * 257, V))
    assert status == 400 or said["items"][0]["index"]["status"] == 400


@law
async def a_point_in_time_is_searched_in_the_order_of_versions(ask: Ask, index: str) -> None:
    await make(ask, index)
    for n in (3, 1, 2, 2):
        await put(ask, index, f"{n}-{n}", V + n, __cdc={"version": V + n, "deleted": n != 3})
    await ask("POST", f"/{index}/_refresh")
    _, opened = await ask("POST", f"/{index}/_search/point_in_time?keep_alive=1m")
    await put(ask, index, "1-1", V + 9, __cdc={"version": V + 9, "deleted": False})
    await ask("POST", f"/{index}/_refresh")
    versions = {"range": {"__cdc.version": {"gte": 0, "lte": V + 2}}}
    body = {
        "size": 10,
        "query": {"bool": {"filter": [{"term": {"__cdc.deleted": True}}, versions]}},
        "sort": [{"__cdc.version": "asc"}],
        "pit": {"id": opened["pit_id"], "keep_alive": "1m"},
        "_source": False,
    }
    status, found = await ask("POST", "/_search", body)
    assert status == 200, found
    assert [(hit["_id"], hit["sort"]) for hit in found["hits"]["hits"]] == [("1-1", [V + 1]), ("2-2", [V + 2])]
    assert (await ask("DELETE", "/_search/point_in_time", {"pit_id": [opened["pit_id"]]}))[0] == 200
    assert (await ask("POST", "/_search", body))[0] == 404
