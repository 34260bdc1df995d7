"""What grows, and what it costs: shards, rows, sinks, keys. Nothing may grow faster than linearly. BENCH_CHARTS=dir keeps the charts."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.benchmarks import harness
from tests.benchmarks.chart import Point, draw

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

SHARDS = (1, 10, 50, 200)
BYTES = {"0.1 KiB": 1, "0.5 KiB": 100, "5 KiB": 4700, "100 KiB": 102_000, "10 MiB": 9_900_000}
BUSY, WINDOW = 100_000, 10.0


def _keep(name: str, title: str, unit: str, points: Sequence[Point]) -> None:
    harness.table(title, [(p.at, f"{p.cost:.3g}", f"{p.memory:.0f}") for p in points], ("", unit, "peak MiB"))
    if place := os.environ.get("BENCH_CHARTS"):
        (Path(place) / f"{name}.svg").write_text(draw(title, unit, points))


def _once(place: Path, endpoint: str, sinks: Sequence[str] = ("{type: drop}",)) -> harness.Run:
    place.mkdir(parents=True)
    path = harness.config(place, endpoint)
    named = ", ".join(f"s{n}: {sink}" for n, sink in enumerate(sinks))
    path.write_text(path.read_text().replace("sinks: {out: {type: drop}}", f"sinks: {{{named}}}"))
    done = harness.run([*harness.DSQLCDC, "run", str(path), "--once", "--json"])
    assert all(sink["open"] == 0 for sink in harness.summary(done.out)["sinks"].values())
    return done


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> float:
    """CPU seconds before a process reads."""
    root = tmp_path_factory.mktemp("start")
    with harness.kinesis(records=4) as endpoint:
        return min(_once(root / str(n), endpoint).cpu for n in range(3))


def test_busy_shards_cost_by_their_records_alone(tmp_path: Path, start: float) -> None:
    points: list[Point] = []
    for shards in SHARDS:
        with harness.kinesis(shards=shards, records=BUSY) as endpoint:
            done = _once(tmp_path / str(shards), endpoint)
        points.append(Point(f"{shards}", (done.cpu - start) / BUSY * 1e6, done.rss))
    _keep("shards-busy", f"{BUSY:,} records over so many shards", "CPU µs a record", points)
    harness.judge("CPU a record, 200 shards against 10", points[3].cost / points[1].cost, 1.5, held=2.5, least=False)


def test_idle_shards_cost_little(tmp_path: Path) -> None:
    points: list[Point] = []
    for shards in SHARDS:
        place = tmp_path / str(shards)
        place.mkdir()
        with harness.kinesis(shards=shards, records=shards) as endpoint:
            command = [*harness.DSQLCDC, "run", str(harness.config(place, endpoint))]
            process = subprocess.Popen(command, env=harness.ENVIRONMENT, stderr=subprocess.DEVNULL)
            try:
                time.sleep(WINDOW)  # a benchmark waits for real processes
                before = harness.cpu_of(process.pid)
                time.sleep(WINDOW)
                points.append(Point(f"{shards}", (harness.cpu_of(process.pid) - before) / WINDOW * 100, harness.peak_of(process.pid)))
            finally:
                process.kill()
                process.wait()
    _keep("shards-idle", "idle shards, each asked once a second", "% of a core", points)
    harness.judge("200 idle shards", points[-1].cost, 5, held=20, least=False, unit=" % of a core")


def test_large_rows_cost_by_their_bytes(tmp_path: Path, start: float) -> None:
    points: list[Point] = []
    for name, size in BYTES.items():
        records = max(20, min(100_000, 150_000_000 // (size + 450)))
        with harness.kinesis(records=records, row_bytes=size) as endpoint:
            done = _once(tmp_path / name, endpoint)
        points.append(Point(name, (done.cpu - start) / (records * (size + 450) / 2**20) * 1000, done.rss))
    _keep("rows", "rows of so many bytes of text", "CPU ms a MiB", points)
    harness.judge("CPU a MiB, rows of 10 MiB against 100 KiB", points[4].cost / points[3].cost, 2, held=4, least=False)


def test_each_sink_more_costs_no_more_than_the_one_before(tmp_path: Path, start: float) -> None:
    points: list[Point] = []
    with harness.kinesis(records=BUSY) as endpoint:
        for sinks in (1, 2, 3, 4, 5, 8):
            done = _once(tmp_path / str(sinks), endpoint, ["{type: drop}"] * sinks)
            points.append(Point(f"{sinks}", (done.cpu - start) / BUSY * 1e6, done.rss))
    _keep("sinks", "sinks that share what is read", "CPU µs a record", points)
    harness.judge("CPU of eight sinks against one", points[5].cost / points[0].cost, 8, held=6, least=False)


def test_a_remembered_key_costs_the_same_however_many_there_are(tmp_path: Path, start: float) -> None:
    points: list[Point] = []
    for keys in (1_000, 10_000, 100_000, 1_000_000):
        with harness.kinesis(records=keys) as endpoint:
            done = _once(tmp_path / str(keys), endpoint, ["{type: drop, order: latest}"])
        points.append(Point(f"{keys:,}", max(0.0, done.cpu - start) / keys * 1e6, done.rss))
    _keep("keys", "keys remembered, order: latest", "CPU µs a record", points)
    harness.judge("CPU a record, a million keys against 100,000", points[3].cost / points[2].cost, 1.5, held=2.5, least=False)
