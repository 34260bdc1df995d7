"""One Chromium for all tests; where pictures are kept: DSQLCDC_SHOTS, or a temporary directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Only `make test-browser` installs it; where it is not there pytest says that nothing was run, and fails.
collect_ignore_glob = [] if find_spec("playwright") is not None else ["test_*.py"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    from .windows import chromium

    program = chromium()
    assert program is not None, "no Chromium on this machine: install Debian's `chromium`, or name one in DSQLCDC_CHROMIUM"
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses to run as root with it
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=sandbox)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get("DSQLCDC_SHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("shots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
