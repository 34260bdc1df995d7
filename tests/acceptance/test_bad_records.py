"""What strangers and accidents put into the stream: a dead letter each, byte for byte, and the rest flows on."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from typing import Any

import google_crc32c
import pytest

from dsqlcdc.assemble import open_dead_letters
from dsqlcdc.config import load

from .world import STREAM, World, total


def envelope(**more: Any) -> dict[str, Any]:
    source = {"version": "1.0", "ts_ns": 1_800_000_000_000_000_001, "txId": "t1", "schema": "t", "table": "x", "cluster": "c"}
    return {"type": "full", "op": "c", "before": None, "after": {"id": 1}, "source": source, **more}


def record(**more: Any) -> bytes:
    return json.dumps(envelope(**more)).encode()


def source(**more: Any) -> bytes:
    body = envelope()
    body["source"] = {name: value for name, value in {**body["source"], **more}.items() if value is not ...}
    return json.dumps(body).encode()


def cut(total_fragments: Any, crc: str = "1") -> bytes:
    image = {"chunk_id": str(uuid.uuid4()), "total_fragments": total_fragments, "crc32c": crc}
    return record(type="chunked", after=None, chunked={"after": image})


def fragment(chunk: str, index: Any, data: Any = "{}") -> bytes:
    return json.dumps({"type": "fragment", "chunk_id": chunk, "index": index, "data": data}).encode()


BAD: dict[str, bytes] = {
    "empty object": b"{}",
    "no JSON": b"hello, \x00 stranger",
    "truncated": record()[:-20],
    "two values": record() + b"{}",
    "an array": b"[1]",
    "invalid UTF-8": record(op="c").replace(b'"t1"', b'"\xff\xfe"'),
    "invalid UTF-8 in an image": record(after={"id": 1, "name": "NAME"}).replace(b"NAME", b"\xc3\x28"),
    "lone surrogate as bytes": record(after={"id": 1, "name": "NAME"}).replace(b"NAME", b"\xed\xa0\x80"),
    "lone surrogate, escaped": record(after={"id": 1, "name": "\ud800"}),
    "aggregated by KPL": b"\xf3\x89\x9a\xc2" + b"\x0a\x03abc" * 9,
    "wrong type of source": record(source="here"),
    "wrong type of after": record(after=[1]),
    "no source": json.dumps({"type": "full", "op": "c", "after": {"id": 1}}).encode(),
    "no ts_ns": source(ts_ns=...),
    "ts_ns as a float": source(ts_ns=1.8e18),
    "ts_ns as a string": source(ts_ns="1800000000000000001"),
    "ts_ns huge": source(ts_ns=10**40),
    "ts_ns null": source(ts_ns=None),
    "no table": source(table=...),
    "nested too deeply": record(after={"id": 1, "x": "DEEP"}).replace(b'"DEEP"', b"[" * 100_000 + b"]" * 100_000),
    "unknown type": record(type="sideways"),
    "an insert without a row": record(after=None),
    "no pieces": cut(0),
    "a million pieces": cut(1_000_000),
    "pieces as text": cut("3"),
    "index out of range": fragment("c-1", 10**9),
    "index below zero": fragment("c-2", -1),
    "index missing": json.dumps({"type": "fragment", "chunk_id": "c-3", "data": "x"}).encode(),
    "data is no string": fragment("c-4", 0, {"a": 1}),
}
FINE: dict[str, bytes] = {
    "a wide row": record(after={"id": 2, **{f"c{n}": n for n in range(100_000)}}),
    "a long string": record(after={"id": 3, "body": "x" * (8 * 1024 * 1024)}),
    "a huge integer in a row": record(after={"id": 4, "n": 10**60}),
    "a key twice": record(after={"id": 5}).replace(b'"id"', b'"id": 0, "id"'),
    "an unknown op": record(op="zz", after={"id": 6}),
}


@pytest.mark.timeout(180)
def test_every_bad_record_is_a_dead_letter_with_its_bytes_and_the_rest_flows_on(world: World) -> None:
    world.commit(100)
    for data in (*BAD.values(), *FINE.values()):
        world.server.record(STREAM, data)
    world.commit(100)
    done = world.once().expect(4)
    assert total(done.json, "dead") == len(BAD)

    letters = world.run("dead", "list", str(world.config), "--json").expect(0).lines
    shown = [world.run("dead", "show", letter["name"], str(world.config), "--json").expect(0).json for letter in letters[:2]]
    assert all(base64.b64decode(one["raw_base64"]) in BAD.values() for one in shown)
    assert sorted(letter["bytes"] for letter in letters) == sorted(map(len, BAD.values()))
    assert all(letter["code"] and letter["detail"] and letter["sequence"] and letter["shard"] for letter in letters)
    assert sorted(kept(world)) == sorted(BAD.values())

    ours = [line for line in world.lines() if line["schema"] == "t"]
    assert {line["key"]["id"] for line in ours} == {2, 3, 4, 5, 6}
    assert not world.compare().missing

    again = world.once().expect(0)
    assert again.json["sinks"]["lake"]["read"] == 0


def kept(world: World) -> list[bytes]:
    """The raw bytes of every dead letter, through the store that the commands use."""

    async def read() -> list[bytes]:
        store = open_dead_letters(load(world.config))
        try:
            return [letter.raw async for _, letter in store.letters()]
        finally:
            await store.close()

    return asyncio.run(read())


def test_rows_put_together_wrongly_are_dead_letters_of_all_their_parts(world: World) -> None:
    text = json.dumps({"id": 8, "body": "b" * 1000})
    wrong, odd = str(uuid.uuid4()), str(uuid.uuid4())
    parts = [
        record(type="chunked", after=None, chunked={"after": {"chunk_id": wrong, "total_fragments": 2, "crc32c": "12345"}}),
        fragment(wrong, 0, text[:300]),
        fragment(wrong, 1, text[300:]),
    ]
    contradicting = [
        record(type="chunked", after=None, chunked={"after": {"chunk_id": odd, "total_fragments": 2, "crc32c": crc_of(text)}}),
        fragment(odd, 5, "what is this"),
    ]
    for data in (*parts, *contradicting):
        world.server.record(STREAM, data)
    world.commit(50)
    world.once().expect(4)
    letters = kept(world)
    assert set(parts) <= set(letters)
    assert contradicting[0] in letters or contradicting[1] in letters
    assert not world.compare().missing


def crc_of(text: str) -> str:
    return str(google_crc32c.value(text.encode()))
