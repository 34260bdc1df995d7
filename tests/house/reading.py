"""How the house tests read the sources: modules by name, their imports wherever they stand, their fault codes. Nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

Sources = Mapping[str, str]
"""Module name to source text."""


def sources() -> dict[str, str]:
    """Every module of the packages that ship: dsqlcdc and those under sinks/."""
    found: dict[str, str] = {}
    for base in (ROOT, ROOT / "sinks"):
        packages = [base / "dsqlcdc"] if base == ROOT else sorted(path for path in base.glob("*") if (path / "__init__.py").exists())
        for package in packages:
            for path in sorted(package.rglob("*.py")):
                parts = path.relative_to(base).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


def imports(name: str, source: str, modules: Sources) -> Iterator[tuple[str, int]]:
    """Every module that `source` imports, with the line: at the top, in functions, under TYPE_CHECKING. `from a import b` is a.b where
    that is a module."""
    is_package = any(other.startswith(name + ".") for other in modules)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = name.split(".") if is_package else name.split(".")[:-1]
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield (inner if inner in modules else base), node.lineno


def circles(modules: Sources) -> list[list[str]]:
    """Groups of modules that import each other, each sorted; [] where imports only point down."""
    graph = {name: {target for target, _ in imports(name, text, modules) if target in modules} for name, text in modules.items()}
    reach = {name: _reachable(name, graph) for name in graph}
    groups = {tuple(sorted(other for other in reach[name] if name in reach[other])) for name in graph if name in reach[name]}
    return [list(group) for group in sorted(groups)]


def _reachable(start: str, graph: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    todo = list(graph[start])
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo.extend(graph[name])
    return seen


@dataclass(frozen=True)
class Use:
    """One literal fault code: where it stands, the fault class it is given to ("" where that cannot be read), and what went wrong, with
    {} for what is filled in ("" where it is not a literal)."""

    code: str
    module: str
    line: int
    fault: str
    what: str
    listed: bool = False
    """In a comparison, a pattern or a table: the code is asked for or listed there, not given."""


def codes(modules: Sources) -> list[Use]:
    """Every literal code "E" and three digits."""
    parents = fault_classes(modules)
    uses: list[Use] = []
    for module, text in modules.items():
        owners: dict[int, tuple[str, str]] = {}
        listed: set[int] = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Compare | ast.Dict | ast.Set | ast.Tuple | ast.List | ast.MatchValue):
                listed |= {id(child) for child in ast.iter_child_nodes(node)}
            if isinstance(node, ast.ClassDef) and node.name in parents:
                for statement in node.body:
                    value = getattr(statement, "value", None)
                    if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(value, ast.Constant):
                        owners[id(value)] = (node.name, "")
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in parents:
                for keyword in node.keywords:
                    if keyword.arg == "code":
                        owners[id(keyword.value)] = (node.func.id, _words(node.args[0]) if node.args else "")
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _is_code(node.value):
                fault, what = owners.get(id(node), ("", ""))
                uses.append(Use(node.value, module, node.lineno, fault, what, id(node) in listed))
    return uses


def fault_classes(modules: Sources) -> dict[str, list[str]]:
    """Every class that derives from Fault, with its ancestors, nearest first."""
    bases: dict[str, list[str]] = {}
    for text in modules.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]

    def ancestors(name: str) -> list[str]:
        return [ancestor for base in bases.get(name, []) if base != name for ancestor in (base, *ancestors(base))]

    return {name: line for name in bases if (line := ancestors(name)) and "Fault" in line} | {"Fault": []}


def _is_code(text: str) -> bool:
    return len(text) == 4 and text[0] == "E" and text[1:].isdigit()


def _words(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return ""
