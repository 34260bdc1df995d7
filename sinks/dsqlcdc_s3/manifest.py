"""The manifest: what a batch set out to write, linked to the one before; and the sink's word."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from dsqlcdc.contract import Misconfigured

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


class Read(msgspec.Struct, frozen=True, omit_defaults=True, rename={"start": "from", "end": "to"}):
    """How far one shard was read since the last manifest of this run: after `from`, up to and with `to`; and what became of it.

    The law: what was open before + read = the sum of settled + open. `frontier`: nothing at or before it is owed ("end": the closed shard was
    read to its end); the next run begins there or before. `first`: the first record of the run.
    """

    shard: str
    start: str
    end: str
    read: int
    settled: Mapping[str, int]
    open: int
    frontier: str = ""
    ended: bool = False
    first: str = ""


class Account(msgspec.Struct, frozen=True):
    """What a run had read by its last commit and no manifest of its own told: those since the manifest `base`. Told by the run after it."""

    epoch: int
    writer: str
    stream: str
    base: int
    reads: Sequence[Read]


class ShardState(msgspec.Struct, frozen=True, omit_defaults=True, rename={"start": "from", "end": "to"}):
    """Where a shard stood at a seal. It is listed though nobody has read it: then `from` and `to` are "". `arrived`: see Progress."""

    shard: str
    parents: Sequence[str]
    start: str = ""
    end: str = ""
    frontier: str = ""
    first: str = ""
    open: int = 0
    ended: bool = False
    arrived: float = 0.0


class Seal(msgspec.Struct, frozen=True, omit_defaults=True):
    """The end of a period: what its digest is made of, beside the manifests themselves.

    `by`: daemon, or job where writers keep no chain. `shards`: all that are listed or were read. `gaps`: all that are known. `dead`: dead
    letters of this run by code. `beside`: manifests outside the chain (replays, batches of Lambda) that no seal before has named. `marks`: by
    shard the greatest last record of those of Lambda: the next job looks from there on, and a little before.
    """

    by: Literal["daemon", "job"]
    closing: bool
    shards: Sequence[ShardState]
    gaps: Sequence[Mapping[str, Any]]
    dead: Mapping[str, int]
    beside: Sequence[Link] = ()
    marks: Mapping[str, str] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`manifests/{n}.json`. `newest_arrived` is the newest arrival in this or any earlier manifest: it never falls along the chain.

    `voided`: parts of earlier manifests that were found empty, or made so, since the last manifest. `carried`: what runs before had read and
    could not tell. `sealed`: the number of the last seal before this one, 0 for none; `seal`: this one is a seal, and has no parts. `lock`: the
    retention that its objects were put with, as "MODE:DAYS".
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
    stream: str = ""
    carried: Sequence[Account] = ()
    sealed: int = 0
    seal: Seal | None = None
    lock: str = ""

    def encode(self) -> bytes:
        return msgspec.json.encode(self) + b"\n"


class Word(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is kept with the checkpoint: the last epoch, the oldest manifest not known complete and committed, and where all that is.

    `last`: the last manifest that was known; a chain that ends before it has lost its end. `accounts`: what no manifest tells yet.
    """

    format: int
    epoch: int
    oldest: int
    place: str
    last: int = 0
    accounts: Sequence[Account] = ()


class _Format(msgspec.Struct):
    format: int


def decode_manifest(body: bytes, where: str) -> Manifest:
    """Raises Misconfigured for what is no manifest of ours, or one of a newer format."""
    _check_format(body, where, "the manifest")
    try:
        return msgspec.json.decode(body, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Misconfigured("cannot read a manifest", where=where, why=f"it is damaged ({error})", run=_LOOK) from error


def decode_word(word: bytes) -> Word | None:
    """The word, None for b"". Raises Misconfigured for one of a newer format or a damaged one."""
    if not word:
        return None
    _check_format(word, "state store", "the sink's word")
    try:
        return msgspec.json.decode(word, type=Word)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(
            "cannot read the sink's word", where="state store", why=f"it is damaged ({error})", run="dsqlcdc checkpoint show CONFIG"
        ) from error


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


_LOOK = "aws s3 cp s3://BUCKET/KEY -, with what is named above, to look at it"


def _check_format(body: bytes, where: str, what: str) -> None:
    try:
        found = msgspec.json.decode(body, type=_Format).format
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"cannot read {what}", where=where, why="it is none that dsqlcdc wrote, or damaged", run=_LOOK) from error
    if found > FORMAT:
        raise Misconfigured(
            f"cannot read {what}",
            where=where,
            why=f"its format is {found}, this version of dsqlcdc knows {FORMAT}: a newer one wrote it",
            run="pip install --upgrade dsqlcdc",
        )
