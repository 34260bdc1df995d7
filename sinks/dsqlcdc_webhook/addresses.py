"""Where a webhook may connect to: addresses are judged after resolution, and those judged are those connected to."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp.abc import AbstractResolver, ResolveResult

from dsqlcdc.errors import Misconfigured

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NEVER: Sequence[tuple[Network, str]] = [
    (ip_network(network), why)
    for network, why in (
        ("0.0.0.0/8", "this host"),
        ("169.254.0.0/16", "link-local, where instances keep their credentials"),
        ("192.88.99.0/24", "6to4"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "this host"),
        ("64:ff9b::/96", "NAT64"),
        ("64:ff9b:1::/48", "NAT64"),
        ("2001::/32", "Teredo"),
        ("2002::/16", "6to4"),
        ("fd00:ec2::/32", "the metadata service"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
]
_SHARED = ip_network("100.64.0.0/10")
_NUMERIC = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)(\.(0[xX][0-9a-fA-F]*|[0-9]+))*\.?")


def refusal(address: Address, allowed: Sequence[Network] = ()) -> str | None:
    """Why nothing is sent to this address, None where it may be. `allowed` opens private networks, never the link-local and the like."""
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return "it has a zone"
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        elif int(address) >> 32 == 0 and int(address) > 1:
            return "it is an IPv4 address in an IPv6 coat"
    for network, why in _NEVER:
        if address in network:
            return f"it is {why}"
    if any(address in network for network in allowed):
        return None
    if address in _SHARED or not address.is_global:
        return "it is private; list its network under `allow_private` if it is meant"
    return None


def literal(host: str) -> Address | None:
    """The address that a URL's host is, None for a name. Raises ValueError for spellings that programs read differently."""
    if "%" in host:
        raise ValueError("a host with a zone or an escape cannot be used")
    if ":" in host:
        return IPv6Address(host)
    if not _NUMERIC.fullmatch(host):
        return None
    try:
        return IPv4Address(host)
    except ValueError:
        raise ValueError("an address is written as four decimal numbers, such as 192.0.2.1") from None


class Guarded(AbstractResolver):
    """Resolves by another resolver and judges each address; aiohttp connects to what this answers, so a name cannot change in between.

    Raises Misconfigured for a name with an address that is refused, even if it has others.
    """

    def __init__(self, inner: AbstractResolver, allowed: Sequence[Network], where: str) -> None:
        self._inner, self._allowed, self._where = inner, allowed, where

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        for answer in found:
            why = refusal(ip_address(answer["host"]), self._allowed)
            if why is not None:
                raise blocked(f"{host} is {answer['host']}, and {why}", self._where)
        return found

    async def close(self) -> None:
        await self._inner.close()


def blocked(why: str, where: str) -> Misconfigured:
    return Misconfigured("the webhook's address is refused", where=where, why=why, run="dsqlcdc config show CONFIG", code="E141")
