"""Compaction: the small objects of an hour that is over become one, which still holds each of them whole.

    manifests/compact-{digest}.json                 what was put together, and where each part is in it
    data/…/compact-{digest}.jsonl.gz or .parquet    the object

The object is its parts one behind the other: of JSON Lines their very bytes, since a gzip may have many members; of Parquet their rows. So what
the chain says of a part can be proved of the compacted object too. First the manifest, then the object, both conditionally and by names that
follow from what is in them; then it is read back; only then the parts are deleted. Whoever is stopped anywhere is finished by the next run. In
between a row may be in two objects: readers take one line for each id, as they do anyway.

A part is left alone that the sink may ask for again: one of the chain's end, or with records that the stream still holds.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import zlib
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import IO, Any, Protocol

import msgspec

from dsqlcdc import parquet
from dsqlcdc.contract import Misconfigured, Unavailable
from dsqlcdc_s3.apart import Manifest as ApartManifest
from dsqlcdc_s3.chain import Chain, Owner
from dsqlcdc_s3.form import content_type
from dsqlcdc_s3.manifest import FORMAT, PartEntry
from dsqlcdc_s3.objects import PAGE, Missing, Objects, Put
from dsqlcdc_s3.room import copy, no_room, read, unnamed, window

_CHAIN = re.compile(r"(\d{12,})-\d{4,}\.(?:jsonl\.gz|parquet)")
_APART = re.compile(r"(.+)-(\d+)-(\d+)-(\d{4,})-\d{4,}\.(?:jsonl\.gz|parquet)")
_COMPACT = re.compile(r"compact-([0-9a-f]{32})\.(?:jsonl\.gz|parquet)")
_WIDTH = 64
_STEP = 64 * 1024
_REMEMBERED = 1024
"""Manifests whose parts are kept in memory: neighbours in an hour are often of the same."""
_PARTS = 4096
"""Parts of a compacted object at the most: its manifest is read whole."""


class Input(msgspec.Struct, frozen=True):
    """A part as its own manifest names it, and where it is in the compacted object: from `offset` on, `length` long, in bytes of a gzip and in
    rows of Parquet."""

    part: PartEntry
    offset: int
    length: int


class Compaction(msgspec.Struct, frozen=True, kw_only=True):
    """`manifests/compact-{digest}.json`. `replaces`: the objects that it takes the place of, which are deleted once `part` is in: its inputs, or
    earlier compacted objects that held them."""

    format: int
    kind: str = "compaction"
    pipeline: str
    sink: str
    created_at: str
    part: PartEntry
    inputs: Sequence[Input]
    replaces: Sequence[str]


class Compactable(Objects, Protocol):
    """A bucket whose objects may be deleted."""

    async def put_file(self, key: str, body: IO[bytes], *, sha256: bytes, content_type: str) -> Put:
        """As `put` with `if_none_match`, of a file from its beginning, which need not fit into memory."""
        ...

    async def delete(self, key: str) -> None:
        """Twice is no error."""
        ...

    async def locked(self) -> str:
        """Why nothing here may be deleted: Object Lock; "" where there is none."""
        ...


class Bounds(msgspec.Struct, frozen=True):
    """What may be compacted. `hour_before`: hours that ended before this time; `arrived_before`: parts whose records all arrived before, which
    nobody can read again (seconds since the epoch); `manifest_before`: parts of the chain's manifests below this number. `size`: bytes of a
    compacted object at the most."""

    hour_before: float
    arrived_before: float
    manifest_before: int
    size: int


class Step(msgspec.Struct, frozen=True):
    """What is to be done in one hour of one table, or was: `objects` become one of about `bytes`."""

    folder: str
    objects: Sequence[str]
    bytes: int
    rows: int


def manifest_key(prefix: str, digest: str) -> str:
    return f"{prefix}manifests/compact-{digest}.json"


def digest_of(key: str) -> str | None:
    """The digest in a compacted object's name; None for another object."""
    found = _COMPACT.fullmatch(key.rpartition("/")[2])
    return found[1] if found else None


class _Source(msgspec.Struct, frozen=True):
    """An object that may be compacted, and the parts in it."""

    key: str
    inputs: Sequence[Input]
    size: int

    @property
    def first(self) -> str:
        return min(one.part.key for one in self.inputs)


