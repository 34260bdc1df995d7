"""The Grafana dashboard, made of the table of metrics: `python deploy/grafana/generate.py` writes dashboard.json beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dsqlcdc.prometheus import METRICS, Metric

DASHBOARD = Path(__file__).parent / "dashboard.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT = 8, 7
SINK = 'pipeline=~"$pipeline", sink=~"$sink"'
PIPELINE = 'pipeline=~"$pipeline"'

STATS = (
    # title, query, unit, from where on it is yellow and red
    ("Sinks stopped", f'sum(dsqlcdc_state{{{SINK}, state="stopped"}})', "short", (None, 1)),
    ("Behind", f"max(dsqlcdc_shard_behind_seconds{{{SINK}}})", "s", (60, 600)),
    ("Open", f"sum(dsqlcdc_open{{{SINK}}})", "short", (None, None)),
    ("Retention used", f"max(dsqlcdc_retention_used_ratio{{{SINK}}})", "percentunit", (0.25, 0.5)),
    ("Gaps", f"sum(dsqlcdc_unacknowledged_gaps{{{PIPELINE}}})", "short", (None, 1)),
    ("Dead letters, 24 h", f"sum(increase(dsqlcdc_dead_letters_total{{{SINK}}}[24h]))", "short", (1, None)),
)
"""What a glance should tell, at the top."""


def main() -> None:
    DASHBOARD.write_text(text(), encoding="utf-8")


def text() -> str:
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


def dashboard() -> dict[str, Any]:
    """Six numbers, then a panel for every metric, by what it is about."""
    groups = (
        ("Sinks", [metric for metric in METRICS if "sink" in metric.labels and "shard" not in metric.labels]),
        ("Shards", [metric for metric in METRICS if "shard" in metric.labels]),
        ("Reading the stream", [metric for metric in METRICS if metric.of_source is not None]),
        ("What is stored", [metric for metric in METRICS if metric.of_kept is not None]),
        ("The CDC stream", [metric for metric in METRICS if metric.of_watch is not None]),
    )
    panels: list[dict[str, Any]] = list(_stats())
    top = 4
    for title, metrics in groups:
        panels.append({"type": "row", "title": title, "collapsed": False, "gridPos": {"h": 1, "w": 24, "x": 0, "y": top}, "panels": []})
        top += 1
        for place, metric in enumerate(metrics):
            panels.append(_panel(metric, x=place % 3 * WIDTH, y=top + place // 3 * HEIGHT))
        top += -(-len(metrics) // 3) * HEIGHT
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    return {
        "uid": "dsqlcdc",
        "title": "dsqlcdc",
        "description": "Aurora DSQL change streams to sinks. Generated from the table of metrics: do not edit by hand.",
        "tags": ["dsqlcdc", "cdc"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_datasource(), _variable("pipeline", ""), _variable("sink", f"{{{PIPELINE}}}")]},
        "panels": panels,
    }


def _stats() -> Iterator[dict[str, Any]]:
    for place, (title, query, unit, (yellow, red)) in enumerate(STATS):
        steps = [{"color": "green", "value": None}]
        steps += [{"color": color, "value": value} for color, value in (("yellow", yellow), ("red", red)) if value is not None]
        yield {
            "type": "stat",
            "title": title,
            "datasource": SOURCE,
            "gridPos": {"h": 4, "w": 4, "x": place * 4, "y": 0},
            "fieldConfig": {
                "defaults": {"unit": unit, "noValue": "–", "thresholds": {"mode": "absolute", "steps": steps}},
                "overrides": [],
            },
            "options": {"colorMode": "background", "graphMode": "area", "reduceOptions": {"calcs": ["lastNotNull"]}},
            "targets": [{"refId": "A", "datasource": SOURCE, "expr": query}],
        }


def _panel(metric: Metric, *, x: int, y: int) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": metric.name.removeprefix("dsqlcdc_"),
        "description": metric.meaning,
        "datasource": SOURCE,
        "gridPos": {"h": HEIGHT, "w": WIDTH, "x": x, "y": y},
        "fieldConfig": {"defaults": {"unit": unit(metric), "min": 0, "custom": {"fillOpacity": 10}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {
                "refId": "A",
                "datasource": SOURCE,
                "expr": query(metric),
                "legendFormat": " ".join(f"{{{{{label}}}}}" for label in metric.labels if label != "pipeline") or metric.name,
            }
        ],
    }


def query(metric: Metric) -> str:
    """A rate for what only rises, of a histogram what 99 of 100 stay below, the value itself for the others."""
    chosen = {"pipeline": 'pipeline=~"$pipeline"', "sink": 'sink=~"$sink"'}
    matchers = ", ".join(chosen[label] for label in metric.labels if label in chosen)
    series = metric.name + (f"{{{matchers}}}" if matchers else "")
    if metric.type == "histogram":
        by = ", ".join(("le", *metric.labels))
        return (
            f"histogram_quantile(0.99, sum by ({by}) (rate({series.replace(metric.name, metric.name + '_bucket', 1)}[$__rate_interval])))"
        )
    if metric.name.endswith("_timestamp_seconds"):
        return f"time() - {series}"
    return f"rate({series}[$__rate_interval])" if metric.type == "counter" else series


def unit(metric: Metric) -> str:
    """Grafana's name of the unit that the metric's name says."""
    if metric.type == "counter":
        return "Bps" if metric.name.endswith("_bytes_total") else "cps"
    for ending, name in (("_bytes", "bytes"), ("_seconds", "s"), ("_ratio", "percentunit"), ("_alarm", "percentunit")):
        if metric.name.endswith(ending):
            return name
    return "short"


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}


def _variable(label: str, of: str) -> dict[str, Any]:
    return {
        "name": label,
        "type": "query",
        "label": label.capitalize(),
        "datasource": SOURCE,
        "query": f"label_values(dsqlcdc_read_total{of}, {label})",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }


if __name__ == "__main__":
    main()
