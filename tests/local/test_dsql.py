"""The DSQL control plane through aiobotocore: statuses, refusals, what impairs a stream and what mends it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from dsqlcdc.local import Commit, Local, Statement
from dsqlcdc.local.envelope import OVERSIZE

if TYPE_CHECKING:
    from tests.local.conftest import Clients

SERVICES = ["dsql", "kinesis"]
LARGE = Commit(explicit=[[Statement("t.big", "insert", {"id": 1, "x": "y" * 1_200_000})]], declare={"t.big": ["id"]})


def code(caught: pytest.ExceptionInfo[ClientError]) -> str:
    return str(caught.value.response["Error"]["Code"])


async def create(call: Clients, aws: Local, **more: Any) -> Any:
    stream = next(iter(aws.dsql.clusters[more["clusterIdentifier"]].streams.values()))
    given = {"targetDefinition": {"kinesis": dict(stream.target)}, "ordering": "UNORDERED", "format": "JSON"} | more
    return await call.dsql.create_stream(**given)


async def status(call: Clients, cluster: str, stream: str) -> tuple[str, str]:
    found = await call.dsql.get_stream(clusterIdentifier=cluster, streamIdentifier=stream)
    return found["status"], found.get("statusReason", {}).get("error", "")


async def test_a_stream_is_creating_then_active_and_cannot_be_deleted_before(aws: Local, call: Clients) -> None:
    aws.dsql.delay = 60
    pipe = aws.pipe("s")
    made = await create(call, aws, clusterIdentifier=pipe.cluster)
    assert made["status"] == "CREATING"
    key = {"clusterIdentifier": pipe.cluster, "streamIdentifier": made["streamIdentifier"]}
    with pytest.raises(ClientError) as caught:
        await call.dsql.delete_stream(**key)
    assert code(caught) == "ConflictException"
    with pytest.raises(ClientError) as caught:
        await create(call, aws, clusterIdentifier=pipe.cluster)
    assert code(caught) == "ConflictException"
    aws.clock.advance(61)
    assert (await call.dsql.get_stream(**key))["targetDefinition"]["kinesis"]["streamArn"] == pipe.stream_arn
    assert await status(call, pipe.cluster, made["streamIdentifier"]) == ("ACTIVE", "")


async def test_a_deleted_stream_is_deleting_and_then_not_found(aws: Local, call: Clients) -> None:
    aws.dsql.delay = 60
    pipe = aws.pipe("s")
    key = {"clusterIdentifier": pipe.cluster, "streamIdentifier": pipe.cdc_stream}
    assert (await call.dsql.delete_stream(**key))["status"] == "DELETING"
    assert (await call.dsql.get_stream(**key))["status"] == "DELETING"
    aws.clock.advance(61)
    with pytest.raises(ClientError) as caught:
        await call.dsql.get_stream(**key)
    assert code(caught) == "ResourceNotFoundException"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404


async def test_five_streams_a_cluster_and_no_sixth_and_pages_list_them_all(aws: Local, call: Clients) -> None:
    pipe = aws.pipe("s")
    for _ in range(4):
        await create(call, aws, clusterIdentifier=pipe.cluster)
        aws.clock.advance(1)
    with pytest.raises(ClientError) as caught:
        await create(call, aws, clusterIdentifier=pipe.cluster)
    assert code(caught) == "ServiceQuotaExceededException"
    assert "You have reached the stream limit." in str(caught.value)
    listed: list[str] = []
    token: dict[str, str] = {}
    for _ in range(3):
        page = await call.dsql.list_streams(clusterIdentifier=pipe.cluster, maxResults=2, **token)
        listed += [stream["streamIdentifier"] for stream in page["streams"]]
        token = {"nextToken": page["nextToken"]} if "nextToken" in page else {}
    assert token == {}
    assert len(set(listed)) == 5


async def test_a_client_token_gives_the_same_stream_and_refuses_another_target(aws: Local, call: Clients) -> None:
    pipe = aws.pipe("s")
    one = await create(call, aws, clusterIdentifier=pipe.cluster, clientToken="t")
    again = await create(call, aws, clusterIdentifier=pipe.cluster, clientToken="t")
    assert one["streamIdentifier"] == again["streamIdentifier"]
    target = {"kinesis": {"streamArn": pipe.stream_arn, "roleArn": "arn:aws:iam::123456789012:role/x"}}
    with pytest.raises(ClientError) as caught:
        await create(call, aws, clusterIdentifier=pipe.cluster, clientToken="t", targetDefinition=target)
    assert code(caught) == "ConflictException"


async def test_an_idle_cluster_an_unknown_target_and_a_new_role_are_validation_errors(aws: Local, call: Clients) -> None:
    pipe = aws.pipe("s")
    cluster = aws.dsql.cluster(pipe.cluster)
    cluster.asleep = "IDLE"
    with pytest.raises(ClientError) as caught:
        await create(call, aws, clusterIdentifier=pipe.cluster)
    assert code(caught) == "ValidationException"
    cluster.asleep = ""
    target = dict(cluster.streams[pipe.cdc_stream].target)
    for wrong in ({"streamArn": pipe.stream_arn + "x"}, {"roleArn": "arn:aws:iam::123456789012:role/unknown"}):
        with pytest.raises(ClientError) as caught:
            await create(call, aws, clusterIdentifier=pipe.cluster, targetDefinition={"kinesis": target | wrong})
        assert code(caught) == "ValidationException"
    aws.dsql.role_delay = 10
    with pytest.raises(ClientError) as caught:
        await create(call, aws, clusterIdentifier=pipe.cluster)
    assert "IAM role" in str(caught.value)
    aws.clock.advance(11)
    assert (await create(call, aws, clusterIdentifier=pipe.cluster))["status"] == "CREATING"


@pytest.mark.parametrize("aws", [{"oversize": OVERSIZE}], indirect=True)
async def test_an_oversize_record_impairs_while_others_flow_and_a_raised_limit_mends(aws: Local, call: Clients) -> None:
    pipe = aws.pipe("s", shards=1, max_record_kib=1024)
    await aws.commit(LARGE)
    await aws.commit(Commit(transactions=5, tables=["public.accounts"]))
    assert await status(call, pipe.cluster, pipe.cdc_stream) == ("IMPAIRED", "KINESIS_OVERSIZE_RECORD")
    shard = next(iter(aws.kinesis.stream("s").shards.values()))
    before = shard.next
    assert before > 1
    await call.kinesis.update_max_record_size(StreamARN=pipe.stream_arn, MaxRecordSizeInKiB=10240)
    assert await status(call, pipe.cluster, pipe.cdc_stream) == ("ACTIVE", "")
    assert shard.next == before + 1


async def test_a_kinesis_stream_that_is_gone_fails_the_stream_for_good(aws: Local, call: Clients) -> None:
    pipe = aws.pipe("s")
    await call.kinesis.delete_stream(StreamName="s")
    await aws.commit(Commit(transactions=1))
    assert await status(call, pipe.cluster, pipe.cdc_stream) == ("FAILED", "KINESIS_STREAM_NOT_FOUND")
    lost = await aws.commit(Commit(transactions=3))
    assert lost.sent == {}
    assert {tuple(change.streams) for change in aws.generator().changes[lost.first :]} == {()}


async def test_writes_beyond_the_shard_limit_impair_and_are_delivered_later(aws: Local, call: Clients) -> None:
    pipe = aws.pipe("s", shards=1)
    aws.kinesis.write_throttle = True
    done = await aws.commit(Commit(transactions=1000))
    assert done.sent[pipe.cdc_stream] > 1100
    assert await status(call, pipe.cluster, pipe.cdc_stream) == ("IMPAIRED", "KINESIS_THROUGHPUT_EXCEEDED")
    shard = next(iter(aws.kinesis.stream("s").shards.values()))
    for _ in range(20):
        aws.clock.advance(1)
        await status(call, pipe.cluster, pipe.cdc_stream)
    assert await status(call, pipe.cluster, pipe.cdc_stream) == ("ACTIVE", "")
    assert shard.next - 1 == done.sent[pipe.cdc_stream]


async def test_what_waits_longer_than_a_week_fails_the_stream(aws: Local, call: Clients) -> None:
    pipe = aws.pipe("s")
    aws.dsql.stream(pipe.cluster, pipe.cdc_stream).impair("KINESIS_ACCESS_DENIED")
    await aws.commit(Commit(transactions=1))
    aws.clock.advance(6 * 24 * 3600)
    assert (await status(call, pipe.cluster, pipe.cdc_stream))[0] == "IMPAIRED"
    aws.clock.advance(2 * 24 * 3600)
    assert await status(call, pipe.cluster, pipe.cdc_stream) == ("FAILED", "KINESIS_ACCESS_DENIED")


async def test_clusters_have_a_life_and_tags(aws: Local, call: Clients) -> None:
    made = await call.dsql.create_cluster(deletionProtectionEnabled=True, tags={"a": "1"})
    cluster = made["identifier"]
    assert made["status"] == "CREATING"
    aws.clock.advance(1)
    await call.dsql.tag_resource(resourceArn=made["arn"], tags={"b": "2"})
    await call.dsql.untag_resource(resourceArn=made["arn"], tagKeys=["a"])
    assert (await call.dsql.list_tags_for_resource(resourceArn=made["arn"]))["tags"] == {"b": "2"}
    with pytest.raises(ClientError) as caught:
        await call.dsql.delete_cluster(identifier=cluster)
    assert code(caught) == "ConflictException"
    await call.dsql.update_cluster(identifier=cluster, deletionProtectionEnabled=False)
    await call.dsql.delete_cluster(identifier=cluster)
    aws.clock.advance(1)
    assert (await call.dsql.list_clusters())["clusters"] == []
