"""CDC records as Aurora DSQL writes them, for tests: whole ones, oversized ones in pieces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import google_crc32c
import msgspec

_encode = msgspec.json.Encoder().encode


def full(
    op: str,
    table: str,
    row: Mapping[str, Any] | None,
    ts_ns: int,
    *,
    before: Mapping[str, Any] | None = None,
    transaction: str = "",
    cluster: str = "cluster",
) -> bytes:
    """One record: `op` c, u or d, `table` as schema.name, `row` the image after. For a delete `before` holds the primary key, `row` is None."""
    return _encode({"type": "full", **_envelope(op, table, ts_ns, transaction, cluster), "before": before, "after": row})


def chunked(
    op: str,
    table: str,
    row: Mapping[str, Any] | None,
    ts_ns: int,
    *,
    before: Mapping[str, Any] | None = None,
    whole: tuple[str, ...] = (),
    size: int = 9 * 1024 * 1024,
    chunk_id: str = "",
    transaction: str = "",
    cluster: str = "cluster",
) -> list[bytes]:
    """The records of an oversized row, the main record first. Each image that is not None and not named in `whole` is cut into pieces of
    about `size` bytes; an image's chunk id is `chunk_id` (default: the table and ts_ns) with the image's name."""
    record: dict[str, Any] = {"type": "chunked", **_envelope(op, table, ts_ns, transaction, cluster), "before": before, "after": row}
    cuts: dict[str, Any] = {}
    pieces: list[bytes] = []
    for name in ("before", "after"):
        if record[name] is None or name in whole:
            continue
        text = _encode(record[name])
        id = f"{chunk_id or f'{table}/{ts_ns}'}/{name}"
        parts = cut(text, size)
        cuts[name] = {"chunk_id": id, "total_fragments": len(parts), "crc32c": f"{google_crc32c.value(text)}"}
        pieces += [_encode({"type": "fragment", "chunk_id": id, "index": n, "data": part}) for n, part in enumerate(parts)]
        record[name] = None
    return [_encode({**record, "chunked": cuts}), *pieces]


def cut(text: bytes, size: int) -> list[str]:
    """UTF-8 text in slices of at most `size` bytes (at least one character), on character boundaries."""
    parts: list[str] = []
    start = 0
    while start < len(text) or not parts:
        end = min(start + size, len(text))
        while end < len(text) and end > start + 1 and text[end] & 0xC0 == 0x80:
            end -= 1
        while end < len(text) and text[end] & 0xC0 == 0x80:
            end += 1
        parts.append(text[start:end].decode())
        start = end
    return parts


def _envelope(op: str, table: str, ts_ns: int, transaction: str, cluster: str) -> dict[str, Any]:
    schema, _, name = table.partition(".")
    return {
        "op": op,
        "source": {
            "version": "1.0",
            "ts_ms": ts_ns // 1_000_000,
            "ts_ns": ts_ns,
            "txId": transaction or f"tx{ts_ns}",
            "schema": schema,
            "table": name,
            "db": "postgres",
            "cluster": cluster,
        },
        "ts_ms": ts_ns // 1_000_000 + 40,
        "ts_ns": ts_ns + 40_000_000,
    }
