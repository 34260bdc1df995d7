"""The Lambda handler on the embedded AWS: what a trigger sends arrives, whatever fails, and nothing is left running."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dsqlcdc.cli.app import invoke
from dsqlcdc.core.records import Record
from dsqlcdc.errors import ConfigError, Misconfigured
from dsqlcdc.hosts import emf
from dsqlcdc.hosts.aws_lambda import Function
from dsqlcdc.hosts.lambda_destination import parse
from dsqlcdc.hosts.receiver import receiving
from dsqlcdc.testing.local import LocalAws
from dsqlcdc.testing.records import chunked, full
from dsqlcdc.testing.trigger import Remaining, Sandboxes, Settings, Trigger, event_of

from .lambda_world import ARN, BUCKET, STREAM, LambdaWorld, deduplicated


@pytest.fixture(scope="module")
def local_aws_server() -> Iterator[LocalAws]:
    with LocalAws(oversize=20_000, read_throttle=False) as aws:
        yield aws


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A function sets up the process's log; what other tests of this process see of it must not change."""
    root, ours = logging.getLogger(), logging.getLogger("dsqlcdc")
    before = root.level, ours.level, list(root.handlers)
    yield
    root.setLevel(before[0])
    ours.setLevel(before[1])
    for handler in [handler for handler in root.handlers if handler not in before[2]]:
        root.removeHandler(handler)


@pytest.fixture
def world(local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> Iterator[LambdaWorld]:
    for name, value in local_aws.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    made = LambdaWorld(local_aws)
    yield made
    made.close()


@pytest.fixture
def function(world: LambdaWorld) -> Iterator[Function]:
    made = Function(world.environ)
    yield made
    made.close()


class Context:
    def __init__(self, seconds: float = 60.0) -> None:
        self._left = int(seconds * 1000)

    def get_remaining_time_in_millis(self) -> int:
        return self._left


def records(*data: bytes, first: int = 1) -> list[Record]:
    return [Record(str(first + n), one, 1_800_000_000.0 + n) for n, one in enumerate(data)]


def insert(n: int, **more: Any) -> bytes:
    return full("c", "t.rows", {"id": n, **more}, 1_800_000_000_000_000_000 + n)


def event(*data: bytes, first: int = 1, shard: str = "shardId-000000000000") -> dict[str, Any]:
    return event_of(shard, records(*data, first=first), ARN)


NOTHING: dict[str, Any] = {"batchItemFailures": []}


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
    assert {metric["Name"] for metric in directive["Metrics"]} == set(emf.MEANINGS)
    assert (line["dsqlcdc_read"], line["dsqlcdc_delivered"], line["dsqlcdc_dead"], line["dsqlcdc_open"]) == (2, 1, 1, 0)
    assert line["dsqlcdc_read"] == sum(
        line[f"dsqlcdc_{o}"] for o in ("delivered", "stale", "duplicate", "unrouted", "parked", "dead", "open")
    )


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


OUTCOMES = ("delivered", "stale", "duplicate", "unrouted", "parked", "dead")


# ── refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("blocks", "code"),
    [
        ({"fragments": {"type": "memory"}}, "E456"),
        ({"fragments": None, "state": None}, "E456"),
        ({"dead_letters": {"type": "files", "path": "x"}}, "E457"),
        ({"sinks": {"lake": {"type": "s3", "bucket": BUCKET, "start": "latest"}}}, "E460"),
        ({"sinks": {"lake": {"type": "s3", "bucket": BUCKET, "order": "commit"}}}, "E459"),
    ],
)
def test_a_config_that_would_lose_is_refused_with_the_reason(world: LambdaWorld, blocks: dict[str, Any], code: str) -> None:
    world.configure(**blocks)
    function = Function(world.environ)
    try:
        for _ in range(2):
            with pytest.raises(ConfigError, match=f"DSQLCDC-{code}") as caught:
                function.handle(event(insert(1)), Context())
            assert caught.value.where.startswith("DSQLCDC_CONFIG:1:")
            assert caught.value.why
    finally:
        function.close()


