"""What the service role lacks: trust, the right to write, the use of the KMS key. Judged by what the policies mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dsqlcdc.streams.facts import Action, Check, Facts, command, describe, get_role
from dsqlcdc.streams.policies import SERVICE, WRITE_ACTIONS, Grant, TrustFault, grants, trust_faults
from dsqlcdc.streams.policies.documents import KEY_ACTION, via_kinesis
from dsqlcdc.streams.wanted import bounded, granted, policy_name, wanted_policy, wanted_trust


def _role_exists(facts: Facts) -> Check:
    role = facts.observed.role
    if not facts.role_is_known:
        found = f"the CDC stream uses {facts.role_name}, the config names {facts.desired.role}: not looked at"
        return Check(question="Is the role gone?", found=found, confirms=None, command=get_role(facts))
    found = f"there is no role {facts.role_name}" if role is None else f"{role.name} is there"
    return Check(question="Is the role gone?", found=found, confirms=role is None, command=get_role(facts))


def role_checks(facts: Facts) -> Sequence[Check]:
    role = facts.observed.role
    if role is None or not facts.role_is_known:
        return [_role_exists(facts)]
    faults = _trust_faults(facts, role.trust)
    found = "; ".join(fault.what for fault in faults) or "it lets the streams of this cluster in"
    confirms = True if any(fault.shuts_out for fault in faults) else None if any(fault.kind == "unclear" for fault in faults) else False
    question = f"Does the role's trust policy keep {SERVICE} out?"
    return [_role_exists(facts), Check(question=question, found=found, confirms=confirms, command=get_role(facts))]


def _trust_faults(facts: Facts, trust: Mapping[str, Any]) -> Sequence[TrustFault]:
    seen, stream = facts.observed, facts.stream.id if facts.stream is not None else ""
    cluster = facts.desired.cluster
    return trust_faults(trust, account=seen.account, region=seen.region, cluster=cluster, partition=seen.partition, stream=stream)


def role_actions(facts: Facts) -> Sequence[Action]:
    seen, role = facts.observed, facts.observed.role
    wanted = wanted_trust(facts.desired, seen)
    if role is None or not facts.role_is_known:
        return _new_role(facts, wanted)
    if not any(fault.shuts_out for fault in _trust_faults(facts, role.trust)):
        return [_wait(facts)]
    denied = any(fault.shuts_out for fault in _trust_faults(facts, wanted))
    denial = " A statement denies it: change that first." if denied else ""
    return [
        Action(
            what=f"Let {SERVICE} assume {facts.role_name} for the streams of this cluster.{denial}",
            command=command("aws", "iam", "update-assume-role-policy", "--role-name", facts.role_name, policy_document=wanted),
            policy=wanted,
            kind="" if denied else "trust",
            before=role.trust,
            after=wanted,
        )
    ]


def _new_role(facts: Facts, trust: Mapping[str, Any]) -> Sequence[Action]:
    """Where the role is gone it is made again: the CDC stream goes by its name. One that nobody looked at is left to people."""
    verb = "create-role" if facts.role_is_known else "update-assume-role-policy"
    document = {"assume_role_policy_document" if facts.role_is_known else "policy_document": trust}
    made = Action(
        what=f"Let {SERVICE} assume {facts.role_name} for the streams of this cluster.",
        command=command("aws", "iam", verb, "--role-name", facts.role_name, **document),
        policy=trust,
        kind="role" if facts.role_is_known else "",
        after=trust,
    )
    return [made, *policy_actions(facts)] if facts.role_is_known else [made]


def _wait(facts: Facts) -> Action:
    return Action(what="Wait: the role is as it should be, and IAM takes a while to spread a change.", command=get_role(facts))


def _granted(facts: Facts, action: str, resource: str, **context: str) -> Grant | None:
    """None where the role was not looked at, or is bounded by a policy that was not."""
    role = facts.observed.role
    if role is None or not facts.role_is_known:
        return None
    found = grants([*role.inline.values(), *role.attached.values()], action, resource, context, boundary=role.bound)
    return None if role.boundary and role.bound is None and found == "allowed" else found


def _lacks(facts: Facts, question: str, answers: Mapping[str, Grant | None]) -> Check:
    lacking = [action for action, grant in answers.items() if grant in ("denied", "implicitly denied")]
    unsure = [action for action, grant in answers.items() if grant in (None, "unclear")]
    found = f"it lacks {', '.join(lacking)}" if lacking else f"cannot be told of {', '.join(unsure)}" if unsure else "it has it"
    confirms = True if lacking else None if unsure else False
    asked = command("aws", "iam", "list-role-policies", "--role-name", facts.role_name)
    return Check(question=question, found=found, confirms=confirms, command=asked)


def _writes(facts: Facts) -> Check:
    answers: dict[str, Grant | None] = {action: _granted(facts, action, facts.target_arn) for action in WRITE_ACTIONS}
    return _lacks(facts, f"Does the role lack the right to write to {facts.target_name}?", answers)


def policy_checks(facts: Facts) -> Sequence[Check]:
    return [_role_exists(facts), _writes(facts)]


def policy_actions(facts: Facts) -> Sequence[Action]:
    """Nothing that a Deny would undo: that is for whoever wrote it."""
    role, wanted, name = facts.observed.role, wanted_policy(facts.desired, facts.observed), policy_name(facts.desired)
    mendable = facts.role_is_known and not _denied(facts)
    if role is not None and facts.role_is_known and not any(check.confirms for check in (_writes(facts), *_uses_key(facts))):
        return [_wait(facts)]
    flags = ("--role-name", facts.role_name, "--policy-name", name)
    denial = "" if mendable or not facts.role_is_known else " A Deny, or a permissions boundary, stands against it: change that first."
    return [
        Action(
            what=f"Let {facts.role_name} write to {facts.target_name}.{denial}",
            command=command("aws", "iam", "put-role-policy", *flags, policy_document=wanted),
            policy=wanted,
            kind="policy" if mendable else "",
            before=role.inline.get(name) if role is not None and facts.role_is_known else None,
            after=wanted,
        )
    ]


def _denied(facts: Facts) -> bool:
    role = facts.observed.role
    if role is None or not facts.role_is_known:
        return False
    bound = bounded(facts.desired, facts.observed, role)
    return "denied" in granted(facts.desired, facts.observed, role).values() or any(said != "allowed" for said in bound.values())


def _via(facts: Facts) -> dict[str, str]:
    return {"kms:viaservice": via_kinesis(facts.observed.region)}


def _uses_key(facts: Facts) -> Sequence[Check]:
    if not facts.key_arn:
        return []
    answer = _granted(facts, KEY_ACTION, facts.key_arn, **_via(facts))
    return [_lacks(facts, "Does the role lack the right to use the KMS key?", {KEY_ACTION: answer})]


def _key_state(facts: Facts) -> str:
    key = facts.observed.key
    return key.state if key is not None else ""


def kms_checks(facts: Facts) -> Sequence[Check]:
    key, state = facts.kms_key, _key_state(facts)
    if not key:
        found = "it is not encrypted with a key of yours"
        return [Check(question="Is the Kinesis stream encrypted with a KMS key?", found=found, confirms=False, command=describe(facts))]
    enabled = Check(
        question="Is the KMS key unusable: disabled, gone, or about to be deleted?",
        found=f"the key {key} is {state}" if state else f"there is no key {key}",
        confirms=state != "Enabled",
        command=command("aws", "kms", "describe-key", "--key-id", key),
    )
    return [enabled, _role_exists(facts), *_uses_key(facts)]


def kms_actions(facts: Facts) -> Sequence[Action]:
    state = _key_state(facts)
    if not facts.kms_key or state == "Enabled":
        return policy_actions(facts)
    key = facts.kms_key
    if state == "PendingDeletion":
        cancel = command("aws", "kms", "cancel-key-deletion", "--key-id", key)
        return [Action(what="Cancel the deletion of the key, then enable it; what it encrypted cannot be read without it.", command=cancel)]
    return [
        Action(
            what="Enable the key: what it encrypted cannot be read without it.",
            command=command("aws", "kms", "enable-key", "--key-id", key),
        )
    ]
