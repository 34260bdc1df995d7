"""The read-only http server beside running pipelines: the page, /healthz, /readyz, /metrics, /status, and the page's live events."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from dsqlcdc import __version__
from dsqlcdc.config.models import is_loopback, listen_address
from dsqlcdc.core.telemetry import Kept, Status
from dsqlcdc.errors import Misconfigured
from dsqlcdc.hosts.live import Live, Seen
from dsqlcdc.hosts.readiness import Readiness
from dsqlcdc.prometheus import Metrics
from dsqlcdc.sources.counts import Counts

if TYPE_CHECKING:
    from dsqlcdc.streams.watch import View

__all__ = ["plain", "serve"]

log = logging.getLogger("dsqlcdc.http")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "dsqlcdc",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_ASSETS = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/live.js": ("live.js", "text/javascript"),
    "/sinks.js": ("sinks.js", "text/javascript"),
    "/aside.js": ("aside.js", "text/javascript"),
    "/charts.js": ("charts.js", "text/javascript"),
    "/words.js": ("words.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""The page itself holds nothing of the pipeline, so it needs no token: its script asks for one."""
_PATHS = ("/", "/healthz", "/readyz", "/metrics", "/status", "/events")
_OPEN = {"/healthz", *_ASSETS}
_LISTENERS, _CONNECTIONS = 32, 256
_IDLE = 15.0
"""Seconds within which a request must have come whole, and another after it."""
_SLOW = 15.0
"""Seconds within which who listens must have taken what it was sent."""


def plain(status: Status) -> dict[str, Any]:
    """A status as JSON: as its fields are, but `newest_version`, nanoseconds beyond 2^53, is a string."""
    body: dict[str, Any] = msgspec.to_builtins(status)
    body["newest_version"] = str(status.newest_version)
    return body


@asynccontextmanager
async def serve(
    listen: str,
    statuses: Callable[[], Sequence[Status]],
    *,
    source: Callable[[], Counts] | None = None,
    readiness: Readiness | None = None,
    watch: Callable[[], View] | None = None,
    kept: Callable[[], Awaitable[Kept]] | None = None,
    kept_every: float = 5.0,
    names: Sequence[str] = (),
    token: str = "",
    config: str = "CONFIG",
    clock: Callable[[], float] = time.time,
) -> AsyncGenerator[str, None]:
    """Serve on `listen` (port 0 takes a free one) until left; gives the base URL. But for what the page keeps of the last half hour, everything
    is computed when it is asked for.

    Only GET and HEAD, and only for a Host that is an IP address, localhost, the host of `listen` or one of `names`: a foreign name means
    that a web page has had its own name resolved to this address (DNS rebinding). With a `token` whoever asks must show it as a bearer, but for
    `/healthz` and the page's own files. `/readyz` is 503, with its reasons, without progress.
    `source`: what the process has read of the stream. `watch`: how the CDC stream is, shown with its remedy; it is no reason not to be ready,
    for reading goes on. `kept` asks the stores, every `kept_every` seconds. `config`: the file's name, for commands. `clock`: seconds since the
    epoch.
    Raises ValueError for an address that is none (a config has been checked), Misconfigured (E130) where it cannot be listened on.
    """
    host, port = listen_address(listen)
    if not (token or is_loopback(host)):
        log.warning("http.listen %s: whoever reaches this address sees the page; write http.token beside it", listen)
    allowed = {"localhost", host.lower(), *(name.lower() for name in names)}
    seen = Seen(statuses, readiness or Readiness(), source, watch, kept, kept_every, config)
    live = Live(seen, clock)
    pages = _Pages(seen, live, Metrics(statuses, source, clock, watch, live.kept if kept is not None else None))
    app = web.Application(middlewares=[_guard(allowed, token)], client_max_size=1024)
    for path, handler in (
        ("/healthz", pages.health),
        ("/readyz", pages.ready),
        ("/metrics", pages.metrics),
        ("/status", pages.status),
    ):
        app.router.add_get(path, handler)
    app.router.add_get("/events", pages.events, allow_head=False)
    for path, asset in await asyncio.to_thread(_assets):
        app.router.add_get(path, asset)
    app.on_response_prepare.append(_secure)
    limits: dict[str, Any] = {"max_line_size": 4096, "max_field_size": 4096, "max_headers": 64}
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, keepalive_timeout=_IDLE, lingering_time=2.0, **limits)
    await runner.setup()
    _bound_connections(runner)
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            why = error.strerror or str(error)
            raise Misconfigured(
                "the http server cannot listen", where=f"http.listen {listen}", why=why, run="dsqlcdc config show CONFIG", code="E130"
            ) from error
        shown = f"[{host}]" if ":" in host else host
        async with live.running():
            yield f"http://{shown}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _bound_connections(runner: web.AppRunner) -> None:
    """Descriptors are the pipelines' first: beyond so many connections a new one is dropped."""
    server = runner.server
    assert server is not None
    made = server.connection_made

    def bounded(handler: Any, transport: asyncio.Transport) -> None:
        made(handler, transport)
        if len(server.connections) > _CONNECTIONS:
            transport.abort()

    server.connection_made = bounded  # type: ignore[method-assign]  # aiohttp has no limit of its own