class _Fetched(msgspec.Struct, frozen=True):
    """A source, and where its bytes are."""

    key: str
    inputs: Sequence[Input]
    body: IO[bytes]


class Compactor:
    """Compacts one lake. In memory are the names of an hour and a MiB or so; the objects that go together, and what they become, are in files in
       TMPDIR without a name, up to twice Bounds.size, which the system takes away with the process.
    Methods raise Unavailable, and Misconfigured where an object is not what its manifest says or the lake is locked."""

    def __init__(self, objects: Compactable, owner: Owner, clock: Callable[[], float], level: int) -> None:
        self._objects, self._owner, self._clock, self._level = objects, owner, clock, level
        self._chain = Chain(objects, owner)
        self._manifests: dict[str, Sequence[PartEntry]] = {}

    async def run(self, bounds: Bounds, *, dry: bool, tell: Callable[[Step], None]) -> int:
        """Compact every hour that may be, and finish what another run began; how many objects were made. `tell` hears of each step when it is
        done; with `dry` nothing is changed, and it hears what would be."""
        locked = await self._objects.locked()
        if locked:
            why = f"{locked}: what is locked is kept as it is"
            raise Misconfigured(
                "this lake cannot be compacted", where=self._owner.place, why=why, run="dsqlcdc audit verify CONFIG", code="E370"
            )
        last = await self._chain.last(0)
        bounds = msgspec.structs.replace(bounds, manifest_before=min(bounds.manifest_before, last or 0))
        made = 0
        async for folder, keys in self._hours():
            if _end(folder) > bounds.hour_before or len(keys) < 2:
                continue
            keys = await self._finish(keys, dry)
            for group in _groups(await self._sources(keys, bounds), bounds.size):
                await self._compact(folder, group, dry, tell)
                made += 1
        return made

    async def _hours(self) -> AsyncGenerator[tuple[str, list[str]], None]:
        """Folders of one table's hour with the keys in them: keys sort by folder."""
        start = f"{self._owner.prefix}data/"
        folder, keys, after = "", list[str](), start
        while True:
            page = await self._objects.list(start, after)
            for key in page:
                here = key.rpartition("/")[0] + "/"
                if here != folder:
                    if keys:
                        yield folder, keys
                    folder, keys = here, []
                keys.append(key)
            if len(page) < PAGE:
                break
            after = page[-1]
        if keys:
            yield folder, keys

    async def _finish(self, keys: list[str], dry: bool) -> list[str]:
        """Delete what objects that are in have replaced; the keys that are left."""
        there = set(keys)
        for key in keys:
            digest = digest_of(key)
            if digest is None or key not in there:
                continue
            found = await self._read(digest)
            left = [one for one in found.replaces if one in there]
            if left and not dry:
                await self._check(found.part)
                for one in left:
                    await self._objects.delete(one)
            there.difference_update(left)
        return [key for key in keys if key in there]

    async def _sources(self, keys: Iterable[str], bounds: Bounds) -> list[_Source]:
        found: list[_Source] = []
        for key in keys:
            name = key.rpartition("/")[2]
            digest = digest_of(key)
            if digest is not None:
                earlier = await self._read(digest)
                found.append(_Source(key, earlier.inputs, earlier.part.bytes))
            elif (entry := await self._entry(key, name, bounds)) is not None and entry.max_arrived < bounds.arrived_before:
                whole = entry.rows if key.endswith(parquet.SUFFIX) else entry.bytes
                found.append(_Source(key, (Input(entry, 0, whole),), entry.bytes))
        return sorted(found, key=lambda source: source.first)

    async def _entry(self, key: str, name: str, bounds: Bounds) -> PartEntry | None:
        """What a manifest says of a part; None for what is left alone: parts that are void, of the chain's end, replays, or of nobody."""
        chain, apart = _CHAIN.fullmatch(name), _APART.fullmatch(name)
        if len(self._manifests) >= _REMEMBERED:
            self._manifests.clear()
        if chain is not None:
            n = int(chain[1])
            if n >= bounds.manifest_before:
                return None
            where = f"chain {n}"
            if where not in self._manifests:
                manifest = await self._chain.read(n)
                self._manifests[where] = () if manifest is None else manifest.parts
        elif apart is not None and not name.startswith("replay-"):
            shard, first, last, number = apart.groups()
            where = f"{self._owner.prefix}manifests/apart/{shard}/{last.zfill(_WIDTH)}-{first}-{number}.json"
            if where not in self._manifests:
                body = await self._whole(where)
                self._manifests[where] = () if body is None else msgspec.json.decode(body, type=ApartManifest).parts
        else:
            return None
        return next((part for part in self._manifests[where] if part.key == key), None)

    async def _compact(self, folder: str, group: Sequence[_Source], dry: bool, tell: Callable[[Step], None]) -> None:
        step = Step(folder, [source.key for source in group], sum(s.size for s in group), sum(i.part.rows for s in group for i in s.inputs))
        if dry:
            tell(step)
            return
        with unnamed() as fetched, unnamed() as body:
            live = [source for source in [await self._fetch(one, fetched) for one in group] if source is not None]
            if len(live) < 2:  # the others are void
                return
            inputs = await asyncio.to_thread(self._together, live, fetched, body)
            part = await asyncio.to_thread(_part_of, folder, live[0].key, inputs, body)
            found = Compaction(
                format=FORMAT,
                pipeline=self._owner.pipeline,
                sink=self._owner.sink,
                created_at=datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                part=part,
                inputs=inputs,
                replaces=[source.key for source in live if source.key != part.key],
            )
            await self._put_manifest(found)
            await self._objects.put_file(part.key, body, sha256=bytes.fromhex(part.object_sha256), content_type=content_type(part.key))
        await self._check(part)  # ours, or the same by another run; read back either way before anything is deleted
        for key in found.replaces:
            await self._objects.delete(key)
        tell(msgspec.structs.replace(step, bytes=part.bytes))

    async def _fetch(self, source: _Source, into: IO[bytes]) -> _Fetched | None:
        """An object at the end of the file, whose parts are what their manifests say; None for a void one, of which nothing stays there."""
        start = into.seek(0, 2)
        hashed = hashlib.sha256()
        try:
            async for chunk in self._objects.get(source.key):
                hashed.update(chunk)
                into.write(chunk)
        except Missing:
            raise Unavailable("cannot read a part", where=f"s3://…/{source.key}", why="it was there a moment ago") from None
        except OSError as error:
            raise no_room(error) from error
        fetched = _Fetched(source.key, source.inputs, window(into, start, into.tell() - start))
        if len(source.inputs) == 1 and source.inputs[0].part.key == source.key:
            entry = source.inputs[0].part
            if hashed.hexdigest() != entry.object_sha256:
                if await asyncio.to_thread(_rows, source.key, fetched.body) == 0:
                    into.truncate(start)
                    return None
                raise self._altered(source.key)
        return fetched

    def _together(self, sources: Sequence[_Fetched], fetched: IO[bytes], body: IO[bytes]) -> list[Input]:
        """Write the parts in order of their names, each once: two runs at once may have put a part into two objects. So the same parts are the
        same object, whatever they came from, and what replaces another holds more than that: no two can replace each other."""
        found = {one.part.key: (one, source.body) for source in sources for one in source.inputs}
        inputs: list[Input] = []
        offset = 0
        for _, (one, _) in sorted(found.items()):
            inputs.append(Input(one.part, offset, one.length))
            offset += one.length
        pieces = [piece for _, piece in sorted(found.items())]
        try:
            if sources[0].key.endswith(parquet.SUFFIX):
                parquet.join(
                    [parquet.Run(at, one.offset, one.length, one.part.uncompressed_bytes) for one, at in pieces], body, self._level
                )
            else:
                for one, at in pieces:
                    copy(at, one.offset, one.length, body)
        except OSError as error:
            raise no_room(error) from error
        except ValueError as error:
            raise self._altered(sources[0].key) from error
        return inputs

    async def _put_manifest(self, found: Compaction) -> None:
        digest = digest_of(found.part.key) or ""
        body = msgspec.json.encode(found) + b"\n"
        hashed = hashlib.sha256(body).digest()
        key = manifest_key(self._owner.prefix, digest)
        if await self._objects.put(key, body, if_none_match=True, sha256=hashed, content_type="application/json") is Put.EXISTS:
            theirs = await self._read(digest)
            if (theirs.part, list(theirs.inputs)) != (found.part, list(found.inputs)):
                raise self._altered(key)

    async def _read(self, digest: str) -> Compaction:
        key = manifest_key(self._owner.prefix, digest)
        body = await self._whole(key)
        try:
            found = msgspec.json.decode(body or b"", type=Compaction)
        except msgspec.DecodeError as error:
            raise self._altered(key) from error
        if (found.pipeline, found.sink) != (self._owner.pipeline, self._owner.sink):
            raise self._altered(key)
        return found

    async def _check(self, part: PartEntry) -> None:
        hashed = hashlib.sha256()
        try:
            async for chunk in self._objects.get(part.key):
                hashed.update(chunk)
        except Missing:
            raise Unavailable("cannot read back a compacted object", where=part.key, why="it was there a moment ago") from None
        if hashed.hexdigest() != part.object_sha256:
            raise self._altered(part.key)

    async def _whole(self, key: str) -> bytes | None:
        try:
            return b"".join([chunk async for chunk in self._objects.get(key)])
        except Missing:
            return None

    def _altered(self, key: str) -> Misconfigured:
        where = f"{self._owner.place}{key.removeprefix(self._owner.prefix)}"
        why = "it is not what its manifest says: somebody changed it, and nothing was deleted"
        return Misconfigured("an object of the lake was altered", where=where, why=why, run="dsqlcdc audit verify CONFIG", code="E371")


