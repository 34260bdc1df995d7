"""The comparison that counts: what a lake holds against what the database committed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from dsqlcdc.local.generator import Committed

_Name = tuple[str, str, str, int]


class Comparison(msgspec.Struct, frozen=True):
    """Changes in the lake against changes committed. The lists name at most ten examples each, as schema.table, key and version.

    A table without a key is at least once by nature: its repeated changes are counted in `keyless_repeats`, not in `repeated`.
    """

    committed: int
    rows: int
    missing: int
    repeated: int
    different: int
    unknown: int
    keyless_repeats: int
    examples: Mapping[str, list[str]]

    @property
    def holds(self) -> bool:
        """Every committed change is there exactly once, value for value, and nothing else."""
        return not (self.missing or self.repeated or self.different or self.unknown)


def compare(changes: Iterable[Committed], lines: Iterable[Mapping[str, Any]]) -> Comparison:
    """Compare committed changes that a CDC stream took with lines of the lake (decoded JSON, in any order)."""
    changes = list(changes)
    wanted = {_name(c.schema, c.table, c.key or c.row, c.version): c for c in changes if c.streams and (c.key or c.row)}
    anonymous = Counter((c.schema, c.table, c.version) for c in changes if c.streams and not (c.key or c.row))
    found: Counter[_Name] = Counter()
    found_anonymous: Counter[tuple[str, str, int]] = Counter()
    wrong: dict[str, list[str]] = {"missing": [], "repeated": [], "different": [], "unknown": []}
    keyless = 0
    for line in lines:
        row = line["row"]
        if line["key"] is None and row is None:
            found_anonymous[line["schema"], line["table"], line["version"]] += 1
            continue
        name = _name(line["schema"], line["table"], line["key"] or row, line["version"])
        change = wanted.get(name)
        if change is None:
            wrong["unknown"].append(_words(name))
            continue
        found[name] += 1
        if _without_nulls(row) != _without_nulls(change.row) or (change.op == "d") != (line["op"] == "delete"):
            wrong["different"].append(_words(name))
    for name, change in wanted.items():
        if found[name] == 0:
            wrong["missing"].append(_words(name))
        elif found[name] > 1:
            if change.key is None:
                keyless += found[name] - 1
            else:
                wrong["repeated"].append(_words(name))
    for who, count in anonymous.items():
        if found_anonymous[who] < count:
            wrong["missing"].append(f"{who[0]}.{who[1]} delete without a key, version {who[2]}")
        keyless += max(found_anonymous[who] - count, 0)
    return Comparison(
        committed=len(wanted) + sum(anonymous.values()),
        rows=sum(found.values()) + sum(found_anonymous.values()) + len(wrong["unknown"]),
        missing=len(wrong["missing"]),
        repeated=len(wrong["repeated"]),
        different=len(wrong["different"]),
        unknown=len(wrong["unknown"]),
        keyless_repeats=keyless,
        examples={what: names[:10] for what, names in wrong.items() if names},
    )


def _name(schema: str, table: str, key: Mapping[str, Any] | None, version: int) -> _Name:
    return schema, table, msgspec.json.encode(_without_nulls(key), order="sorted").decode(), version


def _without_nulls(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """NULL columns may be left out of an image (spec §5): absent and null say the same."""
    return None if row is None else {column: value for column, value in row.items() if value is not None}


def _words(name: _Name) -> str:
    return f"{name[0]}.{name[1]} {name[2][:80]} version {name[3]}"
