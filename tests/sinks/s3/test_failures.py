"""The failure table, row by row: what S3 answers, and what the sink makes of it."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, ReadTimeoutError
from botocore.exceptions import ConnectionClosedError as Closed

from dsqlcdc.contract import Misconfigured, Unavailable, Verdict
from dsqlcdc.errors import Held
from dsqlcdc_s3 import Options, S3Sink
from dsqlcdc_s3.aws_objects import AwsObjects
from dsqlcdc_s3.objects import Put, TooLarge

from .lake import Bucket, change, context, resume


class Body:
    """The body of an answer; `broken` comes after its first bytes."""

    def __init__(self, text: bytes, broken: Exception | None = None) -> None:
        self._text, self._broken = text, broken

    async def __aenter__(self) -> Body:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def read(self, amount: int) -> bytes:
        if not self._text and self._broken is not None:
            raise self._broken
        text, self._text = self._text[:amount], self._text[amount:]
        return text


class FakeClient:
    """An S3 client over a Bucket: the answers of `script`, by operation, come first, one a call; None lets the call through."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.script: dict[str, list[Exception | None]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.after = False

    def _next(self, operation: str, given: dict[str, Any]) -> None:
        self.calls.append((operation, given))
        answers = self.script.get(operation)
        error = answers.pop(0) if answers else None
        if error is not None:
            if self.after and operation == "PutObject":
                self.bucket.store(given["Key"], given["Body"], True)
            raise error

    async def put_object(self, **given: Any) -> dict[str, Any]:
        self._next("PutObject", given)
        if self.bucket.store(given["Key"], given["Body"], given.get("IfNoneMatch") == "*") is Put.EXISTS:
            raise answer("PreconditionFailed", 412)
        return {}

    async def get_object(self, **given: Any) -> dict[str, Any]:
        self._next("GetObject", given)
        if given["Key"] not in self.bucket.objects:
            raise answer("NoSuchKey", 404, "GetObject")
        return {"Body": Body(self.bucket.objects[given["Key"]])}

    async def list_objects_v2(self, **given: Any) -> dict[str, Any]:
        self._next("ListObjectsV2", given)
        keys = sorted(k for k in self.bucket.objects if k.startswith(given["Prefix"]) and k > given["StartAfter"])
        return {"Contents": [{"Key": key} for key in keys[: given["MaxKeys"]]]}


def answer(code: str, status: int, operation: str = "PutObject", message: str = "", **headers: str) -> ClientError:
    metadata: Any = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    return ClientError({"Error": {"Code": code, "Message": message}, "ResponseMetadata": metadata}, operation)


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def client(bucket: Bucket) -> FakeClient:
    return FakeClient(bucket)


def over(client: FakeClient, **options: Any) -> S3Sink:
    made = Options.model_validate({"bucket": "lake", "prefix": "cdc/", "parallel": 1, "digest": None, **options})

    @asynccontextmanager
    async def opened() -> AsyncIterator[AwsObjects]:
        yield AwsObjects(client, made)

    return S3Sink(made, context(), objects=opened, clock=lambda: 1.8e9)


PASSING = [
    answer("ConditionalRequestConflict", 409),
    answer("OperationAborted", 409),
    answer("SlowDown", 503),
    answer("ServiceUnavailable", 503),
    answer("InternalError", 500),
    answer("TooManyRequestsException", 429),
    answer("RequestTimeout", 400),
    answer("503", 503),
    answer("TemporaryRedirect", 307),
    ReadTimeoutError(endpoint_url="https://s3"),
    ConnectTimeoutError(endpoint_url="https://s3"),
    Closed(endpoint_url="https://s3"),
    ConnectionResetError(),
]
STOPPING = [
    (answer("AccessDenied", 403), "s3:ListBucket"),
    (answer("KMS.DisabledException", 400), "KMS key"),
    (answer("KMS.NotFoundException", 400), "KMS key"),
    (answer("KMS.AccessDeniedException", 400), "kms:GenerateDataKey"),
    (answer("NoSuchBucket", 404), "does not exist"),
    (answer("PermanentRedirect", 301, **{"x-amz-bucket-region": "eu-west-1"}), "the bucket is in eu-west-1"),
    (answer("AuthorizationHeaderMalformed", 400), "another region"),
    (answer("InvalidObjectState", 403), "archived"),
    (answer("RequestTimeTooSkewed", 403), "clock"),
    (answer("NotImplemented", 501), "refuses"),
    (answer("InvalidAccessKeyId", 403), "not accepted"),
]


