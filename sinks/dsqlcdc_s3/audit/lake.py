"""The lake as an auditor reads it: every version of every name, bytes, and what holds an object fast."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from dsqlcdc.aws import error_code, errors, translate
from dsqlcdc_s3.aws_objects import AwsObjects
from dsqlcdc_s3.objects import Missing, Objects


class Version(msgspec.Struct, frozen=True):
    """One version of a name, or a delete marker. `latest`: what a plain read answers with. `stamp`: what the store says of its bytes, which no
    writer can choose: another one where they are others."""

    key: str
    id: str
    latest: bool
    deleted: bool
    stamp: str = ""


class Opened(msgspec.Struct, frozen=True):
    """An object that is being read. Close `chunks` when leaving early."""

    stamp: str
    chunks: AsyncGenerator[bytes, None]


def stamp_of(version: str, answer: Mapping[str, Any], size: str) -> str:
    """The stamp: version, ETag, size, and when it was last written, in whole seconds, which is what a read knows."""
    return f"{version} {answer.get('ETag', '')} {answer.get(size, '')} {int(answer['LastModified'].timestamp())}"


class Hold(msgspec.Struct, frozen=True):
    """Retention: GOVERNANCE, COMPLIANCE or "", until when and since when (seconds since the epoch)."""

    mode: str
    until: float
    written: float


class Page(msgspec.Struct, frozen=True):
    """Versions in order of their names. `after`: (name, version) to go on behind, None at the end."""

    versions: Sequence[Version]
    after: tuple[str, str] | None


class Lake(Objects, Protocol):
    """A bucket, read. Raises as Objects does."""

    async def versions(self, prefix: str, after: tuple[str, str]) -> Page:
        """Versions and delete markers of names that begin with `prefix`, behind (name, version)."""
        ...

    async def hold(self, key: str) -> Hold:
        """What holds an object. Raises Missing."""
        ...

    async def open(self, key: str) -> Opened:
        """Begin to read an object. Raises Missing, and as `get` does, while it is read too."""
        ...


class AwsLake(AwsObjects):
    """A Lake over an aiobotocore client."""

    async def versions(self, prefix: str, after: tuple[str, str]) -> Page:
        more = {"KeyMarker": after[0]} if after[0] else {}
        if after[1]:
            more["VersionIdMarker"] = after[1]
        bucket = self._options.bucket
        try:
            answer: dict[str, Any] = await self._client.list_object_versions(Bucket=bucket, Prefix=prefix, **more, **self._owner)
        except errors() as error:
            raise translate(error, doing="list the versions of objects", where=f"s3://{bucket}/{prefix}") from error
        found = [_version(one) for one in answer.get("Versions", ())]
        found += [Version(one["Key"], one.get("VersionId", "null"), one["IsLatest"], True) for one in answer.get("DeleteMarkers", ())]
        next_after = (answer.get("NextKeyMarker", ""), answer.get("NextVersionIdMarker", "")) if answer.get("IsTruncated") else None
        return Page(sorted(found, key=lambda one: one.key), next_after)

    async def hold(self, key: str) -> Hold:
        bucket = self._options.bucket
        try:
            answer: dict[str, Any] = await self._client.head_object(Bucket=bucket, Key=key, **self._owner)
        except errors() as error:
            if error_code(error) in ("404", "NoSuchKey", "NotFound"):
                raise Missing(key) from None
            raise translate(error, doing="look at an object", where=f"s3://{bucket}/{key}") from error
        until = answer.get("ObjectLockRetainUntilDate")
        return Hold(answer.get("ObjectLockMode", ""), until.timestamp() if until else 0.0, answer["LastModified"].timestamp())

    async def open(self, key: str) -> Opened:
        answer = await self._answer(key)
        return Opened(stamp_of(answer.get("VersionId", "null"), answer, "ContentLength"), self._chunks(answer, key))


def _version(one: dict[str, Any]) -> Version:
    id = one.get("VersionId", "null")
    return Version(one["Key"], id, one["IsLatest"], False, stamp_of(id, one, "Size"))


async def walk(lake: Lake, prefix: str) -> AsyncGenerator[list[Version], None]:
    """All versions of one name after another."""
    after: tuple[str, str] | None = ("", "")
    group: list[Version] = []
    while after is not None:
        page = await lake.versions(prefix, after)
        for version in page.versions:
            if group and group[0].key != version.key:
                yield group
                group = []
            group.append(version)
        after = page.after
    if group:
        yield group
