"""IAM's patterns and conditions: do they hold for a request? Three answers: yes, no, and what cannot be told from here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

Context = Mapping[str, str | None]
"""What is known of a request: condition key (in lower case) to value; None for a key that it surely does not carry. A key that is not
named here may have any value."""

_VARIABLE = re.compile(r"\$\{(?![*?$]\})")
"""A policy variable, filled in when the request is made. `${*}` and the like are escapes."""


def listed(value: Any) -> list[Any]:
    """IAM lets a list of one be written without its brackets."""
    if isinstance(value, list):
        return [*cast("Sequence[Any]", value)]
    return [] if value is None else [value]


@lru_cache(maxsize=1024)
def _pattern(text: str, fold: bool) -> re.Pattern[str]:
    parts = re.split(r"(\$\{[*?$]\}|[*?])", text)
    wild = {"*": ".*", "?": "."}
    body = "".join(wild.get(part) or re.escape(part[2] if re.fullmatch(r"\$\{[*?$]\}", part) else part) for part in parts)
    return re.compile(body, re.DOTALL | (re.IGNORECASE if fold else 0))


def like(pattern: str, value: str, *, fold: bool = False) -> bool:
    """Does a pattern with * and ? fit? `fold`: upper and lower case are the same, as in actions."""
    return _pattern(pattern, fold).fullmatch(value) is not None


def arn_like(pattern: str, arn: str) -> bool:
    """Each of the six parts by itself, as ArnLike and ArnEquals compare: a wildcard does not reach over a colon into the next part."""
    patterns, parts = pattern.split(":", 5), arn.split(":", 5)
    return len(patterns) == len(parts) == 6 and all(like(one, part) for one, part in zip(patterns, parts, strict=True))


def holds(condition: Any, context: Context) -> bool | None:
    """Do all conditions of a statement hold? None: that hangs on something not known of the request."""
    if condition is None:
        return True
    if not isinstance(condition, dict):
        return None
    blocks = cast("dict[str, Any]", condition)
    answers = [clause_holds(*clause, context) for clause in clauses(blocks)]
    return False if False in answers else None if None in answers else True


def clauses(condition: Any) -> Sequence[tuple[str, str, list[str]]]:
    """(operator, key, values) of a Condition block; what has no such form gives an operator that nobody knows."""
    if not isinstance(condition, dict):
        return [("?", "?", [])]
    found: list[tuple[str, str, list[str]]] = []
    for operator, block in cast("dict[str, Any]", condition).items():
        if not isinstance(block, dict):
            found.append((f"?{operator}", "?", []))
            continue
        found += [(operator, key, [_text(value) for value in listed(values)]) for key, values in cast("dict[str, Any]", block).items()]
    return found


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def clause_holds(operator: str, key: str, values: Sequence[str], context: Context) -> bool | None:
    """One operator and key. A key that the request lacks fails it, but for the negated operators, …IfExists and Null."""
    quantifier, colon, rest = operator.partition(":")
    if not colon:
        quantifier, rest = "", operator
    name, optional = rest.removesuffix("IfExists"), rest.endswith("IfExists")
    known, value = key.lower() in context, context.get(key.lower())
    if name == "Null":
        return None if not known else any((text == "true") == (value is None) for text in values)
    compare = _OPERATORS.get(name.replace("Not", "", 1))
    if quantifier not in ("", "ForAnyValue", "ForAllValues") or compare is None or not known or any(map(_VARIABLE.search, values)):
        return None
    negated = "Not" in name
    if value is None:
        return optional or quantifier == "ForAllValues" or (negated and quantifier != "ForAnyValue")
    return any(compare(wanted, value) for wanted in values) != negated


def _boolean(wanted: str, value: str) -> bool:
    return wanted.lower() == value.lower()


def _equal(wanted: str, value: str) -> bool:
    return wanted == value


_OPERATORS: Mapping[str, Callable[[str, str], bool]] = {
    "StringEquals": _equal,
    "StringEqualsIgnoreCase": _boolean,
    "StringLike": like,
    "ArnEquals": arn_like,
    "ArnLike": arn_like,
    "Bool": _boolean,
}
"""Each with its Not…, …IfExists and set forms. Those of numbers, dates, addresses and bytes ask for what is not known here."""
