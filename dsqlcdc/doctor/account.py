"""Looking at the account piece by piece: what may not be looked at is a finding, and the rest is looked at all the same."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from dsqlcdc.doctor.finding import Finding, Severity, of_fault
from dsqlcdc.doctor.stream import Part, Seen
from dsqlcdc.errors import Fault, Misconfigured
from dsqlcdc.streams import observe
from dsqlcdc.streams.clients import Clients
from dsqlcdc.streams.desired import Desired
from dsqlcdc.streams.observed import CdcStream, KeyState, Observed

T = TypeVar("T")


class Account(msgspec.Struct, frozen=True):
    """What was seen; `boundary`: the document of the role's permissions boundary, where it has one that may be read."""

    seen: Seen
    boundary: Mapping[str, Any] | None
    findings: Sequence[Finding]


class _Looking:
    """What could not be looked at, so far. Not to know how the CDC stream stands is never ok."""

    def __init__(self) -> None:
        self.unknown: list[Part] = []
        self.findings: list[Finding] = []

    async def at(self, part: Part, asking: Awaitable[T], otherwise: T) -> T:
        try:
            return await asking
        except Fault as fault:
            severity: Severity = "warning" if isinstance(fault, Misconfigured) and part != "streams" else "error"
            self.unknown.append(part)
            self.findings.append(of_fault(fault, severity=severity, about=f"the {part} could not be checked"))
            return otherwise


async def look(desired: Desired, clients: Clients) -> Account:
    """Everything `desired` speaks of, as far as the credentials reach. The role is the one that DSQL writes with."""
    looking = _Looking()
    cluster = await looking.at("cluster", observe.get_cluster(clients, desired.cluster), None)
    streams: Sequence[CdcStream] = []
    if cluster is not None or "cluster" in looking.unknown:
        streams = await looking.at("streams", observe.list_streams(clients, desired.cluster), [])
    target = await looking.at("target", observe.get_target(clients, desired.target.name), None)
    observed = Observed(
        account=clients.account,
        region=clients.region,
        partition=clients.partition,
        cluster=cluster,
        target=target,
        role=None,
        streams=streams,
    )
    stream = observed.stream_into(clients.stream_arn(desired.target.name))
    name = stream.role.rpartition("/")[2] if stream is not None and stream.role else desired.role
    role = await looking.at("role", observe.get_role(clients, name), None)
    key = await looking.at(
        "key", observe.get_key(clients, (target.kms_key if target is not None else "") or desired.target.kms_key or ""), None
    )
    cluster_key: KeyState | None = None
    if cluster is not None and cluster.kms_key:
        cluster_key = await looking.at("cluster key", observe.get_key(clients, cluster.kms_key), None)
    boundary: Mapping[str, Any] | None = None
    if role is not None and role.boundary:
        boundary = await looking.at("boundary", observe.get_policy(clients, role.boundary), None)
        role = msgspec.structs.replace(role, bound=boundary)
    observed = msgspec.structs.replace(observed, role=role, key=key)
    return Account(Seen(observed=observed, unknown=frozenset(looking.unknown), cluster_key=cluster_key), boundary, looking.findings)
