"""A CDC stream in another's place leaves its gap, whoever put it there and whatever died on the way; one that stayed leaves none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from dsqlcdc.core.ports import CheckpointStore, Gap
from dsqlcdc.stores.memory_checkpoints import MemoryCheckpoints
from dsqlcdc.stores.sqlite_checkpoints import SqliteCheckpoints
from dsqlcdc.streams import recreated
from dsqlcdc.streams.observed import CdcStream
from dsqlcdc.streams.sighting import Sighting, arrived, last_seen, remember, seen_name

from .scenes import NOW, cdc, desired

Make = Callable[[], CheckpointStore]


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Gives the same state again and again, as if by a new process each time."""
    if request.param == "memory":
        kept = MemoryCheckpoints()
        return lambda: kept
    path = tmp_path_factory.mktemp("state") / "state.db"
    return lambda: SqliteCheckpoints(path)


async def seen(store: CheckpointStore, stream: CdcStream, at: float, *others: CdcStream) -> Sequence[Gap]:
    """As the watch does when a stream delivers."""
    gaps = await arrived(store, desired(), [stream, *others], stream, at)
    await remember(store, desired(), Sighting(stream=stream.id, healthy_at=at))
    return gaps


async def test_a_stream_that_others_replaced_while_nobody_looked_leaves_its_gap(make: Make) -> None:
    store = make()
    assert not await seen(store, cdc(id="old"), NOW - 900)
    [gap] = await seen(store, cdc(id="new"), NOW)
    assert (gap.kind, gap.sink, gap.after, gap.until) == ("recreated", "", "old", "new")
    assert (gap.from_time, gap.to_time) == (NOW - 900, NOW + recreated.SKEW)
    assert await store.gaps("orders") == [gap]
    await store.close()


async def test_a_gap_begun_by_whoever_died_is_ended_by_whoever_comes_next(make: Make) -> None:
    first = make()
    await seen(first, cdc(id="old"), NOW - 900)
    await recreated.begin(first, desired(), cdc("FAILED", "INTERNAL_ERROR", id="old"), now=NOW - 60, healthy=NOW - 900)
    await first.close()
    second = make()
    assert [gap.to_time for gap in await second.gaps("orders")] == [0.0]  # said already, its end unknown
    [gap] = await seen(second, cdc(id="new"), NOW)
    assert (gap.from_time, gap.to_time) == (NOW - 900, NOW + recreated.SKEW)
    assert await second.gaps("orders") == [gap]
    await second.close()


async def test_a_failed_stream_that_is_still_listed_beside_its_successor_leaves_its_gap(make: Make) -> None:
    store = make()
    await seen(store, cdc(id="old"), NOW - 900)
    [gap] = await seen(store, cdc(id="new"), NOW, cdc("FAILED", "INTERNAL_ERROR", id="old"))
    assert gap.after == "old"
    await store.close()


async def test_the_same_stream_seen_again_leaves_none(make: Make) -> None:
    store = make()
    for at in (NOW - 900, NOW - 600, NOW):
        assert not await seen(store, cdc(id="one"), at)
    assert not await store.gaps("orders")
    await store.close()


async def test_a_second_stream_beside_one_that_delivers_leaves_none(make: Make) -> None:
    store = make()
    await seen(store, cdc(id="one"), NOW - 900)
    assert not await seen(store, cdc(id="two"), NOW, cdc(id="one"))
    assert not await store.gaps("orders")
    await store.close()


async def test_a_gap_is_recorded_once_and_an_acknowledged_one_is_not_opened_again(make: Make) -> None:
    store = make()
    await seen(store, cdc(id="old"), NOW - 900)
    [gap] = await arrived(store, desired(), [cdc(id="new")], cdc(id="new"), NOW)  # dies before it is remembered
    await store.ack_gap("orders", gap.id, "repaired", NOW + 1)
    assert not await seen(store, cdc(id="new"), NOW + 60)
    assert len(await store.gaps("orders")) == 1
    await store.close()


async def test_a_late_writer_moves_nothing_back(make: Make) -> None:
    store = make()
    await remember(store, desired(), Sighting(stream="one", healthy_at=NOW))
    await remember(store, desired(), Sighting(stream="one", healthy_at=NOW - 60, broken_since=NOW + 1))
    assert await last_seen(store, desired()) == Sighting(stream="one", healthy_at=NOW, broken_since=NOW + 1)
    await store.close()


async def test_what_is_kept_of_the_stream_is_no_sinks(make: Make) -> None:
    store = make()
    await remember(store, desired(), Sighting(stream="one", healthy_at=NOW))
    assert [name.reserved for name in await store.names()] == [True]
    assert seen_name(desired()).reserved
    await store.close()