def test_an_event_of_something_else_is_told_so(world: LambdaWorld, function: Function) -> None:
    good = event(insert(1))
    other = json.loads(json.dumps(good).replace("stream/orders-cdc", "stream/others"))
    queue = {"Records": [{"eventSource": "aws:sqs", "body": "x"}]}
    two = {"Records": good["Records"] + event(insert(2), shard="shardId-000000000009")["Records"]}
    damaged = json.loads(json.dumps(good).replace(good["Records"][0]["kinesis"]["data"], "%%%"))
    window = {**good, "window": {}, "isFinalInvokeForWindow": False}
    for wrong, code in (
        ({"detail-type": "Scheduled Event"}, "E452"),
        (queue, "E452"),
        ("text", "E452"),
        (other, "E453"),
        (damaged, "E454"),
        (two, "E455"),
        (window, "E455"),
    ):
        with pytest.raises(Misconfigured, match=f"DSQLCDC-{code}"):
            function.handle(wrong, Context())
    assert world.lines() == []


def test_the_shapes_of_powertools_are_taken(world: LambdaWorld, function: Function) -> None:
    class DataClass(dict[str, Any]):
        """As Powertools' KinesisStreamEvent: the event behind `raw_event`."""

        @property
        def raw_event(self) -> dict[str, Any]:
            return dict(self)

    class Model:
        """As its parser's KinesisDataStreamModel: dumped by alias, data decoded."""

        def model_dump(self, *, by_alias: bool) -> dict[str, Any]:
            assert by_alias
            plain = event(insert(2), first=2)
            plain["Records"][0]["kinesis"]["data"] = insert(2)
            return plain

    assert function.handle(DataClass(event(insert(1))), Context()) == NOTHING
    assert function.handle(Model(), Context()) == NOTHING
    fanout = json.loads(json.dumps(event(insert(3), first=3)).replace(ARN, f"{ARN}/consumer/mine:1700000000"))
    assert function.handle(fanout, Context()) == NOTHING
    assert sorted(line["row"]["id"] for line in world.lines()) == [1, 2, 3]


# ── what the trigger gave up ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_the_trigger_gave_up_is_delivered_from_its_destination_once(
    world: LambdaWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world.commit(transactions=30, oversize=1, oversize_bytes=60_000)
    world.aws.fault("error", service="s3", operation="PutObject", contains="cdc/", code="AccessDenied", status=403, times=3)
    trigger, _ = run_trigger(world, Settings(batch=15, retries=0, bisect=False))
    assert trigger.failed
    assert world.compare(world.lines()).missing > 0
    for failed in trigger.failed:
        world.client("s3").put_object(Bucket=BUCKET, Key=failed.key, Body=failed.body)
    path = tmp_path / "orders.yaml"
    path.write_text(world.config)
    command = ["dead", "replay", str(path), "--from-lambda-destination", f"s3://{BUCKET}/aws/lambda/"]
    assert invoke([*command, "--dry-run"]) == 0
    assert world.compare(world.lines()).missing > 0
    for _ in range(2):
        assert invoke([*command, "--yes", "--json"]) == 0
        told = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
        assert [line["outcome"] for line in told] == ["settled"] * len(trigger.failed)
        assert world.compare(world.lines()).holds
    assert invoke([*command, "--sink", "lake"]) == 2
    assert invoke(["dead", "replay", str(path), "--from-lambda-destination", "arn:aws:sqs:x"]) == 1


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"no json", "Expecting value"),
        (b"[]", "no JSON object"),
        (b"{}", "no invocation record"),
        (b'{"KinesisBatchInfo": {}}', "no payload"),
    ],
)
def test_an_object_that_is_no_invocation_record_is_told_so(body: bytes, why: str) -> None:
    with pytest.raises(Misconfigured, match=why):
        parse(body, "s3://b/k")


# ── where the config is ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_config_may_be_a_file_an_object_a_parameter_or_the_text(world: LambdaWorld, tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "orders.yaml").write_text(world.config)
    world.client("s3").put_object(Bucket=BUCKET, Key="conf/orders.yaml", Body=world.config.encode())
    world.client("ssm").put_parameter(Name="orders-cdc", Value=world.config, Type="SecureString")
    places = ("conf/orders.yaml", f"s3://{BUCKET}/conf/orders.yaml", "ssm:orders-cdc", f"# a comment\n{world.config}")
    for number, given in enumerate(places, 1):
        function = Function({**world.environ, "DSQLCDC_CONFIG": given, "LAMBDA_TASK_ROOT": str(tmp_path)})
        try:
            assert function.handle(event(insert(number), first=number), Context()) == NOTHING
        finally:
            function.close()
    assert len(world.lines()) == len(places)


