"""Patience and backoff: asked again with jitter, for as long as somebody allows."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.core.backoff import Backoff
from dsqlcdc.core.patience import Patience
from dsqlcdc.errors import Misconfigured, Stopped, Unavailable
from dsqlcdc.testing import virtual


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_wait_is_within_its_ceiling_and_the_ceiling_grows_to_the_cap(attempt: int, jitter: float) -> None:
    backoff = Backoff(0.1, 30.0)
    assert 0 <= backoff.delay(attempt, lambda: jitter) <= backoff.ceiling(attempt) <= backoff.ceiling(attempt + 1) <= 30.0


def _asked(patience: Patience, errors: list[Exception], *, took: float = 0.0) -> tuple[object, list[float]]:
    times: list[float] = []

    async def call() -> str:
        times.append(asyncio.get_running_loop().time())
        await asyncio.sleep(took)
        if errors:
            raise errors.pop(0)
        return "answer"

    async def work() -> object:
        try:
            return await patience.ask(call)
        except Stopped as error:
            return error

    return virtual.run(work()), times


def test_what_is_unavailable_is_asked_until_it_answers_and_each_failure_is_counted() -> None:
    seen: list[str] = []
    patience = Patience(Backoff(1.0, 4.0), lambda: 0.5, noticed=seen.append)
    answer, times = _asked(patience, [Unavailable("x", code="E900") for _ in range(4)])
    assert answer == "answer"
    assert times == [0.0, 0.5, 1.5, 3.5, 5.5]
    assert seen == ["E900"] * 4


def test_the_other_side_may_ask_for_a_longer_wait_but_not_for_a_shorter_one() -> None:
    patience = Patience(Backoff(2.0, 4.0), lambda: 0.5)
    _, times = _asked(patience, [Unavailable("x", after=60.0), Unavailable("x", after=0.1)])
    assert times == [0.0, 60.0, 62.0]


def test_a_deadline_counts_unbroken_failure_and_says_the_last_reason() -> None:
    patience = Patience(Backoff(10.0, 10.0), lambda: 0.9, deadline=60.0)
    error, times = _asked(patience, [Unavailable("the store cannot be reached", why=f"reason {n}") for n in range(100)])
    assert isinstance(error, Stopped)
    assert not isinstance(error, Misconfigured)
    assert error.what == "the store cannot be reached"
    assert f"reason {len(times) - 1}" in error.why
    assert times[-1] == 60.0
    assert "not reached for 60 s, all that --deadline allows" in error.why
    assert error.run == "dsqlcdc doctor CONFIG"


def test_a_pause_longer_than_the_deadline_is_cut_to_it_and_the_last_attempt_is_made_at_its_end() -> None:
    patience = Patience(Backoff(1.0, 1.0), lambda: 0.5, deadline=10.0)
    error, times = _asked(patience, [Unavailable("x", after=60.0, run="dsqlcdc status CONFIG") for _ in range(2)])
    assert isinstance(error, Stopped)
    assert (times, error.run) == ([0.0, 10.0], "dsqlcdc status CONFIG")
    answer, times = _asked(patience, [Unavailable("x", after=60.0)])
    assert (answer, times) == ("answer", [0.0, 10.0])


def test_other_errors_pass_at_once() -> None:
    fault = Misconfigured("access denied")
    error, times = _asked(Patience(Backoff(), lambda: 0.5), [fault])
    assert error is fault
    assert times == [0.0]
