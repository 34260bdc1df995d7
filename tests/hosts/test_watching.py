"""The daemon with a CDC stream to watch: reading goes on beside it, what was held arrives, and a watch that fails stops nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import botocore
import pytest
from botocore.loaders import Loader

from dsqlcdc.assemble import Assembly, aws_of, desired_of, open_checkpoints
from dsqlcdc.config import Config, load
from dsqlcdc.core.ports import Gap
from dsqlcdc.errors import Misconfigured
from dsqlcdc.hosts import daemon
from dsqlcdc.hosts.daemon import Result
from dsqlcdc.local import Commit, Deny, Local
from dsqlcdc.local.causes import cause
from dsqlcdc.local.cdc import CdcStream, Reason
from dsqlcdc.streams.apply import apply
from dsqlcdc.streams.clients import open_clients
from dsqlcdc.streams.observe import observe
from dsqlcdc.streams.plan import plan
from dsqlcdc.streams.watch import Watch
from dsqlcdc.streams.work import Work
from dsqlcdc.testing import virtual

LOADER = Loader(extra_search_paths=[str(Path(botocore.__file__).parent / "data")])


def one_loader(search_path_string: str | None = None) -> Loader:
    return LOADER


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "local")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("botocore.loaders.create_loader", one_loader)


class World:
    """A project, the account it is about, and its daemon."""

    def __init__(self, aws: Local, config: Config) -> None:
        self.aws, self.config = aws, config
        self.desired = desired_of(config)
        self.assembly: Assembly | None = None
        self.result: Result | None = None

    async def provide(self) -> None:
        async with open_clients(aws_of(self.config), self.desired) as clients:
            seen = await observe(self.desired, clients)
            work = Work(desired=self.desired, observed=seen, clients=clients, say=lambda _: None, clock=self.aws.clock.now)
            await apply(plan(self.desired, seen), work)

    @property
    def stream(self) -> CdcStream:
        [one] = [one for one in self.aws.dsql.cluster(self.desired.cluster).live_streams() if one.status != "DELETING"]
        return one

    @property
    def watch(self) -> Watch:
        assert self.assembly is not None
        assert self.assembly.watch is not None
        return self.assembly.watch

    def read(self) -> int:
        assert self.assembly is not None
        return self.assembly.statuses()[0].settled.get("delivered", 0)

    async def commit(self, transactions: int = 5) -> None:
        await self.aws.commit(Commit(transactions=transactions, tables=["public.accounts"], cluster=self.desired.cluster))

    def committed(self) -> int:
        return len(self.aws.generator(self.desired.cluster).changes)

    async def cause(self, reason: Reason) -> None:
        await cause(self.aws, self.stream, reason)

    @asynccontextmanager
    async def daemon(self) -> AsyncGenerator[None, None]:
        """The daemon, from its first look until it is told to stop."""
        stop, begun = asyncio.Event(), asyncio.Event()

        @asynccontextmanager
        async def onlooker(assembly: Assembly) -> AsyncGenerator[None, None]:
            self.assembly = assembly
            begun.set()
            yield

        running = asyncio.create_task(daemon.run(self.config, stop=stop, watchers=[onlooker]))
        await begun.wait()
        try:
            yield
            if self.stream.status == "FAILED":
                await asyncio.wait({running}, timeout=600.0)
        finally:
            stop.set()
            self.result = await running


async def until(done: Callable[[], object]) -> None:
    """Wait, in virtual time, until it is so."""
    async with asyncio.timeout(7200.0):
        while not done():  # noqa: ASYNC110 (virtual time: a pause costs nothing)
            await asyncio.sleep(1.0)


def play(act: Callable[[World], Awaitable[None]], tmp_path: Path, remedies: str = "{default: apply}") -> None:
    """Run on virtual time, with a config whose CDC stream is ACTIVE."""

    async def main() -> None:
        async with Local(read_throttle=False, delay=0.02) as aws:
            made = aws.dsql.create_cluster({"deletionProtectionEnabled": False})
            made.activate()
            path = tmp_path / "dsqlcdc.yaml"
            path.write_text(
                f"pipeline: orders\naws: {{region: us-east-1, endpoint_url: '{aws.endpoint}'}}\nsource: {{stream: orders-cdc}}\n"
                f"tables: {{'public.*': {{key: [id]}}, 'local.*': {{key: [id]}}}}\nsinks: {{lake: {{type: drop}}}}\n"
                f"stream:\n  cluster: {made.id}\n  poll: 5s\n  remedies: {remedies}\n"
                "  kinesis: {mode: provisioned, shards: 1, max_shards: 2}\n",
                encoding="utf-8",
            )
            world = World(aws, load(path))
            await world.provide()
            await act(world)

    virtual.run(main(), grace=0.002)


@pytest.mark.parametrize("reason", ["KINESIS_OVERSIZE_RECORD", "ROLE_ACCESS_DENIED", "KINESIS_THROUGHPUT_EXCEEDED"])
def test_what_was_held_back_arrives_at_the_sink_of_the_running_daemon(reason: Reason, tmp_path: Path) -> None:
    async def act(world: World) -> None:
        async with world.daemon():
            await world.commit()
            await until(lambda: world.read() == world.committed())
            await world.cause(reason)
            assert world.stream.waiting
            await until(lambda: world.watch.view().tried)
            await until(lambda: world.watch.view().health.status == "ACTIVE")
            await until(lambda: world.read() == world.committed())
        assert world.result is not None
        assert world.result.exit_code == 0

    play(act, tmp_path)


def test_a_failed_stream_is_followed_by_its_successor_and_the_daemon_exits_3(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        async with world.daemon():
            await world.commit()
            await until(lambda: world.read() == world.committed())
            before, lost = world.read(), world.committed()
            world.stream.fail("INTERNAL_ERROR")
            await until(lambda: world.watch.view().gaps)
            await world.commit()
            await until(lambda: world.read() - before == world.committed() - lost)
        assert world.result is not None
        assert (world.result.exit_code, world.result.gaps) == (3, 1)

    play(act, tmp_path)


def test_a_watch_that_is_denied_stops_no_reading(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        world.aws.denials.add(Deny(action="dsql:*"))
        async with world.daemon():
            await until(lambda: world.watch.view().health.fault)
            assert world.watch.complete_since() == 0.0
            await world.commit()
            await until(lambda: world.read() == world.committed())
        assert world.result is not None
        assert world.result.exit_code == 0

    play(act, tmp_path)


def test_a_bug_in_the_watch_stops_no_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(self: Watch, clients: object) -> None:
        raise RuntimeError("a bug")

    async def act(world: World) -> None:
        monkeypatch.setattr(Watch, "look", broken)
        async with world.daemon():
            await world.commit()
            await until(lambda: world.read() == world.committed())
            await until(lambda: "not looked at any more" in caplog.text)

    play(act, tmp_path)


def test_a_kinesis_stream_that_is_gone_is_there_again_when_the_daemon_is_started_again(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        async with world.daemon():
            await world.commit()
            await until(lambda: world.read() == world.committed())
            await world.cause("KINESIS_STREAM_NOT_FOUND")
        assert world.result is not None
        assert world.result.exit_code == 1
        assert world.stream.status == "ACTIVE"
        async with world.daemon():
            before = world.read()
            await world.commit()
            await until(lambda: world.read() > before)
        assert world.result.exit_code == 3
        found = {gap.kind: gap for gap in await gaps(world.config)}
        assert found.keys() == {
            "recreated",
            "replaced",
        }  # what DSQL did not deliver, and what the sink had not read of the old Kinesis stream
        assert found["replaced"].to_time == found["recreated"].from_time, "two losses that touch: nothing is said twice"

    play(act, tmp_path)


def test_a_daemon_that_finds_no_kinesis_stream_has_it_made_again_before_it_ends(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        await world.cause("KINESIS_STREAM_NOT_FOUND")
        with pytest.raises(Misconfigured) as raised:
            await daemon.run(world.config)
        assert raised.value.code == "E103"
        await until(lambda: world.stream.status == "ACTIVE")
        assert world.aws.kinesis.stream("orders-cdc").status == "ACTIVE"

    play(act, tmp_path)


def test_records_that_come_late_tell_that_the_stream_lags_without_asking_cloudwatch(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        world.aws.denials.add(Deny(action="cloudwatch:GetMetricData"))
        world.stream.late = 1800.0
        async with world.daemon():
            await world.commit()
            world.aws.advance(1800.0)
            await until(lambda: world.watch.view().health.lagging)
            assert 1700.0 < (world.watch.view().health.lag or 0.0) < 1900.0
            world.stream.late = 0.0
            await world.commit()
            await until(lambda: not world.watch.view().health.lagging)

    play(act, tmp_path)


async def gaps(config: Config) -> Sequence[Gap]:
    store = open_checkpoints(config, read_only=True)
    try:
        return await store.gaps(config.pipeline)
    finally:
        await store.close()
