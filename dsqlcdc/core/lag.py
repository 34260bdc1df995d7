"""Lag: how long delivered changes took on each leg of their way; looked at by the batch, never by the record."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence

import msgspec

from dsqlcdc.contract import Change
from dsqlcdc.core.records import Page

LEGS = ("commit_to_kinesis", "kinesis_to_read", "read_to_sink")
"""commit_to_kinesis: from the commit to the arrival at Kinesis, by their clocks. kinesis_to_read: from the arrival to the entry in the ledger,
by Kinesis's clock and ours. read_to_sink: from the entry to the sink's answer, by ours."""
BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 86_400.0)
"""Upper bounds of the histograms' buckets, in seconds."""

RECENT = 120.0
"""Seconds since their arrival for which records tell by how much the service is late."""


class Spread(msgspec.Struct, frozen=True):
    """How one leg's lags are spread. `counts`: changes by bucket of BOUNDS, the last one of those above; not cumulative. `sum`: seconds of all.
    `last`: of the last batch. `now`: as it stands at this moment, whether anything is delivered or not."""

    counts: Sequence[int]
    sum: float
    last: float
    now: float


class _Leg:
    __slots__ = ("counts", "last", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = self.last = 0.0

    def add(self, seconds: float, count: int) -> None:
        seconds = max(0.0, seconds)  # clocks differ
        self.counts[bisect_left(BOUNDS, seconds)] += count
        self.sum += seconds * count
        self.last = seconds


class Lag:
    """One run's lags. `clock`: seconds since the epoch; `time`: the loop's.

    A batch's first and last change stand for half of it each: a histogram costs the same for one change and for ten thousand.
    """

    def __init__(self, clock: Callable[[], float], time: Callable[[], float]) -> None:
        self._clock, self._time = clock, time
        self._legs = {leg: _Leg() for leg in LEGS}
        self._entered: dict[int, float] = {}
        self._came: dict[str, tuple[float, float]] = {}

    def enters(self, page: int) -> None:
        """The page of this number goes into the ledger now."""
        self._entered[page] = self._time()

    def came(self, page: Page) -> None:
        """A page was read: its last change, of a shard, tells by how much the service is late."""
        last = page.records[-1]
        if isinstance(last.parsed, Change):
            self._came[page.shard] = last.arrived, max(0.0, last.arrived - last.parsed.version / 1e9)

    def source_lag(self) -> float | None:
        """Seconds from commit to arrival of what arrived within the last two minutes, the most of all shards; None where nothing did, or
        what is read is older: old records tell nothing of now."""
        now = self._clock()
        return max((lag for arrived, lag in self._came.values() if now - arrived < RECENT), default=None)

    def delivered(self, changes: Sequence[Change], pages: tuple[int, int]) -> None:
        """The sink has these changes. `pages`: the numbers of the pages that the first and the last one were read with."""
        now, time, half = self._clock(), self._time(), len(changes) // 2
        for change, page, count in ((changes[0], pages[0], len(changes) - half), (changes[-1], pages[1], half)):
            entered = self._entered.get(page)
            if not count or entered is None:
                continue
            self._legs["commit_to_kinesis"].add(change.arrived - change.version / 1e9, count)
            self._legs["kinesis_to_read"].add(now - (time - entered) - change.arrived, count)
            self._legs["read_to_sink"].add(time - entered, count)

    def forget(self, is_open: Callable[[int], bool]) -> None:
        """Pages of which nothing is open any more need not be known."""
        for page in [page for page in self._entered if not is_open(page)]:
            del self._entered[page]

    def spreads(self, is_open: Callable[[int], bool], unread: float) -> Mapping[str, Spread]:
        """Each leg. `unread`: seconds since the oldest record that may be unread arrived. At this moment the last leg is as long as
        the oldest change owed has waited; where none is owed, as the last batch took."""
        time = self._time()
        owed = next((time - entered for page, entered in self._entered.items() if is_open(page)), 0.0)
        now = {"kinesis_to_read": unread, "read_to_sink": owed or self._legs["read_to_sink"].last}
        return {name: Spread(tuple(leg.counts), leg.sum, leg.last, max(0.0, now.get(name, leg.last))) for name, leg in self._legs.items()}
