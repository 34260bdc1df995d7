"""Names in OpenSearch: of a table's index and alias, of a row's document, of a column's field. Different things have different names."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import msgspec

from dsqlcdc.contract import Table

ID_BYTES = 480
"""A longer `_id` is replaced by its hash; OpenSearch takes 512."""
_NAME_BYTES = 255 - len("-000001")
_PLAIN_ID = re.compile(r"[A-Za-z0-9_.~-]{1,200}")
_NUMBERED = re.compile(r"-(?=\d{6}$)")
_RESERVED = frozenset(
    (
        *("__cdc", "_id", "_index", "_source", "_routing", "_type", "_field_names", "_ignored", "_seq_no", "_primary_term", "_version"),
        *("_doc_count", "_nested_path", "_size", "_tier", "_meta", "_parent", "_all", "_timestamp", "_ttl", "_recovery_source"),
        "_data_stream_timestamp",
    )
)
"""Names that a document's field cannot have: the engine's own (or once were), and ours."""
_encode = msgspec.json.encode


@lru_cache(maxsize=4096)
def alias_of(prefix: str, table: Table) -> str:
    """`{prefix}{schema}.{table}`: what an index name cannot hold is `_x` and two hex digits a byte (UTF-8), so `_x` itself is `_x5fx`.

    Where that is longer than a name may be, the end is replaced by `_xh` and a hash. A table that is called like another's physical index
    has its last `-` encoded.
    """
    name = f"{_part(table.schema)}.{_NUMBERED.sub('_x2d', _part(table.name))}"
    room = _NAME_BYTES - len(prefix)
    if len(name) > room:
        digest = hashlib.sha256(name.encode()).hexdigest()[:32]
        name = f"{name[: room - len(digest) - 3]}_xh{digest}"
    return prefix + name


def index_of(alias: str, number: int = 1) -> str:
    """The physical index behind an alias: the first one, unless a rebuild made another."""
    return f"{alias}-{number:06d}"


def _part(name: str) -> str:
    name = re.sub(r"_(?=x)", "_x5f", name)
    return re.sub(r"[^a-z0-9_-]", lambda match: "".join([f"_x{byte:02x}" for byte in match[0].encode("utf-8", "surrogatepass")]), name)


def id_of(key: dict[str, Any]) -> str:
    """The `_id` of a row: its key's values, percent-encoded and joined by `|`; a hash where that is longer than 480 bytes.

    Different keys of one table have different ids (a column's values are all of one type). Never empty.
    """
    if len(key) == 1:
        (value,) = key.values()
        if value.__class__ is int:
            return str(value)
        if value.__class__ is str and _PLAIN_ID.fullmatch(value) and not value.startswith("h~"):
            return str(value)
    text = "|".join([_id_part(value) for value in key.values()]) or "%"
    if text.startswith("h~"):
        text = f"h%7E{text[2:]}"
    if len(text) > ID_BYTES:
        digest = hashlib.sha256(_encode(list(key.values()))).digest()
        return "h~" + base64.urlsafe_b64encode(digest).decode().rstrip("=")
    return text


def _id_part(value: Any) -> str:
    text = value if isinstance(value, str) else _encode(value).decode()
    return quote(text, safe="")


@lru_cache(maxsize=65_536)
def field_of(column: str) -> str:
    """The field of a column: its name, but for `%`, for dots (which would make an object of it), for blank names and the engine's own."""
    if column in _RESERVED:
        return f"%5F{column[1:]}"
    if not column.strip():
        return "".join([f"%{byte:02X}" for byte in column.encode()]) or "%"
    return column.replace("%", "%25").replace(".", "%2E")
