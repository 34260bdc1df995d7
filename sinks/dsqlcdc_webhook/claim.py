"""The claim check: the data of a large event is put into S3, and the event says where."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Protocol, Self
from urllib.parse import unquote, urlsplit

import msgspec

from dsqlcdc.aws import Aws, client, errors, translate
from dsqlcdc_webhook.event import DATA
from dsqlcdc_webhook.options import ClaimCheck

_REMEMBERED = 4096
ROOM = 4096
"""Bytes that a reference may take in an event, more or less: a signed URL with a session's token."""


class Claims(Protocol):
    """Where data is put. `put` raises Unavailable, and Misconfigured."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *left: Any) -> None: ...

    async def put(self, id: str, data: bytes) -> str:
        """Store data, once for an id and run, and say where: the same place in every life."""
        ...


class _Signed(msgspec.Struct, frozen=True):
    url: str
    at: float


class S3Claims:
    """Objects `{prefix}{id}.json`. Putting one again writes the same bytes to the same name.

    The reference is `s3://bucket/key`, or with `expires` a URL signed for so long: the same one for each attempt at an id, until half of its
    time is over. `clock` is in seconds and need not be the wall's.
    """

    def __init__(
        self,
        options: ClaimCheck,
        aws: Aws,
        *,
        connect: Callable[..., AbstractAsyncContextManager[Any]] = client,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._options, self._aws, self._connect = options, aws, connect
        self._stack = AsyncExitStack()
        self._there: OrderedDict[str, _Signed | None] = OrderedDict()
        self._client: Any = None

    async def __aenter__(self) -> Self:
        self._client = await self._stack.enter_async_context(self._connect("s3", self._aws, signature_version="s3v4"))
        return self

    async def __aexit__(self, *left: Any) -> None:
        await self._stack.aclose()

    async def put(self, id: str, data: bytes) -> str:
        bucket, key = self._options.bucket, f"{self._options.prefix}{id}.json"
        try:
            if id not in self._there:
                await self._client.put_object(Bucket=bucket, Key=key, Body=data, ContentType=DATA)
                self._there[id] = None
                if len(self._there) > _REMEMBERED:
                    self._there.popitem(last=False)
            if self._options.expires is None:
                return f"s3://{bucket}/{key}"
            signed, now = self._there.get(id), self._clock()
            if signed is None or now - signed.at > self._options.expires / 2:
                params = {"Bucket": bucket, "Key": key}
                url = await self._client.generate_presigned_url("get_object", Params=params, ExpiresIn=int(self._options.expires))
                signed = self._there[id] = _Signed(str(url), now)
            return signed.url
        except errors() as error:
            raise translate(error, doing="store a claim check", where=f"s3://{bucket}/{key}") from error


def secrets_of(dataref: str) -> Iterator[str]:
    """What of a reference gives access, in every spelling: each value in the query of a signed URL."""
    query = urlsplit(dataref).query
    if query:
        yield dataref
        yield query
    for pair in query.split("&"):
        value = pair.partition("=")[2]
        if len(value) >= 16:
            yield value
            yield unquote(value)
