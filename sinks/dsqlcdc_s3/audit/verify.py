"""One verification: names, chain, what stands beside it, bytes, and what an anchor outside of the lake says."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from datetime import datetime
from pathlib import Path

import msgspec

from dsqlcdc.contract import Misconfigured
from dsqlcdc_s3 import apart, replay
from dsqlcdc_s3.account import behind
from dsqlcdc_s3.audit import compacted
from dsqlcdc_s3.audit.bodies import Bodies, Job
from dsqlcdc_s3.audit.coverage import Coverage
from dsqlcdc_s3.audit.findings import Anchor, Asked, Finding, Report, Told
from dsqlcdc_s3.audit.lake import Lake
from dsqlcdc_s3.audit.names import Names
from dsqlcdc_s3.audit.spill import Spill, mark
from dsqlcdc_s3.audit.trust import Trust
from dsqlcdc_s3.audit.walk import Walk, manifests, whole
from dsqlcdc_s3.chain import Owner
from dsqlcdc_s3.digest import digest_key, parse
from dsqlcdc_s3.manifest import Link, decode_manifest, decode_word, digest
from dsqlcdc_s3.paths import manifest_key
from dsqlcdc_s3.signing import PublicKey

Tell = Callable[[Told], None]
_TOGETHER = 64
"""Manifests whose objects are judged together; between them it is noted how far it came."""

UNPROVED = (
    "That DSQL and Kinesis delivered everything: their records have no numbers without holes. What is proved is that nothing is missing of "
    "what was read, and that nothing of it was changed.",
    "That the rows are what was committed: a process with the writer's rights could have written others.",
)


class Verification:
    """Made for one run. `store` and `prefix`: where digests are."""

    def __init__(self, lake: Lake, owner: Owner, store: Lake, prefix: str, keys: list[PublicKey], asked: Asked, tell: Tell, *, signs: bool):
        self._lake, self._owner, self._store, self._prefix, self._asked, self._tell = lake, owner, store, prefix, asked, tell
        self.report = Report(pipeline=owner.pipeline, sink=owner.sink, place=owner.place, deep=asked.deep)
        self._coverage = Coverage(lambda code, where, what: self.report.add("missing", code, where, what))
        self._trust = Trust(keys, self.report, expected=signs)
        self._spill = Spill()
        self._names = Names(lake, owner.prefix, self.report, self._spill)
        self._walk = Walk(owner, self.report, self._coverage, self._trust, self._spill)
        self._apart = False

    async def run(self) -> Report:
        """Judge everything. Raises Unavailable, and Misconfigured where the lake cannot be read at all."""
        report, names = self.report, self._names
        with self._spill:
            self._say("names", 0, 0)
            await names.look()
            digests = await names.digests(self._store, self._prefix)
            first, last = await self._range(names.first, names.last)
            await self._chain(first, last, digests)
            bodies = Bodies(self._lake, report, self._walk.voided, names.hidden, deep=self._asked.deep, parallel=self._asked.parallel)
            await self._beside(bodies)
            await self._contents(bodies, first, last)
            await names.unnamed(first, last, partial=self._partial)
        self._end(last)
        return report

    @property
    def _partial(self) -> bool:
        return bool(self._asked.since or self._asked.until)

    async def _range(self, first: int, last: int) -> tuple[int, int]:
        """The manifests that are asked for: whole periods, from the seal before `since` to that behind `until`."""
        if first > 1:
            self.report.add("missing", "manifest", manifest_key(self._owner.prefix, 1), f"the chain begins with manifest {first}")
        if not self._partial or not last:
            return first, last
        seals = [seal async for seal in self._seals(last)]
        since, until = self._asked.since, self._asked.until
        before = [n for n, at in seals if since and at <= since]
        after = [n for n, at in seals if until and at >= until]
        if before:
            n = max(before)
            body = await whole(self._lake, manifest_key(self._owner.prefix, n))
            stored = await whole(self._store, digest_key(self._prefix, n))
            if body is not None:
                key = digest_key(self._prefix, n)
                known = parse(stored, key) if stored is not None else None
                self._walk.begin_behind(n, body, decode_manifest(body, manifest_key("", n)), known, key)
                first = n + 1
        return first, min(after) if after else last

    async def _seals(self, last: int) -> AsyncGenerator[tuple[int, float], None]:
        """(number, time in seconds) of all seals, the newest first."""
        n = last
        while n:
            body = await whole(self._lake, manifest_key(self._owner.prefix, n))
            if body is None:
                return
            manifest = decode_manifest(body, manifest_key(self._owner.place, n))
            if manifest.seal is not None:
                yield n, datetime.fromisoformat(manifest.created_at).timestamp()
            n = manifest.sealed

    async def _chain(self, first: int, last: int, digests: list[int]) -> None:
        report, walk, prefix = self.report, self._walk, self._owner.prefix
        report.first, report.last = first, last
        if first == 0:
            if digests:
                report.add("missing", "truncated", digest_key(self._prefix, max(digests)), "there are digests, and no manifest")
            return
        async for n, body in manifests(self._lake, prefix, first, last):
            if n % 256 == 0:
                self._say("chain", n - first, last - first + 1)
            if body is None:
                walk.missing(n)
                continue
            manifest = walk.take(n, body)
            if manifest is None:
                continue
            report.since, report.until = report.since or manifest.created_at, manifest.created_at
            if manifest.seal is not None:
                self._apart = self._apart or manifest.seal.by == "job"
                await walk.seal(n, manifest, self._store, self._prefix)
        report.sealed = walk.sealed
        for n in digests:
            key = digest_key(self._prefix, n)
            if n > self._names.last:
                report.add(
                    "missing", "truncated", key, f"the chain ends at manifest {self._names.last}, and this is the digest of a later one"
                )
            elif first <= n <= last and n not in walk.seals:
                report.add("altered", "foreign", key, "no seal has this number")

    async def _sealed_links(self, first: int) -> AsyncGenerator[Link, None]:
        """What the seals that were met name beside the chain."""
        for n in sorted(self._walk.seals):
            body = await whole(self._lake, manifest_key(self._owner.prefix, n)) if n >= first else None
            seal = decode_manifest(body, manifest_key(self._owner.place, n)).seal if body is not None else None
            for link in seal.beside if seal is not None else ():
                yield link

    async def _beside(self, bodies: Bodies) -> None:
        """The manifests that no chain links: those of replays, and of Lambda."""
        report, spill = self.report, self._spill
        lost = set[int]() if self._partial else spill.without("beside-named", "beside-there") - self._names.hidden
        unsealed = set[int]() if self._partial else spill.without("beside-there", "beside-named")

        async def keys() -> AsyncGenerator[str, None]:
            if self._partial:
                async for link in self._sealed_links(self.report.first):
                    yield link.key
            else:
                async for key in self._names.beside_keys():
                    yield key

        async def jobs() -> AsyncGenerator[Job, None]:
            async for key in keys():
                body = await whole(self._lake, key)
                if body is None:
                    continue
                spill.add("beside-there-whole", f"{key}:{digest(body)}")
                for job in self._jobs_beside(key, body, open_end=mark(key) in unsealed):
                    spill.add("data-named", job.entry.key)
                    if job.beside == "apart":
                        spill.add("part-named", compacted.told(job.entry))
                    yield job

        await bodies.judge(jobs(), lambda job: None)
        strangers = spill.without("part-inputs", "part-named")
        if strangers and not self._partial:
            what = f"{len(strangers)} parts in compacted objects are of no manifest: somebody added rows"
            report.add("altered", "foreign", self._owner.place, what)
        changed = len(spill.without("beside-there-whole", "beside-named-whole")) > len(unsealed)
        if lost or changed:
            async for link in self._sealed_links(0):
                body = await whole(self._lake, link.key)
                if mark(link.key) in lost:
                    report.add("missing", "manifest", link.key, "a digest names it, and it is not there")
                elif body is not None and digest(body) != link.sha256:
                    report.add("altered", "manifest", link.key, "it is not the one that a digest names")
        if unsealed:
            what = "written since the last digest, or by batches that came late: no digest covers them yet (`dsqlcdc audit digest`)"
            report.add("note", "unsealed", self._owner.place, f"{len(unsealed)} manifests beside the chain were {what}")

    def _jobs_beside(self, key: str, body: bytes, *, open_end: bool) -> list[Job]:
        """The objects of a manifest beside the chain."""
        owner, report = self._owner, self.report
        try:
            if "/compact-" in key:
                compaction = compacted.parse(body)
                found, pipeline, sink = (
                    [Job(compaction.part, 0, beside="compaction", compaction=compaction)],
                    compaction.pipeline,
                    compaction.sink,
                )
                self._names.put_together(compacted.replaced(compaction))
                for held in compaction.inputs:
                    self._spill.add("part-inputs", compacted.told(held.part))
            elif "/replay-" in key:
                one = msgspec.json.decode(body, type=replay.Manifest)
                found, pipeline, sink = [Job(one.part, 0, beside="replay", open_end=open_end)], one.pipeline, one.sink
            else:
                many = msgspec.json.decode(body, type=apart.Manifest)
                self._apart = True
                found, pipeline, sink = [Job(part, 0, beside="apart", open_end=open_end) for part in many.parts], many.pipeline, many.sink
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            report.add("altered", "manifest", key, f"it cannot be read ({error})")
            return []
        if (pipeline, sink) != (owner.pipeline, owner.sink):
            report.add("altered", "owner", key, f"it is of the sink {sink!r} of the pipeline {pipeline!r}")
        return found

    async def _contents(self, bodies: Bodies, first: int, last: int) -> None:
        """The bytes of every object of the chain, some manifests at a time; how far it came is noted after each."""
        if not first:
            return
        note = Note(self._asked, self.report, first, last)
        start = note.begin()
        for low in range(start, last + 1, _TOGETHER):
            high = min(low + _TOGETHER - 1, last)
            await bodies.judge(self._jobs(low, high, last), lambda job: None)
            note.at(high + 1)
            self._say("objects", high - first + 1, last - first + 1)
        note.done()

    async def _jobs(self, low: int, high: int, last: int) -> AsyncGenerator[Job, None]:
        async for n, body in manifests(self._lake, self._owner.prefix, low, high):
            try:
                manifest = decode_manifest(body, "") if body is not None else None
            except Misconfigured:  # the walk has said so
                manifest = None
            if manifest is not None:
                open_end = n == self._names.last and n > self._walk.sealed
                for entry in manifest.parts:
                    yield Job(entry, n, manifest.lock, open_end, manifest.created_at)

    def _end(self, last: int) -> None:
        """What is left to be said when everything has been seen."""
        report, coverage = self.report, self._coverage
        anchor = self._asked.anchor
        self._anchored(anchor)
        if anchor is not None:
            coverage.know(anchor.gaps)
        coverage.end(report.sealed)
        report.shards, report.read, report.settled = len(coverage.shards), coverage.read, coverage.settled
        report.open, report.left = coverage.open, coverage.left
        for gap in coverage.gaps.values():
            acked = f"acknowledged: {gap['acked']}" if gap.get("acked") else "not acknowledged"
            report.add(
                "gap",
                str(gap.get("kind", "")),
                str(gap.get("shard") or "all shards"),
                f"gap {gap.get('id')}: {gap.get('detail')} ({acked})",
            )
        self._trust.end()
        if last > report.sealed:
            what = "chained to each other, and sealed by no digest yet"
            report.add("note", "unsealed", self._owner.place, f"{last - report.sealed} manifests since the last digest are {what}")
        if self._apart:
            report.unproved.append(
                "Of batches written in Lambda: that every record of a shard was read. No process sees a shard whole there; "
                "what was written is proved."
            )
        report.unproved += UNPROVED

    def _anchored(self, anchor: Anchor | None) -> None:
        """Does the lake reach as far as something outside of it says?"""
        report, owner = self.report, self._owner
        apart_store = self._store is not self._lake
        word = None
        if anchor is not None:
            word = decode_word(anchor.word)
        if word is None or word.place != owner.place:
            if not apart_store:
                report.unproved.append(
                    "That the lake did not lose its end: its last manifests, digests and objects could have been deleted together. The state "
                    "store knows how far it reached, and so do digests in a bucket of their own; neither was asked."
                )
            return
        assert anchor is not None
        if self._names.last < word.last:
            key = manifest_key(owner.prefix, word.last)
            report.add(
                "missing",
                "truncated",
                key,
                f"the state says that there were {word.last} manifests, and the chain ends at {self._names.last}",
            )
        if self._partial or report.first == 0:
            return
        told: dict[str, str] = {}
        for account in word.accounts:
            told |= {read.shard: read.frontier for read in account.reads}
        for shard, position in sorted(anchor.positions.items()):
            state = self._coverage.shards.get(shard)
            reached = told.get(shard, "") or ""
            if state is not None and behind(reached, state.reached):
                reached = state.reached
            if state is not None and behind(reached, position):
                report.add(
                    "missing",
                    "head",
                    shard,
                    f"the state says that it is settled up to {position}, the lake tells up to {reached or 'nothing'}",
                )

    def _say(self, step: str, done: int, of: int) -> None:
        self._tell(Told(step, done, of, self.report.bytes))


class _Noted(msgspec.Struct):
    """How far a verification came, and what it had counted by then."""

    place: str
    first: int
    deep: bool
    next: int
    counts: dict[str, int]
    findings: list[Finding]


_COUNTS = ("objects", "void", "rows", "bytes", "uncompressed_bytes")


class Note:
    """The file that lets a verification go on where it was stopped."""

    def __init__(self, asked: Asked, report: Report, first: int, last: int) -> None:
        self._path, self._report, self._first, self._last, self._deep = asked.resume, report, first, last, asked.deep
        self._before = len(report.findings)
        self._started = {name: getattr(report, name) for name in _COUNTS}

    def begin(self) -> int:
        """The manifest to begin with. What is noted of another lake, or cannot be read, is not gone on with."""
        report = self._report
        try:
            noted = msgspec.json.decode(Path(self._path).read_bytes(), type=_Noted) if self._path else None
        except (OSError, msgspec.DecodeError):
            noted = None
        if (
            noted is None
            or (noted.place, noted.first, noted.deep) != (report.place, self._first, self._deep)
            or noted.next > self._last + 1
        ):
            return self._first
        for name in _COUNTS:
            setattr(report, name, getattr(report, name) + noted.counts.get(name, 0))
        for finding in noted.findings:
            report.add(finding.kind, finding.code, finding.where, finding.what)
        return noted.next

    def at(self, n: int) -> None:
        """Everything before manifest `n` has been judged."""
        if self._path:
            report = self._report
            counts = {name: getattr(report, name) - self._started[name] for name in _COUNTS}
            noted = _Noted(report.place, self._first, self._deep, n, counts, report.findings[self._before :])
            path = Path(self._path)
            beside = path.with_name(f"{path.name}.part")
            beside.write_bytes(msgspec.json.encode(noted))
            beside.replace(path)

    def done(self) -> None:
        if self._path:
            Path(self._path).unlink(missing_ok=True)
