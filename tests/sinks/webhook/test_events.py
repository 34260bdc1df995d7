"""What a receiver gets: events that CloudEvents reads, signatures that Standard Webhooks verifies."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import msgspec
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from dsqlcdc.contract import Change, Op
from dsqlcdc_webhook.event import event, subject
from dsqlcdc_webhook.parcel import Made, Parcel
from dsqlcdc_webhook.sign import secret_key

from .receiver import NOON, OTHER, SECRET, Script, change, local, receiving, saying, webhook


async def test_the_body_is_a_cloud_event_with_the_promised_names() -> None:
    async with receiving() as receiver, local(receiver.url) as sink:
        one = change(7, 123_456_789, row={"note": "ü\n", "price": "9.50"})
        assert list(await sink.write([one])) == []
    ((headers, body),) = receiver.requests
    assert msgspec.json.decode(body) == {
        "specversion": "1.0",
        "id": one.id.hex(),
        "source": "dsql://c1",
        "type": "dsqlcdc.row.insert",
        "subject": "public.orders/7",
        "time": "2027-01-15T08:00:00.123456789Z",
        "datacontenttype": "application/json",
        "sequence": f"{one.version:020d}",
        "data": {
            "op": "insert",
            "schema": "public",
            "table": "orders",
            "key": {"id": 7},
            "row": {"id": 7, "note": "ü\n", "price": "9.50"},
            "version": str(one.version),
            "transaction": one.transaction,
        },
    }
    read = from_structured_event(HTTPMessage({"content-type": headers["Content-Type"]}, body))
    assert (read.get_id(), read.get_source(), read.get_type()) == (one.id.hex(), "dsql://c1", "dsqlcdc.row.insert")
    assert read.get_time() == datetime.fromtimestamp(NOON, UTC).replace(microsecond=123456)
    assert headers["webhook-id"] == one.id.hex()


@pytest.mark.parametrize("op", list(Op))
def test_every_op_has_its_type(op: Op) -> None:
    made = msgspec.json.decode(event(change(1, op=op)))
    assert (made["type"], made["data"]["op"]) == (f"dsqlcdc.row.{op.word}", op.word)
    assert (made["data"]["row"] is None) == (op is Op.DELETE)


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_two_keys_never_have_one_subject(one: tuple[str, str], two: tuple[str, str]) -> None:
    subjects = [subject(change(1, table="public.pairs", row={"a": a, "b": b})) for a, b in (one, two)]
    assert (subjects[0] == subjects[1]) == (one == two)


def test_without_a_key_the_subject_is_the_table() -> None:
    assert subject(change(1, table="app.x y")) == "app.x%20y"


async def test_every_active_secret_signs_and_each_attempt_anew() -> None:
    now = time.time()
    post = saying(503)
    async with webhook(post=post, clock=lambda: now + len(post.sent), secrets=[OTHER, SECRET]) as sink:
        for _ in range(2):
            with pytest.raises(Exception, match="503"):
                await sink.write([change()])
    (first, body), (second, again) = post.sent
    assert body == again
    assert first["webhook-id"] == second["webhook-id"]
    assert int(second["webhook-timestamp"]) - int(first["webhook-timestamp"]) == 1
    for headers in (first, second):
        assert len(headers["webhook-signature"].split()) == 2
        for secret in (SECRET, OTHER):
            Webhook(secret).verify(body, dict(headers))
        with pytest.raises(WebhookVerificationError):
            Webhook("whsec_" + "C" * 32).verify(body, dict(headers))
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRET).verify(body + b" ", dict(headers))


async def test_a_signature_is_of_the_second_in_which_it_is_sent() -> None:
    """However long ago the body was made: many are made at once, and wait for those before them."""
    now, post = int(time.time()), Script()
    async with webhook(post=post, clock=lambda: now + len(post.sent) / 3, concurrency=1) as sink:
        assert list(await sink.write([change(n, n) for n in range(50)])) == []
    assert [int(headers["webhook-timestamp"]) for headers, _ in post.sent] == [now + n // 3 for n in range(50)]
    assert [event["subject"] for event in post.events] == [f"public.orders/{n}" for n in range(50)]
    for headers, body in post.sent:
        Webhook(SECRET).verify(body, dict(headers))


async def test_the_same_change_has_the_same_id_and_body_in_another_process() -> None:
    posts = Script(), Script()
    for post in posts:
        async with webhook(post=post) as sink:
            await sink.write([change(3, 9)])
    assert posts[0].sent == posts[1].sent


@pytest.mark.parametrize("secret", ["", "whsec_", "A" * 32, "whsec_" + "A" * 31, "whsec_" + "A" * 28, "whsec_" + "A" * 92, "whsec_ü"])
def test_a_secret_that_is_none_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match=r"whsec_|bytes"):
        secret_key(secret)


def test_little_is_made_ahead_and_nothing_twice_whatever_the_order() -> None:
    counted: list[int] = []

    def make(index: int, one: Change) -> Parcel:
        counted.append(index)
        return Parcel(index, one, b"x" * 100, {})

    made = Made([change()] * 300, make)
    for index in (0, 299, 150, 1, 149, 160):
        assert made.take(index).index == index
    assert len(counted) == len(set(counted)) <= 32 + 1 + 32 + 1
    before = len(counted)
    made.take(150)  # sent once more, alone
    assert len(counted) == before + 1
