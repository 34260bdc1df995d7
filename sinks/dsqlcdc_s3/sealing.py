"""Digests, written: what a seal tells, and one digest for every seal of the chain, in order, whoever finishes it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any

import msgspec

from dsqlcdc.contract import Misconfigured, Progress, Resume, Unavailable
from dsqlcdc_s3.chain import Chain, Owner
from dsqlcdc_s3.delivered import is_void
from dsqlcdc_s3.digest import Previous, Stored, body_of, compose, digest_key, message, parse, tree_of
from dsqlcdc_s3.lanes import Lanes
from dsqlcdc_s3.manifest import Link, Manifest, Seal, ShardState, digest
from dsqlcdc_s3.objects import PAGE, Missing, Objects, Put, Store
from dsqlcdc_s3.paths import manifest_key
from dsqlcdc_s3.probing import Trial, try_signing, try_store
from dsqlcdc_s3.replay import Manifest as Replay
from dsqlcdc_s3.signing import Signer

log = logging.getLogger("dsqlcdc.s3")

_decode_replay = msgspec.json.Decoder(Replay).decode


@asynccontextmanager
async def same(objects: Objects) -> AsyncGenerator[Objects, None]:
    """The lake's own bucket, as a Store."""
    yield objects


def states(progress: Sequence[Progress], lineage: Mapping[str, Sequence[str]]) -> list[ShardState]:
    """Where every shard stands that is listed or was read."""
    by_shard = {one.shard: one for one in progress}
    found: list[ShardState] = []
    for shard in sorted({*by_shard, *lineage}):
        one, parents = by_shard.get(shard), tuple(lineage.get(shard, ()))
        if one is None:
            found.append(ShardState(shard, parents))
        else:
            found.append(
                ShardState(shard, parents, one.start, one.sequence, one.frontier, one.first, one.open, one.ended, round(one.arrived, 3))
            )
    return found


