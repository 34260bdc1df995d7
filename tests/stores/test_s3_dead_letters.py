"""Dead letters in S3: the contract against the embedded AWS, the files' format and names, many pages, and what cannot be read."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dsqlcdc.aws import Aws, client
from dsqlcdc.core.ports import DeadLetter
from dsqlcdc.errors import Misconfigured, Unavailable
from dsqlcdc.stores.files import FileDeadLetters
from dsqlcdc.stores.s3_dead_letters import S3DeadLetters
from dsqlcdc.testing.letters import check_dead_letter_store, check_letter_box
from dsqlcdc.testing.local import LocalAws

LETTER = DeadLetter(
    pipeline="p",
    sink="",
    stream="s@1",
    shard="shardId-000000000000",
    sequence="495",
    arrived=1e9,
    code="unreadable",
    detail="d",
    raw=b"\xff",
)


@pytest.fixture
def aws(local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> LocalAws:
    for name, value in local_aws.environ.items():
        monkeypatch.setenv(name, value)
    return local_aws


async def bucket(name: str = "letters") -> None:
    async with client("s3", Aws()) as s3:
        await s3.create_bucket(Bucket=name)


async def test_s3_dead_letters_keep_the_contract(aws: LocalAws) -> None:
    await bucket()
    await check_dead_letter_store(lambda: S3DeadLetters("letters", "dead/", config_sha256="abc"))


async def test_s3_dead_letters_are_dealt_with_by_the_contract(aws: LocalAws) -> None:
    await bucket()
    await check_letter_box(lambda: S3DeadLetters("letters", "dead/"))


async def test_a_letter_has_the_name_and_the_bytes_of_its_file(aws: LocalAws, tmp_path: Path) -> None:
    await bucket()
    one, two = S3DeadLetters("letters", "dead/", config_sha256="abc"), FileDeadLetters(tmp_path, "abc")
    for letter in (LETTER, msgspec.structs.replace(LETTER, sink="lake", sequence="7")):
        await one.put(letter)
        await two.put(letter)
    async with client("s3", Aws()) as s3:
        keys = [entry["Key"] for entry in (await s3.list_objects_v2(Bucket="letters"))["Contents"]]
        bodies = {key: await (await s3.get_object(Bucket="letters", Key=key))["Body"].read() for key in keys}
    files = {
        f"dead/{path.relative_to(tmp_path).as_posix()}": path.read_bytes()
        for path in await asyncio.to_thread(lambda: list(tmp_path.rglob("*.gz")))
    }
    assert bodies == files
    await one.close()


async def test_of_many_who_bury_one_record_one_says_that_it_is_new(aws: LocalAws) -> None:
    await bucket()
    stores = [S3DeadLetters("letters") for _ in range(8)]
    assert sum(await asyncio.gather(*(store.put(LETTER) for store in stores))) == 1
    for store in stores:
        await store.close()


async def test_letters_are_listed_over_pages_and_without_those_that_were_put_aside(aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> None:
    await bucket()
    store = S3DeadLetters("letters", "dead/")
    for number in range(7):
        await store.put(
            msgspec.structs.replace(LETTER, sequence=str(number), arrived=1e9 + 86_400 * (number % 3), sink="lake" if number % 2 else "")
        )
    opened = await store._client()
    whole = opened.list_objects_v2

    async def by_twos(**asked: Any) -> Any:
        return await whole(MaxKeys=2, **asked)

    monkeypatch.setattr(opened, "list_objects_v2", by_twos)
    async with client("s3", Aws()) as s3:
        await s3.put_object(Bucket="letters", Key="dead/replayed/dt=2001-09-09/x.json.gz", Body=b"")
        await s3.put_object(Bucket="letters", Key="other/dt=2001-09-09/x.json.gz", Body=b"")
    found = [letter.sequence async for _, letter in store.letters()]
    assert found == ["0", "6", "3", "4", "1", "2", "5"]
    await store.close()


async def test_a_damaged_letter_does_not_hide_the_others(aws: LocalAws) -> None:
    await bucket()
    store = S3DeadLetters("letters")
    await store.put(LETTER)
    async with client("s3", Aws()) as s3:
        await s3.put_object(Bucket="letters", Key="dt=2001-09-08/shard=x/1-checksum.json.gz", Body=b"no gzip")
    seen: list[DeadLetter] = []

    async def read() -> None:
        async for _, letter in store.letters():
            seen.append(letter)

    with pytest.raises(Misconfigured, match="DSQLCDC-E207 1 dead letter"):
        await read()
    assert seen == [LETTER]
    with pytest.raises(KeyError):
        await store.letter("dt=2001-09-08/shard=x/2-checksum.json.gz")
    await store.close()


@pytest.mark.parametrize(("code", "status", "fault"), [("SlowDown", 503, Unavailable), ("AccessDenied", 403, Misconfigured)])
async def test_what_s3_refuses_settles_nothing(aws: LocalAws, code: str, status: int, fault: type[Exception]) -> None:
    await bucket()
    store = S3DeadLetters("letters")
    aws.fault("error", service="s3", operation="PutObject", code=code, status=status)
    with pytest.raises(fault):
        await store.put(LETTER)
    assert await store.put(LETTER) is True
    await store.close()


async def test_denied_is_gone_where_s3_tells_no_more_and_the_letter_is_not_listed(aws: LocalAws) -> None:
    await bucket()
    store = S3DeadLetters("letters")
    await store.put(LETTER)
    (name,) = [name async for name, _ in store.letters()]
    denied = {"service": "s3", "operation": "GetObject", "code": "AccessDenied", "status": 403}
    aws.fault("error", **denied)
    with pytest.raises(Misconfigured, match="E102"):
        await store.letter(name)
    await store.close_letter(name, "discarded", "discarded", "seen", 1.0)
    aws.fault("error", **denied)
    await store.tried(name, "refused", "again", 2.0)
    aws.fault("error", **denied)
    assert not await store.close_letter(name, "discarded", "discarded", "seen", 1.0)
    assert [name async for name, _ in store.letters()] == []
    await store.close()


async def test_a_bucket_that_does_not_exist_is_named(aws: LocalAws) -> None:
    store = S3DeadLetters("nowhere")
    with pytest.raises(Misconfigured, match="s3://nowhere/"):
        await store.put(LETTER)
    await store.close()
