"""What is done about a stream stays within its limits, whatever is tried and when, and is known to the next process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.errors import Held
from dsqlcdc.stores.sqlite_checkpoints import SqliteCheckpoints
from dsqlcdc.streams.deeds import DAY, KEPT_DEEDS, LIMITS, TRIES, Deed, acting_name, read_deeds, refusal, write_deeds
from dsqlcdc.streams.facts import Action, Kind

from .scenes import NOW, desired

KINDS: tuple[Kind, ...] = tuple(kind for kind in get_args(Kind) if kind)
Refuse = Callable[[Sequence[Deed], Action, float], str]


def test_every_kind_of_action_has_a_limit_and_what_is_for_people_is_never_done() -> None:
    assert set(LIMITS) == set(KINDS)
    assert refusal([], Action(what="look"), NOW)


@st.composite
def attempts(draw: st.DrawFn) -> list[tuple[float, Kind, int]]:
    """(when, what kind, to what)"""
    at, made = NOW, list[tuple[float, Kind, int]]()
    for _ in range(draw(st.integers(1, 60))):
        at += draw(st.sampled_from([1.0, 300.0, 900.0, 3600.0, 40_000.0]))
        made.append((at, draw(st.sampled_from(KINDS)), draw(st.integers(1, 3))))
    return made


def live(tried: Sequence[tuple[float, Kind, int]], refuse: Refuse) -> list[Deed]:
    deeds: list[Deed] = []
    for at, kind, after in tried:
        action = Action(what="x", kind=kind, after=after)
        if not refuse(deeds, action, at):
            deeds.append(Deed(at=at, error="", kind=kind, what="x", after=after, result="done"))
    return deeds


def within(deeds: Sequence[Deed]) -> bool:
    """Of trust and policy each document has limits of its own."""
    for kind, after in product(LIMITS, (1, 2, 3)):
        limit, documents = LIMITS[kind], kind in ("trust", "policy")
        times = [deed.at for deed in deeds if deed.kind == kind and (not documents or deed.after == after)]
        if any(later - earlier < limit.apart for earlier, later in pairwise(times)):
            return False
        if any(sum(0 <= at - first < DAY for at in times) > limit.a_day for first in times):
            return False
    return all(sum((one.kind, one.after) == (deed.kind, deed.after) for one in deeds) <= TRIES for deed in deeds)


@given(attempts())
def test_limits_hold_whatever_is_tried(tried: list[tuple[float, Kind, int]]) -> None:
    assert within(live(tried, refusal))


def unbound(deeds: Sequence[Deed], action: Action, at: float) -> str:
    """Mutant: only the last deed of all is looked at."""
    return refusal(deeds[-1:], action, at)


def test_one_that_forgets_all_but_the_last_is_found() -> None:
    """Control."""
    tried: list[tuple[float, Kind, int]] = [(NOW + 1000.0 * n, "trust", 1) for n in range(10)]
    assert not within(live(tried, unbound))


def test_what_did_not_help_is_done_again_once_the_stream_was_well_in_between() -> None:
    deeds = [Deed(at=NOW + 3600.0 * n, error="", kind="shards", what="x", after=4, result="done") for n in range(TRIES)]
    action, later = Action(what="x", kind="shards", after=4), NOW + 2 * DAY
    assert "did not help" in refusal(deeds, action, later)
    assert refusal(deeds, action, later, well_since=deeds[0].at + 1.0) == ""
    assert refusal(deeds, msgspec.structs.replace(action, after=8), later) == ""


def test_a_policy_for_another_reason_is_another_action_and_the_same_one_is_not() -> None:
    done = [Deed(at=NOW, error="KINESIS_ACCESS_DENIED", kind="policy", what="x", after={"a": 1}, result="done")]
    action = Action(what="x", kind="policy", after={"a": 2})
    assert refusal(done, action, NOW + 5.0, error="KINESIS_KMS_ACCESS_DENIED") == ""
    again = msgspec.structs.replace(action, after={"a": 1})
    assert "not repeated" in refusal(done, again, NOW + 5.0, error="KINESIS_ACCESS_DENIED")
    shards = [Deed(at=NOW, error="a", kind="shards", what="x", after=4, result="done")]  # AWS counts every change of them
    assert refusal(shards, Action(what="x", kind="shards", after=8), NOW + 5.0, error="b")


async def test_the_journal_is_known_to_the_next_process_and_stays_small(tmp_path: Path) -> None:
    deeds = [Deed(at=NOW + n, error="", kind="trust", what="x", before={"a": [1]}, after=n) for n in range(KEPT_DEEDS + 5)]
    first = SqliteCheckpoints(tmp_path / "state.db")
    await write_deeds(first, desired(), deeds)
    await first.close()
    second = SqliteCheckpoints(tmp_path / "state.db")
    assert await read_deeds(second, desired()) == deeds[5:]
    await second.close()


async def test_one_process_at_a_time_holds_the_lease_beside_the_pipelines_own(tmp_path: Path) -> None:
    first, second = SqliteCheckpoints(tmp_path / "state.db"), SqliteCheckpoints(tmp_path / "state.db")
    await first.hold(msgspec.structs.replace(acting_name(desired()), sink="lake"))
    await first.hold(acting_name(desired()))
    with pytest.raises(Held):
        await second.hold(acting_name(desired()))
    await first.close()
    await second.hold(acting_name(desired()))
    await second.close()
