"""The difference between what is desired and what is there, as actions, and what stands in their way. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from dsqlcdc.errors import Misconfigured
from dsqlcdc.streams.desired import Desired
from dsqlcdc.streams.observed import CdcStream, Observed, TargetState, in_words
from dsqlcdc.streams.obstacles import first_obstacle
from dsqlcdc.streams.wanted import (
    ADOPTED_TAG,
    bounded,
    lacks,
    made_tags,
    ours,
    same_key,
    tags_missing,
    target_arn,
    trust_wrong,
    wanted_role,
    wanted_role_arn,
    wanted_tags,
)

Word = Literal["create", "update", "replace", "delete", "adopt", "none"]
Resource = Literal["dynamodb_table", "kinesis_stream", "iam_role", "cdc_stream"]
Step = Literal[
    "", "table", "target", "record_size", "retention", "mode", "encryption", "target_tags", "role", "trust", "policy", "role_tags",
    "stream", "stream_tags", "replace",
]  # fmt: skip
"""What `apply` does for an action."""


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One difference, or for `none` what is as it should be."""

    action: Word
    resource: Resource
    name: str
    detail: str
    step: Step = ""

    def as_json(self) -> dict[str, str]:
        return {"action": self.action, "resource": self.resource, "name": self.name, "detail": self.detail}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Actions in the order in which they are done. `stream`: the CDC stream that is there. `notes`: what is worth knowing and not changed.
    `obstacle`: why it cannot be done as things are."""

    actions: Sequence[Action]
    stream: CdcStream | None = None
    notes: Sequence[str] = ()
    obstacle: Misconfigured | None = None

    @property
    def changes(self) -> Sequence[Action]:
        return [action for action in self.actions if action.action != "none"]

    @property
    def replaces(self) -> Action | None:
        """The action that loses changes, if there is one."""
        return next((action for action in self.actions if action.step == "replace"), None)


def plan(desired: Desired, observed: Observed, *, table: tuple[str, bool] | None = None) -> Plan:
    """What `apply` would do, and nothing more. `table`: name of the state's DynamoDB table and whether it is there; None: none is used."""
    actions: list[Action] = []
    if table is not None:
        create: Word = "none" if table[1] else "create"
        detail = "is there" if table[1] else "on-demand billing, keys pk and sk"
        actions.append(Action(action=create, resource="dynamodb_table", name=table[0], detail=detail, step="table"))
    actions += _filled(_target(desired, observed), "kinesis_stream", desired.target.name)
    role = wanted_role(desired, observed)
    actions += _filled(_role(desired, observed, role), "iam_role", role)
    stream = observed.stream_into(target_arn(desired, observed))
    name = stream.id if stream is not None else "new"
    well = (
        "as it should be" if stream is None or stream.status == "ACTIVE" else f"it is {in_words(stream)}: there is nothing to change of it"
    )
    actions += _filled(_stream(desired, observed, stream), "cdc_stream", f"{desired.cluster}/{name}", well)
    made = any(action.step in ("stream", "replace") for action in actions)
    trusted = any(action.step == "trust" for action in actions)
    obstacle = first_obstacle(desired, observed, stream, made=made, trusted=trusted)
    return Plan(actions=actions, stream=stream, notes=_notes(desired, observed, stream), obstacle=obstacle)


def _filled(found: Sequence[Action], resource: Resource, name: str, well: str = "as it should be") -> Sequence[Action]:
    """Something is said of every resource: `well` of one that nothing is to be changed of."""
    return found or [Action(action="none", resource=resource, name=name, detail=well)]


def _target(desired: Desired, observed: Observed) -> list[Action]:
    wanted, there = desired.target, observed.target
    if there is None or there.status == "DELETING":
        how = "on demand" if wanted.mode == "on_demand" else f"{wanted.shards} shards"
        key = f", encrypted with {wanted.kms_key}" if wanted.kms_key else ""
        detail = f"{how}, records up to {wanted.max_record_kib} KiB, kept {wanted.retention_hours} h{key}"
        if there is not None:
            detail += "; after the one that is being deleted is gone"
        made = Action(action="create", resource="kinesis_stream", name=wanted.name, detail=detail, step="target")
        there = _fresh(desired, observed)
        return [made, *_target_updates(desired, observed, there)]
    return _target_updates(desired, observed, there)


def _fresh(desired: Desired, observed: Observed) -> TargetState:
    """The target as CreateStream leaves it: what it cannot be told at its making is updated after."""
    wanted = desired.target
    return TargetState(
        name=wanted.name,
        arn=target_arn(desired, observed),
        status="ACTIVE",
        mode=wanted.mode,
        open_shards=wanted.shards or 4,
        retention_hours=24,
        max_record_kib=wanted.max_record_kib,
        tags=made_tags(desired),
    )


