"""What is wrong with the cluster, its CDC stream and the Kinesis stream, from what was observed. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

import msgspec

from dsqlcdc.doctor.finding import Finding, found
from dsqlcdc.streams.desired import Desired
from dsqlcdc.streams.facts import command
from dsqlcdc.streams.observed import CdcStream, KeyState, Observed, TargetState
from dsqlcdc.streams.remedies import remedy_of, text
from dsqlcdc.streams.wanted import same_key, target_arn

Part = Literal["cluster", "streams", "target", "role", "boundary", "key", "cluster key"]
APPLY = "Run: dsqlcdc stream apply CONFIG"
_DAY = 24


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What was observed, and which parts could not be (a finding says why). `cluster_key`: the cluster's own key, where it has one."""

    observed: Observed
    unknown: Collection[Part] = ()
    cluster_key: KeyState | None = None

    def target_arn(self, desired: Desired) -> str:
        return target_arn(desired, self.observed)

    def stream(self, desired: Desired) -> CdcStream | None:
        return self.observed.stream_into(self.target_arn(desired))


def check_cluster(desired: Desired, seen: Seen) -> Iterator[Finding]:
    if "cluster" in seen.unknown:
        return
    where, cluster = f"cluster {desired.cluster}", seen.observed.cluster
    run = f"Run: {command('aws', 'dsql', 'get-cluster', '--identifier', desired.cluster)}"
    if cluster is None:
        why = f"account {seen.observed.account} has none of this identifier in {seen.observed.region}"
        yield found("E400", "the cluster is not there", where=where, why=why, remedy=f"Mend stream.cluster, or the credentials. {run}")
        return
    if cluster.status != "ACTIVE":
        delivers = "streams" in seen.unknown or seen.stream(desired) is not None
        sleeping = cluster.status in ("IDLE", "INACTIVE")
        why = "an idle cluster wakes with its first connection; a CDC stream cannot be created before" if sleeping else ""
        remedy = "Connect to it once with psql, and try again" if sleeping else run
        what = f"the cluster is {cluster.status}"
        yield found("E401", what, where=where, why=why, remedy=remedy, severity="warning" if sleeping and delivers else "error")
    key = seen.cluster_key
    if cluster.kms_key and "cluster key" not in seen.unknown and (key is None or key.state != "Enabled"):
        state = f"it is {key.state}" if key is not None else "there is no such key"
        yield found("E412", "the cluster's KMS key cannot be used", where=cluster.kms_key, why=state, remedy=_enable(cluster.kms_key, key))


def check_cdc_stream(desired: Desired, seen: Seen, now: float) -> Iterator[Finding]:
    """The CDC stream: any status but ACTIVE is an error, under the code of its statusReason."""
    if {"cluster", "streams"} & set(seen.unknown) or seen.observed.cluster is None:
        return
    stream, arn = seen.stream(desired), seen.target_arn(desired)
    if stream is None:
        where, why = f"cluster {desired.cluster}", f"no change reaches {desired.target.name}"
        leaving = next((one for one in seen.observed.streams if one.target == arn), None)
        if leaving is not None:
            why += f"; {leaving.id} is {leaving.status}"
        yield found("E402", "there is no CDC stream", where=where, why=why, remedy=APPLY)
        return
    living = [one for one in seen.observed.streams if one.target == arn and one.status in ("CREATING", "ACTIVE", "IMPAIRED")]
    if len(living) > 1:
        why = f"{', '.join(one.id for one in living)} write to {desired.target.name}"
        delete = command("aws", "dsql", "delete-stream", "--cluster-identifier", desired.cluster, "--stream-identifier", living[-1].id)
        yield found("E404", "several CDC streams write there", where=f"cluster {desired.cluster}", why=why, remedy=f"Run: {delete}")
    if stream.status != "ACTIVE":
        yield _not_active(desired, seen, stream, now)


def _not_active(desired: Desired, seen: Seen, stream: CdcStream, now: float) -> Finding:
    where = f"cluster {stream.cluster}, stream {stream.id}"
    what = f"the CDC stream is {stream.status}"
    remedy = remedy_of(desired, seen.observed)
    if remedy is None:  # on its way, without complaint
        run = "Wait for a minute or three. Run: dsqlcdc stream status CONFIG"
        return found("E403", what, where=where, why="it is being made: nothing is delivered yet", remedy=run)
    lines = text(remedy, now)
    if stream.reason is None:
        return found("E403", what, where=where, why=lines[0], remedy="\n".join(lines[1:]))
    why = f"{stream.reason.error}: {lines[0]}"
    return Finding(code=stream.reason.error, severity="error", what=what, where=where, why=why, remedy="\n".join(lines[1:]))