def named(case: Any) -> str:
    error = case[0] if isinstance(case, tuple) else case
    return error.response["Error"]["Code"] if isinstance(error, ClientError) else type(error).__name__


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", PASSING, ids=named)
async def test_what_passes_is_unavailable_and_the_same_batch_goes_on(client: FakeClient, error: Exception, after: bool) -> None:
    """Whether the put took place or not, for the manifest and for a part."""
    client.after = after
    batch = [change(1), change(2)]
    async with over(client) as sink:
        await sink.resume(resume())
        client.script["PutObject"] = [error, None, error]
        for _ in range(2):
            with pytest.raises(Unavailable):
                await sink.write(batch)
        assert await sink.write(batch) == []
    assert client.bucket.ids() == [change(1).id, change(2).id]
    assert len(client.bucket.manifests()) == 1


@pytest.mark.parametrize("operation", ["PutObject", "ListObjectsV2", "GetObject"])
@pytest.mark.parametrize("case", STOPPING, ids=named)
async def test_what_somebody_must_mend_stops_the_sink_in_plain_words(
    client: FakeClient, case: tuple[Exception, str], operation: str
) -> None:
    error, words = case
    async with over(client) as sink:
        await sink.write([change(1)])
    client.script[operation] = [error] * 9
    async with over(client) as sink:
        with pytest.raises(Misconfigured) as stopped:
            await sink.resume(resume())
    assert words in str(stopped.value)
    assert not isinstance(stopped.value, Held)
    assert client.bucket.ids() == [change(1).id]


async def test_denied_access_comes_with_the_whole_policy(client: FakeClient) -> None:
    client.script["ListObjectsV2"] = [answer("AccessDenied", 403, "ListObjectsV2")]
    async with over(client, sse="aws:kms", kms_key_id="arn:aws:kms:us-east-1:1:key/k") as sink:
        with pytest.raises(Misconfigured) as stopped:
            await sink.resume(resume())
    for needed in ("s3:PutObject", "s3:GetObject", "s3:ListBucket", "arn:aws:s3:::lake/cdc/*", "kms:Decrypt", "key/k"):
        assert needed in str(stopped.value)
    assert "Multipart" not in str(stopped.value)
    assert "Delete" not in str(stopped.value)


@pytest.mark.parametrize("code", ["BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"])
async def test_a_wrong_checksum_is_tried_three_times_then_stops(client: FakeClient, code: str) -> None:
    async with over(client) as sink:
        client.script["PutObject"] = [answer(code, 400), answer(code, 400)]
        assert await sink.write([change(1)]) == []
        client.script["PutObject"] = [answer(code, 400)] * 3
        with pytest.raises(Misconfigured, match="checksum did not match"):
            await sink.write([change(2)])
    assert client.bucket.ids() == [change(1).id]


async def test_expired_credentials_are_fetched_once_then_stop(client: FakeClient) -> None:
    async with over(client) as sink:
        client.script["PutObject"] = [answer("ExpiredToken", 400)]
        assert await sink.write([change(1)]) == []
        client.script["PutObject"] = [answer("ExpiredToken", 400)] * 2
        with pytest.raises(Misconfigured, match="expired"):
            await sink.write([change(2)])


