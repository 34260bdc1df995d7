"""Batches: what goes into one, what an answer to one means, and what never happens to the order of a row's changes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from aiohttp import web
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event
from hypothesis import given, settings
from hypothesis import strategies as st

from dsqlcdc.contract import Change, Setback, Verdict
from dsqlcdc.errors import Misconfigured, Unavailable
from dsqlcdc_webhook.answers import Answer
from dsqlcdc_webhook.batch import Unclear, failures

from .receiver import Script, change, local, raw_server, receiving, saying, webhook


def ids(changes: Sequence[Change]) -> list[str]:
    return [one.id.hex() for one in changes]


def telling(*named: Any, status: int = 207) -> Script:
    return saying(status, None, msgspec.json.encode({"failures": named}))


async def written(post: Script, changes: Sequence[Change], **options: Any) -> dict[int, Setback]:
    async with webhook(post=post, batch={}, **options) as sink:
        return {setback.index: setback for setback in await sink.write(changes)}


async def test_a_batch_is_an_array_of_the_events_that_would_go_alone() -> None:
    changes = [change(n, n) for n in range(1, 6)]
    async with receiving() as receiver:
        async with local(receiver.url) as sink:
            assert list(await sink.write(changes)) == []
        alone = [msgspec.json.decode(body) for _, body in receiver.requests]
        receiver.requests.clear()
        async with local(receiver.url, batch={}) as sink:
            assert list(await sink.write(changes)) == []
    ((headers, body),) = receiver.requests
    assert headers["Content-Type"].partition(";")[0] == "application/cloudevents-batch+json"
    events = msgspec.json.decode(body)
    assert sorted(events, key=lambda event: event["sequence"]) == sorted(alone, key=lambda event: event["sequence"])
    for event in events:
        read = from_structured_event(HTTPMessage({"content-type": "application/cloudevents+json"}, msgspec.json.encode(event)))
        assert read.get_id() in ids(changes)


async def test_the_id_of_a_batch_is_that_of_its_content() -> None:
    def sent(changes: Sequence[Change]) -> Any:
        post = Script()

        async def story() -> Any:
            assert await written(post, changes) == {}
            ((headers, body),) = post.sent
            return headers["webhook-id"], body

        return story()

    one, again = await sent([change(1), change(2)]), await sent([change(1), change(2)])
    assert one == again
    others = [await sent(c) for c in ([change(2), change(1)], [change(1)], [change(1), change(2), change(3)], [change(1), change(2, 2)])]
    assert len({one[0], *(other[0] for other in others)}) == 5
    assert not {one[0], *(other[0] for other in others)} & set(ids([change(1), change(2)]))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=60),
    st.integers(1, 8),
    st.integers(1, 6),
    st.lists(st.sampled_from(["in", "503", "item", "garbage", "413", "409"]), max_size=12),
)
def test_of_a_row_never_two_are_in_one_batch_or_in_flight_and_none_passes_one_that_did_not_go_in(
    keys: list[int], items: int, concurrency: int, script: list[str]
) -> None:
    """Whatever the answers: per row what went in, went in in order, and all of it went in or is a duplicate in the end."""
    order_is_kept(keys, items, concurrency, script)


def test_without_rows_apart_their_order_would_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr("dsqlcdc_webhook.rounds._rows", lambda changes: [deque([n]) for n in range(len(changes))])
    with pytest.raises(AssertionError):
        order_is_kept([1, 1, 1, 2], 1, 1, ["503"])
    with pytest.raises(ExceptionGroup):
        order_is_kept([1, 1], 2, 1, [])


def order_is_kept(keys: list[int], items: int, concurrency: int, script: list[str]) -> None:
    went_in: dict[str, list[str]] = {}
    answers = iter(script)

    async def answer(headers: Mapping[str, str], events: Any) -> Answer:
        said = next(answers, "in")
        assert len({event["subject"] for event in events}) == len(events)
        if said in ("503", "garbage"):
            return Answer(503) if said == "503" else Answer(200, None, b'{"failures": [')
        if said == "413" and len(events) > 1:
            return Answer(413)
        failed = [event["id"] for event in events[::2]] if said == "item" else []
        for event in events:
            if event["id"] not in failed:
                went_in.setdefault(event["subject"], []).append(event["sequence"])
        return Answer(409) if said == "409" else Answer(200, None, msgspec.json.encode({"failures": failed}))

    changes = [change(key, n + 1) for n, key in enumerate(keys)]

    async def story() -> None:
        post = Script(answer)
        async with webhook(post=post, batch={"max_items": items}, concurrency=concurrency) as sink:
            rest = changes
            for _ in range(100):
                try:
                    setbacks = await sink.write(rest)
                except Unavailable:
                    sink._endpoint._breaker.succeeded()  # not what is tested here
                    continue
                again = sorted(s.index for s in setbacks if s.verdict is Verdict.RETRY)
                rest = [rest[index] for index in again]
                if not rest:
                    break
                sink._endpoint._breaker.succeeded()
            assert not rest
        assert post.most_of_a_row == 1
        assert all(len(events) <= items for events in (msgspec.json.decode(body) for _, body in post.sent))

    asyncio.run(story())
    for sequences in went_in.values():
        assert sequences == sorted(sequences)
    assert sum(map(len, went_in.values())) == len(keys)


async def test_what_the_answer_names_did_not_go_in_and_the_rest_did() -> None:
    changes = [change(n) for n in range(8)]
    names = ids(changes)
    post = telling(
        names[0], {"id": names[1]}, {"id": names[2], "status": 422, "reason": "no such order"}, {"id": names[3], "status": 503},
        {"id": names[4], "status": 409}, {"id": names[5], "status": 201}, {"id": names[6], "status": 403, "reason": {"why": [1]}},
    )  # fmt: skip
    said = await written(post, changes)
    assert {n: (s.verdict, s.code) for n, s in said.items()} == {
        0: (Verdict.RETRY, "failed"),
        1: (Verdict.RETRY, "failed"),
        2: (Verdict.DEAD, "refused"),
        3: (Verdict.RETRY, "failed"),
        4: (Verdict.DUPLICATE, ""),
        6: (Verdict.DEAD, "refused"),  # of one event a 403 is no word about the endpoint: others went in
    }
    assert "no such order" in said[2].detail


@pytest.mark.parametrize("status", [200, 202, 207])
async def test_no_failures_are_named_where_all_went_in(status: int) -> None:
    assert await written(telling(status=status), [change(1), change(2)]) == {}


@pytest.mark.parametrize(
    ("status", "text", "clear"),
    [
        (200, b"", True), (200, b"OK", True), (200, b"<html>", True), (200, b'{"ok": true}', True), (200, b"[]", True), (204, b"", True),
        (207, b"", False), (207, b"OK", False), (207, b'{"ok": true}', False), (207, b"[]", False), (200, b'{"failures": ["', False),
        (200, b'{"failures": 3}', False), (200, b'{"failures": null}', False), (200, b'{"failures": [null]}', False),
        (200, b'{"failures": [{"status": 400}]}', False), (200, b'{"failures": [{"id": 7}]}', False), (200, b'{"failures": ["unknown"]}', False),
        (200, b'{"failures": [{"id": "unknown", "status": 422}]}', False), (200, b'{"failures": {}}', False), (200, b"{" * 100_000, False),
        (200, b'{"failures": ["\xff"]}', False), (200, b'{"failures": [' + b"[" * 50_000, False), (200, b'\n {"failures": [1]}', False),
    ],
)  # fmt: skip
async def test_an_answer_that_may_speak_of_failures_and_cannot_be_understood_settles_nothing(status: int, text: bytes, clear: bool) -> None:
    post = saying(status, None, text)
    if clear:
        assert await written(post, [change(1), change(2)]) == {}
        return
    with pytest.raises(Unavailable, match="its answer"):
        await written(post, [change(1), change(2)])


@pytest.mark.parametrize("entry", [lambda id: id, lambda id: {"id": id, "status": 422}])
def test_an_event_named_twice_or_with_a_status_that_is_none_is_not_clear(entry: Any) -> None:
    text = msgspec.json.encode({"failures": ["a", entry("a")]})
    with pytest.raises(Unclear):
        failures(Answer(200, None, text), ["a", "b"])
    for status in (0, 99, 600, -1, 10**30):
        with pytest.raises(Unclear):
            failures(Answer(200, None, msgspec.json.encode({"failures": [{"id": "a", "status": status}]})), ["a"])


@given(st.binary() | st.text().map(str.encode) | st.dictionaries(st.text(), st.text()).map(msgspec.json.encode))
def test_whatever_a_receiver_answers_is_understood_or_unclear(text: bytes) -> None:
    for status in (200, 207):
        try:
            assert set(failures(Answer(status, None, text), ["a"])) <= {"a"}
        except Unclear:
            pass


async def test_an_answer_that_breaks_off_settles_nothing() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"failures": []')
        await writer.drain()

    async with raw_server(talk) as url, local(url, batch={}) as sink:
        with pytest.raises(Unavailable, match="broke off"):
            await sink.write([change(1), change(2)])
    async with raw_server(talk) as url, local(url) as sink:  # the control: alone, the status says all
        assert list(await sink.write([change(1)])) == []


async def test_ten_thousand_named_failures_are_read() -> None:
    changes = [change(n) for n in range(10_000)]

    async def answer(request: web.Request) -> web.Response:
        named = [{"id": id, "reason": "x" * 100} for id in ids(changes)[1:]]
        return web.Response(status=207, body=msgspec.json.encode({"failures": named}))

    async with receiving() as receiver, local(receiver.url, batch={"max_items": 10_000, "max_bytes": "64MiB"}) as sink:
        receiver.answer = answer
        setbacks = await sink.write(changes)
    assert len(receiver.requests) == 1
    assert {s.index for s in setbacks if s.verdict is Verdict.RETRY} == set(range(1, 10_000))


@pytest.mark.parametrize("status", [400, 422, 302])
async def test_a_batch_that_is_refused_is_halved_until_the_one_at_fault_stands_alone(status: int) -> None:
    changes = [change(n) for n in range(100)]
    bad = ids(changes)[37]

    async def answer(headers: Mapping[str, str], events: Any) -> Answer:
        return Answer(status if any(event["id"] == bad for event in events) else 200)

    post = Script(answer)
    said = await written(post, changes)
    assert {n: s.verdict for n, s in said.items()} == {37: Verdict.DEAD}
    assert len(post.sent) <= 1 + 2 * 7


async def test_a_body_that_is_too_large_is_halved_and_its_size_is_remembered() -> None:
    most = 0

    async def answer(headers: Mapping[str, str], events: Any) -> Answer:
        nonlocal most
        size = len(msgspec.json.encode(events))
        most = max(most, size)
        return Answer(413 if size > 8000 else 200)

    post = Script(answer)
    async with webhook(post=post, batch={"max_items": 1000}, concurrency=1) as sink:
        assert list(await sink.write([change(n) for n in range(1000)])) == []
        before, refused = len(post.sent), most
        most = 0
        assert list(await sink.write([change(n, 2) for n in range(1000)])) == []
    assert refused > 100_000
    assert 4000 <= most <= 8000  # nothing is tried again that was refused, nor cut smaller than it must be
    assert len(post.sent) - before < 130


async def test_one_event_that_is_too_large_alone_is_dead_alone() -> None:
    async def answer(headers: Mapping[str, str], events: Any) -> Answer:
        return Answer(413 if len(msgspec.json.encode(events)) > 50_000 else 200)

    changes = [change(n, row={"note": "x" * (100_000 if n == 5 else 10)}) for n in range(20)]
    said = await written(Script(answer), changes)
    assert {n: (s.verdict, s.code) for n, s in said.items()} == {5: (Verdict.DEAD, "too_large")}


async def test_no_body_is_larger_than_told_but_one_of_a_single_event() -> None:
    post = Script()
    changes = [change(n, row={"note": "x" * (n * 37 % 3000)}) for n in range(200)]
    assert await written(post, changes, **{"concurrency": 2}) == {}
    assert len(post.sent) == 2
    post.sent.clear()
    async with webhook(post=post, batch={"max_items": 50, "max_bytes": "2KiB"}) as sink:
        assert list(await sink.write(changes)) == []
    sizes = [(len(msgspec.json.decode(body)), len(body)) for _, body in post.sent]
    assert all(size <= 2048 for count, size in sizes if count > 1)
    assert any(size > 2048 for count, size in sizes if count == 1)
    assert sum(count for count, _ in sizes) == 200


async def test_a_change_that_cannot_be_written_is_left_out_and_is_dead() -> None:
    post = Script()
    changes = [change(1), msgspec.structs.replace(change(2), version=10**21), change(3)]
    said = await written(post, changes)
    assert {n: (s.verdict, s.code) for n, s in said.items()} == {1: (Verdict.DEAD, "bad_row")}
    assert len(post.events) == 2


@pytest.mark.parametrize("status", [401, 403, 410])
async def test_an_answer_about_the_endpoint_stops_the_sink(status: int) -> None:
    with pytest.raises(Misconfigured, match=str(status)):
        await written(saying(status), [change(1), change(2)])


async def test_what_lingers_is_what_the_config_says() -> None:
    sink = webhook(batch={"linger": "3s", "max_items": 10}, concurrency=4)
    assert (sink.batching.age, sink.batching.records) == (3.0, 40)
    assert webhook().batching.age == 0.05


async def test_secrets_that_a_failure_echoes_are_not_told() -> None:
    one = change(1)

    async def echo(headers: Mapping[str, str], events: Any) -> Answer:
        reason = f"bad {headers['webhook-signature']}"
        return Answer(207, None, msgspec.json.encode({"failures": [{"id": one.id.hex(), "status": 400, "reason": reason}]}))

    said = await written(Script(echo), [one])
    assert said[0].detail.endswith("bad ***")
