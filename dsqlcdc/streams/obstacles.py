"""What stands in the way of a plan, said plainly: no cluster, an idle one, another's role, no room, an unusable key, a Deny. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dsqlcdc.errors import Misconfigured
from dsqlcdc.streams.desired import CLUSTER_TAG, Desired
from dsqlcdc.streams.observed import CdcStream, Observed
from dsqlcdc.streams.policies import trust_faults, trusted_clusters
from dsqlcdc.streams.policies.conditions import like
from dsqlcdc.streams.wanted import bounded, granted, ours

QUOTA = 5
"""CDC streams a cluster may have; AWS does not raise it (spec §5)."""
AWAKE = ("ACTIVE", "CREATING", "UPDATING", "PENDING_SETUP")
"""Statuses of a cluster that is ACTIVE, or will be by itself."""


def first_obstacle(desired: Desired, observed: Observed, stream: CdcStream | None, *, made: bool, trusted: bool) -> Misconfigured | None:
    """The first thing that somebody must see to before anything is changed. `made`: a CDC stream is to be created; `trusted`: the role's
    trust policy is to be written."""
    found = (
        _cluster(desired, observed, made=made)
        or _foreign(desired, observed, new=made and stream is None, trusted=trusted)
        or _key(desired, observed)
    )
    held = [one for one in observed.streams if one.status not in ("DELETING", "DELETED")]
    if found is None and made and stream is None and len(held) >= QUOTA:
        return quota(desired, held)
    return found or _role(desired, observed)


def _cluster(desired: Desired, observed: Observed, *, made: bool) -> Misconfigured | None:
    if observed.cluster is None:
        return no_cluster(desired, observed)
    return asleep(desired, observed.cluster.status) if made and observed.cluster.status not in AWAKE else None


def no_cluster(desired: Desired, observed: Observed) -> Misconfigured:
    """Nothing can be said of its CDC streams, nor of who uses the role and the Kinesis stream."""
    why = f"account {observed.account} has none of this name in {observed.region}; cluster, streams and role are in one account and Region"
    where = f"stream.cluster {desired.cluster}"
    return Misconfigured("there is no such cluster", where=where, why=why, run="aws dsql list-clusters", code="E171")


def asleep(desired: Desired, status: str) -> Misconfigured:
    """No CDC stream can be made of the cluster as it is."""
    why = f"it is {status}, and a CDC stream is made of an ACTIVE cluster only"
    run = f"aws dsql get-cluster --identifier {desired.cluster}"
    if status in ("IDLE", "INACTIVE"):
        run = "psql, to connect to it and so wake it; then the same again"
    return Misconfigured("the cluster is not ACTIVE", where=f"stream.cluster {desired.cluster}", why=why, run=run, code="E172")


def _foreign(desired: Desired, observed: Observed, *, new: bool, trusted: bool) -> Misconfigured | None:
    """What was made for another cluster serves that one: its stream would be impaired, or its changes mixed with this one's. `new`: this
    cluster does not write into the Kinesis stream yet."""
    role, target = observed.role, observed.target
    of_role = made_for(desired, role.tags, role.trust) if role is not None and trusted else ""
    of_target = made_for(desired, target.tags) if target is not None and new else ""
    if not of_role and not of_target:
        return None
    found, hand = list[str](), list[str]()
    if role is not None and of_role:
        found.append(f"iam role {role.name}")
        hand.append(f"aws iam tag-role --role-name {role.name} --tags Key={CLUSTER_TAG},Value={desired.cluster}")
    if target is not None and of_target:
        found.append(f"kinesis stream {target.name}")
        hand.append(f"aws kinesis add-tags-to-stream --stream-name {target.name} --tags {CLUSTER_TAG}={desired.cluster}")
    made_of = ", ".join(sorted({one for one in (of_role, of_target) if one}))
    why = (
        f"it is for cluster {made_of}, and the config names {desired.cluster}. If that is a slip, mend stream.cluster. To read both clusters, "
        "give this one a Kinesis stream and a role of its own (source.stream, stream.role.name). If this one took the other's place, hand over: "
        f"{'; '.join(hand)}"
    )
    run = f"aws dsql get-cluster --identifier {made_of.split(', ')[0]}, to see whether it still lives"
    return Misconfigured("what is there was made for another cluster", where=", ".join(found), why=why, run=run, code="E191")


def made_for(desired: Desired, tags: Mapping[str, str], trust: Mapping[str, Any] | None = None) -> str:
    """The other cluster that something was made for: as its tag says, or where a role of ours has none, the trust policy; "" for none."""
    tagged = tags.get(CLUSTER_TAG)
    if tagged is not None:
        return "" if tagged == desired.cluster else tagged
    named = trusted_clusters(trust) if trust is not None and ours(tags, desired) else set[str]()
    return ", ".join(sorted(named)) if named and not any(like(one, desired.cluster) for one in named) else ""


def quota(desired: Desired, held: Sequence[CdcStream]) -> Misconfigured:
    """The cluster has as many CDC streams as it may."""
    listed = ", ".join(f"{one.id} ({one.status}, into {one.target.rpartition('/')[2]})" for one in held) or "see the list"
    why = f"a cluster has {QUOTA} at the most, and AWS does not raise that: {listed}"
    run = f"aws dsql delete-stream --cluster-identifier {desired.cluster} --stream-identifier ID, for one that nobody needs"
    return Misconfigured(
        "the cluster has no room for another CDC stream", where=f"cluster {desired.cluster}", why=why, run=run, code="E173"
    )


def _key(desired: Desired, observed: Observed) -> Misconfigured | None:
    wanted = desired.target.kms_key
    if not wanted or wanted.endswith("alias/aws/kinesis"):
        return None
    if observed.key is None:
        why, run = f"there is none in {observed.region}", "aws kms list-aliases"
    elif observed.key.state != "Enabled":
        why, run = f"it is {observed.key.state}", f"aws kms enable-key --key-id {observed.key.arn}"
    else:
        return None
    return Misconfigured("the KMS key cannot be used", where=f"stream.kinesis.kms_key {wanted}", why=why, run=run, code="E176")


def _role(desired: Desired, observed: Observed) -> Misconfigured | None:
    """What adding statements does not mend: an explicit Deny, a permissions boundary that leaves out what DSQL needs."""
    role = observed.role
    if role is None:
        return None
    denied = [action for action, said in granted(desired, observed, role).items() if said == "denied"]
    mine = ours(role.tags, desired)
    faults = trust_faults(
        role.trust, account=observed.account, region=observed.region, cluster=desired.cluster, partition=observed.partition
    )
    said = [fault.what for fault in faults if fault.kind == "denied" and not mine]
    said += [f"its policies deny {', '.join(denied)}"] if denied else []
    run = f"aws iam get-role --role-name {role.name}"
    short = [action for action, said in bounded(desired, observed, role).items() if said in ("denied", "implicitly denied")]
    if short:
        said.append(
            f"its permissions boundary {role.boundary} does not allow {', '.join(short)}, and no policy of the role can: let it, or take it off"
        )
        run = f"aws iam get-policy --policy-arn {role.boundary}"
    if not said:
        return None
    what = "the role cannot be allowed what DSQL needs"
    return Misconfigured(what, where=f"iam role {role.name}", why="; ".join(said), run=run, code="E175")
