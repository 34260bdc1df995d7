"""One test's world: a pipe in the embedded AWS, a bucket, a directory with a config, and the commands run in it."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from dsqlcdc.local.compare import Comparison, compare
from dsqlcdc.local.generator import Committed

from .command import Command, Done
from .server import ServerProcess

STREAM, BUCKET = "orders-cdc", "lake"
TABLES = {
    "public.orders": {"key": ["order_id", "item_id"]},
    "app.notes": {"key": ["slug"]},
    "app.users": {"key": ["id"]},
    "public.accounts": {"key": ["id"]},
    "public.every_type": {"key": ["id"]},
    "t.*": {"key": ["id"]},
}


def lake(prefix: str = "cdc/", age: str = "300ms", records: int = 100_000, **options: Any) -> dict[str, Any]:
    """An S3 sink's block."""
    return {"type": "s3", "bucket": BUCKET, "prefix": prefix, "roll": {"age": age, "records": records}, **options}


class World:
    """See the module. Everything that was started ends with `close`."""

    def __init__(self, server: ServerProcess, directory: Path, shards: int = 4) -> None:
        self.server, self.directory = server, directory
        self.environ = {**server.environ, "XDG_CACHE_HOME": str(directory / "cache")}
        self.pipe = server.pipe(STREAM, shards)
        server.client("s3").create_bucket(Bucket=BUCKET)
        server.control("throttle", reads=False)
        self.config = directory / "dsqlcdc.yaml"
        self.port = free_port()
        self.sent = 0
        self._started: list[Command] = []
        self.configure()

    def configure(self, *, sinks: Mapping[str, Any] | None = None, source: Mapping[str, Any] | None = None, **blocks: Any) -> None:
        """Write the config: the blocks given, over what every test needs. JSON is YAML."""
        body = {
            "pipeline": "acceptance",
            "source": {"stream": STREAM, "poll": "200ms", "reads_per_second": 50, "bytes_per_second": "100MiB", **(source or {})},
            "tables": TABLES,
            "sinks": sinks or {"lake": lake()},
            "http": {"listen": f"127.0.0.1:{self.port}"},
            **blocks,
        }
        self.config.write_text(json.dumps({name: block for name, block in body.items() if block is not None}, indent=1))

    # commands

    def start(self, *arguments: str) -> Command:
        started = Command(self.directory, self.environ, *arguments, word=lambda: self.get("/status")[1].decode())
        self._started.append(started)
        return started

    def run(self, *arguments: str, within: float = 60.0) -> Done:
        return self.start(*arguments).end(within=within)

    def once(self, *arguments: str, within: float = 60.0) -> Done:
        """`run CONFIG --once --json`; what it read is accounted for."""
        done = self.run("run", str(self.config), "--once", "--json", *arguments, within=within)
        if done.out.strip():
            balanced(done.json)
        return done

    def daemon(self, *arguments: str) -> Command:
        """`run CONFIG`, in its stride."""
        started = self.start("run", str(self.config), *arguments)
        started.until(self.running, "the daemon runs")
        return started

    def close(self) -> None:
        for command in self._started:
            command.kill()

    # what the daemon says of itself

    def get(self, path: str, port: int = 0) -> tuple[int, bytes]:
        """An answer of the daemon's http server, or of another's on `port`; (0, b"") where nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def status(self, sink: str = "lake") -> dict[str, Any]:
        """The daemon's own word on a sink; {} where nobody answers."""
        code, body = self.get("/status")
        found = [one for one in json.loads(body)["pipelines"] if one["sink"] == sink] if code == 200 else []
        return found[0] if found else {}

    def running(self) -> bool:
        return self.status_of_any().get("state") == "running"

    def status_of_any(self) -> dict[str, Any]:
        code, body = self.get("/status")
        found: list[dict[str, Any]] = json.loads(body)["pipelines"] if code == 200 else []
        return found[0] if found else {}

    def settled(self, sink: str = "lake") -> int:
        return sum(self.status(sink).get("settled", {}).values())

    def caught_up(self, daemon: Command, sink: str = "lake") -> None:
        """Wait until the daemon, the first in this world, has settled everything that was sent."""
        daemon.until(lambda: self.settled(sink) >= self.sent and not self.status(sink)["open"], f"{sink} has caught up")

    # the lake and the truth

    def object_keys(self, prefix: str = "cdc/") -> Iterator[str]:
        for page in self.server.client("s3").get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
            for entry in page.get("Contents", []):
                yield entry["Key"]

    def objects(self, prefix: str = "cdc/") -> Iterator[tuple[str, bytes]]:
        s3 = self.server.client("s3")
        for key in self.object_keys(prefix):
            yield key, s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def lines(self, prefix: str = "cdc/") -> list[dict[str, Any]]:
        """Every line of a lake."""
        found = (body for key, body in self.objects(prefix + "data/") if key.endswith(".jsonl.gz"))
        return [msgspec.json.decode(line) for body in found for line in gzip.decompress(body).splitlines()]

    def changes(self) -> list[Committed]:
        return self.server.changes(self.pipe.cluster)

    def compare(self, prefix: str = "cdc/") -> Comparison:
        return compare(self.changes(), self.lines(prefix))

    def exact(self, prefix: str = "cdc/") -> Comparison:
        """The lake holds every committed change exactly once, value for value."""
        found = self.compare(prefix)
        assert found.holds, found
        return found

    # what goes on meanwhile

    def commit(self, transactions: int = 100, **more: Any) -> int:
        """Commit transactions as unruly as they come; how many records were sent."""
        given = {"duplicates": 0.05, "disorder": 20, "deviations": 0.05, **more}
        sent = sum(self.server.commit(cluster=self.pipe.cluster, transactions=transactions, **given).sent.values())
        self.sent += sent
        return sent

    @contextmanager
    def writing(self, transactions: int = 60, reshards: bool = True, **more: Any) -> Iterator[threading.Event]:
        """Commit again and again, splitting and merging in between, until left. The event is set when it has begun."""
        ending, begun, failed = threading.Event(), threading.Event(), []

        def write() -> None:
            number = 0
            try:
                while not ending.is_set():
                    self.commit(transactions, **more)
                    begun.set()
                    number += 1
                    if reshards and number % 12 == 0:
                        shards = len(self.server.open_shards(STREAM))
                        place = number % (shards - 1)
                        self.server.split(STREAM, place) if shards < 5 else self.server.merge(STREAM, place)
                    ending.wait(0.15)  # a pause between transactions, cut short by the end
            except Exception as error:  # told to whoever waits for this thread
                failed.append(error)
                begun.set()

        thread = threading.Thread(target=write, name="writer")
        thread.start()
        try:
            begun.wait(30)
            yield begun
        finally:
            ending.set()
            thread.join(60)
        if failed:
            raise failed[0]


def balanced(summary: Mapping[str, Any]) -> None:
    """The law: what was read is settled or open."""
    for sink, counts in summary["sinks"].items():
        assert counts["read"] == sum(counts["settled"].values()) + counts["open"], (sink, counts)


def total(summary: Mapping[str, Any], outcome: str, sink: str = "lake") -> int:
    """How many records a run settled so."""
    found: int = summary["sinks"][sink]["settled"][outcome]
    return found


def free_port() -> int:
    """A port of loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
