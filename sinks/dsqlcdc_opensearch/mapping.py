"""How columns are indexed: by the row model's types, or by what is sent, conservatively, so that no document is ever refused for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

JsonWord = Literal["stored", "object"]
ByteaWord = Literal["drop", "base64"]
EvolveWord = Literal["add", "off"]

LONGEST = 8191
"""Characters of a keyword that is still indexed: four bytes each stay below Lucene's 32,766."""
KEYWORD: Mapping[str, Any] = {"type": "keyword", "ignore_above": LONGEST}
STORED: Mapping[str, Any] = {"type": "object", "enabled": False}
SINGLE = frozenset({"keyword", "long", "double"})
"""Types that are inferred and take single values only."""
_TEXT = {"type": "text", "fields": {"kw": KEYWORD}}
_LONG = {"type": "long", "ignore_malformed": True}
_DOUBLE = {"type": "double", "ignore_malformed": True}
_WHOLE = {**_LONG, "fields": {"num": _DOUBLE}}
_DATE = {"type": "date", "format": "strict_date_optional_time", "ignore_malformed": True}
_NUMERIC = {"type": "keyword", "ignore_above": LONGEST, "fields": {"num": _DOUBLE}}

CDC: Mapping[str, Any] = {
    "properties": {"version": {"type": "long"}, "transaction": {"type": "keyword"}, "deleted": {"type": "boolean"}},
}
"""The field `__cdc` of every document."""

_BY_TYPE: Mapping[str, Mapping[str, Any]] = {
    "smallint": _LONG,
    "integer": _LONG,
    "bigint": _LONG,
    "oid": _LONG,
    "oidvector": _LONG,
    "interval": _LONG,
    "real": _DOUBLE,
    "double precision": _DOUBLE,
    "numeric": _NUMERIC,
    "boolean": {"type": "boolean"},
    "text": _TEXT,
    "varchar": _TEXT,
    "bpchar": _TEXT,
    "name": KEYWORD,
    '"char"': KEYWORD,
    "uuid": KEYWORD,
    "date": _DATE,
    "timestamp": _DATE,
    "timestamptz": _DATE,
    "time": KEYWORD,
    "timetz": KEYWORD,
}


def field_for_type(type: str, json: JsonWord) -> Mapping[str, Any]:
    """The field of a column of this PostgreSQL type, in the form a row model writes.

    Infinities and years that a date field cannot hold, NaN in a number: kept in the document, not searchable.
    """
    if type == "json":
        return {"type": "flat_object"} if json == "object" else STORED
    if type == "bytea":
        return {"type": "binary"}
    return _BY_TYPE.get(type, KEYWORD)


def field_for_value(text: bytes) -> Mapping[str, Any] | None:
    """The field of a column of unknown type by the JSON text of a value of it; None where that says nothing (null).

    Whole numbers are long with a double `.num` beside (the next value may have a fraction), others double, text and booleans keyword; what
    is neither is kept and not searchable. Never a date: DSQL sends times as numbers. A later value that does not fit is kept in its document
    and not searchable there, an object or array as its JSON text: no document is refused.
    """
    match text[:1]:
        case b"n":
            return None
        case b'"' | b"t" | b"f":
            return KEYWORD
        case b"[" | b"{":
            return STORED
        case _:
            return _DOUBLE if any(mark in text for mark in b".eE") else _WHOLE


def body_of(fields: Mapping[str, Mapping[str, Any]], owner: Mapping[str, str]) -> dict[str, Any]:
    """The mapping of an index. `owner` is kept in it: whose deletes it forgets by whose watermark."""
    return {
        "dynamic": False,
        "date_detection": False,
        "numeric_detection": False,
        "_meta": {"dsqlcdc": dict(owner)},
        "properties": {**fields, "__cdc": CDC},
    }
