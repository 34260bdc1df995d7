"""Memory: what is remembered, and what waits for a sink that does not take it."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import msgspec
import pytest

from dsqlcdc.contract import Change, Op, Outcome, Table
from dsqlcdc.core.ledger import Ledger
from dsqlcdc.core.records import Page, Record
from dsqlcdc.core.sequence import Latest, Unique
from tests.benchmarks import harness

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

MILLION = 1_000_000


@pytest.mark.parametrize(("kind", "limit"), [(Unique, 160), (Latest, 200)])
def test_a_remembered_id_costs_little(kind: type[Unique] | type[Latest], limit: int) -> None:
    """In a process of its own: what this one has let go of already would hold them for nothing."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as own:
        each = own.submit(remembered, kind).result()
    harness.judge(f"a remembered change, {kind.kind}", each, limit, held=250, least=False, unit=" bytes")


def remembered(kind: type[Unique] | type[Latest]) -> float:
    """Bytes a change: a million admitted, settled and taken by commits, page by page, as in a run."""
    ledger = Ledger()
    sequencer = kind(ledger, 1800.0)
    table = Table("cluster", "public", "orders", ("id",))
    gc.collect()
    before = _resident()
    for start in range(0, MILLION, 1000):
        arrived = 1.78e9 + start / 1000
        page = Page("shard", [Record(f"{start + n:056d}", b"", arrived) for n in range(1000)])
        debt = ledger.enter(page)
        changes = [_change(table, start + n, arrived) for n in range(1000)]
        going, owed = sequencer.admit(changes, list(range(debt, debt + 1000)))
        ledger.settle(owed, Outcome.DELIVERED)
        sequencer.settled(going)
        ledger.frontier()
        sequencer.take_memory()
    del page, changes, going, owed
    each = (_resident() - before) / MILLION
    assert len(sequencer) == MILLION
    return each


def _change(table: Table, n: int, arrived: float) -> Change:
    id = (n * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128)).to_bytes(16)
    return Change(
        id, Op.INSERT, table, msgspec.Raw(b'{"id":%d}' % n), 1_780_000_000_000_000_000 + n, "", None, None, b"", "shard", "1", arrived
    )


def test_a_stalled_sink_does_not_fill_the_memory(tmp_path: Path) -> None:
    """64 shards of rows of 10 MiB, and an S3 that takes requests and never answers a write: the whole process below 400 MiB."""
    with harness.kinesis(shards=64, records=192, page=1, row_bytes=9_900_000, stall_s3=1) as endpoint:
        path = harness.config(tmp_path, endpoint, "{type: s3, bucket: stalled, roll: {age: 1s}}")
        process = subprocess.Popen([*harness.DSQLCDC, "run", str(path)], env=harness.ENVIRONMENT, stderr=subprocess.DEVNULL)
        try:
            peak, flat, until = 0.0, 0, time.monotonic() + 90
            while time.monotonic() < until and flat < 20 and process.poll() is None:
                seen = harness.peak_of(process.pid)
                flat = flat + 1 if seen <= peak else 0
                peak = max(peak, seen)
                time.sleep(0.5)  # a benchmark waits for real processes
            assert process.poll() is None, "the daemon ended"
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    harness.table("64 shards, rows of 10 MiB, a stalled S3", [(f"{peak:.0f}", "below 400")], ("peak RSS MiB", "limit"))
    assert 60 < peak < 400


def _resident() -> int:
    """Bytes of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_killed_daemon_is_back_in_seconds(tmp_path: Path) -> None:
    """From the start of a process with a million remembered ids to its first new record; and the same without any state."""
    fresh = _first_line(tmp_path / "fresh", remembered=0)
    loaded = _first_line(tmp_path / "loaded", remembered=MILLION)
    harness.table(
        "from process start to the first record at the sink",
        [("no state", f"{fresh:.2f}"), ("a million remembered ids, after kill -9", f"{loaded:.2f}")],
        ("", "s"),
    )
    harness.judge("kill -9 to the first new record, a million ids", loaded, 2, held=3, least=False, unit=" s")


def _first_line(directory: Path, remembered: int) -> float:
    """The best of three starts."""
    best = float("inf")
    for attempt in range(3):
        place = directory / str(attempt)
        place.mkdir(parents=True)
        with harness.kinesis(records=40_000, page=1000) as endpoint:
            path = harness.config(place, endpoint, "{type: stdout}")
            if remembered:
                _run_until_first_line(path, kill=True)
                _remember(place / "state.db", remembered)
            best = min(best, _run_until_first_line(path, kill=True))
    return best


def _run_until_first_line(path: Path, *, kill: bool) -> float:
    began = time.monotonic()
    process = subprocess.Popen(
        [*harness.DSQLCDC, "run", str(path)], env=harness.ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    took = time.monotonic() - began
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert json.loads(line)["table"] == "order_items"
    return took


def _remember(path: Path, count: int) -> None:
    """A million ids into the state, through the store's own commits."""
    import asyncio

    from dsqlcdc.core.ports import Commit, Memory
    from dsqlcdc.stores.sqlite_checkpoints import SqliteCheckpoints

    async def write() -> None:
        store = SqliteCheckpoints(path)
        names = await store.names()
        for start in range(0, count, 20_000):
            memory = Memory("unique", 1.78e9 + start, os.urandom(16 * 20_000))
            await store.commit(names[0], Commit({}, memory))
        await store.close()

    asyncio.run(write())
