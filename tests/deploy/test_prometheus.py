"""Alerts stand on metrics that are measured, each has a page for 3 a.m., and the commands of the pages exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from dsqlcdc.cli.app import app
from dsqlcdc.prometheus import METRICS, READING, STATES, STATUSES
from dsqlcdc.streams.observed import CODES

from ..docs.reading import ROOT, blocks, sections

RULES = ROOT / "deploy" / "prometheus" / "alerts.yaml"
TESTS = ROOT / "deploy" / "prometheus" / "alerts_test.yaml"
ALARMS = sorted((ROOT / "deploy").glob("cloud*/*.yaml"))
RUNBOOK = ROOT / "docs" / "runbook"
PAGES = sorted(path for path in RUNBOOK.glob("*.md") if path.name != "README.md")
LABELS = {metric.name: set(metric.labels) for metric in METRICS}
WORDS = {"state": {*STATES, *READING}, "status": set(STATUSES), "reason": set(CODES)}
GIVEN_BY_PROMETHEUS = {"up"}
FUNCTIONS = {"absent", "and", "by", "increase", "max", "offset", "or", "rate", "unless"}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def metrics_in(expression: str) -> list[tuple[str, dict[str, str]]]:
    """(metric, matchers) of a PromQL expression."""
    bare = re.sub(r"\[[\w$]+\]|\b(?:by|on|without|ignoring) \([^)]*\)", "", expression)
    found = re.findall(r"\b([a-z][a-z_]*)(?:\{([^}]*)\})?", bare)
    return [(name, dict(re.findall(r'(\w+)=~?"([^"]*)"', matchers))) for name, matchers in found if name not in FUNCTIONS]


def test_every_metric_of_an_alert_is_measured_with_its_labels() -> None:
    for rule in rules():
        named = metrics_in(rule["expr"])
        assert named, rule["alert"]
        for name, matchers in named:
            if name in GIVEN_BY_PROMETHEUS:
                continue
            assert name in LABELS, rule["alert"]
            assert matchers.keys() <= LABELS[name], rule["alert"]
            for label, values in matchers.items():
                assert set(values.split("|")) <= WORDS[label], rule["alert"]


def test_a_metric_that_is_not_measured_is_found() -> None:
    """Control."""
    assert metrics_in('rate(made_up[5m]) > 1 and other{state="x"} == 1') == [("made_up", {}), ("other", {"state": "x"})]


def test_every_label_in_a_summary_is_the_metrics() -> None:
    for rule in rules():
        labels = set.intersection(*({*LABELS.get(name, {"job"}), *matchers} for name, matchers in metrics_in(rule["expr"])))
        said = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert said <= labels, rule["alert"]


def test_every_alert_is_tested_to_fire_to_resolve_and_to_keep_silent() -> None:
    made = yaml.safe_load(TESTS.read_text(encoding="utf-8"))["tests"]
    courses = {
        (case["alertname"], tuple(bool(each["exp_alerts"]) for each in test["alert_rule_test"]))
        for test in made
        for case in test["alert_rule_test"]
    }
    alerts = {rule["alert"] for rule in rules()}
    assert {name for name, course in courses if course == (True, False)} == alerts
    assert {name for name, course in courses if course == (False,)} == alerts


def test_every_alert_has_its_page_and_every_page_its_alert() -> None:
    named = {rule["annotations"]["runbook"] for rule in rules()}
    for path in ALARMS:
        named.update(re.findall(r"docs/runbook/[\w-]+\.md", path.read_text(encoding="utf-8")))
    assert named == {path.relative_to(ROOT).as_posix() for path in PAGES}


def test_the_index_names_every_page_with_its_alerts() -> None:
    text = (RUNBOOK / "README.md").read_text(encoding="utf-8")
    for rule in rules():
        page = Path(rule["annotations"]["runbook"]).name
        (row,) = [line for line in text.splitlines() if f"({page})" in line]
        assert f"`{rule['alert']}`" in row


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_says_what_it_means_how_to_see_it_and_what_to_do(path: Path) -> None:
    title, *parts = sections(path)
    assert parts == ["What it means", "How to see it", "What to do", "When it is over"], title
    assert {block.heading for block in blocks(path, "bash")} >= {"How to see it", "What to do"}


def commands(path: Path) -> list[list[str]]:
    text = path.read_text(encoding="utf-8")
    inline = re.findall(r"`(dsqlcdc [a-z][^`]*)`", text)
    fenced = [line for block in blocks(path, "bash") for line in block.text.splitlines() if line.startswith("dsqlcdc ")]
    return [shlex.split(line, comments=True)[1:] for line in [*inline, *fenced]]


def check(arguments: list[str]) -> None:
    """Raises where there is no such command or option: the words are parsed as the command would, and nothing is run."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("dsqlcdc", list(arguments), resilient_parsing=False)
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args] if hasattr(context, "_protected_args") else context.args
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("path", [*PAGES, RUNBOOK / "README.md"], ids=lambda path: path.stem)
def test_every_command_of_a_page_exists(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("orders.yaml", "again.yaml"):
        (tmp_path / name).touch()
    for arguments in commands(path):
        check(arguments)


@pytest.mark.parametrize("text", ["stram status orders.yaml", "dead list --nonsense orders.yaml", "dead show"])
def test_a_command_that_does_not_exist_is_found(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "orders.yaml").touch()
    with pytest.raises(Exception, match=r"(?i)no such|missing"):
        check(text.split())


@pytest.mark.parametrize("path", [*PAGES, RUNBOOK / "README.md"], ids=lambda path: path.stem)
def test_every_link_of_a_page_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target
