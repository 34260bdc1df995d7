"""The failure table, row by row, and what must never be seen of secrets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import pytest

from dsqlcdc.contract import Setback, Verdict
from dsqlcdc.errors import Misconfigured, Unavailable
from dsqlcdc.testing import virtual
from dsqlcdc_webhook.answers import Answer, retry_after
from dsqlcdc_webhook.post import NoAnswer

from .receiver import NOON, SECRET, Script, change, saying, until_it_stops, webhook


async def verdict(status: int, retry_after: str | None = None, text: bytes = b"") -> Setback | None:
    async with webhook(post=saying(status, retry_after, text)) as sink:
        setbacks = await sink.write([change()])
    return setbacks[0] if setbacks else None


@pytest.mark.parametrize("status", [200, 201, 202, 204, 208, 299])
async def test_2xx_is_in(status: int) -> None:
    assert await verdict(status) is None


@pytest.mark.parametrize(
    ("status", "code"), [(400, "refused"), (415, "refused"), (422, "refused"), (413, "too_large"), (302, "redirect"), (308, "redirect")]
)
async def test_an_answer_about_the_record_is_dead(status: int, code: str) -> None:
    setback = await verdict(status, text=b"no\x00 thanks")
    assert setback is not None
    assert (setback.verdict, setback.code) == (Verdict.DEAD, code)
    assert setback.detail.endswith("no  thanks")


async def test_409_is_a_duplicate() -> None:
    assert await verdict(409) == Setback(0, Verdict.DUPLICATE)


@pytest.mark.parametrize("status", [401, 403, 410])
async def test_an_answer_about_the_endpoint_stops_the_sink(status: int) -> None:
    with pytest.raises(Misconfigured, match=str(status)) as raised:
        await verdict(status)
    assert ("url is changed" in raised.value.run) is (status == 410)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 599])
async def test_an_outage_is_backpressure(status: int) -> None:
    with pytest.raises(Unavailable, match=str(status)):
        await verdict(status)


@pytest.mark.parametrize(
    ("text", "wait"),
    [
        ("7", 7.0), (" 7 ", 7.0), ("0", 0.0), ("99999999999999999999", 3600.0), ("Fri, 15 Jan 2027 08:01:00 GMT", 60.0),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0), ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0), ("-1", None), ("soon", None), ("", None),
        (None, None), ("1e9", None), ("٣", None), ("Fri, 99 Jan 2027", None), ("\x00" * 9000, None), ("nan", None),
    ],
)  # fmt: skip
def test_retry_after_is_read_and_clamped(text: str | None, wait: float | None) -> None:
    assert retry_after(text, float(NOON)) == wait


def test_the_wait_that_was_asked_for_is_kept() -> None:
    async def story() -> None:
        post = saying(503, "40")
        async with webhook(post=post) as sink:
            with pytest.raises(Unavailable) as raised:
                await sink.write([change(n) for n in range(100)])
            assert raised.value.after == pytest.approx(40)
            sent = len(post.sent)
            assert sent <= 16  # nothing new was begun
            with pytest.raises(Unavailable):
                await sink.write([change()])
            assert len(post.sent) == sent
            await asyncio.sleep(41)
            with pytest.raises(Unavailable):
                await sink.write([change()])
            assert len(post.sent) == sent + 1

    virtual.run(story())


@pytest.mark.parametrize("status", [404, 405])
def test_a_missing_receiver_is_waited_for_a_minute(status: int) -> None:
    async def story() -> None:
        async with webhook(post=saying(status)) as sink:
            for _ in range(3):
                with pytest.raises(Unavailable):
                    await sink.write([change()])
                await asyncio.sleep(25)
            with pytest.raises(Misconfigured, match=str(status)):
                await sink.write([change()])

    virtual.run(story())


def test_a_certificate_is_waited_for_ten_minutes() -> None:
    async def refuse(headers: Mapping[str, str], event: Any) -> Answer:
        raise NoAnswer("expired", untrusted=True)

    async def story() -> float:
        async with webhook(post=Script(refuse)) as sink:
            with pytest.raises(Misconfigured, match="expired"):
                await until_it_stops(sink)
            return asyncio.get_running_loop().time()

    assert 600 < virtual.run(story()) < 1500


async def test_what_went_in_is_settled_before_the_sink_stops() -> None:
    async def answer(headers: Mapping[str, str], event: Any) -> Answer:
        return Answer(200 if event["data"]["key"]["id"] < 2 else 403)

    post = Script(answer)
    async with webhook(post=post, concurrency=1) as sink:
        setbacks = await sink.write([change(n) for n in range(4)])
        assert [(s.index, s.verdict) for s in setbacks] == [(2, Verdict.RETRY), (3, Verdict.RETRY)]
        with pytest.raises(Misconfigured, match="403"):
            await sink.write([change(2), change(3)])
    assert len(post.sent) == 3


async def test_of_one_row_never_two_are_in_flight_and_none_passes_one_that_did_not_go_in() -> None:
    async def answer(headers: Mapping[str, str], event: Any) -> Answer:
        for _ in range(event["data"]["key"]["id"] % 5):
            await asyncio.sleep(0)
        bad = event["data"]["key"]["id"] == 3 and event["data"]["row"]["n"] == 4
        return Answer(500 if bad else 200)

    post = Script(answer)
    changes = [change(n % 20, n + 1, row={"n": n // 20}) for n in range(256)]
    async with webhook(post=post, concurrency=64) as sink:
        setbacks = await sink.write(changes)
    assert post.most_of_a_row == 1
    assert post.most > 8
    behind = [n for n, c in enumerate(changes) if c.key == {"id": 3} and n // 20 >= 4]
    assert sorted(s.index for s in setbacks) == behind
    assert {s.verdict for s in setbacks} == {Verdict.RETRY}
    for key in range(20):
        seen = [e["sequence"] for e in post.events if e["data"]["key"]["id"] == key]
        assert seen == sorted(seen)


async def test_concurrency_shrinks_when_the_receiver_is_overloaded_and_grows_again() -> None:
    calm = False

    async def answer(headers: Mapping[str, str], event: Any) -> Answer:
        return Answer(200 if calm or post.now <= 4 else 429)

    post = Script(answer)
    async with webhook(post=post, concurrency=32) as sink:
        rest = [change(n) for n in range(256)]
        while rest:
            setbacks = await sink.write(rest)
            assert {s.verdict for s in setbacks} <= {Verdict.RETRY}
            rest = [rest[s.index] for s in setbacks]
            sink._endpoint._breaker.succeeded()  # not what is tested here
        assert sink._endpoint._window.size <= 8
        calm, post.most = True, 0
        for _ in range(8):
            assert list(await sink.write([change(n) for n in range(256)])) == []
        assert post.most == 32


async def test_secrets_are_in_no_error_log_dead_letter_or_repr(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = "Bearer t0ps3cret"

    async def echo(headers: Mapping[str, str], event: Any) -> Answer:
        return Answer(400, None, f"{SECRET} {SECRET[6:]} {token} {headers['webhook-signature']}".encode())

    async with webhook(post=Script(echo), headers={"Authorization": token}) as sink:
        (setback,) = await sink.write([change()])
    assert "***" in setback.detail
    text = f"{setback} {caplog.text} {sink._options!r} {vars(sink)['_options']}"
    for hidden in (SECRET[6:], "t0ps3cret", "v1,"):
        assert hidden not in text
