"""One error code, one meaning: whoever looks a code up finds one kind of trouble and one way out."""

from __future__ import annotations

import ast
from collections import defaultdict

import pytest

from tests.house.reading import Sources, codes, fault_classes, sources

SHARED = {"dsqlcdc.aws", "dsqlcdc.errors"}
"""Whose codes others may use too: the vocabulary, and what AWS's answers mean."""


def torn(modules: Sources) -> list[str]:
    """Codes that stand for two kinds of fault. A class and its descendants are one kind; a plain Fault is a finding of any kind."""
    ancestors = fault_classes(modules)
    by_code: dict[str, set[str]] = defaultdict(set)
    for use in codes(modules):
        if use.fault not in ("", "Fault"):
            by_code[use.code].add(use.fault)
    found: list[str] = []
    for code, classes in sorted(by_code.items()):
        roots = [name for name in classes if not classes & set(ancestors[name])]
        if len(roots) > 1:
            found.append(f"{code} is given to {', '.join(sorted(roots))}")
    return found


def doubled(modules: Sources) -> list[str]:
    """The same words of the same class under two codes."""
    by_words: dict[tuple[str, str], set[str]] = defaultdict(set)
    for use in codes(modules):
        if use.fault and use.what.strip("{} "):
            by_words[use.fault, use.what].add(use.code)
    return [
        f"{fault} {what!r} has the codes {', '.join(sorted(several))}" for (fault, what), several in by_words.items() if len(several) > 1
    ]


def spread(modules: Sources) -> list[str]:
    """Codes that two areas use though neither the errors nor the AWS vocabulary defines them."""
    areas: dict[str, set[str]] = defaultdict(set)
    for use in codes(modules):
        package, *inner = use.module.split(".")
        if use.module in SHARED:
            areas[use.code].add(use.module)
        elif not use.listed:
            areas[use.code].add(".".join([package, *inner[:1]]) if package == "dsqlcdc" else package)
    return [
        f"{code} is used by {', '.join(sorted(users))}" for code, users in sorted(areas.items()) if len(users) > 1 and not users & SHARED
    ]


def test_a_code_is_given_to_one_kind_of_fault() -> None:
    assert torn(sources()) == []


def test_the_same_words_have_the_same_code() -> None:
    assert doubled(sources()) == []


def test_a_code_belongs_to_one_area_or_to_the_shared_vocabulary() -> None:
    assert spread(sources()) == []


def test_the_registry_sees_the_codes() -> None:
    found = {use.code: use.fault for use in codes(sources()) if use.module == "dsqlcdc.errors"}
    assert found["E001"] == "ConfigError"
    assert found["E120"] == "Unavailable"
    assert any(use.fault == "ConfigError" and use.what == "a row model is a pydantic model" for use in codes(sources()))


SILENT = {"Unavailable", "Finding"}
"""What is asked again; and what names its own command, `config lint`."""


def speechless(modules: Sources) -> list[str]:
    """Faults that end a command or a sink and name no next step."""
    ending = {name for name, ancestors in fault_classes(modules).items() if not {name, *ancestors} & SILENT}
    found: list[str] = []
    for module, text in modules.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ending:
                named = {keyword.arg for keyword in node.keywords}
                if node.args and not named & {"run", None}:
                    found.append(f"{module}:{node.lineno} {node.func.id}")
    return found


def test_what_ends_a_command_or_a_sink_says_what_to_do_next() -> None:
    assert speechless(sources()) == []


def test_a_fault_that_says_nothing_to_do_is_found() -> None:
    """Control."""
    assert speechless({**TREE, "a": 'Held("x", where="y")'}) == ["a:1 Held"]
    assert speechless({**TREE, "a": 'Held("x", run="y")'}) == []


TREE = {
    "dsqlcdc.errors": """
class Fault(Exception):
    default_code: str = "E000"
class Lost(Fault):
    default_code = "E110"
class Held(Fault):
    pass
"""
}


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (torn, 'raise Held("x", code="E110")'),
        (doubled, 'raise Held(f"no {a}", code="E201")\nraise Held(f"no {b}", code="E202")'),
        (spread, 'raise Held("x", code="E201")'),
    ],
)
def test_a_code_with_two_meanings_is_found(check: object, text: str) -> None:
    """Control: each of the three laws fails on a tree that breaks it."""
    assert callable(check)
    assert check(TREE) == []
    assert len(check({**TREE, "dsqlcdc.stores.a": text, "dsqlcdc.sources.b": 'Held("y", code="E201")'})) == 1
