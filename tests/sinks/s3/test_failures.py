"""The failure table, row by row: what S3 answers, and what the sink makes of it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, ReadTimeoutError
from botocore.exceptions import ConnectionClosedError as Closed

from dsqlcdc.contract import Known, Misconfigured, Setback, Unavailable, Verdict
from dsqlcdc.errors import Fault, Held
from dsqlcdc_s3 import Options, S3Sink
from dsqlcdc_s3.aws_objects import AwsObjects
from dsqlcdc_s3.encode import void
from dsqlcdc_s3.objects import Put, TooLarge

from .lake import Bucket, FakeObjects, change, context, make_sink, resume


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
    made = Options.model_validate({"bucket": "lake", "prefix": "cdc/", "parallel": 1, **options})

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


# ── two writers, other sinks, batches that change ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def lake(bucket: Bucket) -> Callable[..., S3Sink]:
    return lambda **more: make_sink(FakeObjects(bucket), more.pop("options", None), **more)


async def test_an_older_writer_stops_and_stays_stopped(lake: Callable[..., S3Sink], bucket: Bucket) -> None:
    old, new = lake(writer="old"), lake(writer="new")
    async with old, new:
        await old.resume(resume())
        assert await old.write([change(1)]) == []
        assert [known.id for known in await new.resume(resume(old.word()))] == [change(1).id]
        assert await new.write([change(2)]) == []
        for number in (3, 4):
            with pytest.raises(Held, match="by new with epoch 2; we are old with epoch 1"):
                await old.write([change(number)])
        assert await new.write([change(3)]) == []
    assert bucket.ids() == [change(n).id for n in (1, 2, 3)]


async def test_two_writers_of_one_age_are_not_both_right(lake: Callable[..., S3Sink], bucket: Bucket) -> None:
    one, two = lake(writer="one"), lake(writer="two")
    async with one, two:
        await one.resume(resume())
        await two.resume(resume())
        assert await one.write([change(1)]) == []
        with pytest.raises(Held, match="by one with epoch 1; we are two with epoch 1"):
            await two.write([change(1)])
    assert bucket.ids() == [change(1).id]


async def test_a_part_voided_by_a_newer_writer_stops_the_older(lake: Callable[..., S3Sink], bucket: Bucket) -> None:
    def stop_at_part(key: str, body: bytes) -> None:
        if "data/" in key:
            raise Unavailable("cannot put", why="no answer")

    old, new = make_sink(FakeObjects(bucket, before=stop_at_part), writer="old"), lake()
    async with old, new:
        await old.resume(resume())
        with pytest.raises(Unavailable):
            await old.write([change(1)])
        assert list(await new.resume(resume(old.word()))) == []
        old._parts._objects.before = lambda key, body: None  # type: ignore[union-attr]
        with pytest.raises(Held, match="voided"):
            await old.write([change(1)])
        assert await new.write([change(1)]) == []
    assert bucket.ids() == [change(1).id]
    first, second = bucket.manifests()
    assert second["voided"] == [first["parts"][0]["key"]]
    assert bucket.objects[first["parts"][0]["key"]] == void()


@pytest.mark.parametrize("other", [{"sink": "audit"}, {"pipeline": "other"}])
async def test_a_manifest_of_another_sink_stops_this_one(lake: Callable[..., S3Sink], other: dict[str, str]) -> None:
    async with lake() as sink:
        await sink.write([change(1)])
    async with lake(context=context(**other)) as sink:
        with pytest.raises(Misconfigured, match="belongs to another sink"):
            await sink.resume(resume(**other))
        with pytest.raises(Misconfigured, match="belongs to another sink"):
            await sink.write([change(1)])


async def test_another_batch_after_no_answer_voids_what_was_begun(bucket: Bucket) -> None:
    """Part 0 is in, part 1 is not: the copy of part 0's row comes back as a duplicate, part 1's row goes in anew."""
    failing = True

    def no_answer(key: str, body: bytes) -> None:
        if failing and key.endswith("0001.jsonl.gz"):
            raise Unavailable("cannot put", why="no answer")

    hour = 3600 * 10**9
    one, two = change(1), change(2, version=change(2).version + hour)
    async with make_sink(FakeObjects(bucket, before=no_answer), {"parallel": 1}) as sink:
        await sink.resume(resume())
        with pytest.raises(Unavailable):
            await sink.write([one, two])
        failing = False
        assert await sink.write([change(3), one, two]) == [Setback(1, Verdict.DUPLICATE)]
    assert sorted(bucket.ids()) == sorted([one.id, two.id, change(3).id])
    assert bucket.manifests()[1]["voided"] == [bucket.manifests()[0]["parts"][1]["key"]]


async def test_a_write_cancelled_in_mid_batch_leaves_what_the_next_start_voids(lake: Callable[..., S3Sink], bucket: Bucket) -> None:
    waiting = asyncio.Event()

    async def wait_at_parts() -> None:
        if bucket.manifests():
            waiting.set()
            await asyncio.Event().wait()

    async with make_sink(FakeObjects(bucket, pause=wait_at_parts), {"parallel": 1}) as sink:
        await sink.resume(resume())
        writing = asyncio.create_task(sink.write([change(1)]))
        await waiting.wait()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
    assert bucket.ids() == []
    async with lake() as sink:
        assert list(await sink.resume(resume())) == []
        assert await sink.write([change(1)]) == []
    assert bucket.ids() == [change(1).id]


async def test_a_store_that_ignores_conditions_is_refused_before_anything_is_harmed(bucket: Bucket) -> None:
    class Overwrites(FakeObjects):
        async def put(self, key: str, body: bytes, *, if_none_match: bool, sha256: bytes, content_type: str) -> Put:
            return await super().put(key, body, if_none_match=False, sha256=sha256, content_type=content_type)

    async with make_sink(Overwrites(bucket)) as sink:
        await sink.write([change(1)])
    async with make_sink(Overwrites(bucket)) as sink:
        with pytest.raises(Misconfigured, match="ignores If-None-Match"):
            await sink.resume(resume())
    assert bucket.ids() == [change(1).id]


async def test_state_lost_is_found_in_the_lake_and_only_what_can_come_again_is_read(bucket: Bucket) -> None:
    async with make_sink(FakeObjects(bucket)) as sink:
        await sink.resume(resume())
        for number in range(1, 40):
            await sink.write([change(number)])
    objects = FakeObjects(bucket)
    async with make_sink(objects) as sink:
        since = change(35).arrived
        assert list(await sink.resume(resume(since=since))) == [Known(change(n).id, change(n).arrived) for n in range(35, 40)]
        assert len([key for key in objects.gets if "data/" in key]) == 5
        assert len(objects.gets) < 20
        assert await sink.write([change(50)]) == []
    assert bucket.manifests()[-1]["n"] == 40
    assert bucket.manifests()[-1]["epoch"] == 2


async def test_a_state_without_its_lake_stops_the_sink_and_a_new_place_is_said(
    lake: Callable[..., S3Sink], bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    async with lake() as sink:
        await sink.resume(resume())
        await sink.write([change(1)])
        word = msgspec.json.encode({**msgspec.json.decode(sink.word()), "oldest": 2})
    bucket.objects.clear()
    async with lake() as sink:
        with pytest.raises(Misconfigured, match="manifests are gone"):
            await sink.resume(resume(word=word))
    moved = msgspec.json.encode({**msgspec.json.decode(word), "place": "s3://elsewhere/"})
    async with lake() as sink:
        assert list(await sink.resume(resume(word=moved))) == []
    assert "what it delivered before stays in s3://elsewhere/" in caplog.text


async def test_a_word_far_behind_costs_no_more_than_what_can_come_again(bucket: Bucket) -> None:
    objects = FakeObjects(bucket)
    async with make_sink(objects) as sink:
        await sink.resume(resume())
        word = sink.word()
        for number in range(1, 200):
            await sink.write([change(number)])
    async with make_sink(objects) as sink:
        objects.gets.clear()
        known = list(await sink.resume(resume(word, since=change(190).arrived)))
        assert [one.id for one in known] == [change(n).id for n in range(190, 200)]
        assert len(objects.gets) < 40


async def test_a_chain_of_thousands_is_found_in_a_few_dozen_requests(bucket: Bucket) -> None:
    async with make_sink(FakeObjects(bucket)) as sink:
        await sink.write([change(1)])
        body = bucket.objects["cdc/manifests/000000000001.json"]
        for n in range(2, 4321):
            bucket.objects[f"cdc/manifests/{n:012d}.json"] = body.replace(b'"n":1', b'"n":%d' % n).replace(
                b'"parts":[{', b'"parts":[],"was":[{'
            )
        assert sink._chain is not None
        assert await sink._chain.last(0) == 4320
        assert await sink._chain.last(4319) == 4320
        assert await sink._chain.last(4320) is None


@pytest.mark.parametrize("word", [b"nonsense", b'{"format":2}', b'{"format":1}'])
async def test_a_word_that_cannot_be_read_stops_the_sink(lake: Callable[..., S3Sink], word: bytes) -> None:
    async with lake() as sink:
        with pytest.raises(Misconfigured, match="word"):
            await sink.resume(resume(word))


async def test_a_manifest_of_a_newer_format_stops_the_sink(lake: Callable[..., S3Sink], bucket: Bucket) -> None:
    async with lake() as sink:
        await sink.write([change(1)])
        key = "cdc/manifests/000000000001.json"
        bucket.objects[key] = bucket.objects[key].replace(b'"format":1', b'"format":2')
        with pytest.raises(Misconfigured, match="its format is 2"):
            await sink.resume(resume())


async def test_the_same_change_twice_in_a_batch_goes_in_once(lake: Callable[..., S3Sink], bucket: Bucket) -> None:
    async with lake() as sink:
        assert await sink.write([change(1), change(1, shard="s2")]) == [Setback(1, Verdict.DUPLICATE)]
    assert bucket.ids() == [change(1).id]


async def test_faults_of_parallel_parts_one_that_stops_goes_first(bucket: Bucket) -> None:
    def refuse(key: str, body: bytes) -> None:
        if "hour=08" in key:
            raise Unavailable("cannot put", why="slow down")
        if "hour=09" in key:
            raise Misconfigured("cannot put", why="denied")

    hour = 3600 * 10**9
    async with make_sink(FakeObjects(bucket, before=refuse, pause=lambda: asyncio.sleep(0))) as sink:
        with pytest.raises(Fault) as stopped:
            await sink.write([change(1), change(2, version=change(2).version + hour)])
    assert isinstance(stopped.value, Misconfigured)
