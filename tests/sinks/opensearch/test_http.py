"""Over real sockets: compression, users, signatures, several nodes, certificates, and the collection of Serverless."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from dsqlcdc.contract import Context, Misconfigured, Op, Unavailable
from dsqlcdc.testing.opensearch import FakeOpenSearch, Reply, serving
from dsqlcdc.testing.serverless import FakeCollection
from dsqlcdc_opensearch import OpenSearchSink, Options
from tests.sinks.opensearch.replica import TABLE, change, resumed
from tests.sinks.webhook.certificates import Authority

ALIAS = f"cdc-{TABLE}"
LONG = "x" * 20_000


def made(url: str | list[str], **options: Any) -> OpenSearchSink:
    return OpenSearchSink.from_options({"url": url, "purge": "off", **options}, Context("p", "search", region="eu-west-1"))


class Seen:
    """The headers of the requests to an engine."""

    def __init__(self, engine: FakeOpenSearch) -> None:
        self.headers: list[Mapping[str, str]] = []
        handle = engine.handle

        def seen(method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Any:
            self.headers.append({name.lower(): value for name, value in (headers or {}).items()})
            return handle(method, target, body, headers)

        engine.handle = seen  # type: ignore[method-assign]


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session-token")


@pytest.mark.parametrize("gzip", [True, False])
async def test_a_user_and_compressed_bodies(gzip: bool) -> None:
    engine = FakeOpenSearch(time.monotonic)
    seen = Seen(engine)
    async with serving(engine) as url, made(url, gzip=gzip, basic={"user": "ü", "password": "p:w"}) as one:
        await one.resume(resumed())
        assert await one.write([change(1, 1, note=LONG), change(2, 1)]) == []
        assert await one.write([change(2, 2, op=Op.DELETE)]) == []
    assert set(engine.rows(ALIAS)) == {"1"}
    assert {headers["authorization"] for headers in seen.headers} == {aiohttp.encode_basic_auth("ü", "p:w")}
    assert any("content-encoding" in headers for headers in seen.headers) is gzip


@pytest.mark.usefixtures("credentials")
async def test_requests_are_signed_with_the_hash_of_what_goes_over_the_wire() -> None:
    engine = FakeOpenSearch(time.monotonic)
    seen = Seen(engine)
    async with serving(engine) as url, made(url, sign={}) as one:
        assert await one.write([change(1, 1, note=LONG)]) == []
    for headers in seen.headers:
        assert "/eu-west-1/es/aws4_request" in headers["authorization"]
        assert "host;x-amz-content-sha256;x-amz-date;x-amz-security-token" in headers["authorization"]
        assert len(headers["x-amz-content-sha256"]) == 64
        assert "wJalr" not in str(headers)
    assert len({headers["x-amz-content-sha256"] for headers in seen.headers}) > 1


async def test_without_credentials_the_sink_stops_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    async with serving(FakeOpenSearch(time.monotonic)) as url, made(url, sign={}) as one:
        with pytest.raises(Misconfigured, match="E105"):
            await one.write([change(1, 1)])


@pytest.mark.usefixtures("credentials")
async def test_a_collection_takes_the_same_changes_and_nothing_it_refuses_is_asked_of_it() -> None:
    clock = [0.0]
    engine = FakeCollection(lambda: clock[0])
    refused: list[str] = []

    def after(method: str, path: str, reply: Reply) -> Reply:
        if any(word in reply.body for word in (b"404 Not Found", b"unrecognized parameter", b"unknown setting")):
            refused.append(f"{method} {path}")
        return reply

    engine.after = after
    async with serving(engine) as url, made(url, profile="serverless", sign={}) as one:
        for call in (lambda: one.resume(resumed()), lambda: one.write([change(1, 1, note=LONG), change(2, 1)])):
            with pytest.raises(Unavailable):
                await call()
            clock[0] += 16
            await call()
        assert await one.write([change(2, 2, op=Op.DELETE)]) == []
    assert set(engine.rows(ALIAS)) == {"1"}
    assert engine.unsigned == []
    assert refused == []


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize("kind", ["timeseries", "vectorsearch"])
async def test_a_collection_that_takes_no_ids_stops_the_sink(kind: Any) -> None:
    engine = FakeCollection(time.monotonic, kind=kind, young=0)
    async with serving(engine) as url, made(url, profile="serverless", sign={}) as one:
        with pytest.raises(Misconfigured, match="type SEARCH"):
            await one.write([change(1, 1)])


async def test_a_node_that_is_gone_is_left_for_the_next_one() -> None:
    engine = FakeOpenSearch(time.monotonic)
    async with serving(engine) as url, made(["http://127.0.0.1:9", url]) as one:
        with pytest.raises(Unavailable):
            await one.write([change(1, 1)])
        assert await one.write([change(1, 1)]) == []


@asynccontextmanager
async def cutting(limit: int) -> AsyncGenerator[tuple[str, list[bool]], None]:
    """A server that cuts the connection of a larger body unless it is asked first, and then says 413."""
    asked: list[bool] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            asked.append(b"expect: 100-continue" in head)
            if asked[-1]:
                writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    finally:
        server.close()


async def test_a_large_body_whose_connection_broke_is_sent_again_by_asking_first() -> None:
    from dsqlcdc_opensearch.http import HttpTransport

    async with cutting(1024) as (url, asked):
        transport = HttpTransport([url], tls=_no_tls(), gzip=False)
        answer = await transport("POST", "/_bulk", b"x" * 3_000_000, lines=True)
        await transport.close()
    assert answer.status == 413
    assert asked[-1]


def _no_tls() -> Any:
    return ssl.create_default_context()


async def test_a_certificate_that_is_not_trusted_is_unavailable_at_first() -> None:
    async def nothing(request: web.Request) -> web.StreamResponse:
        return web.Response()

    runner = web.AppRunner(web.Application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with made(f"https://127.0.0.1:{runner.addresses[0][1]}") as one:
            with pytest.raises(Unavailable, match="does not speak TLS"):
                await one.write([change(1, 1)])
    finally:
        await runner.cleanup()


async def test_a_client_certificate_is_shown_and_without_it_nothing_goes_in(tmp_path: Path) -> None:
    cluster, clients = Authority(tmp_path, "cluster"), Authority(tmp_path, "clients")
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(clients.path))
    served.load_cert_chain(*cluster.sign("127.0.0.1"))
    served.verify_mode = ssl.CERT_REQUIRED
    certificate, key = clients.sign("dsqlcdc.example", client=True)
    engine = FakeOpenSearch(time.monotonic)
    async with serving(engine, served) as url:
        for tls, right in (
            ({"ca": cluster.path, "certificate": certificate, "key": key}, True),
            ({"ca": cluster.path}, False),
            ({}, False),
        ):
            async with made(url, tls={name: str(file) for name, file in tls.items()}) as one:
                if right:
                    assert await one.write([change(1, 1)]) == []
                else:
                    with pytest.raises(Unavailable, match="E160"):
                        await one.write([change(2, 1)])
    assert set(engine.rows(ALIAS)) == {"1"}


async def test_credentials_that_expire_are_fetched_anew_without_holding_up_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program that gives them waits for what the loop does meanwhile: were the loop held up, it would give up."""
    expires = (datetime.now(UTC) + timedelta(minutes=2)).isoformat()  # so near that each request fetches them anew
    given = {"Version": 1, "AccessKeyId": "AKIDEXAMPLE", "SecretAccessKey": "x" * 40, "SessionToken": "t", "Expiration": expires}
    begun, go, script = tmp_path / "begun", tmp_path / "go", tmp_path / "credentials.sh"
    waiting = f"touch {begun}; n=0; while [ ! -e {go} ]; do n=$((n+1)); [ $n -gt 1000 ] && exit 1; sleep 0.01; done"
    script.write_text(f"#!/bin/sh\n{waiting}\necho '{json.dumps(given)}'\n")
    script.chmod(0o755)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {script}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    engine = FakeOpenSearch(time.monotonic)
    async with serving(engine) as url, made(url, sign={}) as one:
        for version in (1, 2):
            begun.unlink(missing_ok=True)
            go.unlink(missing_ok=True)
            writing = asyncio.create_task(one.write([change(1, version)]))
            while not begun.exists():
                await asyncio.sleep(0)
                assert not writing.done()
            go.touch()
            assert await writing == []


