"""Lineage and coverage over random reshard histories, against a model that knows where every key's records went."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.sources.shards import HASH_END, Shard, children, depth, hole_words, holes, parse, readable

Readable = Callable[[Iterable[Shard], Collection[str]], list[Shard]]


class History:
    """Reshards, and for a sample of hash keys the shards that held them, in the order of time."""

    KEYS = tuple(HASH_END * n // 16 for n in range(16))

    def __init__(self, shards: int) -> None:
        self.shards: dict[str, Shard] = {}
        step = HASH_END // shards
        for n in range(shards):
            self._add(n * step, HASH_END - 1 if n == shards - 1 else (n + 1) * step - 1, ())
        self.holders: dict[int, list[str]] = {key: [self._holder(key).id] for key in self.KEYS}

    def _add(self, low: int, high: int, parents: tuple[str, ...]) -> None:
        name = f"shardId-{len(self.shards):012d}"
        self.shards[name] = Shard(name, low, high, parents)

    def _holder(self, key: int) -> Shard:
        return next(one for one in self.shards.values() if not one.closed and one.low <= key <= one.high)

    def open(self) -> list[Shard]:
        return sorted((one for one in self.shards.values() if not one.closed), key=lambda one: one.low)

    def _close(self, shard: Shard) -> None:
        self.shards[shard.id] = Shard(shard.id, shard.low, shard.high, shard.parents, "", True)

    def split(self, n: int) -> None:
        shard = self.open()[n % len(self.open())]
        if shard.high - shard.low < 2:
            return
        middle = (shard.low + shard.high) // 2
        self._close(shard)
        self._add(shard.low, middle, (shard.id,))
        self._add(middle + 1, shard.high, (shard.id,))
        self._follow()

    def merge(self, n: int) -> None:
        if len(self.open()) < 2:
            return
        at = n % (len(self.open()) - 1)
        left, right = self.open()[at : at + 2]
        self._close(left)
        self._close(right)
        self._add(left.low, right.high, (left.id, right.id))
        self._follow()

    def _follow(self) -> None:
        for key, held in self.holders.items():
            now = self._holder(key).id
            if held[-1] != now:
                held.append(now)


histories = st.builds(
    lambda shards, steps: (shards, steps),
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from(["split", "merge"]), st.integers(0, 20)), max_size=25),
)


def play(shards: int, steps: list[tuple[str, int]]) -> History:
    history = History(shards)
    for step, n in steps:
        getattr(history, step)(n)
    return history


def read_in_order(history: History, picks: list[int], may_read: Readable) -> None:
    """Read shards to their end in any permitted order; every key's holders must come in the order of time, and all shards be read."""
    listed = list(history.shards.values())
    ended: list[str] = []
    while len(ended) < len(listed):
        ready = may_read(listed, ended)
        assert ready, "nothing may be read, and not all is read"
        pick = picks[len(ended) % len(picks)] if picks else 0
        ended.append(ready[pick % len(ready)].id)
    for held in history.holders.values():
        order = [ended.index(shard) for shard in held]
        assert order == sorted(order), "a key's later records were read before its earlier ones"


@given(histories, st.lists(st.integers(0, 50), max_size=30))
def test_a_child_is_read_only_after_all_its_parents(history: tuple[int, list[tuple[str, int]]], picks: list[int]) -> None:
    read_in_order(play(*history), picks, readable)


def test_control_a_reader_that_asks_for_one_parent_only_breaks_the_law() -> None:
    def one_parent(listed: Iterable[Shard], ended: Collection[str]) -> list[Shard]:
        shards = list(listed)
        return [s for s in shards if s.id not in ended and (not s.parents or any(p in ended for p in s.parents))]

    history = play(2, [("merge", 0)])
    with pytest.raises(AssertionError, match="later records"):
        read_in_order(history, [0, 1, 0], one_parent)


@given(histories)
def test_every_history_of_splits_and_merges_covers_the_hash_range(history: tuple[int, list[tuple[str, int]]]) -> None:
    assert holes(play(*history).shards.values()) == []


@given(histories, st.integers(0, 50))
def test_an_open_shard_left_out_is_a_hole_of_its_size(history: tuple[int, list[tuple[str, int]]], n: int) -> None:
    played = play(*history)
    missing = played.open()[n % len(played.open())]
    listed = [one for one in played.shards.values() if one.id != missing.id]
    assert holes(listed) == [(missing.low, missing.high)]
    assert str(missing.low) in hole_words(holes(listed))


@given(histories)
def test_parents_are_less_deep_than_their_children(history: tuple[int, list[tuple[str, int]]]) -> None:
    listed = list(play(*history).shards.values())
    depths = depth(listed)
    assert all(depths[parent] < depths[shard.id] for shard in listed for parent in shard.parents)
    assert all(shard in children(listed, parent) for shard in listed for parent in shard.parents)


def test_a_parent_that_is_no_longer_listed_holds_nobody_up() -> None:
    orphan = Shard("shardId-9", parents=("shardId-1",))
    assert readable([orphan], set()) == [orphan]


def test_nothing_listed_is_one_hole_over_the_whole_range() -> None:
    assert holes([]) == [(0, HASH_END - 1)]


def test_listed_shards_and_children_of_a_reply_are_parsed_alike() -> None:
    keys = {"StartingHashKey": "0", "EndingHashKey": "99"}
    listed = {"ShardId": "c", "ParentShardId": "a", "AdjacentParentShardId": "b", "HashKeyRange": keys}
    numbers = {"StartingSequenceNumber": "5", "EndingSequenceNumber": "9"}
    assert parse({**listed, "SequenceNumberRange": numbers}) == Shard("c", 0, 99, ("a", "b"), "5", True)
    assert parse({"ShardId": "c", "ParentShards": ["a", "b"], "HashKeyRange": keys}) == Shard("c", 0, 99, ("a", "b"))
