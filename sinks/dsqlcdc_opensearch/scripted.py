"""Operations of `mode: scripted`: a script compares the versions, for an engine that does not keep them itself.

Everything is an update; the texts of the scripts never change, and values go in as their parameters only, so each is compiled once. What the
engine does between reading and writing a document is its own compare-and-set: a 409 means that another was faster, and it is tried again.
"""

from __future__ import annotations

from typing import Any

import msgspec

from dsqlcdc.contract import Change
from dsqlcdc_opensearch.answers import Meaning, Said, of_item
from dsqlcdc_opensearch.document import Operation, document

REPLACE = (
    "if (ctx._source.__cdc == null || params.doc.__cdc.version > ctx._source.__cdc.version) "
    "{ ctx._source = params.doc } else { ctx.op = 'none' }"
)
"""The whole document, if it is newer than the one that is there."""
REMOVE = "if (ctx._source.__cdc == null || params.version > ctx._source.__cdc.version) { ctx.op = 'delete' } else { ctx.op = 'none' }"
"""Nothing in its place, if what is there is older."""
FORGET = (
    "if (ctx._source.__cdc != null && ctx._source.__cdc.deleted && params.version == ctx._source.__cdc.version) { ctx.op = 'delete' } "
    "else { ctx.op = 'none' }"
)
"""The tombstone of this very version."""
SUCCEED = "if (ctx._source.count == null || params.state.count > ctx._source.count) { ctx._source = params.state } else { ctx.op = 'none' }"
"""A state of the watermark, if it was counted after the one that is there."""

TRIES = 5
"""Of the engine's own, where another write comes in between."""
VERSION = "__cdc.version"
_encode = msgspec.json.Encoder().encode
_SHOWN = b'"_source":["%b"]' % VERSION.encode()
_ACTION = b'{"update":{"_index":%b,"_id":%b,"retry_on_conflict":%d%b}}\n'


def replacement(index: int, change: Change, target: str, id: str, row: bytes | None) -> Operation:
    """The operation that makes the document this change's: the whole row, or a tombstone without any of it where `row` is None."""
    script = b'{"script":{"source":%b,"lang":"painless","params":{"doc":' % _encode(REPLACE)
    action = _ACTION % (_encode(target), _encode(id), TRIES, b"")
    lines = b"".join((action, script, document(change, row), b'}},"scripted_upsert":true,"upsert":{},', _SHOWN, b"}\n"))
    return Operation(index, id, change.version, lines, scripted=True)


def removal(index: int, target: str, id: str, version: int) -> Operation:
    """A delete of what is older than `version`; nothing is left, and nothing is made where nothing is."""
    return _gone(index, target, id, version, REMOVE, b"")


def purging(index: int, target: str, id: str, version: int) -> Operation:
    """A delete of the tombstone of this very version, from a physical index."""
    return _gone(index, target, id, version, FORGET, b',"require_alias":false')


def unaliased(index: int, target: str, id: str, version: int) -> Operation:
    """`purging` for a collection, which does not know `require_alias`."""
    return _gone(index, target, id, version, FORGET, b"")


def _gone(index: int, target: str, id: str, version: int, script: str, more: bytes) -> Operation:
    action = _ACTION % (_encode(target), _encode(id), TRIES, more)
    # Never with `_source`: a node that is to show what it has just removed answers 500 (2.19).
    body = b'{"script":{"source":%b,"lang":"painless","params":{"version":%d}}}\n' % (_encode(script), version)
    return Operation(index, id, version, action + body, delete=True, scripted=True)


def update(script: str, params: Any, upsert: bool = True) -> dict[str, Any]:
    """The body of a single update by a script."""
    body: dict[str, Any] = {"script": {"source": script, "lang": "painless", "params": params}}
    return {**body, "scripted_upsert": True, "upsert": {}} if upsert else body


def of_update(status: int, said: Said | None, result: str, current: int | None, version: int, *, delete: bool) -> Meaning:
    """What the status and error of an update mean. `current`: the version that is there, where that was told."""
    if said is None and 200 <= status < 300 and result == "noop":
        return Meaning.DUPLICATE if current == version else Meaning.STALE
    if said is not None and delete and said.type == "document_missing_exception":
        return Meaning.IN
    if said is not None and status == 409:
        return Meaning.RETRY
    return of_item(status, said, version, delete=False)
