"""A change as a CloudEvent 1.0 in structured JSON. The row is spliced in as it was received, never decoded."""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from urllib.parse import quote

import msgspec

from dsqlcdc.contract import Change, Op, Table
from dsqlcdc.lines import commit_time

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
_TYPES = {op: f"dsqlcdc.row.{op.word}" for op in Op}
_WORDS = {op: op.word for op in Op}
_encode = msgspec.json.encode


class _Data(msgspec.Struct, gc=False):
    op: str
    schema: str
    table: str
    key: msgspec.Raw | None
    row: msgspec.Raw | None
    version: str
    transaction: str


class _Event(msgspec.Struct, gc=False):
    specversion: str
    id: str
    source: str
    type: str
    subject: str
    time: str
    datacontenttype: str
    sequence: str
    data: _Data


def event(change: Change) -> bytes:
    """The body of the request. `version` is a string, since it does not fit a double; `sequence` orders a row's changes as text.

    Raises OverflowError where the version lies beyond the year 9999.
    """
    table = change.table
    data = _Data(_WORDS[change.op], table.schema, table.name, change.key_image, change.image, str(change.version), change.transaction)
    time = f"{commit_time(change).replace(tzinfo=None).isoformat()}.{change.version % 1_000_000_000:09d}Z"
    return _encode(
        _Event(
            "1.0",
            change.id.hex(),
            _source(table.cluster),
            _TYPES[change.op],
            subject(change),
            time,
            "application/json",
            f"{change.version:020d}",
            data,
        )
    )


def subject(change: Change) -> str:
    """`{schema}.{table}/{key}`: names and the key's values percent-encoded, several values joined by commas; without a known key no `/…`."""
    table = _name(change.table)
    key = change.key
    return table if key is None else f"{table}/{','.join([_quote(_text(value)) for value in key.values()])}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _encode(value).decode()


@lru_cache(maxsize=1024)
def _name(table: Table) -> str:
    return f"{_quote(table.schema)}.{_quote(table.name)}"


@lru_cache(maxsize=1024)
def _source(cluster: str) -> str:
    return f"dsql://{quote(cluster, safe='')}"


def _quote(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="").replace(".", "%2E")
