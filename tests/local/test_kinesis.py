"""The Kinesis model through aiobotocore: what a reader of shards may rely on, call by call."""

from __future__ import annotations

import datetime as dt
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from dsqlcdc.local import Local

if TYPE_CHECKING:
    from tests.local.conftest import Clients

# aiohttp warns of bodies above 1 MiB that aiobotocore hands over as bytes.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")

STREAM = "s"
MIDDLE = str(2**127)


def code(caught: pytest.ExceptionInfo[ClientError]) -> str:
    return str(caught.value.response["Error"]["Code"])


@pytest.fixture
def two(aws: Local) -> Local:
    aws.pipe(STREAM, shards=2)
    return aws


async def shards(call: Clients, **given: Any) -> list[dict[str, Any]]:
    return list((await call.kinesis.list_shards(StreamName=STREAM, **given))["Shards"])


async def iterator(call: Clients, shard: str, kind: str = "TRIM_HORIZON", **given: Any) -> str:
    found = await call.kinesis.get_shard_iterator(StreamName=STREAM, ShardId=shard, ShardIteratorType=kind, **given)
    return str(found["ShardIterator"])


async def read(call: Clients, shard: str, kind: str = "TRIM_HORIZON", **given: Any) -> list[bytes]:
    """Everything from there to the tip, or to the end of a closed shard."""
    token: str | None = await iterator(call, shard, kind, **given)
    out: list[bytes] = []
    while token:
        page = await call.kinesis.get_records(ShardIterator=token)
        out += [record["Data"] for record in page["Records"]]
        if page["MillisBehindLatest"] == 0:
            break
        token = page.get("NextShardIterator")
    return out


async def put(call: Clients, *data: bytes, at: str = "0") -> list[str]:
    entries = [{"Data": one, "PartitionKey": "k", "ExplicitHashKey": at} for one in data]
    done = await call.kinesis.put_records(StreamName=STREAM, Records=entries)
    assert done["FailedRecordCount"] == 0
    return [record["SequenceNumber"] for record in done["Records"]]


async def test_sequence_numbers_have_56_digits_and_grow_within_a_shard_and_into_its_children(two: Local, call: Clients) -> None:
    numbers = await put(call, b"a", b"b")
    two.clock.advance(1)
    await call.kinesis.split_shard(StreamName=STREAM, ShardToSplit="shardId-000000000000", NewStartingHashKey=str(2**126))
    numbers += await put(call, b"c")
    assert [len(number) for number in numbers] == [56, 56, 56]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == 3


async def test_after_a_split_writes_go_to_the_children_and_the_parent_ends_naming_them(two: Local, call: Clients) -> None:
    await put(call, b"before")
    await call.kinesis.split_shard(StreamName=STREAM, ShardToSplit="shardId-000000000000", NewStartingHashKey=str(2**126))
    await put(call, b"low", at="0")
    await put(call, b"high", at=str(2**126))
    first = await call.kinesis.get_records(ShardIterator=await iterator(call, "shardId-000000000000"))
    assert [record["Data"] for record in first["Records"]] == [b"before"]
    assert "NextShardIterator" not in first
    children = {child["ShardId"]: child for child in first["ChildShards"]}
    assert sorted(children) == ["shardId-000000000002", "shardId-000000000003"]
    assert children["shardId-000000000002"]["ParentShards"] == ["shardId-000000000000"]
    assert children["shardId-000000000003"]["HashKeyRange"]["StartingHashKey"] == str(2**126)
    assert await read(call, "shardId-000000000002") == [b"low"]
    assert await read(call, "shardId-000000000003") == [b"high"]


async def test_a_closed_shard_ends_only_once_all_its_records_were_read(two: Local, call: Clients) -> None:
    await put(call, b"a", b"b")
    await call.kinesis.split_shard(StreamName=STREAM, ShardToSplit="shardId-000000000000", NewStartingHashKey="5")
    page = await call.kinesis.get_records(ShardIterator=await iterator(call, "shardId-000000000000"), Limit=1)
    assert "ChildShards" not in page
    assert page["MillisBehindLatest"] > 0
    page = await call.kinesis.get_records(ShardIterator=page["NextShardIterator"], Limit=1)
    assert len(page["ChildShards"]) == 2
    assert "NextShardIterator" not in page


