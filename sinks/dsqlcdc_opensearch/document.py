"""A change as an operation of a bulk request: an action line and a document. The row is spliced in as it was received."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from dsqlcdc.contract import Change, Op
from dsqlcdc_opensearch.mapping import ByteaWord, JsonWord, field_for_type, field_for_value
from dsqlcdc_opensearch.names import field_of

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode

GREATEST = 2**63 - 1
"""An external version is a Java long."""


class Operation(msgspec.Struct, frozen=True, gc=False):
    """One operation of a bulk request. `index` is its place in the batch, `lines` are whole lines; `delete` says it is a native delete."""

    index: int
    id: str
    version: int
    lines: bytes
    delete: bool = False


class Shape:
    """What is known of one table's columns: which are indexed and how, which change their name, which are left out.

    With column types (of a row model) these say it; without, and without a mapping file, the values do (`learn`).
    """

    def __init__(
        self,
        types: Mapping[str, str] | None,
        *,
        json: JsonWord = "stored",
        bytea: ByteaWord = "drop",
        fields: Mapping[str, Mapping[str, object]] | None = None,
    ) -> None:
        self._infers = types is None and fields is None
        self._json = json
        self._known: set[str] = set()
        self._renamed: dict[str, str] = {}
        types = types or {}
        self._dropped = frozenset(column for column, type in types.items() if type == "bytea" and bytea == "drop")
        self._objects = frozenset(column for column, type in types.items() if type == "json") if json == "object" else frozenset[str]()
        self.fields: dict[str, Mapping[str, object]] = {}
        for column, type in types.items():
            if column not in self._dropped:
                self._meet(column)
                self.fields[field_of(column)] = field_for_type(type, json)
        if fields is not None:
            self.fields |= fields
        self._known |= self._dropped

    def row(self, image: msgspec.Raw) -> tuple[bytes, dict[str, Mapping[str, object]]]:
        """The row as the document holds it, the JSON text of an object on one line, and the fields that were not known before it.

        Those are to be put into the mapping first and `learnt`; then the row is asked for again. Raises msgspec.MsgspecError for what is
        no object.
        """
        columns = _decode(image)
        fresh: dict[str, Mapping[str, object]] = {}
        if not self._known.issuperset(columns):
            fresh = self._unknown(columns)
        text = bytes(image)
        nested = self._infers and (b"[" in text or text.find(b"{", 1) > 0)
        if nested or self._renamed or self._dropped or self._objects:
            return self._rewritten(columns, fresh), fresh
        if b"\n" in text or b"\r" in text:  # between tokens: inside strings they cannot stand unescaped
            text = text.replace(b"\n", b" ").replace(b"\r", b" ")
        return text, fresh

    def learnt(self, fields: Mapping[str, Mapping[str, object]]) -> None:
        """These fields are in the index's mapping now."""
        self.fields |= fields

    def _meet(self, column: str) -> None:
        self._known.add(column)
        if (field := field_of(column)) != column:
            self._renamed[column] = field

    def _unknown(self, columns: Mapping[str, msgspec.Raw]) -> dict[str, Mapping[str, object]]:
        fresh: dict[str, Mapping[str, object]] = {}
        for column in columns.keys() - self._known:
            if not self._infers:
                self._meet(column)
                continue
            name = field_of(column)
            if name != column:
                self._renamed[column] = name
            if name in self.fields:
                self._meet(column)
            elif (field := field_for_value(bytes(columns[column]))) is not None:
                fresh[name] = field
        return fresh

    def _rewritten(self, columns: Mapping[str, msgspec.Raw], fresh: Mapping[str, Mapping[str, object]]) -> bytes:
        row: dict[str, object] = {}
        for column, value in columns.items():
            if column in self._dropped:
                continue
            name, first = self._renamed.get(column, column), memoryview(value)[0]
            if column in self._objects and first not in b"{n":
                row[name] = {"value": value}  # the field takes objects only
            elif self._infers and first in b"{[" and (self.fields.get(name) or fresh[name]).get("enabled", True) is not False:
                row[name] = bytes(value).decode()  # the field takes single values only
            else:
                row[name] = value
        return _encode(row).replace(b"\n", b" ").replace(b"\r", b" ")


def replacement(index: int, change: Change, target: str, id: str, row: bytes | None) -> Operation:
    """The operation that makes the document this change's: the whole row, or a tombstone without any of it where `row` is None."""
    transaction = _encode(change.transaction)
    action = b'{"index":{"_index":%b,"_id":%b,"version":%d,"version_type":"external"}}\n' % (
        _encode(target),
        _encode(id),
        change.version,
    )
    meta = b'{"__cdc":{"version":%d,"transaction":%b,"deleted":%b}' % (
        change.version,
        transaction,
        b"false" if row is not None else b"true",
    )
    if row is None or row == b"{}":
        return Operation(index, id, change.version, action + meta + b"}\n")
    return Operation(index, id, change.version, b"".join((action, meta, b",", memoryview(row)[1:], b"\n")))


def removal(index: int, target: str, id: str, version: int, *, gte: bool = False) -> Operation:
    """A native delete of what is older than `version` (`gte`: or of that very version)."""
    kind = b"external_gte" if gte else b"external"
    line = b'{"delete":{"_index":%b,"_id":%b,"version":%d,"version_type":"%b"}}\n' % (_encode(target), _encode(id), version, kind)
    return Operation(index, id, version, line, delete=True)


def is_delete(change: Change) -> bool:
    return change.op is Op.DELETE
