"""Signatures of Standard Webhooks: HMAC-SHA256 over id, timestamp and the exact bytes sent, one for each active secret."""

from __future__ import annotations

import binascii
import hmac
from base64 import b64decode
from binascii import b2a_base64
from collections.abc import Sequence

_PREFIX = "whsec_"


def secret_key(secret: str) -> bytes:
    """The key of a secret written `whsec_` and Base64. Raises ValueError unless it has 24 to 64 bytes (Standard Webhooks, "Signature scheme")."""
    if not secret.startswith(_PREFIX):
        raise ValueError("a secret begins with whsec_ (make one: whsec_ and the Base64 of 32 random bytes)")
    try:
        key = b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("what follows whsec_ is not Base64") from None
    if not 24 <= len(key) <= 64:
        raise ValueError(f"a secret has 24 to 64 bytes, this one {len(key)}")
    return key


class Signer:
    """Signs with every active secret, in their order. The keys' own part of each signature is worked out once."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keyed = [hmac.new(secret_key(secret), digestmod="sha256") for secret in secrets]

    def sign(self, id: str, timestamp: int, body: bytes) -> str:
        """The header `webhook-signature`: `v1,…` for each key. `timestamp`: seconds since the epoch, of this attempt."""
        head = f"{id}.{timestamp}.".encode()
        made: list[str] = []
        for keyed in self._keyed:
            mac = keyed.copy()
            mac.update(head)
            mac.update(body)
            made.append("v1," + b2a_base64(mac.digest(), newline=False).decode())
        return " ".join(made)