async def test_a_certificate_that_cannot_be_read_stops_the_sink(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for tls in ({"ca": str(tmp_path / "ca.pem")}, {"certificate": str(tmp_path / "none.pem")}):
        with pytest.raises(Misconfigured, match=rf"E471.*{next(iter(tls.values()))}"):
            await made("https://h", tls=tls).__aenter__()


def test_the_host_that_is_signed_has_its_port_and_brackets() -> None:
    from dsqlcdc_opensearch.sign import _host

    assert [_host(URL(url)) for url in ("https://a.b/", "http://a:9200/", "https://[::1]:9/", "https://a:443/")] == [
        "a.b", "a:9200", "[::1]:9", "a",
    ]  # fmt: skip


OPTIONS = {
    "a user in the URL": {"url": "https://u:p@h"},
    "a query in the URL": {"url": "https://h/?a=b"},
    "no scheme": {"url": "h:9200"},
    "no node": {"url": []},
    "both basic and sign": {"basic": {"user": "u", "password": "p"}, "sign": {}},
    "a password in the clear": {"url": "http://h:9200", "basic": {"user": "u", "password": "p"}},
    "a short retention": {"retention": "24h"},
    "a short grace": {"grace": "3m"},
    "a bulk too large": {"bulk": {"bytes": "64MiB"}},
    "serverless unsigned": {"profile": "serverless"},
    "serverless as es": {"profile": "serverless", "sign": {"service": "es"}},
    "serverless with settings": {"profile": "serverless", "sign": {}, "settings": {"replicas": 1}},
    "aoss on a domain": {"sign": {"service": "aoss"}},
    "a prefix of capitals": {"index_prefix": "CDC-"},
    "a prefix that begins with -": {"index_prefix": "-"},
    "an unknown key": {"refresh": True},
    "a key without its certificate": {"tls": {"key": "k.pem"}},
    "a pattern that matches nothing": {"mappings": {"orders": "f.json"}},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_are_not_sound_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        Options.model_validate({"url": "https://h", **OPTIONS[name]})
    assert "p@" not in str(raised.value)


def test_options_that_are_sound_are_taken() -> None:
    given = Options.model_validate({"url": "https://h"})
    assert given.url == ("https://h",)
    assert given.tombstones_for == (7 * 24 + 168 + 24) * 3600
    assert (
        Options.model_validate({"url": ["http://a:9200", "http://b:9200"], "stream_retention": "24h", "retention": "216h"}).retention
        == 777600
    )
    Options.model_validate({"url": "http://127.0.0.1:9200", "basic": {"user": "u", "password": "p"}})
