"""A way to write a config and to lint it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from dsqlcdc.config import Finding, lint

Lint = Callable[..., list[Finding]]

BASE = """\
pipeline: orders
source: {stream: orders}
sinks: {out: {type: drop}}
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def put(text: str) -> Path:
        path = tmp_path / "cdc.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return put


@pytest.fixture
def findings(write: Callable[[str], Path]) -> Lint:
    def run(text: str, environ: Mapping[str, str] | None = None) -> list[Finding]:
        return lint(write(text), environ or {})

    return run
