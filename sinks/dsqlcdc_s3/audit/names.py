"""Every name under the prefix, in all its versions: what is there, is hidden, was overwritten; and at the end what to say of each."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dsqlcdc_s3.audit.findings import Report
from dsqlcdc_s3.audit.inventory import Fact, Inventory
from dsqlcdc_s3.audit.lake import Lake, Version, walk
from dsqlcdc_s3.audit.progress import Progress
from dsqlcdc_s3.paths import manifest_number

_PART = re.compile(r"data/.+/(\d{12,})-(\d{4,})\.[a-z.]+")
_BESIDE = re.compile(r"manifests/(?:(?:replay|compact)-[0-9a-f]{32}|apart/[^/]+/\d{64,}-\d+-\d{4,})\.json")
_DIGEST = re.compile(r"digests/(\d{12,})\.json")


def part_number(prefix: str, key: str) -> int | None:
    """The number of the manifest whose part has this key; None for a key of something else."""
    found = _PART.fullmatch(key.removeprefix(prefix))
    return int(found[1]) if found else None


class Names:
    """The names of a lake. `last`: the number of its last manifest that can be read, 0 for none; `first` of the first. `data`: how many objects
    there are, `newest` the number of the last digest.

    What is met goes into the inventory; manifests outside the chain into `beside`.
    """

    def __init__(self, lake: Lake, prefix: str, report: Report, inventory: Inventory, beside: Inventory) -> None:
        self._lake, self._prefix, self._report, self._inventory, self._beside = lake, prefix, report, inventory, beside
        self.first = self.last = self.data = self.newest = 0

    async def look(self, progress: Progress) -> None:
        """First the data, then the manifests: whatever data is there by then, its manifest is. What was noted of data counts as it is there."""
        async for group in walk(self._lake, f"{self._prefix}data/"):
            self._versions(group)
            key = group[0].key
            self._inventory.add("there", key, part_number(self._prefix, key) or 0)
            self.data += 1
            for version in group:
                if version.latest and not version.deleted:
                    progress.see(key, version.stamp)
        async for group in walk(self._lake, f"{self._prefix}manifests/"):
            self._versions(group)
            key = group[0].key
            n = manifest_number(self._prefix, key)
            if n is not None:
                self.first, self.last = self.first or n, n
            elif _BESIDE.fullmatch(key.removeprefix(self._prefix)):
                self._beside.add("there", key)
            else:
                self._report.add("altered", "foreign", key, "nothing that dsqlcdc writes has this name")

    async def digests(self, lake: Lake, prefix: str) -> None:
        """All digests."""
        async for group in walk(lake, f"{prefix}digests/"):
            self._versions(group)
            key = group[0].key
            name = _DIGEST.fullmatch(key.removeprefix(prefix))
            if name:
                self.newest = int(name[1])
                self._inventory.add("digest", key, self.newest)
            else:
                self._report.add("altered", "foreign", key, "nothing that dsqlcdc writes has this name")

    def _versions(self, group: Sequence[Version]) -> None:
        key, there = group[0].key, [one for one in group if not one.deleted]
        if any(one.latest and one.deleted for one in group):
            left = f"version {there[-1].id} is still there" if there else "no version is left"
            self._inventory.add("hidden", key, text=f"a delete marker hides it; {left}")
        elif len(group) > 1:
            what = f"it has {len(there)} versions" + (", and was deleted in between" if len(there) < len(group) else "")
            what = f"{what}: dsqlcdc writes each name once; the oldest is version {there[-1].id}"
            self._inventory.add("versions", key, text=what)

    def judge(self, *, partial: bool) -> None:
        """Say of every name what is wrong with it: of the manifests that were asked for, and all others unless `partial`."""
        begun = len(self._report.findings)
        for key, facts in self._inventory.names():
            _Name(self._report, key, facts).judge(self.last, partial=partial)
        self._report.in_order(begun)


class _Name:
    """One name, and all that is known of it."""

    def __init__(self, report: Report, key: str, facts: Sequence[Fact]) -> None:
        self._report, self._key = report, key
        self._facts: dict[str, list[Fact]] = {}
        for fact in facts:
            self._facts.setdefault(fact.kind, []).append(fact)
        # a compaction may have deleted it: a marker is its work then, and whether the rows are there is judged of its object
        self._hidden = "hidden" in self._facts and "replaced" not in self._facts

    def judge(self, last: int, *, partial: bool) -> None:
        facts, report, key = self._facts, self._report, self._key
        if self._hidden:
            report.add("missing", "hidden", key, facts["hidden"][0].text)
        for fact in facts.get("versions", ()):
            report.add("altered", "versions", key, fact.text)
        if "digest" in facts:
            self._digest(facts["digest"][0].n, last)
            return
        if "there" in facts and "named" not in facts:
            self._unnamed(facts["there"][0].n, last, partial=partial)
        parts = {fact.text for fact in facts.get("named", ())}
        if not partial and any(fact.text not in parts for fact in facts.get("input", ())):
            report.add(
                "altered", "foreign", key, "a compacted object holds a part of this name that no manifest names: somebody added rows"
            )
        found = {fact.text for fact in facts.get("found", ())}
        for fact in facts.get("missing", ()):
            if fact.text not in found:
                self._missing(fact)
        self._bytes()

    def _digest(self, n: int, last: int) -> None:
        if n > last:
            what = (
                f"the chain ends at manifest {last}, and this is the digest of a later one"
                if last
                else "there are digests, and no manifest"
            )
            self._report.add("missing", "truncated", self._key, what)
        elif self._report.first <= n <= self._report.last and "seal" not in self._facts:
            self._report.add("altered", "foreign", self._key, "no seal has this number")

    def _unnamed(self, n: int, last: int, *, partial: bool) -> None:
        report = self._report
        if n > last:
            report.add("missing", "truncated", self._key, f"the chain ends at manifest {last}, and this is of a later one")
        elif (n and report.first <= n <= report.last) or (not n and not partial):
            report.add("altered", "foreign", self._key, "no manifest names it")

    def _missing(self, fact: Fact) -> None:
        if fact.open:
            self._report.add("note", "undecided", self._key, "it was begun and not finished: nobody has said yet what becomes of it")
        elif not self._hidden:
            by = f" ({fact.n})" if fact.n else ""
            self._report.add("missing", "object", self._key, f"a manifest{by} names it, and it is not there")

    def _bytes(self) -> None:
        report, facts, key = self._report, self._facts, self._key
        empty = facts.get("empty", ())
        if "voided" in facts:
            if "named" in facts and not empty and "missing" not in facts:
                report.add(
                    "altered", "filled", key, "a manifest says that it was given up and is void, and it holds something: filled later"
                )
            return
        for fact in empty:
            if not fact.open:
                what = f"it is empty, its manifest says {fact.text} rows, and none says that it was given up"
                report.add("altered", "emptied", key, what)
            elif fact.n:
                report.add("note", "undecided", key, "it was given up, and the manifest that will say so is not written yet")
        for fact in facts.get("wrong", ()):
            report.add("altered", "bytes", key, fact.text)
