"""A lake in memory as an auditor reads it."""

from __future__ import annotations

import hashlib
from typing import Any

from dsqlcdc_s3.audit.findings import Asked, Report
from dsqlcdc_s3.audit.lake import Hold, Opened, Page, Version
from dsqlcdc_s3.audit.verify import Verification
from dsqlcdc_s3.chain import Owner
from dsqlcdc_s3.objects import Missing
from dsqlcdc_s3.signing import PublicKey

from .lake import Bucket, FakeObjects

OWNER = Owner("orders-cdc", "lake", "s3://lake/cdc/", "cdc/")


class FakeLake(FakeObjects):
    """Each name has one version."""

    async def versions(self, prefix: str, after: tuple[str, str]) -> Page:
        keys = sorted(key for key in self.bucket.objects if key.startswith(prefix) and key > after[0])
        some = [Version(key, "null", True, False, self._stamp(key)) for key in keys[:100]]
        return Page(some, (some[-1].key, "null") if len(keys) > 100 else None)

    async def hold(self, key: str) -> Hold:
        if key not in self.bucket.objects:
            raise Missing(key)
        return Hold("", 0.0, 0.0)

    async def open(self, key: str) -> Opened:
        if key not in self.bucket.objects:
            raise Missing(key)
        return Opened(self._stamp(key), self.get(key))

    def _stamp(self, key: str) -> str:
        return hashlib.md5(self.bucket.objects[key]).hexdigest()


async def audit(bucket: Bucket, keys: list[PublicKey] | None = None, *, signs: bool = False, **asked: Any) -> Report:
    """The verdict on what is in the bucket."""
    lake = FakeLake(bucket)
    asking = Asked(**{"deep": True, **asked})
    return await Verification(lake, OWNER, lake, "cdc/", keys or [], asking, lambda told: None, signs=signs).run()


def troubles(report: Report) -> list[tuple[str, str, str, str]]:
    """What is altered, missing or a gap."""
    return [(one.kind, one.code, one.where, one.what) for one in report.findings if one.kind != "note"]
