"""The chain, manifest by manifest, and the digest of every seal: does each follow from the one before?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from dsqlcdc.contract import Misconfigured
from dsqlcdc_s3.audit.compacted import told
from dsqlcdc_s3.audit.coverage import Coverage
from dsqlcdc_s3.audit.findings import Report
from dsqlcdc_s3.audit.spill import Spill, mark
from dsqlcdc_s3.audit.trust import Trust
from dsqlcdc_s3.chain import Owner
from dsqlcdc_s3.digest import Previous, Stored, compose, digest_key, parse
from dsqlcdc_s3.manifest import Link, Manifest, decode_manifest, digest
from dsqlcdc_s3.merkle import Tree
from dsqlcdc_s3.objects import Missing, Objects
from dsqlcdc_s3.paths import manifest_key

_AHEAD = 32
"""Manifests that are fetched together."""


async def whole(objects: Objects, key: str) -> bytes | None:
    """An object's bytes; None where there is none."""
    try:
        return b"".join([chunk async for chunk in objects.get(key)])
    except Missing:
        return None


async def manifests(objects: Objects, prefix: str, first: int, last: int) -> AsyncGenerator[tuple[int, bytes | None], None]:
    """The bodies of manifests by number, in order, fetched ahead."""
    for start in range(first, last + 1, _AHEAD):
        numbers = range(start, min(start + _AHEAD, last + 1))
        bodies = await asyncio.gather(*(whole(objects, manifest_key(prefix, n)) for n in numbers))
        for n, body in zip(numbers, bodies, strict=True):
            yield n, body


class Walk:
    """One walk over a chain. `voided`: marks of the parts that manifests say are void; `sealed`: the last seal that was met."""

    def __init__(self, owner: Owner, report: Report, coverage: Coverage, trust: Trust, spill: Spill) -> None:
        self._owner, self._report, self._coverage, self._trust, self._spill = owner, report, coverage, trust, spill
        self.voided: set[int] = set()
        self.sealed = 0
        self.seals: set[int] = set()
        self.writers: dict[int, str] = {}
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
            self._spill.add("data-named", entry.key)
            self._spill.add("part-named", told(entry))
        self.voided.update(map(mark, manifest.voided))
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
            if manifest.epoch < last.epoch or self.writers.get(manifest.epoch, manifest.writer) != manifest.writer:
                wrong("epoch", f"it is by {manifest.writer} with epoch {manifest.epoch}, after {last.writer} with epoch {last.epoch}")
            if manifest.newest_arrived < last.newest_arrived:
                wrong("arrivals", "its newest arrival is older than that of the manifest before it")
        self.writers[manifest.epoch] = manifest.writer
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
        self.seals.add(n)
        assert prev is not None
        assert manifest.seal is not None
        for beside in manifest.seal.beside:
            self._spill.add("beside-named", beside.key)
            self._spill.add("beside-named-whole", f"{beside.key}:{beside.sha256}")
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
        line = compose(manifest, prev, first, tree, stored.digest.previous, stored.digest.signing)
        if line != stored.line:
            root = (
                ""
                if tree.root().hex() == stored.digest.root
                else f": their Merkle root is {tree.root().hex()[:16]}, it says {stored.digest.root[:16]}"
            )
            report.add("altered", "digest", key, f"it does not follow from manifests {first} to {n}{root}")
