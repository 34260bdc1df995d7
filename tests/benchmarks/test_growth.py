"""What grows, and what it costs: shards, rows, sinks, keys. Nothing may grow faster than linearly. BENCH_CHARTS=dir keeps the charts.

BENCH_KEYS=10000000 goes on to so many keys: some minutes and gigabytes more.
"""

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
BUSY, FULL, WINDOW = 100_000, 400_000, 10.0
"""Records of all shards; of so many, 200 shards have a page of 2,000 each."""
KEYS = tuple(10**n for n in range(3, len(os.environ.get("BENCH_KEYS", "1000000"))))
MANY = 1_000_000
"""More records than these the fake does not hold: it renders a page when it is asked for it."""


def _keep(name: str, title: str, unit: str, points: Sequence[Point]) -> None:
    harness.table(title, [(p.at, f"{p.cost:.3g}", f"{p.memory:.0f}") for p in points], ("", unit, "peak MiB"))
    if place := os.environ.get("BENCH_CHARTS"):
        (Path(place) / f"{name}.svg").write_text(draw(title, unit, points))


def _once(place: Path, endpoint: str, sinks: Sequence[str] = ("{type: drop}",)) -> harness.Run:
    """All that is there, of which nothing is forgotten: a thousand records arrive in a second of the fake's."""
    place.mkdir(parents=True)
    path = harness.config(place, endpoint)
    named = ", ".join(f"s{n}: {sink}" for n, sink in enumerate(sinks))
    text = path.read_text().replace("sinks: {out: {type: drop}}", f"sinks: {{{named}}}")
    path.write_text(text.replace("source: {", "source: {lateness: 12h, "))
    done = harness.run([*harness.DSQLCDC, "run", str(path), "--once", "--json"], timeout=1500)
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
        with harness.kinesis(shards=shards, records=FULL) as endpoint:
            done = _once(tmp_path / str(shards), endpoint)
        points.append(Point(f"{shards}", (done.cpu - start) / FULL * 1e6, done.rss))
    _keep("shards-busy", f"{FULL:,} records over so many shards", "CPU µs a record", points)
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
    harness.judge("200 idle shards", points[-1].cost, 5, held=10, least=False, unit=" % of a core")


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


@pytest.mark.parametrize("order", ["latest", "unique"])
def test_what_is_remembered_costs_the_same_however_much_there_is(tmp_path: Path, start: float, order: str) -> None:
    """`latest` remembers rows, here of FULL records or more; `unique` changes."""
    points: list[Point] = []
    sizes = KEYS if order == "latest" else KEYS[2:]
    for size in sizes:
        records = max(size, FULL) if order == "latest" else size
        with harness.kinesis(records=records, keys=size if order == "latest" else 0, lazy=int(records > MANY)) as endpoint:
            done = _once(tmp_path / f"{size}", endpoint, [f"{{type: drop, order: {order}}}"])
        points.append(Point(f"{size:,}", (done.cpu - start) / records * 1e6, done.rss))
    what = {"latest": "rows", "unique": "changes"}[order]
    _keep(f"remembered-{order}", f"{what} remembered, order: {order}", "CPU µs a record", points)
    larger, smaller = points[-1], points[-2]
    harness.judge(f"CPU a record, {sizes[-1]:,} {what} against {sizes[-2]:,}", larger.cost / smaller.cost, 1.5, held=2.5, least=False)
    if sizes[-1] > MANY:  # with fewer the pages weigh more: test_memory.py measures those
        each = (larger.memory - smaller.memory) * 2**20 / (sizes[-1] - sizes[-2])
        harness.judge(f"memory of one, from {sizes[-2]:,} to {sizes[-1]:,}, {order}", each, 200, held=300, least=False, unit=" bytes")
