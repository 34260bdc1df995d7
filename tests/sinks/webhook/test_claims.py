"""The claim check: large data goes to S3 under a name of its own, the event says where, and what gives access is told to nobody else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiobotocore.session import get_session
from cloudevents.core.bindings.http import HTTPMessage, from_binary_event, from_structured_event

from dsqlcdc.aws import Aws
from dsqlcdc.contract import Verdict
from dsqlcdc.errors import Misconfigured, Unavailable
from dsqlcdc_webhook.answers import Answer
from dsqlcdc_webhook.claim import S3Claims, secrets_of
from dsqlcdc_webhook.event import data, event
from dsqlcdc_webhook.options import ClaimCheck

from .receiver import Script, Stored, change, saying, webhook

CHECK = {"bucket": "claims", "above": "2KiB"}
SIGNED = (
    "X-Amz-Credential=ASIA0123456789ABCDEF%2F20270115&X-Amz-Security-Token=tok%2Fen0123456789abcdef%3D&X-Amz-Signature=0123456789abcdef0123"
)
LARGE = change(1, row={"note": "x" * 4096})
SMALL = change(2)


@pytest.mark.parametrize("options", [{}, {"batch": {}}, {"format": "cloudevents_binary"}])
async def test_data_above_the_size_is_put_away_and_the_event_says_where(options: dict[str, Any]) -> None:
    post, stored = Script(), Stored()
    async with webhook(post=post, claims=stored, claim_check=CHECK, **options) as sink:
        assert list(await sink.write([LARGE, SMALL])) == []
    assert stored.objects == {LARGE.id.hex(): data(LARGE)}
    by_id = {each["id"]: each for each in post.events}
    assert by_id[LARGE.id.hex()]["dataref"] == f"s3://claims/{LARGE.id.hex()}"
    assert "data" not in by_id[LARGE.id.hex()]
    assert "dataref" not in by_id[SMALL.id.hex()]
    assert sum(len(body) for _, body in post.sent) < 2048


async def test_an_event_whose_data_is_elsewhere_is_a_cloud_event_and_the_data_is_what_it_would_have_held() -> None:
    for options, read in (({}, from_structured_event), ({"format": "cloudevents_binary"}, from_binary_event)):
        post, stored = Script(), Stored()
        async with webhook(post=post, claims=stored, claim_check=CHECK, **options) as sink:
            assert list(await sink.write([LARGE])) == []
        ((headers, body),) = post.sent
        made = read(HTTPMessage({name.lower(): value for name, value in headers.items()}, body))
        assert made.get_extension("dataref") == f"s3://claims/{LARGE.id.hex()}"
        assert not made.get_data()
        assert msgspec.json.decode(stored.objects[LARGE.id.hex()]) == msgspec.json.decode(event(LARGE))["data"]


async def test_413_puts_the_data_away_once_and_is_dead_if_that_does_not_help() -> None:
    async def narrow(headers: Mapping[str, str], sent: Any) -> Answer:
        return Answer(413 if "data" in sent else 204)

    for post, dead in ((Script(narrow), False), (saying(413), True)):
        stored = Stored()
        async with webhook(post=post, claims=stored, claim_check={"bucket": "claims"}) as sink:
            setbacks = list(await sink.write([SMALL]))
        assert ["data" in each for each in post.events] == [True, False]
        assert list(stored.objects) == [SMALL.id.hex()]
        assert [(s.verdict, s.code) for s in setbacks] == ([(Verdict.DEAD, "too_large")] if dead else [])


async def test_without_a_claim_check_413_is_dead() -> None:
    """The control."""
    async with webhook(post=saying(413)) as sink:
        (setback,) = await sink.write([LARGE])
    assert setback.code == "too_large"


async def test_in_a_batch_413_finds_the_large_one_and_puts_only_that_away() -> None:
    async def narrow(headers: Mapping[str, str], sent: Any) -> Answer:
        return Answer(413 if len(msgspec.json.encode(sent)) > 4000 else 204)

    stored = Stored()
    async with webhook(post=Script(narrow), claims=stored, claim_check={"bucket": "claims"}, batch={"max_items": 6}) as sink:
        assert list(await sink.write([LARGE, *(change(n) for n in range(2, 7))])) == []
    assert list(stored.objects) == [LARGE.id.hex()]


async def test_a_store_that_is_away_is_backpressure_for_the_large_and_no_word_about_the_receiver() -> None:
    post, stored = Script(), Stored()
    async with webhook(post=post, claims=stored, claim_check=CHECK) as sink:
        stored.fault = Unavailable("cannot store a claim check", where="s3://claims/x", why="SlowDown", after=7)
        for _ in range(20):
            with pytest.raises(Unavailable, match="SlowDown") as raised:
                await sink.write([LARGE])
            assert (raised.value.code, raised.value.after) == ("E147", 7)
        (setback,) = await sink.write([LARGE, SMALL])  # the circuit is closed, others go
        assert (setback.index, setback.verdict, setback.code, setback.after) == (0, Verdict.RETRY, "claim_check", 7)
        stored.fault = None
        assert list(await sink.write([LARGE])) == []
        stored.fault = Misconfigured("cannot store a claim check", where="s3://claims/x", why="access is denied", code="E102")
        with pytest.raises(Misconfigured, match="access is denied"):
            await sink.write([LARGE])
    assert len(post.sent) == 2


async def test_a_signed_reference_is_in_no_log_error_or_dead_letter(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    stored = Stored(SIGNED)
    seen: list[str] = []

    async def echo(headers: Mapping[str, str], sent: Any) -> Answer:
        url = sent["dataref"]
        seen.append(url)
        parts = [value for pair in url.partition("?")[2].split("&") for value in (pair, pair.replace("%2F", "/").replace("%3D", "="))]
        return Answer(422, None, f"{url} {url.replace('&', '&amp;')} {' '.join(parts)}".encode())

    async with webhook(post=Script(echo), claims=stored, claim_check=CHECK) as sink:
        (setback,) = await sink.write([LARGE])
    assert seen
    assert SIGNED in seen[0]
    text = f"{setback} {caplog.text}"
    for hidden in ("ASIA0123456789ABCDEF", "tok%2Fen", "tok/en", "0123456789abcdef0123"):
        assert hidden not in text
    assert "***" in setback.detail


def test_a_reference_that_is_not_signed_hides_nothing() -> None:
    assert list(secrets_of("s3://bucket/key.json")) == []


class Recorded:
    """aiobotocore's client with the one call that would leave the machine replaced."""

    def __init__(self) -> None:
        self.puts: list[tuple[str, str, bytes]] = []

    @asynccontextmanager
    async def connect(self, service: str, aws: Aws, **config: Any) -> AsyncGenerator[Any, None]:
        from aiobotocore.config import AioConfig

        made = get_session().create_client(
            service, region_name="eu-central-1", aws_access_key_id="A" * 20, aws_secret_access_key="s", config=AioConfig(**config)
        )
        async with made as client:

            async def put_object(*, Bucket: str, Key: str, Body: bytes, ContentType: str) -> None:
                self.puts.append((Bucket, Key, Body))

            client.put_object = put_object
            yield client


