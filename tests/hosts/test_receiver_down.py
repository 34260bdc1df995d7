"""One daemon, two sinks, and a receiver that is down for an hour of virtual time: over sockets, against the embedded AWS."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import boto3
import msgspec
import pytest
from aiohttp import web

from dsqlcdc import assemble
from dsqlcdc.assemble import Assembly
from dsqlcdc.config import load
from dsqlcdc.core.telemetry import Status
from dsqlcdc.hosts import daemon
from dsqlcdc.testing import virtual
from dsqlcdc.testing.local import LocalAws
from dsqlcdc.testing.records import full
from dsqlcdc.testing.virtual import VirtualLoop

GRACE = 0.008
HOUR, KEYS, COUNT, BODY = 3600.0, 40, 700, 30_000
ROOM = 12 * 1024 * 1024
"""What the webhook may hold: one and a half batches."""
PAGE = 10 * 1024 * 1024
CONFIG = """
pipeline: orders-cdc
source: {stream: orders-cdc, poll: 30s}
tables: {"public.orders": {key: [id]}}
sinks:
  lake: {type: s3, bucket: my-lake, roll: {bytes: 1MiB, age: 5s, records: 100}}
  hook: {type: webhook, url: "URL", secrets: [whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA], allow_http: true, allow_private: [127.0.0.0/8]}
state: {type: memory}
dead_letters: {type: files, path: dead}
fragments: {type: memory}
"""


class Receiver:
    """A receiver that can be taken off its port and put back. `arrived`: subject and sequence of each event, in the order of arrival."""

    def __init__(self) -> None:
        self.arrived: list[tuple[str, str]] = []
        self.port = 0
        self._runner: web.AppRunner | None = None

    async def up(self) -> None:
        app = web.Application(client_max_size=PAGE)
        app.router.add_post("/", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def down(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        event = msgspec.json.decode(await request.read())
        self.arrived.append((event["subject"], event["sequence"]))
        return web.Response(status=204)


def commit(aws: LocalAws, start: int, end: int) -> None:
    """Changes of KEYS rows, each row's in one shard, in the order of their versions."""
    for n in range(start, end):
        row = {"id": n % KEYS, "n": n, "note": "x" * BODY}
        aws.record("orders-cdc", full("u", "public.orders", row, 1_800_000_000_000_000_000 + n), f"shardId-{n % KEYS % 2:012d}")


def lines(aws: LocalAws) -> int:
    s3 = boto3.client("s3", endpoint_url=aws.endpoint, region_name="us-east-1", aws_access_key_id="local", aws_secret_access_key="local")
    keys = [
        entry["Key"]
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket="my-lake", Prefix="data/")
        for entry in page["Contents"]
    ]
    return sum(gzip.decompress(s3.get_object(Bucket="my-lake", Key=key)["Body"].read()).count(b"\n") for key in keys)


async def until(statuses: Any, sink: str, count: int) -> Mapping[str, Status]:
    """Wait until the sink has delivered so many, for ten virtual minutes at the most."""
    for _ in range(600):
        found = {status.sink: status for status in statuses()}
        if sink in found and found[sink].settled["delivered"] >= count:
            break
        await asyncio.sleep(1)
    return {status.sink: status for status in statuses()}


@pytest.mark.slow
def test_a_receiver_down_for_an_hour_costs_no_change_no_order_and_bounded_memory_and_nothing_of_the_other_sink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assemble, "_ROOM", ROOM)
    peak = 0

    async def story(aws: LocalAws) -> daemon.Result:
        nonlocal peak
        loop, receiver, stop = asyncio.get_running_loop(), Receiver(), asyncio.Event()
        await receiver.up()
        (tmp_path / "c.yaml").write_text(CONFIG.replace("URL", f"http://127.0.0.1:{receiver.port}/"))
        ready: asyncio.Future[Assembly] = loop.create_future()

        @asynccontextmanager
        async def watch(assembly: Assembly) -> AsyncGenerator[None, None]:
            ready.set_result(assembly)
            yield

        running = asyncio.create_task(daemon.run(load(tmp_path / "c.yaml"), stop=stop, watchers=[watch]))
        statuses = (await ready).statuses
        first = await until(statuses, "hook", 100)
        assert first["hook"].settled["delivered"] == 100  # the control: it works before
        await receiver.down()
        down, before = loop.time(), len(receiver.arrived)
        await asyncio.to_thread(commit, aws, 100, COUNT)
        during = await until(statuses, "lake", COUNT)
        assert during["lake"].settled["delivered"] == COUNT
        assert loop.time() - down < HOUR / 4  # the lake has all of it long before the receiver is back
        assert isinstance(loop, VirtualLoop)
        loop.grace = 0.0005  # nothing but polls and probes for an hour
        while loop.time() < down + HOUR:
            await asyncio.sleep(20)
            found = {status.sink: status for status in statuses()}
            peak = max(peak, found["hook"].in_flight_bytes)
            assert found["lake"].in_flight_bytes == found["lake"].open == 0
            assert {status.state for status in found.values()} == {"running"}
            assert (found["hook"].settled["delivered"], found["hook"].settled["dead"]) == (before, 0)
        loop.grace = GRACE
        await receiver.up()
        after = await until(statuses, "hook", COUNT)
        stop.set()
        result = await running
        await receiver.down()
        assert after["hook"].settled["delivered"] == COUNT
        assert len(receiver.arrived) == len(set(receiver.arrived)) == COUNT
        for key in range(KEYS):
            seen = [sequence for subject, sequence in receiver.arrived if subject == f"public.orders/{key}"]
            assert seen == sorted(seen)
        return result

    with LocalAws() as aws:
        for name, value in aws.environ.items():
            monkeypatch.setenv(name, value)
        aws.pipe("orders-cdc", shards=2)
        boto3.client("s3").create_bucket(Bucket="my-lake")
        commit(aws, 0, 100)
        result = virtual.run(story(aws), grace=GRACE)
        assert lines(aws) == COUNT
    assert (result.exit_code, result.faults) == (0, {})
    assert {status.sink: (status.read, status.open, status.settled["dead"], status.letters) for status in result.statuses} == {
        "lake": (COUNT, 0, 0, 0),
        "hook": (COUNT, 0, 0, 0),
    }
    assert not list((tmp_path / "dead").rglob("*.gz"))
    assert COUNT * BODY > ROOM  # the control: it could have held more
    assert ROOM / 2 < peak < ROOM + PAGE
    print(f"\nin flight at the most {peak / 2**20:.1f} MiB of {COUNT * BODY / 2**20:.1f} MiB owed")
