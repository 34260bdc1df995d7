"""Laws of a CDC stream under any order of breaking, mending, committing and waiting; and mutants that break them."""

from __future__ import annotations

import base64
from collections import deque
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsqlcdc.local.cdc import FINAL_WHEN_CREATING, CdcStream, Pace
from dsqlcdc.local.clock import Clock
from dsqlcdc.local.kinesis import Kinesis

LEGAL = {
    "CREATING": {"CREATING", "ACTIVE", "IMPAIRED", "FAILED"},
    "ACTIVE": {"ACTIVE", "IMPAIRED", "FAILED"},
    "IMPAIRED": {"IMPAIRED", "ACTIVE", "FAILED"},
    "FAILED": {"FAILED"},
}
REASONS = (
    "ROLE_ACCESS_DENIED",
    "KINESIS_ACCESS_DENIED",
    "KINESIS_KMS_ACCESS_DENIED",
    "KINESIS_STREAM_NOT_FOUND",
    "CLUSTER_CMK_INACCESSIBLE",
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.lists(st.booleans(), min_size=1, max_size=4)),
        st.tuples(st.just("break"), st.sampled_from(REASONS)),
        st.tuples(st.just("mend"), st.none()),
        st.tuples(st.just("limit"), st.sampled_from((1024, 10240))),
        st.tuples(st.just("demand"), st.sampled_from((0, 3))),
        st.tuples(st.just("wait"), st.sampled_from((0.5, 5.0, 50.0))),
    ),
    max_size=25,
)


class Bench:
    """One CDC stream into one Kinesis stream, and what is known of both."""

    def __init__(self, kind: type[CdcStream], retry: float) -> None:
        self.clock = Clock(1_700_000_000.0, lambda: 0.0)
        self.kinesis = Kinesis(self.clock)
        self.target = self.kinesis.create("s", 1)
        self.clock.advance(1)
        arn = f"arn:aws:dsql:us-east-1:123456789012:cluster/{'c' * 26}/stream/{'s' * 26}"
        pace = Pace(retry=retry, lag_limit=100.0)
        self.stream = kind(arn, {"streamArn": self.target.arn, "roleArn": "r"}, {}, self.clock.now() + 1, self.clock, pace)
        self.why, self.taken, self.made = "", 0, 0

    def arrived(self) -> list[int]:
        shard = next(iter(self.target.shards.values()))
        found: list[bytes] = []
        while shard.first + len(found) < shard.next:  # a reply holds 10 MiB at most
            found += shard.read(shard.first + len(found), 10_000, self.clock.now())[0]
        return [int(base64.b64decode(msgspec.json.decode(one)["Data"]).lstrip(b" ")) for one in found]

    def step(self, name: str, given: Any) -> None:
        if name == "commit":
            records = [("k", str(self.made + n).encode().rjust(1_100_000 if large else 10)) for n, large in enumerate(given)]
            self.made += len(given)
            self.stream.send(records, self.kinesis, lambda _: self.why)
            self.taken += len(given) if self.stream.status in ("ACTIVE", "IMPAIRED") else 0
        elif name == "limit":
            self.target.max_record_kib = given
        elif name == "demand":
            self.kinesis.demand("s", given)
        elif name == "wait":
            self.clock.advance(given)
        else:
            self.why = given or ""
        self.stream.look(self.kinesis, lambda _: self.why)


def obey(kind: type[CdcStream], steps: list[tuple[str, Any]], retry: float) -> None:
    bench = Bench(kind, retry)
    seen = bench.stream.status
    for name, what in steps:
        bench.step(name, what)
        now = bench.stream.status
        assert now in LEGAL[seen], f"{seen} became {now}"
        seen = now
        arrived = bench.arrived()
        assert len(arrived) == len(set(arrived)), "delivered twice"
        if now in ("ACTIVE", "IMPAIRED"):
            assert len(arrived) + bench.stream.waiting == bench.taken, "lost"
        if now == "ACTIVE":
            assert (bench.stream.waiting, bench.stream.error) == (0, "")
        if now in ("IMPAIRED", "FAILED"):
            assert bench.stream.error
    if seen not in ("ACTIVE", "IMPAIRED"):
        return
    for name, what in (("mend", None), ("limit", 10240), ("demand", 0)):
        bench.step(name, what)
    if bench.stream.lag < 30 and bench.why == "":
        bench.stream._pace.lag_limit = 1e9
        bench.step("wait", 64 * retry + 1)
        assert bench.stream.status == "ACTIVE", "what is mended is delivered by itself"
        assert len(bench.arrived()) == bench.taken


