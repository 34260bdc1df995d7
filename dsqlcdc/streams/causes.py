"""The eight reasons for which a CDC stream breaks, as data: what they mean, what confirms them, what mends them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from dsqlcdc.streams.facts import Action, Check, Facts, command, describe
from dsqlcdc.streams.policies import SERVICE
from dsqlcdc.streams.role_causes import kms_actions, kms_checks, policy_actions, policy_checks, role_actions, role_checks

LARGEST_KIB = 10240
"""The largest MaxRecordSizeInKiB of Kinesis; DSQL cuts rows so that no record is larger (spec §1, §2)."""


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """One statusReason code. `mends`: what mends it. `applies`: what the policy `apply` does, "" nothing. `within`: seconds after mending
    by which it should be over (the service names none: ours, to know when to ask for help)."""

    code: str
    explanation: str
    mends: str
    applies: str
    expect: str
    within: float
    recoverable: bool = True
    checks: Callable[[Facts], Sequence[Check]]
    actions: Callable[[Facts], Sequence[Action]]


def _target_exists(facts: Facts) -> Check:
    target = facts.observed.target
    found = f"{target.name} is {target.status}" if target is not None else f"there is no {facts.target_name}"
    missing = target is None or target.status == "DELETING"
    return Check(question="Is the Kinesis stream gone?", found=found, confirms=missing, command=describe(facts))


def _oversize_checks(facts: Facts) -> Sequence[Check]:
    target = facts.observed.target
    question = f"Does the Kinesis stream take records of less than {LARGEST_KIB} KiB only?"
    if target is None:
        return [Check(question=question, found=f"there is no {facts.target_name}", confirms=None, command=describe(facts))]
    found = f"MaxRecordSizeInKiB is {target.max_record_kib}"
    return [Check(question=question, found=found, confirms=target.max_record_kib < LARGEST_KIB, command=describe(facts))]


def _oversize_actions(facts: Facts) -> Sequence[Action]:
    target = facts.observed.target
    if target is None or target.max_record_kib >= LARGEST_KIB:
        return []
    flags = ("--stream-arn", facts.target_arn, "--max-record-size-in-ki-b", str(LARGEST_KIB))
    return [
        Action(
            what=f"Raise the record size of {target.name} to {LARGEST_KIB} KiB; it takes seconds and stops nothing.",
            command=command("aws", "kinesis", "update-max-record-size", *flags),
            kind="record_size",
            before=target.max_record_kib,
            after=LARGEST_KIB,
        )
    ]


def _throughput_checks(facts: Facts) -> Sequence[Check]:
    target = facts.observed.target
    question = "Is the number of shards fixed, at 1 MB and 1,000 records a second each?"
    if target is None:
        return [Check(question=question, found=f"there is no {facts.target_name}", confirms=None, command=describe(facts))]
    found = f"{target.name} is {target.mode}, with {target.open_shards} open shards"
    return [Check(question=question, found=found, confirms=target.mode == "provisioned" or None, command=describe(facts))]


def _throughput_actions(facts: Facts) -> Sequence[Action]:
    target = facts.observed.target
    if target is None:
        return []
    if target.mode == "on_demand":
        what = "Wait: an on-demand stream takes twice its former peak at once, and more within minutes."
        quota = "If it lasts, look at the quotas: the stream's write limit"
        if facts.kms_key:
            quota += ", and the request quota of its KMS key, which every record is encrypted with"
        return [
            Action(what=what),
            Action(what=f"{quota}.", command=command("aws", "service-quotas", "list-service-quotas", "--service-code", "kinesis")),
        ]
    return _more_shards(facts, target.open_shards) or [_on_demand(facts)]


def _more_shards(facts: Facts, shards: int) -> list[Action]:
    """Twice as many is the most that one call may ask for."""
    wanted = min(shards * 2, facts.desired.target.max_shards or 0)
    if wanted <= shards:
        return []
    flags = ("--stream-name", facts.target_name, "--target-shard-count", str(wanted), "--scaling-type", "UNIFORM_SCALING")
    return [
        Action(
            what=f"Raise the shards from {shards} to {wanted} (max_shards is {facts.desired.target.max_shards}).",
            command=command("aws", "kinesis", "update-shard-count", *flags),
            kind="shards",
            before=shards,
            after=wanted,
        )
    ]


def _on_demand(facts: Facts) -> Action:
    """Ours to do only where the config says so: the mode is what the stream costs."""
    flags = ("--stream-arn", facts.target_arn, "--stream-mode-details", "StreamMode=ON_DEMAND")
    wanted = facts.desired.target
    asked = wanted.mode == "on_demand" and wanted.mode_named
    said = "stream.kinesis.mode says provisioned" if wanted.mode == "provisioned" else "stream.kinesis.mode is not written"
    why = "" if asked else f" It is not done from here, for {said}: raise stream.kinesis.max_shards, or write mode: on_demand."
    return Action(
        what=f"Switch {facts.target_name} to on-demand mode, which AWS allows twice in 24 hours.{why}",
        command=command("aws", "kinesis", "update-stream-mode", *flags),
        kind="on_demand" if asked else "",
        before="provisioned",
        after="on_demand",
    )


def _not_found_actions(facts: Facts) -> Sequence[Action]:
    del facts
    return []  # the stream is FAILED: it is created again, which makes the target too


def _cmk_checks(facts: Facts) -> Sequence[Check]:
    cluster = facts.observed.cluster
    key = cluster.kms_key if cluster is not None else ""
    question = "Is the cluster's KMS key disabled, about to be deleted, or closed to DSQL by its policy?"
    asked = command("aws", "kms", "describe-key", "--key-id", key) if key else _get_cluster(facts)
    found = f"the cluster's key is {key}" if key else "the cluster has no key of yours"
    return [Check(question=question, found=found, confirms=None if key else False, command=asked)]


def _get_cluster(facts: Facts) -> str:
    return command("aws", "dsql", "get-cluster", "--identifier", facts.desired.cluster)


def _cmk_actions(facts: Facts) -> Sequence[Action]:
    cluster = facts.observed.cluster
    if cluster is None or not cluster.kms_key:
        return [Action(what="Look at the cluster's encryption.", command=_get_cluster(facts))]
    return [
        Action(
            what="Enable the cluster's key, or cancel its deletion: the database itself cannot be read without it.",
            command=command("aws", "kms", "enable-key", "--key-id", cluster.kms_key),
        ),
        Action(
            what=f"Look whether the key's policy still lets {SERVICE} use it.",
            command=command("aws", "kms", "get-key-policy", "--key-id", cluster.kms_key, "--policy-name", "default"),
        ),
    ]


def _nothing(facts: Facts) -> Sequence[Check]:
    del facts
    return []


def _wait_actions(facts: Facts) -> Sequence[Action]:
    arn = facts.stream.arn if facts.stream is not None else facts.desired.cluster
    return [
        Action(what="Wait: DSQL tries again by itself."),
        Action(what=f"If it lasts longer than an hour, open a case with AWS Support, naming {arn} and when it began."),
    ]


_RETRIES = "DSQL tries what it holds again, with growing pauses, and the stream is ACTIVE again by itself; nothing is lost."
CAUSES: Mapping[str, Cause] = {
    cause.code: cause
    for cause in (
        Cause(
            code="KINESIS_THROUGHPUT_EXCEEDED",
            explanation="DSQL writes more than the Kinesis stream takes, or more than the request quota of its KMS key allows.",
            mends="more shards, or on-demand mode; a higher KMS quota",
            applies="raises the shards, at most to twice as many and to `max_shards`; switches the mode where `mode: on_demand` is written",
            expect=_RETRIES,
            within=1800.0,
            checks=_throughput_checks,
            actions=_throughput_actions,
        ),
        Cause(
            code="KINESIS_STREAM_NOT_FOUND",
            explanation="The Kinesis stream that DSQL writes to is gone. The CDC stream cannot recover.",
            mends="the Kinesis stream and the CDC stream are created again",
            applies="creates both again, and records the gap",
            expect="A new CDC stream is ACTIVE within about three minutes, and begins with what is committed then.",
            within=600.0,
            recoverable=False,
            checks=lambda facts: [_target_exists(facts)],
            actions=_not_found_actions,
        ),
        Cause(
            code="ROLE_ACCESS_DENIED",
            explanation="DSQL cannot assume the role: it is gone, or its trust policy does not let this cluster's streams in.",
            mends="a trust policy for `dsql.amazonaws.com`, this account and `cluster/{id}/stream/*`",
            applies="writes that trust policy",
            expect=_RETRIES,
            within=1800.0,
            checks=role_checks,
            actions=role_actions,
        ),
        Cause(
            code="KINESIS_ACCESS_DENIED",
            explanation="The role may not write to the Kinesis stream.",
            mends="kinesis:PutRecord and kinesis:PutRecords on the stream, for the role",
            applies="puts the inline policy",
            expect=_RETRIES,
            within=1800.0,
            checks=policy_checks,
            actions=policy_actions,
        ),
        Cause(
            code="KINESIS_KMS_ACCESS_DENIED",
            explanation="The role may not use the KMS key of the Kinesis stream, or the key is not enabled.",
            mends="kms:GenerateDataKey on the key, for the role; an enabled key",
            applies="puts the inline policy; leaves the key as it is",
            expect=_RETRIES,
            within=1800.0,
            checks=kms_checks,
            actions=kms_actions,
        ),
        Cause(
            code="KINESIS_OVERSIZE_RECORD",
            explanation="A change record is larger than the Kinesis stream takes. It is held back; smaller ones go on.",
            mends="UpdateMaxRecordSize to 10240 KiB on the stream",
            applies="does that",
            expect=_RETRIES,
            within=1800.0,
            checks=_oversize_checks,
            actions=_oversize_actions,
        ),
        Cause(
            code="CLUSTER_CMK_INACCESSIBLE",
            explanation="DSQL cannot use the cluster's own KMS key.",
            mends="the key is enabled, and its policy lets DSQL use it",
            applies="",
            expect=_RETRIES,
            within=3600.0,
            checks=_cmk_checks,
            actions=_cmk_actions,
        ),
        Cause(
            code="INTERNAL_ERROR",
            explanation="Something failed inside the service. There is nothing to mend on your side.",
            mends="waiting; after an hour, AWS Support",
            applies="",
            expect=_RETRIES,
            within=3600.0,
            checks=_nothing,
            actions=_wait_actions,
        ),
    )
}
"""By code: all that the service documents (spec §1)."""


def unknown(code: str) -> Cause:
    """A code that the service did not document, or none at all: explained as such, waited for, never acted upon."""
    named = f"The service gives the reason {code}, which is not documented." if code else "The service gives no reason."
    return Cause(
        code=code,
        explanation=named,
        mends="waiting; after an hour, AWS Support",
        applies="",
        expect="Unknown; a stream whose cause is gone becomes ACTIVE by itself, unless it is FAILED.",
        within=3600.0,
        checks=_nothing,
        actions=_wait_actions,
    )