class _Pages:
    """What is answered."""

    def __init__(self, seen: Seen, live: Live, metrics: Metrics) -> None:
        self._seen, self._live = seen, live
        self._listeners = 0
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(metrics)

    async def health(self, _: web.Request) -> web.Response:
        return _json({"alive": True, "version": __version__})

    async def ready(self, _: web.Request) -> web.Response:
        reasons = self._seen.readiness.ask(self._seen.statuses(), asyncio.get_running_loop().time())
        return _json({"ready": not reasons, "reasons": reasons, **self._stream()}, 503 if reasons else 200)

    async def metrics(self, request: web.Request) -> web.Response:
        encode, kind = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": kind})

    async def status(self, _: web.Request) -> web.Response:
        statuses = self._seen.statuses()
        reasons = self._seen.readiness.ask(statuses, asyncio.get_running_loop().time())
        pipelines = [plain(status) for status in statuses]
        body = {"version": __version__, "ready": not reasons, "reasons": reasons, "pipelines": pipelines}
        return _json({**body, **self._live.extra(), **self._stream()})

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events until who listens goes, takes nothing, or the server ends."""
        if self._listeners >= _LISTENERS:
            return _json({"error": f"{_LISTENERS} listen already"}, 503)
        self._listeners += 1
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"})
        try:
            await response.prepare(request)
            async with aclosing(self._live.news()) as news:
                async for event in news:
                    async with asyncio.timeout(_SLOW):
                        await response.write(event)
        except (ConnectionError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._listeners -= 1
        return response

    def _stream(self) -> dict[str, Any]:
        """The CDC stream with its remedy, where it is watched."""
        return {"stream": self._seen.watch().as_json()} if self._seen.watch is not None else {}


def _assets() -> list[tuple[str, Handler]]:
    """The page's files, read once."""
    folder = resources.files("dsqlcdc.hosts") / "page"

    def handler(body: bytes, kind: str) -> Handler:
        async def answer(_: web.Request) -> web.StreamResponse:
            headers = {"Content-Security-Policy": _PAGE_POLICY}
            return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)

        return answer

    return [(path, handler((folder / name).read_bytes(), kind)) for path, (name, kind) in _ASSETS.items()]


def _json(body: object, status: int = 200) -> web.Response:
    data = orjson.dumps(msgspec.to_builtins(body), option=orjson.OPT_APPEND_NEWLINE)
    return web.Response(body=data, status=status, content_type="application/json")


def _guard(allowed: set[str], token: str) -> Any:
    """Refuse foreign hosts, who does not show the token, other methods, and answer what aiohttp refuses as JSON too."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _ours(request.headers.get("Host", ""), allowed):
            return _json({"error": "this server does not answer for that Host"}, 421)
        if token and request.path not in _OPEN and not _shows(request.headers.get("Authorization", ""), token):
            response = _json({"error": "a bearer token is needed: Authorization: Bearer …"}, 401)
            response.headers["WWW-Authenticate"] = 'Bearer realm="dsqlcdc"'
            return response
        try:
            return await handler(request)
        except web.HTTPMethodNotAllowed as error:
            response = _json({"error": "read only: GET and HEAD"}, 405)
            response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
            return response
        except web.HTTPNotFound:
            return _json({"error": "no such page", "pages": _PATHS}, 404)

    return guard


def _shows(header: str, token: str) -> bool:
    """Is the token in this Authorization header? Asked in the same time whatever is there."""
    scheme, _, shown = header.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(shown.strip().encode(), token.encode())


def _ours(header: str, allowed: set[str]) -> bool:
    """May this Host be answered? A name that is not ours may be anybody's, an address cannot be rebound."""
    try:
        host = urlsplit(f"//{header}").hostname
    except ValueError:
        return False
    if not host or any(mark in header for mark in "/@?# "):
        return False
    if host in allowed:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _secure(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        if name != "Content-Security-Policy" or name not in response.headers:
            response.headers[name] = value
