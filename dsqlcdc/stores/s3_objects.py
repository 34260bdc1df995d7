"""Objects in a bucket under one prefix: the four requests a store is made of, and AWS's errors as ours."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

import msgspec

from dsqlcdc.aws import Aws, client, error_code, errors, translate

_TAKEN = 412


class Entry(msgspec.Struct, frozen=True):
    """A name that is there, without the prefix, and when it was written last (seconds, by S3's clock)."""

    name: str
    modified: float


class Listing(msgspec.Struct, frozen=True):
    """The names of one listing in order, and what S3's clock said then (seconds): ages are differences on this one clock."""

    entries: Sequence[Entry]
    now: float


class Objects(Protocol):
    """What was put is seen by every later `get` and `list`, whoever asks: S3 is strongly consistent. Each call raises Unavailable when S3
    cannot be asked or throttles, and Misconfigured as AWS says. A call that fails or is cancelled may take effect, even later."""

    async def put(self, name: str, body: bytes, *, new: bool = False) -> bool:
        """Durable on return. `new`: only where there is nothing of this name, else False."""
        ...

    async def get(self, name: str) -> bytes | None: ...

    async def list(self, start: str) -> Listing:
        """Every name that begins with `start`."""
        ...

    async def delete(self, name: str) -> None:
        """Twice is no error."""
        ...

    async def close(self) -> None: ...


class S3Objects:
    """Objects in a bucket, under `prefix` as it stands. The client opens at the first call; after `close` a later call opens it anew."""

    def __init__(self, bucket: str, prefix: str = "", aws: Aws | None = None) -> None:
        self._bucket, self._prefix, self._aws = bucket, prefix, aws or Aws()
        self._opening = asyncio.Lock()
        self._context: AbstractAsyncContextManager[Any] | None = None
        self._opened: Any = None

    async def put(self, name: str, body: bytes, *, new: bool = False) -> bool:
        client, condition = await self._client(), {"IfNoneMatch": "*"} if new else {}
        try:
            await client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=body, **condition)
        except errors() as error:
            if new and (error_code(error) == "PreconditionFailed" or _status(error) == _TAKEN):
                return False
            raise translate(error, doing="store a part of an oversized row", where=self._where(name)) from error
        return True

    async def get(self, name: str) -> bytes | None:
        client = await self._client()
        try:
            answer = await client.get_object(Bucket=self._bucket, Key=self._prefix + name)
            async with answer["Body"] as stream:
                body: bytes = await stream.read()
        except errors() as error:
            if error_code(error) == "NoSuchKey":
                return None
            raise translate(error, doing="read a part of an oversized row", where=self._where(name)) from error
        return body

    async def list(self, start: str) -> Listing:
        client, found, more = await self._client(), list[Entry](), dict[str, Any]()
        while True:
            try:
                answer = await client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix + start, **more)
            except errors() as error:
                raise translate(error, doing="list parts of oversized rows", where=self._where(start)) from error
            for entry in answer.get("Contents", ()):
                found.append(Entry(entry["Key"][len(self._prefix) :], entry["LastModified"].timestamp()))
            if not answer.get("IsTruncated"):
                date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
                # Without a date what is there was written just now: nothing is old.
                now = parsedate_to_datetime(date).timestamp() if date else max((entry.modified for entry in found), default=0.0)
                return Listing(found, now)
            more["ContinuationToken"] = answer["NextContinuationToken"]

    async def delete(self, name: str) -> None:
        client = await self._client()
        try:
            await client.delete_object(Bucket=self._bucket, Key=self._prefix + name)
        except errors() as error:
            raise translate(error, doing="remove a part of an oversized row", where=self._where(name)) from error

    async def close(self) -> None:
        async with self._opening:
            context, self._context, self._opened = self._context, None, None
            if context is not None:
                await context.__aexit__(None, None, None)

    async def _client(self) -> Any:
        async with self._opening:
            if self._context is None:
                context = client("s3", self._aws)
                self._opened = await context.__aenter__()
                self._context = context
            return self._opened

    def _where(self, name: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{name}"


def _status(error: Exception) -> int:
    response: dict[str, Any] = getattr(error, "response", {}) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) or 0)
