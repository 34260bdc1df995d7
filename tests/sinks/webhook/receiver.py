"""A receiver on loopback that keeps what it is sent and answers as it is told, and transports without a network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

import msgspec
from aiohttp import web

from dsqlcdc.contract import Change, Context, Op, Table
from dsqlcdc.core.records import Record
from dsqlcdc.core.tables import Rule, Tables
from dsqlcdc.errors import Fault, Unavailable
from dsqlcdc.testing.records import full
from dsqlcdc_webhook import Options, WebhookSink
from dsqlcdc_webhook.answers import Answer

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
    url: str = "https://receiver.example/",
    *,
    post: Any = None,
    claims: Any = None,
    clock: Callable[[], float] = lambda: float(NOON),
    context: Context | None = None,
    **options: Any,
) -> WebhookSink:
    given = Options.model_validate({"url": url, "secrets": [SECRET], **options})
    makers = {"post": None if post is None else lambda: post, "claims": None if claims is None else lambda: claims}
    return WebhookSink(given, context or Context("p", "hook"), **makers, clock=clock)


class Script:
    """A transport without a network: `answer(headers, event)` says what comes back, or raises. Counts what is in flight for each row.

    Of a batch `event` is the list of its events; of one in binary mode its attributes.
    """

    def __init__(self, answer: Callable[[Mapping[str, str], Any], Awaitable[Answer]] | None = None) -> None:
        self._answer = answer
        self.sent: list[Request] = []
        self.flying: dict[str, int] = {}
        self.most = self.now = 0
        self.most_of_a_row = 0

    @property
    def events(self) -> list[Any]:
        """All that were sent, those of batches one by one."""
        read = [_event(headers, body) for headers, body in self.sent]
        return [event for sent in read for event in (sent if isinstance(sent, list) else [sent])]

    async def __call__(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        event = _event(headers, body)
        self.sent.append((dict(headers), body))
        rows = [each.get("subject", headers["webhook-id"]) for each in (event if isinstance(event, list) else [event])]
        for row in rows:
            self.flying[row] = self.flying.get(row, 0) + 1
            self.most_of_a_row = max(self.most_of_a_row, self.flying[row])
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0)
            return Answer(204) if self._answer is None else await self._answer(headers, event)
        finally:
            for row in rows:
                self.flying[row] -= 1
            self.now -= 1

    async def close(self) -> None:
        return None


def _event(headers: Mapping[str, str], body: bytes) -> Any:
    if "ce-subject" in headers:
        return {name.removeprefix("ce-"): value for name, value in headers.items()}
    return msgspec.json.decode(body)


class Stored:
    """A place for large data, in memory. `fault` is raised while it is set."""

    def __init__(self, query: str = "") -> None:
        self.objects: dict[str, bytes] = {}
        self.query = query
        self.fault: Fault | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *left: Any) -> None:
        return None

    async def put(self, id: str, data: bytes) -> str:
        await asyncio.sleep(0)
        if self.fault is not None:
            raise self.fault
        assert self.objects.setdefault(id, data) == data
        return f"https://claims.example/{id}?{self.query}" if self.query else f"s3://claims/{id}"


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


async def until_it_stops(sink: WebhookSink) -> None:
    """Write until the sink raises something else than Unavailable, waiting as it asks."""
    for _ in range(200):
        try:
            await sink.write([change()])
        except Unavailable as error:
            await asyncio.sleep(error.after or 1)
    raise AssertionError("it goes on and on")