async def test_a_row_that_the_store_finds_too_large_is_dead_and_its_part_void(client: FakeClient) -> None:
    async with over(client) as sink:
        client.script["PutObject"] = [None, answer("EntityTooLarge", 400), answer("SlowDown", 503)]
        with pytest.raises(Unavailable):
            await sink.write([change(1)])
        (setback,) = await sink.write([change(1)])
        assert (setback.index, setback.verdict, setback.code) == (0, Verdict.DEAD, "too_large")
        assert await sink.write([change(2)]) == []
    assert client.bucket.ids() == [change(2).id]
    first, second = client.bucket.manifests()
    assert second["voided"] == [first["parts"][0]["key"]]


async def test_several_rows_too_large_together_stop_and_say_what_to_lower(client: FakeClient) -> None:
    async with over(client) as sink:
        client.script["PutObject"] = [None, answer("EntityTooLarge", 400)]
        with pytest.raises(TooLarge) as stopped:
            await sink.write([change(1), change(2)])
    assert "roll.bytes" in str(stopped.value)


async def test_a_row_that_cannot_be_encoded_is_dead_and_the_others_go_in(client: FakeClient) -> None:
    late = 400_000 * 365 * 86_400 * 10**9
    async with over(client, raw=True) as sink:
        setbacks = await sink.write([change(1), change(2, version=late), change(3, raw=b"\xff"), change(4)])
        assert sorted((s.index, s.verdict, s.code) for s in setbacks) == [(1, Verdict.DEAD, "bad_row"), (2, Verdict.DEAD, "bad_row")]
        assert [s.verdict for s in await sink.write([change(5, version=late)])] == [Verdict.DEAD]
    assert client.bucket.ids() == [change(1).id, change(4).id]
    assert len(client.bucket.manifests()) == 1


async def test_something_else_under_a_parts_name_stops_the_sink(client: FakeClient) -> None:
    async with over(client) as sink:
        client.bucket.objects["cdc/data/public.orders/dt=2027-01-15/hour=08/000000000001-0000.jsonl.gz"] = b"holiday pictures"
        with pytest.raises(Misconfigured, match="something else") as stopped:
            await sink.write([change(1)])
    assert "s3://lake/cdc/data/public.orders" in str(stopped.value)


async def test_an_answer_that_breaks_off_is_asked_again(client: FakeClient) -> None:
    async with over(client) as sink:
        await sink.write([change(1)])
    whole = client.get_object

    async def breaks(**given: Any) -> dict[str, Any]:
        await whole(**given)
        return {"Body": Body(b"{", ConnectionResetError())}

    async with over(client) as sink:
        client.get_object = breaks  # type: ignore[method-assign]
        with pytest.raises(Unavailable):
            await sink.resume(resume())
        client.get_object = whole  # type: ignore[method-assign]
        assert [known.id for known in await sink.resume(resume())] == [change(1).id]


async def test_what_is_asked_of_s3_is_what_the_options_say(client: FakeClient) -> None:
    given = {
        "sse": "aws:kms",
        "kms_key_id": "k",
        "bucket_key": True,
        "storage_class": "GLACIER_IR",
        "expected_bucket_owner": "123456789012",
    }
    async with over(client, **given) as sink:
        await sink.resume(resume())
        await sink.write([change(1)])
    operations = [operation for operation, _ in client.calls]
    replays = "ListObjectsV2"  # whether somebody replays: at start, and after each manifest
    assert operations == [replays, "ListObjectsV2", "PutObject", replays, "PutObject"]
    for operation, asked in client.calls:
        assert asked["ExpectedBucketOwner"] == "123456789012"
        if operation == "PutObject":
            assert asked["IfNoneMatch"] == "*"
            assert len(base64.b64decode(asked["ChecksumSHA256"])) == 32
            assert (asked["ServerSideEncryption"], asked["SSEKMSKeyId"], asked["BucketKeyEnabled"]) == ("aws:kms", "k", True)
            assert asked["StorageClass"] == "GLACIER_IR"
