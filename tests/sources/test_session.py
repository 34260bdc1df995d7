"""What botocore is told of TLS and proxies holds for GetRecords too, over the real client."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dsqlcdc.aws import Aws
from dsqlcdc.errors import Unavailable
from dsqlcdc.sources.kinesis_client import connect

from .test_kinesis_client import SHARD, admit, body, credentials

__all__ = ["credentials"]
SUMMARY = {"StreamName": "orders-cdc", "StreamCreationTimestamp": 1.7e9, "RetentionPeriodHours": 24, "StreamStatus": "ACTIVE"}


@asynccontextmanager
async def serving(size: int = 10, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[tuple[str, str]]]]:
    """A Kinesis; its port, and of each request the operation and the target as the request line has it."""
    seen: list[tuple[str, str]] = []

    async def handle(request: web.Request) -> web.Response:
        operation = request.headers["X-Amz-Target"].partition(".")[2]
        seen.append((operation, request.raw_path if request.raw_path != "/" else str(request.headers["Host"])))
        if operation == "GetRecords":
            return web.Response(body=body(2, size))
        return web.json_response({"StreamDescriptionSummary": SUMMARY})

    runner = web.ServerRunner(web.Server(handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield runner.addresses[0][1], seen
    finally:
        await runner.cleanup()


@pytest.fixture
def authority(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that signs itself, and a server's context with it."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key(), serial_number=1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, secret = tmp_path / "ca.pem", tmp_path / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    secret.write_bytes(key.private_bytes(*plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, secret)
    return certificate, context


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_over_tls_the_bundle_of_authorities_is_botocores(
    authority: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    bundle, context = authority
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))

    async def wait(length: int) -> None:
        await asyncio.sleep(0)  # the rest of the body comes after a pause

    async with serving(size, context) as (port, seen):
        async with connect("orders-cdc", Aws(endpoint_url=f"https://127.0.0.1:{port}"), clock=lambda: 0.0) as client:
            for _ in range(3):
                reply = await client.records(SHARD, "it", 10, wait)
                assert [len(record.data) for record in reply.records] == [size, size]
        assert seen == [("GetRecords", f"127.0.0.1:{port}")] * 3


async def test_control_without_the_bundle_nobody_is_believed(authority: tuple[Path, ssl.SSLContext]) -> None:
    async with serving(tls=authority[1]) as (port, seen):
        async with connect("orders-cdc", Aws(endpoint_url=f"https://127.0.0.1:{port}"), clock=lambda: 0.0) as client:
            with pytest.raises(Unavailable, match=r"TLS could not be set up: 127\.0\.0\.1"):
                await client.records(SHARD, "it", 10, admit)
        assert seen == []


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_where_a_proxy_is_configured_everything_goes_by_it(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    async with serving(size) as (port, seen):
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        async with connect("orders-cdc", Aws(endpoint_url="http://kinesis.invalid:81"), clock=lambda: 0.0) as client:
            assert (await client.describe()).name == "orders-cdc"
            for _ in range(2):
                reply = await client.records(SHARD, "it", 10, admit)
                assert [len(record.data) for record in reply.records] == [size, size]
    assert seen == [(operation, "http://kinesis.invalid:81/") for operation in ("DescribeStreamSummary", "GetRecords", "GetRecords")]


async def test_a_proxy_that_cannot_be_reached_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with connect("orders-cdc", Aws(endpoint_url="http://kinesis.invalid:81"), clock=lambda: 0.0) as client:
        with pytest.raises(Unavailable, match="proxy cannot be reached"):
            await client.records(SHARD, "it", 10, admit)


async def test_no_proxy_is_asked_for_what_it_is_not_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with serving() as (port, seen):
        async with connect("orders-cdc", Aws(endpoint_url=f"http://127.0.0.1:{port}"), clock=lambda: 0.0) as client:
            assert len((await client.records(SHARD, "it", 10, admit)).records) == 2
        assert seen == [("GetRecords", f"127.0.0.1:{port}")]


async def test_an_endpoint_below_a_path_is_asked_there() -> None:
    async with serving() as (port, seen):
        async with connect("orders-cdc", Aws(endpoint_url=f"http://127.0.0.1:{port}/below/it"), clock=lambda: 0.0) as client:
            await client.records(SHARD, "it", 10, admit)
            await client.describe()
        (ours, path), (theirs, same) = seen
        assert (ours, theirs, path) == ("GetRecords", "DescribeStreamSummary", same)
        assert path.startswith("/below/it")
