"""Dead letters as S3 objects: the format and the names of the files, written once and never over another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

from dsqlcdc import __version__
from dsqlcdc.aws import Aws, client, error_code, errors, translate
from dsqlcdc.core.ports import DeadLetter
from dsqlcdc.errors import Unavailable
from dsqlcdc.stores import letters

_TAKEN = 412


class S3DeadLetters:
    """A DeadLetterStore in a bucket, under `prefix` as it stands. The client opens at the first call. Several processes may share a place.

    `config_sha256` goes into every letter. Raises Unavailable (E120 to E122) where S3 cannot be asked or throttles: nothing is settled;
    Misconfigured (E102 to E106) as AWS says.
    """

    def __init__(self, bucket: str, prefix: str = "", aws: Aws | None = None, config_sha256: str = "") -> None:
        self._bucket, self._prefix, self._aws, self._config_sha256 = bucket, prefix, aws or Aws(), config_sha256
        self._opening = asyncio.Lock()
        self._context: AbstractAsyncContextManager[Any] | None = None
        self._opened: Any = None

    async def prepare(self) -> None:
        """See that the bucket is there and may be listed: better found at the start than at the first bad record. Raises Misconfigured;
        where S3 cannot be asked just now the first letter will tell."""
        with contextlib.suppress(Unavailable):
            await self._list("sink=", "/")

    async def put(self, letter: DeadLetter) -> bool:
        """Durable on return; False where its name is taken, by the same record and code (or by this very letter, of which the answer was
        lost). ValueError for a letter without sequence or code. When cancelled the letter may be stored."""
        name = letters.name_of(letter)
        body = await asyncio.to_thread(letters.encode, letter, version=__version__, config_sha256=self._config_sha256)
        client = await self._client()
        try:
            await client.put_object(
                Bucket=self._bucket, Key=self._prefix + name, Body=body, ContentType="application/gzip", IfNoneMatch="*"
            )
        except errors() as error:
            if error_code(error) == "PreconditionFailed" or _status(error) == _TAKEN:
                return False
            raise translate(error, doing="store a dead letter", where=self._where(name)) from error
        return True

    async def letters(self) -> AsyncIterator[tuple[str, DeadLetter]]:
        """Every letter with its name, oldest arrival day first. Letters that cannot be read do not hide the others: when all have been
        given, Misconfigured names them (E207 damaged, E202 of a newer format)."""
        broken: list[tuple[str, ValueError]] = []
        days = [day for place in ["", *await self._list("sink=", "/")] for day in await self._list(f"{place}dt=", "/")]
        for day in sorted(days, key=lambda day: (day.rstrip("/").rpartition("/")[2], day)):
            for name in await self._list(day, ""):
                if not name.endswith(".json.gz"):
                    continue
                try:
                    letter = await self.letter(name)
                except KeyError:
                    continue  # discarded since
                except ValueError as error:
                    broken.append((name, error))
                    continue
                yield name, letter
        if broken:
            raise letters.unreadable(broken, self._where(""))

    async def letter(self, name: str) -> DeadLetter:
        """One letter by its name. Raises KeyError where there is none, ValueError where it cannot be read."""
        if not name.endswith(".json.gz"):
            raise KeyError(name)
        client = await self._client()
        try:
            answer = await client.get_object(Bucket=self._bucket, Key=self._prefix + name)
            async with answer["Body"] as stream:
                body: bytes = await stream.read()
        except errors() as error:
            if error_code(error) == "NoSuchKey":
                raise KeyError(name) from None
            raise translate(error, doing="read a dead letter", where=self._where(name)) from error
        return await asyncio.to_thread(letters.decode, body)

    async def close(self) -> None:
        """Close the connections; a later call opens them anew. Twice is no error."""
        async with self._opening:
            context, self._context, self._opened = self._context, None, None
            if context is not None:
                await context.__aexit__(None, None, None)

    async def _list(self, start: str, delimiter: str) -> list[str]:
        """Names that begin with `start`: with a delimiter the groups up to it, without the objects."""
        client, found, more = await self._client(), list[str](), dict[str, Any](Delimiter=delimiter) if delimiter else dict[str, Any]()
        while True:
            try:
                answer = await client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix + start, **more)
            except errors() as error:
                raise translate(error, doing="list dead letters", where=self._where(start)) from error
            keys = (
                [entry["Prefix"] for entry in answer.get("CommonPrefixes", ())]
                if delimiter
                else [e["Key"] for e in answer.get("Contents", ())]
            )
            found += [key[len(self._prefix) :] for key in keys]
            if not answer.get("IsTruncated"):
                return found
            more["ContinuationToken"] = answer["NextContinuationToken"]

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
