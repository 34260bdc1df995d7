"""Imports point down, everywhere: at the top of a module, inside functions and under TYPE_CHECKING."""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping

import pytest

from tests.house.reading import Sources, circles, imports, sources

BOTTOM = {"errors", "contract"}
HELPERS = {"aws", "lines", "options", "parquet", "units"}
"""Public helpers: what sinks may use beside the contract."""
CORE = BOTTOM | {"core"}
OUTER = {"assemble", "cli", "hosts"}

ALLOWED: Mapping[str, set[str]] = {
    "errors": set(),
    "units": set(),
    "contract": {"errors"},
    "lines": BOTTOM,
    "options": BOTTOM | {"units"},
    "aws": BOTTOM | {"units"},
    "columns": BOTTOM,
    "core": BOTTOM,
    "sources": CORE | {"aws", "units"},
    "stores": CORE | {"aws", "units"},
    "streams": CORE | {"aws", "units"},
    "local": CORE | {"aws", "units"},
}
"""By area (the first name below dsqlcdc): the areas it may import beside itself. An area not named here may import all but OUTER."""
THIRD_PARTY: Mapping[str, set[str]] = {
    "": {"msgspec"},
    "errors": set(),
    "units": set(),
    "contract": {"msgspec"},
    "lines": {"msgspec"},
    "core": {"google_crc32c", "msgspec", "orjson"},
    "columns": {"msgspec", "pydantic", "pydantic_core"},
}
"""What else an area may import from outside the standard library, where that is fixed."""


def area(module: str) -> str:
    """The first name below dsqlcdc, "" for dsqlcdc itself."""
    return module.split(".")[1] if "." in module else ""


def upward(modules: Sources) -> list[str]:
    """Imports that the table does not allow, in words."""
    found: list[str] = []
    for name, text in modules.items():
        for target, line in imports(name, text, modules):
            inside = target.split(".")[0]
            if inside not in {module.split(".")[0] for module in modules}:
                continue
            if not _may(name, target):
                found.append(f"{name}:{line} imports {target}")
    return found


def _may(name: str, target: str) -> bool:
    if not name.startswith("dsqlcdc.") and name != "dsqlcdc":  # a sink
        return target.split(".")[0] == name.split(".")[0] or (target.startswith("dsqlcdc.") and area(target) in BOTTOM | HELPERS)
    if not target.startswith("dsqlcdc.") and target != "dsqlcdc":
        return False  # sinks are found by their entry points
    here, there = area(name), area(target)
    if here == "":
        return there in BOTTOM
    if there == "":
        return here not in BOTTOM | HELPERS | {"columns", "core"}
    if here == there:
        return True
    if here in ALLOWED:
        return there in ALLOWED[here]
    return there not in OUTER or here in ("cli", "__main__") or (here == "hosts" and there == "assemble")


def test_imports_point_down() -> None:
    assert upward(sources()) == []


def test_there_are_no_circles() -> None:
    assert circles(sources()) == []


def test_what_a_sinks_author_imports_needs_little_more_than_the_standard_library() -> None:
    modules = sources()
    found = [
        f"{name}:{line} imports {target}"
        for name, text in modules.items()
        if name.split(".")[0] == "dsqlcdc" and area(name) in THIRD_PARTY
        for target, line in imports(name, text, modules)
        if target.split(".")[0] not in {"dsqlcdc", *sys.stdlib_module_names} | THIRD_PARTY[area(name)]
    ]
    assert found == []


def test_no_module_imports_by_a_star() -> None:
    stars = [
        f"{name}:{node.lineno}"
        for name, text in sources().items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
    ]
    assert stars == []


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("dsqlcdc.core.added", "import dsqlcdc.sources.kinesis"),
        ("dsqlcdc.core.added", "def late():\n    from dsqlcdc import assemble"),
        ("dsqlcdc.core.added", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from dsqlcdc.columns import Row"),
        ("dsqlcdc.core.added", "from ..sources.kinesis import x"),
        ("dsqlcdc.contract", "from dsqlcdc.core.records import Record"),
        ("dsqlcdc", "from dsqlcdc.columns import Row"),
        ("dsqlcdc.columns.added", "import dsqlcdc"),
        ("dsqlcdc.stores.added", "from dsqlcdc.sources import kinesis"),
        ("dsqlcdc.config", "from dsqlcdc.assemble import build"),
        ("dsqlcdc.assemble", "import dsqlcdc_s3"),
        ("dsqlcdc.hosts.added", "from dsqlcdc.cli import main"),
        ("dsqlcdc_s3.added", "from dsqlcdc.core.records import Record"),
        ("dsqlcdc_s3.added", "from dsqlcdc_webhook import x"),
    ],
)
def test_an_import_that_points_up_is_found_wherever_it_stands(module: str, text: str) -> None:
    """Control: each of these would be named."""
    names = ["dsqlcdc.assemble", "dsqlcdc.sources.kinesis", "dsqlcdc.core", "dsqlcdc.cli", "dsqlcdc_s3", "dsqlcdc_webhook"]
    assert len(upward({**dict.fromkeys(names, ""), module: text})) == 1


def test_a_circle_is_found_also_when_it_is_closed_inside_a_function() -> None:
    """Control."""
    names = {
        "dsqlcdc.a": "from dsqlcdc import b",
        "dsqlcdc.b": "import dsqlcdc.c",
        "dsqlcdc.c": "def f():\n    import dsqlcdc.a",
        "dsqlcdc.d": "import dsqlcdc.a",
    }
    assert circles(names) == [["dsqlcdc.a", "dsqlcdc.b", "dsqlcdc.c"]]