def _groups(sources: Sequence[_Source], size: int) -> list[list[_Source]]:
    """Objects of one format that go together, each group within the size; what would be alone is left out."""
    found: list[list[_Source]] = []
    for suffix in (".jsonl.gz", parquet.SUFFIX):
        group: list[_Source] = []
        for source in sources:
            if not source.key.endswith(suffix):
                continue
            parts = sum(len(one.inputs) for one in group) + len(source.inputs)
            if group and (sum(one.size for one in group) + source.size > size or parts > _PARTS):
                found.append(group)
                group = []
            group.append(source)
        found.append(group)
    return [group for group in found if len(group) > 1]


def _part_of(folder: str, like: str, inputs: Sequence[Input], body: IO[bytes]) -> PartEntry:
    suffix = parquet.SUFFIX if like.endswith(parquet.SUFFIX) else ".jsonl.gz"
    size = body.seek(0, 2)
    hashed = hashlib.sha256()
    for chunk in read(body):
        hashed.update(chunk)
    named = hashlib.sha256("\n".join([hashed.hexdigest(), *(one.part.key for one in inputs)]).encode()).hexdigest()[:32]
    content, length = _content(suffix, body)
    return PartEntry(
        key=f"{folder}compact-{named}{suffix}",
        rows=sum(one.part.rows for one in inputs),
        bytes=size,
        uncompressed_bytes=length,
        content_sha256=content,
        object_sha256=hashed.hexdigest(),
        min_version=min(one.part.min_version for one in inputs),
        max_version=max(one.part.max_version for one in inputs),
        min_arrived=min(one.part.min_arrived for one in inputs),
        max_arrived=max(one.part.max_arrived for one in inputs),
    )


