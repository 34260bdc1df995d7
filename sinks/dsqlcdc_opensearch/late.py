"""Late changes, at or below the watermark: the tombstone that would stop them may have been purged, so they are judged one by one.

A delete goes in as a native delete, which can only remove what is older, and leaves no tombstone: an old one would hide a newer delete that
was purged. An upsert is compared with the document that is there; where none is, only the database knows whether the row is: it exists, then
its last change is this one or one still to come; or it does not, then a newer delete was in or will be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from dsqlcdc.contract import Change, Unavailable
from dsqlcdc_opensearch.cluster import Cluster
from dsqlcdc_opensearch.scripted import VERSION

_AT_ONCE = 500


class Late(msgspec.Struct, frozen=True, gc=False):
    """An upsert to be judged: its place in the batch, the change, the physical index and the `_id`."""

    index: int
    change: Change
    target: str
    id: str


class Rows(Protocol):
    """The database: do these changes' rows exist? None where that cannot be asked of a table. Raises Unavailable, Misconfigured."""

    async def exist(self, changes: Sequence[Change]) -> Sequence[bool | None]: ...


class Judged(msgspec.Struct, frozen=True):
    """`fresh` may be written as any other; `stale` and `duplicate` have been overtaken; of `unknown` nothing can be told."""

    fresh: Sequence[int]
    stale: Sequence[int]
    duplicate: Sequence[int]
    unknown: Sequence[int]


async def judge(cluster: Cluster, late: Sequence[Late], rows: Rows | None, *, scripted: bool = False) -> Judged:
    """By the versions of the documents, read in real time, and where there is none by the database. Raises Unavailable, Misconfigured.

    `scripted`: the versions are in the documents, the engine's own say nothing.
    """
    fresh: list[int] = []
    stale: list[int] = []
    duplicate: list[int] = []
    unknown: list[int] = []
    for start in range(0, len(late), _AT_ONCE):
        some = late[start : start + _AT_ONCE]
        versions = await _versions(cluster, some, scripted)
        absent = [one.change for one, version in zip(some, versions, strict=True) if version is None]
        answers = iter(await rows.exist(absent) if rows is not None and absent else [None] * len(absent))
        for one, version in zip(some, versions, strict=True):
            if version is None:
                exists = next(answers)
                (unknown if exists is None else fresh if exists else stale).append(one.index)
            elif version == one.change.version:
                duplicate.append(one.index)
            else:
                (stale if version > one.change.version else fresh).append(one.index)
    return Judged(fresh, stale, duplicate, unknown)


async def _versions(cluster: Cluster, late: Sequence[Late], scripted: bool) -> list[int | None]:
    """The version of each document, None where there is none."""
    docs = [{"_index": one.target, "_id": one.id} for one in late]
    _, data = await cluster.ask("POST", f"/_mget?realtime=true&_source={VERSION if scripted else 'false'}", {"docs": docs})
    found: Sequence[Mapping[str, Any]] = data.get("docs", ())
    if len(found) != len(late) or any(doc.get("_id") != one.id for doc, one in zip(found, late, strict=True)):
        raise Unavailable(
            "OpenSearch does not answer, or not now", where=cluster.where, why="an _mget answer of other documents", code="E160"
        )
    if broken := next((doc["error"] for doc in found if "error" in doc), None):
        raise Unavailable("OpenSearch does not answer, or not now", where=cluster.where, why=f"_mget: {broken}"[:300], code="E160")
    if scripted:
        return [int(doc["_source"]["__cdc"]["version"]) if doc.get("found") else None for doc in found]
    return [int(doc["_version"]) if doc.get("found") else None for doc in found]
