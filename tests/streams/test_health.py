"""Health: nothing is told twice, nothing is kept quiet, and the countdown never starts late."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.streams import health as module
from dsqlcdc.streams.health import GONE, Event, Health, Look, pause, see
from dsqlcdc.streams.observed import CODES, Reason
from dsqlcdc.streams.remedies import KEPT

from .scenes import NOW

STATUSES = ("CREATING", "ACTIVE", "IMPAIRED", "FAILED", "DELETING", "SOMETHING_NEW")
OF_STATUS = {"found", "creating", "active", "impaired", "mended", "failed", "deleting", "gone", "status"}
Step = Callable[[Health, Look], tuple[Health, Sequence[Event]]]


def look(status: str, at: float = NOW, code: str = "", *, stream: str = "one", updated: float = 0.0, lag: float | None = None) -> Look:
    return Look(
        at=at, status=status, stream="" if status in ("", GONE) else stream, reason=Reason(code, updated or at) if code else None, lag=lag
    )


def silence(at: float = NOW, refused: module.Refusal = "", after: float = 0.0) -> Look:
    return Look(at=at, status="", fault="DSQLCDC-E120 no answer", refused=refused, after=after)


@st.composite
def histories(draw: st.DrawFn) -> list[Look]:
    at, made = NOW, list[Look]()
    for _ in range(draw(st.integers(1, 25))):
        at += draw(st.sampled_from([1.0, 60.0, 3600.0, 86_400.0]))
        status = draw(st.sampled_from([*STATUSES, "ACTIVE", "IMPAIRED", "", GONE]))
        if status == "":
            made.append(silence(at, draw(st.sampled_from(["", "denied", "throttled"]))))
            continue
        code = draw(st.sampled_from(CODES)) if status in ("IMPAIRED", "FAILED") else ""
        updated = at - draw(st.sampled_from([0.0, 5.0, 7200.0]))
        made.append(look(status, at, code, stream=draw(st.sampled_from(["one", "one", "one", "two"])), updated=updated))
    return made


def tell(history: Sequence[Look], step: Step = see) -> tuple[Health, list[Event]]:
    health, events = Health(), list[Event]()
    for one in history:
        health, more = step(health, one)
        events += more
    return health, events


def statuses_told(history: Sequence[Look], step: Step) -> bool:
    """The events, in their order, name every status the stream was seen to take, and no other."""
    seen: list[tuple[str, str]] = []
    for one in history:
        if one.status and (not seen or seen[-1] != (one.stream or seen[-1][0], one.status)):
            seen.append((one.stream or (seen[-1][0] if seen else ""), one.status))
    told = [event.after for event in tell(history, step)[1] if event.kind in OF_STATUS]
    return told == [status for _, status in seen]


@given(histories())
def test_every_change_of_status_is_told_once(history: list[Look]) -> None:
    assert statuses_told(history, see)


def forgetful(health: Health, one: Look) -> tuple[Health, Sequence[Event]]:
    """Mutant: a look without an answer is forgotten about, with all that was known."""
    return (Health(unanswered=1), ()) if not one.status else see(health, one)


def deaf(health: Health, one: Look) -> tuple[Health, Sequence[Event]]:
    """Mutant: another stream is taken for the same."""
    return see(health, msgspec.structs.replace(one, stream="one" if one.stream else ""))


@pytest.mark.parametrize("mutant", [forgetful, deaf])
def test_a_machine_that_forgets_or_mistakes_is_found(mutant: Step) -> None:
    """Control."""
    history = [look("IMPAIRED", NOW, "INTERNAL_ERROR"), silence(NOW + 1), look("IMPAIRED", NOW + 2, "INTERNAL_ERROR")]
    other = [look("ACTIVE"), look("ACTIVE", NOW + 1, stream="two")]
    assert not (statuses_told(history, mutant) and statuses_told(other, mutant))


@given(histories())
def test_the_same_look_again_tells_nothing(history: list[Look]) -> None:
    health, _ = tell(history)
    assert list(see(health, history[-1])[1]) == []


def countdown_holds(history: Sequence[Look], step: Step) -> bool:
    """While IMPAIRED the countdown never moves later, and never starts after the first look that saw it so, nor after the service's word."""
    health, until, first = Health(), 0.0, 0.0
    for one in history:
        if one.status and (one.status != "IMPAIRED" or (health.stream and one.stream != health.stream)):
            until, first = 0.0, 0.0
        health, _ = step(health, one)
        if one.status == "IMPAIRED":
            assert one.reason is not None
            first = first or min(one.at, one.reason.updated_at)
            if not health.kept_until or health.kept_until > first + KEPT or (until and health.kept_until > until):
                return False
            until = health.kept_until
        elif one.status and health.kept_until:
            return False
    return True


@given(histories())
def test_the_countdown_never_starts_late_and_never_starts_anew_while_impaired(history: list[Look]) -> None:
    assert countdown_holds(history, see)


def renewing(health: Health, one: Look) -> tuple[Health, Sequence[Event]]:
    """Mutant: a new reason starts the week anew."""
    if one.reason is not None and one.reason.error != health.code:
        health = msgspec.structs.replace(health, broken_since=0.0)
    return see(health, one)


def test_a_countdown_that_a_new_reason_starts_anew_is_found() -> None:
    """Control."""
    history = [look("IMPAIRED", NOW, "INTERNAL_ERROR"), look("IMPAIRED", NOW + 9000, "ROLE_ACCESS_DENIED")]
    assert not countdown_holds(history, renewing)


