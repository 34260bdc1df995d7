"""A shop with its stream on the embedded AWS, as `stream apply` leaves it, and the doctor called as people call it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dsqlcdc.aws import Aws, client
from dsqlcdc.cli.app import invoke
from dsqlcdc.testing.local import LocalAws
from tests.clients import one_loader

STREAM, ROLE, BUCKET = "orders-cdc", "orders-cdc-dsql", "lake"
CONFIG = """
pipeline: orders-cdc
aws: {{region: us-east-1, endpoint_url: "{endpoint}"}}
source: {{stream: orders-cdc}}
tables: {tables}
sinks: {sinks}
{more}
"""
TABLES = '{public.orders: {key: [order_id, item_id]}, app.notes: {key: [slug]}, "public.*": {key: [id]}, "*": {}}'
SINKS = "{lake: {type: s3, bucket: lake, prefix: cdc/}}"


class Shop:
    """`aws`: the embedded one. `cluster`: its identifier."""

    def __init__(self, aws: LocalAws, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.aws, self.directory, self._capsys = aws, directory, capsys
        self.config = directory / "dsqlcdc.yaml"
        self.account = Aws(region="us-east-1", endpoint_url=aws.endpoint)
        self.cluster = str(self.ask("dsql", lambda dsql: dsql.create_cluster(deletionProtectionEnabled=False))["identifier"])
        self.ask("s3", lambda s3: s3.create_bucket(Bucket=BUCKET))
        self.write()
        assert invoke(["stream", "apply", str(self.config), "--yes"]) == 0
        capsys.readouterr()

    def write(self, *, tables: str = TABLES, sinks: str = SINKS, stream: str | None = "", more: str = "") -> None:
        """The config; `stream`: keys of its block beside the cluster and the mode, None: no block."""
        if stream is not None:
            kinesis = "" if "kinesis" in stream else "kinesis: {mode: provisioned, shards: 4}, "
            more += f"\nstream: {{{kinesis}{stream}, cluster: {self.cluster}}}".replace(", ,", ",")
        self.config.write_text(CONFIG.format(endpoint=self.aws.endpoint, tables=tables, sinks=sinks, more=more))

    def doctor(self, *words: str) -> tuple[int, dict[str, Any], str]:
        """(exit code, the JSON, what was said)."""
        code = invoke(["doctor", str(self.config), "--json", *words])
        out, err = self._capsys.readouterr()
        return code, json.loads(out) if out else {}, err

    def findings(self, *severities: str) -> dict[str, dict[str, Any]]:
        """By code, those of these severities (or all)."""
        _, told, _ = self.doctor()
        return {one["code"].removeprefix("DSQLCDC-"): one for one in told["findings"] if not severities or one["severity"] in severities}

    def ask(self, service: str, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """Do something to the account, as somebody else would."""

        async def do() -> Any:
            async with client(service, self.account) as opened:
                return await work(opened)

        return asyncio.run(do())

    def stream_id(self) -> str:
        listed = self.ask("dsql", lambda dsql: dsql.list_streams(clusterIdentifier=self.cluster))
        return str(listed["streams"][0]["streamIdentifier"])


@pytest.fixture(scope="module")
def server() -> Iterator[LocalAws]:
    """Its own: another test may have pushed the clock of the shared one, and the doctor looks at clocks."""
    with LocalAws() as aws:
        yield aws


@pytest.fixture
def shop(server: LocalAws, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    local_aws = server
    local_aws.reset()
    monkeypatch.setattr("botocore.loaders.create_loader", one_loader)
    for name, value in local_aws.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    ways = local_aws.rules()
    yield Shop(local_aws, tmp_path, capsys)
    local_aws.mend()
    local_aws.rules(**ways)
