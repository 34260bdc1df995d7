"""The Lambda handler on the embedded AWS: what a trigger sends arrives, whatever fails, and nothing is left running."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time

import pytest
from aws_lambda_powertools.utilities.data_classes import KinesisStreamEvent
from aws_lambda_powertools.utilities.parser.models import KinesisDataStreamModel

from dsqlcdc.errors import Misconfigured
from dsqlcdc.hosts import emf
from dsqlcdc.hosts.aws_lambda import Function
from dsqlcdc.hosts.receiver import receiving
from dsqlcdc.testing.records import chunked

from .lambda_world import ARN, BUCKET, NOTHING, OUTCOMES, Context, LambdaWorld, event, insert


def test_a_batch_goes_in_and_nothing_is_named(world: LambdaWorld, function: Function) -> None:
    assert function.handle(event(*map(insert, range(20))), Context()) == NOTHING
    assert function.handle({"Records": []}, Context()) == NOTHING
    assert sorted(line["row"]["id"] for line in world.lines()) == list(range(20))
    assert function.handle(event(*map(insert, range(20))), Context()) == NOTHING
    assert len(world.lines()) == 20, "the same batch once more"


def test_poison_is_a_dead_letter_and_done_and_aggregates_are_told_as_such(world: LambdaWorld, function: Function) -> None:
    aggregate = b"\xf3\x89\x9a\xc2" + b"x" * 40
    assert function.handle(event(insert(1), b"no json", aggregate, insert(2)), Context()) == NOTHING
    letters = sorted(key.rpartition("-")[2] for key in world.objects("dead-letters/"))
    assert len(letters) == 2
    assert sorted(line["row"]["id"] for line in world.lines()) == [1, 2]


def test_an_oversized_row_is_delivered_by_whoever_completes_it(world: LambdaWorld, function: Function) -> None:
    main, *pieces = chunked("c", "t.rows", {"id": 7, "text": "x" * 3000}, 1_800_000_000_000_000_007, size=1000)
    other = Function(world.environ)
    try:
        assert function.handle(event(pieces[0], main), Context()) == NOTHING
        assert world.lines() == []
        assert other.handle(event(*pieces[1:], shard="shardId-000000000001", first=100), Context()) == NOTHING
        assert function.handle(event(pieces[1], first=500), Context()) == NOTHING
    finally:
        other.close()
    (line,) = world.lines()
    assert (line["row"]["id"], line["shard"]) == (7, "shardId-000000000001")


def test_an_outage_answers_the_first_record_that_is_owed_before_the_time_is_over(world: LambdaWorld, function: Function) -> None:
    poison = [b"bad", b"bad too"]
    assert function.handle(event(insert(0)), Context()) == NOTHING
    world.aws.fault("error", service="s3", operation="PutObject", contains="cdc/", code="SlowDown", status=503, times=1000)
    started = time.monotonic()
    answer = function.handle(event(*poison, insert(1), insert(2), first=10), Context(8.0))
    took = time.monotonic() - started
    assert answer == {"batchItemFailures": [{"itemIdentifier": "12"}]}
    assert took < 8.0
    world.aws.control("faults/clear")
    assert function.handle(event(insert(1), insert(2), first=12), Context()) == NOTHING
    assert sorted(line["row"]["id"] for line in world.lines()) == [0, 1, 2]


def test_nothing_is_left_running_and_clients_are_used_again(world: LambdaWorld, function: Function) -> None:
    function.handle(event(insert(1)), Context())
    outfit = function._outfit
    threads = threading.active_count()
    loop = function._runner.get_loop()
    assert asyncio.all_tasks(loop) == set()
    for n in range(2, 6):
        function.handle(event(insert(n), first=n), Context())
        assert asyncio.all_tasks(loop) == set()
    assert function._outfit is outfit
    assert threading.active_count() <= threads + 2


def test_a_sink_that_stopped_is_a_function_error_and_made_anew(world: LambdaWorld, function: Function) -> None:
    """What was mended meanwhile counts at the next invocation: a warm sandbox does not keep the fault."""
    function.handle(event(insert(1)), Context())
    world.aws.control("bucket", name=BUCKET, gone=True)
    with pytest.raises(Misconfigured, match="does not exist"):
        function.handle(event(insert(2), first=2), Context())
    world.aws.control("bucket", name=BUCKET, gone=False)
    assert function.handle(event(insert(2), first=2), Context()) == NOTHING
    assert sorted(line["row"]["id"] for line in world.lines()) == [1, 2]


def test_the_webhook_is_reached_from_lambda(world: LambdaWorld) -> None:
    async def work() -> None:
        async with receiving() as receiver:
            hook = {
                "type": "webhook",
                "url": receiver.url,
                "secrets": [receiver.secret],
                "allow_http": True,
                "allow_private": ["127.0.0.0/8"],
            }
            world.configure(sinks={"hook": hook})
            function = Function(world.environ)
            try:
                for first in (1, 1, 11):
                    batch = event(*map(insert, range(first, first + 10)), first=first)
                    assert await asyncio.to_thread(function.handle, batch, Context()) == NOTHING
            finally:
                await asyncio.to_thread(function.close)
            assert sorted(line["row"]["id"] for line in receiver.lines()) == list(range(1, 21))
            assert receiver.deliveries == 30, "a batch that comes again is sent again, under the same ids"

    asyncio.run(work())


def test_metrics_are_lines_in_the_embedded_format(world: LambdaWorld) -> None:
    told: list[str] = []
    function = Function({**world.environ, "DSQLCDC_METRICS": "Orders"}, tell=told.append)
    try:
        function.handle(event(insert(1), b"bad"), Context())
    finally:
        function.close()
    (line,) = map(json.loads, told)
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert (directive["Namespace"], directive["Dimensions"]) == ("Orders", [["pipeline", "sink"]])
    assert {metric["Name"] for metric in directive["Metrics"]} == set(emf.MEANINGS) - {"dsqlcdc_digests", "dsqlcdc_digest_failed"}
    assert (line["dsqlcdc_read"], line["dsqlcdc_delivered"], line["dsqlcdc_dead"], line["dsqlcdc_open"]) == (2, 1, 1, 0)
    assert line["dsqlcdc_read"] == sum(
        line[f"dsqlcdc_{o}"] for o in ("delivered", "stale", "duplicate", "unrouted", "parked", "dead", "open")
    )


def test_a_digest_that_cannot_be_written_is_counted_keeps_none_from_the_others_and_fails_the_sweep(world: LambdaWorld) -> None:
    told: list[str] = []
    sinks = {"lake": {"type": "s3", "bucket": BUCKET, "prefix": "cdc/"}, "more": {"type": "s3", "bucket": BUCKET, "prefix": "more/"}}
    world.configure(sinks={**sinks, "bare": {**sinks["more"], "prefix": "bare/", "digest": None}})

    def swept() -> list[tuple[str, int, int]]:
        told.clear()
        function = Function({**world.environ, "DSQLCDC_METRICS": "Orders"}, tell=told.append)
        try:
            function.sweep(Context())
        finally:
            function.close()
            told[:] = [line for line in told if "dsqlcdc_digests" in line]
        return found()

    def found() -> list[tuple[str, int, int]]:
        return [(one["sink"], one["dsqlcdc_digests"], one["dsqlcdc_digest_failed"]) for one in map(json.loads, told)]

    world.aws.fault("error", service="s3", operation="PutObject", contains="cdc/digests", code="AccessDenied", status=403, times=1000)
    with pytest.raises(Misconfigured, match="cdc/digests"):
        swept()
    assert found() == [("lake", 0, 1), ("more", 1, 0)]
    world.aws.control("faults/clear")
    assert swept() == [("lake", 1, 0), ("more", 0, 0)]
    assert [len(list(world.objects(f"{prefix}/digests/"))) for prefix in ("cdc", "more", "bare")] == [1, 1, 0]


def test_the_log_is_json_with_what_came_of_the_batch_or_text_by_option(world: LambdaWorld, capfd: pytest.CaptureFixture[str]) -> None:
    hook_secret = "whsec_" + "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"
    hook = {
        "type": "webhook",
        "url": "https://127.0.0.1:9/",
        "secrets": [hook_secret],
        "allow_private": ["127.0.0.0/8"],
        "tables": ["no.*"],
    }
    world.configure(sinks={"lake": {"type": "s3", "bucket": BUCKET, "prefix": "cdc/"}, "hook": hook})
    for form, first in (("json", 1), ("text", 10)):
        environ = {**world.environ, "DSQLCDC_LOG": form, "DSQLCDC_LOG_LEVEL": "debug", "AWS_LAMBDA_FUNCTION_NAME": "orders"}
        function = Function(environ)
        try:
            assert function.handle(event(insert(first), b"bad", first=first), Context()) == NOTHING
        finally:
            function.close()
        lines = capfd.readouterr().err.splitlines()
        assert not any(hook_secret in line for line in lines)
        if form == "json":
            told = {line["sink"]: line for line in map(json.loads, lines) if "settled" in line}
            assert told["lake"]["settled"] == {"delivered": 1, "dead": 1}
            assert (told["lake"]["read"], told["lake"]["open"], told["hook"]["read"]) == (2, 0, 2)
        else:
            assert len([line for line in lines if "lake: read 2, settled" in line]) == 1, "each line once"


def test_the_sweeper_finishes_rows_and_gives_up_those_that_stay_incomplete(
    world: LambdaWorld, function: Function, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A row whose last record Lambda gave up while its sink was away, and one of which a piece never came."""
    whole = chunked("c", "t.rows", {"id": 1, "text": "x" * 2000}, 1_800_000_000_000_000_001, size=1000)
    torn = chunked("c", "t.rows", {"id": 2, "text": "x" * 2000}, 1_800_000_000_000_000_002, size=1000)
    world.aws.fault("error", service="s3", operation="PutObject", contains="cdc/", code="AccessDenied", status=403, times=1)
    answer = function.handle(event(*torn[:-1], *whole), Context())
    assert answer == {"batchItemFailures": [{"itemIdentifier": "7"}]}, "the last piece, which was to deliver the row"
    world.aws.control("faults/clear")
    assert function.sweep(Context()) == {"sinks": {"lake": {"read": 0, **dict.fromkeys(OUTCOMES, 0)}}, "gaps": 0}, "too early"
    monkeypatch.setattr("dsqlcdc.hosts.aws_lambda.UNFINISHED", 0.0)
    swept = function.sweep(Context())
    assert (swept["sinks"]["lake"]["delivered"], swept["gaps"]) == (1, 0)
    assert [line["row"]["id"] for line in world.lines()] == [1]
    world.configure(fragments={"type": "s3", "bucket": BUCKET, "max_age": "5m"})
    later = Function(world.environ, clock=lambda: 1_800_010_000.0 + 4e8)
    try:
        with caplog.at_level(logging.ERROR):
            assert later.sweep(Context())["gaps"] == 1
        assert later.sweep(Context())["gaps"] == 0
    finally:
        later.close()
    assert any("gap" in record.getMessage() for record in caplog.records)
    assert len(world.objects("dead-letters/")) == len(torn) - 1
    assert function.handle(event(torn[-1], first=900), Context()) == NOTHING
    assert sorted(line["row"]["id"] for line in world.lines()) == [1, 2], "the piece that came late completes its row all the same"


def test_the_shapes_of_powertools_are_taken(world: LambdaWorld, function: Function) -> None:
    assert function.handle(KinesisStreamEvent(event(insert(1))), Context()) == NOTHING
    assert function.handle(KinesisDataStreamModel.model_validate(event(insert(2), first=2)), Context()) == NOTHING
    fanout = json.loads(json.dumps(event(insert(3), first=3)).replace(ARN, f"{ARN}/consumer/mine:1700000000"))
    assert function.handle(fanout, Context()) == NOTHING
    assert sorted(line["row"]["id"] for line in world.lines()) == [1, 2, 3]
