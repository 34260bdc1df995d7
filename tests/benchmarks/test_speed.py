"""Speed, as ratios within one run. What is compared takes turns, so that a noisy machine is noisy for both."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Sequence

import msgspec
import pytest

from dsqlcdc.contract import Outcome
from dsqlcdc.core.commit_order import CommitOrder
from dsqlcdc.core.ledger import Ledger
from dsqlcdc.core.records import Page, Record
from dsqlcdc.core.sequence import Unique
from dsqlcdc.core.tables import Rule, Tables
from dsqlcdc.stores.spill import FileSpill
from dsqlcdc.testing.records import full
from tests.benchmarks import harness
from tests.benchmarks.fake_kinesis import record, render

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

ROUNDS = 12


class FloorRecord(msgspec.Struct, gc=False, rename="pascal"):
    sequence_number: str
    approximate_arrival_timestamp: float
    data: bytes


class FloorBody(msgspec.Struct, rename="pascal"):
    records: list[FloorRecord]


class FloorOrigin(msgspec.Struct, gc=False):
    ts_ns: int
    schema: str
    table: str


class FloorEnvelope(msgspec.Struct, gc=False):
    source: FloorOrigin
    op: str
    before: msgspec.Raw = msgspec.Raw(b"null")
    after: msgspec.Raw = msgspec.Raw(b"null")


class Body(msgspec.Struct, rename="pascal"):
    records: list[Record]


def test_wire_to_change_is_within_reach_of_the_msgspec_floor() -> None:
    """A page's body to raw, keyed, de-duplicated changes whose debts are settled, against decoding body and envelopes alone."""
    pages = [render([(f"{p:06d}{n:050d}", 1.78e9 + n, record(p * 1000 + n)) for n in range(1000)], "next", 1) for p in range(50)]
    floor_body, floor_envelope = msgspec.json.Decoder(FloorBody).decode, msgspec.json.Decoder(FloorEnvelope).decode
    body = msgspec.json.Decoder(Body).decode

    def floor() -> int:
        return sum(len([floor_envelope(r.data) for r in floor_body(page).records]) for page in pages)

    def road(asked: bool = False) -> int:
        tables, ledger = Tables({"public.*": Rule(key=("order_id", "item_id"))}), Ledger()
        unique, count = Unique(ledger, 1800.0), 0
        for page in pages:
            records = body(page).records
            debt = ledger.enter(Page("shard", records))
            changes = tables.read_all("shard", records)
            going, owed = unique.admit(changes, range(debt, debt + len(changes)))  # type: ignore[arg-type]
            if asked:
                assert all(change.image or change.old_image for change in going)
            ledger.settle(owed, Outcome.DELIVERED)
            count += len(going)
        return count

    floor_rate, road_rate, rows_rate, again_rate = _turns([floor, road, lambda: road(asked=True), floor], 50_000)
    rates = {"msgspec floor": floor_rate, "the same again": again_rate, "dsqlcdc": road_rate, "dsqlcdc, each row asked for": rows_rate}
    harness.table(
        "wire -> Change (raw rows, keyed, de-duplicated), records a CPU second",
        [(name, f"{rate:,.0f}", f"{rate / floor_rate:.2f}") for name, rate in rates.items()],
        ("", "records/s", "of the floor"),
    )
    harness.judge("wire → Change against the msgspec floor", road_rate / floor_rate, 0.45, held=0.36)


def test_commit_order_sustains_half_of_uniques_rate() -> None:
    """The same pages from records to settled debts, in the order they came and held back for commit order: thirty seconds of a stream whose
    changes come up to two seconds out of order, over four shards."""
    size, count = 500, 100
    pages: list[list[Record]] = []
    chance = random.Random(1)
    for p in range(count):
        records: list[Record] = []
        for n in range(size):
            arrived = 1.78e9 + (p * size + n) * 0.002
            version = int((arrived - chance.random() * 2) * 1e9)
            data = full(
                "c",
                "public.orders",
                {"order_id": p * size + n, "item_id": 1, "note": "x" * 200},
                version,
                transaction=f"t{version // 10**7}",
            )
            records.append(Record(f"{p:06d}{n:050d}", data, arrived))
        pages.append(records)
    rules = {"public.*": Rule(key=("order_id", "item_id"))}

    def read(sequencer: Callable[[Ledger, Tables], Unique]) -> int:
        async def road() -> int:
            tables, ledger = Tables(rules), Ledger()
            made, settled = sequencer(ledger, tables), 0
            order = made if isinstance(made, CommitOrder) else None
            for p, records in enumerate(pages):
                fresh = [Record(r.sequence_number, r.data, r.arrived) for r in records]
                debt = ledger.enter(Page(f"shard{p % 4}", fresh))
                changes = tables.read_all("shard", fresh)
                going, owed = made.admit(changes, range(debt, debt + len(changes)))  # type: ignore[arg-type]
                if order is None:
                    ledger.settle(owed, Outcome.DELIVERED)
                    made.settled(going)
                    settled += len(going)
                    continue
                order.offer(going, owed)
                async for some, debts in order.ripe(records[-1].arrived if p + 1 < count else math.inf):
                    ledger.settle(debts, Outcome.DELIVERED)
                    order.settled(some)
                    settled += len(some)
                await order.relieve()
            ledger.check()
            return settled

        return asyncio.run(road())

    def held(ledger: Ledger, tables: Tables) -> Unique:
        return CommitOrder(ledger, 1800.0, hold=30.0, tables=tables, spill=FileSpill(), takes=lambda _: True, room=1 << 26)

    unique_rate, commit_rate = _turns([lambda: read(lambda ledger, _: Unique(ledger, 1800.0)), lambda: read(held)], size * count)
    ratio = commit_rate / unique_rate
    harness.table(
        "records -> settled, by order, records a CPU second",
        [("unique", f"{unique_rate:,.0f}"), ("commit", f"{commit_rate:,.0f}")],
        ("", "records/s"),
    )
    harness.judge("order commit against unique", ratio, 0.5, held=0.4)


def _turns(works: Sequence[Callable[[], int]], records: int) -> list[float]:
    """Best records a CPU second of each, taken in turns."""
    best = [0.0 for _ in works]
    for _ in range(ROUNDS):
        for n, work in enumerate(works):
            began = time.process_time()
            assert work() == records
            best[n] = max(best[n], records / (time.process_time() - began))
    return best
