"""Receivers that misbehave on the wire, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import struct
from typing import Any

import pytest
from aiohttp import web

from dsqlcdc.contract import Verdict
from dsqlcdc.errors import Unavailable

from .receiver import change, local, raw_server, receiving

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


async def test_headers_that_trickle_are_cut_by_the_total_timeout() -> None:
    async def talk(reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-A: b\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with raw_server(talk) as url, local(url, timeout="300ms") as sink:
        with pytest.raises(Unavailable, match="no answer in time"):
            await sink.write([change()])


async def test_an_endless_body_is_cut_and_the_status_counts() -> None:
    sent = 0

    async def talk(reader: Reader, writer: Writer) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()
            sent += 65536

    async with raw_server(talk) as url, local(url) as sink:
        assert list(await sink.write([change()])) == []
    assert sent < 16 * 1024 * 1024


async def test_a_body_that_never_comes_is_cut_and_the_status_counts() -> None:
    done = asyncio.Event()

    async def talk(reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 422 No\r\nContent-Length: 10\r\n\r\nabc")
        await writer.drain()
        await done.wait()

    async with raw_server(talk) as url, local(url, timeout="500ms") as sink:
        (setback,) = await sink.write([change()])
        done.set()
    assert (setback.verdict, setback.detail[-3:]) == (Verdict.DEAD, "abc")


async def test_a_reset_after_200_is_in() -> None:
    async def talk(reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        await writer.drain()
        writer.get_extra_info("socket").setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER 0: RST

    async with raw_server(talk) as url, local(url) as sink:
        assert list(await sink.write([change()])) == []


@pytest.mark.parametrize("words", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"])
async def test_what_is_no_http_is_backpressure(words: bytes) -> None:
    async def talk(reader: Reader, writer: Writer) -> None:
        writer.write(words)
        await writer.drain()

    async with raw_server(talk) as url, local(url, timeout="2s") as sink:
        with pytest.raises(Unavailable):
            await sink.write([change()])


async def test_a_gzip_bomb_is_not_opened() -> None:
    async def bomb(request: web.Request) -> web.StreamResponse:
        return web.Response(status=400, body=gzip.compress(b"\0" * 50_000_000), headers={"Content-Encoding": "gzip"})

    async with receiving() as receiver, local(receiver.url) as sink:
        receiver.answer = bomb
        (setback,) = await sink.write([change()])
        assert setback.verdict is Verdict.DEAD
        assert len(setback.detail) < 600


async def test_a_redirect_to_the_metadata_service_is_not_followed() -> None:
    async def away(request: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": "http://169.254.169.254/latest/meta-data/"})

    async with receiving() as receiver, local(receiver.url) as sink:
        receiver.answer = away
        (setback,) = await sink.write([change()])
    assert setback.code == "redirect"
    assert len(receiver.requests) == 1


async def test_a_row_of_9_mib_arrives_and_connections_are_used_again() -> None:
    ports: set[Any] = set()

    async def note(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        ports.add(request.transport.get_extra_info("peername"))
        return web.Response(headers={"Set-Cookie": "a=b"})

    async with receiving() as receiver, local(receiver.url, concurrency=2) as sink:
        receiver.answer = note
        assert list(await sink.write([change(n) for n in range(40)])) == []
        assert list(await sink.write([change(1, 2, row={"note": "x" * 9 * 1024 * 1024})])) == []
    assert len(ports) <= 2
    assert len(receiver.requests[-1][1]) > 9 * 1024 * 1024
    assert not any("Cookie" in headers for headers, _ in receiver.requests)


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with receiving() as receiver, local(receiver.url) as sink:
        assert list(await sink.write([change()])) == []
