"""The remedy of a CDC stream that is not well: why, what confirms it, what to do, what to expect and by when."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from dsqlcdc.streams.causes import CAUSES, unknown
from dsqlcdc.streams.desired import Desired
from dsqlcdc.streams.facts import Action, Check, Facts, command
from dsqlcdc.streams.observed import CdcStream, Observed
from dsqlcdc.streams.obstacles import no_cluster

KEPT = 7 * 24 * 3600.0
"""Seconds for which DSQL keeps what it cannot deliver (spec §1)."""


class Remedy(msgspec.Struct, frozen=True, kw_only=True):
    """What to do about a CDC stream. `error`: its statusReason code, "" where it gives none or where there is no stream.

    `since`: seconds since the epoch from which on changes may be held back, 0 unknown; `kept_until`: from then on they are lost, 0 where
    nothing is held. `expect` should have come true `within` seconds after the actions. `policy`: what the config says of this code;
    `can_apply`: one of the actions can be done from here.
    """

    error: str
    status: str
    explanation: str
    recoverable: bool
    checks: Sequence[Check]
    actions: Sequence[Action]
    expect: str
    within: float
    since: float
    kept_until: float
    policy: Literal["explain", "apply"]

    @property
    def can_apply(self) -> bool:
        return any(action.kind for action in self.actions)

    def as_json(self) -> dict[str, Any]:
        """The face that users see, in `stream status`, `doctor`, `/status` and the page: times as RFC 3339, null where unknown."""
        body: dict[str, Any] = msgspec.to_builtins(self)
        body["since"], body["kept_until"] = moment(self.since), moment(self.kept_until)
        body["can_apply"] = self.can_apply
        return body


def remedy(
    code: str, desired: Desired, observed: Observed, *, status: str = "", stream: CdcStream | None = None, since: float = 0.0
) -> Remedy:
    """The remedy of a statusReason `code` ("" for none).

    `stream`: the CDC stream it is about, by default the one into the target. `status`: its status, by default as it was observed, "GONE"
    where there is none. `since`: when it was first seen broken, where that is known better than from statusReason.updatedAt.
    """
    target = f"arn:{observed.partition}:kinesis:{observed.region}:{observed.account}:stream/{desired.target.name}"
    stream = stream or observed.stream_into(target)
    status = status or (stream.status if stream is not None else "GONE")
    facts = Facts(desired=desired, observed=observed, stream=stream)
    if stream is None:
        return _absent(desired, observed, status)
    cause = CAUSES.get(code) or unknown(code)
    actions, expect, within = cause.actions(facts), cause.expect, cause.within
    began = min((at for at in (since, stream.reason.updated_at if stream.reason is not None else 0.0) if at), default=0.0)
    if status == "FAILED":
        again = CAUSES["KINESIS_STREAM_NOT_FOUND"]
        actions, expect, within = [*actions, _again(facts)], again.expect, again.within
    return Remedy(
        error=code,
        status=status,
        explanation=cause.explanation,
        recoverable=cause.recoverable and status != "FAILED",
        checks=cause.checks(facts),
        actions=actions,
        expect=expect,
        within=within,
        since=began,
        kept_until=began + KEPT if began and status == "IMPAIRED" else 0.0,
        policy=desired.policy(code),
    )


def remedy_of(desired: Desired, observed: Observed, *, since: float = 0.0) -> Remedy | None:
    """The remedy of what was observed; None where the CDC stream is ACTIVE, or on its way there without complaint."""
    target = f"arn:{observed.partition}:kinesis:{observed.region}:{observed.account}:stream/{desired.target.name}"
    stream = observed.stream_into(target)
    if stream is not None and (stream.status == "ACTIVE" or (stream.status == "CREATING" and stream.reason is None)):
        return None
    code = stream.reason.error if stream is not None and stream.reason is not None else ""
    return remedy(code, desired, observed, stream=stream, since=since)


def blind(code: str, desired: Desired, status: str, *, since: float = 0.0) -> Remedy:
    """The remedy where only the CDC stream could be looked at: nothing is confirmed, and nothing applied."""
    cause = CAUSES.get(code) or unknown(code)
    final = status == "FAILED"
    mends = f"{cause.mends[:1].upper()}{cause.mends[1:]}."
    actions = [Action(what=mends, command=command("dsqlcdc", "doctor", "CONFIG"))]
    if final:
        actions.append(Action(what=_AGAIN, command=_REPLACE))
    return Remedy(
        error=code,
        status=status,
        explanation=cause.explanation,
        recoverable=cause.recoverable and not final,
        checks=[],
        actions=actions,
        expect=CAUSES["KINESIS_STREAM_NOT_FOUND"].expect if final else cause.expect,
        within=cause.within,
        since=since,
        kept_until=since + KEPT if since and status == "IMPAIRED" else 0.0,
        policy=desired.policy(code),
    )


_AGAIN = "Delete the CDC stream and create it again. What was committed since it last delivered is lost: the gap is recorded."
_REPLACE = command("dsqlcdc", "stream", "apply", "CONFIG", "--replace")


def _again(facts: Facts) -> Action:
    assert facts.stream is not None
    return Action(what=_AGAIN, command=_REPLACE, kind="recreate", before=facts.stream.id, after="new")


def _absent(desired: Desired, observed: Observed, status: str) -> Remedy:
    create = Action(what="Create it.", command=command("dsqlcdc", "stream", "apply", "CONFIG"))
    explanation = f"No CDC stream of cluster {desired.cluster} writes to {desired.target.name}: no change is delivered."
    if observed.cluster is None:
        fault = no_cluster(desired, observed)
        create = Action(what="Mend stream.cluster, or the credentials.", command=fault.run)
        explanation = f"DSQLCDC-{fault.code} {fault.what}, {fault.where}: {fault.why}."
    return Remedy(
        error="",
        status=status,
        explanation=explanation,
        recoverable=False,
        checks=[],
        actions=[create],
        expect=CAUSES["KINESIS_STREAM_NOT_FOUND"].expect,
        within=600.0,
        since=0.0,
        kept_until=0.0,
        policy="explain",
    )


def text(remedy: Remedy, now: float) -> list[str]:
    """The remedy in lines, for people."""
    lines = [remedy.explanation]
    marks = {True: "yes", False: "no", None: "?"}
    lines += [f"  {check.question} {marks[check.confirms]}: {check.found}" for check in remedy.checks]
    for action in remedy.actions:
        lines.append(f"- {action.what}")
        if action.policy is not None:
            lines += [f"    {line}" for line in diff(action.before, action.after)]
        if action.command:
            lines.append(f"    {action.command}")
    lines.append(f"Then: {remedy.expect}")
    if remedy.kept_until:
        lines.append(f"What is held back is kept until {moment(remedy.kept_until)}, {span(remedy.kept_until - now)}.")
    return lines


def diff(before: Any, after: Any) -> list[str]:
    """Two documents as the lines that differ, with their neighbours."""
    old, new = (json.dumps(value, indent=2).splitlines() if value is not None else [] for value in (before, after))
    return [line for line in difflib.unified_diff(old, new, lineterm="", n=2) if not line.startswith(("---", "+++", "@@"))]


def span(seconds: float) -> str:
    """How long from now: "6 days", "5 hours", "12 minutes", or that it is over."""
    if seconds <= 0:
        return "which is over"
    for unit, size in (("day", 86_400.0), ("hour", 3600.0), ("minute", 60.0)):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''} from now"
    return "less than a minute from now"


def moment(seconds: float) -> str | None:
    """RFC 3339 in UTC, to the second; None where unknown."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if seconds else None
