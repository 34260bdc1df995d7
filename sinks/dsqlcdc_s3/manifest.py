"""The manifest: what a batch set out to write, linked to the one before; and the sink's word."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import msgspec

from dsqlcdc.contract import Misconfigured, Progress

FORMAT = 1


class Link(msgspec.Struct, frozen=True):
    """The manifest before, by key and SHA-256 (hex) of its bytes."""

    key: str
    sha256: str


class PartEntry(msgspec.Struct, frozen=True):
    """One object that the batch sets out to write. Versions in nanoseconds, arrivals in seconds since the epoch, hashes in hex.

    `content_sha256` is of the uncompressed lines, `object_sha256` of the object's bytes: compressors may differ, what they hold may not.
    """

    key: str
    rows: int
    bytes: int
    uncompressed_bytes: int
    content_sha256: str
    object_sha256: str
    min_version: int
    max_version: int
    min_arrived: float
    max_arrived: float


class Read(msgspec.Struct, frozen=True, rename={"start": "from", "end": "to"}):
    """How far one shard was read since the last manifest of this run: after `from`, up to and with `to`; and what became of it."""

    shard: str
    start: str
    end: str
    read: int
    settled: Mapping[str, int]
    open: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`manifests/{n}.json`. `newest_arrived` is the newest arrival in this or any earlier manifest: it never falls along the chain.

    `voided`: parts of earlier manifests that were found empty, or made so, since the last manifest.
    """

    format: int
    n: int
    epoch: int
    writer: str
    pipeline: str
    sink: str
    created_at: str
    prev: Link | None
    newest_arrived: float
    parts: Sequence[PartEntry]
    reads: Sequence[Read]
    voided: Sequence[str]

    def encode(self) -> bytes:
        return msgspec.json.encode(self) + b"\n"


class Word(msgspec.Struct, frozen=True):
    """What is kept with the checkpoint: the last epoch, the oldest manifest not known complete and committed, and where all that is."""

    format: int
    epoch: int
    oldest: int
    place: str


class _Format(msgspec.Struct):
    format: int


def decode_manifest(body: bytes, where: str) -> Manifest:
    """Raises Misconfigured for what is no manifest of ours, or one of a newer format."""
    _check_format(body, where, "the manifest")
    try:
        return msgspec.json.decode(body, type=Manifest)
    except msgspec.DecodeError as error:
        raise Misconfigured("cannot read a manifest", where=where, why=f"it is damaged ({error})", run=_LOOK) from error


def decode_word(word: bytes) -> Word | None:
    """The word, None for b"". Raises Misconfigured for one of a newer format or a damaged one."""
    if not word:
        return None
    _check_format(word, "state store", "the sink's word")
    try:
        return msgspec.json.decode(word, type=Word)
    except msgspec.DecodeError as error:
        raise Misconfigured(
            "cannot read the sink's word", where="state store", why=f"it is damaged ({error})", run="dsqlcdc checkpoint show CONFIG"
        ) from error


def differences(now: Sequence[Progress], before: Mapping[str, Progress]) -> list[Read]:
    """What was read and settled per shard since `before`, by shard; shards where nothing happened are left out."""
    reads: list[Read] = []
    for progress in sorted(now, key=lambda p: p.shard):
        last = before.get(progress.shard)
        if last is not None and (last.read, last.settled) == (progress.read, progress.settled):
            continue
        base: Mapping[str, int] = last.settled if last else {}
        settled = {name: count - base.get(name, 0) for name, count in progress.settled.items() if count != base.get(name, 0)}
        start = (last.sequence if last else "") or progress.start
        reads.append(Read(progress.shard, start, progress.sequence, progress.read - (last.read if last else 0), settled, progress.open))
    return reads


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


_LOOK = "aws s3 cp s3://BUCKET/KEY -, with what is named above, to look at it"


def _check_format(body: bytes, where: str, what: str) -> None:
    try:
        found = msgspec.json.decode(body, type=_Format).format
    except msgspec.DecodeError as error:
        raise Misconfigured(f"cannot read {what}", where=where, why="it is none that dsqlcdc wrote, or damaged", run=_LOOK) from error
    if found > FORMAT:
        raise Misconfigured(
            f"cannot read {what}",
            where=where,
            why=f"its format is {found}, this version of dsqlcdc knows {FORMAT}: a newer one wrote it",
            run="pip install --upgrade dsqlcdc",
        )
