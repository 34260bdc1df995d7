"""What the page keeps: rings that do not grow, what happened in words, the worst shards first."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.core.telemetry import Kept, Status
from dsqlcdc.hosts import live as module
from dsqlcdc.hosts.happened import Happened
from dsqlcdc.hosts.history import POINTS, SERIES, SHARD_POINTS, SHARD_STEPS, History, worst
from dsqlcdc.hosts.live import Live, Seen
from dsqlcdc.hosts.rates import Flow
from dsqlcdc.hosts.readiness import Readiness

from .samples import NOW, gap, kept, shard, status, view


def live_of(statuses: list[Status], **more: Any) -> Live:
    return Live(Seen(lambda: statuses, Readiness(60), config="orders.yaml", **more), lambda: NOW)


def page(statuses: list[Status], **more: Any) -> dict[str, Any]:
    async def asked() -> dict[str, Any]:
        return live_of(statuses, **more).page()

    return asyncio.run(asked())


# history -------------------------------------------------------------------------------------------------------------------------------


def test_history_is_bounded_in_time_and_shards_that_went_leave_nothing() -> None:
    history = History()
    for look in range(POINTS + 500):
        shards = [shard(f"shardId-{look // 50 + n}") for n in range(3)]
        history.add(NOW + look, [status(shards=tuple(shards))], {"lake": Flow(1.0, 2.0, 3.0)})
    body = history.as_json()
    assert len(body["at"]) == POINTS
    assert {name: len(values) for name, values in body["sinks"]["lake"].items()} == dict.fromkeys(SERIES, POINTS)
    names = {f"shardId-{n}" for n in range(200)}
    known = history.shards_json({"lake": sorted(names)})["lake"]
    assert len(known) == 3
    assert all(len(one["open"]) <= SHARD_POINTS for one in known.values())


def test_a_shard_has_a_point_every_few_looks_and_never_more_than_its_ring() -> None:
    history = History()
    for look in range(SHARD_STEPS * (SHARD_POINTS + 20)):
        history.add(NOW + look, [status(shards=(shard(open=look),))], {})
    (known,) = history.shards_json({"lake": [shard().shard]})["lake"].values()
    assert len(known["open"]) == SHARD_POINTS
    assert known["open"][-1] - known["open"][0] == SHARD_STEPS * (SHARD_POINTS - 1)


def test_a_sink_that_appears_later_has_a_shorter_series() -> None:
    history = History()
    history.add(NOW, [status("lake")], {})
    history.add(NOW + 2, [status("lake"), status("hook")], {})
    assert [len(series["open"]) for series in history.as_json()["sinks"].values()] == [2, 1]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()), max_size=30))
def test_the_worst_shards_come_first_and_only_those_done_are_left_out(given: list[tuple[int, int, bool]]) -> None:
    shards = [shard(f"s{n}", behind_ms=late, open=open_, ended=ended) for n, (late, open_, ended) in enumerate(given)]
    found = worst(shards)
    assert {one.shard for one in found} == {one.shard for one in shards if one.open or not one.ended}
    assert [(one.behind_ms, one.open) for one in found] == sorted(((one.behind_ms, one.open) for one in found), reverse=True)


# what happened -------------------------------------------------------------------------------------------------------------------------


def said(*looks: tuple[list[Status], Any, Kept]) -> list[tuple[str, str, str]]:
    happened = Happened()
    for number, (statuses, watch, held) in enumerate(looks):
        happened.look(NOW + 2 * number, statuses, watch, held)
    return [(one.level, one.sink, one.what) for one in reversed(happened.last())]


EMPTY = Kept("orders-cdc", at=NOW)


def test_what_was_there_at_first_is_no_news() -> None:
    assert said(([status(state="stopped", letters=9)], view(), kept())) == []
    assert said(([status()], None, Kept("")), ([status()], None, kept())) == []


def test_a_sink_that_stops_is_told_with_its_reason_once() -> None:
    stopped = [status(state="stopped", reason="DSQLCDC-E101 gone")]
    assert said(([status()], None, EMPTY), (stopped, None, EMPTY), (stopped, None, EMPTY)) == [
        ("error", "lake", "stopped, running before: DSQLCDC-E101 gone")
    ]


def test_a_split_names_who_ended_and_who_began_once_for_all_sinks() -> None:
    before = (shard("shardId-0"), shard("shardId-1"))
    after = (shard("shardId-0", ended=True), shard("shardId-1"), shard("shardId-2"), shard("shardId-3"))
    looks = [[status(sink, shards=shards) for sink in ("lake", "hook")] for shards in (before, after)]
    assert said(*((statuses, None, EMPTY) for statuses in looks)) == [
        ("info", "", "shards changed: shardId-0 ended; shardId-2, shardId-3 began")
    ]


def test_the_cdc_stream_its_circuit_an_alarm_and_gaps_come_and_go() -> None:
    healthy = view(status="ACTIVE", reason=None)
    worse = [status(circuit="open", alarm=0.5)]
    owed, done = kept(gaps=(gap(),)), kept(gaps=(gap(acked="seen"),))
    found = said(([status()], healthy, EMPTY), (worse, view(), owed), ([status()], healthy, done))
    assert [level for level, _, _ in found] == ["warning", "error", "error", "error", "good", "good", "good", "good"]
    told = "; ".join(what for _, _, what in found)
    named = (
        "circuit is open",
        "50% of the retention",
        "IMPAIRED (ROLE_ACCESS_DENIED), ACTIVE before",
        "gap abc123 (trimmed)",
        "acknowledged",
    )
    for words in named:
        assert words in told


def test_a_flood_of_dead_letters_is_one_line_a_minute_and_the_list_is_bounded() -> None:
    happened = Happened()
    for look in range(3000):
        happened.look(NOW + 2 * look, [status(letters=look)], None, EMPTY)
    told = happened.last()
    assert len(told) == 50
    assert all(one.what.endswith("dead letters") for one in told[1:])
    assert len({round(one.at) for one in told}) == 50


# the page's body -----------------------------------------------------------------------------------------------------------------------


def test_two_hundred_shards_are_summed_up_and_the_body_stays_small() -> None:
    shards = tuple(shard(f"shardId-{n:012d}", behind_ms=n * 100, open=n % 3) for n in range(200))
    body = page([status(shards=shards)])
    (sink,) = body["sinks"]
    assert len(sink["shards"]["shown"]) == module.SHOWN
    assert sink["shards"]["shown"][0]["shard"] == "shardId-000000000199"
    assert (sink["shards"]["live"], len(sink["shards"]["strip"])) == (200, 200)
    assert set(sink["shards"]["strip"]) == {"0", "1", "2"}
    assert len(json.dumps(body)) < 20_000


def test_ten_thousand_shards_and_codes_are_bounded_too() -> None:
    shards = tuple(shard(f"shardId-{n:012d}", behind_ms=n) for n in range(10_000))
    many = {f"code{n}": 1 for n in range(500)}
    body = page([status(shards=shards, dead=many, retries=many)])
    assert len(json.dumps(body)) < 25_000
    assert sum(body["sinks"][0]["dead"].values()) == 500


def test_a_reason_is_parted_from_its_command_and_names_the_config() -> None:
    reason = "DSQLCDC-E301 too many records refused, sink lake: 60 of 100. Run: dsqlcdc dead list CONFIG, once mended"
    (sink,) = page([status(state="stopped", reason=reason)])["sinks"]
    assert sink["reason"].endswith("60 of 100.")
    assert (sink["run"], sink["then"]) == ("dsqlcdc dead list orders.yaml", "once mended")


def test_before_anything_came_every_number_is_there() -> None:
    nothing = status(read=0, settled={}, open=0, shards=(), committed_at=0.0, newest_version=0, lag={}, retries={}, dead={}, letters=0)
    (sink,) = page([nothing])["sinks"]
    assert (sink["point"], sink["lag"], sink["committed_at"]) == ((0.0, 0.0, 0, 0, 0.0, 0.0), {}, None)
    assert page([])["sinks"] == []


def test_what_is_not_json_never_gets_in() -> None:
    body = page([status()], watch=view)
    assert msgspec.json.decode(msgspec.json.encode(body))["stream"]["status"] == "IMPAIRED"


async def test_a_bug_in_what_is_shown_ends_the_showing_and_nothing_else(caplog: Any) -> None:
    def broken() -> list[Status]:
        raise RuntimeError("a bug")

    async with Live(Seen(broken, Readiness(60)), lambda: NOW).running():
        for _ in range(20):
            await asyncio.sleep(0)
        assert "not kept up to date" in caplog.text
