"""One POST over HTTP: bounded in time and in what is read of the answer, without redirects, proxies, cookies or decompression."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Protocol

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver
from yarl import URL

from dsqlcdc_webhook.addresses import Guarded, Network, literal

_READ = 64 * 1024
_AT_ONCE = 512 * 1024
"""A larger body is sent piece by piece, so that the loop is not held up."""
_DRAIN = 2.0
"""Seconds to wait for the rest of an answer whose status is known: it is only read to use the connection again."""


class Answer(msgspec.Struct, frozen=True):
    """A status, the Retry-After header as sent, and the beginning of the body."""

    status: int
    retry_after: str | None = None
    text: bytes = b""


class NoAnswer(Exception):
    """The receiver did not answer; whether it has the event is not known. `untrusted`: its certificate is refused."""

    def __init__(self, why: str, *, untrusted: bool = False, slow: bool = False) -> None:
        super().__init__(why)
        self.why, self.untrusted, self.slow = why, untrusted, slow


class Post(Protocol):
    """POST this. Raises NoAnswer, and Misconfigured where the address is refused."""

    async def __call__(self, body: bytes, headers: Mapping[str, str]) -> Answer: ...

    async def reach(self) -> None:
        """Connect, with TLS, and hang up: nothing is asked for. Raises as a POST would."""
        ...

    async def close(self) -> None: ...


class HttpPost:
    """Connections to one URL, kept open and used again."""

    def __init__(
        self,
        url: str,
        *,
        where: str,
        headers: Mapping[str, str],
        allowed: Sequence[Network],
        tls: ssl.SSLContext,
        concurrency: int,
        timeout: float,
        connect_timeout: float,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._url, self._tls, self._patience = URL(url), tls, connect_timeout
        self._resolver = Guarded(resolver or aiohttp.ThreadedResolver(), allowed, where)
        connector = aiohttp.TCPConnector(limit=concurrency, ssl=tls, resolver=self._resolver)
        self._session = aiohttp.ClientSession(
            connector=connector,
            trust_env=False,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={**headers, "User-Agent": "dsqlcdc", "Accept": "*/*", "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=connect_timeout),
        )

    async def __call__(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        data = BytesIO(body) if len(body) > _AT_ONCE else body
        try:
            async with self._session.post(self._url, data=data, headers=headers, allow_redirects=False) as response:
                text = await self._read(response)
                return Answer(response.status, response.headers.get("Retry-After"), text)
        except TimeoutError as error:
            raise NoAnswer("no answer in time", slow=True) from error
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
            raise NoAnswer(f"its certificate is refused: {_short(error)}", untrusted=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise NoAnswer(_short(error)) from error

    async def reach(self) -> None:
        host, port = self._url.host or "", self._url.port or 443
        named = literal(host) is None
        secure = self._url.scheme == "https"
        try:
            async with asyncio.timeout(self._patience):
                found = [str(one["host"]) for one in await self._resolver.resolve(host, port)] if named else [host]
                for address in found:
                    try:
                        await self._shake(address, port, host if secure else None)
                        return
                    except ssl.SSLError:
                        raise
                    except OSError:
                        if address == found[-1]:
                            raise
        except TimeoutError as error:
            raise NoAnswer("no connection in time", slow=True) from error
        except ssl.SSLError as error:
            raise NoAnswer(f"its certificate is refused: {_short(error)}", untrusted=True) from error
        except OSError as error:
            raise NoAnswer(_short(error)) from error

    async def _shake(self, address: str, port: int, host: str | None) -> None:
        """Connect and hang up; with TLS for `host` unless that is None."""
        _, writer = await asyncio.open_connection(address, port, ssl=self._tls if host else None, server_hostname=host)
        writer.close()
        try:
            await writer.wait_closed()
        except OSError:
            pass  # it hung up first: it was there

    @staticmethod
    async def _read(response: aiohttp.ClientResponse) -> bytes:
        """The beginning of the body. One that is too long, stalls or breaks is cut with its connection: the status has been said."""
        text = b""
        try:
            async with asyncio.timeout(_DRAIN):
                while len(text) < _READ:
                    piece = await response.content.read(_READ - len(text))
                    if not piece:
                        return text
                    text += piece
        except (TimeoutError, aiohttp.ClientError, OSError):
            pass
        response.close()
        return text

    async def close(self) -> None:
        await self._session.close()


def _short(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:300]
