"""A fast Kinesis in a process of its own: every record is rendered before the first call, so that what is measured is the reader.

    python fake_kinesis.py --shards 4 --records 400000 --page 10000 [--row-bytes 0] [--latency 0.005] [--s3 0] [--stall-s3 0]

Read only, no throttling, signatures unchecked. Prints `ready http://127.0.0.1:PORT` when all pages are there.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
import time
import zlib
from itertools import accumulate
from pathlib import Path
from typing import Any

from aiohttp import web

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.fake_leases import Leases  # run as a script, it is in no package
from tests.benchmarks.fake_s3 import Bucket

T0 = 1_780_000_000_000_000_000
CLUSTER = "kmabugltfmjdaj2siqr2qbxgju"
SPACE = 1 << 128


def record(n: int, row_bytes: int = 0, ts: int = 0) -> bytes:
    """The n-th record: about 520 bytes in the shape of a DSQL CDC record, 1 in 21 a delete; with `row_bytes` a text column of that size.
    `ts`: when it was committed, in nanoseconds."""
    ts = ts or T0 + n * 1_000_003
    source = (
        f'"source":{{"version":"1.0","ts_ms":{ts // 10**6},"ts_ns":{ts},"txId":"{n:026d}","schema":"public","table":"order_items",'
        f'"db":"postgres","cluster":"{CLUSTER}"}},"ts_ms":{ts // 10**6 + 125},"ts_ns":{ts + 125_483_291}}}'
    )
    key = f'"order_id":{n // 8 + 100_000},"item_id":{n % 50}'
    if n % 21 == 20 and not row_bytes:
        return f'{{"type":"full","op":"d","before":{{{key}}},"after":null,{source}'.encode()
    text = "x" * row_bytes if row_bytes else f"hello world, a somewhat longer text field: café no. {n % 1000}"
    row = (
        f'{{{key},"customer":"{n:08x}-1111-4222-8333-{n:012x}","quantity":{n % 90 + 1},"price":"{n % 900 + 10}.{n % 100:02d}",'
        f'"status":"shipped","created_at":{ts // 1000},"note":"{text}"}}'
    )
    return f'{{"type":"full","op":"{"cu"[n % 3 == 0]}","before":null,"after":{row},{source}'.encode()


def entry(sequence: str, arrived: float, data: bytes, number: int) -> bytes:
    """One record as GetRecords answers it."""
    return b'{"SequenceNumber":"%b","ApproximateArrivalTimestamp":%.3f,"Data":"%b","PartitionKey":"%032x"}' % (
        sequence.encode(),
        arrived,
        base64.b64encode(data),
        number,
    )


def render(records: list[tuple[str, float, bytes]], following: str, behind: int) -> bytes:
    """The body of one GetRecords reply."""
    return _reply(b",".join([entry(*found, number) for number, found in enumerate(records)]), following, behind)


def _reply(entries: bytes, following: str, behind: int) -> bytes:
    return b'{"Records":[%b],"NextShardIterator":"%b","MillisBehindLatest":%d}' % (entries, following.encode(), behind)


class Server:
    def __init__(self, shards: int, records: int, page: int, row_bytes: int, latency: float, live: float = 0.0) -> None:
        """`live`: records a second, from some seconds after the start on; 0: all are there."""
        self.count, self.latency, self.page, self.live = shards, latency, page, live
        self.began = time.time() + 10 + records / 50_000 if live else 0.0
        self.leases = Leases()
        self.blobs: list[bytes] = []
        self.ends: list[list[int]] = []
        for shard in range(shards):
            entries = [
                entry(self.sequence(shard, i), self.at(n), record(n, row_bytes, int(self.at(n) * 1e9) if live else 0), i)
                for i, n in enumerate(range(shard, records, shards))
            ]
            self.blobs.append(b",".join(entries))
            self.ends.append(list(accumulate((len(one) + 1 for one in entries), initial=0)))
        self.total = [len(ends) - 1 for ends in self.ends]

    def at(self, n: int) -> float:
        """When the n-th record arrives, in seconds since the epoch."""
        return self.began + n / self.live if self.live else T0 / 1e9 + n / 1000

    def written(self, shard: int) -> int:
        """Records of a shard that are there by now."""
        if not self.live:
            return self.total[shard]
        return max(0, min(self.total[shard], int(((time.time() - self.began) * self.live - shard) / self.count)))

    @staticmethod
    def sequence(shard: int, index: int) -> str:
        return f"4966{shard:02d}{index:050d}"

    def shard(self, n: int) -> dict[str, Any]:
        low, high = SPACE * n // self.count, SPACE * (n + 1) // self.count - 1
        return {
            "ShardId": f"shardId-{n:012d}",
            "HashKeyRange": {"StartingHashKey": str(low), "EndingHashKey": str(high)},
            "SequenceNumberRange": {"StartingSequenceNumber": self.sequence(n, 0)},
        }

    async def handle(self, request: web.Request) -> web.Response:
        service, _, operation = request.headers["X-Amz-Target"].partition(".")
        asked = json.loads(await request.read() or b"{}")
        if service.startswith("DynamoDB"):
            status, item = self.leases.answer(operation, asked)
            body = json.dumps(item).encode()
            crc = {"X-Amz-Crc32": str(zlib.crc32(body))}
            return web.Response(body=body, status=status, headers=crc, content_type="application/x-amz-json-1.0")
        if operation == "GetRecords":
            await asyncio.sleep(self.latency)
            shard, _, at = asked["ShardIterator"].partition(":")
            body = self.answered(int(shard), int(at), min(self.page, asked.get("Limit", 10_000)))
            return web.Response(body=body, content_type="application/x-amz-json-1.1")
        return web.json_response(self.answer(operation, asked), content_type="application/x-amz-json-1.1")

    def answered(self, shard: int, at: int, limit: int) -> bytes:
        written = self.written(shard)
        ends, after = self.ends[shard], max(at, min(at + limit, written))
        entries = self.blobs[shard][ends[at] : ends[after] - 1] if after > at else b""
        return _reply(entries, f"{shard}:{after}", max(0, written - after))

    def answer(self, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        if operation == "ListShards":
            return {"Shards": [self.shard(n) for n in range(self.count)]}
        if operation == "DescribeStream":
            stream = {
                "StreamName": "bench",
                "StreamARN": "arn:aws:kinesis:us-east-1:123456789012:stream/bench",
                "StreamStatus": "ACTIVE",
                "RetentionPeriodHours": 8760,
                "StreamCreationTimestamp": 1_700_000_000,
                "EnhancedMonitoring": [],
                "Shards": [self.shard(n) for n in range(self.count)],
                "HasMoreShards": False,
            }
            return {"StreamDescription": stream}
        if operation == "DescribeStreamSummary":
            summary = {
                "StreamName": "bench",
                "StreamARN": "arn:aws:kinesis:us-east-1:123456789012:stream/bench",
                "StreamStatus": "ACTIVE",
                "RetentionPeriodHours": 8760,
                "StreamCreationTimestamp": 1_700_000_000,
                "EnhancedMonitoring": [],
                "OpenShardCount": self.count,
            }
            return {"StreamDescriptionSummary": summary}
        if operation == "GetShardIterator":
            shard = int(asked["ShardId"].rpartition("-")[2])
            kind, sequence = asked["ShardIteratorType"], asked.get("StartingSequenceNumber", "")
            index = int(sequence[6:]) if sequence else 0
            at = {"LATEST": self.written(shard), "AFTER_SEQUENCE_NUMBER": index + 1, "AT_SEQUENCE_NUMBER": index}.get(kind, 0)
            return {"ShardIterator": f"{shard}:{at}"}
        raise web.HTTPBadRequest(text=f"no {operation} here")


async def stalled_s3(request: web.Request) -> web.Response:
    if request.method == "PUT":
        await asyncio.Event().wait()
    empty = '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>false</IsTruncated></ListBucketResult>'
    return web.Response(text=empty, content_type="application/xml", status=200 if request.query else 404)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--records", type=int, default=400_000)
    parser.add_argument("--page", type=int, default=10_000)
    parser.add_argument("--row-bytes", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.005)
    parser.add_argument("--live", type=float, default=0.0, help="records come at so many a second, from some seconds after the start on")
    parser.add_argument("--s3", type=int, default=0, help="serve an S3 that takes everything at once")
    parser.add_argument("--stall-s3", type=int, default=0, help="serve an S3 that lists nothing and never answers a write")
    asked = parser.parse_args()
    server = Server(asked.shards, asked.records, asked.page, asked.row_bytes, asked.latency, asked.live)
    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/", server.handle)
    if asked.s3:
        app.router.add_route("*", "/{path:.+}", Bucket().handle)
    if asked.stall_s3:
        app.router.add_route("*", "/{path:.+}", stalled_s3)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    print(f"ready http://{host}:{port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