class Sealer:
    """The digests of one chain. `sealed` is the number of its last seal, 0 for none; the writer of the chain says what it wrote. `at`:
    when the period ended (seconds since the epoch) of the newest digest that was seen or written, 0 for none.

    Methods raise what Objects, Chain and Signer raise. A digest that could not be written is written by the next `finish`, of whatever process.
    """

    def __init__(self, objects: Objects, chain: Chain, owner: Owner, store: Store, prefix: str, signer: Signer, parallel: int) -> None:
        self._objects, self._chain, self._owner = objects, chain, owner
        self._store, self._prefix, self._signer = store, prefix, signer
        self._lanes = Lanes(parallel)
        self._finishing = asyncio.Lock()
        self._leaves: dict[int, str] = {}
        self._beside: set[str] | None = None
        self._told: Sequence[Mapping[str, Any]] = ()
        self._done: int | None = None
        self.sealed = 0
        self.at = 0.0

    def trials(self) -> Sequence[Trial]:
        """What the doctor tries of digests: to sign one, and where they go."""
        return partial(try_signing, self._signer), partial(try_store, self._store, self._prefix)

    def begin(self, last: Manifest | None) -> None:
        """The chain ends with this manifest."""
        self.sealed = 0 if last is None else last.n if last.seal is not None else last.sealed
        self._leaves, self._beside, self._done = {}, None, None

    def passed(self, manifest: Manifest, link: Link) -> None:
        """This manifest is in the chain, and decided."""
        self._leaves[manifest.n] = link.sha256
        if manifest.seal is not None:
            self.sealed = manifest.n
            if self._beside is not None:
                self._beside.update(beside.key for beside in manifest.seal.beside)

    async def tell(self, resume: Resume, closing: bool) -> tuple[Callable[[Sequence[Progress]], Seal], list[str]]:
        """What a seal says, but for the positions: those are the moment's in which it is claimed. And objects of replays that are void."""
        beside, void = await self.replays()
        try:
            self._told = await resume.gaps()
        except Unavailable as fault:  # the next digest will say
            log.warning("the gaps of the period could not be asked for (%s): the digest names those known before", fault)
        gaps = list(self._told)
        return lambda progress: Seal("daemon", closing, states(progress, resume.lineage()), gaps, dict(resume.dead()), beside), void

    async def replays(self) -> tuple[list[Link], list[str]]:
        """The manifests of compactions, and of replays whose object is there for ever, that no seal has named yet; and void objects."""
        keys: list[str] = []
        start, after = f"{self._owner.prefix}manifests/", f"{self._owner.prefix}manifests/b"
        while True:  # compact-… and replay-… are all that sorts behind the chain and apart/
            page = await self._objects.list(start, after)
            keys += page
            if len(page) < PAGE:
                break
            after = page[-1]
        if not keys:
            return [], []
        if self._beside is None:
            self._beside = await self.named(self.sealed)
        known, found, void = self._beside, list[Link](), list[str]()

        async def one(key: str) -> None:
            body = b"".join([chunk async for chunk in self._objects.get(key)])
            try:
                if "/replay-" in key and await is_void(self._objects, part := _decode_replay(body).part.key):
                    void.append(part)
            except Missing:  # begun and not finished: `dead replay` may take it up again
                return
            found.append(Link(key, digest(body)))

        await self._lanes.each([key for key in keys if key not in known], one)
        return sorted(found, key=lambda link: link.key), sorted(void)

    async def named(self, seal: int, back: Callable[[Manifest], bool] = lambda _: True) -> set[str]:
        """The keys beside the chain that seals name, from this one back, as long as `back` says."""
        named: set[str] = set()
        while seal:
            manifest = await self._chain.read(seal)
            if manifest is None or manifest.seal is None or not back(manifest):
                break
            named.update(beside.key for beside in manifest.seal.beside)
            seal = manifest.sealed
        return named

    async def finish(self) -> list[str]:
        """Write the digests that are missing, oldest first: their keys. A crash before this is made good by the next call."""
        async with self._finishing, self._store() as store:
            if self._done == self.sealed:
                return []
            missing: list[int] = []
            seal, previous = self.sealed, None
            while seal and (previous := await self._previous(store, seal)) is None:
                missing.append(seal)
                manifest = await self._chain.read(seal)
                if manifest is None:
                    raise self._gone(seal)
                seal = manifest.sealed
            for n in reversed(missing):
                previous = await self._write(store, n, previous)
                self._leaves = {known: leaf for known, leaf in self._leaves.items() if known > n}
            self._done = missing[0] if missing else seal
            return [digest_key(self._prefix, n) for n in reversed(missing)]

    async def _previous(self, store: Objects, n: int) -> Previous | None:
        key = digest_key(self._prefix, n)
        if key not in await store.list(f"{self._prefix}digests/", digest_key(self._prefix, n - 1)):
            return None
        try:
            body = b"".join([chunk async for chunk in store.get(key)])
        except Missing:
            return None
        return self._seen(parse(body, key), key)

    def _seen(self, stored: Stored, key: str) -> Previous:
        self.at = max(self.at, datetime.fromisoformat(stored.digest.sealed_at).timestamp())
        return stored.previous(key)

    async def _write(self, store: Objects, n: int, previous: Previous | None) -> Previous:
        body = await self._chain.fetch(n)
        if body is None:
            raise self._gone(n)
        seal = self._chain.decode(n, body)
        link, first = Link(manifest_key(self._owner.prefix, n), digest(body)), seal.sealed + 1
        leaves = await self._hashes(range(first, n)) + [link.sha256]
        line = compose(seal, link, first, tree_of(leaves), previous, await self._signer.signing())
        whole = body_of(line, await self._signer.sign(message(line)))
        key = digest_key(self._prefix, n)
        put = await store.put(key, whole, if_none_match=True, sha256=hashlib.sha256(whole).digest(), content_type="application/json")
        if put is Put.CREATED:
            log.info("digest %s: manifests %d to %d", key, first, n)
            return self._seen(parse(whole, key), key)
        found = await self._previous(store, n)  # ours whose answer was lost, or another's: the same but for the signature
        if found is None:
            raise Unavailable("cannot read back a digest", where=key, why="it was there a moment ago")
        return found

    async def _hashes(self, numbers: range) -> list[str]:
        found = {n: self._leaves[n] for n in numbers if n in self._leaves}

        async def one(n: int) -> None:
            body = await self._chain.fetch(n)
            if body is None and n >= (await self._chain.first() or 0):
                raise self._gone(n)
            if body is not None:
                found[n] = digest(body)

        await self._lanes.each([n for n in numbers if n not in found], one)
        return [found[n] for n in numbers if n in found]

    def _gone(self, n: int) -> Misconfigured:
        where, run = f"{self._owner.place}{manifest_key('', n)}", "dsqlcdc audit verify CONFIG"
        return Misconfigured("a manifest is gone", where=where, why="a later one names it: somebody deleted it", run=run, code="E384")
