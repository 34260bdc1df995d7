"""The table of metrics in docs/reference.md, made of the metrics and the alerts: `python deploy/prometheus/table.py` writes it there."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from dsqlcdc.prometheus import METRICS

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference.md"
HEAD = "| metric | type | labels | meaning | alerts |\n|---|---|---|---|---|\n"


def alerts() -> dict[str, list[str]]:
    """By metric the alerts that ask for it, in the order of the rules."""
    found: dict[str, list[str]] = {}
    (group,) = yaml.safe_load((Path(__file__).parent / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]:
        for name in sorted(set(re.findall(r"\bdsqlcdc_[a-z_]+", rule["expr"]))):
            found.setdefault(name, []).append(rule["alert"])
    return found


def table() -> str:
    used = alerts()
    rows: list[str] = []
    for metric in METRICS:
        named = ", ".join(f"`{alert}`" for alert in used.get(metric.name, ())) or "–"
        rows.append(f"| `{metric.name}` | {metric.type} | {', '.join(metric.labels) or '–'} | {metric.meaning} | {named} |\n")
    return HEAD + "".join(rows)


def main() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    head, _, rest = text.partition("| metric | type | labels |")
    _, _, after = rest.partition("\n\n")
    REFERENCE.write_text(f"{head}{table()}\n{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
