"""What a stream manager asks of Kinesis: changes that take a while, how often they may be made, and keys that cannot be used."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from dsqlcdc.local import Clock, Deny, Local

if TYPE_CHECKING:
    from tests.local.conftest import Clients

SERVICES = ["kinesis", "kms"]
HOUR = 3600.0
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")


@pytest.fixture
async def aws() -> AsyncIterator[Local]:
    async with Local(read_throttle=False, clock=Clock(1_700_000_000.0, lambda: 0.0)) as local:
        yield local


@pytest.fixture
async def arn(aws: Local) -> str:
    return aws.pipe("s", shards=2).stream_arn


async def code(calling: Any) -> str:
    with pytest.raises(ClientError) as caught:
        await calling
    return str(caught.value.response["Error"]["Code"])


CHANGES: dict[str, dict[str, Any]] = {
    "update_max_record_size": {"MaxRecordSizeInKiB": 2048},
    "update_shard_count": {"TargetShardCount": 4, "ScalingType": "UNIFORM_SCALING"},
    "update_stream_mode": {"StreamModeDetails": {"StreamMode": "ON_DEMAND"}},
    "start_stream_encryption": {"EncryptionType": "KMS", "KeyId": "alias/aws/kinesis"},
    "stop_stream_encryption": {"EncryptionType": "KMS", "KeyId": "alias/aws/kinesis"},
    "increase_stream_retention_period": {"RetentionPeriodHours": 48},
    "decrease_stream_retention_period": {"RetentionPeriodHours": 24},
    "delete_stream": {},
}


async def status(call: Clients) -> str:
    return str((await call.kinesis.describe_stream_summary(StreamName="s"))["StreamDescriptionSummary"]["StreamStatus"])


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_takes_a_while_and_refuses_every_other_one_meanwhile(aws: Local, call: Clients, arn: str, change: str) -> None:
    await getattr(call.kinesis, change)(StreamARN=arn, **CHANGES[change])
    assert await status(call) == ("DELETING" if change == "delete_stream" else "UPDATING")
    for other, given in CHANGES.items():
        assert await code(getattr(call.kinesis, other)(StreamARN=arn, **given)) == "ResourceInUseException", other
    aws.clock.advance(1)
    if change == "delete_stream":
        assert await code(call.kinesis.describe_stream_summary(StreamName="s")) == "ResourceNotFoundException"
    else:
        assert await status(call) == "ACTIVE"


async def test_the_mode_changes_twice_within_24_hours_and_again_when_they_are_over(aws: Local, call: Clients, arn: str) -> None:
    async def change(mode: str) -> None:
        await call.kinesis.update_stream_mode(StreamARN=arn, StreamModeDetails={"StreamMode": mode})
        aws.clock.advance(1)

    assert await code(change("PROVISIONED")) == "InvalidArgumentException"
    await change("ON_DEMAND")
    await change("PROVISIONED")
    assert await code(change("ON_DEMAND")) == "LimitExceededException"
    aws.clock.advance(23 * HOUR)
    assert await code(change("ON_DEMAND")) == "LimitExceededException"
    aws.clock.advance(HOUR)
    await change("ON_DEMAND")


async def test_shards_are_counted_anew_ten_times_a_day_and_at_most_doubled(aws: Local, call: Clients, arn: str) -> None:
    async def scale(shards: int) -> None:
        await call.kinesis.update_shard_count(StreamARN=arn, TargetShardCount=shards, ScalingType="UNIFORM_SCALING")
        aws.clock.advance(1)

    assert await code(scale(5)) == "LimitExceededException"
    for turn in range(10):
        await scale(4 if turn % 2 == 0 else 2)
    assert await code(scale(4)) == "LimitExceededException"
    aws.clock.advance(24 * HOUR)
    await scale(4)
    summary = (await call.kinesis.describe_stream_summary(StreamARN=arn))["StreamDescriptionSummary"]
    limits = await call.kinesis.describe_limits()
    assert summary["OpenShardCount"] == limits["OpenShardCount"] == 4
    aws.clock.advance(1)
    await call.kinesis.update_stream_mode(StreamARN=arn, StreamModeDetails={"StreamMode": "ON_DEMAND"})
    assert (await call.kinesis.describe_limits())["OnDemandStreamCount"] == 1
    aws.clock.advance(1)
    assert await code(scale(8)) == "ValidationException"


async def test_an_account_has_a_limit_of_shards_and_of_on_demand_streams(aws: Local, call: Clients) -> None:
    assert await code(call.kinesis.create_stream(StreamName="wide", ShardCount=1001)) == "LimitExceededException"
    demand = {"StreamModeDetails": {"StreamMode": "ON_DEMAND"}}
    for number in range(50):
        await call.kinesis.create_stream(StreamName=f"d{number}", **demand)
    assert await code(call.kinesis.create_stream(StreamName="d50", **demand)) == "LimitExceededException"
    assert await code(call.kinesis.create_stream(StreamName="no blanks", ShardCount=1)) == "ValidationException"


async def test_a_record_over_the_limit_is_refused_until_the_limit_is_raised(aws: Local, call: Clients) -> None:
    arn = aws.pipe("s", max_record_kib=1024).stream_arn
    large = {"StreamARN": arn, "PartitionKey": "k", "Data": b"x" * 1_048_576}
    assert await code(call.kinesis.put_record(**large)) == "InvalidArgumentException"
    assert await code(call.kinesis.update_max_record_size(StreamARN=arn, MaxRecordSizeInKiB=10241)) == "ValidationException"
    await call.kinesis.update_max_record_size(StreamARN=arn, MaxRecordSizeInKiB=2048)
    await call.kinesis.put_record(**large)


async def test_a_streams_key_must_be_there_enabled_and_allowed_for_every_read_and_write(aws: Local, call: Clients, arn: str) -> None:
    encrypt = {"StreamARN": arn, "EncryptionType": "KMS"}
    assert await code(call.kinesis.start_stream_encryption(**encrypt, KeyId="alias/none")) == "KMSNotFoundException"
    made = (await call.kms.create_key())["KeyMetadata"]
    key, key_id = made["Arn"], made["KeyId"]
    await call.kms.create_alias(AliasName="alias/mine", TargetKeyId=key)
    await call.kinesis.start_stream_encryption(**encrypt, KeyId="alias/mine")
    aws.clock.advance(1)
    shard = (await call.kinesis.list_shards(StreamARN=arn))["Shards"][0]["ShardId"]
    iterator = (await call.kinesis.get_shard_iterator(StreamARN=arn, ShardId=shard, ShardIteratorType="TRIM_HORIZON"))["ShardIterator"]
    uses = {
        "kms:Decrypt": lambda: call.kinesis.get_records(ShardIterator=iterator),
        "kms:GenerateDataKey": lambda: call.kinesis.put_records(StreamARN=arn, Records=[{"Data": b"x", "PartitionKey": "k"}]),
    }
    for right, use in uses.items():
        await use()
        await call.kms.disable_key(KeyId=key_id)
        assert await code(use()) == "KMSDisabledException"
        await call.kms.schedule_key_deletion(KeyId=key_id)
        assert await code(use()) == "KMSInvalidStateException"
        await call.kms.cancel_key_deletion(KeyId=key_id)
        await call.kms.enable_key(KeyId=key_id)
        aws.denials.add(Deny(action=right, resource=key, times=1))
        assert await code(use()) == "KMSAccessDeniedException"
        await use()
    await call.kms.disable_key(KeyId=key_id)
    assert await code(call.kinesis.start_stream_encryption(**encrypt, KeyId=key)) == "KMSDisabledException"
    await call.kinesis.stop_stream_encryption(**encrypt, KeyId=key)
    await uses["kms:Decrypt"]()
