"""The formats that a receiver may be sent: read back by CloudEvents, verified by Standard Webhooks, byte for byte."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_binary_event, from_structured_event
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from standardwebhooks import Webhook

from dsqlcdc.contract import Change, Op, Verdict
from dsqlcdc_webhook.event import headers as binary_headers

from .receiver import NOON, SECRET, Request, change, local, receiving, saying, webhook

FORMATS = ("cloudevents", "cloudevents_binary", "raw")


async def sent(one: Change, format: str) -> Request:
    async with receiving() as receiver, local(receiver.url, format=format) as sink:
        assert list(await sink.write([one])) == []
    (request,) = receiver.requests
    return request


@pytest.mark.parametrize("format", FORMATS)
async def test_the_signature_is_of_the_exact_bytes_in_every_format(format: str) -> None:
    import time

    now = time.time()
    async with receiving() as receiver, local(receiver.url, format=format, clock=lambda: now) as sink:
        one = change("ü %\n", 3, row={"note": "x" * 100})
        assert list(await sink.write([one])) == []
    ((headers, body),) = receiver.requests
    read = {name.lower(): value for name, value in headers.items()}
    Webhook(SECRET).verify(body, read)
    assert read["webhook-id"] == one.id.hex()


@pytest.mark.parametrize("op", list(Op))
async def test_binary_mode_is_read_back_as_the_same_event_as_structured(op: Op) -> None:
    one = change('a b%/ü"€', 123_456_789, op=op)
    events = []
    for format, read in (("cloudevents", from_structured_event), ("cloudevents_binary", from_binary_event)):
        headers, body = await sent(one, format)
        kept = {name: value for name, value in headers.items() if name.lower().startswith("ce-")} | {
            "content-type": headers["Content-Type"]
        }
        events.append(read(HTTPMessage(kept, body)))
    structured, binary = events
    assert binary.get_attributes() == structured.get_attributes()
    assert binary.get_data() == structured.get_data()
    assert binary.get_time() == datetime.fromtimestamp(NOON, UTC).replace(microsecond=123456)
    assert binary.get_extension("sequence") == f"{one.version:020d}"


@given(st.text(min_size=1))
def test_an_attribute_comes_back_from_its_header_whatever_is_in_it(text: str) -> None:
    one = change(text)
    made = binary_headers(one, dataref=f"s3://b/{text}") if text.isprintable() and text.isascii() else binary_headers(one)
    assert all(0x20 < ord(character) < 0x7F and character != '"' for value in made.values() for character in value)
    read = from_binary_event(HTTPMessage(dict(made), b"{}"))
    plain = webhook_subject(one)
    assert read.get_subject() == plain
    if "ce-dataref" in made:
        assert read.get_extension("dataref") == f"s3://b/{text}"


def webhook_subject(one: Change) -> str:
    from dsqlcdc_webhook.event import event

    subject: str = msgspec.json.decode(event(one))["subject"]
    return subject


async def test_raw_is_the_record_exactly_as_received() -> None:
    one = change(7, row={"b": 1.50, "a": "ü"})
    headers, body = await sent(one, "raw")
    assert body == one.raw
    assert headers["Content-Type"] == "application/json"
    assert not any(name.lower().startswith("ce-") for name in headers)


async def test_raw_of_an_oversized_row_is_its_main_record_and_the_texts_that_were_cut() -> None:
    one = msgspec.structs.replace(change(7), assembled={"after": b'{"id": 7,  "n": 1.0}'})
    _, body = await sent(one, "raw")
    assert msgspec.json.decode(body) == {"main": one.raw.decode(), "after": '{"id": 7,  "n": 1.0}'}


async def test_raw_of_a_masked_change_is_dead_and_not_an_empty_request() -> None:
    post = saying(204)
    async with webhook(post=post, format="raw") as sink:
        (setback,) = await sink.write([msgspec.structs.replace(change(), raw=b"")])
    assert (setback.verdict, setback.code) == (Verdict.DEAD, "bad_row")
    assert post.sent == []


@pytest.mark.parametrize(
    "options",
    [
        {"format": "raw", "claim_check": {"bucket": "my-claims"}},
        {"format": "raw", "batch": {}},
        {"format": "cloudevents_binary", "batch": {}},
        {"format": "standard"},
        {"batch": {"max_items": 0}},
        {"batch": {"size": 3}},
        {"claim_check": {"bucket": "my-claims", "expires": "169h"}},
        {"claim_check": {"bucket": "My_Claims"}},
        {"claim_check": {}},
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        webhook(**options)