def _content(suffix: str, body: IO[bytes]) -> tuple[str, int]:
    hashed, length = hashlib.sha256(), 0
    for text in parquet.lines(body) if suffix == parquet.SUFFIX else members(body):
        hashed.update(text)
        length += len(text)
    return hashed.hexdigest(), length


def members(body: IO[bytes]) -> Iterable[bytes]:
    """The uncompressed bytes of a gzip of many members, a MiB at a time."""
    inflate: Any = zlib.decompressobj(31)
    for chunk in read(body):
        data: Any = chunk
        while data:
            if inflate.eof:
                inflate = zlib.decompressobj(31)
            yield inflate.decompress(data, 16 * _STEP)
            data = inflate.unused_data if inflate.eof else inflate.unconsumed_tail


def _rows(key: str, body: IO[bytes]) -> int:
    try:
        return parquet.rows(body) if key.endswith(parquet.SUFFIX) else sum(len(text) for text in members(body))
    except (ValueError, zlib.error):
        return -1


def _end(folder: str) -> float:
    """When the hour of a folder ended, seconds since the epoch; infinite for a folder that is none of ours."""
    found = re.search(r"/dt=(\d{4}-\d\d-\d\d)/hour=(\d\d)/$", folder)
    return float("inf") if found is None else datetime.fromisoformat(f"{found[1]}T{found[2]}:00:00+00:00").timestamp() + 3600
