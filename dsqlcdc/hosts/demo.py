"""The demo: a DSQL cluster, its CDC stream, Kinesis and S3 on this machine, and the real daemon between them."""

from __future__ import annotations

import asyncio
import gzip
import os
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from dsqlcdc import config as config_module
from dsqlcdc.assemble import aws_of, desired_of
from dsqlcdc.aws import Aws, client
from dsqlcdc.hosts import daemon
from dsqlcdc.hosts.receiver import receiving
from dsqlcdc.local import Local
from dsqlcdc.local.compare import Comparison, compare
from dsqlcdc.local.generator import Commit
from dsqlcdc.streams.apply import apply
from dsqlcdc.streams.clients import open_clients
from dsqlcdc.streams.observe import observe
from dsqlcdc.streams.plan import plan
from dsqlcdc.streams.work import Work

Say = Callable[[str], None]
Watch = Callable[[config_module.Config], list[daemon.Watcher]]

BUCKET, STREAM, PREFIX = "demo-lake", "orders-cdc", "cdc/"
ROUNDS = 5

CONFIG = """\
# Written by `dsqlcdc demo`. The same file runs against AWS: take `endpoint_url` out and put your own names in.
pipeline: demo
aws: {{region: us-east-1, endpoint_url: "{endpoint}"}}
source:
  stream: {stream}
  start: trim_horizon
tables:
  "public.orders": {{key: [order_id, item_id]}}
  "app.notes": {{key: [slug]}}
  "app.users": {{key: [id]}}
  "public.*": {{key: [id]}}
sinks:
  lake: {{type: s3, bucket: {bucket}, prefix: {prefix}, roll: {{bytes: 32MiB, age: 2s}}}}
  hook: {{type: webhook, url: "{hook}", secrets: ["{secret}"], allow_http: true, allow_private: [127.0.0.0/8]}}
state: {{type: sqlite, path: state.db}}
dead_letters: {{type: files, path: dead-letters}}
fragments: {{type: sqlite, path: fragments.db}}
http: {{listen: "127.0.0.1:{port}"}}
stream:
  cluster: {cluster}
  kinesis: {{mode: provisioned, shards: 4}}
"""


class Report(msgspec.Struct, frozen=True):
    """What the demo showed. `runs`: the summaries of the daemon's first run and of the `--once` after it."""

    directory: str
    changes: int
    records: int
    runs: list[dict[str, Any]]
    comparison: Comparison
    deliveries: int
    webhook: Comparison
    """Of the distinct events that were received and whose signature was verified: at least once, told apart by their ids."""

    @property
    def holds(self) -> bool:
        return self.comparison.holds and self.webhook.holds and all(_balanced(sink) for run in self.runs for sink in run["sinks"].values())


def _balanced(sink: dict[str, Any]) -> bool:
    return bool(sink["read"] == sum(sink["settled"].values()) + sink["open"])


async def demo(*, directory: Path | None = None, port: int = 0, say: Say, stay: bool = False, watch: Watch = lambda config: []) -> Report:
    """Run it; the report. `port` of the http page, 0: none is named and one is drawn. With `stay` everything goes on until cancelled.

    Leaves config, state and a copy of the lake in `directory` (a new one under the temporary directory where None).
    """
    directory = directory or Path(tempfile.mkdtemp(prefix="dsqlcdc-demo-"))
    directory.mkdir(parents=True, exist_ok=True)
    async with Local(port=0, seed=7) as local, receiving() as receiver:
        with _credentials():
            aws = Aws(region="us-east-1", endpoint_url=local.endpoint)
            say(f"embedded AWS at {local.endpoint} (DSQL, Kinesis, S3; no account, nothing leaves this machine)")
            cluster = await _empty_account(aws)
            path = directory / "dsqlcdc.yaml"
            text = CONFIG.format(
                endpoint=local.endpoint,
                stream=STREAM,
                cluster=cluster,
                bucket=BUCKET,
                prefix=PREFIX,
                port=port or _free_port(),
                hook=receiver.url,
                secret=receiver.secret,
            )
            await asyncio.to_thread(path.write_text, text)
            config = config_module.load(path)
            await _stream_apply(config, say)
            at = f"http://127.0.0.1:{config.http.port}/" if config.http is not None else ""
            say(f"config {path}; the daemon runs while the database is written to; its page: {at}")
            runs = [await _first_run(config, local, cluster, aws, say, watch(config))]
            say("dsqlcdc run --once: from the checkpoints to the tip, what is left")
            runs.append((await daemon.run(config, once=True, deadline=60)).summary())
            generator = local.generator(cluster)
            lines = await _lake(aws, directory / "lake")
            comparison = await asyncio.to_thread(compare, generator.changes, lines)
            webhook = await asyncio.to_thread(compare, generator.changes, receiver.lines())
            deliveries = receiver.deliveries
            if stay:
                say(f"everything goes on, new transactions each second. The page: {at} ({at}status, {at}metrics); Ctrl-C ends it")
                await _stay(config, local, cluster, watch(config))
            records = sum(change.records for change in generator.changes)
            return Report(str(directory), len(generator.changes), records, runs, comparison, deliveries, webhook)


