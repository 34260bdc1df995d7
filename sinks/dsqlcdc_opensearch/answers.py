"""What OpenSearch's answers mean: the failure table, as pure functions."""

from __future__ import annotations

import re
from enum import Enum, auto

import msgspec

BLOCKED_FOR = 30.0
"""Seconds to wait at the least where an index is blocked (a full disk, mostly)."""
_CURRENT = re.compile(r"current version \[(-?\d+)\]")
_OVERLOADED = frozenset(
    {
        "es_rejected_execution_exception",
        "rejected_execution_exception",
        "opensearch_rejected_execution_exception",
        "circuit_breaking_exception",
    }
)
_GONE = frozenset({"index_not_found_exception", "index_closed_exception", "alias_missing_exception", "aliases_not_found_exception"})
_MAPPING = frozenset({"mapper_parsing_exception", "document_parsing_exception", "strict_dynamic_mapping_exception"})
_IMMENSE = "immense term"
_DENIED = frozenset({"security_exception", "authorization_exception"})
_TOO_MANY = (
    "the mapping has reached its limit of fields: raise index.mapping.total_fields.limit, exclude columns, or keep them out by evolve: off"
)
_NO_SCRIPTS = "the cluster runs no scripts of updates, which mode: scripted is made of"
_HOPELESS = (
    ("Limit of total fields", _TOO_MANY),
    ("Document ID is not supported", "the collection takes no document ids: only collections of type SEARCH can hold a replica"),
    ("maximum shards open", "the cluster has reached its limit of shards"),
    ("maximum normal shards open", "the cluster has reached its limit of shards"),
    ("cannot execute [inline] scripts", _NO_SCRIPTS),
    ("cannot execute scripts using [update] context", _NO_SCRIPTS),
    ("script_lang not supported", _NO_SCRIPTS),
    ("compile error", _NO_SCRIPTS),
)


class Meaning(Enum):
    """What becomes of the operation, or of the sink."""

    IN = auto()
    STALE = auto()
    DUPLICATE = auto()
    DEAD = auto()
    RETRY = auto()
    OVERLOADED = auto()
    """Retried, with less at a time."""
    BLOCKED = auto()
    """Retried after BLOCKED_FOR: somebody has to make room."""
    TOO_LARGE = auto()
    MALFORMED = auto()
    """A request of which some operation is at fault: to be found by halving."""
    DENIED = auto()
    MISSING = auto()
    """The index or alias is gone."""
    STOP = auto()


class Said(msgspec.Struct, frozen=True):
    """An error as OpenSearch says it: `type` and `reason`, "" where it says neither."""

    type: str = ""
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.type}: {self.reason}" if self.type else self.reason


class _Cause(msgspec.Struct):
    type: str | None = None
    reason: str | None = None
    caused_by: _Cause | None = None
    root_cause: list[_Cause] = []


class _Error(msgspec.Struct):
    error: _Cause | str | None = None
    message: str | None = None
    Message: str | None = None


_decode_cause = msgspec.json.Decoder(_Cause | str).decode
_decode_error = msgspec.json.Decoder(_Error).decode


def said_of(error: bytes | msgspec.Raw) -> Said:
    """The `error` of an item."""
    try:
        cause = _decode_cause(error)
    except msgspec.MsgspecError:
        return Said("", _short(bytes(error)))
    return Said("", cause[:500]) if isinstance(cause, str) else _said(cause)


def said_in(body: bytes) -> Said:
    """The error that the answer to a whole request holds."""
    try:
        error = _decode_error(body)
    except msgspec.MsgspecError:
        return Said("", _short(body))
    if isinstance(error.error, _Cause):
        return _said(error.error)
    return Said("", (error.error or error.message or error.Message or "")[:500])


def _said(cause: _Cause) -> Said:
    reasons: list[str] = []
    step: _Cause | None = cause
    while step is not None and len(reasons) < 4:
        if step.reason and step.reason not in reasons:
            reasons.append(step.reason)
        step = step.caused_by
    kind = cause.type or ""
    if any(root.type == "cluster_block_exception" for root in cause.root_cause):
        kind = "cluster_block_exception"
    return Said(kind, "; ".join(reasons)[:1000])


def _short(body: bytes) -> str:
    text = body[:1000].decode("utf-8", "replace")
    return "".join([c if c.isprintable() else " " for c in text]).strip()[:300]


def of_item(status: int, said: Said | None, version: int, *, delete: bool) -> Meaning:
    """What an item's status and error mean; `version` is what the operation asked for. Where nothing is known of an error it is DEAD."""
    if said is None:
        if 200 <= status < 300 or (delete and status == 404):  # a delete of nothing records its version all the same
            return Meaning.IN
        return of_status(status)
    if said.type == "cluster_block_exception":
        return Meaning.BLOCKED
    if status == 409:
        found = _CURRENT.search(said.reason)
        return Meaning.DUPLICATE if found is not None and int(found[1]) == version else Meaning.STALE
    if said.type in _GONE:
        return Meaning.MISSING
    if said.type in _OVERLOADED or status == 429:
        return Meaning.OVERLOADED
    if hopeless(said) is not None:
        return Meaning.STOP
    return Meaning.DENIED if said.type in _DENIED else of_status(status)


def of_request(status: int, said: Said) -> Meaning:
    """What the answer to a whole request means."""
    if 200 <= status < 300:
        return Meaning.IN
    if said.type == "cluster_block_exception":
        return Meaning.BLOCKED
    if said.type in _GONE:
        return Meaning.MISSING
    if status == 400:
        return Meaning.STOP if hopeless(said) is not None else Meaning.MALFORMED
    return of_status(status)


def of_status(status: int) -> Meaning:
    if status == 429:
        return Meaning.OVERLOADED
    if status in (401, 403):
        return Meaning.DENIED
    if status == 413:
        return Meaning.TOO_LARGE
    if status in (408, 425) or status >= 500:
        return Meaning.RETRY
    return Meaning.DEAD if 400 <= status < 500 else Meaning.RETRY


def hopeless(said: Said) -> str | None:
    """Why every document will be refused like this one; None where it may be this one's fault."""
    return next((why for mark, why in _HOPELESS if mark in said.reason), None)


def dead_code(status: int, said: Said) -> str:
    if status == 413:
        return "too_large"
    if said.type in _MAPPING:
        return "mapping"
    return "immense_term" if _IMMENSE in said.reason else "refused"
