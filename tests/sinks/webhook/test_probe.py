"""The webhook's probe: it connects as a POST would, and asks for nothing."""

from __future__ import annotations

import asyncio

import pytest

from dsqlcdc.contract import Misconfigured, Unavailable

from .receiver import local, receiving, webhook


async def test_a_receiver_that_listens_is_reached_and_gets_no_request() -> None:
    async with receiving() as receiver, local(receiver.url) as sink:
        assert await sink.probe() is True
        assert receiver.requests == []


async def test_one_that_does_not_listen_is_unavailable() -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    async with local(f"http://127.0.0.1:{port}/") as sink:
        with pytest.raises(Unavailable, match="E140"):
            await sink.probe()


async def test_an_address_that_is_refused_is_not_connected_to() -> None:
    asked: list[object] = []
    server = await asyncio.start_server(lambda reader, writer: asked.append(writer), "127.0.0.1", 0)
    try:
        async with webhook(f"http://localhost:{server.sockets[0].getsockname()[1]}/", allow_http=True) as sink:
            with pytest.raises(Misconfigured, match="E141"):
                await sink.probe()
    finally:
        server.close()
    assert asked == []


async def test_what_speaks_no_tls_is_a_certificate_that_is_not_trusted() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 no\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        async with webhook(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/", allow_private=["127.0.0.0/8"]) as sink:
            with pytest.raises(Misconfigured, match="E143"):
                await sink.probe()
    finally:
        server.close()
