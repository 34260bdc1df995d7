"""The table at the end of `make bench`: what was asked and what was got."""

from __future__ import annotations

import pytest

from tests.benchmarks import harness


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if harness.MEASURES:
        terminalreporter.section("measured")
        for line in harness.lines([measure.words for measure in harness.MEASURES], ("measure", "asked", "got", "")):
            terminalreporter.write_line(line)
