"""Every name under the prefix, in all its versions: what is there though nothing names it, what is hidden, what was overwritten."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence

from dsqlcdc_s3.audit.findings import Report
from dsqlcdc_s3.audit.lake import Lake, Version, walk
from dsqlcdc_s3.audit.spill import Spill, mark
from dsqlcdc_s3.paths import manifest_number

_PART = re.compile(r"data/.+/(\d{12,})-(\d{4,})\.[a-z.]+")
_BESIDE = re.compile(r"manifests/(?:(?:replay|compact)-[0-9a-f]{32}|apart/[^/]+/\d{64,}-\d+-\d{4,})\.json")
_DIGEST = re.compile(r"digests/(\d{12,})\.json")


def part_number(prefix: str, key: str) -> int | None:
    """The number of the manifest whose part has this key; None for a key of something else."""
    found = _PART.fullmatch(key.removeprefix(prefix))
    return int(found[1]) if found else None


class Names:
    """The names of a lake. `last`: the number of its last manifest that can be read, 0 for none; `first` of the first."""

    def __init__(self, lake: Lake, prefix: str, report: Report, spill: Spill) -> None:
        self._lake, self._prefix, self._report, self._spill = lake, prefix, report, spill
        self.first = self.last = 0
        self.hidden: set[int] = set()

    async def look(self) -> None:
        """First the data, then the manifests: whatever data is there by then, its manifest is."""
        async for group in walk(self._lake, f"{self._prefix}data/"):
            self._versions(group)
            self._spill.add("data-there", group[0].key)
        async for group in walk(self._lake, f"{self._prefix}manifests/"):
            self._versions(group)
            key = group[0].key
            n = manifest_number(self._prefix, key)
            if n is not None:
                self.first, self.last = self.first or n, n
            elif _BESIDE.fullmatch(key.removeprefix(self._prefix)):
                self._spill.add("beside-there", key)
            else:
                self._report.add("altered", "foreign", key, "nothing that dsqlcdc writes has this name")

    async def digests(self, lake: Lake, prefix: str) -> list[int]:
        """The numbers of all digests."""
        found: list[int] = []
        async for group in walk(lake, f"{prefix}digests/"):
            self._versions(group)
            name = _DIGEST.fullmatch(group[0].key.removeprefix(prefix))
            if name:
                found.append(int(name[1]))
            else:
                self._report.add("altered", "foreign", group[0].key, "nothing that dsqlcdc writes has this name")
        return found

    def put_together(self, keys: Sequence[str]) -> None:
        """A compaction may have deleted these: a marker that hides one is its work. Whether their rows are there is judged of its object."""
        for key in keys:
            if mark(key) in self.hidden:
                self.hidden.discard(mark(key))
                self._report.take_back("hidden", key)

    def _versions(self, group: Sequence[Version]) -> None:
        key, there = group[0].key, [one for one in group if not one.deleted]
        if any(one.latest and one.deleted for one in group):
            self.hidden.add(mark(key))
            left = f"version {there[-1].id} is still there" if there else "no version is left"
            self._report.add("missing", "hidden", key, f"a delete marker hides it; {left}")
        elif len(group) > 1:
            what = f"it has {len(there)} versions" + (", and was deleted in between" if len(there) < len(group) else "")
            self._report.add("altered", "versions", key, f"{what}: dsqlcdc writes each name once; the oldest is version {there[-1].id}")

    async def unnamed(self, first: int, last: int, *, partial: bool) -> None:
        """Report the objects that no manifest names: of manifests from `first` to `last`, and all others unless `partial`."""
        marks = self._spill.without("data-there", "data-named")
        if not marks:
            return
        async for key in self._keys("data/"):
            n = part_number(self._prefix, key)
            if mark(key) not in marks:
                continue
            if n is not None and n > self.last:
                self._report.add("missing", "truncated", key, f"the chain ends at manifest {self.last}, and this is of a later one")
            elif (n is not None and first <= n <= last) or (n is None and not partial):
                self._report.add("altered", "foreign", key, "no manifest names it")

    async def _keys(self, folder: str) -> AsyncGenerator[str, None]:
        async for group in walk(self._lake, f"{self._prefix}{folder}"):
            yield group[0].key

    async def beside_keys(self) -> AsyncGenerator[str, None]:
        """The manifests outside the chain."""
        for folder in ("manifests/apart/", "manifests/compact-", "manifests/replay-"):
            async for key in self._keys(folder):
                if _BESIDE.fullmatch(key.removeprefix(self._prefix)):
                    yield key
