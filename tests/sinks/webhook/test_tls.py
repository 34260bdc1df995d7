"""TLS with real handshakes: whose certificate is trusted, for which name, whose is shown, and what a refusal becomes."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from dsqlcdc.contract import Context
from dsqlcdc.errors import Misconfigured, Unavailable
from dsqlcdc.testing import virtual
from dsqlcdc_webhook import Options, WebhookSink

from .certificates import Authority
from .receiver import SECRET, change, until_it_stops

HOST = "hook.example"


class Loopback(AbstractResolver):
    """Every name is this machine: what the sink connects to is an address, what it trusts has to be the name."""

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=socket.AI_NUMERICHOST)]

    async def close(self) -> None:
        return None


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiohttp, "ThreadedResolver", Loopback)


class Server:
    """A receiver behind TLS: the port, the names asked for by SNI, the number of requests."""

    def __init__(self) -> None:
        self.port = self.requests = 0
        self.asked: list[str | None] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.requests += 1
        return web.Response(status=204)


@asynccontextmanager
async def serving(
    certificate: tuple[Path, Path], *, clients: Path | None = None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> AsyncGenerator[Server, None]:
    """Serve with this certificate; `clients`: who must have signed the client's."""
    server, context = Server(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    context.maximum_version = version
    context.sni_callback = lambda _, name, __: server.asked.append(name)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients)
    app = web.Application()
    app.router.add_post("/", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        await runner.cleanup()


def sink(server: Server, tmp_path: Path, host: str = HOST, **tls: Any) -> WebhookSink:
    """The real sink, its files relative to the config's directory."""
    written = {name: str(path.relative_to(tmp_path)) for name, path in tls.items()}
    url = f"https://{host}:{server.port}/"
    options = Options.model_validate({"url": url, "secrets": [SECRET], "allow_private": ["127.0.0.0/8"], "tls": written})
    return WebhookSink(options, Context("p", "hook", str(tmp_path)))


async def test_a_certificate_of_the_given_authority_for_the_name_is_trusted(tmp_path: Path) -> None:
    """The connection goes to the address that was judged; the certificate is still held against the name."""
    authority = Authority(tmp_path, "ours")
    async with serving(authority.sign(HOST)) as server, sink(server, tmp_path, ca=authority.path) as hook:
        assert list(await hook.write([change(n) for n in range(20)])) == []
    assert server.requests == 20
    assert set(server.asked) == {HOST}


@pytest.mark.parametrize(
    ("host", "signed", "days", "reason"),
    [
        (HOST, "other.example", 1, "Hostname mismatch"),
        (HOST, "127.0.0.1", 1, "Hostname mismatch"),  # the address's own certificate is not the name's
        ("127.0.0.1", HOST, 1, "IP address mismatch"),
        (HOST, HOST, -1, "expired"),
    ],
)
async def test_a_certificate_for_another_name_or_time_is_backpressure_that_says_so(
    tmp_path: Path, host: str, signed: str, days: int, reason: str
) -> None:
    authority = Authority(tmp_path, "ours")
    async with serving(authority.sign(signed, days=days)) as server, sink(server, tmp_path, host, ca=authority.path) as hook:
        with pytest.raises(Unavailable, match=reason) as raised:
            await hook.write([change()])
    assert raised.value.code == "E140"
    assert "certificate is refused" in raised.value.why
    assert server.requests == 0


async def test_a_receiver_that_speaks_plain_http_is_said_to_in_a_run_and_in_a_probe(tmp_path: Path) -> None:
    runner = web.AppRunner(web.Application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server = Server()
    server.port = runner.addresses[0][1]
    try:
        async with sink(server, tmp_path, "127.0.0.1") as hook:
            with pytest.raises(Unavailable, match="does not speak TLS"):
                await hook.write([change()])
            with pytest.raises(Misconfigured, match="does not speak TLS"):
                await hook.probe()
    finally:
        await runner.cleanup()


async def test_an_authority_that_is_not_the_given_one_is_not_trusted(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    async with serving(theirs.sign(HOST)) as server:
        for tls in ({"ca": ours.path}, {}):  # and the system's neither
            async with sink(server, tmp_path, **tls) as hook:
                with pytest.raises(Unavailable, match=r"certificate is refused.*unable to get local issuer"):
                    await hook.write([change()])
    assert server.requests == 0


def test_a_certificate_refused_for_ten_minutes_stops_the_sink_with_the_reason(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")

    async def story() -> float:
        async with serving(theirs.sign(HOST)) as server, sink(server, tmp_path, ca=ours.path) as hook:
            with pytest.raises(Misconfigured, match=r"E143.*local issuer"):
                await until_it_stops(hook)
            assert server.requests == 0
            return asyncio.get_running_loop().time()

    assert 600 < virtual.run(story(), grace=0.2) < 1500


def test_a_certificate_that_is_mended_in_time_is_no_reason_to_stop(tmp_path: Path) -> None:
    """The control: nine minutes of refusal, then the right certificate, then another eight are two spells, not one."""
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    signed = theirs.sign("wrong.example"), ours.sign(HOST)

    async def story() -> None:
        async with serving(signed[0]) as bad, serving(signed[1]) as good, sink(bad, tmp_path, ca=ours.path) as hook:
            post = hook._requests._post  # type: ignore[union-attr]
            urls = [post._url.with_port(server.port) for server in (bad, good)]  # type: ignore[attr-defined]
            for _ in range(2):
                post._url = urls[0]  # type: ignore[attr-defined]
                for _ in range(5):
                    with pytest.raises(Unavailable, match="certificate is refused"):
                        await hook.write([change()])
                    await asyncio.sleep(110)
                post._url = urls[1]  # type: ignore[attr-defined]
                assert list(await hook.write([change()])) == []
            assert good.requests == 2

    virtual.run(story(), grace=0.1)


async def test_a_client_certificate_that_is_asked_for_is_shown(tmp_path: Path) -> None:
    authority, clients = Authority(tmp_path, "ours"), Authority(tmp_path, "clients")
    certificate, key = clients.sign("dsqlcdc.example", client=True)
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    async with serving(authority.sign(HOST), clients=clients.path) as server:
        for tls in ({"certificate": certificate, "key": key}, {"certificate": both}):
            async with sink(server, tmp_path, ca=authority.path, **tls) as hook:
                assert list(await hook.write([change()])) == []
    assert server.requests == 2


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("shown", ["none", "another authority's"])
async def test_without_the_client_certificate_that_is_asked_for_nothing_goes_in_and_the_reason_is_said(
    tmp_path: Path, shown: str, version: ssl.TLSVersion
) -> None:
    """As a guess: of the alert nothing is seen but the reset behind it."""
    authority, clients = Authority(tmp_path, "ours"), Authority(tmp_path, "clients")
    certificate, key = authority.sign("dsqlcdc.example", client=True)
    tls = {} if shown == "none" else {"certificate": certificate, "key": key}
    serve = serving(authority.sign(HOST), clients=clients.path, version=version)
    async with serve as server, sink(server, tmp_path, ca=authority.path, **tls) as hook:
        with pytest.raises(Unavailable, match="client certificate") as raised:
            await hook.write([change()])
    assert raised.value.code == "E140"
    assert server.requests == 0


def test_an_alert_about_our_certificate_is_told_from_other_trouble(tmp_path: Path) -> None:
    async def story() -> None:
        async with sink(Server(), tmp_path) as hook:
            post = hook._requests._post  # type: ignore[union-attr]
            for reason, ours in (("TLSV13_ALERT_CERTIFICATE_REQUIRED", True), ("TLSV1_ALERT_UNKNOWN_CA", True), ("BAD_RECORD_MAC", False)):
                error, cause = aiohttp.ClientOSError(1, reason), ssl.SSLError(1, reason)
                cause.reason, error.__cause__ = reason, cause
                said = post._no_answer(error)  # type: ignore[attr-defined]
                assert (said.untrusted, "client certificate" in said.why) == (ours, ours)

    asyncio.run(story())


@pytest.mark.parametrize("wrong", ["missing", "no certificate", "another key", "encrypted"])
async def test_a_certificate_that_cannot_be_used_stops_the_sink_at_start(tmp_path: Path, wrong: str) -> None:
    authority = Authority(tmp_path, "ours")
    certificate, key = authority.sign("a.example", client=True, password=b"secret" if wrong == "encrypted" else None)
    if wrong == "missing":
        key.unlink()
    elif wrong == "no certificate":
        certificate.write_text("hello")
    elif wrong == "another key":
        key = authority.sign("b.example", client=True)[1]
    with pytest.raises(Misconfigured, match=rf"E142.*{key if wrong == 'missing' else certificate}"):
        async with sink(Server(), tmp_path, certificate=certificate, key=key):
            pass
