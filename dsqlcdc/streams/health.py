"""The health of a CDC stream over time: what each look at it tells, how soon to look again, how long what is held back is kept. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from dsqlcdc.core.backoff import Backoff
from dsqlcdc.streams.causes import CAUSES, unknown
from dsqlcdc.streams.observed import Reason
from dsqlcdc.streams.remedies import KEPT, moment, span

GONE = "GONE"
"""The status of a stream that is not there."""
EventKind = Literal[
    "found", "creating", "active", "impaired", "reason", "mended", "failed", "deleting", "gone", "status", "replaced",
    "unanswered", "denied", "answered", "countdown", "escalate", "lagging", "caught_up", "unmeasured",
    "remedy", "acting", "acted", "not_acted", "gap",
]  # fmt: skip
"""What may be told of a stream. `status`: one that the service added since. `unmeasured`: how far it is behind cannot be asked. `remedy` to
`gap` come from whoever mends it."""

REMINDERS = (5 * 86_400.0, 2 * 86_400.0, 86_400.0, 6 * 3600.0, 3600.0, 0.0)
"""Seconds before what is held back is lost, at which it is said again."""
LAGGING, CAUGHT_UP = 900.0, 300.0
"""Seconds of lag of a stream that is ACTIVE: from the first on it is said, below the second it is said to be over."""
SOON, WATCHED = 5.0, 15.0
"""The longest pause, in seconds, while the status passes by itself (CREATING, DELETING), and while it is IMPAIRED."""
_UNANSWERED = Backoff(15.0, 300.0)
_THROTTLED = Backoff(60.0, 900.0)
_KINDS: dict[str, EventKind] = {
    "CREATING": "creating",
    "ACTIVE": "active",
    "IMPAIRED": "impaired",
    "FAILED": "failed",
    "DELETING": "deleting",
    "DELETED": "gone",
    GONE: "gone",
}
_ERRORS = ("impaired", "failed", "gone", "deleting", "reason", "replaced", "countdown", "escalate", "denied", "gap")
_WARNINGS = ("unanswered", "remedy", "lagging", "status", "acting", "not_acted")


Refusal = Literal["", "denied", "throttled"]


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What one look saw. `at`: seconds since the epoch, when it was asked. `stream`: its id.

    `status`: the service's word, "GONE" where there is none, "" where it did not answer: then `fault` says why, `refused` whether access was
    denied or throttled, and `after` how many seconds to wait at the least. `lag`: seconds since the oldest change that is not delivered was
    committed, None where nobody says.
    """

    at: float
    status: str
    stream: str = ""
    reason: Reason | None = None
    lag: float | None = None
    fault: str = ""
    refused: Refusal = ""
    after: float = 0.0


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing worth telling. `before` and `after`: statuses, reasons, ids, or what an action changes, as `kind` says."""

    kind: EventKind
    at: float
    stream: str
    what: str
    before: Any = ""
    after: Any = ""

    @property
    def level(self) -> Literal["info", "warning", "error"]:
        return "error" if self.kind in _ERRORS else "warning" if self.kind in _WARNINGS else "info"


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What is known after some looks. Times are seconds since the epoch, 0 unknown.

    `since`: how long the status is known to last. `healthy_at`: the last moment up to which this stream is known to have delivered
    everything: that of the last look that saw it ACTIVE (`active_at`), less its lag. `broken_since`: from
    then on changes may be held back; 0 while none are. `mended_at`: the last look that saw them let go. `unanswered`: looks in a row
    without an answer; `throttled`: those that were.
    """

    status: str = ""
    stream: str = ""
    reason: Reason | None = None
    since: float = 0.0
    healthy_at: float = 0.0
    active_at: float = 0.0
    broken_since: float = 0.0
    answered_at: float = 0.0
    unanswered: int = 0
    throttled: int = 0
    refused: str = ""
    fault: str = ""
    after: float = 0.0
    reminded: int = 0
    escalated: str = ""
    mended_at: float = 0.0
    lag: float | None = None
    lagging: bool = False

    @property
    def code(self) -> str:
        return self.reason.error if self.reason is not None else ""

    @property
    def impaired(self) -> bool:
        return self.status == "IMPAIRED"

    @property
    def kept_until(self) -> float:
        """When the oldest change that is held back is lost; 0 where none is known to be held back."""
        return self.broken_since + KEPT if self.broken_since and self.impaired else 0.0


def see(health: Health, look: Look) -> tuple[Health, Sequence[Event]]:
    """What a look adds, and what of it is to be told. Looks come in the order of their times."""
    if not look.status:
        return _unanswered(health, look)
    events: list[Event] = []
    if health.unanswered:
        events.append(_event(look, "answered", f"the service answers again, after {health.unanswered} looks without", stream=health.stream))
    known = msgspec.structs.replace(health, unanswered=0, throttled=0, refused="", fault="", after=0.0, answered_at=look.at)
    if health.stream and look.stream and look.stream != health.stream:
        what = f"another CDC stream took its place: what was committed since the old one was well ({health.stream}) may be lost"
        events.append(_event(look, "replaced", what, before=health.stream, after=look.stream))
        known = Health(answered_at=look.at)
    seen, told = _status(known, look)
    seen, more = _passing(seen, look)
    return seen, [*events, *told, *more]


