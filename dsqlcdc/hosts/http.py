"""The read-only http server beside running pipelines: /healthz, /readyz, /metrics, /status."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from dsqlcdc import __version__
from dsqlcdc.config.models import listen_address
from dsqlcdc.core.telemetry import Status
from dsqlcdc.errors import Misconfigured
from dsqlcdc.hosts.readiness import Readiness
from dsqlcdc.prometheus import Metrics
from dsqlcdc.sources.counts import Counts

if TYPE_CHECKING:
    from dsqlcdc.streams.watch import View

__all__ = ["plain", "serve"]

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
_PATHS = ("/healthz", "/readyz", "/metrics", "/status")


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
    names: Sequence[str] = (),
    clock: Callable[[], float] = time.time,
) -> AsyncGenerator[str, None]:
    """Serve on `listen` (port 0 takes a free one) until left; gives the base URL. Everything is computed when it is asked for.

    Only GET and HEAD, and only for a Host that is an IP address, localhost, the host of `listen` or one of `names`: a foreign name means
    that a web page has had its own name resolved to this address (DNS rebinding). `/readyz` is 503, with its reasons, without progress.
    `source`: what the process has read of the stream. `watch`: how the CDC stream is, shown with its remedy; it is no reason not to be ready,
    for reading goes on. `clock`: seconds since the epoch.
    Raises ValueError for an address that is none (a config has been checked), Misconfigured (E130) where it cannot be listened on.
    """
    host, port = listen_address(listen)
    allowed = {"localhost", host.lower(), *(name.lower() for name in names)}
    pages = _Pages(statuses, readiness or Readiness(), Metrics(statuses, source, clock, watch), watch)
    app = web.Application(middlewares=[_guard(allowed)], client_max_size=1024)
    for path, handler in zip(_PATHS, (pages.health, pages.ready, pages.metrics, pages.status), strict=True):
        app.router.add_get(path, handler)
    app.on_response_prepare.append(_secure)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, max_line_size=4096, max_field_size=4096)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            why = error.strerror or str(error)
            raise Misconfigured("the http server cannot listen", where=f"http.listen {listen}", why=why, code="E130") from error
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class _Pages:
    """The four answers."""

    def __init__(
        self, statuses: Callable[[], Sequence[Status]], readiness: Readiness, metrics: Metrics, watch: Callable[[], View] | None
    ) -> None:
        self._statuses, self._readiness, self._watch = statuses, readiness, watch
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(metrics)

    async def health(self, _: web.Request) -> web.Response:
        return _json({"alive": True, "version": __version__})

    async def ready(self, _: web.Request) -> web.Response:
        reasons = self._readiness.ask(self._statuses(), asyncio.get_running_loop().time())
        return _json({"ready": not reasons, "reasons": reasons, **self._stream()}, 503 if reasons else 200)

    async def metrics(self, request: web.Request) -> web.Response:
        encode, kind = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": kind})

    async def status(self, _: web.Request) -> web.Response:
        statuses = self._statuses()
        reasons = self._readiness.ask(statuses, asyncio.get_running_loop().time())
        pipelines = [plain(status) for status in statuses]
        return _json({"version": __version__, "ready": not reasons, "reasons": reasons, "pipelines": pipelines, **self._stream()})

    def _stream(self) -> dict[str, Any]:
        """The CDC stream with its remedy, where it is watched."""
        return {"stream": self._watch().as_json()} if self._watch is not None else {}


def _json(body: object, status: int = 200) -> web.Response:
    data = orjson.dumps(msgspec.to_builtins(body), option=orjson.OPT_APPEND_NEWLINE)
    return web.Response(body=data, status=status, content_type="application/json")


def _guard(allowed: set[str]) -> Any:
    """Refuse foreign hosts, other methods, and answer what aiohttp refuses as JSON too."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _ours(request.headers.get("Host", ""), allowed):
            return _json({"error": "this server does not answer for that Host"}, 421)
        try:
            return await handler(request)
        except web.HTTPMethodNotAllowed as error:
            response = _json({"error": "read only: GET and HEAD"}, 405)
            response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
            return response
        except web.HTTPNotFound:
            return _json({"error": "no such page", "pages": _PATHS}, 404)

    return guard


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
    response.headers.update(_HEADERS)
