"""What is wrong with the service role: by what its policies mean, not by their text. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from dsqlcdc.doctor.finding import Finding, Severity, found
from dsqlcdc.doctor.stream import APPLY, Seen
from dsqlcdc.streams.desired import Desired
from dsqlcdc.streams.facts import command
from dsqlcdc.streams.observed import RoleState
from dsqlcdc.streams.policies import TrustFault, grants, trust_faults
from dsqlcdc.streams.policies.documents import KEY_ACTION, via_kinesis
from dsqlcdc.streams.wanted import policy_name, wanted_policy, wanted_trust

WRITES = ("kinesis:PutRecord", "kinesis:PutRecords")
"""Without these DSQL delivers nothing; the other two of WRITE_ACTIONS it may miss."""
_TRUST_CODES = {"unclear": "E416", "open": "E417", "wide": "E418", "cluster_arn": "E415"}


def check_role(desired: Desired, seen: Seen, boundary: Mapping[str, Any] | None = None) -> Iterator[Finding]:
    """The role that DSQL writes with. `boundary`: the document of its permissions boundary, None where it has none or it is unknown."""
    if "role" in seen.unknown:
        return
    stream, role = seen.stream(desired), seen.observed.role
    name = stream.role.rpartition("/")[2] if stream is not None and stream.role else desired.role
    if desired.role_named and name != desired.role:
        why = f"it was created with {name}, the config names {desired.role}; there is no way to change that but to create it again"
        remedy = f"Write stream.role.name: {name}; or run: dsqlcdc stream apply CONFIG --replace, which leaves a gap"
        yield found("E422", "the CDC stream writes with another role", where=f"iam role {name}", why=why, remedy=remedy)
    if role is None:
        why = "DSQL can write nothing without it"
        yield found("E413", "the role is not there", where=f"iam role {name}", why=why, remedy=APPLY)
        return
    yield from _trust(desired, seen, role, stream.id if stream is not None else "")
    yield from _rights(desired, seen, role, boundary)


def _trust(desired: Desired, seen: Seen, role: RoleState, stream: str) -> Iterator[Finding]:
    at = seen.observed
    faults = trust_faults(role.trust, account=at.account, region=at.region, cluster=desired.cluster, partition=at.partition, stream=stream)
    for code, some in _by_code(faults).items():
        wanted = wanted_trust(desired, at)
        run = command("aws", "iam", "update-assume-role-policy", "--role-name", role.name, policy_document=wanted)
        what = {
            "E416": "the trust policy may keep DSQL out",
            "E417": "the trust policy lets others in",
            "E418": "the trust policy lets other clusters in",
            "E415": "the trust policy names the cluster, not its streams",
        }.get(code, "the trust policy keeps DSQL out")
        why = "; ".join(fault.what for fault in some)
        remedy = f"Its trust policy should be {json.dumps(wanted)}\nRun: {run}"
        yield found(code, what, where=f"iam role {role.name}", why=why, remedy=remedy)


def _by_code(faults: Any) -> dict[str, list[TrustFault]]:
    by_code: dict[str, list[TrustFault]] = {}
    for fault in faults:
        by_code.setdefault(_TRUST_CODES.get(fault.kind, "E414"), []).append(fault)
    return by_code


def _rights(desired: Desired, seen: Seen, role: RoleState, boundary: Mapping[str, Any] | None) -> Iterator[Finding]:
    at, arn = seen.observed, seen.target_arn(desired)
    key = at.key.arn if at.key is not None and "key" not in seen.unknown else ""
    policies = [*role.inline.values(), *role.attached.values()]
    known = {
        "aws:principalarn": role.arn,
        "aws:principalaccount": at.account,
        "aws:requestedregion": at.region,
        "aws:securetransport": "true",
    }
    through = {**known, "kms:viaservice": via_kinesis(at.region), "kms:calleraccount": at.account}
    asked = [("E419", action, arn, known) for action in WRITES] + ([("E420", KEY_ACTION, key, through)] if key else [])
    unsure: list[str] = ["its permissions boundary could not be read"] if role.boundary and boundary is None else []
    missing: dict[str, list[str]] = {}
    explicit = False
    for code, action, resource, context in asked:
        answer = grants(policies, action, resource, context, boundary=boundary)
        if answer == "unclear":
            unsure.append(f"{action} hangs on a condition that cannot be told from here")
        elif answer != "allowed":
            explicit |= answer == "denied"
            missing.setdefault(code, []).append(f"{action} on {resource} is {answer}")
    wanted = wanted_policy(desired, at)
    flags = ("--role-name", role.name, "--policy-name", policy_name(desired))
    remedy = f"It needs {json.dumps(wanted)}\nRun: {command('aws', 'iam', 'put-role-policy', *flags, policy_document=wanted)}"
    where = f"iam role {role.name}"
    if role.boundary:
        remedy = f"{remedy}\nIts permissions boundary {role.boundary} must allow the same"
    if explicit:
        remedy = f"Take the Deny out of its policies or its permissions boundary: it wins over whatever is allowed.\n{remedy}"
    stream = seen.stream(desired)
    proven = stream is not None and stream.status == "ACTIVE" and not explicit  # then the key's own policy lets it
    for code, what in (("E419", "the role may not write to the Kinesis stream"), ("E420", "the role may not use the stream's KMS key")):
        if code in missing:
            grave: Severity = "warning" if code == "E420" and proven else "error"
            why = "; ".join(missing[code]) + (", unless the key's own policy allows it" if code == "E420" else "")
            yield found(code, what, where=where, why=why, remedy=remedy, severity=grave)
    if unsure and not missing:
        yield found("E421", "it cannot be told whether the role may write", where=where, why="; ".join(unsure), remedy=remedy)
