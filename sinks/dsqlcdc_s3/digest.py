"""The digest of a period: one object, a function of the chain and of the digest before, and a signature over it.

    digests/{n}.json     line 1: the digest. line 2: {"signature": …}

`n` is the number of the seal, the manifest that ends the period; whoever writes the digest of a seal writes the same, but for the signature. What
is signed are the ASCII bytes `dsqlcdc-digest-v1:` and the SHA-256 (hex) of line 1 without its line feed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from dsqlcdc.contract import Misconfigured
from dsqlcdc_s3.manifest import FORMAT, Link, Manifest, ShardState, digest
from dsqlcdc_s3.merkle import Tree


class Previous(msgspec.Struct, frozen=True):
    """The digest before: its key, the SHA-256 (hex) of the whole object, its signature (Base64, "" where it has none)."""

    key: str
    sha256: str
    signature: str


class Signing(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who signs: the algorithm (none, ECDSA_SHA_256, Ed25519), the key's name, the public key (Base64 of DER) and its SHA-256 (hex)."""

    algorithm: str
    key: str = ""
    public_key: str = ""
    fingerprint: str = ""


class Digest(msgspec.Struct, frozen=True, kw_only=True):
    """Line 1. `first` and `n`: the manifests of the period, both included; `root`: the Merkle root over their SHA-256, and then those of
    the manifests `beside` the chain. Positions, lineage, gaps and dead letters are the seal's, and so is the time."""

    format: int
    pipeline: str
    sink: str
    stream: str
    n: int
    first: int
    sealed_at: str
    by: str
    closing: bool
    seal: Link
    root: str
    beside: int
    previous: Previous | None
    shards: Sequence[ShardState]
    gaps: Sequence[Mapping[str, Any]]
    dead: Mapping[str, int]
    signing: Signing


class _Signature(msgspec.Struct):
    signature: str


class Stored(msgspec.Struct, frozen=True):
    """A digest as it is stored: line 1 as it stands, decoded, the signature, and the hash of the whole object."""

    line: bytes
    digest: Digest
    signature: str
    sha256: str

    def previous(self, key: str) -> Previous:
        return Previous(key, self.sha256, self.signature)


def digest_key(prefix: str, n: int) -> str:
    return f"{prefix}digests/{n:012d}.json"


def tree_of(leaves: Iterable[str]) -> Tree:
    """The tree over manifests by their SHA-256 (hex), in order."""
    tree = Tree()
    for leaf in leaves:
        tree.add(bytes.fromhex(leaf))
    return tree


def compose(seal: Manifest, link: Link, first: int, tree: Tree, previous: Previous | None, signing: Signing) -> bytes:
    """Line 1 for a seal. `tree`: over the manifests from `first` to the seal; what the seal names beside the chain is added to it."""
    ended = seal.seal
    assert ended is not None
    for beside in ended.beside:
        tree.add(bytes.fromhex(beside.sha256))
    return msgspec.json.encode(
        Digest(
            format=FORMAT,
            pipeline=seal.pipeline,
            sink=seal.sink,
            stream=seal.stream,
            n=seal.n,
            first=first,
            sealed_at=seal.created_at,
            by=ended.by,
            closing=ended.closing,
            seal=link,
            root=tree.root().hex(),
            beside=len(ended.beside),
            previous=previous,
            shards=ended.shards,
            gaps=ended.gaps,
            dead=ended.dead,
            signing=signing,
        )
    )


def message(line: bytes) -> bytes:
    """What is signed of line 1."""
    return b"dsqlcdc-digest-v1:" + hashlib.sha256(line).hexdigest().encode()


def body_of(line: bytes, signature: bytes) -> bytes:
    return line + b"\n" + msgspec.json.encode(_Signature(base64.b64encode(signature).decode())) + b"\n"


def parse(body: bytes, where: str) -> Stored:
    """A stored digest. Raises Misconfigured for what is none, is not written as this writes, or is of a newer format."""
    line, _, rest = body.partition(b"\n")
    try:
        found, signature = msgspec.json.decode(line, type=Digest), msgspec.json.decode(rest, type=_Signature).signature
        canonical = body_of(line, base64.b64decode(signature, validate=True)) == body and msgspec.json.encode(found) == line
    except (msgspec.MsgspecError, binascii.Error, UnicodeError) as error:
        raise Misconfigured(
            "cannot read a digest", where=where, why=f"it is damaged ({error})", run="dsqlcdc audit verify CONFIG"
        ) from error
    if found.format > FORMAT:
        why = f"its format is {found.format}, this version of dsqlcdc knows {FORMAT}: a newer one wrote it"
        raise Misconfigured("cannot read a digest", where=where, why=why, run="pip install --upgrade dsqlcdc")
    if not canonical:
        why = "it is not written as dsqlcdc writes: bytes were changed"
        raise Misconfigured("cannot read a digest", where=where, why=why, run="dsqlcdc audit verify CONFIG")
    return Stored(line, found, signature, digest(body))
