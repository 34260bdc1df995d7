"""The manifests that no chain links, those of replays, of compactions and of Lambda: is each the one that a digest names, and what is it of?"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence

import msgspec

from dsqlcdc_s3 import apart, replay
from dsqlcdc_s3.audit import compacted
from dsqlcdc_s3.audit.bodies import Job
from dsqlcdc_s3.audit.findings import Report
from dsqlcdc_s3.audit.inventory import Fact, Inventory
from dsqlcdc_s3.audit.lake import Lake
from dsqlcdc_s3.audit.names import part_number
from dsqlcdc_s3.audit.walk import ahead
from dsqlcdc_s3.chain import Owner
from dsqlcdc_s3.compaction import Compaction
from dsqlcdc_s3.manifest import digest


class Outside:
    """The manifests outside of the chain. `beside`: which there are, and which of them seals name; what they name goes into `inventory`.

    `partial`: only those that the seals that were met name, and compactions that hold parts of the manifests that were asked for, whenever they
    were made. `lambda_`: some are of batches of Lambda.
    """

    def __init__(self, lake: Lake, owner: Owner, report: Report, beside: Inventory, inventory: Inventory, *, partial: bool) -> None:
        self._lake, self._owner, self._report, self._partial = lake, owner, report, partial
        self._beside, self._inventory = beside, inventory
        self._facts: Sequence[Fact] = ()
        self._unsealed = 0
        self.lambda_ = False

    async def jobs(self) -> AsyncGenerator[Job, None]:
        """Their objects."""
        facts: dict[str, Sequence[Fact]] = {}
        async for key, body in ahead(self._lake, self._keys(facts)):
            sealed = [fact.text for fact in facts.pop(key) if fact.kind == "sealed"]
            if body is None:
                continue  # hidden: that is found by its name
            if sealed and digest(body) not in sealed:
                self._report.add("altered", "manifest", key, "it is not the one that a digest names")
            if not sealed and not self._partial:
                self._unsealed += 1
            for job in self._jobs(key, body, sealed=bool(sealed)):
                yield job

    def end(self) -> None:
        """All have been seen."""
        if self._unsealed:
            what = "written since the last digest, or by batches that came late: no digest covers them yet (`dsqlcdc audit digest`)"
            self._report.add("note", "unsealed", self._owner.place, f"{self._unsealed} manifests beside the chain were {what}")

    def _keys(self, met: dict[str, Sequence[Fact]]) -> Iterator[str]:
        for key, facts in self._beside.names():
            kinds = {fact.kind for fact in facts}
            if "there" not in kinds:
                self._report.add("missing", "manifest", key, "a digest names it, and it is not there")
            elif "sealed" in kinds or not self._partial or "/compact-" in key:
                met[key] = facts
                yield key

    def _jobs(self, key: str, body: bytes, *, sealed: bool) -> list[Job]:
        owner, report, inventory = self._owner, self._report, self._inventory
        named: Compaction | replay.Manifest | apart.Manifest
        try:
            if "/compact-" in key:
                named = compaction = compacted.parse(body)
                if self._partial and not sealed and not self._asked_for(compaction):
                    return []
                found = [Job(compaction.part, 0, beside="compaction", compaction=compaction)]
                for name in compacted.replaced(compaction):
                    inventory.add("replaced", name)
                for held in compaction.inputs:
                    inventory.add("input", held.part.key, 0, held.part.object_sha256)
            elif "/replay-" in key:
                named = one = msgspec.json.decode(body, type=replay.Manifest)
                found = [Job(one.part, 0, beside="replay", open_end=not sealed)]
            else:
                named = many = msgspec.json.decode(body, type=apart.Manifest)
                self.lambda_ = True
                found = [Job(part, 0, beside="apart", open_end=not sealed) for part in many.parts]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            report.add("altered", "manifest", key, f"it cannot be read ({error})")
            return []
        if (named.pipeline, named.sink) != (owner.pipeline, owner.sink):
            report.add("altered", "owner", key, f"it is of the sink {named.sink!r} of the pipeline {named.pipeline!r}")
        for job in found:  # only what may be a part of a compacted object is named with its hash
            inventory.add("named", job.entry.key, 0, job.entry.object_sha256 if job.beside == "apart" else "")
        return found

    def _asked_for(self, one: Compaction) -> bool:
        """Some of its parts may be of the manifests that were asked for."""
        report = self._report
        numbers = (part_number(self._owner.prefix, held.part.key) for held in one.inputs)
        return any(n is None or report.first <= n <= report.last for n in numbers)
