"""Which findings `--fix` can do something about: those for which the plan of the stream manager has a step."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from dsqlcdc.doctor.finding import Finding
from dsqlcdc.streams.plan import Plan

STEPS: Mapping[str, frozenset[str]] = {
    "E402": frozenset({"stream"}),
    "E406": frozenset({"target"}),
    "E407": frozenset({"record_size"}),
    "E408": frozenset({"mode"}),
    "E409": frozenset({"retention"}),
    "E410": frozenset({"encryption"}),
    "E413": frozenset({"role"}),
    "E414": frozenset({"trust"}),
    "E415": frozenset({"trust"}),
    "E416": frozenset({"trust"}),
    "E417": frozenset({"trust"}),
    "E418": frozenset({"trust"}),
    "E419": frozenset({"policy"}),
    "E420": frozenset({"policy"}),
    "ROLE_ACCESS_DENIED": frozenset({"role", "trust"}),
    "KINESIS_ACCESS_DENIED": frozenset({"policy"}),
    "KINESIS_KMS_ACCESS_DENIED": frozenset({"policy", "encryption"}),
    "KINESIS_OVERSIZE_RECORD": frozenset({"record_size"}),
    "KINESIS_THROUGHPUT_EXCEEDED": frozenset({"mode"}),
}
"""By code of the finding, what mends it: steps of dsqlcdc.streams.plan. What is not named here nobody can mend from here."""


def without_loss(plan: Plan) -> Plan:
    """The plan without what loses changes, which is asked for by `stream apply --replace` only, and without what is not the stream's.

    A Kinesis stream that is gone is left to that command too, where the CDC stream must be replaced: it would be of no use before.
    """
    kept = [action for action in plan.changes if action.step not in ("replace", "table")]
    if plan.replaces is not None and any(action.step == "target" for action in kept):
        kept = [action for action in kept if action.resource != "kinesis_stream"]
    return msgspec.structs.replace(plan, actions=kept)


def steps_of(plan: Plan) -> set[str]:
    """What `--fix` can do of a plan; nothing where something stands in its way."""
    return set() if plan.obstacle is not None else {action.step for action in without_loss(plan).actions}


def with_fixes(findings: Iterable[Finding], steps: Collection[str]) -> list[Finding]:
    """The findings, each marked whether one of these steps mends it."""
    return [msgspec.structs.replace(one, fixable=bool(STEPS.get(one.code, frozenset()) & set(steps))) for one in findings]
