"""What is wanted, in AWS's terms, beside what is there: ARNs, tags, policies, and whether two spellings mean the same. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dsqlcdc.streams.desired import CLUSTER_TAG, OWNER_TAG, Desired
from dsqlcdc.streams.observed import Observed, RoleState
from dsqlcdc.streams.policies import (
    WRITE_ACTIONS,
    Grant,
    grants,
    trust_faults,
    trust_policy,
    trusted_clusters,
    trusted_sources,
    write_policy,
)
from dsqlcdc.streams.policies.conditions import like, listed
from dsqlcdc.streams.policies.documents import KEY_ACTION, via_kinesis

ADOPTED_TAG = "dsqlcdc:adopted-by"
"""A CDC stream that was there before carries the pipeline's name under this tag: it is used, and never deleted by `delete`."""


def target_arn(desired: Desired, observed: Observed) -> str:
    return f"arn:{observed.partition}:kinesis:{observed.region}:{observed.account}:stream/{desired.target.name}"


def wanted_role(desired: Desired, observed: Observed) -> str:
    """The config's role, or where it names none that of the CDC stream that is there."""
    stream = observed.stream_into(target_arn(desired, observed))
    if desired.role_named or stream is None or not stream.role:
        return desired.role
    return stream.role.rpartition("/")[2]


def wanted_role_arn(desired: Desired, observed: Observed) -> str:
    name = wanted_role(desired, observed)
    if observed.role is not None and observed.role.name == name:
        return observed.role.arn
    return f"arn:{observed.partition}:iam::{observed.account}:role/{name}"


def wanted_tags(desired: Desired) -> dict[str, str]:
    return {**desired.tags, OWNER_TAG: desired.pipeline}


def made_tags(desired: Desired, there: Mapping[str, str] | None = None) -> dict[str, str]:
    """Of the role and the Kinesis stream. `there`: the tags it has; the cluster that it was made for stays named in them."""
    return {**wanted_tags(desired), CLUSTER_TAG: (there or {}).get(CLUSTER_TAG, desired.cluster)}


def ours(tags: Mapping[str, str], desired: Desired) -> bool:
    """Was it made by `apply` for this pipeline?"""
    return tags.get(OWNER_TAG) == desired.pipeline


def policy_name(desired: Desired) -> str:
    """Of the role's inline policy that `apply` writes."""
    return f"dsqlcdc-write-{desired.target.name}"[:128]


def wanted_policy(desired: Desired, observed: Observed) -> dict[str, Any]:
    """The role's permissions: on the target, and on its key where that is the user's."""
    return write_policy(target_arn(desired, observed), observed.key.arn if observed.key is not None else "")


def wanted_trust(desired: Desired, observed: Observed) -> dict[str, Any]:
    """The trust policy: of a role of ours just that, and what lets other clusters' streams in by name; one that others may use keeps all its
    statements, and ours is added."""
    wanted = trust_policy(observed.region, observed.account, desired.cluster, observed.partition)
    role = observed.role
    if role is None:
        return wanted
    kept: list[Any] = listed(role.trust.get("Statement"))
    if ours(role.tags, desired):
        kept = [one for one in kept if isinstance(one, dict) and _of_others({"Statement": one}, desired, observed)]
    return {**wanted, "Statement": [*kept, *(statement for statement in wanted["Statement"] if statement not in kept)]}


def _of_others(trust: Mapping[str, Any], desired: Desired, observed: Observed) -> bool:
    """Does it let streams of other clusters of the account in by their names, none of which can be this one's?"""
    named = trusted_clusters(trust)
    of_account = all(like(f"arn:*:dsql:*:{observed.account}:*", arn) for arn in trusted_sources(trust))
    return bool(named) and of_account and not any(like(one, desired.cluster) for one in named)


def same_key(wanted: str, there: str, observed: Observed) -> bool:
    """Do two spellings (id, ARN, alias) name one key?"""
    arn = observed.key.arn if observed.key is not None else ""
    if there == "" or wanted == there or there.endswith((f":{wanted}", f"/{wanted}")) or wanted.endswith((f":{there}", f"/{there}")):
        return there != ""
    return bool(arn) and there in (arn, arn.rpartition("/")[2])


def tags_missing(tags: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """The tags that are not there, in words."""
    return ", ".join(sorted(f"{key}={value}" for key, value in wanted.items() if tags.get(key) != value))


def trust_wrong(desired: Desired, observed: Observed, role: RoleState) -> str:
    """What a trust policy has to be mended of, "" for nothing. One that is right in another spelling is left alone; so is what a role that is
    not ours allows beside."""
    faults = trust_faults(
        role.trust, account=observed.account, region=observed.region, cluster=desired.cluster, partition=observed.partition
    )
    mine = ours(role.tags, desired)
    heard = [fault.what for fault in faults if mine or fault.shuts_out or fault.kind == "unclear"]
    return "; ".join(heard) if heard and role.trust != wanted_trust(desired, observed) else ""


def lacks(desired: Desired, observed: Observed, role: RoleState) -> list[str]:
    """The actions that the role is not surely allowed, and that our inline policy would allow it."""
    if role.inline.get(policy_name(desired)) == wanted_policy(desired, observed):
        return []
    return [action for action, allowed in granted(desired, observed, role).items() if allowed != "allowed"]


def granted(desired: Desired, observed: Observed, role: RoleState) -> dict[str, Grant]:
    """What the role's policies say of each action it needs, its permissions boundary left out."""
    return _judged(desired, observed, [*role.inline.values(), *role.attached.values()])


def bounded(desired: Desired, observed: Observed, role: RoleState) -> dict[str, Grant]:
    """What the role's permissions boundary says of each, "unclear" where it could not be read; empty where there is none."""
    if not role.boundary:
        return {}
    return _judged(desired, observed, [role.bound] if role.bound is not None else [_UNREAD])


_UNREAD: Mapping[str, Any] = {"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {"?": {"?": "?"}}}}
"""Stands for a policy that could not be read: whatever it allows hangs on what nobody knows."""


def _judged(desired: Desired, observed: Observed, policies: Sequence[Mapping[str, Any]]) -> dict[str, Grant]:
    arn = target_arn(desired, observed)
    found: dict[str, Grant] = {action: grants(policies, action, arn) for action in WRITE_ACTIONS}
    if observed.key is not None:
        found[KEY_ACTION] = grants(policies, KEY_ACTION, observed.key.arn, {"kms:viaservice": via_kinesis(observed.region)})
    return found
