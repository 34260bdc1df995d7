"""What a role's policies allow: a Deny wins, an Allow is needed, a permissions boundary must allow it too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

from dsqlcdc.streams.policies.conditions import Context, holds, like, listed

Grant = Literal["allowed", "denied", "implicitly denied", "unclear"]
"""unclear: it hangs on a condition that cannot be told from here."""
Policy = Mapping[str, Any]
_NO_CONTEXT: Context = {}


def grants(
    policies: Iterable[Policy], action: str, resource: str, context: Context = _NO_CONTEXT, *, boundary: Policy | None = None
) -> Grant:
    """May whoever has these identity policies (inline and attached) do `action` on the ARN `resource`?

    `context` is what is known of the request. A statement that IAM would refuse allows nothing. Organisation and resource policies
    are not looked at.
    """
    found = _judge(policies, action, resource, context)
    if boundary is None or found in ("denied", "implicitly denied"):
        return found
    bound = _judge([boundary], action, resource, context)
    return found if bound == "allowed" else bound


def _judge(policies: Iterable[Policy], action: str, resource: str, context: Context) -> Grant:
    allowed: list[bool | None] = []
    denied: list[bool | None] = []
    for policy in policies:
        for statement in statements(policy):
            if acts(statement, action) and _reaches(statement, resource):
                answer = holds(statement.get("Condition"), context)
                (denied if statement.get("Effect") == "Deny" else allowed if statement.get("Effect") == "Allow" else []).append(answer)
    if True in denied:
        return "denied"
    if True not in allowed and None not in allowed:
        return "implicitly denied"
    return "unclear" if None in denied or True not in allowed else "allowed"


def statements(policy: Policy) -> list[dict[str, Any]]:
    """The statements of a policy, one or several."""
    return [cast("dict[str, Any]", one) for one in listed(policy.get("Statement")) if isinstance(one, dict)]


def acts(statement: Mapping[str, Any], action: str) -> bool:
    """Is the statement about this action? Upper and lower case are the same there."""
    if "Action" in statement:
        return any(like(str(one), action, fold=True) for one in listed(statement["Action"]))
    return "NotAction" in statement and not any(like(str(one), action, fold=True) for one in listed(statement["NotAction"]))


def _reaches(statement: Mapping[str, Any], resource: str) -> bool:
    if "Resource" in statement:
        return any(like(str(one), resource) for one in listed(statement["Resource"]))
    return "NotResource" in statement and not any(like(str(one), resource) for one in listed(statement["NotResource"]))
