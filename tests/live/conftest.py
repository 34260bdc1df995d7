"""A node for the tests of this folder: one for all of them, or one of its own for a test that kills it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ..acceptance.server import ServerProcess
from ..acceptance.world import World
from .node import Node, missing


@pytest.fixture(scope="session", autouse=True)
def java() -> None:
    """These tests were asked for: a machine that cannot run them fails them, it does not skip them."""
    if lacking := missing():
        pytest.fail(f"a real OpenSearch cannot be started here: {lacking}")


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory, java: None) -> Iterator[Node]:
    """One node for all tests. Whoever restarts it leaves it running; indexes are told apart by their prefix."""
    with Node(tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.fixture
def own_node(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Starts a node of the test's own, with its settings."""
    with ExitStack() as stack:

        def start(**settings: str) -> Node:
            given = {name.replace("__", "."): value for name, value in settings.items()}
            return stack.enter_context(Node(tmp_path / "node", given))

        yield start


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(seed=5) as started:
        yield started


@pytest.fixture
def world(server: ServerProcess, tmp_path: Path) -> Iterator[World]:
    """A pipe in the embedded AWS, a bucket, and the commands run against them."""
    server.reset()
    made = World(server, tmp_path)
    try:
        yield made
    finally:
        made.close()