def _target_updates(desired: Desired, observed: Observed, there: TargetState) -> list[Action]:
    wanted, found = desired.target, list[tuple[Step, str]]()
    if there.mode != wanted.mode and wanted.mode_named:
        found.append(("mode", f"{there.mode} → {wanted.mode} (may change twice a day only)"))
    if there.max_record_kib < wanted.max_record_kib:
        found.append(("record_size", f"records up to {there.max_record_kib} → {wanted.max_record_kib} KiB"))
    if there.retention_hours < wanted.retention_hours:
        found.append(("retention", f"kept {there.retention_hours} → {wanted.retention_hours} h"))
    if wanted.kms_key and not same_key(wanted.kms_key, there.kms_key, observed):
        found.append(("encryption", f"encrypted with {there.kms_key or 'nothing'} → {wanted.kms_key}"))
    if ours(there.tags, desired) and (missing := tags_missing(there.tags, made_tags(desired, there.tags))):
        found.append(("target_tags", f"tags {missing}"))
    return [Action(action="update", resource="kinesis_stream", name=wanted.name, detail=detail, step=step) for step, detail in found]


def _role(desired: Desired, observed: Observed, name: str) -> list[Action]:
    def action(word: Word, step: Step, detail: str) -> Action:
        return Action(action=word, resource="iam_role", name=name, detail=detail, step=step)

    on = f"write to {desired.target.name}" + (f", use its key {observed.key.arn}" if observed.key is not None else "")
    role = observed.role
    if role is None:
        trusts = f"trusts dsql.amazonaws.com for streams of cluster {desired.cluster} only"
        return [action("create", "role", trusts), action("update", "policy", f"may {on}")]
    found: list[Action] = []
    if wrong := trust_wrong(desired, observed, role):
        found.append(action("update", "trust", f"trust policy: {wrong}"))
    if lacking := lacks(desired, observed, role):
        found.append(action("update", "policy", f"may {on} (lacks {', '.join(lacking)})"))
    if ours(role.tags, desired) and (missing := tags_missing(role.tags, made_tags(desired, role.tags))):
        found.append(action("update", "role_tags", f"tags {missing}"))
    return found


def _stream(desired: Desired, observed: Observed, stream: CdcStream | None) -> list[Action]:
    def action(word: Word, step: Step, detail: str) -> Action:
        name = f"{desired.cluster}/{stream.id if stream is not None else 'new'}"
        return Action(action=word, resource="cdc_stream", name=name, detail=detail, step=step)

    into = f"into {desired.target.name} as {wanted_role(desired, observed)}"
    if stream is None:
        return [action("create", "stream", f"{into}, UNORDERED, JSON")]
    if stream.status == "FAILED":
        reason = f" ({stream.reason.error})" if stream.reason is not None else ""
        return [action("replace", "replace", f"it is FAILED{reason}, which is final: deleted and created again {into}{_LOST}")]
    if stream.role != wanted_role_arn(desired, observed):
        change = f"role {stream.role} → {wanted_role_arn(desired, observed)}"
        return [action("replace", "replace", f"{change}: there is no UpdateStream, so it is deleted and created again{_LOST}")]
    if not ours(stream.tags, desired):
        if stream.tags.get(ADOPTED_TAG) == desired.pipeline:
            return []
        return [action("adopt", "stream_tags", f"writes {into} already ({stream.status}); `stream delete` will leave it")]
    missing = tags_missing(stream.tags, wanted_tags(desired))
    return [action("update", "stream_tags", f"tags {missing}")] if missing else []


_LOST = "; changes committed in between are lost"


def _notes(desired: Desired, observed: Observed, stream: CdcStream | None) -> list[str]:
    notes: list[str] = []
    there = observed.target
    if there is not None and there.mode != desired.target.mode and not desired.target.mode_named:
        notes.append(f"{there.name} is {there.mode}; write stream.kinesis.mode to have that changed")
    if there is not None and not ours(there.tags, desired):
        notes.append(f"{there.name} was not made by this pipeline: its tags stay, and `stream delete` leaves it")
    role = observed.role
    unsure = [action for action, said in bounded(desired, observed, role).items() if said == "unclear"] if role is not None else []
    if role is not None and unsure:
        notes.append(
            f"whether the permissions boundary {role.boundary} of role {role.name} allows {', '.join(unsure)} cannot be told from here"
        )
    others = [one for one in observed.streams if one != stream and ours(one.tags, desired) and one.status not in ("DELETING", "DELETED")]
    return notes + [f"CDC stream {one.id} ({one.status}) was made by this pipeline too, into {one.target}" for one in others]