async def _empty_account(aws: Aws) -> str:
    """A bucket, and a cluster: its identifier."""
    async with client("s3", aws) as s3, client("dsql", aws) as dsql:
        await s3.create_bucket(Bucket=BUCKET)
        made = await dsql.create_cluster(deletionProtectionEnabled=False)
        return str(made["identifier"])


async def _stream_apply(config: config_module.Config, say: Say) -> None:
    """What `dsqlcdc stream apply` does: Kinesis stream, role and CDC stream, until it is ACTIVE."""
    desired = desired_of(config)
    async with open_clients(aws_of(config), desired) as clients:
        observed = await observe(desired, clients)
        done = await apply(plan(desired, observed), Work(desired=desired, observed=observed, clients=clients, say=say, clock=time.time))
    if done.fault is not None:
        raise done.fault


async def _first_run(
    config: config_module.Config, local: Local, cluster: str, aws: Aws, say: Say, watchers: list[daemon.Watcher]
) -> dict[str, Any]:
    stop = asyncio.Event()
    running = asyncio.create_task(daemon.run(config, stop=stop, watchers=watchers))
    writing = asyncio.create_task(_write(local, cluster, aws, say))
    try:
        await asyncio.wait({running, writing}, return_when=asyncio.FIRST_COMPLETED)
        if writing.done():
            writing.result()
            stop.set()
        return (await running).summary()
    finally:
        for task in (running, writing):
            task.cancel()
        await asyncio.gather(running, writing, return_exceptions=True)


async def _write(local: Local, cluster: str, aws: Aws, say: Say) -> None:
    """Transactions with duplicates, disorder, deletes and every deviation; a split, a merge and one row of 12 MiB in between."""
    async with client("kinesis", aws) as kinesis:
        for number in range(ROUNDS):
            oversize = int(number == 1)
            summary = await local.commit(
                Commit(
                    cluster=cluster,
                    transactions=200,
                    duplicates=0.05,
                    disorder=20,
                    deviations=0.05,
                    oversize=oversize,
                    evolve=["app.notes"],
                )
            )
            what = f"{summary.end - summary.first} changes in {sum(summary.sent.values())} records"
            say(f"committed {summary.transactions} transactions, {what}" + (", one row of 12 MiB in pieces" if oversize else ""))
            if number == 1:
                await _split(kinesis)
                say("split a shard")
            elif number == 3:
                await _merge(kinesis)
                say("merged two shards")
            await asyncio.sleep(1.0)


async def _shards(kinesis: Any) -> list[dict[str, Any]]:
    listed = await kinesis.list_shards(StreamName=STREAM)
    open_ = [shard for shard in listed["Shards"] if "EndingSequenceNumber" not in shard["SequenceNumberRange"]]
    return sorted(open_, key=lambda shard: int(shard["HashKeyRange"]["StartingHashKey"]))


async def _split(kinesis: Any) -> None:
    shard = (await _shards(kinesis))[0]
    low, high = (int(shard["HashKeyRange"][end]) for end in ("StartingHashKey", "EndingHashKey"))
    await kinesis.split_shard(StreamName=STREAM, ShardToSplit=shard["ShardId"], NewStartingHashKey=str((low + high) // 2))


async def _merge(kinesis: Any) -> None:
    one, two = (await _shards(kinesis))[-2:]
    await kinesis.merge_shards(StreamName=STREAM, ShardToMerge=one["ShardId"], AdjacentShardToMerge=two["ShardId"])


async def _stay(config: config_module.Config, local: Local, cluster: str, watchers: list[daemon.Watcher]) -> None:
    async def go_on() -> None:
        while True:
            await local.commit(Commit(cluster=cluster, transactions=20, duplicates=0.05, disorder=5))
            await asyncio.sleep(1.0)

    writing = asyncio.create_task(go_on())
    try:
        await daemon.run(config, watchers=watchers)
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


async def _lake(aws: Aws, directory: Path) -> list[dict[str, Any]]:
    """All lines of the lake, and a copy of its objects on disk, since the embedded S3 ends with the demo."""
    lines: list[dict[str, Any]] = []
    async with client("s3", aws) as s3:
        async for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=PREFIX):
            for entry in page.get("Contents", []):
                answer = await s3.get_object(Bucket=BUCKET, Key=entry["Key"])
                body: bytes = await answer["Body"].read()
                lines += await asyncio.to_thread(_keep, directory / entry["Key"], body)
    return lines


def _keep(path: Path, body: bytes) -> list[dict[str, Any]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return [msgspec.json.decode(line) for line in gzip.decompress(body).splitlines()] if path.suffix == ".gz" else []


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _credentials() -> Generator[None, None, None]:
    """The embedded AWS takes any credentials; the caller's own never leave the environment."""
    names = {"AWS_ACCESS_KEY_ID": "demo", "AWS_SECRET_ACCESS_KEY": "demo", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": ""}
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ.update({name: value for name, value in names.items() if value})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
