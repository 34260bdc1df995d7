"""The little of the query language that a replica needs: bool, term, terms, ids, exists, range, sorted and paged."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from dsqlcdc.testing.search_index import Document, Refused

_TESTS: Mapping[str, Callable[[Any, Any], bool]] = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}


def matches(query: Mapping[str, Any] | None, document: Document, row: Mapping[str, Any]) -> bool:
    """Does the document fit? Raises Refused for a query that is not known here."""
    if not query:
        return True
    ((kind, given),) = query.items()
    match kind:
        case "match_all":
            return True
        case "bool":
            every = [*_clauses(given, "must"), *_clauses(given, "filter")]
            some, none = _clauses(given, "should"), _clauses(given, "must_not")
            return (
                all(matches(clause, document, row) for clause in every)
                and not any(matches(clause, document, row) for clause in none)
                and (not some or bool(every) or any(matches(clause, document, row) for clause in some))
            )
        case "ids":
            return document.id in given["values"]
        case "exists":
            return bool(values(row, given["field"]))
        case "term" | "terms" | "match":
            ((name, wanted),) = given.items()
            return any(value == one and type(value) is type(one) for value in values(row, name) for one in _listed(wanted))
        case "range":
            ((name, bounds),) = given.items()
            return any(_within(value, bounds) for value in values(row, name))
        case _:
            raise Refused(400, "parsing_exception", f"unknown query [{kind}]")


def _clauses(given: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    clauses: Any = given.get(name, [])
    return cast(list[Mapping[str, Any]], clauses if isinstance(clauses, list) else [clauses])


def values(row: Mapping[str, Any], path: str) -> list[Any]:
    """The values of a field, by its path of dots."""
    head, _, rest = path.partition(".")
    if path in row:
        found: Any = row[path]
    elif rest and isinstance(inner := row.get(head), dict):
        return values(cast(dict[str, Any], inner), rest)
    else:
        return []
    return [value for value in _listed(found) if value is not None]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]  # pyright: ignore[reportUnknownVariableType]


def _within(value: Any, bounds: Mapping[str, Any]) -> bool:
    try:
        return all(_TESTS[name](value, bound) for name, bound in bounds.items())
    except TypeError:
        return False


def page(documents: Iterable[Document], body: Mapping[str, Any], alias: Mapping[str, Any] | None) -> tuple[int, list[dict[str, Any]]]:
    """The total and the hits of a search, within the alias's filter."""
    found: list[tuple[list[Any], Document, dict[str, Any]]] = []
    order: Sequence[Any] = body.get("sort", ())
    for document in documents:
        row = document.row()
        if matches(alias, document, row) and matches(body.get("query"), document, row):
            found.append(([_sort_value(document, row, by) for by in order], document, row))
    for n, by in reversed(list(enumerate(order))):
        found.sort(key=lambda hit: hit[0][n], reverse=_descends(by))
    total = len(found)
    if "search_after" in body:
        found = [hit for hit in found if hit[0] > body["search_after"]]
    start, size = int(body.get("from", 0)), int(body.get("size", 10))
    if start + size > 10_000:
        raise Refused(400, "illegal_argument_exception", "Result window is too large, from + size must be less than or equal to: [10000]")
    hits: list[dict[str, Any]] = []
    for sort, document, row in found[start : start + size]:
        hit: dict[str, Any] = {"_id": document.id, "_score": None if order else 1.0}
        if body.get("version"):
            hit["_version"] = document.version
        if body.get("seq_no_primary_term"):
            hit |= {"_seq_no": document.seq_no, "_primary_term": 1}
        if body.get("_source", True) is not False:
            hit["_source"] = row
        if order:
            hit["sort"] = sort
        hits.append(hit)
    return total, hits


def _sort_value(document: Document, row: Mapping[str, Any], by: Any) -> Any:
    name = by if isinstance(by, str) else next(iter(by))
    if name == "_shard_doc":
        raise Refused(400, "illegal_argument_exception", "No mapping found for [_shard_doc] in order to sort on")
    special: dict[str, Any] = {"_id": document.id, "_seq_no": document.seq_no, "_doc": document.seq_no}
    if name in special:
        return special[name]
    found = values(row, name)
    return found[0] if found else 2**63 - 1


def _descends(by: Any) -> bool:
    if isinstance(by, str):
        return False
    way: Any = next(iter(by.values()))
    return (way if isinstance(way, str) else way.get("order", "asc")) == "desc"
