"""Taking down what `apply` made for this pipeline, and nothing else: what carries no tag of ours stays."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from dsqlcdc.errors import Unavailable
from dsqlcdc.streams import cdc, role, target
from dsqlcdc.streams.desired import CLUSTER_TAG, Desired
from dsqlcdc.streams.observed import CdcStream, Observed, in_words
from dsqlcdc.streams.obstacles import no_cluster
from dsqlcdc.streams.plan import Action, Plan
from dsqlcdc.streams.policies import trusted_clusters, trusted_regions
from dsqlcdc.streams.wanted import ours, target_arn
from dsqlcdc.streams.work import Work


def deletion(desired: Desired, observed: Observed, *, everything: bool, table: str = "") -> Plan:
    """What `delete` would delete, in its order, and why it leaves the rest. `everything`: the Kinesis stream too, with its records; `table`:
    the state's DynamoDB table, which always stays. Pure.

    Role and Kinesis stream go only where they were made for this cluster, so that a config with another cluster in it takes nothing from
    the one that is read. A cluster that is gone took its CDC streams with it, and the rest goes as always; one that is not there, and that
    nothing was made for, is a slip (the obstacle is E171).
    """
    notes = [f"DynamoDB table {table} stays: it holds checkpoints and gaps, perhaps of other pipelines too"] * bool(table)
    if observed.cluster is None:
        if _nothing_of(desired, observed):
            return Plan(actions=[], obstacle=no_cluster(desired, observed))
        notes.append(f"cluster {desired.cluster} is not there, and its CDC streams went with it")
    there = [one for one in observed.streams if one.status != "DELETED"]
    mine = [one for one in there if ours(one.tags, desired)]
    stay = [one for one in there if one not in mine and one.status != "DELETING"]
    actions = [
        Action(action="delete", resource="cdc_stream", name=f"{desired.cluster}/{one.id}", detail=_delivers(one), step="stream")
        for one in mine
    ]
    arn = target_arn(desired, observed)
    notes += [f"CDC stream {one.id} into {desired.target.name} stays: `apply` did not make it" for one in stay if one.target == arn]
    actions += _role(desired, observed, stay, notes)
    actions += _target(desired, observed, [one for one in stay if one.target == arn], notes, everything=everything)
    return Plan(actions=actions, notes=notes)


def _nothing_of(desired: Desired, observed: Observed) -> bool:
    """Is there something, and none of it a role or a Kinesis stream of this pipeline that says of itself that it was made for this cluster?"""
    there = [one.tags for one in (observed.role, observed.target) if one is not None]
    return bool(there) and not any(ours(tags, desired) and tags.get(CLUSTER_TAG) == desired.cluster for tags in there)


def _delivers(stream: CdcStream) -> str:
    if stream.status == "DELETING":
        return "is being deleted, and waited for"
    return f"{in_words(stream)}, into {stream.target.rpartition('/')[2]}; what is committed from then on is delivered by nobody"


def _role(desired: Desired, observed: Observed, stay: Sequence[CdcStream], notes: list[str]) -> list[Action]:
    there = observed.role
    if there is None:
        return []
    tagged = there.tags.get(CLUSTER_TAG)
    others = sorted({*trusted_clusters(there.trust), *([tagged] if tagged else [])} - {desired.cluster})
    foreign = [*there.attached, *(name for name in there.inline if not name.startswith("dsqlcdc-"))]
    regions = trusted_regions(there.trust)
    elsewhere = regions - {observed.region} or ({"nobody knows which Region"} if observed.cluster is None and not regions else set())
    if not ours(there.tags, desired):
        notes.append(f"role {there.name} stays: `apply` did not make it")
    elif others:
        notes.append(f"role {there.name} stays: it is for streams of cluster {', '.join(others)}, and the config names {desired.cluster}")
    elif elsewhere:  # roles are of all Regions, clusters and streams of one
        notes.append(f"role {there.name} stays: it is for streams in {', '.join(sorted(elsewhere))}, and this is {observed.region}")
    elif tagged is None and not trusted_clusters(there.trust):
        notes.append(f"role {there.name} stays: neither its trust policy nor a tag {CLUSTER_TAG} says which cluster it was made for")
    elif any(one.role == there.arn for one in stay):
        notes.append(f"role {there.name} stays: another CDC stream writes with it")
    elif foreign:
        notes.append(f"role {there.name} stays: it has policies that `apply` did not write ({', '.join(foreign)})")
    else:
        detail = f"with its policies {', '.join(there.inline)}" if there.inline else "it has no policies"
        return [Action(action="delete", resource="iam_role", name=there.name, detail=detail, step="role")]
    return []


def _target(desired: Desired, observed: Observed, writers: Sequence[CdcStream], notes: list[str], *, everything: bool) -> list[Action]:
    there = observed.target
    if there is None:
        return []
    if there.status == "DELETING":
        detail = "is being deleted, and waited for"
        return [Action(action="delete", resource="kinesis_stream", name=there.name, detail=detail, step="target")] if everything else []
    made_for = there.tags.get(CLUSTER_TAG)
    if not everything:
        notes.append(f"Kinesis stream {there.name} stays with the records in it: --all deletes it too")
    elif not ours(there.tags, desired):
        notes.append(f"Kinesis stream {there.name} stays: `apply` did not make it")
    elif made_for is None:
        notes.append(
            f"Kinesis stream {there.name} stays: no tag {CLUSTER_TAG} says which cluster it was made for; `stream apply` writes it"
        )
    elif made_for != desired.cluster:
        notes.append(f"Kinesis stream {there.name} stays: it was made for cluster {made_for}, and the config names {desired.cluster}")
    elif writers:
        notes.append(f"Kinesis stream {there.name} stays: CDC stream {writers[0].id} writes into it")
    else:
        return [
            Action(action="delete", resource="kinesis_stream", name=there.name, detail="with all records in it, read or not", step="target")
        ]
    return []


async def delete(plan: Plan, work: Work, *, deadline: float = 600.0) -> None:
    """Delete what the plan says, the CDC streams first, each waited for; what has gone meanwhile is fine.

    Raises the plan's obstacle, before anything is deleted; Misconfigured and Stopped from AWS; Unavailable (E179) when `deadline` seconds
    have passed. Whenever it is cancelled or raises, what was deleted stays so, and a new plan goes on from there.
    """
    if plan.obstacle is not None:
        raise plan.obstacle
    try:
        async with asyncio.timeout(deadline):
            for action in plan.actions:
                work.say(f"delete {action.resource} {action.name}")
                if action.step == "stream":
                    await cdc.delete(work, action.name.rpartition("/")[2])
                elif action.step == "target":
                    await target.delete(work)
                else:
                    await role.delete(work)
    except TimeoutError as error:
        what, where = f"not everything was deleted within {deadline:g} s", f"cluster {work.desired.cluster}"
        raise Unavailable(what, where=where, run="dsqlcdc stream delete CONFIG, which goes on from here", code="E179") from error
