"""A model of one index of OpenSearch: versions, deletes that are remembered in memory only, refreshes, restarts, and what a mapping refuses.

Restated from the engine's rules (VersionType, InternalEngine, the field mappers). Where it may choose, it forgets as early as the engine may.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

INT64 = (-(2**63), 2**63 - 1)
_METADATA = frozenset(
    {
        "_id",
        "_index",
        "_source",
        "_routing",
        "_field_names",
        "_ignored",
        "_seq_no",
        "_primary_term",
        "_version",
        "_doc_count",
        "_nested_path",
    }
)
_DATE = re.compile(r"[+-]?\d{4,9}(-\d\d(-\d\d(T\d\d(:\d\d(:\d\d([.,]\d{1,9})?)?)?(Z|[+-]\d\d:?\d\d)?)?)?)?")
_FIELD_KINDS = frozenset({"long", "double", "integer", "float", "keyword", "text", "boolean", "date", "binary", "object", "flat_object"})


class Refused(Exception):
    """An operation that the engine refuses: an HTTP status, and the error's type and reason as it says them."""

    def __init__(self, status: int, type: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.type, self.reason = status, type, reason

    @property
    def error(self) -> dict[str, Any]:
        return {"type": self.type, "reason": self.reason}


class Document(msgspec.Struct, frozen=True):
    """What is kept of a document: its source as sent, and its numbers."""

    id: str
    source: bytes
    version: int
    seq_no: int

    def row(self) -> dict[str, Any]:
        row: dict[str, Any] = msgspec.json.decode(self.source)
        return row


@dataclass
class Index:
    """One index with one shard. `clock` is in seconds; deletes are forgotten after `gc_deletes` seconds, and all of them at a restart."""

    name: str
    clock: Callable[[], float]
    mappings: dict[str, Any] = field(default_factory=dict[str, Any])
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    gc_deletes: float = 60.0
    refresh_every: float = 1.0
    field_limit: int = 1000
    documents: dict[str, Document] = field(default_factory=dict[str, Document])
    deletes: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])
    visible: Mapping[str, Document] = field(default_factory=dict[str, Document])
    refreshed_at: float = 0.0
    seq_no: int = -1
    created_at: float = 0.0
    closed: bool = False

    @property
    def properties(self) -> dict[str, Any]:
        properties: dict[str, Any] = self.mappings.setdefault("properties", {})
        return properties

    def version_of(self, id: str) -> int | None:
        """The version that a write is compared with: of the document, or of a delete that is still remembered."""
        if (document := self.documents.get(id)) is not None:
            return document.version
        deleted = self.deletes.get(id)
        return None if deleted is None or self.clock() - deleted[1] > self.gc_deletes else deleted[0]

    def index(self, id: str, source: bytes, version: int | None, kind: str) -> Document:
        """Write a document at this version (None: the next one). Raises Refused."""
        self.check(id, source)
        number = self._number(id, version, kind)
        self.seq_no += 1
        document = self.documents[id] = Document(id, source, number, self.seq_no)
        self.deletes.pop(id, None)
        return document

    def delete(self, id: str, version: int | None, kind: str) -> tuple[bool, int]:
        """Delete a document, or nothing: the version is remembered either way, for as long as the engine remembers. Raises Refused."""
        number = self._number(id, version, kind)
        self.seq_no += 1
        found = self.documents.pop(id, None) is not None
        self.deletes[id] = (number, self.clock())
        return found, number

    def _number(self, id: str, version: int | None, kind: str) -> int:
        current = self.version_of(id)
        if kind == "internal":
            return 1 if current is None else current + 1
        if version is None or not 0 <= version <= INT64[1]:
            raise Refused(400, "action_request_validation_exception", f"Validation Failed: 1: illegal version value [{version}];")
        if current is not None and (current >= version if kind == "external" else current > version):
            than = "higher or equal to" if kind == "external" else "higher than"
            why = f"[{id}]: version conflict, current version [{current}] is {than} the one provided [{version}]"
            raise Refused(409, "version_conflict_engine_exception", why)
        return version

    def _prune(self) -> None:
        now = self.clock()
        self.deletes = {id: (version, at) for id, (version, at) in self.deletes.items() if now - at <= self.gc_deletes}

    def refresh(self) -> None:
        self.visible, self.refreshed_at = dict(self.documents), self.clock()
        self._prune()

    def seen(self) -> Mapping[str, Document]:
        """What a search sees: the documents as of the last refresh."""
        if self.clock() - self.refreshed_at >= self.refresh_every:
            self.refresh()
        return self.visible

    def restart(self) -> None:
        """The shard is flushed, closed and opened again, as by a restart, a relocation or a deployment: no delete is remembered."""
        self.deletes.clear()
        self.refresh()

    # ── mappings ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def put_mapping(self, body: Mapping[str, Any]) -> None:
        """Add fields and replace what else is said. Raises Refused for a field that is there as another kind."""
        merged = dict(self.properties)
        for name, given in body.get("properties", {}).items():
            kind = given.get("type", "object")
            if kind not in _FIELD_KINDS:
                raise Refused(400, "mapper_parsing_exception", f"No handler for type [{kind}] declared on field [{name}]")
            if name in merged and (there := merged[name].get("type", "object")) != kind:
                why = f"mapper [{name}] cannot be changed from type [{there}] to [{kind}]"
                raise Refused(400, "illegal_argument_exception", why)
            merged[name] = dict(given)
        if count_fields(merged) > self.field_limit:
            raise Refused(400, "illegal_argument_exception", f"Limit of total fields [{self.field_limit}] has been exceeded")
        self.mappings = {**self.mappings, **{key: value for key, value in body.items() if key != "properties"}, "properties": merged}

    def check(self, id: str, source: bytes) -> None:
        """Raises Refused for a document that the mapping does not take; a dynamic mapping learns its fields."""
        if not id or len(id.encode()) > 512:
            why = f"id [{id[:20]}] is too long, must be no longer than 512 bytes" if id else "if _id is specified it must not be empty"
            raise Refused(400, "illegal_argument_exception", why)
        try:
            pairs = _decode_pairs(source)
        except ValueError as error:
            raise Refused(400, "mapper_parsing_exception", f"failed to parse: {error}") from None
        self._check_object(id, pairs, self.properties, str(self.mappings.get("dynamic", "true")).lower() == "true")

    def _check_object(self, id: str, row: Mapping[str, Any], properties: dict[str, Any], dynamic: bool) -> None:
        for name, value in row.items():
            if name in _METADATA:
                why = f"Field [{name}] is a metadata field and cannot be added inside a document. Use the index API request parameters."
                raise Refused(400, "mapper_parsing_exception", why)
            if "." in name and any(not part.strip() for part in name.split(".")):
                raise Refused(
                    400,
                    "mapper_parsing_exception",
                    f"object field starting or ending with a [.] makes object resolution ambiguous: [{name}]",
                )
            head, dot, rest = name.partition(".")
            if dot:
                inner: dict[str, Any] = properties.get(head, {}).get("properties", {})
                if head in properties and properties[head].get("type", "object") != "object":
                    raise Refused(400, "mapper_parsing_exception", f"object mapping for [{head}] tried to parse field as object")
                self._check_object(id, {rest: value}, inner, dynamic)
            elif name not in properties:
                if dynamic and value is not None:
                    self.put_mapping({"properties": {name: _guess(value)}})
            elif value is not None:
                self._check_value(id, name, value, properties[name], dynamic)

    def _check_value(self, id: str, name: str, value: Any, given: dict[str, Any], dynamic: bool) -> None:
        kind = given.get("type", "object")
        if kind == "object":
            if given.get("enabled") in (False, "false"):
                return
            if not isinstance(value, dict):
                why = f"object mapping for [{name}] tried to parse field [{name}] as object, but found a concrete value"
                raise Refused(400, "mapper_parsing_exception", why)
            self._check_object(id, cast(dict[str, Any], value), given.get("properties", {}), dynamic)
            return
        if isinstance(value, list):
            for one in value:  # pyright: ignore[reportUnknownVariableType]
                if one is not None:
                    self._check_value(id, name, one, given, dynamic)
            return
        if kind == "flat_object":
            fits = isinstance(value, dict)
        else:
            fits = not isinstance(value, dict) and _fits(kind, value)
        if not fits and (isinstance(value, dict) or not given.get("ignore_malformed")):
            raise Refused(400, "mapper_parsing_exception", f"failed to parse field [{name}] of type [{kind}] in document with id '{id}'")
        text = value if isinstance(value, str) else ""
        if kind == "keyword" and len(text.encode("utf-8", "replace")) > 32766 and len(text) <= given.get("ignore_above", 2**31 - 1):
            why = f'Document contains at least one immense term in field="{name}" (whose UTF8 encoding is longer than the max length 32766)'
            raise Refused(400, "illegal_argument_exception", why)


