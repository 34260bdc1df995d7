"""The shard limits, on a clock that stands still until it is pushed."""

from __future__ import annotations

from dsqlcdc.local.clock import Clock
from dsqlcdc.local.kinesis import Kinesis
from dsqlcdc.local.refusal import Refusal
from dsqlcdc.local.streams import Stream


def model(**switches: bool) -> tuple[Clock, Kinesis, Stream]:
    clock = Clock(1_700_000_000.0, lambda: 0.0)
    kinesis = Kinesis(clock, **switches)
    stream = kinesis.create("s", 1, max_record_kib=10240)
    clock.advance(1)
    return clock, kinesis, stream


def reads(kinesis: Kinesis, stream: Stream, times: int) -> int:
    """How many of so many reads from the trim horizon were served."""
    shard = next(iter(stream.shards.values()))
    served = 0
    for _ in range(times):
        try:
            kinesis.get_records(kinesis.iterator(stream, shard, "TRIM_HORIZON"), None)
            served += 1
        except Refusal as refusal:
            if refusal.code != "ProvisionedThroughputExceededException":
                raise
    return served


def test_a_shard_serves_five_reads_a_second() -> None:
    clock, kinesis, stream = model()
    assert reads(kinesis, stream, 8) == 5
    clock.advance(0.5)
    assert reads(kinesis, stream, 1) == 0
    clock.advance(0.5)
    assert reads(kinesis, stream, 8) == 5


def test_a_shard_serves_two_megabytes_a_second() -> None:
    clock, kinesis, stream = model()
    kinesis.put_bytes(stream, b"x" * (3 * 1024 * 1024), "k")
    assert reads(kinesis, stream, 2) == 1
    clock.advance(1.1)
    assert reads(kinesis, stream, 2) == 1


def test_a_reply_of_10_mb_shuts_the_shard_for_five_seconds() -> None:
    clock, kinesis, stream = model()
    kinesis.put_bytes(stream, b"x" * 10_200_000, "k")
    assert reads(kinesis, stream, 1) == 1
    clock.advance(4.9)
    assert reads(kinesis, stream, 1) == 0
    clock.advance(0.2)
    assert reads(kinesis, stream, 1) == 1


def test_the_read_limits_can_be_switched_off() -> None:
    _, kinesis, stream = model(read_throttle=False)
    assert reads(kinesis, stream, 50) == 50


def test_writes_above_the_shards_limits_fail_record_by_record_when_switched_on() -> None:
    clock, kinesis, stream = model(write_throttle=True)
    served = sum(kinesis.put_bytes(stream, b"x", "k") is not None for _ in range(1200))
    assert served == 1000
    clock.advance(1)
    large = b"x" * (300 * 1024)
    assert sum(kinesis.put_bytes(stream, large, "k") is not None for _ in range(5)) == 3
    unlimited = model()
    assert all(unlimited[1].put_bytes(unlimited[2], large, "k") for _ in range(5))
