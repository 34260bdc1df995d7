"""What being watched costs: metrics, the page's history, two scrapes a second and somebody who looks at the page, against nothing of it."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from dsqlcdc.assemble import Assembly
from dsqlcdc.config import load
from dsqlcdc.core.lag import Lag
from dsqlcdc.hosts import daemon, http
from tests.benchmarks import harness

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

RECORDS, ROUNDS, MOST = 600_000, 5, 0.02

LOOKER = """
import sys, threading, time, urllib.request
url = sys.argv[1]
def listen():
    for line in urllib.request.urlopen(url + "/events"): pass
threading.Thread(target=listen, daemon=True).start()
while True:
    urllib.request.urlopen(url + "/metrics").read()
    time.sleep(0.5)
"""
"""Somebody in another process: what they cost is theirs."""


@contextmanager
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without what the hot road does for metrics alone."""
    with monkeypatch.context() as patch:
        for name in ("enters", "delivered", "forget"):
            patch.setattr(Lag, name, lambda *_: None)
        yield


async def once(path: Path, watched: bool) -> tuple[float, int]:
    """CPU seconds of this process from the first read to the last commit, and how many records were settled."""
    spent = 0.0

    @asynccontextmanager
    async def looked_at(assembly: Assembly) -> AsyncGenerator[None, None]:
        serving = http.serve("127.0.0.1:0", assembly.statuses, source=assembly.reading, kept=assembly.kept)
        async with serving as url:
            looker = await asyncio.to_thread(subprocess.Popen, [sys.executable, "-c", LOOKER, url], stderr=subprocess.DEVNULL)
            try:
                yield
            finally:
                looker.kill()
                await asyncio.to_thread(looker.wait)

    @asynccontextmanager
    async def timed(_: Assembly) -> AsyncGenerator[None, None]:
        nonlocal spent
        began = time.process_time()
        yield
        spent = time.process_time() - began

    result = await daemon.run(load(path), once=True, deadline=120.0, watchers=[*([looked_at] if watched else []), timed])
    return spent, sum(result.statuses[0].settled.values())


def test_being_watched_costs_less_than_a_fiftieth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in harness.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    rates: dict[str, list[float]] = {"nothing": [], "watched": [], "nothing again": []}
    with harness.kinesis(records=RECORDS, page=10_000) as endpoint:
        for turn in range(ROUNDS + 1):
            for name, found in rates.items():
                directory = tmp_path / f"{turn}-{name.replace(' ', '-')}"
                directory.mkdir()
                path = harness.config(directory, endpoint)
                if name == "watched":
                    cpu, settled = asyncio.run(once(path, True))
                else:
                    with unmeasured(monkeypatch):
                        cpu, settled = asyncio.run(once(path, False))
                assert settled == RECORDS
                if turn:  # the first round warms up
                    found.append(RECORDS / cpu)
    plain = statistics.median(rates["nothing"])
    cost, control = (1 - statistics.median(rates[name]) / plain for name in ("watched", "nothing again"))
    harness.table(
        f"watched (two scrapes a second, a page open) against nothing of it, records a CPU second (median of {ROUNDS}, in turns)",
        [
            ("nothing", f"{plain:,.0f}", ""),
            ("nothing again", f"{statistics.median(rates['nothing again']):,.0f}", f"{control:+.1%} (the control)"),
            ("watched", f"{statistics.median(rates['watched']):,.0f}", f"{cost:+.1%} (at most {MOST:.0%}, and the control's own)"),
        ],
        ("", "records/s", "cost"),
    )
    assert cost <= MOST + abs(control)
