"""Kept-alive HTTP/1.1 connections to one endpoint, for the one kind of request that a reader sends all day. httptools parses the answers.

aiohttp's client, made for any request to anywhere, spends three times as much on an answer without a record. Failures are botocore's
exceptions, as aiobotocore would raise them.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import math
import socket
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohappyeyeballs
import httptools

from dsqlcdc.sources.service import Admit

PATIENCE = 120.0
"""Seconds for the rest of a body; it may be slow, not endless."""
_KEPT = 12.0  # seconds for which a connection is kept without a request, as aiobotocore keeps its own
_RESOLVED = 10.0  # seconds for which a host's addresses are taken as known
_LOOK = 1.0  # seconds between two looks for connections that are past their deadline
_EYEBALLS = 0.25  # seconds until the next address is tried beside the first (RFC 8305)

Answer = tuple[int, Mapping[str, str], bytearray]
"""Status, headers (names in lower case) and body."""

_ROOM = memoryview(bytearray(256 * 1024))
"""What was received, of any connection: parsed before the loop does anything else."""


class Connection(asyncio.BufferedProtocol):
    """One connection, one exchange at a time. `deadline`: loop time at which it is given up. `closed`: why it is, None while it is not.

    `answering`: something of an answer has come.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, silence: float) -> None:
        self._loop, self._silence = loop, silence
        self._parser = httptools.HttpResponseParser(self)
        self._transport: Any = None
        self._waiter: asyncio.Future[None] | None = None
        self.closed: Exception | None = None
        self._busy = False
        self.deadline = math.inf
        self._begin()

    def _begin(self) -> None:
        self.answering = self._headed = self._whole = self._kept = False
        self._headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._body: bytearray | None = None
        self._filled, self._ends = 0, math.inf

    @property
    def usable(self) -> bool:
        """May another request be sent on it?"""
        return self._kept and self.closed is None

    async def exchange(self, request: bytes, admit: Admit) -> Answer:
        """Send a request and read its answer. Raises OSError where the connection is lost, TimeoutError (no byte for `silence` seconds, or
        no end of the body for PATIENCE), httptools.HttpParserError for what is not HTTP, and what `admit` raises: then, or cancelled, the
        connection has to be closed."""
        self._begin()
        self._busy, self.deadline = True, self._loop.time() + self._silence
        self._transport.write(request)
        while not self._headed:
            await self._wait()
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self._headers}
        status, length = self._parser.get_status_code(), int(headers.get("content-length", 0))
        self.deadline = math.inf
        if status == 200:
            await admit(length)
        body = await self._rest(bytearray(length))
        self._busy, self.deadline = False, self._loop.time() + _KEPT
        return status, headers, body

    async def _rest(self, body: bytearray) -> bytearray:
        """All of the body: what came with the headers, and what is still to come."""
        pieces, self._pieces, self._body = self._pieces, [], body
        for piece in pieces:
            self.on_body(piece)
        if not self._whole:
            now = self._loop.time()
            self._ends, self.deadline = now + PATIENCE, now + min(self._silence, PATIENCE)
            self._transport.resume_reading()
            while not self._whole:
                await self._wait()
        self._body = None  # the caller's now: not kept alive until the next request
        del body[self._filled :]
        return body

    async def _wait(self) -> None:
        if self.closed is None:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self.closed is not None and not self._whole:
            raise self.closed

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self, error: Exception | None = None) -> None:
        """Give it up, at once; who waits for an answer is told `error`."""
        self.closed = self.closed or error or ConnectionAbortedError("closed by ourselves")
        self._transport.abort()
        self._wake()

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return _ROOM

    def buffer_updated(self, nbytes: int) -> None:
        if not self._busy:  # nobody asked: a server says good-bye
            return self.close()
        self.answering, self.deadline = True, min(self._loop.time() + self._silence, self._ends)
        try:
            self._parser.feed_data(_ROOM[:nbytes])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            return self.close(error)
        if self._whole:
            self._wake()
        elif self._headed and self._body is None:
            self._transport.pause_reading()
            self._wake()

    def eof_received(self) -> None:
        """An answer that says nothing of its length ends with the connection (RFC 9112, 6.3)."""
        if self._headed and not {b"content-length", b"transfer-encoding"}.intersection([name.lower() for name, _ in self._headers]):
            self._whole = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = self.closed or exc or ConnectionResetError("the connection was closed before the answer was whole")
        self._wake()

    # what the parser calls

    def on_message_begin(self) -> None:
        if self._whole:
            raise ConnectionError("more than one answer to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._headed = self._parser.get_status_code() >= 200  # 1xx: the answer is still to come

    def on_body(self, data: bytes) -> None:
        body = self._body
        if body is None:
            self._pieces.append(data)
        else:
            filled = self._filled + len(data)
            body[self._filled : filled] = data
            self._filled = filled

    def on_message_complete(self) -> None:
        if self._headed:
            self._whole, self._kept = True, self._parser.should_keep_alive()
        else:
            self._headers = []


class Connections:
    """Connections to the endpoint of `url`, at most `limit`, kept alive. `tls`: None for plain HTTP. `connect`: seconds for a connection
    with its TLS; `silence`: seconds without a byte of an answer. Closed by `close`."""

    def __init__(self, url: str, tls: ssl.SSLContext | None, *, limit: int, connect: float, silence: float) -> None:
        address = urlsplit(url)
        self._url, self._tls, self._connect, self._silence = url, tls, connect, silence
        self._host, self._port = str(address.hostname), address.port or (443 if tls else 80)
        named = address.netloc.rpartition("@")[2].removesuffix(":443" if tls else ":80")
        self._opening = f"POST {address.path or '/'} HTTP/1.1\r\nHost: {named}\r\nAccept: */*\r\nAccept-Encoding: identity\r\n"
        self._free = asyncio.Semaphore(limit)
        self._open: set[Connection] = set()
        self._idle: list[Connection] = []
        self._resolving = asyncio.Lock()
        self._addresses: list[Any] = []
        self._resolved_at = -math.inf
        self._looking: asyncio.TimerHandle | None = None
        self._ended = False
        self._errors: Any = importlib.import_module("botocore.exceptions")

    async def exchange(self, headers: Mapping[str, str], body: bytes, admit: Admit) -> Answer:
        """POST `body`. A kept connection that turns out to be closed is replaced by a new one, without a word.

        Raises botocore's EndpointConnectionError, SSLError, ConnectTimeoutError, ReadTimeoutError, ConnectionClosedError, HTTPClientError,
        and what `admit` raises. Cancelled, the connection is closed.
        """
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        request = f"{self._opening}{lines}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body
        async with self._free:
            while self._idle:
                kept = self._idle.pop()  # the one used last: the others may fall out of use
                if kept.usable:
                    try:
                        return await self._ask(kept, request, admit)
                    except self._errors.ConnectionClosedError:
                        if kept.answering:
                            raise
                    break
            return await self._ask(await self._connected(), request, admit)

    async def _ask(self, connection: Connection, request: bytes, admit: Admit) -> Answer:
        try:
            answer = await connection.exchange(request, admit)
        except BaseException as error:
            connection.close()
            told = self._told(error)
            if told is None:
                raise
            raise told from error
        if connection.usable:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def _told(self, error: BaseException) -> Exception | None:
        """An exchange's failure as botocore's exception; None for what is none."""
        found: Exception | None = None
        if isinstance(error, TimeoutError):
            found = self._errors.ReadTimeoutError(endpoint_url=self._url, error=error)
        elif isinstance(error, OSError):
            found = self._errors.ConnectionClosedError(endpoint_url=self._url, error=error, request=None)
        elif isinstance(error, (httptools.HttpParserError, httptools.HttpParserUpgrade)):
            found = self._errors.HTTPClientError(error=error)
        return found

    async def _connected(self) -> Connection:
        loop = asyncio.get_running_loop()
        made = functools.partial(Connection, loop, self._silence)
        try:
            if self._ended:
                raise ConnectionAbortedError("the client was closed")
            addresses = await self._resolve()
            async with asyncio.timeout(self._connect):
                found = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=_EYEBALLS, interleave=1, loop=loop)
                host = self._host if self._tls else None
                _, connection = await loop.create_connection(made, sock=found, ssl=self._tls, server_hostname=host)
        except ssl.SSLError as error:
            raise self._errors.SSLError(endpoint_url=self._url, error=error) from error
        except TimeoutError as error:
            raise self._errors.ConnectTimeoutError(endpoint_url=self._url, error=error) from error
        except OSError as error:
            raise self._errors.EndpointConnectionError(endpoint_url=self._url, error=error) from error
        self._open.add(connection)
        if self._looking is None:
            self._looking = loop.call_later(_LOOK, self._look)
        return connection

    async def _resolve(self) -> list[Any]:
        loop = asyncio.get_running_loop()
        async with self._resolving:
            if loop.time() - self._resolved_at > _RESOLVED:
                self._addresses = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
                self._resolved_at = loop.time()
            return self._addresses

    def _look(self) -> None:
        """Give up what is past its deadline: one timer for all, for one each would cost more than what it watches."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in self._open:
            if connection.deadline <= now:
                connection.close(TimeoutError("nothing was received in time"))
        self._open = {one for one in self._open if one.closed is None}
        self._idle = [one for one in self._idle if one.closed is None]
        self._looking = loop.call_later(_LOOK, self._look) if self._open else None

    async def close(self) -> None:
        """Close all of them. Exchanges under way end with ConnectionClosedError."""
        self._ended = True
        for connection in self._open:
            connection.close()
        if self._looking is not None:
            self._looking.cancel()
        await asyncio.sleep(0)  # the transports are told in the next step of the loop
