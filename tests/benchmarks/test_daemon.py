"""The whole daemon over HTTP, records a CPU second, against the loop of AWS's documentation. Whole processes, counted at the sink.

Everything takes turns within a round. What a process spends before it reads is measured by a run over four records and taken off, of both
sides alike; with it is shown too. Two equal runs a round are the control: what they differ by is the noise.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.benchmarks import harness
from tests.benchmarks.boto3_loop import __file__ as BOTO3_LOOP

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

COUNT, FEW, ROUNDS = 400_000, 4, harness.ROUNDS
LATEST = "{type: drop, order: latest}"
MODEL = """\
from dsqlcdc.columns import BigInt, Numeric, Row, Text, Timestamptz, Uuid


class Item(Row):
    order_id: BigInt
    item_id: BigInt
    customer: Uuid
    quantity: BigInt
    price: Numeric
    status: Text
    created_at: Timestamptz
    note: Text
"""


class Cost(NamedTuple):
    """CPU seconds of one run over COUNT records and of one over FEW, and the peak MiB."""

    whole: float
    start: float
    rss: float = 0.0

    @property
    def reading(self) -> float:
        return self.whole - self.start


class Kind(NamedTuple):
    """One way to configure ours: the sink, and what stands at the table beside its key."""

    sink: str = "{type: drop}"
    table: str = ""


KINDS = {"drop": Kind(), "drop again": Kind(), "latest": Kind(LATEST), "typed": Kind(table=", model: bench_model:Item")}


def run_ours(place: Path, kind: Kind, endpoint: str, count: int) -> harness.Run:
    place.mkdir(parents=True)
    (place / "bench_model.py").write_text(MODEL)
    path = harness.config(place, endpoint, kind.sink)
    path.write_text(path.read_text().replace("item_id]}", f"item_id]{kind.table}}}"))
    done = harness.run([*harness.DSQLCDC, "run", str(path), "--once", "--json"], env={"PYTHONPATH": str(place)})
    sink = harness.summary(done.out)["sinks"]["out"]
    assert (sink["read"], sink["settled"]["delivered"], sink["open"]) == (count, count, 0)
    return done


def _boto3(endpoint: str, count: int) -> harness.Run:
    return harness.run([sys.executable, "-P", str(BOTO3_LOOP), endpoint, str(count)])


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Cost]]:
    """By name, one for each round."""
    found: dict[str, list[Cost]] = {}
    root = tmp_path_factory.mktemp("daemon")
    with harness.kinesis(records=COUNT) as many, harness.kinesis(records=FEW) as few:
        run_ours(root / "warm", Kind(), few, FEW)  # modules are compiled
        _boto3(few, FEW)
        for turn in range(ROUNDS):
            for name, kind in KINDS.items():
                whole = run_ours(root / f"{turn} {name}", kind, many, COUNT)
                start = run_ours(root / f"{turn} {name} start", kind, few, FEW)
                found.setdefault(name, []).append(Cost(whole.cpu, start.cpu, whole.rss))
            found.setdefault("boto3 loop", []).append(Cost(_boto3(many, COUNT).cpu, _boto3(few, FEW).cpu))
    rows = [
        (
            name,
            f"{statistics.median(c.reading for c in some) / COUNT * 1e6:.2f}",
            f"{statistics.median(c.start for c in some):.2f}",
            f"{statistics.median(c.rss for c in some):.0f}" if some[0].rss else "",
        )
        for name, some in found.items()
    ]
    harness.table(f"{COUNT:,} records of 4 shards, median of {ROUNDS}", rows, ("", "CPU s a million", "start-up CPU s", "peak MiB"))
    return found


def _ratio(costs: dict[str, list[Cost]], name: str) -> float:
    return statistics.median(theirs.reading / ours.reading for ours, theirs in zip(costs[name], costs["boto3 loop"], strict=True))


def test_the_daemon_against_the_boto3_loop(costs: dict[str, list[Cost]]) -> None:
    noise = statistics.median(a.reading / b.reading for a, b in zip(costs["drop"], costs["drop again"], strict=True))
    whole = statistics.median(theirs.whole / ours.whole for ours, theirs in zip(costs["drop"], costs["boto3 loop"], strict=True))
    print(f"\n  control, two equal runs: {noise:.2f}; start-up of both included: {whole:.2f} ×")
    harness.judge("the daemon against AWS's boto3 loop", _ratio(costs, "drop"), 4, held=3.3)


def test_order_latest_against_the_boto3_loop(costs: dict[str, list[Cost]]) -> None:
    harness.judge("… with order: latest", _ratio(costs, "latest"), 3, held=2.2)


def test_row_models_against_the_boto3_loop(costs: dict[str, list[Cost]]) -> None:
    harness.judge("… with row models of eight typed columns", _ratio(costs, "typed"), 1.2, held=0.8)


def test_the_daemon_at_full_speed_stays_small(costs: dict[str, list[Cost]]) -> None:
    peak = statistics.median(cost.rss for cost in costs["drop"])
    harness.judge("peak RSS at full speed, 4 shards", peak, 150, held=200, least=False, unit=" MiB")
