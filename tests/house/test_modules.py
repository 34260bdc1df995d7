"""Modules are small, have one idea, and say it in their first line."""

from __future__ import annotations

import ast
import statistics

from tests.house.reading import sources

LARGEST = 450
MEDIAN = 200


def test_no_module_is_larger_than_one_idea() -> None:
    sizes = {name: len(text.splitlines()) for name, text in sources().items()}
    assert {name: size for name, size in sizes.items() if size > LARGEST} == {}
    assert statistics.median(sizes.values()) <= MEDIAN


def test_every_modules_first_line_says_its_idea() -> None:
    silent = [name for name, text in sources().items() if not (ast.get_docstring(ast.parse(text)) or "").strip()]
    assert silent == []


def test_no_names_that_say_nothing() -> None:
    empty = ("util", "utils", "helper", "helpers", "misc", "common")
    assert [name for name in sources() if name.split(".")[-1] in empty] == []
    vague = [
        f"{name}.{node.name}"
        for name, text in sources().items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Manager", "Helper", "Utils"))
    ]
    assert vague == []


def test_broad_excepts_stand_only_where_the_process_ends() -> None:
    found = [
        f"{name}:{node.lineno}"
        for name, text in sources().items()
        if not name.startswith("dsqlcdc.hosts")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")))
        and not (node.body and isinstance(node.body[-1], ast.Raise))
    ]
    assert found == []
