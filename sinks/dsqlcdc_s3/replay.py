"""Replays beside a running writer: a change is a line of the chain or an object of its own, never both.

The object `…/replay-{id}.jsonl.gz` (.parquet: its manifest says) decides, once and for ever: either it holds the row, or it is void and the
chain may write it.
Whoever replays first puts a manifest of its own, then looks whether the chain has the row, then puts the object. Whoever writes the chain
first claims its manifest, then looks for manifests of replays, and voids the object of each that its batch holds: where it cannot, the
row is in, and the batch is cut anew. Of two who each announce themselves before they look, at least one sees the other.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence, Set
from datetime import UTC, datetime

import msgspec

from dsqlcdc.contract import Change, Misconfigured, Setback, Unavailable, Verdict
from dsqlcdc_s3.batch import entry, fresh
from dsqlcdc_s3.chain import Chain, Owner
from dsqlcdc_s3.delivered import content_sha256, is_void, search
from dsqlcdc_s3.encode import Part, Shape, encode
from dsqlcdc_s3.form import content_type, void_of
from dsqlcdc_s3.lanes import Lanes
from dsqlcdc_s3.manifest import FORMAT, PartEntry
from dsqlcdc_s3.objects import PAGE, Missing, Objects, Put, TooLarge
from dsqlcdc_s3.options import Options
from dsqlcdc_s3.paths import Partition, partition

_NAME = re.compile(r"manifests/replay-([0-9a-f]{32})\.json")
_REMEMBERED = 500_000
"""Ids of the chain's parts that a replay keeps in memory, about."""
_SOON = 2.0
"""Seconds after which a change that the chain is just writing is looked for again."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`manifests/replay-{id}.json`, outside the chain. `body` is the object's bytes, Base64: a replay that is taken up again, perhaps from
    another copy of the record, puts the very same."""

    format: int
    replay: str
    pipeline: str
    sink: str
    created_at: str
    part: PartEntry
    body: str


class _Named(msgspec.Struct):
    part: PartEntry


def manifest_key(prefix: str, id: bytes) -> str:
    return f"{prefix}manifests/replay-{id.hex()}.json"


def object_key(prefix: str, where: Partition, id: bytes, suffix: str) -> str:
    return f"{where.folder(prefix)}replay-{id.hex()}{suffix}"


class Replays:
    """Replays as the writer of a chain meets them. What it has decided stays so: `taken` are ids that replays have put."""

    def __init__(self, objects: Objects, prefix: str) -> None:
        self._objects, self._prefix = objects, prefix
        self._begun: set[bytes] = set()
        self._ours: set[bytes] = set()
        self.taken: set[bytes] = set()

    async def look(self) -> None:
        """List the manifests of all replays: a request for each thousand. Raises what Objects raises."""
        begun: set[bytes] = set()
        after = f"{self._prefix}manifests/replay-"
        while True:
            keys = await self._objects.list(f"{self._prefix}manifests/replay-", after)
            names = (_NAME.fullmatch(key.removeprefix(self._prefix)) for key in keys)
            begun.update(bytes.fromhex(name[1]) for name in names if name)
            if len(keys) < PAGE:
                break
            after = keys[-1]
        self._begun = begun

    async def met(self, changes: Iterable[Change]) -> bool:
        """Decide the replays of these changes that were begun when last looked. True where one more of them turned out to be in."""
        if not self._begun:
            return False
        found = False
        for change in changes:
            id = change.id
            if id in self._begun and id not in self._ours and id not in self.taken:
                if await self._void(change):
                    self._ours.add(id)
                else:
                    self.taken.add(id)
                    found = True
        return found

    async def _void(self, change: Change) -> bool:
        key = await self._key(change.id)
        void = void_of(key)
        put = await self._objects.put(key, void, if_none_match=True, sha256=hashlib.sha256(void).digest(), content_type=content_type(key))
        return put is Put.CREATED or await _is_void(self._objects, key)

    async def _key(self, id: bytes) -> str:
        """The object that the replay's manifest names, whatever format was written then."""
        where = manifest_key(self._prefix, id)
        try:
            body = b"".join([chunk async for chunk in self._objects.get(where)])
            return msgspec.json.decode(body, type=_Named).part.key
        except Missing:
            raise Unavailable("cannot read the manifest of a replay", where=where, why="it was there a moment ago") from None
        except msgspec.DecodeError as error:
            raise _damaged(where, error) from error


