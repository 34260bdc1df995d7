"""Many shards in one process: whether all are served alike, what one machine carries, and whether two processes would carry more."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.benchmarks import harness, lag_sink

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

BUSY = 10
MOST = 3_800
"""Records a second of one shard: of this size 2 MB, which is what Kinesis lets be read of it."""
RATE, SECONDS, BACKLOG = 50_000, 12, 400_000
CARRIED = ((10, 2.0), (50, 0.5), (50, 1.0), (50, 2.0), (200, 0.25), (200, 0.5))
"""Shards, and MB/s of each."""
PACED = 6.0
"""Seconds for which each is held."""
RECORD = 523
TOGETHER = 400_000


class Lag(NamedTuple):
    """Of one shard, in milliseconds."""

    mean: float
    p99: float


class Served(NamedTuple):
    """`lags`: of each shard, the busy one first; `all`: of all records, sorted, in milliseconds."""

    lags: list[Lag]
    all: list[float]
    cpu: float
    rss: float


def _serve(place: Path, endpoint: str, expect: int, *, backlog: bool) -> Served:
    """The daemon until `expect` records are at the sink."""
    plugin = place / "lag_sink-0.dist-info"
    plugin.mkdir(parents=True)
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: lag-sink\nVersion: 0\n")
    (plugin / "entry_points.txt").write_text("[dsqlcdc.sinks]\nlag = bench_lag_sink:LagSink.from_options\n")
    shutil.copy(lag_sink.__file__, place / "bench_lag_sink.py")
    answer = place / "lags.json"
    path = harness.config(place, endpoint, f"{{type: lag, path: {answer}, expect: {expect}, backlog: {str(backlog).lower()}}}")
    done = harness.run([*harness.DSQLCDC, "run", str(path)], env={"PYTHONPATH": str(place)})
    found: dict[str, list[float]] = json.loads(answer.read_text())
    assert sum(len(lags) for lags in found.values()) == expect
    lags = [Lag(statistics.fmean(some), some[len(some) * 99 // 100]) for _, some in sorted(found.items())]
    return Served(lags, sorted(lag for some in found.values() for lag in some), done.cpu, done.rss)


def _start(place: Path) -> float:
    """CPU seconds before a process reads."""
    with harness.kinesis(records=4) as endpoint:
        return min(_serve(place / str(n), endpoint, 4, backlog=True).cpu for n in range(2))


def _uneven(lags: Sequence[float]) -> float:
    """The slowest against the median."""
    return max(lags) / statistics.median(lags)


@pytest.mark.parametrize("shards", [4, 50, 200])
def test_no_shard_starves_though_one_is_ten_times_as_busy(tmp_path: Path, shards: int) -> None:
    """At a rate at which the busy one is read at Kinesis's limit, or the process is busy, by all shards' 99th percentile; and at full speed
    through a backlog, where each of the others has as much: by how long their records were under way on average."""
    rate = min(RATE, MOST * (shards - 1 + BUSY) // BUSY)
    with harness.kinesis(shards=shards, records=rate * SECONDS, live=rate, busy=BUSY) as endpoint:
        live = _serve(tmp_path / "live", endpoint, rate * SECONDS, backlog=False)
    with harness.kinesis(shards=shards, records=BACKLOG, busy=BUSY) as endpoint:
        backlog = _serve(tmp_path / "backlog", endpoint, BACKLOG, backlog=True)
    assert len(live.lags) == len(backlog.lags) == shards
    paced, others = [lag.p99 for lag in live.lags], [lag.mean for lag in backlog.lags[1:]]
    rows = [
        (f"{rate:,} a second, p99 ms", *(f"{of:.0f}" for of in (paced[0], statistics.median(paced), max(paced)))),
        ("a backlog at full speed, mean ms", *(f"{of:.0f}" for of in (backlog.lags[0].mean, statistics.median(others), max(others)))),
    ]
    harness.table(f"{shards} shards, one {BUSY} times as busy", rows, ("", "the busy one", "median", "slowest"))
    harness.judge(f"slowest of {shards} shards against their median, paced", _uneven(paced), 3, held=3, least=False)
    harness.judge("… at full speed", _uneven(others), 3, held=3, least=False)


def test_what_one_machine_carries(tmp_path: Path) -> None:
    """Shards at a rate of bytes each: CPU and lag. Where the lag runs away, the machine does not carry it."""
    start = _start(tmp_path / "start")
    rows, costs, first = [], [], 0.0
    for shards, each in CARRIED:
        live = int(shards * each * 1e6 / RECORD)
        count = int(live * PACED)
        with harness.kinesis(shards=shards, records=count, live=live) as endpoint:
            served = _serve(tmp_path / f"{shards} {each}", endpoint, count, backlog=False)
        p50, p99 = served.all[len(served.all) // 2], served.all[len(served.all) * 99 // 100]
        cost = (served.cpu - start) / count * 1e6
        rows.append(
            (shards, f"{each:g}", f"{live:,}", f"{cost:.2f}", f"{cost * live / 1e4:.0f}", f"{p50:.0f}", f"{p99:.0f}", f"{served.rss:.0f}")
        )
        costs.append(cost)
        first = first or p99
    heads = ("shards", "MB/s each", "records/s", "CPU µs a record", "% of a core", "p50 ms", "p99 ms", "peak MiB")
    harness.table(f"{PACED:g} seconds of it", rows, heads)
    harness.judge("10 shards at 2 MB/s, commit to sink, p99", first, 1150, held=6000, least=False, unit=" ms")
    harness.judge("CPU a record, 200 shards against 50, 100 MB/s", costs[5] / costs[3], 1.5, held=2.5, least=False)


def test_two_processes_with_half_of_the_shards_each_against_one(tmp_path: Path) -> None:
    """Wall time from start to end, less that of the same over four records. The fakes take a part of both cores too: it is said."""
    with ExitStack() as stack:
        four = stack.enter_context(harness.kinesis(records=TOGETHER))
        halves = [stack.enter_context(harness.kinesis(shards=2, records=TOGETHER // 2)) for _ in range(2)]
        few = stack.enter_context(harness.kinesis(records=4))
        walls: dict[str, list[float]] = {}
        for turn in range(harness.ROUNDS):
            for name, endpoints in {"one": [four], "two": halves, "one start": [few], "two start": [few, few]}.items():
                walls.setdefault(name, []).append(_together(tmp_path / f"{turn} {name}", endpoints))
    least = {name: min(some) for name, some in walls.items()}
    one, two = least["one"] - least["one start"], least["two"] - least["two start"]
    rows = [
        (name, f"{least[name]:.2f}", f"{least[f'{name} start']:.2f}", f"{TOGETHER / of:,.0f}") for name, of in (("one", one), ("two", two))
    ]
    harness.table(f"{TOGETHER:,} records, the best of {harness.ROUNDS}", rows, ("processes", "wall s", "start-up s", "records/s"))
    harness.judge("two processes against one, wall time", one / two, 1.6, held=0.8)


def _together(place: Path, endpoints: Sequence[str]) -> float:
    """Wall seconds until daemons at each of these have read all."""
    processes = []
    since = time.perf_counter()
    for n, endpoint in enumerate(endpoints):
        (own := place / str(n)).mkdir(parents=True)
        command = [*harness.DSQLCDC, "run", str(harness.config(own, endpoint)), "--once", "--json"]
        processes.append(subprocess.Popen(command, env=harness.ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    assert [process.wait() for process in processes] == [os.EX_OK] * len(endpoints)
    return time.perf_counter() - since
