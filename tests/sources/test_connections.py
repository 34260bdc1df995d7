"""Connections against a bare server that answers byte by byte as it is told: cut, in pieces, oddly, not at all."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from botocore import exceptions as botocore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsqlcdc.sources import connections
from dsqlcdc.sources.connections import Connections
from dsqlcdc.sources.service import Admit

BODY = b'{"Records":[],"NextShardIterator":"next","MillisBehindLatest":0}'
HEAD = b"HTTP/1.1 200 OK\r\nDate: Sun, 29 Nov 2026 12:00:00 GMT\r\n"
REPLY = HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
ASKED = {"X-Amz-Target": "Kinesis_20131202.GetRecords"}


async def admit(size: int) -> None:
    return None


class Peer:
    """A server. `answer` is called for every request with its connection's number, the request's on it, and where to write."""

    def __init__(self, answer: Callable[[int, int, asyncio.StreamWriter], Awaitable[None]]) -> None:
        self._answer = answer
        self.requests: list[bytes] = []
        self.connections = self.gone = 0
        self.changed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.connections = self.connections, self.connections + 1
        try:
            at = 0
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                await self._answer(number, at, writer)
                at += 1
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()
            self.gone += 1
            self.changed.set()

    async def all_gone(self) -> None:
        while self.gone < self.connections:
            self.changed.clear()
            await self.changed.wait()


@asynccontextmanager
async def peer(
    answer: Callable[[int, int, asyncio.StreamWriter], Awaitable[None]], silence: float = 30.0, **settings: Any
) -> AsyncIterator[tuple[Connections, Peer]]:
    serving = Peer(answer)
    server = await asyncio.start_server(serving.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool = Connections(f"http://127.0.0.1:{port}/", None, **{"limit": 8, "connect": 5.0, "silence": silence, **settings})
    try:
        yield pool, serving
    finally:
        await pool.close()
        server.close()
        async with asyncio.timeout(10):
            await serving.all_gone()


async def ask(pool: Connections, how: Admit = admit) -> tuple[int, bytes]:
    status, _, body = await pool.exchange(ASKED, b"{}", how)
    return status, bytes(body)


async def whole(number: int, at: int, writer: asyncio.StreamWriter) -> None:
    writer.write(REPLY)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("kept", [False, True])
async def test_a_reply_cut_at_any_byte_is_no_answer_and_the_next_request_is_answered(reset: bool, kept: bool) -> None:
    """`kept`: on a connection that has answered before. Not a byte there is a connection closed between requests: asked again, unseen."""
    cut, breaking = 0, False

    async def answer(number: int, at: int, writer: asyncio.StreamWriter) -> None:
        nonlocal breaking
        writer.write(REPLY[:cut] if breaking else REPLY)
        if breaking:
            breaking = False
            if reset:
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            writer.close()

    async with peer(answer) as (pool, serving):
        for cut in range(len(REPLY)):
            if kept:
                assert await ask(pool) == (200, BODY)
            breaking = True
            if kept and cut == 0:
                assert await ask(pool) == (200, BODY)
                continue
            with pytest.raises(botocore.ConnectionClosedError):
                await ask(pool)
        assert await ask(pool) == (200, BODY)
        assert serving.connections == len(REPLY) + 1


def chunked(body: bytes, sizes: list[int]) -> bytes:
    out, at = b"", 0
    while at < len(body):
        piece = body[at : at + sizes[at % len(sizes)]]
        out, at = out + b"%x\r\n%b\r\n" % (len(piece), piece), at + len(piece)
    return out + b"0\r\nTrailer: odd\r\n\r\n"


FRAMINGS: dict[str, Callable[[list[int]], bytes]] = {
    "length": lambda _: REPLY,
    "another case": lambda _: HEAD.replace(b"Date", b"dATE") + b"cONTENT-lENGTH:%d   \r\nX-Empty:\r\n\r\n%b" % (len(BODY), BODY),
    "chunked": lambda sizes: HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(BODY, sizes),
    "close": lambda _: HEAD + b"\r\n" + BODY,
    "close, said": lambda _: HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY),
    "HTTP/1.0": lambda _: HEAD.replace(b"1.1", b"1.0") + b"\r\n" + BODY,
}
BEFORE = [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Length: 3\r\n\r\n"]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    framing=st.sampled_from(sorted(FRAMINGS)),
    before=st.lists(st.sampled_from(BEFORE), max_size=2),
    cuts=st.lists(st.integers(1, 300), max_size=6),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3),
)
def test_however_it_is_framed_and_in_whatever_pieces_the_answer_is_the_same(
    framing: str, before: list[bytes], cuts: list[int], sizes: list[int]
) -> None:
    sent = b"".join(before) + FRAMINGS[framing](sizes)
    pieces = [sent[low:high] for low, high in zip([0, *sorted(cuts)], [*sorted(cuts), len(sent)], strict=True)]
    closing = framing in ("close", "HTTP/1.0", "close, said")

    async def answer(number: int, at: int, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)  # the reader's turn
        if closing:
            writer.close()

    async def law() -> None:
        async with peer(answer) as (pool, serving):
            for _ in range(2):
                status, headers, body = await pool.exchange(ASKED, b"{}", admit)
                assert (status, bytes(body), headers["date"]) == (200, BODY, "Sun, 29 Nov 2026 12:00:00 GMT")
            assert serving.connections == (2 if closing else 1)

    asyncio.run(law())


async def test_control_a_server_that_answers_something_else_is_seen() -> None:
    async def answer(number: int, at: int, writer: asyncio.StreamWriter) -> None:
        writer.write(REPLY.replace(b"next", b"text"))

    async with peer(answer) as (pool, _):
        assert await ask(pool) != (200, BODY)


async def test_a_connection_that_the_server_closed_between_requests_is_replaced_without_an_error() -> None:
    async def answer(number: int, at: int, writer: asyncio.StreamWriter) -> None:
        if at == 1:  # a second request on it comes too late
            writer.close()
        else:
            writer.write(REPLY)

    async with peer(answer) as (pool, serving):
        for _ in range(5):
            assert await ask(pool) == (200, BODY)
        assert serving.connections == 5


async def test_control_a_new_connection_that_is_closed_at_once_is_an_error() -> None:
    async def answer(number: int, at: int, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with peer(answer) as (pool, serving):
        with pytest.raises(botocore.ConnectionClosedError):
            await ask(pool)
        assert serving.connections == 1


async def test_requests_one_after_the_other_use_one_connection_and_those_at_once_no_more_than_the_limit() -> None:
    waiting: list[asyncio.StreamWriter] = []
    full = asyncio.Event()

    async def answer(number: int, at: int, writer: asyncio.StreamWriter) -> None:
        if not full.is_set():
            waiting.append(writer)
            if len(waiting) == 3:
                full.set()
        else:
            writer.write(REPLY)

    async with peer(answer, limit=3) as (pool, serving):
        asking = [asyncio.create_task(ask(pool)) for _ in range(10)]
        await full.wait()
        assert len(serving.requests) == 3
        for writer in waiting:
            writer.write(REPLY)
        assert await asyncio.gather(*asking) == [(200, BODY)] * 10
        assert serving.connections == 3
        for _ in range(5):
            await ask(pool)
        assert serving.connections == 3


async def test_what_a_server_sends_unasked_ends_the_connection_and_is_nobodys_answer() -> None:
    async def answer(number: int, at: int, writer: asyncio.StreamWriter) -> None:
        writer.write(REPLY + (b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n" if number == 0 else b""))

    async with peer(answer) as (pool, serving):
        assert await ask(pool) == (200, BODY)
        assert await ask(pool) == (200, BODY)
        assert serving.connections == 2


@pytest.mark.parametrize(
    "sent",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n123456",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_no_answer(sent: bytes) -> None:
    async def answer(number: int, at: int, writer: asyncio.StreamWriter) -> None:
        writer.write(sent if number == 0 else REPLY)

    async with peer(answer) as (pool, _):
        with pytest.raises(botocore.HTTPClientError) as caught:
            await ask(pool)
        assert type(caught.value) is botocore.HTTPClientError
        assert await ask(pool) == (200, BODY)


@pytest.mark.parametrize("sent", [b"", REPLY[:20], REPLY[:-10]])
async def test_a_server_that_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(connections, "_LOOK", 0.02)

    async def answer(number: int, at: int, writer: asyncio.StreamWriter) -> None:
        writer.write(sent if number == 0 else REPLY)

    async with peer(answer, silence=0.1) as (pool, _):
        with pytest.raises(botocore.ReadTimeoutError):
            await ask(pool)
        assert await ask(pool) == (200, BODY)


async def test_a_server_that_never_shakes_hands_is_given_up() -> None:
    async def answer(number: int, at: int, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("no request can have been read")

    async with peer(answer) as (plain, _):
        pool = Connections(plain._url.replace("http:", "https:"), ssl.create_default_context(), limit=8, connect=0.1, silence=30)
        with pytest.raises(botocore.ConnectTimeoutError):
            await ask(pool)
        await pool.close()


async def test_a_body_is_left_unread_until_there_is_room() -> None:
    size, sent = 50_000_000, asyncio.Event()

    async def answer(number: int, at: int, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        writer.write(bytes(size))
        await writer.drain()
        sent.set()

    async def wait(length: int) -> None:
        assert length == size
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await sent.wait()

    async with peer(answer) as (pool, _):
        assert len((await ask(pool, wait))[1]) == size


@pytest.mark.parametrize("sent", [b"", REPLY[:-10], REPLY])
async def test_a_cancelled_request_leaves_no_connection_behind(sent: bytes) -> None:
    """Whether the answer was not begun, begun, or whole and waiting for room."""
    asked = asyncio.Event()

    async def answer(number: int, at: int, writer: asyncio.StreamWriter) -> None:
        writer.write(sent if number == 0 else REPLY)
        asked.set()

    async def never(size: int) -> None:
        await asyncio.Event().wait()

    async with peer(answer) as (pool, serving):
        asking = asyncio.create_task(ask(pool, never))
        await asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await serving.all_gone()
        assert await ask(pool) == (200, BODY)
        assert serving.connections == 2


async def test_what_admit_raises_comes_as_it_is_and_its_answer_is_never_taken_for_another() -> None:
    async def refuse(size: int) -> None:
        raise KeyError(size)

    async with peer(whole) as (pool, serving):
        with pytest.raises(KeyError):
            await ask(pool, refuse)
        assert await ask(pool) == (200, BODY)
        assert serving.connections == 2


async def test_a_closed_pool_ends_what_is_under_way_and_opens_nothing_more() -> None:
    asked = asyncio.Event()

    async def answer(number: int, at: int, writer: asyncio.StreamWriter) -> None:
        if at == 0:
            writer.write(REPLY)
        else:
            asked.set()

    async with peer(answer) as (pool, serving):
        await ask(pool)  # the second request goes over a connection that may have been closed between requests
        asking = asyncio.create_task(ask(pool))
        await asked.wait()
        await pool.close()
        for task in (asking, asyncio.create_task(ask(pool))):
            with pytest.raises((botocore.ConnectionClosedError, botocore.EndpointConnectionError)):
                await task
        assert serving.connections == 1


async def test_a_connection_without_a_request_is_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_KEPT", 0.05)
    monkeypatch.setattr(connections, "_LOOK", 0.02)
    async with peer(whole) as (pool, serving):
        await ask(pool)
        async with asyncio.timeout(10):
            await serving.all_gone()
        assert await ask(pool) == (200, BODY)


async def test_a_host_that_nobody_knows_or_that_takes_no_connection_is_said_with_its_address() -> None:
    for url in ("http://nowhere.invalid:8080/", "http://127.0.0.1:9/"):
        pool = Connections(url, None, limit=8, connect=5, silence=5)
        with pytest.raises(botocore.EndpointConnectionError, match=url):
            await ask(pool)
        await pool.close()