async def test_a_merged_shard_has_both_parents_and_both_parents_end_in_it(two: Local, call: Clients) -> None:
    await call.kinesis.merge_shards(StreamName=STREAM, ShardToMerge="shardId-000000000000", AdjacentShardToMerge="shardId-000000000001")
    merged = (await shards(call))[2]
    assert (merged["ParentShardId"], merged["AdjacentParentShardId"]) == ("shardId-000000000000", "shardId-000000000001")
    assert merged["HashKeyRange"] == {"StartingHashKey": "0", "EndingHashKey": str(2**128 - 1)}
    for parent in ("shardId-000000000000", "shardId-000000000001"):
        page = await call.kinesis.get_records(ShardIterator=await iterator(call, parent))
        assert [child["ShardId"] for child in page["ChildShards"]] == ["shardId-000000000002"]
        assert page["ChildShards"][0]["ParentShards"] == ["shardId-000000000000", "shardId-000000000001"]


@pytest.mark.parametrize("target", [3, 4, 1])
async def test_update_shard_count_leaves_equal_open_shards_that_cover_every_hash(two: Local, call: Clients, target: int) -> None:
    await call.kinesis.update_shard_count(StreamName=STREAM, TargetShardCount=target, ScalingType="UNIFORM_SCALING")
    ranges = [shard["HashKeyRange"] for shard in await shards(call, ShardFilter={"Type": "AT_LATEST"})]
    spans = sorted((int(span["StartingHashKey"]), int(span["EndingHashKey"])) for span in ranges)
    assert len(spans) == target
    assert [spans[0][0], spans[-1][1]] == [0, 2**128 - 1]
    assert all(low[1] + 1 == high[0] for low, high in pairwise(spans))
    assert max(end - start for start, end in spans) - min(end - start for start, end in spans) <= 1


async def test_a_second_reshard_is_refused_while_the_first_is_under_way(aws: Local, call: Clients) -> None:
    aws.kinesis.delay = 60
    aws.pipe(STREAM, shards=2)
    await call.kinesis.split_shard(StreamName=STREAM, ShardToSplit="shardId-000000000000", NewStartingHashKey="5")
    again = {"StreamName": STREAM, "ShardToSplit": "shardId-000000000001", "NewStartingHashKey": str(2**127 + 5)}
    with pytest.raises(ClientError) as caught:
        await call.kinesis.split_shard(**again)
    assert code(caught) == "ResourceInUseException"
    assert len(await shards(call)) == 4
    aws.clock.advance(61)
    await call.kinesis.split_shard(**again)
    assert len(await shards(call)) == 6


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"Type": "AT_LATEST"}, "123"),
        ({"Type": "FROM_TRIM_HORIZON"}, "0123"),
        ({"Type": "AT_TRIM_HORIZON"}, "01"),
        ({"Type": "AFTER_SHARD_ID", "ShardId": "shardId-000000000001"}, "23"),
        ({"Type": "AT_TIMESTAMP", "Timestamp": "old"}, "01"),
        ({"Type": "FROM_TIMESTAMP", "Timestamp": "new"}, "123"),
        ({"Type": "FROM_TIMESTAMP", "Timestamp": "old"}, "0123"),
    ],
)
async def test_list_shards_filters(two: Local, call: Clients, given: dict[str, Any], expected: str) -> None:
    times = {"old": two.clock.now() + 5}
    two.clock.advance(10)
    await call.kinesis.split_shard(StreamName=STREAM, ShardToSplit="shardId-000000000000", NewStartingHashKey="5")
    two.clock.advance(10)
    times["new"] = two.clock.now()
    if "Timestamp" in given:
        given = {**given, "Timestamp": dt.datetime.fromtimestamp(times[given["Timestamp"]], dt.UTC)}
    assert "".join(shard["ShardId"][-1] for shard in await shards(call, ShardFilter=given)) == expected


async def test_list_shards_pages_keep_their_filter_and_their_token_expires(aws: Local, call: Clients) -> None:
    aws.pipe(STREAM, shards=5)
    await call.kinesis.split_shard(StreamName=STREAM, ShardToSplit="shardId-000000000000", NewStartingHashKey="5")
    seen: list[str] = []
    page = await call.kinesis.list_shards(StreamName=STREAM, MaxResults=2, ShardFilter={"Type": "AT_LATEST"})
    first = page["NextToken"]
    while True:
        seen += [shard["ShardId"][-1] for shard in page["Shards"]]
        if "NextToken" not in page:
            break
        page = await call.kinesis.list_shards(NextToken=page["NextToken"], MaxResults=2)
    assert "".join(seen) == "123456"
    with pytest.raises(ClientError) as caught:
        await call.kinesis.list_shards(StreamName=STREAM, NextToken=first)
    assert code(caught) == "InvalidArgumentException"
    aws.clock.advance(301)
    with pytest.raises(ClientError) as caught:
        await call.kinesis.list_shards(NextToken=first)
    assert code(caught) == "ExpiredNextTokenException"


