"""A Kinesis stream in memory, behind the Service port, on the running loop's clock."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

from dsqlcdc.core.records import Position, Record
from dsqlcdc.errors import Fault
from dsqlcdc.sources.service import Admit, Description, Expired, Reply, Throttled, UnknownSequence
from dsqlcdc.sources.shards import HASH_END, Shard

EPOCH = 1_800_000_000.0
DAY = 86_400.0


@dataclass
class FakeShard:
    shard: Shard
    records: list[Record] = field(default_factory=list)
    trimmed: int = 0
    closed: bool = False
    children: list[Shard] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)

    @property
    def listed(self) -> Shard:
        return Shard(self.shard.id, self.shard.low, self.shard.high, self.shard.parents, "", self.closed)


class FakeService:
    """Write with `put`; reshard with `split` and `merge`; `trim`; `faults` are raised one a call by operation, oldest first."""

    def __init__(self, shards: int = 1, *, retention: float = DAY, page: int = 10_000, latency: float = 0.005) -> None:
        self.stream = "orders-cdc"
        self.retention = retention
        self.page = page
        self.latency = latency
        self.shards: dict[str, FakeShard] = {}
        self.hidden: set[str] = set()
        self.faults: dict[str, list[Fault]] = {"iterator": [], "records": [], "list": [], "describe": []}
        self.iterators: dict[str, tuple[str, int, float]] = {}
        self.empties: dict[str, int] = {}
        self.throttle = False
        self.on_read: Callable[[str, int], None] = lambda shard, count: None
        self.calls = 0
        self.lists = 0
        self.bodies = 0
        self.most_bodies = 0
        self._sequence = 10**20
        self._created = 0
        step = HASH_END // shards
        for index in range(shards):
            self._make(index * step, HASH_END - 1 if index == shards - 1 else (index + 1) * step - 1, ())

    def now(self) -> float:
        return EPOCH + asyncio.get_running_loop().time()

    def _make(self, low: int, high: int, parents: tuple[str, ...]) -> Shard:
        shard = Shard(f"shardId-{self._created:012d}", low, high, parents)
        self._created += 1
        self.shards[shard.id] = FakeShard(shard)
        return shard

    def put(self, shard: str, data: bytes = b"{}", count: int = 1, arrived: float | None = None) -> list[str]:
        target = self.shards[shard]
        assert not target.closed
        at = self.now() if arrived is None else arrived
        made = []
        for _ in range(count):
            self._sequence += 7
            target.records.append(Record(str(self._sequence), data, at))
            made.append(str(self._sequence))
        return made

    def split(self, shard: str) -> tuple[str, str]:
        old = self.shards[shard]
        middle = (old.shard.low + old.shard.high) // 2
        old.closed = True
        old.children = [self._make(old.shard.low, middle, (shard,)), self._make(middle + 1, old.shard.high, (shard,))]
        return old.children[0].id, old.children[1].id

    def merge(self, one: str, two: str) -> str:
        first, second = self.shards[one], self.shards[two]
        child = self._make(min(first.shard.low, second.shard.low), max(first.shard.high, second.shard.high), (one, two))
        for old in (first, second):
            old.closed, old.children = True, [child]
        return child.id

    def trim(self, shard: str, count: int) -> None:
        self.shards[shard].trimmed += count

    async def _answer(self, operation: str) -> None:
        self.calls += 1
        await asyncio.sleep(self.latency)
        if self.faults[operation]:
            raise self.faults[operation].pop(0)

    async def describe(self) -> Description:
        await self._answer("describe")
        return Description(self.stream, EPOCH - 30 * DAY, self.retention, self.now())

    async def list_shards(self) -> list[Shard]:
        await self._answer("list")
        self.lists += 1
        return [one.listed for one in self.shards.values() if one.shard.id not in self.hidden]

    async def iterator(self, shard: str, position: Position) -> str:
        await self._answer("iterator")
        target = self.shards[shard]
        self._expire(target)
        index = target.trimmed
        if position.kind == "after":
            numbers = [int(record.sequence_number) for record in target.records]
            if int(position.sequence) > self._sequence:
                raise UnknownSequence("cannot begin", where=shard)
            index = max(index, bisect_left(numbers, int(position.sequence)))
        elif position.kind == "time":
            index = max(index, bisect_left([record.arrived for record in target.records], position.arrived))
        return self._iterator(shard, index)

    def _iterator(self, shard: str, index: int) -> str:
        name = f"it-{len(self.iterators)}"
        self.iterators[name] = (shard, index, asyncio.get_running_loop().time())
        return name

    def _expire(self, target: FakeShard) -> None:
        while target.trimmed < len(target.records) and target.records[target.trimmed].arrived < self.now() - self.retention:
            target.trimmed += 1

    async def records(self, shard: str, iterator: str, limit: int, admit: Admit) -> Reply:
        await self._answer("records")
        loop = asyncio.get_running_loop()
        name, index, made = self.iterators[iterator]
        assert name == shard
        if loop.time() - made > 300:
            raise Expired("expired", where=shard)
        target = self.shards[shard]
        if self.throttle and target.reads and loop.time() - target.reads[-1] < 0.2 - 1e-9:
            raise Throttled("too many reads", where=shard)
        target.reads.append(loop.time())
        self._expire(target)
        index = max(index, target.trimmed)
        records: list[Record] = []
        size = 0
        if self.empties.get(shard, 0):
            self.empties[shard] -= 1
        else:
            for record in target.records[index : index + min(limit, self.page)]:
                if records and size + len(record.data) > 10 * 2**20:
                    break
                records.append(record)
                size += len(record.data)
        length = size * 4 // 3 + 100 * len(records)
        await admit(length)
        self.bodies += length
        self.most_bodies = max(self.most_bodies, self.bodies)
        await asyncio.sleep(length / 50_000_000)
        self.bodies -= length
        following = index + len(records)
        at_end = following >= len(target.records)
        behind = 0 if at_end else max(1, int((self.now() - target.records[following].arrived) * 1000))
        ended = at_end and target.closed
        self.on_read(shard, len(records))
        return Reply(
            records=records,
            iterator=None if ended else self._iterator(shard, following),
            behind=behind,
            children=tuple(target.children) if ended else (),
            now=float(int(self.now())),
            size=length,
        )
