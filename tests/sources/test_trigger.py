"""The driver that plays Lambda's trigger does what AWS documents, and its control would be found."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from dsqlcdc.core.records import Record
from dsqlcdc.testing import virtual
from dsqlcdc.testing.trigger import Event, FunctionError, Settings, Shard, Trigger, first_failure

ARN = "arn:aws:kinesis:us-east-1:123456789012:stream/orders"


def shard(count: int, name: str = "s", parents: Sequence[str] = (), first: int = 100, size: int = 10) -> Shard:
    return Shard(name, [Record(str(first + n), b"x" * size, 1000.0 + n) for n in range(count)], parents)


def names(event: Event) -> list[str]:
    return [record["kinesis"]["sequenceNumber"] for record in event["Records"]]


class Script:
    """A function that notes what it is sent and fails as it is told: by sequence number, so many times."""

    def __init__(self, *, partial: Mapping[str, int] | None = None, error: Mapping[str, int] | None = None, takes: float = 0.0) -> None:
        self.partial, self.error, self.takes = Counter(partial or {}), Counter(error or {}), takes
        self.seen: list[list[str]] = []
        self.now = self.most = 0

    async def __call__(self, event: Event) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(self.takes)
        self.now -= 1
        self.seen.append(names(event))
        for name in names(event):
            if self.error[name] > 0:
                self.error[name] -= 1
                raise FunctionError(name)
            if self.partial[name] > 0:
                self.partial[name] -= 1
                return {"batchItemFailures": [{"itemIdentifier": name}]}
        return {"batchItemFailures": []}


def play(script: Any, shards: Sequence[Shard], clock: Any = lambda: 1000.0, **settings: Any) -> Trigger:
    async def work() -> Trigger:
        trigger = Trigger(script, ARN, Settings(**settings), clock=clock, pause=asyncio.sleep)
        await trigger.run(shards)
        return trigger

    return virtual.run(work())


def test_batches_come_in_order_and_within_their_size() -> None:
    script = Script()
    play(script, [shard(7)], batch=3)
    assert script.seen == [["100", "101", "102"], ["103", "104", "105"], ["106"]]


def test_a_batching_window_ends_a_batch_that_is_not_full() -> None:
    script = Script()
    play(script, [shard(7)], batch=5, window=2.0)  # a record a second
    assert script.seen == [["100", "101", "102"], ["103", "104", "105"], ["106"]]


def test_a_partial_answer_sends_from_the_record_that_is_named_on() -> None:
    script = Script(partial={"102": 1})
    play(script, [shard(5)], batch=4)
    assert script.seen == [["100", "101", "102", "103"], ["102", "103"], ["104"]]


def test_a_function_error_is_halved_where_bisect_is_on_and_the_halves_come_in_order() -> None:
    script = Script(error={"103": 3})
    play(script, [shard(4)], batch=4)
    assert script.seen == [["100", "101", "102", "103"], ["100", "101"], ["102", "103"], ["102"], ["103"], ["103"]]
    script = Script(error={"103": 1})
    play(script, [shard(4)], batch=4, bisect=False)
    assert script.seen == [["100", "101", "102", "103"]] * 2


def test_retries_end_in_the_destination_with_the_whole_event_and_the_next_batch_follows() -> None:
    script = Script(error={"101": 100})
    trigger = play(script, [shard(4)], batch=2, retries=2)
    assert script.seen[-1] == ["102", "103"]
    assert script.seen.count(["101"]) == 3
    (failed,) = trigger.failed
    body = json.loads(failed.body)
    assert body["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert body["KinesisBatchInfo"]["batchSize"] == 1
    assert (body["KinesisBatchInfo"]["shardId"], body["KinesisBatchInfo"]["startSequenceNumber"]) == ("s", "101")
    assert names(json.loads(body["payload"])) == ["101"]
    assert failed.key.startswith("aws/lambda/")


def test_records_that_are_too_old_go_to_the_destination_unseen() -> None:
    script = Script()
    trigger = play(script, [shard(4)], clock=lambda: 1011.5, batch=4, max_age=10.0)
    assert script.seen == [["102", "103"]]
    assert json.loads(trigger.failed[0].body)["requestContext"]["condition"] == "RecordAgeExceeded"


def test_children_come_after_their_parents_and_strangers_side_by_side() -> None:
    script = Script(takes=1.0)
    play(script, [shard(2, "child", ["one", "two"], first=300), shard(2, "one"), shard(2, "two", first=200)], batch=1)
    assert [batch[0][0] for batch in script.seen[-2:]] == ["3", "3"]
    assert script.most == 2


def test_a_parallelization_factor_sends_batches_of_one_shard_at_once_each_in_order() -> None:
    script = Script(takes=1.0)
    play(script, [shard(40)], batch=5, parallel=4)
    assert 1 < script.most <= 4
    assert sorted(name for batch in script.seen for name in batch) == [str(100 + n) for n in range(40)]
    assert all(batch == sorted(batch) for batch in script.seen)


def test_an_event_stays_within_the_payload_and_what_no_event_can_hold_is_put_aside() -> None:
    script = Script()
    trigger = play(script, [Shard("s", [*shard(3, size=1000).records, Record("900", b"x" * 9000, 1.0)])], batch=10, payload=4500)
    assert script.seen == [["100", "101"], ["102"]]
    assert [record.sequence_number for record in trigger.oversize] == ["900"]


@pytest.mark.parametrize(
    ("answer", "at"),
    [
        (None, 3),
        ({}, 3),
        ({"batchItemFailures": []}, 3),
        ({"batchItemFailures": None}, 3),
        ({"batchItemFailures": [{"itemIdentifier": "102"}, {"itemIdentifier": "101"}]}, 1),
        ({"batchItemFailures": [{"itemIdentifier": ""}]}, 0),
        ({"batchItemFailures": [{"itemIdentifier": "999"}]}, 0),
        ({"batchItemFailures": [{"wrong": "102"}]}, 0),
        ("text", 0),
    ],
)
def test_an_answer_is_read_as_lambda_reads_it(answer: object, at: int) -> None:
    assert first_failure(answer, shard(3).records) == at


def test_what_is_no_function_error_ends_the_play() -> None:
    async def broken(event: Event) -> None:
        raise ValueError("the test's own trouble")

    with pytest.raises(ExceptionGroup):
        play(broken, [shard(1)])
