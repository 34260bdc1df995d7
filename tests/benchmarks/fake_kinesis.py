"""A fast Kinesis in a process of its own: every record is rendered before the first call, so that what is measured is the reader.

    python fake_kinesis.py --shards 4 --records 400000 --page 10000 [--row-bytes 0] [--latency 0.005] [--s3 0] [--stall-s3 0]
                           [--live 5000] [--busy 10] [--lazy 1] [--keys 1000]

Read only, no throttling, signatures unchecked. Prints `ready http://127.0.0.1:PORT` when all pages are there. With `--lazy` they are rendered
when they are asked for: more records than memory holds.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
import time
import zlib
from bisect import bisect_left
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


def record(n: int, row_bytes: int = 0, ts: int = 0, keys: int = 0) -> bytes:
    """The n-th record: about 520 bytes in the shape of a DSQL CDC record, 1 in 21 a delete; with `row_bytes` a text column of that size.
    `ts`: when it was committed, in nanoseconds. `keys`: of so many rows, in turn; else each is of another."""
    ts = ts or T0 + n * 1_000_003
    source = (
        f'"source":{{"version":"1.0","ts_ms":{ts // 10**6},"ts_ns":{ts},"txId":"{n:026d}","schema":"public","table":"order_items",'
        f'"db":"postgres","cluster":"{CLUSTER}"}},"ts_ms":{ts // 10**6 + 125},"ts_ns":{ts + 125_483_291}}}'
    )
    row_number = n % keys if keys else n
    key = f'"order_id":{row_number // 8 + 100_000},"item_id":{row_number % 50}'
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


class Layout:
    """Which record is in which shard: in turn, the first shard `busy` times in each turn."""

    def __init__(self, shards: int, busy: int) -> None:
        self.turn = shards - 1 + busy
        firsts = {n * self.turn // busy for n in range(busy)}
        others = [n for n in range(self.turn) if n not in firsts]
        self.places = [sorted(firsts), *([place] for place in others)]

    def number(self, shard: int, index: int) -> int:
        """The number, of all records, of a shard's index-th."""
        turns, place = divmod(index, len(self.places[shard]))
        return turns * self.turn + self.places[shard][place]

    def count(self, shard: int, records: int) -> int:
        """How many of the first `records` are in a shard."""
        turns, rest = divmod(records, self.turn)
        return turns * len(self.places[shard]) + bisect_left(self.places[shard], rest)


class Server:
    def __init__(
        self,
        layout: Layout,
        records: int,
        *,
        page: int,
        row_bytes: int,
        latency: float,
        live: float = 0.0,
        lazy: bool = False,
        keys: int = 0,
    ) -> None:
        """`live`: records a second, from some seconds after the start on; 0: all are there."""
        self.layout, self.count, self.records = layout, len(layout.places), records
        self.latency, self.page, self.row_bytes, self.live, self.keys = latency, page, row_bytes, live, keys
        self.began = 0.0
        self.leases = Leases()
        if live:
            since = time.perf_counter()
            self.rendered(0, 0, layout.count(0, 2000))
            each = (time.perf_counter() - since) / max(1, layout.count(0, 2000))
            self.began = time.time() + 10 + 1.5 * each * records
        self.total = [layout.count(shard, records) for shard in range(self.count)]
        self.blobs: list[bytes] = []
        self.ends: list[list[int]] = []
        for shard in range(0 if lazy else self.count):
            entries = self.rendered(shard, 0, self.total[shard])
            self.blobs.append(b",".join(entries))
            self.ends.append(list(accumulate((len(one) + 1 for one in entries), initial=0)))

    def rendered(self, shard: int, low: int, high: int) -> list[bytes]:
        """A shard's records from the low-th up to the high-th."""
        numbers = [(index, self.layout.number(shard, index)) for index in range(low, high)]
        return [
            entry(
                self.sequence(shard, index),
                self.at(n),
                record(n, self.row_bytes, int(self.at(n) * 1e9) if self.live else 0, self.keys),
                index,
            )
            for index, n in numbers
        ]

    def at(self, n: int) -> float:
        """When the n-th record arrives, in seconds since the epoch."""
        return self.began + n / self.live if self.live else T0 / 1e9 + n / 1000

    def written(self, shard: int) -> int:
        """Records of a shard that are there by now."""
        if not self.live:
            return self.total[shard]
        return self.layout.count(shard, max(0, min(self.records, int((time.time() - self.began) * self.live))))

    @staticmethod
    def sequence(shard: int, index: int) -> str:
        return f"4966{shard:03d}{index:049d}"

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
        after, entries = max(at, min(at + limit, written)), b""
        if after > at and self.blobs:
            ends = self.ends[shard]
            entries = self.blobs[shard][ends[at] : ends[after] - 1]
        elif after > at:
            entries = b",".join(self.rendered(shard, at, after))
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
            index = int(sequence[7:]) if sequence else 0
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
    parser.add_argument("--busy", type=int, default=1, help="the first shard gets so many times the records of another")
    parser.add_argument("--keys", type=int, default=0, help="the records are of so many rows, in turn")
    parser.add_argument("--lazy", type=int, default=0, help="render a page when it is asked for")
    asked = parser.parse_args()
    named = {name: getattr(asked, name) for name in ("page", "row_bytes", "latency", "live", "lazy", "keys")}
    server = Server(Layout(asked.shards, asked.busy), asked.records, **named)
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
