"""A bucket in memory, in virtual time: requests take their time, get lost, arrive late, or take effect without an answer."""

from __future__ import annotations

import asyncio
import random

from dsqlcdc.errors import Unavailable
from dsqlcdc.stores.s3_objects import Entry, Listing


class Bucket:
    """What is stored, with the time of each write; strongly consistent, as S3 is."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.late: set[asyncio.Task[bool]] = set()
        self.requests: dict[str, int] = {}
        self.ahead = 0.0

    def now(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead

    def put(self, name: str, body: bytes, new: bool) -> bool:
        if new and name in self.objects:
            return False
        self.objects[name] = (body, self.now())
        return True

    def delete(self, name: str) -> bool:
        return self.objects.pop(name, None) is not None


class FakeObjects:
    """One process's way to the bucket. `trouble`: the share of requests that go wrong; `slow`: seconds that one takes at the most;
    `out`: none is answered. `going` cleared: the process stands still (SIGSTOP)."""

    def __init__(self, bucket: Bucket, rng: random.Random | None = None, trouble: float = 0.0, slow: float = 0.0) -> None:
        self.bucket, self.rng, self.trouble, self.slow = bucket, rng or random.Random(0), trouble, slow
        self.out = False
        self.going = asyncio.Event()
        self.going.set()

    async def put(self, name: str, body: bytes, *, new: bool = False) -> bool:
        return await self._write("put", name, body, new)

    async def delete(self, name: str) -> None:
        await self._write("delete", name, None, False)

    async def get(self, name: str) -> bytes | None:
        await self._turn("get")
        found = self.bucket.objects.get(name)
        await self.going.wait()
        return None if found is None else found[0]

    async def list(self, start: str) -> Listing:
        await self._turn("list")
        found = [Entry(name, modified) for name, (_, modified) in sorted(self.bucket.objects.items()) if name.startswith(start)]
        answer = Listing(found, self.bucket.now())
        await self.going.wait()
        return answer

    async def close(self) -> None:
        """Nothing is open."""

    def _apply(self, name: str, body: bytes | None, new: bool) -> bool:
        return self.bucket.delete(name) if body is None else self.bucket.put(name, body, new)

    async def _write(self, kind: str, name: str, body: bytes | None, new: bool) -> bool:
        await self._turn(kind)
        if self.rng.random() < self.trouble:
            if self.rng.random() < 0.7:  # it is on its way still, whatever becomes of its sender
                self._later(name, body, new, self.rng.uniform(0, 30))
            raise Unavailable("no answer in time")
        answer = self._apply(name, body, new)
        await self.going.wait()
        return answer

    def _later(self, name: str, body: bytes | None, new: bool, delay: float) -> None:
        async def arrive() -> bool:
            await asyncio.sleep(delay)
            return self._apply(name, body, new)

        task = asyncio.ensure_future(arrive())
        self.bucket.late.add(task)
        task.add_done_callback(self.bucket.late.discard)

    async def _turn(self, kind: str) -> None:
        await self.going.wait()
        if self.slow:
            await asyncio.sleep(self.rng.uniform(0, self.slow))
            await self.going.wait()
        self.bucket.requests[kind] = self.bucket.requests.get(kind, 0) + 1
        if self.out or self.rng.random() < self.trouble / 2:
            raise Unavailable("cannot be asked just now")
