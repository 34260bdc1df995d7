"""A change as an operation of a bulk request: an action line and a document. The row is spliced in as it was received."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from dsqlcdc.contract import Change, Op
from dsqlcdc_opensearch.mapping import SINGLE, STORED, ByteaWord, EvolveWord, JsonWord, field_for_type, field_for_value
from dsqlcdc_opensearch.names import field_of

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode

GREATEST = 2**63 - 1
"""An external version is a Java long."""


class Operation(msgspec.Struct, frozen=True, gc=False):
    """One operation of a bulk request. `index` is its place in the batch, `lines` are whole lines; `delete` says that it leaves nothing,
    `scripted` that it is an update by a script."""

    index: int
    id: str
    version: int
    lines: bytes
    delete: bool = False
    scripted: bool = False


class Shape:
    """What is known of one table's columns: which are indexed and how, which change their name, which are left out.

    With column types (of a row model) or a mapping file these say it, and a further column is kept as it is; without, the values do
    (`learnt`). `evolve`: add: the values say it of further columns too; off: of none, whatever is known.
    """

    def __init__(
        self,
        types: Mapping[str, str] | None,
        *,
        json: JsonWord = "stored",
        bytea: ByteaWord = "drop",
        evolve: EvolveWord | None = None,
        fields: Mapping[str, Mapping[str, object]] | None = None,
    ) -> None:
        self._infers = evolve == "add" or (evolve is None and types is None and fields is None)
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
        self._given = frozenset(self.fields)
        self._learnt: set[str] = set()

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
        nested = (fresh or self._learnt) and (b"[" in text or text.find(b"{", 1) > 0)
        if nested or self._renamed or self._dropped or self._objects:
            return self._rewritten(columns, fresh), fresh
        if b"\n" in text or b"\r" in text:  # between tokens: inside strings they cannot stand unescaped
            text = text.replace(b"\n", b" ").replace(b"\r", b" ")
        return text, fresh

    def learnt(self, fields: Mapping[str, Mapping[str, object]]) -> None:
        """These fields are in the index's mapping now."""
        self.fields |= fields
        self._learnt |= {name for name, field in fields.items() if name not in self._given and field.get("type") in SINGLE}

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
            elif first in b"{[" and (name in self._learnt or fresh.get(name, STORED)["type"] in SINGLE):
                row[name] = bytes(value).decode()  # the field takes single values only
            else:
                row[name] = value
        return _encode(row).replace(b"\n", b" ").replace(b"\r", b" ")


def replacement(index: int, change: Change, target: str, id: str, row: bytes | None) -> Operation:
    """The operation that makes the document this change's: the whole row, or a tombstone without any of it where `row` is None."""
    action = b'{"index":{"_index":%b,"_id":%b,"version":%d,"version_type":"external"}}\n' % (
        _encode(target),
        _encode(id),
        change.version,
    )
    return Operation(index, id, change.version, b"".join((action, document(change, row), b"\n")))


def document(change: Change, row: bytes | None) -> bytes:
    """The document, on one line."""
    deleted = b"false" if row is not None else b"true"
    meta = b'{"__cdc":{"version":%d,"transaction":%b,"deleted":%b}' % (change.version, _encode(change.transaction), deleted)
    return meta + b"}" if row is None or row == b"{}" else b"".join((meta, b",", memoryview(row)[1:]))


def removal(index: int, target: str, id: str, version: int) -> Operation:
    """A native delete of what is older than `version`."""
    return _delete(index, target, id, version, b"external")


def purging(index: int, target: str, id: str, version: int) -> Operation:
    """A native delete of what is not newer than `version`."""
    return _delete(index, target, id, version, b"external_gte")


def _delete(index: int, target: str, id: str, version: int, kind: bytes) -> Operation:
    line = b'{"delete":{"_index":%b,"_id":%b,"version":%d,"version_type":"%b"}}\n' % (_encode(target), _encode(id), version, kind)
    return Operation(index, id, version, line, delete=True)


def is_delete(change: Change) -> bool:
    return change.op is Op.DELETE
