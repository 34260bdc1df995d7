"""A change as a CloudEvent 1.0: structured JSON, binary mode, or with its data elsewhere. The row is spliced in as received, never decoded."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import msgspec

from dsqlcdc.contract import Change, Op, Table

STRUCTURED = "application/cloudevents+json; charset=utf-8"
BATCH = "application/cloudevents-batch+json; charset=utf-8"
DATA = "application/json"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TYPES = {op: f"dsqlcdc.row.{op.word}" for op in Op}
_WORDS = {op: op.word for op in Op}
_PRINTABLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_encode = msgspec.json.Encoder().encode
_decode_key = msgspec.json.Decoder(dict[str, Any]).decode


class _Data(msgspec.Struct, gc=False, omit_defaults=True):
    op: str
    schema: str
    table: str
    key: msgspec.Raw | None
    row: msgspec.Raw | None
    version: str
    transaction: str
    late: bool = False


class _Attributes(msgspec.Struct, gc=False):
    specversion: str
    id: str
    source: str
    type: str
    subject: str
    time: str
    datacontenttype: str
    sequence: str


class _Event(_Attributes, gc=False):
    data: _Data


class _Referring(_Attributes, gc=False):
    dataref: str


def event(change: Change) -> bytes:
    """The event in structured JSON. `version` is a string, since it does not fit a double; `sequence` orders a row's changes as text.

    This and the other forms raise OverflowError where the version lies beyond the year 9999.
    """
    return _encode(_Event(*_attributes(change), _data(change)))


def referring(change: Change, dataref: str) -> bytes:
    """The same without `data`, which is to be had at `dataref` (CloudEvents extension "Dataref")."""
    return _encode(_Referring(*_attributes(change), dataref))


def data(change: Change) -> bytes:
    """What `data` is: the body in binary mode, and what a `dataref` leads to."""
    return _encode(_data(change))


def headers(change: Change, dataref: str | None = None) -> Mapping[str, str]:
    """The attributes in binary mode: one header each, `datacontenttype` as Content-Type, where there is a body."""
    version, id, source, type, named, time, content, sequence = _attributes(change)
    made = {
        "ce-specversion": version,
        "ce-id": id,
        "ce-source": _header(source),
        "ce-type": type,
        "ce-subject": _header(named),
        "ce-time": time,
        "ce-sequence": sequence,
    }
    return made | ({"Content-Type": content} if dataref is None else {"ce-dataref": _header(dataref)})


def _attributes(change: Change) -> tuple[str, str, str, str, str, str, str, str]:
    seconds, nanos = divmod(change.version, 1_000_000_000)
    return (
        "1.0",
        change.id.hex(),
        _source(change.table.cluster),
        _TYPES[change.op],
        subject(change),
        f"{_second(seconds)}.{nanos:09d}Z",
        DATA,
        f"{change.version:020d}",
    )


def _data(change: Change) -> _Data:
    table = change.table
    return _Data(
        _WORDS[change.op],
        table.schema,
        table.name,
        change.key_image,
        change.image,
        str(change.version),
        change.transaction,
        change.late,
    )


def subject(change: Change) -> str:
    """`{schema}.{table}/{key}`: names and the key's values percent-encoded, several values joined by commas; without a known key no `/…`."""
    table = _name(change.table)
    if change.key_image is None:
        return table
    return f"{table}/{','.join([_quote(_text(value)) for value in _decode_key(change.key_image).values()])}"


def _header(text: str) -> str:
    """A header's value: a percent sign before each byte of UTF-8 that is a space, a quote, a percent sign or not printable ASCII
    (CloudEvents HTTP binding §3.1.3.2)."""
    return quote(text, safe=_PRINTABLE)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _encode(value).decode()


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()


@lru_cache(maxsize=1024)
def _name(table: Table) -> str:
    return f"{_quote(table.schema)}.{_quote(table.name)}"


@lru_cache(maxsize=1024)
def _source(cluster: str) -> str:
    return f"dsql://{quote(cluster, safe='')}"


def _quote(text: str) -> str:
    if text.isalnum() and text.isascii():
        return text
    return quote(text.encode("utf-8", "surrogatepass"), safe="").replace(".", "%2E")
