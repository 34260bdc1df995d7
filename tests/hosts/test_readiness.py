"""Readiness tells progress, not liveness."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.core.telemetry import Status
from dsqlcdc.hosts.readiness import Readiness

from .samples import shard, status


def codes(readiness: Readiness, *statuses: Status, now: float) -> list[str]:
    return [unready.code for unready in readiness.ask(statuses, now)]


def idle(tick: int, **changes: Any) -> Status:
    """At the tip with nothing owed; its shard is read all the same."""
    return status(open=0, in_flight_bytes=0, shards=(shard(open=0, behind_ms=0, read_to=float(tick)),), **changes)


def test_no_pipeline_is_not_ready() -> None:
    assert codes(Readiness(), now=0) == ["starting"]


@pytest.mark.parametrize(("state", "code"), [("starting", "starting"), ("draining", "draining"), ("stopped", "stopped")])
def test_a_pipeline_that_does_not_run_is_not_ready(state: str, code: str) -> None:
    assert codes(Readiness(), status(state=state), now=0) == [code]


def test_a_stopped_sink_is_named_with_its_reason_and_hides_no_other() -> None:
    unready = Readiness().ask([status("hook", state="stopped", reason="DSQLCDC-E101 gone"), status("lake")], 0)
    assert [(u.sink, u.code, u.reason) for u in unready] == [("hook", "stopped", "DSQLCDC-E101 gone")]


def test_one_that_is_done_is_ready() -> None:
    assert codes(Readiness(), status(state="done"), now=10_000) == []


def test_at_the_tip_and_idle_is_ready_for_ever() -> None:
    readiness = Readiness(60)
    assert all(not codes(readiness, idle(tick), now=tick) for tick in range(0, 100_000, 30))


def test_behind_and_not_moving_is_unready_after_the_patience_and_ready_again_when_it_moves() -> None:
    readiness = Readiness(60)
    stuck = status()
    assert [codes(readiness, stuck, now=now) for now in (0, 30, 59)] == [[], [], []]
    assert codes(readiness, stuck, now=60) == ["not_delivering"]
    assert codes(readiness, status(settled={**stuck.settled, "delivered": 91}, open=9), now=61) == []


def test_a_long_idle_time_is_no_stall_of_the_change_that_ends_it() -> None:
    readiness = Readiness(60)
    for tick in range(0, 600, 10):
        assert codes(readiness, idle(tick), now=tick) == []
    assert codes(readiness, status(settled=idle(0).settled, shards=(shard(read_to=601.0),)), now=601) == []


def test_what_only_waits_for_its_other_pieces_is_no_stall() -> None:
    readiness = Readiness(60)
    waiting = [status(open=3, in_flight_bytes=0, shards=(shard(open=3, behind_ms=0, read_to=float(now)),)) for now in range(0, 600, 20)]
    assert all(not codes(readiness, seen, now=now) for seen, now in zip(waiting, range(0, 600, 20), strict=True))


def test_a_source_that_is_not_read_any_more_is_unready_though_nothing_is_open() -> None:
    readiness = Readiness(60)
    silent = idle(5)
    assert codes(readiness, silent, now=0) == []
    assert codes(readiness, silent, now=60) == ["not_reading"]


def test_only_ended_shards_are_not_expected_to_be_read() -> None:
    readiness = Readiness(60)
    over = status(open=0, in_flight_bytes=0, shards=(shard(ended=True, open=0),))
    assert [codes(readiness, over, now=now) for now in (0, 1000)] == [[], []]


def test_a_shard_that_pauses_while_others_are_read_is_progress() -> None:
    readiness = Readiness(60)
    for now in range(0, 600, 20):
        shards = shard("paused", read_to=1.0, open=0), shard("slow", read_to=float(now), open=0)
        assert codes(readiness, status(open=0, in_flight_bytes=0, shards=shards), now=now) == []


def test_a_store_that_takes_no_commit_is_unready_though_records_flow() -> None:
    readiness, found = Readiness(60), []
    for now in range(0, 100, 10):
        moving = msgspec.structs.replace(idle(now, commits=12, settled={"delivered": now}), retries={"E210": now})
        found.append(codes(readiness, moving, now=now))
    assert found[0] == []
    assert found[-1] == ["not_committing"]


def test_a_checkpoint_held_back_by_an_older_record_is_no_stall() -> None:
    readiness = Readiness(60)
    assert all(not codes(readiness, idle(now, commits=12, settled={"delivered": now}), now=now) for now in range(0, 1000, 10))


def stall_is_told_in_time(readiness: Readiness, steps: list[tuple[int, bool]]) -> bool:
    """The law: unready exactly when nothing was settled for the patience, whatever else goes on."""
    now = moved_at = delivered = read = 0
    assert codes(readiness, status(settled={"delivered": 0}), now=0) == []
    for elapsed, moves in steps:
        now, read = now + elapsed, read + 1
        if moves:
            delivered, moved_at = delivered + 1, now
        seen = status(read=110 + read, settled={"delivered": delivered}, shards=(shard(read_to=float(now)),))
        if bool(codes(readiness, seen, now=now)) != (now - moved_at >= readiness.patience):
            return False
    return True


@given(st.lists(st.tuples(st.integers(1, 59), st.booleans()), max_size=60))
def test_a_stall_is_told_exactly_when_it_has_lasted_long_enough(steps: list[tuple[int, bool]]) -> None:
    assert stall_is_told_in_time(Readiness(60), steps)


class Liveness(Readiness):
    """The mutant: whoever reads is alive, so it must be well."""

    def _update(self, status: Status, now: float) -> Any:
        seen = super()._update(status, now)
        seen.settled_at = seen.read_at
        return seen


def test_the_law_would_catch_liveness_taken_for_readiness() -> None:
    assert not stall_is_told_in_time(Liveness(60), [(30, False)] * 4)
