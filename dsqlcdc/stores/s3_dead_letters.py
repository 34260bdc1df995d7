"""Dead letters as S3 objects: the format and the names of the files; nothing is written over or removed but what was read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal

import msgspec

from dsqlcdc import __version__
from dsqlcdc.aws import Aws, client, error_code, errors, translate
from dsqlcdc.core.ports import DeadLetter
from dsqlcdc.errors import Unavailable
from dsqlcdc.stores import letters

_TURNS = 20
"""How often what others change at the same time is read again."""


class Stored(msgspec.Struct, frozen=True):
    """An object as it was read; `etag` tells this writing of it from every other."""

    body: bytes
    etag: str


class S3DeadLetters:
    """A LetterBox in a bucket, under `prefix` as it stands. The client opens at the first call. Several processes may share a place.

    Every write is conditional: a letter is written where none is, amended over the very bytes that were read, and removed only as it was
    put aside. So of two replays at once no attempt is lost, and what was dealt with does not come back.

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
        stored = await self._write(name, body, IfNoneMatch="*")
        if stored is None:
            raise self._moves(name)
        return stored

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
        stored = await self._read(name) if name.endswith(".json.gz") else None
        if stored is None:
            raise KeyError(name)
        return await asyncio.to_thread(letters.decode, stored.body)

    async def tried(self, name: str, code: str, detail: str, at: float) -> None:
        """See LetterBox.tried. Raises ValueError where the letter cannot be read, Unavailable, Misconfigured."""
        for _ in range(_TURNS):
            stored = await self._read(name)
            if stored is None:
                return
            body = await asyncio.to_thread(letters.amended, stored.body, code, detail, at)
            if body == stored.body or await self._write(name, body, IfMatch=stored.etag):
                return
        raise self._moves(name)

    async def close_letter(
        self, name: str, folder: Literal["replayed", "discarded"], outcome: str, reason: str, at: float, *, keep: bool = False
    ) -> bool:
        """See LetterBox.close_letter. Raises ValueError where the letter cannot be read, Unavailable, Misconfigured."""
        for _ in range(_TURNS):
            stored = await self._read(name)
            if stored is None:
                return False
            closed = await asyncio.to_thread(letters.closed, stored.body, outcome, reason, at)
            if await self._put_aside(f"{folder}/{name}", stored.body, closed) and (keep or await self._remove(name, stored.etag)):
                return True
        raise self._moves(name)

    async def _put_aside(self, name: str, letter: bytes, closed: bytes) -> bool:
        """Have a letter stored under its new name, with all its attempts; False where another is about it at the same time."""
        if await self._write(name, closed, IfNoneMatch="*"):
            return True
        copy = await self._read(name)
        if copy is None:
            return False
        body = await asyncio.to_thread(letters.merged, copy.body, letter, closed)
        return body == copy.body or bool(await self._write(name, body, IfMatch=copy.etag))

    async def close(self) -> None:
        """Close the connections; a later call opens them anew. Twice is no error."""
        async with self._opening:
            context, self._context, self._opened = self._context, None, None
            if context is not None:
                await context.__aexit__(None, None, None)

    async def _read(self, name: str) -> Stored | None:
        """None where there is no such object."""
        client = await self._client()
        try:
            answer = await client.get_object(Bucket=self._bucket, Key=self._prefix + name)
            async with answer["Body"] as stream:
                return Stored(await stream.read(), answer["ETag"])
        except errors() as error:
            if await self._gone(name, error):
                return None
            raise translate(error, doing="read a dead letter", where=self._where(name)) from error

    async def _write(self, name: str, body: bytes, **condition: str) -> bool | None:
        """False where the condition does not hold (or held, and the answer to this very write was lost); None where another write came
        at the same moment and S3 wants to be asked again."""
        client = await self._client()
        try:
            await client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=body, ContentType="application/gzip", **condition)
        except errors() as error:
            if error_code(error) == "ConditionalRequestConflict":
                return None
            if _refused(error) or ("IfMatch" in condition and await self._gone(name, error)):
                return False
            raise translate(error, doing="store a dead letter", where=self._where(name)) from error
        return True

    async def _remove(self, name: str, etag: str) -> bool:
        """Remove an object as it was read; False where it has changed since."""
        client = await self._client()
        try:
            await client.delete_object(Bucket=self._bucket, Key=self._prefix + name, IfMatch=etag)
        except errors() as error:
            if _refused(error) or error_code(error) == "ConditionalRequestConflict":
                return False
            if error_code(error) != "NoSuchKey":
                raise translate(error, doing="remove a dead letter", where=self._where(name)) from error
        return True

    async def _gone(self, name: str, error: Exception) -> bool:
        """Does the error say that there is no such object? S3 says "denied" instead to whoever may list no more than our prefix."""
        code = error_code(error)
        return code == "NoSuchKey" or (code == "AccessDenied" and name not in await self._list(name, ""))

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

    def _moves(self, name: str) -> Unavailable:
        why = f"it had changed at each of {_TURNS} looks"
        return Unavailable("A dead letter is being changed by others", where=self._where(name), why=why, code="E250")

    def _where(self, name: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{name}"


def _refused(error: Exception) -> bool:
    """Does the error say that a condition does not hold?"""
    response: dict[str, Any] = getattr(error, "response", {}) or {}
    return error_code(error) == "PreconditionFailed" or response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 412
