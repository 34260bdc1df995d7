"""The HTTP session of a Kinesis client: aiobotocore's own, but for GetRecords, which goes over connections of ours.

Where a proxy is configured, GetRecords goes by aiobotocore's session too: it knows proxies, and a reader behind one has time.
"""

from __future__ import annotations

import asyncio
import importlib
import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Any

from dsqlcdc.sources import connections
from dsqlcdc.sources.connections import Answer, Connections
from dsqlcdc.sources.service import Admit

Exchange = Callable[[Mapping[str, str], bytes, Admit], Awaitable[Answer]]
"""POSTs headers and a body to the endpoint. Raises what aiobotocore's session raises, and what `admit` raises."""


class Prepared(Exception):
    """A GetRecords request as botocore would have sent it, by this session."""

    def __init__(self, request: Any, session: Any) -> None:
        super().__init__()
        self.request, self.session = request, session


def text(value: str | bytes) -> str:
    """A header's value, which botocore has as either."""
    return value.decode() if isinstance(value, bytes) else value


@cache
def session_class() -> Any:
    """aiobotocore's session class, as described above: its `send` raises Prepared for GetRecords, its `exchange(url)` is an Exchange."""
    sessions: Any = importlib.import_module("aiobotocore.httpsession")
    ordinary: Any = sessions.AIOHTTPSession

    class Session(ordinary):  # type: ignore[misc]
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self._settings = settings
            self._opening = asyncio.Lock()
            self._direct: Connections | None = None

        async def send(self, request: Any) -> Any:
            if text(request.headers.get("X-Amz-Target", "")).endswith(".GetRecords"):
                raise Prepared(request, self)
            return await ordinary.send(self, request)

        async def exchange(self, url: str) -> Exchange:
            if self._proxy_to(url):
                return Proxied(url, lambda request: ordinary.send(self, request)).exchange
            async with self._opening:
                if self._direct is None:
                    tls = await asyncio.to_thread(_tls, self._settings) if url.startswith("https:") else None
                    connect, silence = self._settings["timeout"]
                    limit = self._settings["max_pool_connections"]
                    self._direct = Connections(url, tls, limit=limit, connect=connect, silence=silence)
                return self._direct.exchange

        def _proxy_to(self, url: str) -> Any:
            botocore: Any = importlib.import_module("botocore.httpsession")
            return botocore.ProxyConfiguration(proxies=self._settings.get("proxies")).proxy_url_for(url)

        async def __aexit__(self, *error: Any) -> None:
            if self._direct is not None:
                await self._direct.close()
            await ordinary.__aexit__(self, *error)

    return Session


def _tls(settings: Mapping[str, Any]) -> ssl.SSLContext:
    """The context that aiobotocore would have made: a CA bundle, a client's certificate and `verify: False` hold here too."""
    botocore: Any = importlib.import_module("botocore.httpsession")
    context: ssl.SSLContext = botocore.create_urllib3_context()
    verify, certificate = settings.get("verify", True), settings.get("client_cert")
    if verify:
        context.check_hostname = True
        if authorities := botocore.get_cert_path(verify):
            context.load_verify_locations(authorities)
    else:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate:
        context.load_cert_chain(*((certificate,) if isinstance(certificate, str) else certificate))
    return context


class Proxied:
    """GetRecords by aiobotocore's session. `send` takes a prepared request."""

    def __init__(self, url: str, send: Callable[[Any], Awaitable[Any]]) -> None:
        self._url, self._send = url, send
        self._request: Any = importlib.import_module("botocore.awsrequest").AWSPreparedRequest

    async def exchange(self, headers: Mapping[str, str], body: bytes, admit: Admit) -> Answer:
        """See Exchange."""
        response = await self._send(self._request("POST", self._url, dict(headers), body, True))
        raw = response.raw
        try:
            length = int(raw.headers.get("Content-Length") or 0)
            if response.status_code == 200:
                await admit(length)
            found = await _read(raw, length)
        except BaseException:
            raw.close()
            raise
        return response.status_code, response.headers, found


async def _read(raw: Any, length: int) -> bytearray:
    body = bytearray(length)
    filled = 0
    async with asyncio.timeout(connections.PATIENCE):
        async for chunk in raw.content.iter_any():
            body[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
    if length and filled != length:
        raise ConnectionResetError("the body broke off")
    return body
