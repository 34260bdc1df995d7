"""A bucket in memory that tests the algorithm's nerves, and what a lake holds."""

from __future__ import annotations

import gzip
import hashlib
import types
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from dsqlcdc import parquet
from dsqlcdc.contract import Change, Context, Op, Progress, Resume, Table
from dsqlcdc_s3 import S3Sink
from dsqlcdc_s3.objects import PAGE, Missing, Objects, Put

ORDERS = Table("c1", "public", "orders", ("id",))
NOON = 1_800_000_000


@types.coroutine
def step() -> Generator[None, None, None]:
    """A place where whoever drives the coroutine may stop it, for a while or for ever."""
    yield


async def no_step() -> None:
    return


def text_of(key: str, body: bytes) -> bytes:
    """The lines of an object of either format."""
    return b"".join(parquet.lines(body)) if key.endswith(".parquet") else gzip.decompress(body)


class Bucket:
    """Objects in memory. `calls` are the puts that took place or were refused, in order: (key, body, put)."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.calls: list[tuple[str, bytes, Put]] = []
        self.rows: dict[str, list[bytes]] = {}

    def store(self, key: str, body: bytes, if_none_match: bool) -> Put:
        put = Put.EXISTS if if_none_match and key in self.objects else Put.CREATED
        if put is Put.CREATED:
            self.objects[key] = body
            if "data/" in key:
                self.rows[key] = [bytes.fromhex(msgspec.json.decode(line)["id"]) for line in text_of(key, body).splitlines()]
        self.calls.append((key, body, put))
        return put

    def data(self) -> Iterator[tuple[str, bytes]]:
        return ((key, body) for key, body in sorted(self.objects.items()) if "data/" in key)

    def lines(self) -> list[dict[str, Any]]:
        """Every line of the lake."""
        return [msgspec.json.decode(line) for key, body in self.data() for line in text_of(key, body).splitlines()]

    def ids(self) -> list[bytes]:
        """The id of every line of the lake."""
        return [id for ids in self.rows.values() for id in ids]

    def manifests(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(body) for key, body in sorted(self.objects.items()) if "manifests/" in key]


class FakeObjects:
    """Objects over a Bucket. `before` and `after` are called around the effect of each put, with its key; they may raise."""

    def __init__(
        self,
        bucket: Bucket,
        *,
        before: Callable[[str, bytes], None] = lambda key, body: None,
        after: Callable[[str, bytes], None] = lambda key, body: None,
        pause: Callable[[], Any] = no_step,
        chunk: int = 64 * 1024,
    ) -> None:
        self.bucket, self.before, self.after, self.pause, self.chunk = bucket, before, after, pause, chunk
        self.in_flight: tuple[str, bytes, bool] | None = None
        self.gets: list[str] = []

    async def put(self, key: str, body: bytes, *, if_none_match: bool, sha256: bytes, content_type: str) -> Put:
        assert hashlib.sha256(body).digest() == sha256
        self.in_flight = (key, body, if_none_match)
        await self.pause()
        self.before(key, body)
        self.in_flight = None
        put = self.bucket.store(key, body, if_none_match)
        await self.pause()
        self.after(key, body)
        return put

    async def try_put(self, key: str) -> bool:
        return False

    async def get(self, key: str) -> AsyncGenerator[bytes, None]:
        await self.pause()
        self.gets.append(key)
        if key not in self.bucket.objects:
            raise Missing(key)
        body = self.bucket.objects[key]
        for start in range(0, len(body), self.chunk):
            yield body[start : start + self.chunk]

    async def list(self, prefix: str, start_after: str) -> Sequence[str]:
        await self.pause()
        return sorted(key for key in self.bucket.objects if key.startswith(prefix) and key > start_after)[:PAGE]


def change(number: int, *, shard: str = "s1", sequence: int | None = None, version: int | None = None, **more: Any) -> Change:
    """A change of one order; the same number is the same change."""
    at = NOON * 10**9 + number if version is None else version
    fields: dict[str, Any] = {
        "id": _id(b'{"id":%d}' % number, at),
        "op": Op.INSERT,
        "table": ORDERS,
        "key_image": msgspec.Raw(b'{"id":%d}' % number),
        "version": at,
        "transaction": f"t{number}",
        "image": msgspec.Raw(b'{"id":%d}' % number),
        "old_image": None,
        "raw": b'{"op":"c","after":{"id":%d}}' % number,
        "shard": shard,
        "sequence": str(number if sequence is None else sequence),
        "arrived": float(NOON + number),
    }
    return Change(**{**fields, **more})


def _id(key: bytes, version: int) -> bytes:
    named = msgspec.json.encode([ORDERS.cluster, ORDERS.schema, ORDERS.name]) + key + version.to_bytes(8 if version < 2**63 else 16)
    return hashlib.blake2b(named, digest_size=16).digest()


def context(sink: str = "lake", pipeline: str = "orders-cdc") -> Context:
    return Context(pipeline, sink)


def make_sink(objects: Objects, options: Mapping[str, Any] | None = None, *, kind: type[S3Sink] = S3Sink, **more: Any) -> S3Sink:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Objects]:
        yield objects

    made = kind.Options.model_validate({"bucket": "lake", "prefix": "cdc/", "gzip": 1, "digest": None, **(options or {})})
    more.setdefault("clock", lambda: float(NOON))
    return kind(made, more.pop("context", context()), objects=opened, **more)


def resume(word: bytes = b"", since: float = 0.0, progress: Callable[[], Sequence[Progress]] = tuple, **more: str) -> Resume:
    return Resume(more.get("pipeline", "orders-cdc"), more.get("sink", "lake"), word, since, progress)
