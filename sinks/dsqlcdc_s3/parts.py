"""Putting parts, and voiding what was begun and not finished."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from dsqlcdc.contract import Misconfigured, Unavailable
from dsqlcdc_s3.batch import Begun
from dsqlcdc_s3.chain import Chain
from dsqlcdc_s3.delivered import Damaged, Delivered, collect, content_sha256, is_void
from dsqlcdc_s3.form import content_type, void_of
from dsqlcdc_s3.lanes import Lanes
from dsqlcdc_s3.manifest import Manifest, PartEntry
from dsqlcdc_s3.objects import Missing, Objects, Put, TooLarge


class Voided(msgspec.Struct):
    """What deciding begun manifests came to: whose lines are in, and which parts are void."""

    delivered: Delivered = msgspec.field(default_factory=Delivered)
    parts: list[str] = []


class Parts:
    """The data objects of a chain. Methods raise Unavailable, Misconfigured, and Held where a newer writer has voided ours."""

    def __init__(self, objects: Objects, chain: Chain, place: str, parallel: int) -> None:
        self._objects = objects
        self._chain = chain
        self._place = place
        self._uploads = Lanes(parallel)
        self._lookups = Lanes(parallel)

    async def upload(self, begun: Begun) -> None:
        """Put the parts of a claimed batch that are not known to be in. What is in leaves `begun.bodies`, also when others fail."""

        async def one(part: int) -> None:
            entry = begun.manifest.parts[part]
            if part not in begun.refused:
                try:
                    put = await self._put(entry.key, begun.bodies[part], bytes.fromhex(entry.object_sha256))
                except TooLarge as fault:
                    if entry.rows > 1:
                        raise
                    begun.refused[part] = fault.why
                else:
                    if put is Put.EXISTS:
                        await self._ours(entry)
            if part in begun.refused:
                await self._refuse(begun, part)
            del begun.bodies[part]

        await self._uploads.each(list(begun.bodies), one)

    async def _refuse(self, begun: Begun, part: int) -> None:
        entry = begun.manifest.parts[part]
        if await self._void(entry.key) is Put.EXISTS and not await is_void(self._objects, entry.key):
            await self._ours(entry)
            return
        begun.too_large(part)

    async def manifests(self, numbers: Iterable[int]) -> list[Manifest]:
        """The manifests of these numbers, as far as there are any."""
        found: dict[int, Manifest] = {}

        async def one(n: int) -> None:
            manifest = await self._chain.read(n)
            if manifest is not None:
                found[n] = manifest

        await self._lookups.each(list(numbers), one)
        return [found[n] for n in sorted(found)]

    async def decide(self, manifests: Iterable[Manifest], since: float) -> Voided:
        """Make sure that every part of these manifests is either in or void, for ever.

        Answers with the lines that are in and arrived at `since` (seconds) or later, and with the void parts. May be called again.
        """
        found = Voided()

        async def one(entry: PartEntry) -> None:
            if await self._void(entry.key) is Put.CREATED or not await self._in(entry, since, found.delivered):
                found.parts.append(entry.key)

        await self._lookups.each([entry for manifest in manifests for entry in manifest.parts], one)
        found.parts.sort()
        return found

    async def _in(self, entry: PartEntry, since: float, into: Delivered) -> bool:
        try:
            if entry.max_arrived < since:
                return not await is_void(self._objects, entry.key)
            return await collect(self._objects, entry.key, since, into)
        except Missing:
            raise self._gone(entry.key) from None

    async def _ours(self, entry: PartEntry) -> None:
        """An object of the part's name is there: ours, whose answer was lost, or not."""
        try:
            found, empty = await content_sha256(self._objects, entry.key)
        except Missing:
            raise self._gone(entry.key) from None
        except Damaged:
            found, empty = "no gzip", False
        if found == entry.content_sha256:
            return
        if empty:
            raise self._chain.held(f"the part {entry.key} has been voided: whoever did it started after us")
        raise Misconfigured(
            "an object of a part's name holds something else",
            where=f"{self._place}{entry.key}",
            why=f"its content has the SHA-256 {found}, the manifest says {entry.content_sha256}: only this sink should write there",
            run="move what is there, or give the sink a fresh prefix, then dsqlcdc run CONFIG",
        )

    def _gone(self, key: str) -> Unavailable:
        return Unavailable("cannot read back a part", where=f"{self._place}{key}", why="it was there a moment ago")

    async def _void(self, key: str) -> Put:
        body = void_of(key)
        return await self._put(key, body, hashlib.sha256(body).digest())

    async def _put(self, key: str, body: bytes, sha256: bytes) -> Put:
        return await self._objects.put(key, body, if_none_match=True, sha256=sha256, content_type=content_type(key))
