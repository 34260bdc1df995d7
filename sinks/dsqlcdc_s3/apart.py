"""Manifests without a chain, for writers that work side by side and see a batch of one shard each (Lambda).

    manifests/apart/{shard}/{last}-{first}-{attempt}.json     what one attempt set out to write, by the first and last record of it
    data/…/{shard}-{first}-{last}-{attempt}-{part}.jsonl.gz    its parts

A batch that comes again, cut anew perhaps, overlaps the earlier attempt: names sort by the last record, so a listing from the batch's first
record on finds every attempt that may hold one of its rows. An attempt of which a row is ours is decided: each of its parts is either in,
and then its rows are duplicates, or voided for ever. Whoever writes puts its own manifest first, then looks, then puts its parts: of two
with the same rows who each announce themselves before they look, at least one sees the other, and decides it before it puts its own.
The last attempt of the same batch with the same rows is taken up instead: its name and its bytes are the same, whoever puts them.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection, Iterable, Sequence, Set

import msgspec

from dsqlcdc.contract import Change, Misconfigured, Unavailable
from dsqlcdc_s3.chain import Owner
from dsqlcdc_s3.delivered import Delivered, collect, content_sha256
from dsqlcdc_s3.encode import Part, void
from dsqlcdc_s3.lanes import Lanes
from dsqlcdc_s3.manifest import FORMAT, PartEntry
from dsqlcdc_s3.objects import PAGE, Missing, Objects, Put, TooLarge
from dsqlcdc_s3.paths import encode_name

_VOID = void()
_VOID_SHA256 = hashlib.sha256(_VOID).digest()
_GZIP = "application/gzip"
_NAME = re.compile(r"(\d{64,})-(\d+)-(\d{4,})\.json")
_WIDTH = 64
"""Digits that a sequence number is filled up to: Kinesis's have 56."""
_MARK = 8
"""Bytes of an id that a manifest keeps of each row. Two rows that share them cost a look, nothing else."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`manifests/apart/…`. `rows`: the first 8 bytes of each row's id, Base64; sequence numbers as Kinesis writes them."""

    format: int
    pipeline: str
    sink: str
    shard: str
    first: str
    last: str
    attempt: int
    writer: str
    created_at: str
    parts: Sequence[PartEntry]
    rows: str


class Attempt(msgspec.Struct, frozen=True):
    """The name of one attempt. `first` and `last`: the sequence numbers of the batch it was made of."""

    shard: str
    first: str
    last: str
    number: int

    def manifest(self, prefix: str) -> str:
        return f"{folder(prefix, self.shard)}{self.last.zfill(_WIDTH)}-{self.first}-{self.number:04d}.json"

    def next(self) -> Attempt:
        return Attempt(self.shard, self.first, self.last, self.number + 1)

    def last_of(self, prefix: str, keys: Iterable[str]) -> Attempt | None:
        """The last attempt of the same span among these manifests."""
        start = self.manifest(prefix).rpartition("-")[0]
        numbers = [int(key.rpartition("-")[2].removesuffix(".json")) for key in keys if key.startswith(f"{start}-")]
        return Attempt(self.shard, self.first, self.last, max(numbers)) if numbers else None

    def part(self, prefix: str, part: Part, number: int) -> str:
        name = f"{encode_name(self.shard)}-{self.first}-{self.last}-{self.number:04d}-{number:04d}.jsonl.gz"
        return f"{part.partition.folder(prefix)}{name}"


def folder(prefix: str, shard: str) -> str:
    return f"{prefix}manifests/apart/{encode_name(shard)}/"


def span(changes: Iterable[Change]) -> tuple[str, str]:
    """The first and the last sequence number of changes of one shard."""
    numbers = sorted((int(change.sequence), change.sequence) for change in changes)
    return numbers[0][1], numbers[-1][1]


def marks(changes: Iterable[Change]) -> str:
    return base64.b64encode(b"".join([change.id[:_MARK] for change in changes])).decode()


