"""A batch on its way: its manifest, its parts, and how far it came. Outlives a write that was not answered."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

from dsqlcdc.contract import Change, Progress, Setback, Verdict
from dsqlcdc_s3.encode import Part
from dsqlcdc_s3.manifest import Manifest, PartEntry


@dataclass
class Begun:
    """`claimed`: the manifest is in, under our name. `given_up`: its parts are being voided, which must be finished first.

    `bodies` holds, by number, the parts not yet known to be in; `indexes` the places of each part's rows in `changes`. `refused`: parts
    that the store found too large, and why; `voided`: their keys, once they are void. `looked`: after the claim no replay of its rows was met.
    """

    changes: Sequence[Change]
    manifest: Manifest
    body: bytes
    bodies: dict[int, bytes]
    indexes: Sequence[Sequence[int]]
    setbacks: list[Setback]
    progress: Sequence[Progress]
    claimed: bool = False
    looked: bool = False
    given_up: bool = False
    refused: dict[int, str] = field(default_factory=dict[int, str])
    voided: list[str] = field(default_factory=list[str])

    def same(self, changes: Sequence[Change]) -> bool:
        """Are these the changes it was begun with? Told by id and position, in order."""
        return self.changes is changes or (
            len(self.changes) == len(changes)
            and all(a.id == b.id and a.sequence == b.sequence and a.shard == b.shard for a, b in zip(self.changes, changes, strict=True))
        )

    def too_large(self, part: int) -> None:
        """A part of one row, which the store refused for its size, has been voided."""
        (index,) = self.indexes[part]
        self.setbacks.append(Setback(index, Verdict.DEAD, code="too_large", detail=self.refused[part]))
        self.voided.append(self.manifest.parts[part].key)


def entry(part: Part, key: str) -> PartEntry:
    """What the manifest says of a part."""
    return PartEntry(
        key=key,
        rows=len(part.indexes),
        bytes=len(part.body),
        uncompressed_bytes=part.uncompressed_bytes,
        content_sha256=part.content_sha256,
        object_sha256=part.sha256.hex(),
        min_version=part.versions[0],
        max_version=part.versions[1],
        min_arrived=part.arrivals[0],
        max_arrived=part.arrivals[1],
    )


def fresh(changes: Sequence[Change], known: Container[bytes], replayed: Container[bytes]) -> tuple[list[tuple[int, Change]], list[Setback]]:
    """The changes to be written, by index, and a DUPLICATE for each that is in already or stands twice in the batch."""
    rows: list[tuple[int, Change]] = []
    setbacks: list[Setback] = []
    seen: set[bytes] = set()
    for index, change in enumerate(changes):
        if change.id in known or change.id in seen or change.id in replayed:
            setbacks.append(Setback(index, Verdict.DUPLICATE))
        else:
            seen.add(change.id)
            rows.append((index, change))
    return rows, setbacks
