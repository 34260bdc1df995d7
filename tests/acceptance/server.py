"""The embedded AWS in a process of its own, with its control calls as methods."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import boto3
import msgspec
from botocore.config import Config

from dsqlcdc.testing.local import LocalAws


class ServerProcess(LocalAws):
    """`python -m dsqlcdc.local --port 0`, from entering to leaving."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._seed = seed
        self._process: subprocess.Popen[str] | None = None
        self._clients: dict[str, Any] = {}

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "dsqlcdc.local", "--port", "0", "--seed", str(self._seed)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("ready "), f"the embedded AWS did not start: {line!r}"
        self.endpoint = line.split()[1]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for opened in self._clients.values():
            opened.close()
        assert self._process is not None
        self._process.terminate()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def environ(self) -> dict[str, str]:
        """The whole environment of a process that talks to this server."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DSQLCDC_"))}
        return {**kept, **super().environ}

    def client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = boto3.client(
                service,
                endpoint_url=self.endpoint,
                region_name=self.region,
                aws_access_key_id="local",
                aws_secret_access_key="local",
                config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 5}),
            )
        return self._clients[service]

    def hits(self) -> int:
        """How many calls have met a fault."""
        found: int = msgspec.json.decode(self._request("GET", "/_dsqlcdc/faults"))["hits"]
        return found

    def waiting(self) -> list[dict[str, Any]]:
        """Injected faults that no call has met yet."""
        found: list[dict[str, Any]] = msgspec.json.decode(self._request("GET", "/_dsqlcdc/faults"))["waiting"]
        return found

    def open_shards(self, stream: str) -> list[dict[str, Any]]:
        """The open shards in hash order."""
        listed: Sequence[dict[str, Any]] = self.client("kinesis").list_shards(StreamName=stream)["Shards"]
        found = [shard for shard in listed if "EndingSequenceNumber" not in shard["SequenceNumberRange"]]
        return sorted(found, key=lambda shard: int(shard["HashKeyRange"]["StartingHashKey"]))

    def split(self, stream: str, place: int = 0) -> None:
        """Split an open shard in two."""
        shard = self.open_shards(stream)[place]
        low, high = (int(shard["HashKeyRange"][end]) for end in ("StartingHashKey", "EndingHashKey"))
        self.client("kinesis").split_shard(StreamName=stream, ShardToSplit=shard["ShardId"], NewStartingHashKey=str((low + high) // 2))
        self.settle(stream)

    def merge(self, stream: str, place: int = -2) -> None:
        """Merge an open shard with its neighbour above."""
        shards = self.open_shards(stream)
        one = shards[place]
        two = shards[shards.index(one) + 1]
        self.client("kinesis").merge_shards(StreamName=stream, ShardToMerge=one["ShardId"], AdjacentShardToMerge=two["ShardId"])
        self.settle(stream)

    def settle(self, stream: str) -> None:
        """Wait until the stream is ACTIVE."""
        while self.client("kinesis").describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]["StreamStatus"] != "ACTIVE":
            pass
