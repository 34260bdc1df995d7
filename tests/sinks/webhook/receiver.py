"""A receiver on loopback that keeps what it is sent and answers as it is told, and transports without a network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

from dsqlcdc.contract import Change, Context, Op, Table
from dsqlcdc.core.records import Record
from dsqlcdc.core.tables import Rule, Tables
from dsqlcdc.testing.records import full
from dsqlcdc_webhook import Options, WebhookSink
from dsqlcdc_webhook.post import Answer

SECRET = "whsec_" + "A" * 32
OTHER = "whsec_" + "B" * 44
NOON = 1_800_000_000
ORDERS = Table("c1", "public", "orders", ("id",))
_TABLES = Tables({"public.orders": Rule(key=("id",)), "public.pairs": Rule(key=("a", "b"))})

Request = tuple[Mapping[str, str], bytes]


def change(
    id: Any = 1, version: int = 1, *, op: Op = Op.INSERT, table: str = "public.orders", row: Mapping[str, Any] | None = None
) -> Change:
    """A change as the real decoder makes it."""
    image = {"id": id, **(row or {})}
    delete = op is Op.DELETE
    data = full(op.value, table, None if delete else image, NOON * 10**9 + version, before=image if delete else None, cluster="c1")
    read = _TABLES.read("shard", Record(str(version), data, float(NOON)))
    assert isinstance(read, Change)
    return read


def webhook(
    url: str = "https://receiver.example/", *, post: Any = None, clock: Callable[[], float] = lambda: float(NOON), **options: Any
) -> WebhookSink:
    given = Options.model_validate({"url": url, "secrets": [SECRET], **options})
    return WebhookSink(given, Context("p", "hook"), post=None if post is None else lambda: post, clock=clock)


class Script:
    """A transport without a network: `answer(headers, event)` says what comes back, or raises. Counts what is in flight for each row."""

    def __init__(self, answer: Callable[[Mapping[str, str], Any], Awaitable[Answer]] | None = None) -> None:
        self._answer = answer
        self.sent: list[Request] = []
        self.flying: dict[str, int] = {}
        self.most = self.now = 0
        self.most_of_a_row = 0

    @property
    def events(self) -> list[Any]:
        return [msgspec.json.decode(body) for _, body in self.sent]

    async def __call__(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        event = msgspec.json.decode(body)
        self.sent.append((dict(headers), body))
        row = event["subject"]
        self.flying[row] = self.flying.get(row, 0) + 1
        self.now += 1
        self.most, self.most_of_a_row = max(self.most, self.now), max(self.most_of_a_row, self.flying[row])
        try:
            await asyncio.sleep(0)
            return Answer(204) if self._answer is None else await self._answer(headers, event)
        finally:
            self.flying[row] -= 1
            self.now -= 1

    async def close(self) -> None:
        return None


def saying(status: int, retry_after: str | None = None, text: bytes = b"") -> Script:
    async def answer(headers: Mapping[str, str], event: Any) -> Answer:
        return Answer(status, retry_after, text)

    return Script(answer)


class Receiver:
    """A real one, over aiohttp."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse]] = _no_content
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((dict(request.headers), await request.read()))
        return await self.answer(request)


async def _no_content(request: web.Request) -> web.StreamResponse:
    return web.Response(status=204)


@asynccontextmanager
async def receiving() -> AsyncGenerator[Receiver, None]:
    receiver = Receiver()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/{tail:.*}", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_server(talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncGenerator[str, None]:
    """A server that says what it likes; `talk` is called once the request's head has been read."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()


def local(url: str, **options: Any) -> WebhookSink:
    return webhook(url, allow_http=True, allow_private=["127.0.0.0/8"], **options)
