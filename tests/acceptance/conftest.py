"""One embedded AWS for each test worker, emptied before every test; one directory and pipe for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .server import ServerProcess
from .world import World


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(seed=11) as started:
        yield started


@pytest.fixture
def world(server: ServerProcess, tmp_path: Path) -> Iterator[World]:
    server.reset()
    made = World(server, tmp_path)
    try:
        yield made
    finally:
        made.close()
