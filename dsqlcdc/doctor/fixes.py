"""Which findings `--fix` can do something about: those for which the plan of the stream manager has a step."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from dsqlcdc.doctor.finding import Finding

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
    "KINESIS_THROUGHPUT_EXCEEDED": frozenset({"mode", "shards"}),
}
"""By code of the finding, what mends it: steps of dsqlcdc.streams.plan. What is not named here nobody can mend from here."""


def with_fixes(findings: Iterable[Finding], steps: Collection[str]) -> list[Finding]:
    """The findings, each marked whether one of these steps mends it."""
    return [msgspec.structs.replace(one, fixable=bool(STEPS.get(one.code, frozenset()) & set(steps))) for one in findings]
