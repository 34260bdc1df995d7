"""The pytest plugin as a user's test suite loads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dsqlcdc.testing.local import LocalAws

SUITE = """
import boto3

def test_one(local_aws, monkeypatch):
    for name, value in local_aws.environ.items():
        monkeypatch.setenv(name, value)
    pipe = local_aws.pipe("orders-cdc", shards=2)
    done = local_aws.commit(transactions=20, duplicates=0.5)
    assert len(local_aws.changes(pipe.cluster)) == done.end
    assert local_aws.state(table="public.orders")
    kinesis = boto3.client("kinesis")
    assert len(kinesis.list_shards(StreamName="orders-cdc")["Shards"]) == 2
    local_aws.fault("error", service="kinesis", code="AccessDeniedException", status=400)
    local_aws.record("orders-cdc", b"not json")

def test_two_starts_empty(local_aws):
    assert local_aws.control("pipe")["stream"] == "orders-cdc"
    assert local_aws.changes() == []
"""


def test_a_users_suite_gets_an_empty_aws_for_each_test(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_a_taken_port_is_an_error_where_the_server_is_started() -> None:
    with LocalAws() as first, pytest.raises(OSError, match="address already in use"), LocalAws(port=int(first.endpoint.rsplit(":", 1)[1])):
        pass


def test_a_refused_control_call_is_a_value_error_with_the_servers_words() -> None:
    with LocalAws() as aws, pytest.raises(ValueError, match="not found"):
        aws.control("trim", stream="none")
    with LocalAws() as aws, pytest.raises(ValueError, match="does not exist"):
        aws.changes("unknown")