async def test_the_name_is_the_changes_id_and_is_put_once_a_life() -> None:
    for expires, begins in ((None, "s3://my-claims/in/abc.json"), (3600.0, "https://my-claims.s3.")):
        recorded = Recorded()
        options = ClaimCheck.model_construct(bucket="my-claims", prefix="in/", above=1, expires=expires)
        async with S3Claims(options, Aws(), connect=recorded.connect) as claims:
            urls = [await claims.put("abc", b"{}") for _ in range(3)]
        assert all(url.startswith(begins) for url in urls)
        assert recorded.puts == [("my-claims", "in/abc.json", b"{}")]
        if expires is not None:
            assert "X-Amz-Expires=3600&" in urls[0]
            assert "X-Amz-Signature" in urls[0]


async def test_a_signed_reference_is_the_same_for_each_attempt_until_half_of_its_time_is_over() -> None:
    """One id, one body. The credentials may change meanwhile: what is signed is not signed again."""
    recorded, now = Recorded(), [0.0]
    options = ClaimCheck.model_construct(bucket="my-claims", prefix="in/", above=1, expires=3600.0)
    async with S3Claims(options, Aws(), connect=recorded.connect, clock=lambda: now[0]) as claims:
        client = claims._client
        made, sign = 0, client.generate_presigned_url

        async def signing(*args: Any, **kwargs: Any) -> str:
            nonlocal made
            made += 1
            return f"{await sign(*args, **kwargs)}&n={made}"  # of two signatures in one second the URLs would be equal

        client.generate_presigned_url = signing
        urls: list[str] = []
        for moment in (0.0, 60.0, 1800.0, 1801.0, 3601.0, 3602.0):
            now[0] = moment
            urls.append(await claims.put("abc", b"{}"))
        assert [url.rpartition("=")[2] for url in urls] == ["1", "1", "1", "2", "2", "3"]
        assert await claims.put("other", b"{}") != urls[-1]


def test_the_same_change_is_put_under_the_same_name_with_the_same_bytes_in_every_life() -> None:
    async def life() -> tuple[dict[str, bytes], list[Any]]:
        post, stored = Script(), Stored()
        async with webhook(post=post, claims=stored, claim_check=CHECK) as sink:
            assert list(await sink.write([LARGE])) == []
        return stored.objects, post.sent

    assert asyncio.run(life()) == asyncio.run(life())