def _unanswered(health: Health, look: Look) -> tuple[Health, Sequence[Event]]:
    throttled = health.throttled + 1 if look.refused == "throttled" else 0
    seen = msgspec.structs.replace(
        health, unanswered=health.unanswered + 1, throttled=throttled, refused=look.refused, fault=look.fault, after=look.after
    )
    if health.unanswered and health.refused == look.refused:
        return seen, []
    kind: EventKind = "denied" if look.refused == "denied" else "unanswered"
    return seen, [_event(look, kind, f"the CDC stream cannot be looked at, reading goes on: {look.fault}", stream=health.stream)]


def _status(known: Health, look: Look) -> tuple[Health, Sequence[Event]]:
    """The change of status or reason, if there is one."""
    code = look.reason.error if look.reason is not None else ""
    held = look.status == "IMPAIRED"
    healthy = look.at - (look.lag or 0.0) if look.status == "ACTIVE" else known.healthy_at
    broken = known.broken_since if held or look.status == "FAILED" else 0.0
    if held:
        broken = min(at for at in (broken, _began(known, look), look.at - (look.lag or 0.0)) if at)
    changed = look.status != known.status
    seen = msgspec.structs.replace(
        known,
        status=look.status,
        stream=look.stream or known.stream,
        reason=look.reason,
        since=look.at if changed else known.since,
        healthy_at=healthy,
        active_at=look.at if look.status == "ACTIVE" else known.active_at,
        broken_since=broken,
        reminded=known.reminded if held else 0,
        escalated=known.escalated if held and code == known.code else "",
        mended_at=look.at if look.status == "ACTIVE" and known.broken_since else known.mended_at,
        lag=look.lag,
    )
    if not changed:
        if code != known.code:
            return seen, [_event(look, "reason", f"the reason is now {code or 'none'}, {known.code or 'none'} before", known.code, code)]
        return seen, []
    kind: EventKind = _KINDS.get(look.status, "status")
    if known.status in ("IMPAIRED", "FAILED") and kind == "active":
        kind = "mended"
    if not known.status:
        what = f"the CDC stream is {look.status}{_because(code)}"
        return seen, [_event(look, "found" if kind in ("active", "creating") else kind, what, after=look.status)]
    what = f"the CDC stream is {look.status}{_because(code)}, {known.status} before"
    return seen, [_event(look, kind, what, known.status, look.status)]


def _began(known: Health, look: Look) -> float:
    """When it began to be IMPAIRED, rather too early than too late: as the service says, or else since it was last seen well."""
    said = look.reason.updated_at if look.reason is not None else 0.0
    return min(said or known.healthy_at or look.at, look.at)


def _passing(seen: Health, look: Look) -> tuple[Health, Sequence[Event]]:
    """What time brings: the countdown while IMPAIRED, and lag while ACTIVE."""
    if seen.impaired:
        return _waiting(seen, look)
    lag = look.lag
    if lag is None:
        return seen, []
    if seen.status == "ACTIVE" and not seen.lagging and lag >= LAGGING:
        what = f"the stream is ACTIVE and {lag:.0f} s behind the database: what is committed arrives that late"
        told = _event(look, "lagging", what)
        return msgspec.structs.replace(seen, lagging=True), [told]
    if seen.lagging and lag < CAUGHT_UP:
        return msgspec.structs.replace(seen, lagging=False), [_event(look, "caught_up", "the stream has caught up with the database")]
    return seen, []


def _waiting(seen: Health, look: Look) -> tuple[Health, Sequence[Event]]:
    """While IMPAIRED: how long what is held back is kept, and that it takes longer than it should."""
    events: list[Event] = []
    left = seen.kept_until - look.at
    due = sum(left <= reminder for reminder in REMINDERS)
    if due > seen.reminded:
        fate = f"the oldest is lost {span(left)}" if left > 0 else "the week is over, and the oldest changes may be lost"
        events.append(_event(look, "countdown", f"what is held back is kept for a week, until {moment(seen.kept_until)}: {fate}"))
    late = look.at - seen.broken_since >= (CAUSES.get(seen.code) or unknown(seen.code)).within
    if late and not seen.escalated:
        what = f"it has been IMPAIRED for {look.at - seen.broken_since:.0f} s, longer than it should: somebody must look at its remedy"
        events.append(_event(look, "escalate", what))
    return msgspec.structs.replace(seen, reminded=max(due, seen.reminded), escalated=seen.code or "-" if late else seen.escalated), events


def pause(health: Health, poll: float, random: Callable[[], float]) -> float:
    """Seconds until the next look: `poll` while ACTIVE, less while something is under way, more while the service does not answer.

    Jitter takes a fifth of it at random, so that daemons do not ask in step. Never more than `poll` while the service answers.
    """
    jitter = 1.0 - 0.2 * random()
    if health.unanswered:
        backoff = _THROTTLED if health.throttled else _UNANSWERED
        longest = max(poll, backoff.cap)
        wait = min(longest, max(poll if health.refused else min(poll, backoff.base), backoff.base) * 2.0 ** min(health.unanswered - 1, 20))
        return max(wait * jitter, health.after)
    if health.status in ("CREATING", "DELETING"):
        return min(poll, SOON) * jitter
    if health.status == "ACTIVE":
        return poll * jitter
    return min(poll, WATCHED) * jitter


def _because(code: str) -> str:
    return f" ({code})" if code else ""


def _event(look: Look, kind: EventKind, what: str, before: str = "", after: str = "", *, stream: str = "") -> Event:
    return Event(kind=kind, at=look.at, stream=look.stream or stream, what=what, before=before, after=after)
