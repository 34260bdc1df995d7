"""The chain of manifests: its end, its owner, and whose turn it is."""

from __future__ import annotations

import hashlib

import msgspec

from dsqlcdc.contract import Misconfigured, Unavailable
from dsqlcdc.errors import Held
from dsqlcdc_s3.manifest import Link, Manifest, decode_manifest, digest
from dsqlcdc_s3.objects import PAGE, Missing, Objects, Put
from dsqlcdc_s3.paths import manifest_key, manifest_number


class Owner(msgspec.Struct, frozen=True):
    """Whose chain it is, and where. `place` names bucket and prefix, as in error messages."""

    pipeline: str
    sink: str
    place: str
    prefix: str


class Chain:
    """The manifests under one prefix. It remembers nothing between calls: what is stored is the truth.

    Every method raises Unavailable, and Misconfigured where the chain is damaged, of a newer format, or another pipeline's or sink's.
    """

    def __init__(self, objects: Objects, owner: Owner) -> None:
        self._objects = objects
        self._owner = owner

    async def first(self) -> int | None:
        """The number of the oldest manifest there is."""
        return await self._next(0)

    async def last(self, after: int) -> int | None:
        """The number of the last manifest behind `after`, in a few dozen requests however long the chain is: numbers have no holes."""
        numbers, full = await self._page(after)
        if not numbers:
            return None
        low, step = numbers[-1], PAGE
        if not full:
            return low
        while (found := await self._next(low + step)) is not None:
            low, step = found, step * 2
        high = low + step  # the last one is in [low, high]
        while low < high:
            middle = (low + high) // 2
            found = await self._next(middle)
            if found is None:
                high = middle
            else:
                low = found
        return low

    async def since(self, first: int, last: int, arrived: float) -> int:
        """The first manifest that may hold something that arrived at `arrived` (seconds) or later. The chain's newest never falls."""
        low, high = first, last
        while low < high:
            middle = (low + high) // 2
            found = await self.read(middle)
            if found is None:
                raise Misconfigured(
                    "the chain of manifests has a hole",
                    where=f"{self._owner.place}{manifest_key('', middle)}",
                    why=f"manifests {first} and {last} are there, {middle} is not: somebody deleted it",
                    run="restore it, or give the sink a fresh prefix",
                )
            if found.newest_arrived < arrived:
                low = middle + 1
            else:
                high = middle
        return low

    async def read(self, n: int) -> Manifest | None:
        """The manifest of this number, None where there is none."""
        body = await self.fetch(n)
        return None if body is None else self.decode(n, body)

    async def fetch(self, n: int) -> bytes | None:
        try:
            return b"".join([chunk async for chunk in self._objects.get(manifest_key(self._owner.prefix, n))])
        except Missing:
            return None

    def decode(self, n: int, body: bytes) -> Manifest:
        where = f"{self._owner.place}{manifest_key('', n)}"
        found = decode_manifest(body, where)
        if (found.pipeline, found.sink) != (self._owner.pipeline, self._owner.sink):
            raise Misconfigured(
                "this prefix belongs to another sink",
                where=where,
                why=f"it was written by the sink {found.sink!r} of the pipeline {found.pipeline!r}, this is {self._owner.sink!r} "
                f"of {self._owner.pipeline!r}",
                run="give each sink a prefix of its own in CONFIG, then dsqlcdc run CONFIG",
            )
        return found

    async def put(self, n: int, body: bytes) -> Put:
        """Put a manifest, unless there is one of this number."""
        return await self._objects.put(
            manifest_key(self._owner.prefix, n),
            body,
            if_none_match=True,
            sha256=hashlib.sha256(body).digest(),
            content_type="application/json",
        )

    async def taken(self, n: int, ours: bytes, epoch: int, writer: str) -> tuple[Manifest, Link] | None:
        """Who has the number n, after a put of `ours` was refused. None: we do, the answer to our own put was lost.

        Otherwise an older writer's manifest, or one that we began and gave up: to be voided. Raises Held where its writer is newer than
        we are, or of our age: then somebody else is alive, and we are the one to stop.
        """
        body = await self.fetch(n)
        if body is None:
            raise Unavailable("cannot read a manifest", where=f"{self._owner.place}{manifest_key('', n)}", why="it was there a moment ago")
        if body == ours:
            return None
        found = self.decode(n, body)
        if found.epoch > epoch or (found.epoch == epoch and found.writer != writer):
            raise self.held(f"manifest {n} is by {found.writer} with epoch {found.epoch}; we are {writer} with epoch {epoch}")
        return found, Link(manifest_key(self._owner.prefix, n), digest(body))

    async def verify_conditions(self, n: int, body: bytes) -> None:
        """Put an existing manifest's own bytes once more: a store that takes them ignores If-None-Match, and would lose and repeat rows."""
        if await self.put(n, body) is Put.CREATED:
            raise Misconfigured(
                "the store ignores If-None-Match",
                where=self._owner.place,
                why="it let an existing object be overwritten; without conditional writes nothing keeps two writers apart",
                run="use Amazon S3, or a store that answers 412 to such a put",
            )

    async def probe(self) -> None:
        """May we list, read and put? Reads the last manifest, or one that is not there, and puts what can only be refused."""
        last = await self.last(0)
        body = await self.fetch(last or 1)
        if last is not None and body is not None:
            self.decode(last, body)
        key = f"{self._owner.prefix}probe"
        if await self._objects.try_put(key):
            raise Misconfigured(
                "the store ignores If-Match",
                where=f"{self._owner.place}probe",
                why="it took an object whose condition did not hold, and so left an empty one there; nothing keeps two writers apart",
                run="use Amazon S3, or a store that knows conditional writes",
            )

    def held(self, why: str) -> Held:
        return Held(
            "another writer has taken over this sink",
            where=self._owner.place,
            why=why,
            run="let one runner have this pipeline and sink, then dsqlcdc run CONFIG",
        )

    async def _next(self, after: int) -> int | None:
        numbers, _ = await self._page(after)
        return numbers[0] if numbers else None

    async def _page(self, after: int) -> tuple[list[int], bool]:
        prefix = self._owner.prefix
        keys = await self._objects.list(f"{prefix}manifests/", manifest_key(prefix, after))
        numbers = [n for n in (manifest_number(prefix, key) for key in keys) if n is not None and n > after]
        return numbers, len(keys) >= PAGE
