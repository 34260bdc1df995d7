"""The embedded AWS with its port: how it begins to serve, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from aiohttp import web

from dsqlcdc.local.clock import Clock
from dsqlcdc.local.control import Control
from dsqlcdc.local.envelope import OVERSIZE
from dsqlcdc.local.front import Front
from dsqlcdc.local.kinesis_api import KinesisApi
from dsqlcdc.local.region import Region


class Local(Region):
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
        super().__init__(
            seed=seed,
            region=region,
            delay=delay,
            read_throttle=read_throttle,
            write_throttle=write_throttle,
            oversize=oversize,
            clock=clock,
        )
        self._port = port
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        return self._port

    @property
    def endpoint(self) -> str:
        """What goes into AWS_ENDPOINT_URL."""
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        front = Front(self.clock, KinesisApi(self.kinesis, self), self.dsql, self.others, self.faults, self.denials)
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


async def serve(port: int = 4580, *, seed: int = 0, ready: Callable[[str], None] | None = None) -> None:
    """Serve until cancelled. `ready` is called with the line "ready http://127.0.0.1:PORT"; without it the line is printed."""
    async with Local(port, seed=seed) as aws:
        line = f"ready {aws.endpoint}"
        if ready is None:
            print(line, flush=True)
        else:
            ready(line)
        await asyncio.Event().wait()
