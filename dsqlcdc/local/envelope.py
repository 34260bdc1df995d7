"""Change records as DSQL writes them: the envelope, oversized rows cut into fragments, and what was seen beside the documents."""

from __future__ import annotations

import random
import uuid
from typing import Any

import google_crc32c
import msgspec

OVERSIZE = 9 * 1024 * 1024
"""A record whose text passes this is cut."""
ENVELOPE = 200
"""Room in a fragment's record for what is around its data."""
DEVIATIONS = ("no_type", "nulls_left_out", "insert_for_update", "unknown_op", "outer_before_source", "no_outer_times")
"""Spec §5, one for a record at most."""

Row = dict[str, Any]


class Source(msgspec.Struct, frozen=True):
    """Where a change comes from; all changes of a transaction share it but for the table."""

    ts_ns: int
    transaction: str
    cluster: str


class Event(msgspec.Struct, frozen=True):
    """One change. `op` is c, u or d; `before` a delete's key columns; the images are rows as JSON values."""

    source: Source
    schema: str
    table: str
    op: str
    before: Row | None
    after: Row | None


def records(event: Event, *, sent_at: int, rng: random.Random, deviation: str = "", limit: int = OVERSIZE) -> list[bytes]:
    """The Kinesis records of one change: one, or the fragments and the main record of an oversized row. `sent_at` in nanoseconds."""
    source, after = event.source, event.after
    if after is not None and deviation == "nulls_left_out":
        after = {column: value for column, value in after.items() if value is not None}
    envelope: dict[str, Any] = {} if deviation == "no_type" else {"type": "full"}
    envelope["op"] = sent_op(event.op, deviation)
    envelope |= {"before": msgspec.Raw(_text(event.before)), "after": msgspec.Raw(_text(after))}
    envelope["source"] = _source(source, event.schema, event.table)
    if deviation == "outer_before_source":
        sent_at = source.ts_ns - 4_000_000
    if deviation != "no_outer_times":
        envelope |= {"ts_ms": sent_at // 1_000_000, "ts_ns": sent_at}
    whole = msgspec.json.encode(envelope)
    return [whole] if len(whole) < limit else _cut(envelope, limit, rng)


def sent_op(op: str, deviation: str) -> str:
    """The op code that is sent for a committed one."""
    if deviation == "insert_for_update" and op == "u":
        return "c"
    return "m" if deviation == "unknown_op" and op != "d" else op


def _source(source: Source, schema: str, table: str) -> dict[str, Any]:
    return {
        "version": "1.0",
        "ts_ms": source.ts_ns // 1_000_000,
        "ts_ns": source.ts_ns,
        "txId": source.transaction,
        "schema": schema,
        "table": table,
        "db": "postgres",
        "cluster": source.cluster,
    }


def _text(row: Row | None) -> bytes:
    return msgspec.json.encode(row)


def _cut(envelope: dict[str, Any], limit: int, rng: random.Random) -> list[bytes]:
    """Cut the larger image, and the other too when the rest is still too large."""
    out: list[bytes] = []
    chunked: dict[str, Any] = {}
    main = {**envelope, "type": "chunked", "chunked": chunked}
    before: msgspec.Raw = envelope["before"]
    after: msgspec.Raw = envelope["after"]
    images = [("before", bytes(before)), ("after", bytes(after))]
    for image, text in sorted(images, key=lambda item: len(item[1]), reverse=True):
        if text == b"null" or (out and len(msgspec.json.encode(main)) < limit):
            continue
        chunk_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        slices = cut_text(text, limit - ENVELOPE)
        out += [
            msgspec.json.encode({"type": "fragment", "chunk_id": chunk_id, "index": index, "data": piece.decode()})
            for index, piece in enumerate(slices)
        ]
        crc = int(google_crc32c.value(text))  # pyright: ignore[reportUnknownArgumentType]
        chunked[image] = {"chunk_id": chunk_id, "total_fragments": len(slices), "crc32c": str(crc)}
        main[image] = None
    return [*out, msgspec.json.encode(main)]


def cut_text(text: bytes, limit: int) -> list[bytes]:
    """Slices, none of which ends within a character, and each of which has `limit` bytes (32 or more) at most as a JSON string."""
    out: list[bytes] = []
    start = 0
    while start < len(text):
        size = limit
        while True:
            stop = min(start + size, len(text))
            while stop < len(text) and text[stop] & 0xC0 == 0x80:
                stop -= 1
            escaped = len(msgspec.json.encode(text[start:stop].decode()))
            if escaped <= limit:
                break
            size = max(4, min(size - 1, (stop - start) * limit // escaped))
        out.append(text[start:stop])
        start = stop
    return out