def count_fields(properties: Mapping[str, Any]) -> int:
    """Fields as the limit counts them: objects, their fields and the sub-fields of each."""
    return sum(1 + count_fields(given.get("properties", {})) + len(given.get("fields", {})) for given in properties.values())


def _fits(kind: str, value: Any) -> bool:
    if kind in ("keyword", "text"):
        return True
    if kind == "boolean":
        return value in (True, False, "true", "false", "")
    if kind == "date":
        return isinstance(value, (int, str)) and not isinstance(value, bool) and (isinstance(value, int) or bool(_DATE.fullmatch(value)))
    if kind == "binary":
        return isinstance(value, str)
    if isinstance(value, int) and not isinstance(value, bool):
        return kind not in ("long", "integer") or INT64[0] <= value <= INT64[1]
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    if isinstance(value, bool) or number != number or number in (float("inf"), float("-inf")):
        return False
    return kind not in ("long", "integer") or INT64[0] <= number <= INT64[1]


def _guess(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, int):
        return {"type": "long"}
    if isinstance(value, float):
        return {"type": "float"}
    if isinstance(value, dict):
        return {"type": "object", "properties": {}}
    if isinstance(value, list):
        return _guess(value[0]) if value else {"type": "keyword"}  # pyright: ignore[reportUnknownArgumentType]
    return {"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 256}}}


def _decode_pairs(source: bytes) -> dict[str, Any]:
    """Raises ValueError for what is no object, or has a name twice."""
    import json

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError("Duplicate field")
        return made

    found = json.loads(source, object_pairs_hook=once)
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return cast(dict[str, Any], found)