def check_target(desired: Desired, seen: Seen) -> Iterator[Finding]:
    if "target" in seen.unknown:
        return
    wanted, target = desired.target, seen.observed.target
    if target is None:
        why = f"account {seen.observed.account} has none of this name in {seen.observed.region}"
        yield found("E406", "the Kinesis stream is not there", where=f"kinesis stream {wanted.name}", why=why, remedy=_again(desired, seen))
        return
    where = f"kinesis stream {target.name}"
    if target.max_record_kib < wanted.max_record_kib:
        why = f"MaxRecordSizeInKiB is {target.max_record_kib}; DSQL sends records of up to 10 MiB, and holds back what does not fit"
        flags = ("--stream-arn", target.arn, "--max-record-size-in-ki-b", str(wanted.max_record_kib))
        run = f"Run: {command('aws', 'kinesis', 'update-max-record-size', *flags)}"
        yield found("E407", "large rows do not fit the Kinesis stream", where=where, why=why, remedy=run)
    if target.mode != wanted.mode and wanted.mode_named:
        mode = "ON_DEMAND" if wanted.mode == "on_demand" else "PROVISIONED"
        flags = ("--stream-arn", target.arn, "--stream-mode-details", f"StreamMode={mode}")
        run = f"Run: {command('aws', 'kinesis', 'update-stream-mode', *flags)} (twice in 24 hours at the most), or mend stream.kinesis.mode"
        why = f"it is {target.mode} with {target.open_shards} open shards, the config says {wanted.mode}"
        yield found("E408", "the Kinesis stream is of another mode", where=where, why=why, remedy=run)
    yield from check_retention(target.name, float(target.retention_hours), wanted.retention_hours)
    yield from _encryption(desired, seen, target)


def _again(desired: Desired, seen: Seen) -> str:
    """Beside a CDC stream that FAILED nothing is made without it being made again."""
    stream = None if "streams" in seen.unknown else seen.stream(desired)
    return f"{APPLY} --replace" if stream is not None and stream.status == "FAILED" else APPLY


def check_retention(name: str, hours: float, wanted: int | None) -> Iterator[Finding]:
    """`wanted`: hours, None where the config does not say."""
    least = wanted if wanted is not None else _DAY + 1
    if hours >= least:
        return
    flags = ("--stream-name", name, "--retention-period-hours", str(wanted or 7 * _DAY))
    run = f"Run: {command('aws', 'kinesis', 'increase-stream-retention-period', *flags)}"
    why = f"it keeps records for {hours:g} h" + (f", the config says {wanted} h" if wanted is not None else "")
    why += "; what a consumer has not read by then is lost, so this is how long an outage may last"
    yield found("E409", "the Kinesis stream forgets early", where=f"kinesis stream {name}", why=why, remedy=run)


def _encryption(desired: Desired, seen: Seen, target: TargetState) -> Iterator[Finding]:
    wanted, key = desired.target.kms_key, seen.observed.key
    ours = target.kms_key and target.kms_key not in ("alias/aws/kinesis",) and not target.kms_key.endswith(":alias/aws/kinesis")
    if wanted is not None and not same_key(wanted, target.kms_key, seen.observed):
        flags = ("--stream-name", target.name, "--encryption-type", "KMS", "--key-id", wanted)
        run = f"Run: {command('aws', 'kinesis', 'start-stream-encryption', *flags)}"
        why = f"its key is {target.kms_key or 'none'}, the config says {wanted}"
        yield found("E410", "the Kinesis stream has another key", where=f"kinesis stream {target.name}", why=why, remedy=run)
    elif ours and "key" not in seen.unknown and (key is None or key.state != "Enabled"):
        why = f"it is {key.state}" if key is not None else "there is no such key"
        why += "; nothing can be written to the stream, nor read from it"
        yield found("E411", "the KMS key cannot be used", where=target.kms_key, why=why, remedy=_enable(target.kms_key, key))


def _enable(key: str, state: KeyState | None) -> str:
    if state is None:
        return "Restore the key, or encrypt with another one: a key that was deleted is gone for good"
    cancel = f"{command('aws', 'kms', 'cancel-key-deletion', '--key-id', key)}, then " if state.state == "PendingDeletion" else ""
    return f"Run: {cancel}{command('aws', 'kms', 'enable-key', '--key-id', key)}"
