"""The folders, pyproject.toml and the pins agree, so that what is tested is what ships."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from typing import Any

import pytest

from tests.house.reading import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SINKS = sorted(path.parent.name for path in (ROOT / "sinks").glob("*/__init__.py"))
ENTRIES: dict[str, str] = PROJECT["project"]["entry-points"]["dsqlcdc.sinks"]
PINS = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def test_every_package_ships_by_its_name() -> None:
    packages: list[str] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(packages) == ["dsqlcdc", *(f"sinks/{name}" for name in SINKS)]
    assert [package for package in packages if not (ROOT / package / "__init__.py").exists()] == []


def test_every_sink_comes_through_an_entry_point() -> None:
    named = {target.partition(":")[0].partition(".")[0] for target in ENTRIES.values()}
    assert named == {*SINKS, "dsqlcdc"}


def test_type_checkers_and_linters_see_every_package() -> None:
    files: list[str] = PROJECT["tool"]["mypy"]["files"]
    assert [name for name in ("dsqlcdc", *(f"sinks/{sink}" for sink in SINKS)) if name not in files] == []
    assert {"dsqlcdc", "sinks"} <= set(PROJECT["tool"]["pyright"]["include"])
    assert {"dsqlcdc", *SINKS} <= set(PROJECT["tool"]["ruff"]["lint"]["isort"]["known-first-party"])
    assert "tests/typing" in files
    assert "tests/typing" in PROJECT["tool"]["pyright"]["include"]


@pytest.mark.parametrize("target", sorted({*ENTRIES.values(), *PROJECT["project"]["scripts"].values()}))
def test_every_entry_point_names_something_callable(target: str) -> None:
    module_name, _, path = target.partition(":")
    assert importlib.util.find_spec(module_name) is not None
    found: Any = importlib.import_module(module_name)
    for part in path.split("."):
        found = getattr(found, part)
    assert callable(found)


def test_the_types_ship() -> None:
    marked = [ROOT / "dsqlcdc", *(ROOT / "sinks" / name for name in SINKS)]
    assert [str(path.relative_to(ROOT)) for path in marked if not (path / "py.typed").exists()] == []


def test_every_dependency_is_pinned_once_and_to_one_version() -> None:
    assert [pin for pin in PINS if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+(?:\s*;.*)?", pin)] == []
    pinned = [_name(pin) for pin in PINS]
    assert len(pinned) == len(set(pinned))
    extras: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
    wanted = {_name(need) for needs in (PROJECT["project"]["dependencies"], *extras.values()) for need in needs} - {"dsqlcdc"}
    assert sorted(wanted - set(pinned)) == []


def test_no_file_of_the_build_names_a_package_index() -> None:
    files = [
        ROOT / "constraints.txt",
        ROOT / "Makefile",
        ROOT / "pyproject.toml",
        *(path for path in (ROOT / ".ci").glob("*") if path.is_file()),
    ]
    named = [
        f"{path.name}: {line.strip()}"
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"index-url|extra-index|find-links|trusted-host|://[^ ]*/simple|pypi\.|PIP_INDEX", line)
    ]
    assert named == []