@settings(max_examples=60, deadline=None)
@example([("limit", 10240), ("wait", 5.0), ("commit", [True] * 10)], 0.0)  # more than one reply of GetRecords
@given(STEPS, st.sampled_from((0.0, 2.0)))
def test_a_stream_loses_nothing_repeats_nothing_and_moves_only_as_documented(steps: list[tuple[str, Any]], retry: float) -> None:
    obey(CdcStream, steps, retry)


class Forgetful(CdcStream):
    """Delivers what it held, and holds it still."""

    def _put(self, records: deque[Any], kinesis: Kinesis) -> Any:
        held, error = super()._put(records, kinesis)
        return (records if error else held), error


class Reviving(CdcStream):
    """Comes back from FAILED."""

    def look(self, kinesis: Kinesis, obstacle: Any) -> None:
        super().look(kinesis, obstacle)
        if self._failed and not obstacle(self):
            self._failed = False
            self._note("")


class Dropping(CdcStream):
    """Lets go of what Kinesis refuses."""

    def _put(self, records: deque[Any], kinesis: Kinesis) -> Any:
        _, error = super()._put(records, kinesis)
        return deque(), error


TRIP = [
    ("wait", 5.0),
    ("commit", [True, False]),
    ("commit", [False]),
    ("limit", 10240),
    ("break", "KINESIS_STREAM_NOT_FOUND"),
    ("mend", None),
]


def test_the_trip_that_convicts_the_mutants_is_harmless() -> None:
    obey(CdcStream, TRIP, 0.0)


@pytest.mark.parametrize(("mutant", "crime"), [(Forgetful, "twice|lost"), (Reviving, "FAILED became"), (Dropping, "lost")])
def test_a_mutant_breaks_the_laws(mutant: type[CdcStream], crime: str) -> None:
    with pytest.raises(AssertionError, match=crime):
        obey(mutant, TRIP, 0.0)


@pytest.mark.parametrize("reason", REASONS)
def test_what_keeps_a_new_stream_from_its_target_ends_it_or_impairs_it(reason: str) -> None:
    bench = Bench(CdcStream, 0.0)
    bench.step("break", reason)
    assert bench.stream.status == "CREATING"
    bench.step("wait", 5.0)
    assert bench.stream.status == ("FAILED" if reason in FINAL_WHEN_CREATING else "IMPAIRED")


def test_a_delivery_that_worked_delays_no_later_look() -> None:
    bench = Bench(CdcStream, 10.0)
    bench.step("wait", 5.0)
    bench.step("commit", [False])
    bench.step("break", "ROLE_ACCESS_DENIED")
    assert bench.stream.status == "IMPAIRED"


def test_retries_come_twice_as_late_each_time_up_to_64_times() -> None:
    bench = Bench(CdcStream, 1.0)
    bench.stream._pace.lag_limit = 1e9
    bench.step("wait", 5.0)
    tried: list[float] = []
    start = bench.clock.now()

    def why(_: CdcStream) -> str:
        tried.append(bench.clock.now() - start)
        return "KINESIS_ACCESS_DENIED"

    for _ in range(400):
        bench.stream.look(bench.kinesis, why)
        bench.clock.advance(1.0)
    assert [round(later - sooner) for sooner, later in pairwise(tried)] == [1, 2, 4, 8, 16, 32, 64, 64, 64, 64, 64]


def test_failed_is_final_for_the_control_too() -> None:
    bench = Bench(CdcStream, 0.0)
    bench.step("wait", 5.0)
    bench.stream.fail("INTERNAL_ERROR")
    with pytest.raises(ValueError, match="final"):
        bench.stream.impair("")
    assert (bench.stream.status, bench.stream.error) == ("FAILED", "INTERNAL_ERROR")
