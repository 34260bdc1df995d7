"""The chain, manifest by manifest, and the digest of every seal: does each follow from the one before?"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Iterable

from dsqlcdc.contract import Misconfigured
from dsqlcdc_s3.audit.coverage import Coverage
from dsqlcdc_s3.audit.findings import Report
from dsqlcdc_s3.audit.inventory import Inventory
from dsqlcdc_s3.audit.trust import Trust
from dsqlcdc_s3.chain import Owner
from dsqlcdc_s3.digest import Previous, Stored, compose, digest_key, parse
from dsqlcdc_s3.manifest import Link, Manifest, decode_manifest, digest
from dsqlcdc_s3.merkle import Tree
from dsqlcdc_s3.objects import Missing, Objects
from dsqlcdc_s3.paths import manifest_key

_AHEAD = 32
"""Manifests that are fetched together, at the most."""
_BYTES = 8 * 1024 * 1024
"""Of them together, about."""


async def whole(objects: Objects, key: str) -> bytes | None:
    """An object's bytes; None where there is none."""
    try:
        return b"".join([chunk async for chunk in objects.get(key)])
    except Missing:
        return None


async def ahead(objects: Objects, keys: Iterable[str]) -> AsyncGenerator[tuple[str, bytes | None], None]:
    """The bodies of objects, in order, fetched ahead: as many at a time as are about _BYTES, by the largest so far."""
    left, largest = iter(keys), _BYTES // _AHEAD
    while some := list(itertools.islice(left, max(1, min(_AHEAD, _BYTES // largest)))):
        for key, body in zip(some, await asyncio.gather(*(whole(objects, key) for key in some)), strict=True):
            largest = max(largest, len(body or b""))
            yield key, body


async def manifests(objects: Objects, prefix: str, first: int, last: int) -> AsyncGenerator[tuple[int, bytes | None], None]:
    """The bodies of manifests by number, in order."""
    n = first
    async for _, body in ahead(objects, (manifest_key(prefix, n) for n in range(first, last + 1))):
        yield n, body
        n += 1


class Walk:
    """One walk over a chain. `sealed`: the last seal that was met. What manifests name goes into the inventory; what seals name outside of the
    chain into `beside`."""

    def __init__(self, owner: Owner, report: Report, coverage: Coverage, trust: Trust, inventory: Inventory, beside: Inventory) -> None:
        self._owner, self._report, self._coverage, self._trust = owner, report, coverage, trust
        self._inventory, self._beside = inventory, beside
        self.sealed = 0
        self.last: Manifest | None = None
        self._prev: Link | None = None
        self._known = True
        self._tree: Tree | None = Tree()
        self._previous: Previous | None = None
        self._previous_known = True

    def begin_behind(self, n: int, body: bytes, manifest: Manifest, stored: Stored | None, key: str) -> None:
        """What is judged begins behind this seal: its positions, its hash and its digest are taken as given."""
        self._prev, self.last, self.sealed = Link(manifest_key(self._owner.prefix, n), digest(body)), manifest, n
        self._coverage.begin_at(manifest)
        self._previous = stored.previous(key) if stored is not None else None
        self._previous_known = stored is not None

    def missing(self, n: int) -> None:
        """There is no manifest of this number, and there is one behind it."""
        key = manifest_key(self._owner.prefix, n)
        self._report.add("missing", "manifest", key, "manifests have no holes: it was deleted")
        self._known, self._tree = False, None

    def take(self, n: int, body: bytes) -> Manifest | None:
        """The next manifest, judged; None where it cannot be read."""
        key, report = manifest_key(self._owner.prefix, n), self._report
        try:
            manifest = decode_manifest(body, key)
        except Misconfigured as fault:
            report.add("altered", "manifest", key, fault.why)
            self._known, self._tree = False, None
            return None
        if manifest.encode() != body:
            report.add("altered", "manifest", key, "it is not written as dsqlcdc writes: bytes were changed")
        self._judge(n, key, manifest)
        hashed = digest(body)
        self._prev, self._known, self.last = Link(key, hashed), True, manifest
        report.manifests += 1
        if self._tree is not None:
            self._tree.add(bytes.fromhex(hashed))
        for entry in manifest.parts:
            self._inventory.add("named", entry.key, n, entry.object_sha256)
        for name in manifest.voided:
            self._inventory.add("voided", name)
        self._coverage.take(manifest, key)
        return manifest

    def _judge(self, n: int, key: str, manifest: Manifest) -> None:
        report, last = self._report, self.last

        def wrong(code: str, what: str) -> None:
            report.add("altered", code, key, what)

        if (manifest.pipeline, manifest.sink) != (self._owner.pipeline, self._owner.sink):
            wrong("owner", f"it is of the sink {manifest.sink!r} of the pipeline {manifest.pipeline!r}")
        if manifest.n != n:
            wrong("order", f"it says that it is manifest {manifest.n}: the chain was put in another order")
        if self._known and manifest.prev != self._prev:
            said = manifest.prev.sha256[:16] if manifest.prev is not None else "nothing"
            found = self._prev.sha256[:16] if self._prev is not None else "nothing"
            wrong("chain", f"it names {said} before it, and there is {found}: one of the two was replaced, or the order was changed")
        if last is not None:
            if manifest.epoch < last.epoch or (manifest.epoch == last.epoch and manifest.writer != last.writer):
                wrong("epoch", f"it is by {manifest.writer} with epoch {manifest.epoch}, after {last.writer} with epoch {last.epoch}")
            if manifest.newest_arrived < last.newest_arrived:
                wrong("arrivals", "its newest arrival is older than that of the manifest before it")
        if manifest.sealed != self.sealed:
            wrong("seal", f"it says that manifest {manifest.sealed} was the last seal, and {self.sealed} was")
        if manifest.seal is not None and manifest.parts:
            wrong("seal", "it is a seal, and has parts")
        for number, entry in enumerate(manifest.parts):
            if not entry.key.startswith(f"{self._owner.prefix}data/") or f"/{n:012d}-{number:04d}." not in entry.key:
                wrong("part", f"its part {entry.key} is not one of its own")

    async def seal(self, n: int, manifest: Manifest, store: Objects, prefix: str) -> None:
        """This manifest is a seal: its digest, judged."""
        key, report, prev, tree = digest_key(prefix, n), self._report, self._prev, self._tree
        body = await whole(store, key)
        before, known = self._previous, self._previous_known
        first, self.sealed, self._tree, self._previous, self._previous_known = self.sealed + 1, n, Tree(), None, False
        self._inventory.add("seal", key, n)
        assert prev is not None
        assert manifest.seal is not None
        for beside in manifest.seal.beside:
            self._beside.add("sealed", beside.key, n, beside.sha256)
        if body is None:
            what = f"manifest {n} ends a period, and its digest is not there: it was deleted, or its writer was killed before it could write it"
            report.add("missing", "digest", key, f"{what} (then `dsqlcdc audit digest` writes it)")
            return
        try:
            stored = parse(body, key)
        except Misconfigured as fault:
            report.add("altered", "digest", key, fault.why)
            return
        report.digests += 1
        self._previous, self._previous_known = stored.previous(key), True
        self._trust.judge(key, stored)
        if stored.digest.previous != before and known:
            report.add(
                "altered", "digests", key, "the digest before it is not the one that it names: one of the two was replaced or deleted"
            )
        if tree is None:
            return
        try:
            line = compose(manifest, prev, first, tree, stored.digest.previous, stored.digest.signing)
        except ValueError:
            report.add("altered", "digest", key, f"it does not follow from manifests {first} to {n}, which names a hash that is none")
            return
        if line != stored.line:
            root = (
                ""
                if tree.root().hex() == stored.digest.root
                else f": their Merkle root is {tree.root().hex()[:16]}, it says {stored.digest.root[:16]}"
            )
            report.add("altered", "digest", key, f"it does not follow from manifests {first} to {n}{root}")
