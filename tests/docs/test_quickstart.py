"""The README's way from nothing to AWS, command by command as it stands there, against the embedded AWS."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import duckdb
import pytest

from dsqlcdc.testing.local import LocalAws

from .reading import README, aws_commands, blocks
from .walking import Clone

HEADING = "From nothing to AWS"


def scripts() -> tuple[str, str, str]:
    """The README's commands before something is written to the cluster, after that, and those that take everything down."""
    parts = [""]
    for block in blocks(README):
        if block.heading == HEADING and block.language == "bash":
            parts[-1] += block.text
        elif block.heading == HEADING and block.language == "sql" and "insert into" in block.text:
            parts.append("")
    before, after = parts
    after, verb, down = after.partition("dsqlcdc stream delete")
    return before, after, verb + down


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quick_start_ends_with_the_rows_in_the_lake(local_aws: LocalAws, tmp_path: Path) -> None:
    local_aws.rules(role_refusals=0)  # a refused new role is the README's "run the command again"
    clone = Clone(tmp_path, local_aws.environ)
    before, after, down = scripts()
    (cluster,) = re.findall(r"^CLUSTER=(\w+)$", clone.run(before + 'echo "CLUSTER=$CLUSTER"\n'), re.MULTILINE)
    local_aws.commit(cluster=cluster, transactions=60, tables=["public.orders"], duplicates=0.2, disorder=10)
    told = clone.run(after)

    truth = local_aws.changes(cluster)
    assert len(truth) > 60
    assert f"{len(truth)} delivered" in told
    assert "shardId-000000000000" in told  # dsqlcdc status
    lake = [
        json.loads(line) for path in (tmp_path / "lake" / "data").rglob("*.gz") for line in gzip.decompress(path.read_bytes()).splitlines()
    ]
    assert sorted((row["version"], str(row["key"])) for row in lake) == sorted((change.version, str(change.key)) for change in truth)
    alive = {str(change.key): change.row for change in local_aws.state(cluster, table="public.orders")}
    assert {str(json.loads(key)): json.loads(row) for key, row in _query(tmp_path)} == alive

    clone.run(down)
    with pytest.raises(ValueError, match="not found"):
        local_aws.record("orders-cdc", b"{}")


def _query(directory: Path) -> list[tuple[str, str]]:
    """Keys and rows by the README's query, run beside the lake."""
    (query,) = [block.text.rstrip().rstrip(";") for block in blocks(README, "sql") if "read_json" in block.text]
    assert "'lake/data/" in query
    found: list[Any] = duckdb.sql(f"select key, row from ({query.replace('lake/data', f'{directory}/lake/data')})").fetchall()
    return [(key, row) for key, row in found]


def test_every_aws_command_of_the_readme_is_one_with_parameters_that_the_api_has() -> None:
    commands = aws_commands("\n".join(block.text for block in blocks(README, "bash")))
    called = {(command.service, command.operation) for command in commands}
    assert {("dsql", "CreateCluster"), ("dsql", "GetCluster"), ("s3", "CreateBucket"), ("iam", "CreatePolicy")} <= called