async def test_every_iterator_type_begins_where_it_says(two: Local, call: Clients) -> None:
    numbers = await put(call, b"a", b"b")
    two.clock.advance(10)
    between = dt.datetime.fromtimestamp(two.clock.now() - 5, dt.UTC)
    numbers += await put(call, b"c")
    shard = "shardId-000000000000"
    assert await read(call, shard) == [b"a", b"b", b"c"]
    assert await read(call, shard, "LATEST") == []
    assert await read(call, shard, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=numbers[1]) == [b"b", b"c"]
    assert await read(call, shard, "AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=numbers[1]) == [b"c"]
    assert await read(call, shard, "AT_TIMESTAMP", Timestamp=between) == [b"c"]
    starting = (await shards(call))[0]["SequenceNumberRange"]["StartingSequenceNumber"]
    assert await read(call, shard, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=starting) == [b"a", b"b", b"c"]


async def test_a_sequence_number_of_another_shard_or_the_future_is_refused(two: Local, call: Clients) -> None:
    mine, other = (await put(call, b"a"))[0], (await put(call, b"b", at=MIDDLE))[0]
    for number in (other, str(int(mine) + 10**20), "123"):
        with pytest.raises(ClientError) as caught:
            await iterator(call, "shardId-000000000000", "AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=number)
        assert code(caught) == "InvalidArgumentException"
    future = dt.datetime.fromtimestamp(two.clock.now() + 60, dt.UTC)
    with pytest.raises(ClientError) as caught:
        await iterator(call, "shardId-000000000000", "AT_TIMESTAMP", Timestamp=future)
    assert code(caught) == "InvalidArgumentException"


async def test_iterators_expire_after_five_minutes_and_by_a_fault(two: Local, call: Clients) -> None:
    token = await iterator(call, "shardId-000000000000")
    two.clock.advance(299)
    await call.kinesis.get_records(ShardIterator=token)
    two.clock.advance(2)
    with pytest.raises(ClientError) as caught:
        await call.kinesis.get_records(ShardIterator=token)
    assert code(caught) == "ExpiredIteratorException"
    token = await iterator(call, "shardId-000000000000")
    two.kinesis.expire_iterators()
    with pytest.raises(ClientError) as caught:
        await call.kinesis.get_records(ShardIterator=token)
    assert code(caught) == "ExpiredIteratorException"


async def test_an_iterator_at_a_trimmed_number_reads_from_the_trim_horizon_without_an_error(two: Local, call: Clients) -> None:
    numbers = await put(call, b"a", b"b", b"c", b"d")
    shard = two.kinesis.stream(STREAM).shard("shardId-000000000000")
    assert shard.trim(shard.number(numbers[1], after=True)) == 2
    for kind in ("AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER"):
        assert await read(call, shard.id, kind, StartingSequenceNumber=numbers[0]) == [b"c", b"d"]
    assert await read(call, shard.id) == [b"c", b"d"]


async def test_retention_trims_records_and_forgets_closed_shards(two: Local, call: Clients) -> None:
    await put(call, b"old")
    await call.kinesis.split_shard(StreamName=STREAM, ShardToSplit="shardId-000000000001", NewStartingHashKey=str(2**127 + 5))
    two.clock.advance(20 * 3600)
    await put(call, b"new")
    two.clock.advance(5 * 3600)
    assert await read(call, "shardId-000000000000") == [b"new"]
    assert [shard["ShardId"][-1] for shard in await shards(call)] == ["0", "2", "3"]
    await call.kinesis.increase_stream_retention_period(StreamName=STREAM, RetentionPeriodHours=48)
    two.clock.advance(24 * 3600)
    assert await read(call, "shardId-000000000000") == [b"new"]


async def test_the_record_size_is_capped_until_it_is_raised(aws: Local, call: Clients) -> None:
    aws.pipe(STREAM, shards=1, max_record_kib=1024)
    large = b"x" * (1024 * 1024)
    with pytest.raises(ClientError) as caught:
        await put(call, large)
    assert code(caught) == "InvalidArgumentException"
    arn = aws.kinesis.stream(STREAM).arn
    await call.kinesis.update_max_record_size(StreamARN=arn, MaxRecordSizeInKiB=10240)
    await put(call, large)
    summary = (await call.kinesis.describe_stream_summary(StreamARN=arn))["StreamDescriptionSummary"]
    assert summary["MaxRecordSizeInKiB"] == 10240


async def test_a_reply_holds_10_mib_at_most_but_one_record_at_least(two: Local, call: Clients) -> None:
    for _ in range(4):
        await put(call, b"x" * (4 * 1024 * 1024))
    page = await call.kinesis.get_records(ShardIterator=await iterator(call, "shardId-000000000000"))
    assert len(page["Records"]) == 2
    await put(call, b"y" * (10 * 1024 * 1024 - 1), at=MIDDLE)
    page = await call.kinesis.get_records(ShardIterator=await iterator(call, "shardId-000000000001"))
    assert len(page["Records"]) == 1


async def test_a_reply_holds_10_000_records_at_most(two: Local, call: Clients) -> None:
    stream = two.kinesis.stream(STREAM)
    for _ in range(10_001):
        two.kinesis.put_bytes(stream, b"x", "k", "0")
    page = await call.kinesis.get_records(ShardIterator=await iterator(call, "shardId-000000000000"))
    assert len(page["Records"]) == 10_000
    assert page["MillisBehindLatest"] > 0


async def test_millis_behind_latest_is_the_age_of_where_the_reader_stands(two: Local, call: Clients) -> None:
    await put(call, b"a")
    two.clock.advance(60)
    await put(call, b"b")
    two.clock.advance(40)
    page = await call.kinesis.get_records(ShardIterator=await iterator(call, "shardId-000000000000"), Limit=1)
    assert 100_000 <= page["MillisBehindLatest"] < 105_000
    page = await call.kinesis.get_records(ShardIterator=page["NextShardIterator"])
    assert page["MillisBehindLatest"] == 0


async def test_empty_pages_come_before_records_that_are_there(two: Local, call: Clients) -> None:
    await put(call, b"a")
    two.kinesis.stream(STREAM).shard("shardId-000000000000").empty_reads = 1
    page = await call.kinesis.get_records(ShardIterator=await iterator(call, "shardId-000000000000"))
    assert page["Records"] == []
    assert page["MillisBehindLatest"] > 0
    page = await call.kinesis.get_records(ShardIterator=page["NextShardIterator"])
    assert [record["Data"] for record in page["Records"]] == [b"a"]


async def test_a_stream_made_anew_under_its_name_refuses_old_iterators(two: Local, call: Clients) -> None:
    number = (await put(call, b"a"))[0]
    token = await iterator(call, "shardId-000000000000")
    await call.kinesis.delete_stream(StreamName=STREAM)
    two.clock.advance(1)
    with pytest.raises(ClientError) as caught:
        await call.kinesis.get_records(ShardIterator=token)
    assert code(caught) == "ResourceNotFoundException"
    await call.kinesis.create_stream(StreamName=STREAM, ShardCount=2)
    with pytest.raises(ClientError) as caught:
        await shards(call)
    assert code(caught) == "ResourceNotFoundException"
    two.clock.advance(1)
    with pytest.raises(ClientError) as caught:
        await call.kinesis.get_records(ShardIterator=token)
    assert code(caught) == "ResourceNotFoundException"
    with pytest.raises(ClientError) as caught:
        await iterator(call, "shardId-000000000000", "AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=number)
    assert code(caught) == "InvalidArgumentException"


async def test_tags_mode_and_encryption_are_kept(two: Local, call: Clients) -> None:
    arn = two.kinesis.stream(STREAM).arn
    await call.kinesis.add_tags_to_stream(StreamName=STREAM, Tags={"team": "shop", "gone": "x"})
    await call.kinesis.untag_resource(ResourceARN=arn, TagKeys=["gone"])
    assert (await call.kinesis.list_tags_for_stream(StreamName=STREAM))["Tags"] == [{"Key": "team", "Value": "shop"}]
    await call.kinesis.start_stream_encryption(StreamName=STREAM, EncryptionType="KMS", KeyId="alias/aws/kinesis")
    two.clock.advance(1)
    await call.kinesis.update_stream_mode(StreamARN=arn, StreamModeDetails={"StreamMode": "ON_DEMAND"})
    described = (await call.kinesis.describe_stream(StreamName=STREAM))["StreamDescription"]
    assert (described["EncryptionType"], described["StreamModeDetails"]["StreamMode"]) == ("KMS", "ON_DEMAND")
    assert (await call.kinesis.list_streams())["StreamNames"] == [STREAM]


async def test_the_replys_date_is_the_models_clock(two: Local, call: Clients) -> None:
    two.clock.advance(7 * 24 * 3600)
    answered = await call.kinesis.list_streams()
    date = dt.datetime.strptime(answered["ResponseMetadata"]["HTTPHeaders"]["date"], "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=dt.UTC)
    assert abs(date.timestamp() - two.clock.now()) < 5
    assert answered["ResponseMetadata"]["RequestId"]
