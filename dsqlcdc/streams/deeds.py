"""What was done about a CDC stream, kept so that nobody repeats it blindly: limits by what was done, and the lease of whoever acts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal

import msgspec

from dsqlcdc.core.ports import CheckpointStore, Commit, Name
from dsqlcdc.streams.desired import Desired
from dsqlcdc.streams.facts import Action, Kind
from dsqlcdc.streams.remedies import moment

ACTING = ".stream-manager"
"""Reserved in place of a sink's name: held by whoever acts, so that two processes do not fight; its word is the journal."""
DAY = 86_400.0
KEPT_DEEDS = 40
"""Deeds that the journal holds: more than a day's limits allow."""
TRIES = 2
"""The same action is done so often while the stream does not get well in between. What did not help twice will not help."""

Result = Literal["begun", "done", "failed"]
Lease = Callable[[], AbstractAsyncContextManager[CheckpointStore]]
"""Holds the lease while it is entered, and gives the store that the journal is in. Raises Held on entering."""


class Deed(msgspec.Struct, frozen=True, kw_only=True):
    """One action. `at`: seconds since the epoch. `begun` stays where the process died in the middle. `why`: of one that failed."""

    at: float
    error: str
    kind: Kind
    what: str
    before: Any = None
    after: Any = None
    result: Result = "begun"
    why: str = ""


class Limit(msgspec.Struct, frozen=True):
    """At most `a_day` in 24 hours, `apart` seconds from each other."""

    apart: float
    a_day: int


LIMITS: Mapping[Kind, Limit] = {
    "record_size": Limit(600.0, 3),
    "shards": Limit(900.0, 4),
    "on_demand": Limit(43_200.0, 1),
    "trust": Limit(900.0, 3),
    "role": Limit(900.0, 3),
    "policy": Limit(900.0, 3),
    "recreate": Limit(1800.0, 3),
}
"""AWS allows 10 changes of the number of shards in 24 hours and two of the mode: half is left to people."""


_DOCUMENTS: Sequence[Kind] = ("trust", "policy")
"""What is limited by the reason and the document that is put: one that mends another reason is another action."""


def refusal(deeds: Sequence[Deed], action: Action, now: float, *, error: str = "", well_since: float = 0.0) -> str:
    """Why an action is not to be done now; "" where it may be. `error`: the statusReason it is for. `well_since`: when the stream was last
    seen ACTIVE (seconds)."""
    limit = LIMITS.get(action.kind)
    if limit is None:
        return "it is for people"
    same = [deed for deed in deeds if deed.kind == action.kind]
    if action.kind in _DOCUMENTS:
        same = [deed for deed in same if (deed.error, deed.after) == (error, action.after)]
    if same and now - same[-1].at < limit.apart:
        return f"it was done at {moment(same[-1].at)}, and is not repeated within {limit.apart:.0f} s"
    if sum(now - deed.at < DAY for deed in same) >= limit.a_day:
        return f"it was done {limit.a_day} times in 24 hours"
    if sum(deed.at > well_since and deed.after == action.after for deed in same) >= TRIES:
        return f"it was done {TRIES} times and did not help"
    return ""


def acting_name(desired: Desired) -> Name:
    return Name(desired.pipeline, ACTING, f"{desired.cluster}/{desired.target.name}")


async def read_deeds(store: CheckpointStore, desired: Desired) -> list[Deed]:
    """The journal, oldest first. Raises what the store raises."""
    stored = await store.load(acting_name(desired))
    return msgspec.json.decode(stored.word, type=list[Deed]) if stored is not None and stored.word else []


async def write_deeds(store: CheckpointStore, desired: Desired, deeds: Sequence[Deed]) -> None:
    """Replace the journal, durably. For whoever holds the lease."""
    await store.commit(acting_name(desired), Commit({}, word=msgspec.json.encode(list(deeds[-KEPT_DEEDS:]))))
