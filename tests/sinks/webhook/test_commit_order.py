"""Order commit: one request at a time, in the order given, and none past what did not go in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from dsqlcdc.contract import Context, Verdict
from dsqlcdc_webhook.answers import Answer

from .receiver import Script, change, webhook

COMMIT = Context("p", "hook", order="commit")


@pytest.mark.parametrize("options", [{}, {"batch": {"max_items": 10}}])
async def test_requests_go_one_at_a_time_in_the_order_given(options: Mapping[str, Any]) -> None:
    script = Script()
    async with webhook(post=script, context=COMMIT, concurrency=8, **options) as sink:
        assert list(await sink.write([change(n % 3, n) for n in range(12)])) == []
    assert [int(event["data"]["version"]) % 100 for event in script.events] == list(range(12))
    assert script.most == 1


async def test_nothing_passes_what_did_not_go_in() -> None:
    async def answer(headers: Mapping[str, str], event: Any) -> Answer:
        return Answer(503 if event["subject"].endswith("/3") else 204)

    script = Script(answer)
    async with webhook(post=script, context=COMMIT, concurrency=8) as sink:
        setbacks = await sink.write([change(n, n) for n in range(6)])
    assert sorted(setback.index for setback in setbacks) == [3, 4, 5]
    assert {setback.verdict for setback in setbacks} == {Verdict.RETRY}
    assert [event["subject"][-1] for event in script.events] == ["0", "1", "2", "3"]


async def test_a_late_change_says_so_and_no_other_does() -> None:
    script = Script()
    async with webhook(post=script, context=COMMIT) as sink:
        await sink.write([change(1, 1), msgspec.structs.replace(change(2, 2), late=True)])
    assert [event["data"].get("late") for event in script.events] == [None, True]
