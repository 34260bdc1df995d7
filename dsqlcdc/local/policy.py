"""IAM policies as IAM understands them: what one document says of one request, by meaning and not by its text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Literal

import msgspec

Verdict = Literal["allow", "deny", "silent"]
Some = str | list[str]
Principal = tuple[str, str]
"""Kind and name: ("Service", "dsql.amazonaws.com") or ("AWS", a role's ARN)."""


class Asked(msgspec.Struct, frozen=True):
    """One request: who, what, on what, and the condition keys that the service sets (their case does not matter)."""

    action: str
    resource: str
    principals: tuple[Principal, ...] = ()
    context: Mapping[str, str] = {}


class _Statement(msgspec.Struct, rename="pascal", frozen=True):
    effect: str = ""
    principal: str | dict[str, Some] | None = None
    not_principal: str | dict[str, Some] | None = None
    action: Some | None = None
    not_action: Some | None = None
    resource: Some | None = None
    not_resource: Some | None = None
    condition: dict[str, dict[str, Some | bool | int]] = {}


class _Policy(msgspec.Struct, rename="pascal", frozen=True):
    statement: _Statement | list[_Statement] = []


def says(document: str, asked: Asked) -> Verdict:
    """What one document says: a Deny that fits wins over any Allow. A document that cannot be read is silent, it lets nobody."""
    verdicts = {statement.effect for statement in _read(document) if _fits(statement, asked)}
    return "deny" if "Deny" in verdicts else "allow" if "Allow" in verdicts else "silent"


def together(documents: Iterable[str], asked: Asked) -> Verdict:
    """What several documents say as one: the policies of a role."""
    verdicts = {says(document, asked) for document in documents}
    return "deny" if "deny" in verdicts else "allow" if "allow" in verdicts else "silent"


@lru_cache(256)
def _read(document: str) -> list[_Statement]:
    try:
        policy = msgspec.json.decode(document, type=_Policy)
    except msgspec.DecodeError:
        return []
    return policy.statement if isinstance(policy.statement, list) else [policy.statement]


def _fits(statement: _Statement, asked: Asked) -> bool:
    return (
        _listed(statement.action, statement.not_action, lambda pattern: like(pattern.lower(), asked.action.lower()))
        and _listed(statement.resource, statement.not_resource, lambda pattern: like(pattern, asked.resource))
        and _principal_fits(statement, asked)
        and all(_condition_fits(operator, keys, asked.context) for operator, keys in statement.condition.items())
    )


def _listed(given: Some | None, but: Some | None, fits: _Test) -> bool:
    """Trust policies have no Resource, identity policies no Principal: what is left out fits."""
    if but is not None:
        return not any(fits(pattern) for pattern in _many(but))
    return given is None or any(fits(pattern) for pattern in _many(given))


def _principal_fits(statement: _Statement, asked: Asked) -> bool:
    if statement.not_principal is not None:
        return not _names(statement.not_principal, asked.principals)
    return statement.principal is None or _names(statement.principal, asked.principals)


def _names(given: str | dict[str, Some], principals: tuple[Principal, ...]) -> bool:
    """No wildcard inside a principal, only a lone "*"; and {"AWS": "*"} is everyone but services."""
    if isinstance(given, str):
        return given == "*"
    return any({name, "*"} & set(_many(given.get(kind, []))) for kind, name in principals)


def _condition_fits(operator: str, keys: Mapping[str, Some | bool | int], context: Mapping[str, str]) -> bool:
    """All keys of one operator must fit; one of a key's values is enough, and none may fit a negated operator."""
    sets, _, bare = operator.rpartition(":")
    name = bare.removesuffix("IfExists")
    known = {key.lower(): value for key, value in context.items()}
    for key, given in keys.items():
        values = given if isinstance(given, list) else [str(given)]
        value = known.get(key.lower())
        if name == "Null":
            fits = (value is None) is (values[0].lower() == "true")
        elif name not in _TESTS:
            fits = False  # IAM refuses such a policy when it is written
        elif value is None:
            fits = name in _NEGATED or bare != name or sets == "ForAllValues"
        else:
            fits = any(_TESTS[name](pattern, value) for pattern in values) is not (name in _NEGATED)
        if not fits:
            return False
    return True


def like(pattern: str, value: str) -> bool:
    """IAM's wildcards: * for any run of characters, ? for any one."""
    return _compiled(pattern).fullmatch(value) is not None


@lru_cache(1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)


def _arn_like(pattern: str, value: str) -> bool:
    """Each of an ARN's six parts by itself: no wildcard reaches over a colon but in the last."""
    wanted, parts = pattern.split(":", 5), value.split(":", 5)
    return len(wanted) == len(parts) == 6 and all(map(like, wanted, parts))


def _many(given: Some) -> list[str]:
    return [given] if isinstance(given, str) else given


_Test = Callable[[str], bool]
_TESTS: dict[str, Callable[[str, str], bool]] = {
    "StringEquals": str.__eq__,
    "StringNotEquals": str.__eq__,
    "StringEqualsIgnoreCase": lambda pattern, value: pattern.lower() == value.lower(),
    "StringNotEqualsIgnoreCase": lambda pattern, value: pattern.lower() == value.lower(),
    "StringLike": like,
    "StringNotLike": like,
    "ArnEquals": _arn_like,
    "ArnNotEquals": _arn_like,
    "ArnLike": _arn_like,
    "ArnNotLike": _arn_like,
    "Bool": lambda pattern, value: pattern.lower() == value.lower(),
}
_NEGATED = frozenset(name for name in _TESTS if "Not" in name)
