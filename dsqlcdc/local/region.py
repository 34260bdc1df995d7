"""What the embedded AWS holds: clock, Kinesis, DSQL, moto's services, generators, faults. Without a port."""

from __future__ import annotations

import random

import msgspec

from dsqlcdc.local.cdc import CdcStream
from dsqlcdc.local.clock import Clock
from dsqlcdc.local.dsql import Dsql
from dsqlcdc.local.envelope import OVERSIZE
from dsqlcdc.local.faults import Faults
from dsqlcdc.local.generator import Commit, Generator, Summary
from dsqlcdc.local.kinesis import Kinesis
from dsqlcdc.local.kms import check_key
from dsqlcdc.local.others import Others
from dsqlcdc.local.reach import Key, Role
from dsqlcdc.local.refusal import Refusal
from dsqlcdc.local.rights import Denials
from dsqlcdc.local.streams import ACCOUNT


class Pipe(msgspec.Struct, frozen=True):
    """What `Local.pipe` made: a Kinesis stream, a cluster, and an ACTIVE CDC stream from one to the other."""

    stream: str
    stream_arn: str
    cluster: str
    cdc_stream: str


class Region:
    """The models, wired to each other. The arguments are those of dsqlcdc.local.Local, which gives it a port."""

    def __init__(
        self,
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
        self.kinesis = Kinesis(
            self.clock,
            region=region,
            delay=delay / 4,
            read_throttle=read_throttle,
            write_throttle=write_throttle,
            check_key=lambda key_id: check_key(self, key_id),
        )
        self.others = Others(region)
        self.dsql = Dsql(self.clock, self.kinesis, self, random.Random(seed), region=region, delay=delay)
        self.faults = Faults()
        self.denials = Denials()
        self._defaults = (read_throttle, write_throttle)
        self._seed, self._oversize = seed, oversize
        self._generators: dict[str, Generator] = {}
        self._trusted: set[str] = set()

    async def reset(self) -> None:
        """Forget everything: streams, clusters, buckets, truth, faults, how far the clock was pushed."""
        self.clock.restart()
        self.kinesis.reset()
        self.kinesis.read_throttle, self.kinesis.write_throttle = self._defaults
        self.dsql.reset()
        self.faults.clear()
        self.denials.clear()
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

    def advance(self, seconds: float) -> None:
        """Push the clock: what was due before is seen to before."""
        self.dsql.look()
        self.clock.advance(seconds)
        self.dsql.look()

    def role(self, arn: str) -> Role | None:
        return Role(arn, trusted=True) if arn in self._trusted else self.others.role(arn)

    def key(self, key_id: str) -> Key | None:
        return self.others.key(key_id)
