"""The loop of AWS's documentation: boto3, all shards in turn, get_records, json.loads each record. ENDPOINT RECORDS from the command line."""

from __future__ import annotations

import json
import sys

import boto3


def main() -> None:
    endpoint, wanted = sys.argv[1], int(sys.argv[2])
    kinesis = boto3.client("kinesis", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    iterators = {
        shard["ShardId"]: kinesis.get_shard_iterator(StreamName="bench", ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON")[
            "ShardIterator"
        ]
        for shard in kinesis.list_shards(StreamName="bench")["Shards"]
    }
    count = deletes = 0
    while iterators:
        for shard, iterator in list(iterators.items()):
            page = kinesis.get_records(ShardIterator=iterator, Limit=10_000)
            for record in page["Records"]:
                change = json.loads(record["Data"])
                count += 1
                deletes += change["op"] == "d"
            if page["MillisBehindLatest"]:
                iterators[shard] = page["NextShardIterator"]
            else:
                del iterators[shard]
    assert count == wanted, f"read {count} of {wanted}"
    print(json.dumps({"read": count, "deletes": deletes}))


if __name__ == "__main__":
    main()
