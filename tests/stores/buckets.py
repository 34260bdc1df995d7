"""A bucket in memory that several processes use at once, each of which may die at any call, and what must be true of its letters."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

from botocore.exceptions import ClientError, ReadTimeoutError


class Killed(BaseException):
    """The process is gone."""


class Bucket:
    """Objects with their tags, as S3 keeps them. `blind` to a condition ("put", "delete") it is the store of a control.

    `broken`: the laws that were broken. A letter's bytes are always somewhere; an attempt that was stored is never lost; what was removed
    does not come back but by `put`.
    """

    def __init__(self, blind: str = "") -> None:
        self.objects: dict[str, bytes] = {}
        self.blind = blind
        self.tries: dict[str, set[float]] = {}
        self.broken: list[str] = []

    def put(self, key: str, body: bytes, if_match: str | None, if_none_match: str | None) -> None:
        there = self.objects.get(key)
        if self.blind != "put" or if_none_match:
            if if_none_match and there is not None:
                raise _error("PreconditionFailed", 412)
            if if_match and there is None:
                raise _error("NoSuchKey", 404)
            if if_match and there is not None and if_match != _tag(there):
                raise _error("PreconditionFailed", 412)
        if there is None and not if_none_match:
            self.broken.append(f"{key} came back")
        self.objects[key] = body
        if not _aside(key):
            self.tries.setdefault(key, set()).update(_tries(body))
            if lost := self.tries[key] - _tries(body):
                self.broken.append(f"attempts {sorted(lost)} of {key} were written over")

    def delete(self, key: str, if_match: str | None) -> None:
        there = self.objects.get(key)
        if there is None:
            return
        if if_match != _tag(there) and self.blind != "delete":
            raise _error("PreconditionFailed", 412)
        del self.objects[key]
        copies = [self.objects[f"{folder}/{key}"] for folder in ("replayed", "discarded") if f"{folder}/{key}" in self.objects]
        if not copies:
            self.broken.append(f"{key} is lost")
        elif lost := self.tries.pop(key, set()) - {at for copy in copies for at in _tries(copy)}:
            self.broken.append(f"attempts {sorted(lost)} of {key} are lost")


class Process:
    """One process's client: every call may be slow, unanswered, refused for the moment; at the call number `dies` it is killed, before
    or after the call took effect."""

    def __init__(self, bucket: Bucket, rng: random.Random, trouble: float = 0.0, dies: int = -1) -> None:
        self.bucket, self.rng, self.trouble, self.dies = bucket, rng, trouble, dies

    @asynccontextmanager
    async def opened(self, *_: object) -> AsyncIterator[Self]:
        yield self

    async def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        body = await self._call(lambda: self.bucket.objects.get(Key))
        if body is None:
            raise _error("NoSuchKey", 404)
        return {"Body": _Body(body), "ETag": _tag(body)}

    async def put_object(
        self, *, Bucket: str, Key: str, Body: bytes, ContentType: str, IfMatch: str | None = None, IfNoneMatch: str | None = None
    ) -> None:
        if self.rng.random() < self.trouble:
            raise _error("ConditionalRequestConflict", 409)
        await self._call(lambda: self.bucket.put(Key, Body, IfMatch, IfNoneMatch))

    async def delete_object(self, *, Bucket: str, Key: str, IfMatch: str | None = None) -> None:
        await self._call(lambda: self.bucket.delete(Key, IfMatch))

    async def _call(self, work: Any) -> Any:
        self.dies -= 1
        for _ in range(self.rng.randrange(4)):
            await asyncio.sleep(0)
        if self.dies == 0 and self.rng.random() < 0.5:
            raise Killed
        if self.rng.random() < self.trouble:
            raise ReadTimeoutError(endpoint_url="s3")
        answer = work()
        if self.dies == 0:
            raise Killed
        if self.rng.random() < self.trouble:
            raise ReadTimeoutError(endpoint_url="s3")  # done, and nobody was told
        for _ in range(self.rng.randrange(4)):
            await asyncio.sleep(0)
        return answer


class _Body:
    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def read(self) -> bytes:
        return self._data


def _tag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


def _tries(body: bytes) -> set[float]:
    return {one["at"] for one in json.loads(gzip.decompress(body))["error"].get("tries", ())}


def _aside(key: str) -> bool:
    return key.startswith(("replayed/", "discarded/"))


def _error(code: str, status: int) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "x")  # type: ignore[typeddict-item]
