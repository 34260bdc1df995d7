"""The real client: against a bare server that misbehaves on purpose, and against the embedded AWS while it reshards."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from dsqlcdc.aws import Aws
from dsqlcdc.core.records import TRIM_HORIZON, Position
from dsqlcdc.errors import Fault, Misconfigured, Unavailable
from dsqlcdc.sources.kinesis_client import KinesisClient, connect
from dsqlcdc.sources.service import Expired, Oversize, Throttled, UnknownSequence

Answer = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]
SHARD = "shardId-000000000000"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@asynccontextmanager
async def kinesis(answer: Answer) -> AsyncIterator[KinesisClient]:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await answer(request, json.loads(await request.read()))

    app = web.Application()
    app.router.add_post("/", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with connect("orders-cdc", Aws(endpoint_url=f"http://127.0.0.1:{port}"), clock=lambda: 0.0) as client:
            yield client
    finally:
        await runner.cleanup()


def refusal(code: str, message: str = "", status: int = 400, **headers: str) -> web.Response:
    return web.json_response({"__type": code, "message": message}, status=status, headers=headers)


def body(count: int, size: int = 10) -> bytes:
    data, key = base64.b64encode(b"x" * size).decode(), 'é"k'
    records = [
        {"SequenceNumber": str(10**20 + n), "ApproximateArrivalTimestamp": 1.8e9 + n, "Data": data, "PartitionKey": key}
        for n in range(count)
    ]
    answer = {"Records": records, "NextShardIterator": "next", "MillisBehindLatest": 5, "ChildShards": None}
    return json.dumps(answer).encode()


async def admit(size: int) -> None:
    return None


async def read(client: KinesisClient) -> Any:
    return await client.records(SHARD, "it", 10_000, admit)


async def test_a_reply_is_decoded_straight_into_records() -> None:
    async def answer(request: web.Request, asked: dict[str, Any]) -> web.Response:
        assert asked == {"ShardIterator": "it", "Limit": 10_000}
        assert request.headers["Authorization"].startswith("AWS4-HMAC-SHA256")
        return web.Response(body=body(3), content_type="application/x-amz-json-1.1")

    async with kinesis(answer) as client:
        reply = await read(client)
    assert [record.sequence_number for record in reply.records] == [str(10**20 + n) for n in range(3)]
    assert reply.records[2].data == b"x" * 10
    assert reply.records[2].arrived == 1.8e9 + 2
    assert (reply.iterator, reply.behind, reply.size) == ("next", 5, len(body(3)))
    assert reply.now > 1.7e9


async def test_the_last_reply_of_a_closed_shard_names_its_children() -> None:
    child = {"ShardId": "c", "ParentShards": [SHARD], "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": "9"}}

    async def answer(request: web.Request, asked: dict[str, Any]) -> web.Response:
        return web.json_response({"Records": [], "MillisBehindLatest": 0, "ChildShards": [child]})

    async with kinesis(answer) as client:
        reply = await read(client)
    assert reply.iterator is None
    assert [(one.id, one.parents) for one in reply.children] == [("c", (SHARD,))]


async def test_room_is_asked_for_before_a_body_is_read() -> None:
    asked_for: list[int] = []

    async def answer(request: web.Request, asked: dict[str, Any]) -> web.Response:
        return web.Response(body=body(1, 3_000_000))

    async def refuse(size: int) -> None:
        asked_for.append(size)
        raise Oversize(size, SHARD)

    async with kinesis(answer) as client:
        with pytest.raises(Oversize):
            await client.records(SHARD, "it", 10_000, refuse)
        assert asked_for == [len(body(1, 3_000_000))]
        assert len((await read(client)).records[0].data) == 3_000_000


async def test_a_reset_in_mid_body_is_unavailable_and_the_same_iterator_answers_afterwards() -> None:
    calls = 0

    async def answer(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        whole = body(2, 100_000)
        if calls > 2:
            return web.Response(body=whole)
        response = web.StreamResponse(headers={"Content-Length": str(len(whole))})
        await response.prepare(request)
        await response.write(whole[:50_000])
        assert request.transport is not None
        request.transport.abort() if calls == 1 else request.transport.close()
        return response

    async with kinesis(answer) as client:
        for _ in range(2):
            with pytest.raises(Unavailable):
                await read(client)
        assert len((await read(client)).records) == 2


async def test_a_slow_body_is_waited_for_and_a_stuck_one_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsqlcdc.sources.connections.PATIENCE", 0.3)
    stuck = asyncio.Event()
    slow = True

    async def answer(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        whole = body(2, 1000)
        response = web.StreamResponse(headers={"Content-Length": str(len(whole))})
        await response.prepare(request)
        for at in range(0, len(whole), 1000):
            await response.write(whole[at : at + 1000])
            if not slow:
                await stuck.wait()
        return response

    async with kinesis(answer) as client:
        assert len((await read(client)).records) == 2
        slow = False
        with pytest.raises(Unavailable, match="no answer in time"):
            await read(client)
        stuck.set()


@pytest.mark.parametrize(
    ("code", "status", "kind", "words"),
    [
        ("ProvisionedThroughputExceededException", 400, Throttled, "throttles"),
        ("ExpiredIteratorException", 400, Expired, "expired"),
        ("ExpiredTokenException", 400, Unavailable, "expired"),
        ("InternalFailure", 500, Unavailable, "could not answer"),
        ("SomethingNobodyKnows", 503, Unavailable, "could not answer"),
        ("AccessDeniedException", 400, Misconfigured, "kinesis:GetRecords"),
        ("KMSAccessDeniedException", 400, Misconfigured, "kms:Decrypt"),
        ("ResourceNotFoundException", 400, Misconfigured, "deleted while it was read"),
        ("UnrecognizedClientException", 400, Misconfigured, "credentials"),
    ],
)
async def test_errors_of_the_service_become_ours(code: str, status: int, kind: type[Fault], words: str) -> None:
    async def answer(request: web.Request, asked: dict[str, Any]) -> web.Response:
        return refusal(code, "User: arn:aws:iam::1:user/u is not authorized to perform: kinesis:GetRecords on resource: arn:aws:k", status)

    async with kinesis(answer) as client:
        with pytest.raises(kind) as caught:
            await read(client)
    if code != "KMSAccessDeniedException":
        assert words in str(caught.value)
    assert SHARD in str(caught.value)


async def test_a_sequence_number_the_shard_never_had_is_told_from_other_bad_arguments() -> None:
    async def answer(request: web.Request, asked: dict[str, Any]) -> web.Response:
        return refusal("InvalidArgumentException", "StartingSequenceNumber 5 used in GetShardIterator is invalid")

    async with kinesis(answer) as client:
        with pytest.raises(UnknownSequence, match="never had"):
            await client.iterator(SHARD, Position("after", "5"))
        with pytest.raises(Misconfigured) as caught:
            await client.iterator(SHARD, TRIM_HORIZON)
    assert caught.value.code == "E104"


async def test_expired_credentials_are_looked_up_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsqlcdc.sources.kinesis_client._RENEW_EVERY", 0.0)

    async def answer(request: web.Request, asked: dict[str, Any]) -> web.Response:
        renewed = "AKIARENEWED" in request.headers["Authorization"]
        return web.Response(body=body(1)) if renewed else refusal("ExpiredTokenException", "The security token has expired")

    async with kinesis(answer) as client:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIARENEWED")
        with pytest.raises(Unavailable, match="expired"):
            await read(client)
        assert len((await read(client)).records) == 1


async def test_the_three_ways_to_begin() -> None:
    asked_for: list[dict[str, Any]] = []

    async def answer(request: web.Request, asked: dict[str, Any]) -> web.Response:
        asked_for.append(asked)
        return web.json_response({"ShardIterator": "it"})

    async with kinesis(answer) as client:
        for position in (TRIM_HORIZON, Position("time", arrived=1_800_000_000.9), Position("after", "77", 5.0)):
            assert await client.iterator(SHARD, position) == "it"
    common = {"StreamName": "orders-cdc", "ShardId": SHARD}
    assert asked_for[0] == {**common, "ShardIteratorType": "TRIM_HORIZON"}
    assert asked_for[1] == {**common, "ShardIteratorType": "AT_TIMESTAMP", "Timestamp": asked_for[1]["Timestamp"]}
    assert 1_799_999_999.9 < asked_for[1]["Timestamp"] <= 1_800_000_000.9  # never later than asked
    assert asked_for[2] == {**common, "ShardIteratorType": "AT_SEQUENCE_NUMBER", "StartingSequenceNumber": "77"}


async def test_an_answer_that_is_not_one_is_unavailable() -> None:
    async def answer(request: web.Request, asked: dict[str, Any]) -> web.Response:
        return web.Response(body=b'{"Records": [{"Seq')

    async with kinesis(answer) as client:
        with pytest.raises(Unavailable):
            await read(client)


async def test_an_endpoint_that_is_gone_is_unavailable() -> None:
    async with connect("orders-cdc", Aws(endpoint_url="http://127.0.0.1:9"), clock=lambda: 0.0) as client:
        with pytest.raises(Unavailable, match="cannot be reached"):
            await client.list_shards()


async def test_every_page_of_the_listing_is_read_and_the_name_not_repeated() -> None:
    asked_for: list[dict[str, Any]] = []

    async def answer(request: web.Request, asked: dict[str, Any]) -> web.Response:
        asked_for.append(asked)
        shard = {
            "ShardId": f"s{len(asked_for)}",
            "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": "1"},
            "SequenceNumberRange": {"StartingSequenceNumber": "1"},
        }
        return web.json_response({"Shards": [shard], **({"NextToken": "t"} if len(asked_for) < 3 else {})})

    async with kinesis(answer) as client:
        assert [shard.id for shard in await client.list_shards()] == ["s1", "s2", "s3"]
    assert asked_for == [{"StreamName": "orders-cdc"}, {"NextToken": "t"}, {"NextToken": "t"}]


async def test_a_stream_may_be_named_by_its_arn_which_also_says_the_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    arn = "arn:aws:kinesis:eu-west-3:123456789012:stream/orders-cdc"
    async with connect(arn, Aws(), clock=lambda: 0.0) as client:
        assert client._client.meta.region_name == "eu-west-3"
    with pytest.raises(Misconfigured, match="not the ARN"):
        async with connect("arn:aws:s3:::bucket", Aws(), clock=lambda: 0.0):
            pass
