"""Where a webhook may lead: addresses in every spelling, names that resolve to something else, names that change."""

from __future__ import annotations

import socket
from ipaddress import ip_address, ip_network

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from pydantic import ValidationError

from dsqlcdc.errors import Misconfigured, Unavailable
from dsqlcdc_webhook.addresses import refusal
from dsqlcdc_webhook.post import HttpPost

from .receiver import change, receiving, webhook


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "127.0.0.1.", "10.0.0.1", "192.168.1.1", "172.16.0.1",
        "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "192.88.99.1", "[::1]", "[::]",
        "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[::7f00:1]", "[fe80::1]", "[fe80::1%25eth0]", "[fd00:ec2::254]", "[fc00::1]",
        "[2002:7f00:1::]", "[64:ff9b::7f00:1]", "[ff02::1]", "[2001:db8::1]", "[2001:0:1::1]", "127.0.0.1%00", "１２７.0.0.1", "256.1.1.1",
    ],
)  # fmt: skip
def test_a_literal_address_that_is_not_public_is_refused_in_every_spelling(host: str) -> None:
    with pytest.raises(ValidationError):
        webhook(f"https://{host}/")


@pytest.mark.parametrize("url", ["https://93.184.216.34/", "https://[2606:4700::1111]/x?y=z", "https://example.com:8443/a"])
def test_a_public_address_is_taken(url: str) -> None:
    assert webhook(url)


@pytest.mark.parametrize(
    "url", ["http://example.com/", "ftp://example.com/", "https://u@example.com/", "https://u:p@example.com/", "https://@example.com/", "https:///x",
            "https://example.com/#a", "https://exa mple.com/", "https://example.com\\@10.0.0.1/", "example.com"]
)  # fmt: skip
def test_a_url_that_is_not_plain_https_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        webhook(url)


def test_a_refusal_does_not_show_what_was_written() -> None:
    with pytest.raises(ValidationError) as raised:
        webhook("https://user:hunter2@example.com/")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "169.254.170.2", "fd00:ec2::254", "fe80::1", "::ffff:169.254.169.254", "0.0.0.0", "2002:a9fe::"]
)
def test_metadata_and_link_local_addresses_are_refused_whatever_is_allowed(address: str) -> None:
    assert refusal(ip_address(address), [ip_network("0.0.0.0/0"), ip_network("::/0")]) is not None
    assert refusal(ip_address("10.1.2.3"), [ip_network("10.0.0.0/8")]) is None  # the control
    assert refusal(ip_address("10.1.2.3"), [ip_network("10.0.0.0/16")]) is not None


class Names(AbstractResolver):
    """Answers with the next list of addresses each time it is asked."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=socket.AI_NUMERICHOST)
            for address in found
        ]

    async def close(self) -> None:
        return None


def posting(url: str, names: Names, *allowed: str) -> HttpPost:
    import ssl

    return HttpPost(
        url, where="sink hook", headers={}, allowed=[ip_network(a) for a in allowed], tls=ssl.create_default_context(), concurrency=2,
        timeout=5, connect_timeout=1, read=1024, resolver=names,
    )  # fmt: skip


@pytest.mark.parametrize("found", [["10.0.0.1"], ["169.254.169.254"], ["93.184.216.34", "127.0.0.1"]])
async def test_a_name_that_leads_inside_stops_the_sink_before_anything_is_sent(found: list[str]) -> None:
    async with receiving() as receiver:
        port = receiver.url.split(":")[2].split("/")[0]
        async with webhook("https://inside.example/", post=posting(f"http://inside.example:{port}/", Names(found))) as sink:
            with pytest.raises(Misconfigured, match="E141"):
                await sink.write([change()])
        assert receiver.requests == []


async def test_a_name_that_changes_between_check_and_connection_has_no_such_moment() -> None:
    """The resolver is asked once for a connection: what was judged is what is connected to, and a new connection is judged anew."""
    async with receiving() as receiver:
        port = receiver.url.split(":")[2].split("/")[0]
        names = Names(["127.0.0.1"], ["169.254.169.254"])
        post = posting(f"http://rebinds.example:{port}/", names, "127.0.0.0/8")
        async with webhook("https://rebinds.example/", post=post) as sink:
            assert list(await sink.write([change()])) == []
            assert len(names.answers) == 1
            post._session.connector._cached_hosts.clear()  # type: ignore[union-attr]
            await receiver_forgets(post)
            with pytest.raises(Misconfigured, match=r"169\.254\.169\.254"):
                await sink.write([change(2)])
        assert len(receiver.requests) == 1


async def receiver_forgets(post: HttpPost) -> None:
    """Close the connections that are kept open."""
    connector = post._session.connector
    assert connector is not None
    for kept in list(connector._conns.values()):
        for protocol, _ in kept:
            protocol.close()
    connector._conns.clear()


async def test_an_unknown_name_is_backpressure() -> None:
    class Unknown(Names):
        async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
            raise socket.gaierror(-2, "no such name")

    async with webhook(post=posting("https://nowhere.example/", Unknown([]))) as sink:
        with pytest.raises(Unavailable, match="no such name"):
            await sink.write([change()])
