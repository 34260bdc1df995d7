"""What a trust policy means for DSQL: may it assume the role for the streams of a cluster, and may others through it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import msgspec

from dsqlcdc.streams.policies.conditions import Context, arn_like, clause_holds, clauses, holds, like, listed
from dsqlcdc.streams.policies.documents import SERVICE
from dsqlcdc.streams.policies.grants import acts, statements

ASSUME = "sts:AssumeRole"
_STREAMS = ("2x5vqk7ywjm3hzc4pd6rtbn2ea", "zq4m2c6xk3wj7vyh5tbnpd2rea")
"""Two stream ids that nobody has named: what lets both through lets any stream through."""
_STRANGER, _OTHER = "000000000000", "nobody2s2cluster2in2nobody2"

FaultKind = Literal["principal", "action", "denied", "cluster_arn", "source_account", "source_arn", "condition", "unclear", "open", "wide"]


class TrustFault(msgspec.Struct, frozen=True):
    """What is wrong with a trust policy, in words.

    `shuts_out`: DSQL cannot assume the role (ROLE_ACCESS_DENIED). Otherwise `unclear` cannot be told from the document, `open` lets streams
    of any account have DSQL assume the role (confused deputy), `wide` those of other clusters of this account.
    """

    kind: FaultKind
    what: str

    @property
    def shuts_out(self) -> bool:
        return self.kind not in ("unclear", "open", "wide")


def trust_faults(
    trust: Mapping[str, Any], *, account: str, region: str, cluster: str, partition: str = "aws", stream: str = ""
) -> Sequence[TrustFault]:
    """What keeps DSQL from assuming the role for the cluster's streams, or lets others in; empty for a policy that is right.

    `stream`: the id of the CDC stream that is there; "": any that may be made.
    """
    arn = f"arn:{partition}:dsql:{region}:{account}:cluster/{cluster}"
    asked = _Asked(account=account, cluster=arn, streams=[f"{arn}/stream/{one}" for one in ([stream] if stream else _STREAMS)])
    found = [fault for statement in statements(trust) if statement.get("Effect") == "Deny" for fault in asked.denials(statement)]
    if any(fault.shuts_out for fault in found):
        return found
    judged = [asked.judge(statement) for statement in statements(trust) if statement.get("Effect") == "Allow"]
    if not judged:
        return [*found, TrustFault("principal", f"no statement allows {SERVICE} to assume the role")]
    if any(_lets_in(faults) for faults in judged):  # one that lets DSQL in is enough; each that lets others in is a fault
        return [*found, *(fault for faults in judged for fault in faults if fault.kind in ("open", "wide"))]
    return [*found, *min(judged, key=_distance)]


def trusted_clusters(trust: Mapping[str, Any]) -> set[str]:
    """Ids of the clusters, or patterns of them, whose streams the conditions on aws:SourceArn name; empty where none does."""
    return {arn.partition(":cluster/")[2].partition("/")[0] or arn for arn in trusted_sources(trust)}


def trusted_regions(trust: Mapping[str, Any]) -> set[str]:
    """Regions, or patterns of them, of the streams that these conditions name."""
    return {(arn.split(":") + [""] * 4)[3] or arn for arn in trusted_sources(trust)}


def trusted_sources(trust: Mapping[str, Any]) -> list[str]:
    """The ARNs, or patterns of them, that the conditions on aws:SourceArn name."""
    said = [clause for one in statements(trust) if one.get("Effect") == "Allow" for clause in clauses(one.get("Condition") or {})]
    return [value for _, key, values in said if key.lower() == "aws:sourcearn" for value in values]


def _lets_in(faults: Sequence[TrustFault]) -> bool:
    return all(fault.kind in ("open", "wide") for fault in faults)


def _distance(faults: Sequence[TrustFault]) -> tuple[bool, int]:
    """How far a statement is from letting DSQL in: the nearest is the one that was meant."""
    return any(fault.kind in ("principal", "action") for fault in faults), sum(fault.shuts_out for fault in faults)


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The request: DSQL assumes the role for one of these streams."""

    account: str
    cluster: str
    streams: Sequence[str]

    def contexts(self) -> list[Context]:
        return [_context(self.account, stream) for stream in self.streams]

    def denials(self, statement: Mapping[str, Any]) -> list[TrustFault]:
        if not acts(statement, ASSUME) or not _admits(statement, denying=True):
            return []
        answers = [holds(statement.get("Condition"), context) for context in self.contexts()]
        if True in answers:
            return [TrustFault("denied", f"a statement denies {SERVICE} to assume the role{_if(statement)}")]
        return [TrustFault("unclear", f"a statement may deny {SERVICE} to assume the role{_if(statement)}")] if None in answers else []

    def judge(self, statement: Mapping[str, Any]) -> list[TrustFault]:
        found: list[TrustFault] = []
        admits = _admits(statement, denying=False)
        if not admits:
            principal = statement.get("Principal", statement.get("NotPrincipal", "missing"))
            what = f"the principal is {principal}, and must be {{'Service': '{SERVICE}'}}"
            found.append(TrustFault("unclear" if admits is None else "principal", what))
        if not acts(statement, ASSUME):
            found.append(TrustFault("action", f"the action is {statement.get('Action', 'missing')}, and must be {ASSUME}"))
        if "Condition" in statement:
            for clause in clauses(statement["Condition"]):
                found += self._clause(*clause)
        if any(fault.kind in ("principal", "action") for fault in found):
            return found
        return found + self._others(statement)

    def _clause(self, operator: str, key: str, values: Sequence[str]) -> list[TrustFault]:
        answers = [clause_holds(operator, key, values, context) for context in self.contexts()]
        said = f"the condition {operator} {key} {' or '.join(values)}"
        if False not in answers:
            return [TrustFault("unclear", f"whether {said} holds cannot be told from here")] if None in answers else []
        if key.lower() == "aws:sourceaccount":
            return [TrustFault("source_account", f"{said} does not hold: the streams are of account {self.account}")]
        if key.lower() != "aws:sourcearn":
            return [TrustFault("condition", f"{said} does not hold for DSQL")]
        return [self._source_arn(operator, values, said)]

    def _source_arn(self, operator: str, values: Sequence[str], said: str) -> TrustFault:
        wanted = f"{self.cluster}/stream/*"
        compare = arn_like if "Arn" in operator else like
        if "Not" not in operator and any(compare(value, self.cluster) for value in values):
            return TrustFault("cluster_arn", f"{said} names the cluster, but the source is a stream of it: write ArnLike {wanted}")
        if "String" in operator and "Like" not in operator and any(compare(value, stream) for value in values for stream in self.streams):
            return TrustFault("source_arn", f"{said} takes * and ? as letters: write ArnLike {wanted}")
        return TrustFault("source_arn", f"{said} leaves out streams of this cluster: write ArnLike {wanted}")

    def _others(self, statement: Mapping[str, Any]) -> list[TrustFault]:
        partition, region = self.cluster.split(":")[1], self.cluster.split(":")[3]
        stranger = f"arn:{partition}:dsql:{region}:{_STRANGER}:cluster/{_OTHER}/stream/{_STREAMS[0]}"
        if holds(statement.get("Condition"), _context(_STRANGER, stranger)):
            what = "no condition on aws:SourceAccount and aws:SourceArn keeps streams of other accounts from using the role through DSQL"
            return [TrustFault("open", what)]
        cousin = stranger.replace(_STRANGER, self.account)
        if holds(statement.get("Condition"), _context(self.account, cousin)):
            return [
                TrustFault("wide", "streams of other clusters of this account may use the role: aws:SourceArn does not name this cluster")
            ]
        return []


