"""The shards of a stream as one ListShards listing shows them: lineage, what may be read, whether the hash range is covered. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

HASH_END = 2**128
"""One past the last hash key of a stream."""


class Shard(msgspec.Struct, frozen=True):
    """One shard. Hash keys from `low` to `high`, both included. `closed`: it takes no more records (it has an ending sequence number)."""

    id: str
    low: int = 0
    high: int = HASH_END - 1
    parents: tuple[str, ...] = ()
    first: str = ""
    closed: bool = False


def parse(item: Mapping[str, Any]) -> Shard:
    """A shard of a ListShards answer, or a child of GetRecords' ChildShards (which knows no sequence numbers)."""
    keys: Mapping[str, str] = item["HashKeyRange"]
    numbers: Mapping[str, str] = item.get("SequenceNumberRange", {})
    named = [item.get("ParentShardId"), item.get("AdjacentParentShardId"), *item.get("ParentShards", ())]
    return Shard(
        id=str(item["ShardId"]),
        low=int(keys["StartingHashKey"]),
        high=int(keys["EndingHashKey"]),
        parents=tuple(dict.fromkeys(name for name in named if name)),
        first=numbers.get("StartingSequenceNumber", ""),
        closed=bool(numbers.get("EndingSequenceNumber")),
    )


def readable(listed: Iterable[Shard], ended: Collection[str]) -> list[Shard]:
    """The shards that may be read now: not read to the end, and every parent that is still listed has been.

    A parent that is no longer listed holds nothing: its records have passed the retention. So the order of one hash key's records is kept
    over splits, merges (both parents) and UpdateShardCount.
    """
    shards = list(listed)
    waiting_for = {shard.id for shard in shards} - set(ended)
    return [shard for shard in shards if shard.id in waiting_for and not waiting_for.intersection(shard.parents)]


def children(listed: Iterable[Shard], shard: str) -> list[Shard]:
    """The listed shards that a closed shard was split or merged into."""
    return [one for one in listed if shard in one.parents]


def holes(listed: Iterable[Shard]) -> list[tuple[int, int]]:
    """The parts (both ends included) of 0..2^128−1 that no open shard covers. Empty when no shard is missed.

    While a reshard is in progress a listing may show the parent closed and not all its children: ask again.
    """
    found: list[tuple[int, int]] = []
    reached = 0
    for shard in sorted((one for one in listed if not one.closed), key=lambda one: one.low):
        if shard.low > reached:
            found.append((reached, shard.low - 1))
        reached = max(reached, shard.high + 1)
    if reached < HASH_END:
        found.append((reached, HASH_END - 1))
    return found


def hole_words(found: Sequence[tuple[int, int]]) -> str:
    """The holes in words, the first three of them."""
    named = [f"{low}..{high} ({(high - low + 1) / HASH_END:.2%})" for low, high in found[:3]]
    return ", ".join(named) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def depth(listed: Iterable[Shard]) -> dict[str, int]:
    """For each shard the length of its longest chain of listed ancestors: parents before children when sorted by it."""
    by_id = {shard.id: shard for shard in listed}
    known: dict[str, int] = {}
    for start in by_id:
        stack = [start]
        while stack:
            here = stack[-1]
            unknown = [p for p in by_id[here].parents if p in by_id and p not in known and p not in stack]
            if unknown:
                stack.extend(unknown)
                continue
            known[here] = 1 + max((known[p] for p in by_id[here].parents if p in known), default=-1)
            stack.pop()
    return known
