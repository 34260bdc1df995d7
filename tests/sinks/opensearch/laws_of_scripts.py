"""What `mode: scripted` relies on in OpenSearch. LAWS holds these laws and the others."""

from __future__ import annotations

import json
from typing import Any

from dsqlcdc_opensearch import scripted as scripts

from .laws import LAWS, Ask, V, bulk, law, make, put, write

__all__ = ["LAWS"]


def scripted(index: str, id: str, script: str, params: Any, **more: Any) -> list[Any]:
    """An update as `mode: scripted` writes it; with `upsert` it makes what is not there."""
    body = {"script": {"source": script, "lang": "painless", "params": params}, **more}
    return [{"update": {"_index": index, "_id": id, "retry_on_conflict": 5}}, body]


def doc(version: int, deleted: bool = False, **row: Any) -> dict[str, Any]:
    return {"__cdc": {"version": version, "deleted": deleted}, **row}


UPSERT: dict[str, Any] = {"scripted_upsert": True, "upsert": {}, "_source": ["__cdc.version"]}


@law
async def a_script_replaces_what_is_older_and_says_what_is_there(ask: Ask, index: str) -> None:
    await make(ask, index)
    given = [(V + 2, {"n": 1, "word": "x"}), (V + 2, {"n": 2}), (V + 1, {"n": 2}), (V + 3, {"n": 3})]
    lines = [line for version, row in given for line in scripted(index, "1", scripts.REPLACE, {"doc": doc(version, **row)}, **UPSERT)]
    items = await bulk(ask, lines, "?filter_path=items.*.status,items.*.result,items.*.get._source.__cdc.version")
    assert [(item["status"], item["result"]) for item in items] == [(201, "created"), (200, "noop"), (200, "noop"), (200, "updated")]
    assert [item["get"]["_source"]["__cdc"]["version"] for item in items] == [V + 2, V + 2, V + 2, V + 3]
    _, got = await ask("GET", f"/{index}/_doc/1")
    assert got["_source"] == doc(V + 3, n=3)


@law
async def a_script_compares_small_and_large_versions(ask: Ask, index: str) -> None:
    await make(ask, index)
    lines = [
        line for version in (1, 2**40, 2, 2**63 - 1) for line in scripted(index, "1", scripts.REPLACE, {"doc": doc(version)}, **UPSERT)
    ]
    assert [item["result"] for item in await bulk(ask, lines)] == ["created", "updated", "noop", "updated"]


@law
async def a_script_removes_what_is_older_and_leaves_and_makes_nothing(ask: Ask, index: str) -> None:
    await make(ask, index)
    await bulk(ask, scripted(index, "1", scripts.REPLACE, {"doc": doc(V + 2)}, **UPSERT))
    asked = [("1", V + 1), ("1", V + 2), ("1", V + 3), ("1", V + 4), ("9", V)]
    items = await bulk(ask, [line for id, version in asked for line in scripted(index, id, scripts.REMOVE, {"version": version})])
    told = [(item["status"], item.get("result")) for item in items]
    assert told == [(200, "noop"), (200, "noop"), (200, "deleted"), (404, None), (404, None)]
    assert items[3]["error"]["type"] == "document_missing_exception"
    assert (await ask("GET", f"/{index}/_doc/9"))[0] == 404


@law
async def a_script_forgets_the_tombstone_of_this_very_version_only(ask: Ask, index: str) -> None:
    await make(ask, index)
    for id, version, deleted in (("1", V, True), ("2", V + 1, True), ("3", V, False)):
        await bulk(ask, scripted(index, id, scripts.REPLACE, {"doc": doc(version, deleted)}, **UPSERT))
    await ask("PUT", f"/{index}/_doc/4", {"n": 1})
    items = await bulk(ask, [line for id in "12349" for line in scripted(index, id, scripts.FORGET, {"version": V})])
    assert [item.get("result") for item in items] == ["deleted", "noop", "noop", "noop", None]


@law
async def a_script_lets_a_state_be_followed_by_a_later_one_only(ask: Ask, index: str) -> None:
    await make(ask, index)
    said: list[str] = []
    for count in (1, 1, 2, 1):
        body = {"script": {"source": scripts.SUCCEED, "lang": "painless", "params": {"state": {"count": count}}}}
        body |= {"scripted_upsert": True, "upsert": {}}
        said.append((await ask("POST", f"/{index}/_update/x?retry_on_conflict=5", body))[1]["result"])
    assert said == ["created", "noop", "updated", "noop"]


@law
async def an_update_goes_through_an_alias_and_makes_no_index(ask: Ask, index: str) -> None:
    await make(ask, index)
    update = scripted(f"{index}-alias", "1", scripts.REPLACE, {"doc": doc(V)}, **UPSERT)
    (item,) = await bulk(ask, update, "?require_alias=true")
    assert (item["status"], item["_index"]) == (201, index)
    (item,) = await bulk(ask, scripted(f"{index}-none", "1", scripts.REMOVE, {"version": V}), "?require_alias=true")
    assert (item["status"], item["error"]["type"]) == (404, "index_not_found_exception")
    update = scripted(index, "1", scripts.REMOVE, {"version": V + 1})
    update[0]["update"]["require_alias"] = False
    (item,) = await bulk(ask, update, "?require_alias=true")
    assert item["result"] == "deleted"


@law
async def a_mapping_refuses_a_scripts_document_like_any_other(ask: Ask, index: str) -> None:
    await make(ask, index)
    (item,) = await bulk(ask, scripted(index, "1", scripts.REPLACE, {"doc": doc(V, n="x")}, **UPSERT))
    assert (item["status"], item["error"]["type"]) == (400, "mapper_parsing_exception")


@law
async def a_script_that_is_none_is_refused(ask: Ask, index: str) -> None:
    await make(ask, index)
    (item,) = await bulk(ask, scripted(index, "1", "if (", {}, **UPSERT))
    assert item["status"] == 400
    assert "compile error" in json.dumps(item["error"])


@law
async def a_document_is_read_by_the_parts_of_it(ask: Ask, index: str) -> None:
    await make(ask, index)
    await put(ask, index, "1", V, n=1, __cdc={"version": V, "deleted": False})
    _, got = await ask("POST", "/_mget?realtime=true&_source=__cdc.version", {"docs": [{"_index": index, "_id": "1"}]})
    assert got["docs"][0]["_source"] == {"__cdc": {"version": V}}


@law
async def the_answer_to_a_bulk_can_be_cut_to_what_is_read(ask: Ask, index: str) -> None:
    await make(ask, index)
    lines = (
        write(index, "1", V) + write(index, "1", V) + [{"delete": {"_index": index, "_id": "9", "version": V, "version_type": "external"}}]
    )
    status, said = await ask("POST", "/_bulk?filter_path=items.*._id,items.*.status,items.*.error", lines)
    assert status == 200
    assert list(said) == ["items"]
    assert said["items"][0] == {"index": {"_id": "1", "status": 201}}
    assert said["items"][1]["index"]["error"]["type"] == "version_conflict_engine_exception"
    assert said["items"][2] == {"delete": {"_id": "9", "status": 404}}
