"""pyproject.toml, the sinks in the tree and what is installed agree."""

from __future__ import annotations

import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import dsqlcdc

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_sink_in_the_tree_is_packaged_and_has_an_entry_point() -> None:
    in_tree = {f"sinks/{path.name}" for path in (ROOT / "sinks").iterdir() if (path / "__init__.py").exists()}
    assert set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == in_tree | {"dsqlcdc"}
    modules = {target.partition(":")[0].partition(".")[0] for target in PROJECT["project"]["entry-points"]["dsqlcdc.sinks"].values()}
    assert {path.removeprefix("sinks/") for path in in_tree} | {"dsqlcdc"} == modules


def test_what_is_installed_offers_what_is_declared() -> None:
    declared = PROJECT["project"]["entry-points"]["dsqlcdc.sinks"]
    installed = {point.name: point.value for point in entry_points(group="dsqlcdc.sinks")}
    assert declared.items() <= installed.items()
    assert version("dsqlcdc") == dsqlcdc.__version__


def test_every_pinned_version_is_exact_and_no_address_is_in_the_pins() -> None:
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(pin.count("==") == 1 and "/" not in pin and "@" not in pin for pin in pins)