@given(histories())
def test_the_last_moment_known_healthy_is_the_last_look_that_saw_this_stream_active(history: list[Look]) -> None:
    health, _ = tell(history)
    answered = [one for one in history if one.status]
    since = 0
    for place in range(1, len(answered)):
        before = [one.stream for one in answered[:place] if one.stream]
        if answered[place].stream and before and before[-1] != answered[place].stream:
            since = place
    active = [one.at for one in answered[since:] if one.status == "ACTIVE"]
    assert health.healthy_at == (active[-1] if active else 0.0)


def test_leaving_impaired_is_told_as_mended() -> None:
    history = [look("ACTIVE"), look("IMPAIRED", NOW + 1, "ROLE_ACCESS_DENIED"), look("ACTIVE", NOW + 2)]
    health, events = tell(history)
    assert [event.kind for event in events] == ["found", "impaired", "mended"]
    assert (health.broken_since, health.kept_until) == (0.0, 0.0)
    assert [event.level for event in events] == ["info", "error", "info"]


def test_a_new_reason_is_told_with_the_old_one() -> None:
    history = [look("IMPAIRED", NOW, "ROLE_ACCESS_DENIED"), look("IMPAIRED", NOW + 1, "KINESIS_ACCESS_DENIED", updated=NOW)]
    last = tell(history)[1][-1]
    assert (last.kind, last.before, last.after) == ("reason", "ROLE_ACCESS_DENIED", "KINESIS_ACCESS_DENIED")


def test_the_countdown_is_said_a_few_times_and_not_at_every_look() -> None:
    history = [look("IMPAIRED", NOW + 600.0 * n, "INTERNAL_ERROR", updated=NOW) for n in range(8 * 144)]
    told = [event for event in tell(history)[1] if event.kind == "countdown"]
    assert len(told) == len(module.REMINDERS)
    assert "over" in told[-1].what


def test_another_stream_in_its_place_is_told_with_both() -> None:
    events = tell([look("FAILED", NOW, "INTERNAL_ERROR"), look(GONE, NOW + 1), look("ACTIVE", NOW + 9, stream="two")])[1]
    assert [(event.kind, event.before, event.after) for event in events] == [
        ("failed", "", "FAILED"),
        ("gone", "FAILED", GONE),
        ("replaced", "one", "two"),
        ("found", "", "ACTIVE"),
    ]


def test_silence_is_said_once_and_its_end_too() -> None:
    history = [
        look("ACTIVE"),
        silence(NOW + 1),
        silence(NOW + 2),
        silence(NOW + 3, "denied"),
        silence(NOW + 4, "denied"),
        look("ACTIVE", NOW + 5),
    ]
    assert [event.kind for event in tell(history)[1]] == ["found", "unanswered", "denied", "answered"]


def test_lag_of_a_stream_that_is_active_is_said_when_it_comes_and_when_it_goes() -> None:
    lags = [10.0, 1000.0, 1200.0, 500.0, 100.0, None]
    events = tell([look("ACTIVE", NOW + n, lag=lag) for n, lag in enumerate(lags)])[1]
    assert [event.kind for event in events] == ["found", "lagging", "caught_up"]


def test_a_lag_that_nobody_knows_is_not_one_that_is_over() -> None:
    health, events = tell([look("ACTIVE", NOW, lag=1000.0), look("ACTIVE", NOW + 60), look("ACTIVE", NOW + 120)])
    assert [event.kind for event in events] == ["found", "lagging"]
    assert health.lagging


def test_what_an_active_stream_still_owes_is_before_the_moment_it_was_well() -> None:
    health, _ = tell([look("ACTIVE", NOW, lag=1000.0)])
    assert (health.healthy_at, health.active_at) == (NOW - 1000.0, NOW)


def test_what_has_waited_longest_counts_the_week() -> None:
    health, _ = tell([look("IMPAIRED", NOW, "INTERNAL_ERROR", lag=86_400.0)])
    assert health.kept_until == NOW - 86_400.0 + KEPT


@given(histories(), st.floats(1.0, 3600.0), st.floats(0.0, 0.999))
def test_pauses_stay_within_their_bounds(history: list[Look], poll: float, random: float) -> None:
    health, _ = tell(history)
    wait = pause(health, poll, lambda: random)
    assert wait >= min(poll, module.SOON) * 0.8
    if not health.unanswered:
        assert wait <= poll
    else:
        assert wait <= max(poll, 900.0)


def test_looks_come_faster_while_it_is_not_active() -> None:
    active, impaired, creating = (pause(Health(status=s), 60.0, lambda: 0.0) for s in ("ACTIVE", "IMPAIRED", "CREATING"))
    assert creating < impaired < active == 60.0


def test_throttling_makes_looks_rarer_and_the_services_word_counts() -> None:
    history = [look("ACTIVE"), *(silence(NOW + n, "throttled") for n in range(1, 8))]
    waits = [pause(tell(history[: n + 1])[0], 60.0, lambda: 0.0) for n in range(1, 8)]
    assert waits == sorted(waits)
    assert waits[0] >= 60.0
    assert waits[-1] == 900.0
    asked, _ = see(Health(), silence(NOW, "throttled", after=5000.0))
    assert pause(asked, 60.0, lambda: 0.0) == 5000.0


def test_an_answer_ends_the_backing_off() -> None:
    health, _ = tell([look("ACTIVE"), *(silence(NOW + n, "throttled") for n in range(1, 8)), look("ACTIVE", NOW + 9)])
    assert pause(health, 60.0, lambda: 0.0) == 60.0


def test_what_takes_longer_than_it_should_is_told_once_for_each_reason() -> None:
    history = [look("IMPAIRED", NOW + 600.0 * n, "ROLE_ACCESS_DENIED", updated=NOW) for n in range(8)]
    history += [look("IMPAIRED", NOW + 4800.0 + n, "INTERNAL_ERROR", updated=NOW) for n in range(3)]
    assert [event.at - NOW for event in tell(history)[1] if event.kind == "escalate"] == [1800.0, 4800.0]
