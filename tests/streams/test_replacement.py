"""A replaced CDC stream leaves its gap, whoever replaced it and whatever died on the way; one that was not replaced leaves none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dsqlcdc.core.ports import CheckpointStore
from dsqlcdc.stores.memory_checkpoints import MemoryCheckpoints
from dsqlcdc.stores.sqlite_checkpoints import SqliteCheckpoints
from dsqlcdc.streams.remedies import KEPT
from dsqlcdc.streams.replacement import SKEW, Sighting, arrive, last_seen, leave, lost_since, remember, seen_name

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


async def test_a_replacement_leaves_a_gap_from_the_last_healthy_look_to_the_activation(make: Make) -> None:
    store = make()
    await arrive(store, desired(), cdc(id="old"), NOW - 900)
    await leave(store, desired(), cdc("FAILED", "INTERNAL_ERROR", id="old"), NOW - 300)
    gap = await arrive(store, desired(), cdc(id="new"), NOW)
    assert gap is not None
    assert (gap.kind, gap.sink, gap.after, gap.until) == ("recreated", "", "old", "new")
    assert (gap.from_time, gap.to_time) == (NOW - 900 - SKEW, NOW + SKEW)
    assert await store.gaps("orders") == [gap]
    await store.close()


async def test_whoever_dies_between_deletion_and_activation_loses_no_gap(make: Make) -> None:
    first = make()
    await arrive(first, desired(), cdc(id="old"), NOW - 900)
    await leave(first, desired(), cdc("FAILED", "INTERNAL_ERROR", id="old"), NOW - 300)
    await first.close()
    second = make()
    assert [(gap.after, gap.to_time) for gap in await second.gaps("orders")] == [("old", 0.0)]  # said already, its end unknown
    gap = await arrive(second, desired(), cdc(id="new"), NOW)
    assert gap is not None
    assert (gap.until, gap.to_time) == ("new", NOW + SKEW)
    assert await second.gaps("orders") == [gap]
    await second.close()


async def test_a_stream_that_others_replaced_while_nobody_looked_leaves_its_gap(make: Make) -> None:
    store = make()
    await arrive(store, desired(), cdc(id="old"), NOW - 900)
    gap = await arrive(store, desired(), cdc(id="new"), NOW)
    assert gap is not None
    assert gap.from_time == NOW - 900 - SKEW
    await store.close()


async def test_two_replacements_in_a_row_of_which_the_first_never_came_up_are_one_gap_from_the_first_loss(make: Make) -> None:
    store = make()
    await arrive(store, desired(), cdc(id="old"), NOW - 900)
    await leave(store, desired(), cdc("FAILED", "ROLE_ACCESS_DENIED", id="old"), NOW - 300)
    await leave(store, desired(), cdc("FAILED", "ROLE_ACCESS_DENIED", id="second"), NOW - 300)
    gap = await arrive(store, desired(), cdc(id="third"), NOW)
    assert gap is not None
    assert (gap.after, gap.until, gap.from_time) == ("old", "third", NOW - 900 - SKEW)
    await store.close()


async def test_the_same_stream_seen_again_leaves_none(make: Make) -> None:
    store = make()
    for at in (NOW - 900, NOW - 600, NOW):
        assert await arrive(store, desired(), cdc(id="one"), at) is None
    assert (await last_seen(store, desired())).healthy_at == NOW
    assert not await store.gaps("orders")
    await store.close()


async def test_a_gap_that_was_recorded_is_not_recorded_again(make: Make) -> None:
    store = make()
    await arrive(store, desired(), cdc(id="old"), NOW - 900)
    for at in (NOW, NOW + 60):
        await arrive(store, desired(), cdc(id="new"), at)
    assert len(await store.gaps("orders")) == 1
    await store.close()


async def test_a_late_writer_moves_nothing_back(make: Make) -> None:
    store = make()
    await arrive(store, desired(), cdc(id="one"), NOW)
    await remember(store, desired(), Sighting(stream="one", healthy_at=NOW - 60))
    assert (await last_seen(store, desired())).healthy_at == NOW
    await leave(store, desired(), cdc("FAILED", "INTERNAL_ERROR", id="one"), NOW - 300)
    await store.close()


async def test_what_is_kept_of_the_stream_is_no_sinks(make: Make) -> None:
    store = make()
    await arrive(store, desired(), cdc(id="one"), NOW)
    assert [name.reserved for name in await store.names()] == [True]
    assert seen_name(desired()).reserved
    await store.close()


@pytest.mark.parametrize(
    ("status", "code", "healthy", "since"),
    [
        ("FAILED", "INTERNAL_ERROR", NOW - 50, NOW - 50),
        ("FAILED", "INTERNAL_ERROR", 0.0, NOW - 600 - KEPT),
        ("FAILED", "", 0.0, NOW - 30 * 86_400),
    ],
)
def test_where_nobody_saw_it_well_the_gap_begins_as_early_as_may_be(status: str, code: str, healthy: float, since: float) -> None:
    assert lost_since(cdc(status, code), healthy) == since