def _context(account: str, stream: str) -> Context:
    """What is known of DSQL's call. It may carry more: what is asked of another key cannot be told."""
    return {
        "aws:sourceaccount": account,
        "aws:sourcearn": stream,
        "aws:principalisawsservice": "true",
        "aws:principalservicename": SERVICE,
        "aws:securetransport": "true",
    }


def _admits(statement: Mapping[str, Any], *, denying: bool) -> bool | None:
    """Is the statement about DSQL's principal? An AWS wildcard is taken to be when it denies; when it allows, that cannot be told."""
    if "NotPrincipal" in statement:
        return not _names(statement["NotPrincipal"]) if denying else None
    principal = statement.get("Principal")
    if principal == "*" or _names(principal):
        return True
    if isinstance(principal, dict) and "*" in listed(cast("dict[str, Any]", principal).get("AWS")):
        return True if denying else None
    return False


def _names(principal: Any) -> bool:
    services = listed(cast("dict[str, Any]", principal).get("Service")) if isinstance(principal, dict) else []
    return any(one in (SERVICE, "*") for one in services)


def _if(statement: Mapping[str, Any]) -> str:
    """Its conditions, in words."""
    said = [f"{operator} {key} {' or '.join(values)}" for operator, key, values in clauses(statement.get("Condition") or {})]
    return f" where {' and '.join(said)}" if said else ""
