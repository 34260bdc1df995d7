"""The example of a fan-out in Lambda, as it stands, on the embedded AWS: a lake, a bus that is told of orders, an archive of deletes."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from dsqlcdc.config import lint
from dsqlcdc.hosts.aws_lambda import Function
from dsqlcdc.hosts.receiver import Receiver, receiving
from dsqlcdc.testing.local import LocalAws
from dsqlcdc.testing.trigger import Settings, Trigger
from tests.hosts.conftest import logging_as_before as logging_as_before
from tests.hosts.lambda_world import ARN, BUCKET, LambdaWorld, Sandboxes, deduplicated

from .reading import ROOT

CONFIG = ROOT / "examples" / "lambda_fan_out" / "fan_out.yaml"


def lines(world: LambdaWorld, prefix: str) -> list[dict[str, Any]]:
    return [json.loads(line) for body in world.objects(prefix).values() for line in gzip.decompress(body).splitlines()]


def test_each_destination_gets_its_own_and_all_of_it(local_aws: LocalAws, logging_as_before: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in local_aws.environ.items():
        monkeypatch.setenv(name, value)
    world = LambdaWorld(local_aws, shards=1)
    world.commit(transactions=60, tables=["public.orders", "public.accounts"], duplicates=0.05, disorder=10)

    async def work() -> Receiver:
        async with receiving() as receiver:
            # Only what makes a bus on this machine reachable is added.
            text = CONFIG.read_text(encoding="utf-8").replace("timeout: 5s", "allow_http: true\n    allow_private: [127.0.0.0/8]")
            names = {
                "STREAM": "orders-cdc",
                "BUCKET": BUCKET,
                "BUS_URL": receiver.url,
                "HOOK_SECRET": receiver.secret,
                "MASK_KEY": "k" * 16,
            }
            world.environ |= {**names, "DSQLCDC_CONFIG": text}
            sandboxes = Sandboxes(lambda: Function(world.environ))
            trigger = Trigger(sandboxes, ARN, Settings(batch=200, retries=0), clock=lambda: 1_800_000_000.0)
            try:
                await trigger.run(world.shards())
            finally:
                await asyncio.to_thread(sandboxes.close)
            assert sandboxes.errors == []
            assert trigger.failed == []
            return receiver

    receiver = asyncio.run(work())
    truth = local_aws.changes(world.pipe.cluster)
    lake = deduplicated(lines(world, "cdc/data/"))
    assert sorted(line["version"] for line in lake) == sorted(change.version for change in truth)
    archive = deduplicated(lines(world, "deleted/data/"))
    deletes = sorted(change.version for change in truth if change.sent_op == "d")
    assert deletes
    assert sorted(line["version"] for line in archive) == deletes
    orders = [change for change in truth if change.table == "orders"]
    told = {(json.dumps(event["key"]), event["version"]): event for event in receiver.lines()}
    assert len(told) == len(orders) < len(truth)
    customers = {event["row"]["customer"] for event in told.values() if event["row"]}
    assert not (customers - {None}) & {change.row["customer"] for change in orders if change.row}
    assert all(len(hashed) == 64 for hashed in customers if hashed)
    world.close()


def test_it_can_be_kept_in_lambda_and_a_sink_that_cannot_is_found(tmp_path: Path) -> None:
    names = {"HOOK_SECRET": "whsec_" + "A" * 43 + "=", "MASK_KEY": "k" * 16}
    assert lint(CONFIG, names, whole=False) == []
    path = tmp_path / "control.yaml"
    path.write_text(CONFIG.read_text(encoding="utf-8").replace("fragments: {type: s3", "fragments: {type: memory} #"), encoding="utf-8")
    assert [finding.code for finding in lint(path, names, whole=False)] == ["E456"]


@pytest.mark.parametrize("variable", ["HOOK_SECRET", "MASK_KEY"])
def test_a_secret_that_is_not_set_is_an_error(variable: str) -> None:
    names = {"HOOK_SECRET": "whsec_" + "A" * 43 + "=", "MASK_KEY": "k" * 16}
    del names[variable]
    assert [finding.code for finding in lint(CONFIG, names, whole=False)] == ["E007"]
