"""YAML as plain values, with the line and column of every key and value.

The scalars of YAML 1.2: `true`, `false`, `null` and plain numbers are not strings, everything else is. So `no`, `1:30` and
`2026-01-01` are what they look like.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Path = tuple[str | int, ...]

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?")
_NULLS: dict[str, Any] = dict.fromkeys(("", "~", "null", "Null", "NULL"))
_WORDS = _NULLS | {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_DEEPEST = 50
_MOST = 100_000


@dataclass(frozen=True, slots=True)
class Place:
    """Line and column, both from 1."""

    line: int = 1
    column: int = 1


@dataclass(slots=True)
class Tree:
    """What a file says, and where. `from_variable`: the places whose text came, in whole or in part, from the environment."""

    data: Any = None
    keys: dict[Path, Place] = field(default_factory=dict[Path, Place])
    values: dict[Path, Place] = field(default_factory=dict[Path, Place])
    from_variable: set[Path] = field(default_factory=set[Path])

    def place(self, path: Path, *, key: bool = False) -> Place:
        """The place of a value (or its key), or of the nearest one above. Parts of the path that the file does not have, such as the
        tags that pydantic puts into the places of unions, are passed over."""
        known: Path = ()
        for part in path:
            if (*known, part) in self.values:
                known = (*known, part)
        if key or known != path:
            return self.keys.get(known) or self.values.get(known) or Place()
        return self.values.get(known) or Place()


Report = Callable[[str, Place, str, str, str], None]
"""report(code, place, what, why, fix)"""
Expand = Callable[[str, Place], tuple[str, bool]]
"""expand(text, place) → the text with its variables, and whether there were any."""


def parse(text: str, report: Report, expand: Expand) -> Tree:
    """The tree of a file's text; what is wrong is reported, and what can be read is read all the same."""
    tree = Tree()
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else Place()
        why = "; ".join(part for part in (error.context, error.problem) if part)
        fix = "One file holds one document" if isinstance(error, ComposerError) and "document" in why else ""
        line = text.splitlines()[place.line - 1] if 0 < place.line <= len(text.splitlines()) else ""
        fix = fix or ("Put quotes around ${…} inside { } and [ ]" if "${" in line else "")
        fix = fix or ("Indent with spaces" if "\t" in line else "")
        report("E005", place, "this is not YAML", why, fix)
        return tree
    except (yaml.reader.ReaderError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else f"a character YAML does not allow: {error.reason}"
        report("E005", Place(), "this is not YAML", why, "")
        return tree
    if node is not None:
        _Walk(tree, report, expand).walk(node)
    return tree


class _Walk:
    def __init__(self, tree: Tree, report: Report, expand: Expand) -> None:
        self._tree, self._report, self._expand = tree, report, expand
        self._nodes = 0

    def walk(self, node: Node) -> None:
        self._tree.data = self._value(node, ())

    def _value(self, node: Node, path: Path) -> Any:
        place = _place(node)
        self._tree.values[path] = place
        self._nodes += 1
        if len(path) > _DEEPEST or self._nodes > _MOST:
            if self._nodes <= _MOST + 1:
                self._report(
                    "E005", place, "this file is too large", "nested too deeply, or aliases that multiply", "Write it out without aliases"
                )
            self._nodes = max(self._nodes, _MOST + 1)
            return None
        if isinstance(node, MappingNode):
            self._tag(node, "map", place)
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            self._tag(node, "seq", place)
            items: list[Node] = node.value
            return [self._value(item, (*path, index)) for index, item in enumerate(items)]
        assert isinstance(node, ScalarNode)
        return self._scalar(node, path, place)

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        made: dict[str, Any] = {}
        pairs: list[tuple[Node, Node]] = node.value
        for key_node, value_node in pairs:
            place = _place(key_node)
            if not isinstance(key_node, ScalarNode):
                self._report("E013", place, "a key must be a string", "", "Put quotes around it")
                continue
            text: str = key_node.value
            key, _ = self._expand(text, place)
            where = (*path, key)
            if key in made:
                first = self._tree.keys[where]
                self._report("E006", place, f"the key {key!r} is given twice", f"first in line {first.line}", "Remove one of them")
                continue
            self._tree.keys[where] = place
            made[key] = self._value(value_node, where)
        return made

    def _scalar(self, node: ScalarNode, path: Path, place: Place) -> Any:
        self._tag(node, "str int float bool null timestamp merge value", place)
        written: str = node.value
        text, expanded = self._expand(written, place)
        if expanded:
            self._tree.from_variable.add(path)
            return text
        if node.style is not None or (node.tag == "tag:yaml.org,2002:str" and text in _WORDS and text):
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            return int(text)
        return float(text) if _FLOAT.fullmatch(text) else text

    def _tag(self, node: Node, allowed: str, place: Place) -> None:
        if node.tag not in {f"tag:yaml.org,2002:{name}" for name in allowed.split()}:
            self._report("E005", place, f"the tag {node.tag!r} is not known here", "tags have no meaning in a config", "Remove it")


def _place(node: Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)
