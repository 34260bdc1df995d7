"""One finding a cause: what AWS says of the CDC stream, and what the checks saw of the same thing, told together. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from dsqlcdc.doctor.finding import KINDS, Finding

SAME: Mapping[str, frozenset[str]] = {
    "ROLE_ACCESS_DENIED": frozenset({"E413", "E414", "E415"}),
    "KINESIS_ACCESS_DENIED": frozenset({"E419"}),
    "KINESIS_KMS_ACCESS_DENIED": frozenset({"E411", "E420"}),
    "KINESIS_OVERSIZE_RECORD": frozenset({"E407"}),
    "KINESIS_STREAM_NOT_FOUND": frozenset({"E406"}),
    "CLUSTER_CMK_INACCESSIBLE": frozenset({"E412"}),
}
"""By statusReason: the findings that say why AWS gives it."""


def one_per_cause(findings: Sequence[Finding]) -> list[Finding]:
    """The findings, those that say why a statusReason is given taken into the finding that carries it: its `why` names them by their codes, its
    remedy keeps what only theirs says, and it is fixable where one of them is."""
    told = list(findings)
    for reason, codes in SAME.items():
        same = [one for one in told if one.code in codes]
        for carrier in [one for one in told if one.code == reason] if same else ():
            told = [_with(one, same) if one is carrier else one for one in told if one not in same]
    return told


def _with(carrier: Finding, same: Sequence[Finding]) -> Finding:
    seen = [f"DSQLCDC-{one.code} {one.what}, {one.where}: {one.why}" if one.code in KINDS else one.what for one in same]
    remedy = carrier.remedy.splitlines()
    for line in (line for one in same for line in one.remedy.splitlines()):
        if not any(_words(line) in kept for kept in remedy):
            remedy.append(line)
    return msgspec.structs.replace(
        carrier,
        why="; ".join([carrier.why.rstrip("."), *seen]),
        remedy="\n".join(remedy),
        fixable=carrier.fixable or any(one.fixable for one in same),
    )


def _words(line: str) -> str:
    """What a line of a remedy has to say: its command, or its document."""
    document = line[line.index("{") :] if "{" in line and not line.startswith("Run: ") else line
    return document.removeprefix("Run: ").partition(" (")[0]
