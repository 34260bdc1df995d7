"""A trigger's event as a source: what is owed of it is told by the frontier."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.contract import Outcome
from dsqlcdc.core.ledger import Ledger
from dsqlcdc.core.records import Record
from dsqlcdc.errors import Misconfigured
from dsqlcdc.sources.lambda_event import LambdaSource, read_event
from dsqlcdc.testing.trigger import event_of

ARN = "arn:aws:kinesis:us-east-1:123456789012:stream/orders"
SHARD = "shardId-000000000003"


def records(count: int) -> list[Record]:
    first = 49590338271490256608559692538361571095921575989136588898
    return [Record(str(first + 3 * n), b"record %d" % n, 1_800_000_000.5 + n) for n in range(count)]


@given(st.integers(1, 30), st.data())
def test_the_answer_names_the_first_record_that_is_owed_whatever_settles_in_whatever_order(count: int, data: st.DataObject) -> None:
    batch = read_event(event_of(SHARD, records(count), ARN), "orders")
    assert batch is not None
    source = LambdaSource(batch, 0.0)

    async def entered() -> Ledger:
        ledger = Ledger(await source.start(None, warm_up=None))
        async for page in source.pages():
            ledger.enter(page)
        return ledger

    import asyncio

    ledger = asyncio.run(entered())
    settled = data.draw(st.sets(st.integers(0, count - 1)))
    for debt in data.draw(st.permutations(sorted(settled))):
        ledger.settle((debt,), Outcome.DELIVERED)
    open_ = [n for n in range(count) if n not in settled]
    expected = batch.records[open_[0]].sequence_number if open_ else ""
    assert batch.owed(ledger.frontier()[SHARD]) == expected


def test_a_batch_of_which_nothing_was_read_is_owed_whole() -> None:
    batch = read_event(event_of(SHARD, records(3), ARN), "orders")
    assert batch is not None
    assert batch.owed(None) == batch.records[0].sequence_number


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=8))
def test_records_come_as_they_were_sent(data: list[bytes]) -> None:
    sent = [Record(str(100 + n), one, 1.25 * n) for n, one in enumerate(data)]
    for configured in ("orders", ARN):
        batch = read_event(event_of(SHARD, sent, ARN), configured)
        assert batch is not None
        assert (batch.stream, batch.shard) == ("orders", SHARD)
        assert [(r.sequence_number, r.data, r.arrived) for r in batch.records] == [(r.sequence_number, r.data, r.arrived) for r in sent]


def test_an_empty_batch_is_none() -> None:
    assert read_event({"Records": []}, "orders") is None


@pytest.mark.parametrize("missing", ["eventSource", "eventSourceARN", "eventID", "kinesis"])
def test_a_record_that_lacks_something_is_told_with_its_number(missing: str) -> None:
    event = event_of(SHARD, records(2), ARN)
    del event["Records"][1][missing]
    with pytest.raises(Misconfigured, match="record 1"):
        read_event(event, "orders")


def test_a_stream_of_the_same_name_elsewhere_is_another_one() -> None:
    with pytest.raises(Misconfigured, match="E453"):
        read_event(event_of(SHARD, records(1), ARN.replace("us-east-1", "eu-west-1")), ARN)
