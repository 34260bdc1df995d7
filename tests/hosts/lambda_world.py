"""A pipe in the embedded AWS with a bucket and a function's config, its shards as a trigger reads them, and events by hand."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Mapping
from typing import Any

import boto3
import msgspec
from botocore.config import Config

from dsqlcdc.core.records import Record
from dsqlcdc.hosts.aws_lambda import Function
from dsqlcdc.local.compare import Comparison, compare
from dsqlcdc.testing.local import LocalAws
from dsqlcdc.testing.records import full
from dsqlcdc.testing.trigger import Sandboxes, Settings, Shard, Trigger, event_of

STREAM, BUCKET = "orders-cdc", "lake"
ARN = f"arn:aws:kinesis:us-east-1:123456789012:stream/{STREAM}"
TABLES = {
    "public.orders": {"key": ["order_id", "item_id"]},
    "app.notes": {"key": ["slug"]},
    "app.users": {"key": ["id"]},
    "public.accounts": {"key": ["id"]},
    "public.every_type": {"key": ["id"]},
    "t.*": {"key": ["id"]},
}


class LambdaWorld:
    """`environ` is a function's environment; `configure` writes what DSQLCDC_CONFIG holds."""

    def __init__(self, aws: LocalAws, shards: int = 3) -> None:
        self.aws = aws
        self.pipe = aws.pipe(STREAM, shards)
        self._clients: dict[str, Any] = {}
        self.client("s3").create_bucket(Bucket=BUCKET)
        aws.control("throttle", reads=False)
        self.environ = {**aws.environ, "DSQLCDC_LOG_LEVEL": "error"}
        self.configure()

    def configure(self, **blocks: Any) -> None:
        """JSON is YAML."""
        body: dict[str, Any] = {
            "pipeline": "p",
            "source": {"stream": STREAM},
            "tables": TABLES,
            "sinks": {"lake": {"type": "s3", "bucket": BUCKET, "prefix": "cdc/"}},
            "state": {"type": "dynamodb", "table": "no-such-table"},
            "dead_letters": {"type": "s3", "bucket": BUCKET},
            "fragments": {"type": "s3", "bucket": BUCKET},
            **blocks,
        }
        self.config = json.dumps({name: value for name, value in body.items() if value is not None})
        self.environ["DSQLCDC_CONFIG"] = self.config

    def client(self, service: str) -> Any:
        if service not in self._clients:
            keys = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
            config = Config(s3={"addressing_style": "path"})
            self._clients[service] = boto3.client(service, endpoint_url=self.aws.endpoint, region_name="us-east-1", config=config, **keys)
        return self._clients[service]

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def commit(self, **commit: Any) -> None:
        self.aws.commit(cluster=self.pipe.cluster, **commit)

    def reshard(self) -> None:
        """Split the first open shard in two, and merge the last two."""
        kinesis = self.client("kinesis")
        first = self._open()[0]
        low, high = (int(first["HashKeyRange"][end]) for end in ("StartingHashKey", "EndingHashKey"))
        kinesis.split_shard(StreamName=STREAM, ShardToSplit=first["ShardId"], NewStartingHashKey=str((low + high) // 2))
        kinesis.get_waiter("stream_exists").wait(StreamName=STREAM, WaiterConfig={"Delay": 1})
        one, two = self._open()[-2:]
        kinesis.merge_shards(StreamName=STREAM, ShardToMerge=one["ShardId"], AdjacentShardToMerge=two["ShardId"])
        kinesis.get_waiter("stream_exists").wait(StreamName=STREAM, WaiterConfig={"Delay": 1})

    def _open(self) -> list[Any]:
        shards = self.client("kinesis").list_shards(StreamName=STREAM)["Shards"]
        still = [shard for shard in shards if "EndingSequenceNumber" not in shard["SequenceNumberRange"]]
        return sorted(still, key=lambda shard: int(shard["HashKeyRange"]["StartingHashKey"]))

    def shards(self) -> list[Shard]:
        """Every shard with all its records."""
        found: list[Shard] = []
        for shard in self.client("kinesis").list_shards(StreamName=STREAM)["Shards"]:
            parents = [shard[name] for name in ("ParentShardId", "AdjacentParentShardId") if name in shard]
            found.append(Shard(shard["ShardId"], self._records(shard["ShardId"]), parents))
        return found

    def _records(self, shard: str) -> list[Record]:
        kinesis, records = self.client("kinesis"), list[Record]()
        iterator = kinesis.get_shard_iterator(StreamName=STREAM, ShardId=shard, ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
        while iterator:
            page = kinesis.get_records(ShardIterator=iterator)
            records += [
                Record(one["SequenceNumber"], one["Data"], one["ApproximateArrivalTimestamp"].timestamp()) for one in page["Records"]
            ]
            if not page["Records"] and page["MillisBehindLatest"] == 0:
                break
            iterator = page.get("NextShardIterator")
        return records

    def objects(self, prefix: str) -> Mapping[str, bytes]:
        s3, found = self.client("s3"), dict[str, bytes]()
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
            for entry in page.get("Contents", []):
                found[entry["Key"]] = s3.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read()
        return found

    def lines(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(line) for body in self.objects("cdc/data/").values() for line in gzip.decompress(body).splitlines()]

    def compare(self, lines: list[dict[str, Any]]) -> Comparison:
        return compare(self.aws.changes(self.pipe.cluster), lines)


def deduplicated(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the documented view gives: a line for each (schema, table, key, version); of a table without a key, every line."""
    found = {
        (n if line["key"] is None else (line["schema"], line["table"], json.dumps(line["key"]), line["version"])): line
        for n, line in enumerate(lines)
    }
    return list(found.values())


NOTHING: dict[str, Any] = {"batchItemFailures": []}
"""The answer that leaves nothing owed."""
OUTCOMES = ("delivered", "stale", "duplicate", "unrouted", "parked", "dead")


class Context:
    """Lambda's context, as far as it is used, with so much time left for ever."""

    def __init__(self, seconds: float = 60.0) -> None:
        self._left = int(seconds * 1000)

    def get_remaining_time_in_millis(self) -> int:
        return self._left


def insert(n: int, **more: Any) -> bytes:
    return full("c", "t.rows", {"id": n, **more}, 1_800_000_000_000_000_000 + n)


def event(*data: bytes, first: int = 1, shard: str = "shardId-000000000000") -> dict[str, Any]:
    """A batch of records whose sequence numbers begin with `first`."""
    return event_of(shard, [Record(str(first + n), one, 1_800_000_000.0 + n) for n, one in enumerate(data)], ARN)


def run_trigger(world: LambdaWorld, settings: Settings, **more: Any) -> tuple[Trigger, Sandboxes]:
    """Everything in the stream through a trigger of these settings, into functions of this process."""
    sandboxes = Sandboxes(lambda: Function(world.environ))

    async def work() -> Trigger:
        trigger = Trigger(sandboxes, ARN, settings, clock=lambda: 1_800_000_000.0, **more)
        await trigger.run(world.shards())
        return trigger

    try:
        return asyncio.run(work()), sandboxes
    finally:
        sandboxes.close()