@pytest.mark.parametrize("given", ["", "nowhere.yaml", "s3://lake", "s3://lake/nowhere.yaml", "ssm:nowhere"])
def test_a_config_that_is_not_there_is_told_so(world: LambdaWorld, given: str) -> None:
    function = Function({**world.environ, "DSQLCDC_CONFIG": given})
    try:
        with pytest.raises((ConfigError, Misconfigured), match=r"DSQLCDC-E(450|103|104)"):
            function.handle(event(insert(1)), Context())
    finally:
        function.close()


# ── end to end ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def run_trigger(world: LambdaWorld, settings: Settings, **more: Any) -> tuple[Trigger, Sandboxes]:
    sandboxes = Sandboxes(lambda: Function(world.environ))

    async def work() -> Trigger:
        trigger = Trigger(sandboxes, ARN, settings, clock=lambda: 1_800_000_000.0, **more)
        await trigger.run(world.shards())
        return trigger

    try:
        return asyncio.run(work()), sandboxes
    finally:
        sandboxes.close()


def test_resharding_oversized_rows_poison_and_an_outage_end_in_an_exact_lake(world: LambdaWorld) -> None:
    world.commit(transactions=60, duplicates=0.05, disorder=20, deviations=0.05, oversize=3, oversize_bytes=60_000)
    world.reshard()
    world.commit(transactions=60, duplicates=0.05, disorder=20, deviations=0.05, oversize=3, oversize_bytes=60_000)
    world.aws.record(STREAM, b"poison")
    world.aws.fault("error", service="s3", operation="PutObject", contains="cdc/", code="SlowDown", status=503, times=12, skip=10)
    world.aws.fault("lost", service="s3", operation="PutObject", contains="cdc/", times=4, skip=30)
    turns = iter([True, False] * 5000)
    trigger, sandboxes = run_trigger(world, Settings(batch=40, parallel=2), twice=lambda: next(turns))
    assert not trigger.failed
    assert not sandboxes.errors
    assert sandboxes.made > 2, "invocations ran side by side"
    lines = world.lines()
    found = world.compare(deduplicated(lines))
    assert found.holds, found
    places = Counter((line["shard"], line["sequence"]) for line in lines)
    assert max(places.values()) == 1, "no record went in twice"
    assert len(world.objects("dead-letters/")) == 1
    assert not world.objects("fragments/p/parts/"), "every oversized row is done, and its pieces are gone"


def test_of_two_racing_invocations_one_is_killed_and_the_lake_is_exact(world: LambdaWorld) -> None:
    """Two processes with the same batch at once; one of them is killed in mid-write, as a sandbox that ran out of time."""
    main, *pieces = chunked("c", "t.rows", {"id": 1000, "text": "x" * 3000}, 1_800_000_000_000_001_000, size=1000)
    batch = event(*map(insert, range(200)), main, *pieces)
    program = (
        "import json, sys\n"
        "from dsqlcdc.hosts.aws_lambda import handler\n"
        "class Context:\n"
        "    def get_remaining_time_in_millis(self): return 60000\n"
        "print('begun', flush=True)\n"
        "print(json.dumps(handler(json.load(sys.stdin), Context())), flush=True)\n"
    )
    world.aws.fault("slow", service="s3", operation="PutObject", contains="cdc/", times=2, seconds=1.5)

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program]
        process = subprocess.Popen(command, env=world.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        process.stdin.write(json.dumps(batch))
        process.stdin.close()
        return process

    first, second = start(), start()
    try:
        while not any("manifests/apart/" in key for key in world.objects("cdc/")):
            assert first.poll() is None or second.poll() is None
        first.kill()
        assert second.stdout is not None
        answer = second.stdout.read().splitlines()[-1]
        assert second.wait() == 0
    finally:
        for process in (first, second):
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
    assert json.loads(answer) == NOTHING
    function = Function(world.environ)
    try:
        assert function.handle(batch, Context()) == NOTHING, "Lambda sends the batch of the killed one again"
    finally:
        function.close()
    assert sorted(line["row"]["id"] for line in world.lines()) == [*range(200), 1000]


def test_remaining_counts_down_to_nothing() -> None:
    now = [0.0]
    remaining = Remaining(2.0, lambda: now[0])
    assert remaining.get_remaining_time_in_millis() == 2000
    now[0] = 5.0
    assert remaining.get_remaining_time_in_millis() == 0
