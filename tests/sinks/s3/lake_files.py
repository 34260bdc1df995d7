"""A lake in files, made by the real writer: what auditors and their measures read."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import AsyncGenerator, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec

from dsqlcdc.contract import Change, Op, Progress
from dsqlcdc_s3.audit.lake import Hold, Opened, Page, Version
from dsqlcdc_s3.objects import PAGE, Missing, Put

from .lake import NOON, ORDERS, make_sink, resume

_CHUNK = 256 * 1024
_FIRST = 49 * 10**54


class Directory:
    """A lake on disk: its reads cost little, as those of a near S3 do for whoever waits for several at once. Equal bodies are one file."""

    def __init__(self, root: Path) -> None:
        self.root, self._bodies = root, root.parent / f"{root.name}-bodies"

    def _keys(self, prefix: str) -> list[str]:
        return sorted(
            key for path in self.root.rglob("*") if path.is_file() and (key := str(path.relative_to(self.root))).startswith(prefix)
        )

    async def put(self, key: str, body: bytes, *, if_none_match: bool, sha256: bytes, content_type: str) -> Put:
        path, held = self.root / key, self._bodies / sha256.hex()
        if path.exists():
            return Put.EXISTS
        for folder in (path.parent, self._bodies):
            folder.mkdir(parents=True, exist_ok=True)
        if not held.exists():
            held.write_bytes(body)
        os.link(held, path)
        return Put.CREATED

    async def put_file(self, key: str, body: IO[bytes], *, sha256: bytes, content_type: str) -> Put:
        body.seek(0)
        return await self.put(key, body.read(), if_none_match=True, sha256=sha256, content_type=content_type)

    async def get(self, key: str) -> AsyncGenerator[bytes, None]:
        path = self.root / key
        if not path.exists():
            raise Missing(key)
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    async def open(self, key: str) -> Opened:
        if not (self.root / key).exists():
            raise Missing(key)
        return Opened("", self.get(key))

    async def delete(self, key: str) -> None:
        (self.root / key).unlink(missing_ok=True)

    async def locked(self) -> str:
        return ""

    async def list(self, prefix: str, start_after: str) -> Sequence[str]:
        return [key for key in self._keys(prefix) if key > start_after][:PAGE]

    async def versions(self, prefix: str, after: tuple[str, str]) -> Page:
        return Page([Version(key, "null", True, False) for key in self._keys(prefix)], None)

    async def hold(self, key: str) -> Hold:
        return Hold("", 0.0, 0.0)

    async def try_put(self, key: str) -> bool:
        return False


def row(number: int, values: dict[str, Any]) -> Change:
    """The insert of one order, committed a microsecond after the one before."""
    head = hashlib.blake2b(msgspec.json.encode([ORDERS.cluster, ORDERS.schema, ORDERS.name]), digest_size=16)
    key, version = b'{"id":%d}' % number, NOON * 10**9 + number * 1000
    head.update(key + struct.pack(">q", version))
    image, sequence = msgspec.Raw(msgspec.json.encode({"id": number, **values})), str(_FIRST + number * 977)
    return Change(
        head.digest(), Op.INSERT, ORDERS, msgspec.Raw(key), version, f"t{number}", image, None, b"", "s1", sequence, NOON + number / 1000
    )


async def write(root: Path, batches: Iterable[Sequence[Change]], **options: Any) -> int:
    """A closed lake of these batches, an object each; how many rows it has."""
    read = [0]

    def progress() -> list[Progress]:
        at = str(_FIRST + read[0]) if read[0] else ""
        counts = {"delivered": read[0]} if read[0] else {}
        return [Progress("s1", "trim_horizon", at, read[0], counts, 0, frontier=at, arrived=1.0, first=at and str(_FIRST))]

    async with make_sink(Directory(root), {"digest": {}, **options}, ticking=False) as sink:
        await sink.resume(resume(progress=progress))
        for batch in batches:
            assert await sink.write(batch) == []
            read[0] += len(batch)
        assert await sink.seal(closing=True)
    return read[0]
