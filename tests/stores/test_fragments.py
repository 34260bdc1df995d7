"""Fragments beyond the contract: the bound, what expires, sinks that come and go, exact bytes, large pieces."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest

from dsqlcdc.core.ports import Part
from dsqlcdc.stores.fragments import MemoryFragments, SqliteFragments
from dsqlcdc.testing.stores import cut

DAY = 86400.0


def row(name: str, arrived: float, size: int = 1000) -> list[Part]:
    return cut(name, {"after": [b"x" * size, b"y" * size]}, arrived=arrived)


def names(parts: object) -> list[str]:
    assert isinstance(parts, list)
    return sorted({part.chunk_id for part in parts})


async def test_beyond_the_bound_the_oldest_are_overdue_and_go_when_all_have_judged() -> None:
    store = MemoryFragments(["a", "b"], max_bytes=3500)
    for at in (3, 1, 2, 4):
        await store.add("a", row(f"r{at}", float(at))[1])
    waiting = (await store.waiting())[1]
    assert waiting > 3500
    assert names(await store.overdue("a", 0.0)) == ["r1"]
    await store.judged("a", ["r1"])
    assert await store.overdue("a", 0.0) == []
    assert (await store.waiting())[1] == waiting
    await store.judged("b", ["r1"])
    assert (await store.waiting())[1] < 3500
    assert names(await store.overdue("b", math.inf)) == ["r2", "r3", "r4"]
    # What was deleted begins anew when it comes again, and has not been judged.
    await store.add("b", row("r1", 5.0)[2])
    assert names(await store.overdue("a", 0.0)) == ["r2"]
    assert "r1" in names(await store.overdue("a", math.inf))


async def test_judged_rows_below_the_bound_stay_and_can_be_completed() -> None:
    store = MemoryFragments(["a"], max_bytes=100_000)
    main, first, last = row("r", 1.0)
    await store.add("a", main)
    await store.add("a", first)
    await store.judged("a", names(await store.overdue("a", math.inf)))
    assert (await store.waiting())[0] == 2
    assert (await store.add("a", last)).state == "complete"


async def test_a_part_that_comes_between_overdue_and_judged_is_not_judged() -> None:
    store = MemoryFragments(["a"])
    main, first, last = cut("r", {"after": [b"{", b" ", b"}"]})[:3]
    await store.add("a", first)
    await store.overdue("a", math.inf)
    await store.add("a", last)
    await store.judged("a", ["r"])
    assert len(await store.overdue("a", math.inf)) == 2
    await store.add("a", main)  # the group gets its row's name: still not what was shown
    await store.judged("a", ["r"])
    assert len(await store.overdue("a", math.inf)) == 3
    await store.judged("a", ["r"])
    assert await store.overdue("a", math.inf) == []


async def test_overdue_brings_a_bounded_handful(tmp_path: Path) -> None:
    store = SqliteFragments(tmp_path / "f.db", ["a"])
    for at in range(5):
        await store.add("a", Part(f"r{at}", 0, b"x" * 20_000_000, b"", "s", "1", float(at)))
    found: list[str] = []
    while parts := await store.overdue("a", math.inf):
        assert sum(len(part.raw) for part in parts) <= 64 * 1024 * 1024
        found += names(parts)
        await store.judged("a", names(parts))
    assert found == [f"r{at}" for at in range(5)]
    await store.close()


async def test_a_removed_sink_keeps_no_bytes_and_a_returning_one_knows_what_was_done(tmp_path: Path) -> None:
    path, parts = tmp_path / "f.db", row("r", 1.0)
    both = SqliteFragments(path, ["a", "b"])
    for part in parts:
        await both.add("a", part)
        await both.add("b", part)
    await both.add("b", row("other", 2.0)[1])
    await both.done("a", ["r"])
    await both.judged("b", ["other"])
    await both.close()
    alone = SqliteFragments(path, ["a"])
    assert (await alone.add("a", parts[1])).state == "done"
    assert await alone.row("r") == []
    assert names(await alone.overdue("a", math.inf)) == ["other"]
    with pytest.raises(ValueError, match="'b' is not one of those"):
        await alone.add("b", parts[0])
    await alone.close()
    again = SqliteFragments(path, ["a", "b"])
    assert (await again.add("a", parts[0])).state == "done"
    assert (await again.add("b", parts[0])).state == "waiting"
    await again.close()


async def test_done_markers_stay_for_eight_days_of_arrivals_and_then_go(tmp_path: Path) -> None:
    store = SqliteFragments(tmp_path / "f.db", ["a"])
    parts = row("r", 10 * DAY)
    for part in parts:
        await store.add("a", part)
    await store.done("a", ["r"])
    for day, state in ((17.9, "done"), (18.1, "waiting")):
        for part in row(f"day-{day}", day * DAY):
            await store.add("a", part)
        await store.done("a", [f"day-{day}"])
        assert (await store.add("a", parts[0])).state == state
    await store.close()


async def test_what_no_sink_will_finish_goes_after_eight_days() -> None:
    store = MemoryFragments(["a", "starts-late"])
    for part in row("old", 1 * DAY):
        await store.add("a", part)
    await store.done("a", ["old"])
    await store.add("a", row("half", 1 * DAY)[0])
    await store.judged("a", ["half"])
    await store.judged("starts-late", ["half"])
    assert len(await store.row("old")) == 3
    for part in row("new", 10 * DAY):
        await store.add("a", part)
    await store.done("a", ["new"])
    assert await store.row("old") == []
    assert len(await store.row("new")) == 3
    assert await store.waiting() == (0, 0)


async def test_beyond_the_bound_complete_rows_go_when_all_who_added_to_them_are_done() -> None:
    store = MemoryFragments(["a", "behind"], max_bytes=5000)
    for at in range(4):
        for part in row(f"r{at}", float(at)):
            await store.add("a", part)
        if at == 1:
            await store.add("behind", row("r1", 1.0)[1])
        await store.done("a", [f"r{at}"])
    assert [len(await store.row(f"r{at}")) for at in range(4)] == [0, 3, 0, 3]
    # The one that is behind brings them again.
    states = [(await store.add("behind", part)).state for part in row("r0", 0.0)]
    assert states == ["waiting", "waiting", "complete"]


async def test_a_part_with_another_text_replaces_the_stored_one() -> None:
    store = MemoryFragments(["a"])
    main, first, last = row("r", 1.0)
    wrong = msgspec.structs.replace(first, text=b"zz", raw=b'{"data":"zz"}')
    for part in (wrong, main, last):
        await store.add("a", part)
    assert [part.text[:1] for part in await store.row("r")] == [b"", b"z", b"y"]
    assert (await store.add("a", first)).state == "complete"
    assert list(await store.row("r")) == [main, first, last]


async def test_text_and_bytes_come_back_exactly_whatever_the_record_looks_like() -> None:
    store = MemoryFragments(["a"])
    raws = [b'{"data":"\\u00e9"}', b'{"data":"other"}', b"\xff not json", b'{"data":7}', b'{"data":"\\ud800"}', b"[" * 100_000]
    for index, raw in enumerate(raws):
        await store.add("a", Part("r", index, raw, "é".encode(), "s", "1", 1.0))
    found = await store.overdue("a", math.inf)
    assert [(part.raw, part.text) for part in found] == [(raw, "é".encode()) for raw in raws]


async def test_large_pieces_are_stored_once(tmp_path: Path) -> None:
    store = SqliteFragments(tmp_path / "f.db", ["a", "b"])
    parts = cut("big", {"after": [b'{"a":"' + b"x" * 9_000_000, b"y" * 9_000_000]})
    for sink in ("a", "b"):
        for part in parts:
            await store.add(sink, part)
    assert list(await store.row("big")) == parts
    await store.close()
    size = (tmp_path / "f.db").stat().st_size
    assert size < 1.05 * sum(len(part.raw) for part in parts)


async def test_the_markers_of_a_sink_that_is_gone_age_by_what_the_others_add(tmp_path: Path) -> None:
    path, parts = tmp_path / "f.db", row("r", 1 * DAY)
    both = SqliteFragments(path, ["a", "gone"])
    for part in parts:
        await both.add("gone", part)
    await both.done("gone", ["r"])
    await both.close()
    for day, state in ((8.9, "done"), (9.1, "waiting")):
        alone = SqliteFragments(path, ["a"])
        await alone.add("a", row(f"day-{day}", day * DAY)[0])
        await alone.done("a", ["r"])
        await alone.close()
        both = SqliteFragments(path, ["a", "gone"])
        assert (await both.add("gone", parts[1])).state == state
        await both.close()
