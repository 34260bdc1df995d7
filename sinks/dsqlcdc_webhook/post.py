"""One POST over HTTP: bounded in time and in what is read of the answer, without redirects, proxies, cookies or decompression."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Protocol

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from dsqlcdc_webhook.addresses import Guarded, Network, literal
from dsqlcdc_webhook.answers import Answer

_AT_ONCE = 512 * 1024
"""A larger body is sent piece by piece, so that the loop is not held up."""
_ALERTS = ("ALERT_CERTIFICATE", "ALERT_BAD_CERTIFICATE", "ALERT_UNKNOWN_CA", "ALERT_UNSUPPORTED_CERTIFICATE", "ALERT_HANDSHAKE_FAILURE")
_DRAIN = 2.0
"""Seconds to wait for the rest of an answer whose status is known: it is only read to use the connection again."""
_NO_TLS = "it does not speak TLS (is it http?)"


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
        read: int,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._url, self._tls, self._patience, self._most, self._met = URL(url), tls, connect_timeout, read, False
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
            skip = None if "Content-Type" in headers else ("Content-Type",)
            response = await self._session.post(self._url, data=data, headers=headers, allow_redirects=False, skip_auto_headers=skip)
            self._met = True
            wait = response.headers.get("Retry-After")
            if response.content.at_eof():  # no body: what most receivers answer; the connection is free again
                return Answer(response.status, wait)
            try:
                text, whole = await self._read(response)
            finally:
                response.release()
            return Answer(response.status, wait, text, whole)
        except TimeoutError as error:
            raise NoAnswer("no answer in time", slow=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._no_answer(error) from error

    def _no_answer(self, error: aiohttp.ClientError | OSError) -> NoAnswer:
        """What a failed request means. A receiver that refuses our certificate says so by an alert, but mostly nothing is seen of it except
        the reset right behind it."""
        text = _short(error)
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            return NoAnswer(f"its certificate is refused: {text}", untrusted=True)
        if (alert := _alert(error)) is not None:
            return NoAnswer(f"it refuses our client certificate, or wants one (tls.certificate): {alert}", untrusted=True)
        if isinstance(error, aiohttp.ClientConnectorSSLError):
            return NoAnswer(f"{_NO_TLS if _plain(error) else 'no TLS with it'}: {text}", untrusted=True)
        if self._url.scheme == "https" and not self._met and _hung_up(error):
            text += "; it has never answered yet: perhaps it wants a client certificate (tls.certificate)"
        return NoAnswer(text)

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
            raise NoAnswer(f"{_NO_TLS if _plain(error) else 'its certificate is refused'}: {_short(error)}", untrusted=True) from error
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

    async def _read(self, response: aiohttp.ClientResponse) -> tuple[bytes, bool]:
        """The beginning of the body, and is it whole? One that is too long, stalls or breaks is cut with its connection: the status has been
        said."""
        text = b""
        try:
            async with asyncio.timeout(_DRAIN):
                while len(text) < self._most:
                    piece = await response.content.read(self._most - len(text))
                    if not piece:
                        return text, True
                    text += piece
        except (TimeoutError, aiohttp.ClientError, OSError):
            pass
        response.close()
        return text, False

    async def close(self) -> None:
        await self._session.close()


def _alert(error: BaseException) -> str | None:
    """The alert by which the other side refuses our certificate, or its absence. aiohttp's own SSL errors have no `reason`."""
    for cause in (error, error.__cause__, getattr(error, "os_error", None)):
        if isinstance(cause, ssl.SSLError) and any(word in (getattr(cause, "reason", None) or "") for word in _ALERTS):
            return str(cause)[:300]
    return None


def _hung_up(error: BaseException) -> bool:
    inner = getattr(error, "os_error", error)
    reset = isinstance(inner, OSError) and inner.errno in (errno.ECONNRESET, errno.EPIPE)
    return reset or isinstance(inner, (aiohttp.ServerDisconnectedError, ConnectionResetError))


def _plain(error: BaseException) -> bool:
    """Was our TLS answered with something that is none?"""
    inner = getattr(error, "os_error", error)
    return isinstance(inner, ssl.SSLError) and inner.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")


def _short(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:300]
