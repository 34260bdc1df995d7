"""The log of a run at its default level: a start with the config, changes of state, summaries; nothing for each record, and no secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dsqlcdc.cli.app import invoke
from dsqlcdc.testing.local import LocalAws

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwAAAAAAAAAAA="
CONFIG = """
pipeline: quiet
aws: {{region: us-east-1, endpoint_url: "{endpoint}"}}
source: {{stream: orders-cdc}}
tables: {{"*": {{key: [id]}}}}
sinks:
  count: {{type: drop}}
  hook:
    type: webhook
    url: "https://example.com/x?token=t0ps3cret"
    secrets: ["{secret}"]
    tables: ["none.none"]
    headers: {{x-key: h1dden}}
"""


@pytest.fixture(autouse=True)
def _at_home(local_aws: LocalAws, logging_as_before: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in local_aws.environ.items():
        monkeypatch.setenv(name, value)


def run(directory: Path, aws: LocalAws, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    directory.mkdir(exist_ok=True)
    path = directory / "quiet.yaml"
    path.write_text(CONFIG.format(endpoint=aws.endpoint, secret=SECRET), encoding="utf-8")
    capsys.readouterr()
    assert invoke(["run", str(path), "--once", "--plain", *words]) in (0, 4)
    return capsys.readouterr().err.splitlines()


def logged(lines: list[str]) -> list[str]:
    """Without the summaries, of which a slow machine has more, and the words at the end."""
    return [line for line in lines if line[:2] == "20" and " progress: " not in line]


def test_ten_times_the_records_are_as_many_lines(local_aws: LocalAws, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = local_aws.pipe("orders-cdc", shards=2).cluster
    local_aws.commit(cluster=cluster, transactions=30, tables=["public.accounts"])
    few = logged(run(tmp_path / "few", local_aws, capsys))
    local_aws.commit(cluster=cluster, transactions=600, tables=["public.accounts"], duplicates=0.1, disorder=20)
    for number in range(200):
        local_aws.record("orders-cdc", b"no json %d" % number)  # each a dead letter
    lines = run(tmp_path / "many", local_aws, capsys)
    many = logged(lines)
    assert "200 dead" in "\n".join(lines)
    assert len(many) == len(few) <= 8
    assert sum(" starts at trim_horizon" in line for line in many) == 4  # each shard of each sink


@pytest.mark.parametrize("words", [[], ["--log", "json"]])
def test_the_first_line_is_the_config_as_it_is_understood_without_secrets(
    local_aws: LocalAws, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    local_aws.pipe("orders-cdc", shards=1)
    lines = run(tmp_path, local_aws, capsys, *words)
    first = json.loads(lines[0])["message"] if words else lines[0]
    head, _, body = first.partition("quiet.yaml: ")
    assert "dsqlcdc 0." in head
    told = json.loads(body)
    assert (told["pipeline"], told["source"]["lateness"], told["sinks"]["hook"]["timeout"]) == ("quiet", "30m", "15s")
    assert told["sinks"]["hook"]["secrets"] in ("***", ["***"])
    for secret in (SECRET, SECRET.removeprefix("whsec_"), "t0ps3cret", "h1dden"):
        assert secret not in "\n".join(lines)
