"""What a function cannot do is told at its first invocation, with the reason; and where its config may be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dsqlcdc.errors import ConfigError, Misconfigured
from dsqlcdc.hosts.aws_lambda import Function

from .lambda_world import BUCKET, NOTHING, Context, LambdaWorld, event, insert


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
