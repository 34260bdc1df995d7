"""The embedded AWS as one object: its models, its port, its life."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from types import TracebackType
from typing import Self

import msgspec
from aiohttp import web

from dsqlcdc.local.cdc import CdcStream
from dsqlcdc.local.clock import Clock
from dsqlcdc.local.control import Control
from dsqlcdc.local.dsql import Dsql
from dsqlcdc.local.envelope import OVERSIZE
from dsqlcdc.local.faults import Faults
from dsqlcdc.local.front import Front
from dsqlcdc.local.generator import Commit, Generator, Summary
from dsqlcdc.local.kinesis import Kinesis
from dsqlcdc.local.kinesis_api import KinesisApi
from dsqlcdc.local.others import Others
from dsqlcdc.local.refusal import Refusal
from dsqlcdc.local.streams import ACCOUNT


class Pipe(msgspec.Struct, frozen=True):
    """What `Local.pipe` made: a Kinesis stream, a cluster, and an ACTIVE CDC stream from one to the other."""

    stream: str
    stream_arn: str
    cluster: str
    cdc_stream: str


class Local:
    """The embedded AWS on 127.0.0.1. `async with Local() as aws` serves until it is left; then its port is free and its threads are gone.

    `port` 0 takes a free one. `seed` decides everything that is drawn. `delay`: seconds that DSQL's creations and deletions take
    (Kinesis: a quarter of it).

    `read_throttle` and `write_throttle` switch Kinesis's shard limits. `oversize`: record bytes from which rows are cut.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        seed: int = 0,
        region: str = "us-east-1",
        delay: float = 0.2,
        read_throttle: bool = True,
        write_throttle: bool = False,
        oversize: int = OVERSIZE,
        clock: Clock | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.kinesis = Kinesis(self.clock, region=region, delay=delay / 4, read_throttle=read_throttle, write_throttle=write_throttle)
        self.others = Others()
        self.dsql = Dsql(self.clock, self.kinesis, self._trust, random.Random(seed), region=region, delay=delay)
        self.faults = Faults()
        self._defaults = (read_throttle, write_throttle)
        self._port, self._seed, self._oversize = port, seed, oversize
        self._generators: dict[str, Generator] = {}
        self._trusted: set[str] = set()
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        return self._port

    @property
    def endpoint(self) -> str:
        """What goes into AWS_ENDPOINT_URL."""
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        front = Front(self.clock, KinesisApi(self.kinesis), self.dsql, self.others, self.faults)
        app = web.Application(client_max_size=2**31)
        Control(self).add_to(app)
        app.router.add_route("*", "/{path:.*}", front.handle)
        self._runner = web.AppRunner(app, access_log=None, auto_decompress=False, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        await self.others.reset()
        await self.others.close()

    async def reset(self) -> None:
        """Forget everything: streams, clusters, buckets, truth, faults. The clock goes on."""
        self.kinesis.reset()
        self.kinesis.read_throttle, self.kinesis.write_throttle = self._defaults
        self.dsql.reset()
        self.faults.clear()
        self._generators.clear()
        self._trusted.clear()
        await self.others.reset()

    def generator(self, cluster: str = "") -> Generator:
        """The generator of a cluster, "" where there is but one. Raises Refusal for an unknown one."""
        if not cluster:
            if len(self.dsql.clusters) != 1:
                raise Refusal("ValidationException", f"name a cluster: there are {len(self.dsql.clusters)}")
            cluster = next(iter(self.dsql.clusters))
        self.dsql.cluster(cluster)
        if cluster not in self._generators:
            seed = self._seed * 1000 + len(self._generators)
            self._generators[cluster] = Generator(cluster, self.dsql, self.clock, seed, self._oversize)
        return self._generators[cluster]

    async def commit(self, commit: Commit) -> Summary:
        return await self.generator(commit.cluster).commit(commit)

    def pipe(self, stream: str = "orders-cdc", shards: int = 4, max_record_kib: int = 10240) -> Pipe:
        """At once, without any call or waiting: a Kinesis stream, a cluster, a CDC stream that is ACTIVE. For tests of what reads them."""
        kinesis = self.kinesis.create(stream, shards, max_record_kib=max_record_kib)
        kinesis.activate()
        cluster = self.dsql.create_cluster({"deletionProtectionEnabled": False})
        cluster.activate()
        role = f"arn:aws:iam::{ACCOUNT}:role/{stream}-dsql"
        self._trusted.add(role)
        target = {"kinesis": {"streamArn": kinesis.arn, "roleArn": role}}
        made: CdcStream = self.dsql.create_stream(cluster.id, {"targetDefinition": target, "ordering": "UNORDERED", "format": "JSON"})
        made.activate()
        return Pipe(stream, kinesis.arn, cluster.id, made.id)

    def _trust(self, role_arn: str) -> bool | None:
        return True if role_arn in self._trusted else self.others.trust(role_arn)


async def serve(port: int = 4580, *, seed: int = 0, ready: Callable[[str], None] | None = None) -> None:
    """Serve until cancelled. `ready` is called with the line "ready http://127.0.0.1:PORT"; without it the line is printed."""
    async with Local(port, seed=seed) as aws:
        line = f"ready {aws.endpoint}"
        if ready is None:
            print(line, flush=True)
        else:
            ready(line)
        await asyncio.Event().wait()
