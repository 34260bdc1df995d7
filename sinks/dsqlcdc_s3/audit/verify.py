"""One verification: names, chain, what stands beside it, bytes, ids, and what an anchor outside of the lake says."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from dsqlcdc.contract import Misconfigured
from dsqlcdc_s3.audit import anchor
from dsqlcdc_s3.audit.beside import Outside
from dsqlcdc_s3.audit.bodies import Bodies, Job
from dsqlcdc_s3.audit.coverage import Coverage
from dsqlcdc_s3.audit.findings import Asked, Report, Told
from dsqlcdc_s3.audit.ids import Ids, Repeat
from dsqlcdc_s3.audit.inventory import Inventory
from dsqlcdc_s3.audit.lake import Lake
from dsqlcdc_s3.audit.names import Names
from dsqlcdc_s3.audit.progress import Progress
from dsqlcdc_s3.audit.trust import Trust
from dsqlcdc_s3.audit.walk import Walk, manifests, whole
from dsqlcdc_s3.chain import Owner
from dsqlcdc_s3.digest import digest_key, parse
from dsqlcdc_s3.manifest import decode_manifest
from dsqlcdc_s3.paths import manifest_key
from dsqlcdc_s3.signing import PublicKey

Tell = Callable[[Told], None]

UNPROVED = (
    "That DSQL and Kinesis delivered everything: their records have no numbers without holes. What is proved is that nothing is missing of "
    "what was read, and that nothing of it was changed.",
    "That the rows are what was committed: a process with the writer's rights could have written others.",
)


class Verification:
    """Made for one run. `store` and `prefix`: where digests are; `signs`: they are to be signed."""

    def __init__(
        self,
        lake: Lake,
        owner: Owner,
        store: Lake,
        prefix: str,
        keys: list[PublicKey],
        asked: Asked,
        tell: Tell,
        *,
        signs: bool,
    ) -> None:
        self._lake, self._owner, self._store, self._prefix, self._asked, self._tell = lake, owner, store, prefix, asked, tell
        self.report = Report(pipeline=owner.pipeline, sink=owner.sink, place=owner.place, deep=asked.deep)
        self._coverage = Coverage(lambda code, where, what: self.report.add("missing", code, where, what))
        self._trust = Trust(keys, self.report, expected=signs)
        self._partial = bool(asked.since or asked.until)
        self._judged = self._of = 0

    async def run(self) -> Report:
        """Judge everything. Raises Unavailable, and Misconfigured where the lake cannot be read at all, or the disk is full.

        However it ends but with a report, cancelled too, what was judged by then is noted (see Progress), and nothing else is left on disk.
        """
        progress = self._open()
        try:
            await self._run(progress)
            progress.done()
        finally:
            progress.close()
        return self.report

    async def _run(self, progress: Progress) -> None:
        report, asked, lake, owner = self.report, self._asked, self._lake, self._owner
        with ExitStack() as stack:
            inventory, beside = stack.enter_context(Inventory()), stack.enter_context(Inventory())
            names = Names(lake, owner.prefix, report, inventory, beside)
            self._say("names", 0, 0)
            await names.look(progress)
            await names.digests(self._store, self._prefix)
            self._of = names.data
            if progress.before:
                self._say(
                    "names",
                    self._of,
                    self._of,
                    f"Going on where it was stopped: {progress.seen} objects are as they were found to be then.",
                )
            walk = Walk(owner, report, self._coverage, self._trust, inventory, beside)
            await self._range(walk, names)
            lambda_ = await self._chain(walk)
            outside = Outside(lake, owner, report, beside, inventory, partial=self._partial)
            bodies = stack.enter_context(Bodies(lake, report, inventory, progress, asked.parallel))
            await bodies.judge(outside.jobs(), self._done)
            outside.end()
            if report.first:
                await bodies.judge(self._jobs(walk, names.last), self._done)
            await asyncio.to_thread(names.judge, partial=self._partial)
            if progress.ids is not None:
                self._say("ids", 0, report.rows)
                await asyncio.to_thread(self._repeats, progress.ids, progress)
            self._end(names.last, lambda_=lambda_ or outside.lambda_)

    def _open(self) -> Progress:
        """Where it is noted how far this came: the file that was asked for; else, where that can be had, one in the directory `keep`."""
        asked, owner = self._asked, self._owner
        about = (owner.place, owner.pipeline, owner.sink, self._prefix)
        if not asked.resume and not asked.keep:
            return Progress(None, about, deep=asked.deep)
        name = hashlib.sha256("\n".join(about).encode()).hexdigest()[:32]
        path = Path(asked.resume) if asked.resume else Path(asked.keep) / f"{name}{'-deep' if asked.deep else ''}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            return Progress(path, about, deep=asked.deep, fresh=asked.fresh)
        except OSError as error:
            taken = isinstance(error, BlockingIOError)
            why = "another verification of this lake is at it" if taken else (error.strerror or str(error)).lower()
            if asked.resume:
                raise Misconfigured(
                    "cannot note how far it came",
                    where=str(path),
                    why=why,
                    run="dsqlcdc audit verify CONFIG --resume FILE, elsewhere",
                    code="E387",
                ) from error
            self._say("names", 0, 0, f"It is not noted how far this comes, and it cannot be gone on with: {path}: {why}.")
            return Progress(None, about, deep=asked.deep)

    async def _range(self, walk: Walk, names: Names) -> None:
        """The manifests that are asked for: whole periods, from the seal before `since` to that behind `until`."""
        report, owner = self.report, self._owner
        report.first, report.last = names.first, names.last
        if names.first > 1:
            report.add("missing", "manifest", manifest_key(owner.prefix, 1), f"the chain begins with manifest {names.first}")
        if not self._partial or not names.last:
            return
        since, until = self._asked.since, self._asked.until
        before = 0
        async for n, at in self._seals(names.last):
            if until and at >= until:
                report.last = n
            if since and at <= since:
                before = n
                break
        if not before:
            return
        body = await whole(self._lake, manifest_key(owner.prefix, before))
        if body is not None:
            key = digest_key(self._prefix, before)
            stored = await whole(self._store, key)
            known = parse(stored, key) if stored is not None else None
            walk.begin_behind(before, body, decode_manifest(body, manifest_key("", before)), known, key)
            report.first = before + 1

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

    async def _chain(self, walk: Walk) -> bool:
        """Walk it. True where a job has sealed it: batches are written in Lambda."""
        report = self.report
        lambda_ = False
        if not report.first:
            return False
        async for n, body in manifests(self._lake, self._owner.prefix, report.first, report.last):
            self._say("chain", n - report.first, report.last - report.first + 1)
            if body is None:
                walk.missing(n)
                continue
            manifest = walk.take(n, body)
            if manifest is None:
                continue
            report.since, report.until = report.since or manifest.created_at, manifest.created_at
            if manifest.seal is not None:
                lambda_ = lambda_ or manifest.seal.by == "job"
                await walk.seal(n, manifest, self._store, self._prefix)
        report.sealed = walk.sealed
        return lambda_

    async def _jobs(self, walk: Walk, end: int) -> AsyncGenerator[Job, None]:
        """The objects of the chain, which ends at manifest `end`."""
        report = self.report
        async for n, body in manifests(self._lake, self._owner.prefix, report.first, report.last):
            try:
                manifest = decode_manifest(body, "") if body is not None else None
            except Misconfigured:  # the walk has said so
                manifest = None
            if manifest is not None:
                open_end = n == end and n > walk.sealed
                for entry in manifest.parts:
                    yield Job(entry, n, manifest.lock, open_end, manifest.created_at)

    def _done(self) -> None:
        self._judged += 1
        self._say("objects", self._judged, self._of)

    def _repeats(self, ids: Ids, progress: Progress) -> None:
        """Which ids stand more than once, and may they?"""
        report = self.report
        begun = len(report.findings)
        for repeat in ids.repeats(progress.span):
            if not repeat.legal:
                report.add("altered", "repeated", repeat.two.object, _where(repeat))
            elif repeat.compacted:
                report.copies += 1
            else:
                report.sent_again += 1
        report.in_order(begun)
        if report.sent_again:
            what = f"{report.sent_again} rows stand once more, from another record of the stream: DSQL sent their changes again"
            report.add("note", "repeated", report.place, f"{what}, after `lateness` or to Lambda; readers take one row for each id")
        if report.copies:
            what = f"{report.copies} rows stand in a compacted object, and once more: a compaction was stopped, or runs"
            report.add("note", "compacting", report.place, f"{what} (`dsqlcdc audit compact` finishes it)")

    def _end(self, last: int, *, lambda_: bool) -> None:
        """What is left to be said when everything has been seen."""
        report, coverage, asked = self.report, self._coverage, self._asked
        apart_store = self._store is not self._lake
        anchor.compare(report, self._owner, coverage, asked.anchor, last, apart_store=apart_store, partial=self._partial)
        if asked.anchor is not None:
            coverage.know(asked.anchor.gaps)
        coverage.end(report.sealed)
        report.shards, report.read, report.settled = len(coverage.shards), coverage.read, coverage.settled
        report.open, report.left = coverage.open, coverage.left
        for gap in coverage.gaps.values():
            acked = f"acknowledged: {gap['acked']}" if gap.get("acked") else "not acknowledged"
            what = f"gap {gap.get('id')}: {gap.get('detail')} ({acked})"
            report.add("gap", str(gap.get("kind", "")), str(gap.get("shard") or "all shards"), what)
        self._trust.end()
        if report.last > report.sealed:
            what = f"{report.last - report.sealed} manifests since the last digest are chained to each other, and sealed by no digest yet"
            report.add("note", "unsealed", self._owner.place, what)
        if lambda_:
            report.unproved.append(
                "Of batches written in Lambda: that every record of a shard was read. No process sees a shard whole there; "
                "what was written is proved."
            )
        if report.unmade:
            report.unproved.append(
                f"Of {report.unmade} rows without a key: that they have the ids of what was received. Such an id is made of the image as it "
                "came, and a row model, `mask`, `exclude` or line ends in it made another row of it. Their bytes are as they were written, and "
                "their ids stand once."
            )
        if not report.deep:
            report.unproved.append(
                "That each row has the id of its key and version, stands in its place, and once: --deep looks at every row."
            )
        report.unproved += UNPROVED

    def _say(self, step: str, done: int, of: int, note: str = "") -> None:
        self._tell(Told(step, done, of, self.report.bytes, note))


def _where(repeat: Repeat) -> str:
    def place(part: str, object: str) -> str:
        return object if part == object else f"{object}, as a row of its part {part}"

    one, two = repeat.one, repeat.two
    if one == two:
        return f"the id {repeat.id} stands in it twice"
    of = "" if two.part == two.object else f", as a row of its part {two.part}"
    what = "the very record" if repeat.same else "a copy of it"
    return f"the id {repeat.id} stands in it{of}, and {what} in {place(one.part, one.object)}"