class Replayer:
    """Puts changes as objects of their own, beside a chain that somebody else may be writing. Never touches the chain."""

    def __init__(
        self, objects: Objects, chain: Chain, owner: Owner, options: Options, clock: Callable[[], float], shape: Shape | None
    ) -> None:
        self._shape = shape
        self._objects, self._chain, self._owner, self._options, self._clock = objects, chain, owner, options, clock
        self._lanes = Lanes(options.parallel)
        self._trusted = False
        self._parts: dict[str, frozenset[bytes]] = {}
        self._room = _REMEMBERED

    async def replay(self, changes: Sequence[Change]) -> Sequence[Setback]:
        """See Sink.replay. DUPLICATE: it is in, by the chain or an earlier replay. RETRY: the chain is about to write it.

        Raises Unavailable, and Misconfigured where the store ignores conditions or the prefix is another sink's.
        """
        rows, setbacks = fresh(changes, (), ())
        begun: dict[int, Manifest] = {}

        async def begin(row: tuple[int, Change]) -> None:
            index, change = row
            parts, dead = encode([row], raw=self._options.raw, level=self._options.level, shape=self._shape)
            setbacks.extend(dead)
            for part in parts:
                try:
                    begun[index] = await self._begin(change, part)
                except TooLarge as fault:
                    setbacks.append(_too_large(index, fault))

        await self._lanes.each(rows, begin)
        homes: dict[Partition, list[int]] = defaultdict(list)
        for index in begun:
            homes[partition(changes[index].table, changes[index].version)].append(index)
        for where, indexes in homes.items():
            setbacks += await self._put_all(where, {index: (changes[index].id, begun[index]) for index in indexes})
        return setbacks

    async def _begin(self, change: Change, part: Part) -> Manifest:
        prefix, id = self._owner.prefix, change.id
        manifest = Manifest(
            format=FORMAT,
            replay=id.hex(),
            pipeline=self._owner.pipeline,
            sink=self._owner.sink,
            created_at=datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            part=entry(part, object_key(prefix, part.partition, id, part.suffix)),
            body=base64.b64encode(part.body).decode(),
        )
        key, body = manifest_key(prefix, id), msgspec.json.encode(manifest) + b"\n"
        put = await self._put_manifest(key, body)
        if not self._trusted:
            if put is Put.CREATED and await self._put_manifest(key, body) is Put.CREATED:
                raise Misconfigured(
                    "the store ignores If-None-Match",
                    where=self._owner.place,
                    why="it let an existing object be overwritten; without conditional writes a replay could repeat a row",
                    run="use Amazon S3, or a store that answers 412 to such a put",
                )
            self._trusted = True
        return manifest if put is Put.CREATED else await self._earlier(key)

    async def _put_manifest(self, key: str, body: bytes) -> Put:
        digest = hashlib.sha256(body).digest()
        return await self._objects.put(key, body, if_none_match=True, sha256=digest, content_type="application/json")

    async def _earlier(self, key: str) -> Manifest:
        """The manifest of a replay that was begun before."""
        where = f"{self._owner.place}{key.removeprefix(self._owner.prefix)}"
        try:
            body = b"".join([chunk async for chunk in self._objects.get(key)])
            found = msgspec.json.decode(body, type=Manifest)
        except Missing:
            raise Unavailable("cannot read the manifest of a replay", where=where, why="it was there a moment ago") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _damaged(where, error) from error
        if (found.pipeline, found.sink) != (self._owner.pipeline, self._owner.sink):
            raise Misconfigured(
                "this prefix belongs to another sink",
                where=where,
                why=f"{found.pipeline}/{found.sink} wrote there",
                run="give each sink a prefix of its own in CONFIG",
            )
        return found

    async def _put_all(self, where: Partition, begun: dict[int, tuple[bytes, Manifest]]) -> list[Setback]:
        """Of one partition: what the chain has is told, what it has not is put."""
        found, under_way = await self._look(where, {id for id, _ in begun.values()})
        setbacks: list[Setback] = []

        async def one(row: tuple[int, tuple[bytes, Manifest]]) -> None:
            index, (id, manifest) = row
            if id in found:
                setbacks.append(Setback(index, Verdict.DUPLICATE))
            elif under_way:
                setbacks.append(_later(index, f"a batch of the pipeline that may hold it is unfinished ({under_way})"))
            else:
                setback = await self._put(index, manifest)
                if setback is not None:
                    setbacks.append(setback)

        await self._lanes.each(list(begun.items()), one)
        return setbacks

    async def _look(self, where: Partition, wanted: set[bytes]) -> tuple[set[bytes], str]:
        """Which of these ids the chain holds, and the last manifest's part here that is neither in nor void yet ("" where there is none).

        Only the last manifest can be undecided: its writer had decided all before it. One claimed later sees our manifests.
        """
        last = await self._chain.last(0)
        manifest = None if last is None else await self._chain.read(last)
        folder, keys, after = where.folder(self._owner.prefix), set[str](), where.folder(self._owner.prefix)
        while True:
            page = await self._objects.list(folder, after)
            keys.update(page)
            if len(page) < PAGE:
                break
            after = page[-1]
        ours = [] if manifest is None else [part.key for part in manifest.parts if part.key.startswith(folder)]
        under_way = next((key for key in ours if key not in keys), "")
        found: set[bytes] = set()

        async def one(key: str) -> None:
            if not found.issuperset(wanted):
                found.update(wanted & await self._ids(key, wanted))

        await self._lanes.each(sorted(key for key in keys if not key.startswith(f"{folder}replay-")), one)
        return found, under_way

    async def _ids(self, key: str, wanted: set[bytes]) -> Set[bytes]:
        """The ids of a part, which never change: remembered, while there is room, for the batches to come; else those wanted."""
        if key not in self._parts:
            if self._room <= 0:
                return await search(self._objects, key, wanted)
            found = frozenset(await search(self._objects, key, None))
            self._room -= len(found)
            self._parts[key] = found
        return self._parts[key]

    async def _put(self, index: int, manifest: Manifest) -> Setback | None:
        part, body = manifest.part, base64.b64decode(manifest.body)
        try:
            put = await self._objects.put(
                part.key, body, if_none_match=True, sha256=bytes.fromhex(part.object_sha256), content_type=content_type(part.key)
            )
        except TooLarge as fault:
            return _too_large(index, fault)
        if put is Put.CREATED:
            return None
        try:
            content, empty = await content_sha256(self._objects, part.key)
        except Missing:
            raise Unavailable("cannot read back a replay", where=part.key, why="it was there a moment ago") from None
        if empty:
            return _later(index, "the running pipeline has taken this change over, and has not written it yet")
        if content != part.content_sha256:
            raise Misconfigured(
                "an object of a replay's name holds something else",
                where=f"{self._owner.place}{part.key.removeprefix(self._owner.prefix)}",
                why="its content is not what the replay's manifest says: only this sink should write there",
                run="move what is there, then dsqlcdc dead replay CONFIG",
            )
        return Setback(index, Verdict.DUPLICATE)


def _damaged(where: str, error: Exception) -> Misconfigured:
    return Misconfigured(
        "cannot read the manifest of a replay",
        where=where,
        why=f"it is damaged ({error})",
        run="move it away, then dsqlcdc dead replay CONFIG",
    )


async def _is_void(objects: Objects, key: str) -> bool:
    try:
        return await is_void(objects, key)
    except Missing:
        raise Unavailable("cannot read back a replay", where=key, why="it was there a moment ago") from None


def _later(index: int, why: str) -> Setback:
    return Setback(index, Verdict.RETRY, detail=why, after=_SOON)


def _too_large(index: int, fault: TooLarge) -> Setback:
    return Setback(index, Verdict.DEAD, code="too_large", detail=fault.why)
