"""What tests of the Lambda handler share: one embedded AWS for the process, and a world in it for each test."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from dsqlcdc.hosts.aws_lambda import Function
from dsqlcdc.testing.local import LocalAws

from .lambda_world import LambdaWorld


@pytest.fixture(scope="session")
def local_aws_server() -> Iterator[LocalAws]:
    with LocalAws(oversize=20_000, read_throttle=False) as aws:
        yield aws


@pytest.fixture
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
def world(local_aws: LocalAws, logging_as_before: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[LambdaWorld]:
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
