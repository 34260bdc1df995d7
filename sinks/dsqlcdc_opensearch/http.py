"""Requests to a cluster over HTTP: several nodes, compression and hashing off the loop, no redirects, proxies or cookies."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import ssl
import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Protocol

import aiohttp
import msgspec
from yarl import URL

_SMALL = 4 * 1024
"""Bodies up to this many bytes are not compressed."""
_AT_ONCE = 512 * 1024
"""A larger body is sent piece by piece, so that the loop is not held up."""
_ASK_FIRST = 1024 * 1024
"""A body above this whose connection broke is sent again with `Expect`: a server that refuses it by its size may cut the connection."""


class Answer(msgspec.Struct, frozen=True):
    """A status, the Retry-After header as sent, and the whole body."""

    status: int
    body: bytes = b""
    retry_after: str | None = None


class NoAnswer(Exception):
    """No node answered; whether one did what was asked is not known. `untrusted`: its certificate is refused, or it has none."""

    def __init__(self, why: str, *, untrusted: bool = False) -> None:
        super().__init__(why)
        self.why, self.untrusted = why, untrusted


class Transport(Protocol):
    """One request. Raises NoAnswer; Unavailable and Misconfigured where it cannot be signed."""

    async def __call__(self, method: str, path: str, body: bytes = b"", *, lines: bool = False) -> Answer:
        """`path` with its query, percent-encoded, beginning with a slash. `lines`: the body is of JSON lines, otherwise one JSON value."""
        ...

    async def refresh(self) -> bool:
        """Fetch the credentials anew. False where there are none to be fetched."""
        ...

    async def close(self) -> None: ...


class Signer(Protocol):
    """Adds to a request's headers what proves who sends it."""

    async def sign(self, method: str, url: URL, headers: dict[str, str], digest: str) -> None: ...

    async def refresh(self) -> bool: ...


class HttpTransport:
    """Connections to the nodes of one cluster, asked in turn; after a failure the next request goes to the next one."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        tls: ssl.SSLContext,
        basic: tuple[str, str] | None = None,
        signer: Signer | None = None,
        gzip: bool = True,
        connections: int = 16,
        timeout: float = 60.0,
        connect_timeout: float = 5.0,
    ) -> None:
        self._urls = itertools.cycle([URL(url) for url in urls])
        self._url = next(self._urls)
        self._gzip, self._signer = gzip, signer
        headers = {"User-Agent": "dsqlcdc", "Accept": "application/json", "Accept-Encoding": "gzip, deflate"}
        if basic is not None:
            headers["Authorization"] = aiohttp.encode_basic_auth(*basic)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, ssl=tls),
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=connect_timeout),
        )

    async def __call__(self, method: str, path: str, body: bytes = b"", *, lines: bool = False) -> Answer:
        headers: dict[str, str] = {}
        if body:
            headers["Content-Type"] = "application/x-ndjson" if lines else "application/json"
        wanted = self._gzip and len(body) > _SMALL
        if wanted:
            headers["Content-Encoding"] = "gzip"
        large = len(body) > _ASK_FIRST
        digest = ""
        if wanted or (self._signer is not None and len(body) > _SMALL):
            body, digest = await asyncio.to_thread(_prepare, body, wanted, self._signer is not None)
        elif self._signer is not None:
            body, digest = _prepare(body, False, True)
        try:
            return await self._send(method, path, body, headers, digest)
        except _Broken as error:
            if not large:
                raise NoAnswer(error.why) from error
        try:
            return await self._send(method, path, body, headers, digest, expect=True)
        except _Broken as error:
            raise NoAnswer(error.why) from error

    async def _send(self, method: str, path: str, body: bytes, headers: Mapping[str, str], digest: str, *, expect: bool = False) -> Answer:
        base = self._url
        url = URL(str(base).rstrip("/") + path, encoded=True)
        own = dict(headers)
        if self._signer is not None:
            await self._signer.sign(method, url, own, digest)
        data = BytesIO(body) if len(body) > _AT_ONCE else body or None
        try:
            async with self._session.request(method, url, data=data, headers=own, allow_redirects=False, expect100=expect) as response:
                return Answer(response.status, await response.read(), response.headers.get("Retry-After"))
        except TimeoutError as error:
            self._next(base)
            raise NoAnswer("no answer in time") from error
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
            self._next(base)
            fault = "it does not speak TLS (is it http?)" if _plain(error) else "its certificate is refused"
            raise NoAnswer(f"{fault}: {_short(error)}", untrusted=True) from error
        except aiohttp.ClientConnectorError as error:
            self._next(base)
            raise NoAnswer(_short(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            self._next(base)
            raise _Broken(_short(error)) from error

    def _next(self, failed: URL) -> None:
        if self._url is failed:
            self._url = next(self._urls)

    async def refresh(self) -> bool:
        return self._signer is not None and await self._signer.refresh()

    async def close(self) -> None:
        await self._session.close()


class _Broken(Exception):
    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def _prepare(body: bytes, gzip: bool, hashed: bool) -> tuple[bytes, str]:
    """The body as it goes over the wire, and its SHA-256 in hex where that is signed."""
    if gzip:
        packer = zlib.compressobj(1, zlib.DEFLATED, 31)
        body = packer.compress(body) + packer.flush()
    return body, hashlib.sha256(body).hexdigest() if hashed else ""


def _plain(error: BaseException) -> bool:
    """Was our TLS answered with something that is none?"""
    inner = getattr(error, "os_error", error)
    return isinstance(inner, ssl.SSLError) and inner.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")


def _short(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:300]
