"""The Lambda handler behind the trigger, end to end, and what the trigger gave up."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from dsqlcdc.cli.app import invoke
from dsqlcdc.errors import Misconfigured
from dsqlcdc.hosts.aws_lambda import Function
from dsqlcdc.hosts.lambda_destination import parse
from dsqlcdc.testing.records import chunked
from dsqlcdc.testing.trigger import Remaining, Settings

from .lambda_world import BUCKET, NOTHING, STREAM, Context, LambdaWorld, deduplicated, event, insert, run_trigger

DAY = 86_400.0


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
    swept_away(world)
    assert len(world.objects("dead-letters/")) == 1


def swept_away(world: LambdaWorld) -> None:
    """Every oversized row is done, and its pieces are gone: one that a racing invocation stored after that, by the sweeper, without a verdict."""
    sweeper = Function(world.environ, clock=lambda: time.time() + DAY)
    try:
        assert sweeper.sweep(Context())["gaps"] == 0
    finally:
        sweeper.close()
    assert not world.objects("fragments/p/parts/")


def test_a_piece_that_was_stored_after_its_row_was_done_is_swept_away_without_a_verdict(world: LambdaWorld, function: Function) -> None:
    main, *pieces = chunked("c", "t.rows", {"id": 1, "text": "x" * 3000}, 1_800_000_000_000_000_001, size=1000)
    assert function.handle(event(main, *pieces[:-1]), Context()) == NOTHING
    parts = world.objects("fragments/p/parts/")
    assert function.handle(event(pieces[-1], first=900), Context()) == NOTHING
    assert not world.objects("fragments/p/parts/")
    for name, body in parts.items():
        if "-main" not in name:
            world.client("s3").put_object(Bucket=BUCKET, Key=name, Body=body)
    swept_away(world)
    assert not world.objects("dead-letters/")
    assert [line["row"]["id"] for line in world.lines()] == [1]


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