class Attempts:
    """The attempts of all writers under one prefix. It remembers which of them it has decided: that is for ever.

    Methods raise Unavailable, and Misconfigured where an attempt is damaged, of a newer format, or another pipeline's or sink's.
    """

    def __init__(self, objects: Objects, owner: Owner, parallel: int) -> None:
        self._objects, self._owner = objects, owner
        self._uploads, self._lookups = Lanes(parallel), Lanes(parallel)
        self._trusted = False

    async def overlapping(self, shard: str, first: str, last: str) -> list[str]:
        """The keys of all attempts whose span meets this one: those whose last record is not before our first, of what begins before our
        last."""
        start, low, high = folder(self._owner.prefix, shard), int(first), int(last)
        after, found = start, list[str]()
        if low:
            after = f"{start}{str(low - 1).zfill(_WIDTH)}~"
        while True:
            keys = await self._objects.list(start, after)
            for key in keys:
                name = _NAME.fullmatch(key.removeprefix(start))
                if name and int(name[2]) <= high and int(name[1]) >= low:
                    found.append(key)
            if len(keys) < PAGE:
                return found
            after = keys[-1]

    async def announce(self, attempt: Attempt, body: bytes) -> bool:
        """Put our manifest. False where the name is taken: by an earlier attempt, or by ours whose answer was lost. Both are decided alike."""
        key, digest = attempt.manifest(self._owner.prefix), hashlib.sha256(body).digest()
        put = await self._objects.put(key, body, if_none_match=True, sha256=digest, content_type="application/json")
        if put is Put.CREATED and not self._trusted:
            again = await self._objects.put(key, body, if_none_match=True, sha256=digest, content_type="application/json")
            if again is Put.CREATED:
                raise Misconfigured(
                    "the store ignores If-None-Match",
                    where=self._owner.place,
                    why="it let an existing object be overwritten; without conditional writes nothing keeps two writers apart",
                    run="use Amazon S3, or a store that answers 412 to such a put",
                )
        self._trusted = True
        return put is Put.CREATED

    async def same(self, key: str, manifest: Manifest) -> bool:
        """Did this attempt set out to write what we would, row for row?"""
        found = await self._read(key)
        theirs = [(entry.key, entry.content_sha256) for entry in found.parts]
        return found.rows == manifest.rows and theirs == [(entry.key, entry.content_sha256) for entry in manifest.parts]

    async def decide(self, keys: Collection[str], wanted: Set[bytes]) -> set[bytes]:
        """Decide those of these attempts that share rows with us: the wanted ids that are in."""
        short, delivered = {id[:_MARK] for id in wanted}, Delivered()

        async def one(key: str) -> None:
            manifest = await self._read(key)
            rows = base64.b64decode(manifest.rows)
            if any(rows[n : n + _MARK] in short for n in range(0, len(rows), _MARK)):
                for entry in manifest.parts:
                    if await self._put(entry.key, _VOID, _VOID_SHA256) is Put.EXISTS:
                        await self._collect(entry.key, wanted, delivered)

        await self._lookups.each(keys, one)
        return set(delivered.ids)

    async def upload(self, parts: Sequence[PartEntry], bodies: Sequence[bytes]) -> dict[int, str] | None:
        """Put the parts of an announced attempt; what the store found too large comes back, by number, with the reason. None where
        somebody with the same rows has voided one: then this attempt is to be decided, and the batch written anew."""
        refused: dict[int, str] = {}
        voided: list[str] = []

        async def one(number: int) -> None:
            entry = parts[number]
            try:
                put = await self._put(entry.key, bodies[number], bytes.fromhex(entry.object_sha256))
            except TooLarge as fault:
                if entry.rows > 1:
                    raise
                refused[number] = fault.why
                return
            if put is Put.EXISTS and not await self._ours(entry):
                voided.append(entry.key)

        await self._uploads.each(range(len(parts)), one)
        return None if voided else refused

    async def _ours(self, entry: PartEntry) -> bool:
        """An object of the part's name is there: True where it is what we would put, False where it is void."""
        where = f"{self._owner.place}{entry.key.removeprefix(self._owner.prefix)}"
        try:
            found, empty = await content_sha256(self._objects, entry.key)
        except Missing:
            raise _gone(where) from None
        if empty:
            return False
        if found != entry.content_sha256:
            raise Misconfigured(
                "an object of a part's name holds something else",
                where=where,
                why=f"its content has the SHA-256 {found}, the manifest says {entry.content_sha256}: only this sink should write there",
                run="move what is there, or give the sink a fresh prefix",
            )
        return True

    async def _collect(self, key: str, wanted: Set[bytes], into: Delivered) -> None:
        try:
            await collect(self._objects, key, float("-inf"), into, wanted)
        except Missing:
            raise _gone(key) from None

    async def _read(self, key: str) -> Manifest:
        where = f"{self._owner.place}{key.removeprefix(self._owner.prefix)}"
        try:
            body = b"".join([chunk async for chunk in self._objects.get(key)])
            found = msgspec.json.decode(body, type=Manifest)
        except Missing:
            raise _gone(where) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Misconfigured(
                "cannot read a manifest",
                where=where,
                why=f"it is damaged ({error}), or not ours",
                run="dsqlcdc config show CONFIG, and look at that object",
            ) from error
        if found.format > FORMAT:
            why = f"its format is {found.format}, this version of dsqlcdc knows {FORMAT}: a newer one wrote it"
            raise Misconfigured("cannot read a manifest", where=where, why=why, run="pip install --upgrade dsqlcdc")
        if (found.pipeline, found.sink) != (self._owner.pipeline, self._owner.sink):
            raise Misconfigured(
                "this prefix belongs to another sink",
                where=where,
                why=f"it was written by the sink {found.sink!r} of the pipeline {found.pipeline!r}",
                run="give each sink a prefix of its own in CONFIG",
            )
        return found

    async def _put(self, key: str, body: bytes, sha256: bytes) -> Put:
        return await self._objects.put(key, body, if_none_match=True, sha256=sha256, content_type=_GZIP)


def _gone(where: str) -> Unavailable:
    return Unavailable("cannot read back an object", where=where, why="it was there a moment ago")
