"""One port for all services: S3's conditions, DynamoDB, and every fault that can be injected."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from dsqlcdc.local import Fault, Local

if TYPE_CHECKING:
    from tests.local.conftest import Clients

TWICE = 2
"""aiohttp asks a PUT again by itself, once, when a connection that was kept alive breaks before the answer."""
SERVICES = ["s3", "dynamodb", "kinesis", "iam", "sts", "kms", "dsql"]
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")


def code(caught: pytest.ExceptionInfo[ClientError]) -> str:
    return str(caught.value.response["Error"]["Code"])


async def control(aws: Local, what: str, **given: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.post(f"{aws.endpoint}/_dsqlcdc/{what}", json=given) as answered:
        return answered.status, await answered.json()


@pytest.fixture
async def bucket(call: Clients) -> str:
    await call.s3.create_bucket(Bucket="lake")
    return "lake"


async def body_of(call: Clients, key: str) -> bytes:
    found = await call.s3.get_object(Bucket="lake", Key=key)
    return bytes(await found["Body"].read())


async def test_a_put_if_none_match_goes_in_once_even_when_twenty_race(call: Clients, bucket: str) -> None:
    async def put(number: int) -> int | None:
        try:
            await call.s3.put_object(Bucket=bucket, Key="a b/é_%.txt", Body=str(number).encode(), IfNoneMatch="*")
        except ClientError as error:
            if error.response["Error"]["Code"] != "PreconditionFailed":
                raise
            return None
        return number

    winners = [number for number in await asyncio.gather(*map(put, range(20))) if number is not None]
    assert len(winners) == 1
    assert await body_of(call, "a b/é_%.txt") == str(winners[0]).encode()


async def test_a_put_if_match_replaces_only_what_was_read(call: Clients, bucket: str) -> None:
    tag = (await call.s3.put_object(Bucket=bucket, Key="k", Body=b"1"))["ETag"]
    await call.s3.put_object(Bucket=bucket, Key="k", Body=b"2", IfMatch=tag)
    with pytest.raises(ClientError) as caught:
        await call.s3.put_object(Bucket=bucket, Key="k", Body=b"3", IfMatch=tag)
    assert code(caught) == "PreconditionFailed"
    assert await body_of(call, "k") == b"2"


async def test_a_body_of_64_mib_with_its_sha256_and_metadata_comes_back_whole(call: Clients, bucket: str) -> None:
    body = bytes(range(256)) * (64 * 4096)
    sha = base64.b64encode(hashlib.sha256(body).digest()).decode()
    await call.s3.put_object(Bucket=bucket, Key="big", Body=body, ChecksumSHA256=sha, IfNoneMatch="*", Metadata={"a_b": "c"})
    found = await call.s3.get_object(Bucket=bucket, Key="big")
    assert hashlib.sha256(await found["Body"].read()).digest() == base64.b64decode(sha)
    assert found["Metadata"] == {"a_b": "c"}
    assert (await call.s3.head_object(Bucket=bucket, Key="big"))["ContentLength"] == len(body)


async def test_a_gzip_body_is_kept_as_it_was_sent(call: Clients, bucket: str) -> None:
    body = gzip.compress(b"line" * 1000)
    await call.s3.put_object(Bucket=bucket, Key="k.gz", Body=body, ContentEncoding="gzip")
    assert await body_of(call, "k.gz") == body


async def test_the_other_services_answer_on_the_same_port(call: Clients, bucket: str) -> None:
    await call.dynamodb.create_table(
        TableName="t",
        KeySchema=[{"AttributeName": "k", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "k", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    put = {"TableName": "t", "Item": {"k": {"S": "1"}}, "ConditionExpression": "attribute_not_exists(k)"}
    await call.dynamodb.put_item(**put)
    with pytest.raises(ClientError) as caught:
        await call.dynamodb.put_item(**put)
    assert code(caught) == "ConditionalCheckFailedException"
    assert (await call.sts.get_caller_identity())["Account"] == "123456789012"
    assert (await call.kms.create_key())["KeyMetadata"]["Enabled"]
    assert [found["Name"] for found in (await call.s3.list_buckets())["Buckets"]] == [bucket]


@pytest.mark.parametrize(
    ("service", "operation", "given"),
    [
        ("s3", "put_object", {"Bucket": "lake", "Key": "k", "Body": b"x"}),
        ("s3", "list_objects_v2", {"Bucket": "lake"}),
        ("kinesis", "list_streams", {}),
        ("dynamodb", "list_tables", {}),
        ("iam", "list_roles", {}),
        ("sts", "get_caller_identity", {}),
        ("dsql", "list_clusters", {}),
    ],
)
async def test_an_injected_error_reaches_the_client_with_its_code_as_often_as_asked(
    aws: Local, call: Clients, bucket: str, service: str, operation: str, given: dict[str, Any]
) -> None:
    name = "".join(part.capitalize() for part in operation.split("_"))
    aws.faults.add(Fault(kind="error", service=service, operation=name, code="SlowDown", status=503, times=2, skip=1))
    ask = getattr(getattr(call, service), operation)
    await ask(**given)
    for _ in range(2):
        with pytest.raises(ClientError) as caught:
            await ask(**given)
        assert code(caught) == "SlowDown"
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    await ask(**given)
    assert aws.faults.hits == 2


async def test_a_lost_answer_hides_a_write_that_took_place(aws: Local, call: Clients, bucket: str) -> None:
    aws.faults.add(Fault(kind="lost", operation="PutObject", times=TWICE))
    with pytest.raises(BotoCoreError):
        await call.s3.put_object(Bucket=bucket, Key="k", Body=b"in", IfNoneMatch="*")
    with pytest.raises(ClientError) as caught:
        await call.s3.put_object(Bucket=bucket, Key="k", Body=b"again", IfNoneMatch="*")
    assert code(caught) == "PreconditionFailed"
    assert await body_of(call, "k") == b"in"


async def test_a_reset_comes_before_anything_is_done(aws: Local, call: Clients, bucket: str) -> None:
    aws.faults.add(Fault(kind="reset", operation="PutObject", contains="/k", times=TWICE))
    with pytest.raises(BotoCoreError):
        await call.s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert (await call.s3.list_objects_v2(Bucket=bucket))["KeyCount"] == 0


async def test_a_cut_reply_breaks_in_mid_body_and_only_for_the_shard_that_was_named(aws: Local, call: Clients) -> None:
    aws.pipe("s", shards=2)
    stream = aws.kinesis.stream("s")
    aws.faults.add(Fault(kind="cut", operation="GetRecords", contains="shardId-000000000001", times=0))
    tokens = {}
    for shard in stream.shards.values():
        aws.kinesis.put_bytes(stream, b"x" * 100_000, "k", str(shard.start))
        tokens[shard.id] = aws.kinesis.iterator(stream, shard, "TRIM_HORIZON")
    assert len((await call.kinesis.get_records(ShardIterator=tokens["shardId-000000000000"]))["Records"]) == 1
    with pytest.raises((BotoCoreError, aiohttp.ClientPayloadError)):
        await call.kinesis.get_records(ShardIterator=tokens["shardId-000000000001"])
    aws.faults.clear()
    assert len((await call.kinesis.get_records(ShardIterator=tokens["shardId-000000000001"]))["Records"]) == 1


@pytest.mark.parametrize("kind", ["slow", "hang"])
async def test_a_slow_or_hanging_reply_takes_its_time_and_is_whole(aws: Local, call: Clients, bucket: str, kind: Any) -> None:
    await call.s3.put_object(Bucket=bucket, Key="k", Body=b"x" * 10_000)
    aws.faults.add(Fault(kind=kind, operation="GetObject", seconds=0.3))
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await body_of(call, "k") == b"x" * 10_000
    assert loop.time() - began >= 0.25


async def test_what_hung_when_everything_was_reset_is_not_done_afterwards(aws: Local) -> None:
    """A killed process's last write would else land in the next test's world."""
    aws.faults.add(Fault(kind="hang", operation="CreateStream", seconds=0.2))
    order = {"json": {"StreamName": "late", "ShardCount": 1}, "headers": {"X-Amz-Target": "Kinesis_20131202.CreateStream"}}
    async with aiohttp.ClientSession() as session:
        asking = asyncio.create_task(session.post(aws.endpoint, **order))
        while not aws.faults.hits:  # noqa: ASYNC110 (a fault that is met sets no event)
            await asyncio.sleep(0)
        await aws.reset()
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await asking
        assert aws.kinesis.names() == []
        async with session.post(aws.endpoint, **order) as answered:
            assert answered.status == 200
    assert aws.kinesis.names() == ["late"]


async def test_a_bucket_that_vanished_comes_back_with_its_objects(aws: Local, call: Clients, bucket: str) -> None:
    await call.s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert await control(aws, "bucket", name=bucket) == (200, {"done": True})
    with pytest.raises(ClientError) as caught:
        await call.s3.put_object(Bucket=bucket, Key="k", Body=b"y")
    assert code(caught) == "NoSuchBucket"
    await control(aws, "bucket", name=bucket, gone=False)
    assert await body_of(call, "k") == b"x"


async def test_the_control_refuses_what_it_does_not_know(aws: Local) -> None:
    for name, given in (
        ("commit", {"transactions": 1}),
        ("fault", {"kind": "nonsense"}),
        ("fault", {"kind": "error", "tiems": 3}),
        ("record", {"stream": "none", "data": ""}),
        ("clock", {"seconds": -1}),
    ):
        status, answer = await control(aws, name, **given)
        assert status == 400
        assert answer["error"]


async def test_raw_records_go_to_the_shard_that_was_named(aws: Local) -> None:
    aws.pipe("s", shards=3)
    given = {"stream": "s", "data": base64.b64encode(b"\xff\x00").decode(), "shard": "shardId-000000000002", "copies": 2}
    _, answer = await control(aws, "record", **given)
    assert [record["shard"] for record in answer["records"]] == ["shardId-000000000002"] * 2
    assert aws.kinesis.stream("s").shard("shardId-000000000002").next == 3


async def test_reads_are_refused_as_often_as_asked(aws: Local, call: Clients) -> None:
    aws.pipe("s", shards=1)
    await control(aws, "throttle", refuse_reads=2)
    stream = aws.kinesis.stream("s")
    token = aws.kinesis.iterator(stream, stream.shard("shardId-000000000000"), "TRIM_HORIZON")
    for _ in range(2):
        with pytest.raises(ClientError) as caught:
            await call.kinesis.get_records(ShardIterator=token)
        assert code(caught) == "ProvisionedThroughputExceededException"
    await call.kinesis.get_records(ShardIterator=token)


async def test_trimming_expiring_empty_pages_and_lagging_lists_are_had_over_http(aws: Local, call: Clients) -> None:
    aws.pipe("s", shards=1)
    shard, stream = "shardId-000000000000", aws.kinesis.stream("s")
    _, wrote = await control(aws, "record", stream="s", data="YQ==", copies=3)
    second = wrote["records"][1]["sequence"]
    assert await control(aws, "trim", stream="s", shard=shard, until=second) == (200, {"trimmed": 2})
    assert (await control(aws, "trim", stream="s", until=second))[0] == 400
    await control(aws, "empty-reads", stream="s", times=1)
    ask = {"StreamName": "s", "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON"}
    token = (await call.kinesis.get_shard_iterator(**ask))["ShardIterator"]
    counts = [len((await call.kinesis.get_records(ShardIterator=token))["Records"]) for _ in range(2)]
    assert counts == [0, 1]
    await control(aws, "iterators/expire")
    with pytest.raises(ClientError) as caught:
        await call.kinesis.get_records(ShardIterator=token)
    assert code(caught) == "ExpiredIteratorException"
    await control(aws, "throttle", latest_lag=60)
    stream.split(stream.shard(shard), 2**127)
    latest = {"StreamName": "s", "ShardFilter": {"Type": "AT_LATEST"}}
    assert len((await call.kinesis.list_shards(**latest))["Shards"]) == 3
    await control(aws, "clock", seconds=61)
    assert len((await call.kinesis.list_shards(**latest))["Shards"]) == 2
    assert await control(aws, "trim", stream="s") == (200, {"trimmed": 1})


async def test_a_cdc_stream_is_impaired_mended_and_failed_over_http(aws: Local) -> None:
    pipe = aws.pipe("s", shards=1)
    key = {"cluster": pipe.cluster, "stream": pipe.cdc_stream}
    await control(aws, "cdc", **key, impair="KINESIS_ACCESS_DENIED")
    await control(aws, "commit", transactions=5)
    shard = aws.kinesis.stream("s").shard("shardId-000000000000")
    assert shard.next == 1
    assert await control(aws, "cdc", **key, impair="") == (200, {"status": "ACTIVE", "reason": "", "waiting": 0, "lag": 0.0})
    assert shard.next > 1
    assert (await control(aws, "cdc", **key, fail="INTERNAL_ERROR"))[1]["status"] == "FAILED"
    assert (await control(aws, "cdc", cluster=pipe.cluster, status="IDLE"))[1] == {"status": "IDLE"}


async def test_reset_forgets_everything(aws: Local, call: Clients, bucket: str) -> None:
    aws.pipe("s")
    aws.faults.add(Fault(kind="error"))
    await control(aws, "reset")
    assert (await call.s3.list_buckets())["Buckets"] == []
    assert (await call.kinesis.list_streams())["StreamNames"] == []
    assert (await call.dsql.list_clusters())["clusters"] == []


async def test_the_truth_comes_as_json_lines_in_pages(aws: Local) -> None:
    aws.pipe("s")
    _, done = await control(aws, "commit", transactions=50)
    async with aiohttp.ClientSession() as session:

        async def lines(path: str) -> list[Any]:
            async with session.get(f"{aws.endpoint}/_dsqlcdc/truth/{path}") as answered:
                return [msgspec.json.decode(line) for line in (await answered.read()).splitlines()]

        everything = await lines("changes")
        assert len(everything) == done["end"] - done["first"]
        assert await lines("changes?from=10&limit=5") == everything[10:15]
        orders = await lines("state?table=public.orders")
        assert orders
        assert {line["table"] for line in orders} == {"orders"}


def test_without_its_extra_the_import_says_what_to_install() -> None:
    code = "import sys; sys.modules['moto'] = None\ntry:\n    import dsqlcdc.local\nexcept Exception as error:\n    print(error)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'dsqlcdc[local]'" in said


def test_the_server_alone_prints_its_one_line_and_ends_on_sigterm() -> None:
    process = subprocess.Popen([sys.executable, "-m", "dsqlcdc.local", "--port", "0"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        assert process.stdout.readline().startswith("ready http://127.0.0.1:")
        process.terminate()
        assert process.wait(10) == 0
