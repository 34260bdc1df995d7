"""The demo's receiver of webhooks: on loopback, it checks each signature and keeps each event once."""

from __future__ import annotations

import hmac
import secrets
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

_LARGEST = 64 * 1024 * 1024


class Receiver:
    """`deliveries` counts requests with a good signature, repetitions included."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._events: dict[str, dict[str, Any]] = {}
        self.secret = f"whsec_{b64encode(self._key).decode()}"
        self.url = ""
        self.deliveries = 0

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        id, sent = request.headers.get("webhook-id", ""), request.headers.get("webhook-timestamp", "")
        mine = b64encode(hmac.digest(self._key, f"{id}.{sent}.".encode() + body, "sha256"))
        if not hmac.compare_digest(b"v1," + mine, request.headers.get("webhook-signature", "").encode()):
            return web.Response(status=401)
        self.deliveries += 1
        data = msgspec.json.decode(body)["data"]
        self._events[id] = {**data, "version": int(data["version"])}
        return web.Response(status=204)

    def lines(self) -> list[dict[str, Any]]:
        """The events, each once, in the form of the lake's lines."""
        return list(self._events.values())


@asynccontextmanager
async def receiving() -> AsyncGenerator[Receiver, None]:
    """A receiver that listens on loopback until left."""
    receiver = Receiver()
    app = web.Application(client_max_size=_LARGEST)
    app.router.add_post("/", receiver.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        yield receiver
    finally:
        await runner.cleanup()
