"""The dashboard is what the table of metrics gives, shows each of them, and names no other."""

from __future__ import annotations

import importlib.util
import json
import re
from types import ModuleType
from typing import Any

import pytest

from dsqlcdc.prometheus import METRICS

from ..docs.reading import ROOT
from .test_prometheus import LABELS, metrics_in

GRAFANA = ROOT / "deploy" / "grafana"
FUNCTIONS = {"histogram_quantile", "sum", "time"}


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboard_generate", GRAFANA / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def dashboard() -> dict[str, Any]:
    made: dict[str, Any] = json.loads((GRAFANA / "dashboard.json").read_text(encoding="utf-8"))
    return made


def queries(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


def test_the_committed_dashboard_is_the_generated_one(generate: ModuleType) -> None:
    assert (GRAFANA / "dashboard.json").read_text(encoding="utf-8") == generate.text(), "run: python deploy/grafana/generate.py"


def test_every_metric_of_a_query_is_measured_with_its_labels_and_every_metric_is_shown(dashboard: dict[str, Any]) -> None:
    shown: set[str] = set()
    for query in queries(dashboard):
        for name, matchers in metrics_in(query):
            if name not in FUNCTIONS:
                name = name.removesuffix("_bucket")
                assert matchers.keys() <= LABELS[name], query
                shown.add(name)
    assert shown == {metric.name for metric in METRICS}


def test_a_counter_is_shown_as_a_rate(dashboard: dict[str, Any]) -> None:
    counters = {metric.name for metric in METRICS if metric.type == "counter"}
    for query in queries(dashboard):
        for name in counters & {name for name, _ in metrics_in(query)}:
            assert re.search(rf"(rate|increase)\({name}\b", query), query


def test_legends_and_variables_name_labels_that_are_there(dashboard: dict[str, Any]) -> None:
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            ((name, _), *_) = [found for found in metrics_in(target["expr"]) if found[0] not in FUNCTIONS]
            assert set(re.findall(r"{{(\w+)}}", target.get("legendFormat", ""))) <= LABELS[name.removesuffix("_bucket")]
    for variable in dashboard["templating"]["list"][1:]:
        name, label = re.fullmatch(r"label_values\((\w+)(?:{.*})?, (\w+)\)", variable["query"]).groups()  # type: ignore[union-attr]
        assert label in LABELS[name]


def test_panels_do_not_lie_on_each_other(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
