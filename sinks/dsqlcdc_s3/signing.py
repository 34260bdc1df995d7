"""Who signs digests: an asymmetric KMS key, or an Ed25519 key in a file. And whose signature is good."""

from __future__ import annotations

import base64
import hashlib
import importlib
import re
from pathlib import Path
from typing import Any, Protocol

import msgspec

from dsqlcdc.aws import Aws, client, errors, translate
from dsqlcdc.contract import Misconfigured
from dsqlcdc_s3.digest import Signing

_KMS = re.compile(r"arn:aws[a-z-]*:kms:.+|alias/.+|(?:mrk-)?[0-9a-f]{8}-?[0-9a-f-]+")
_ALGORITHM = "ECDSA_SHA_256"


def is_kms(key: str) -> bool:
    """Does `digest.key` name a KMS key? Everything else is a file."""
    return _KMS.fullmatch(key) is not None


class Signer(Protocol):
    """Methods raise Unavailable, and Misconfigured where the key cannot be used."""

    async def signing(self) -> Signing: ...

    async def sign(self, message: bytes) -> bytes:
        """The signature: of ECDSA in DER, of Ed25519 its 64 bytes; empty where nobody signs."""
        ...


class NoSigner:
    """Digests without a signature."""

    async def signing(self) -> Signing:
        return Signing("none")

    async def sign(self, message: bytes) -> bytes:
        return b""


class KmsSigner:
    """An asymmetric KMS key that signs with ECDSA_SHA_256. Its public key is asked for once."""

    def __init__(self, key: str, aws: Aws) -> None:
        self._key, self._aws = key, aws
        self._signing: Signing | None = None

    async def signing(self) -> Signing:
        if self._signing is None:
            async with client("kms", self._aws) as kms:
                try:
                    answer: dict[str, Any] = await kms.get_public_key(KeyId=self._key)
                except errors() as error:
                    raise translate(error, doing="fetch the public key", where=f"KMS key {self._key}", resource=self._arn()) from error
            if answer.get("KeyUsage") != "SIGN_VERIFY" or _ALGORITHM not in answer.get("SigningAlgorithms", ()):
                why = f"it does not sign with {_ALGORITHM}: its usage is {answer.get('KeyUsage')}"
                run = "aws kms create-key --key-usage SIGN_VERIFY --key-spec ECC_NIST_P256"
                raise Misconfigured("this KMS key cannot sign digests", where=f"KMS key {self._key}", why=why, run=run, code="E381")
            self._signing = _of(_ALGORITHM, str(answer["KeyId"]), bytes(answer["PublicKey"]))
        return self._signing

    async def sign(self, message: bytes) -> bytes:
        async with client("kms", self._aws) as kms:
            try:
                answer: dict[str, Any] = await kms.sign(KeyId=self._key, Message=message, MessageType="RAW", SigningAlgorithm=_ALGORITHM)
            except errors() as error:
                raise translate(error, doing="sign a digest", where=f"KMS key {self._key}", resource=self._arn()) from error
        return bytes(answer["Signature"])

    def _arn(self) -> str:
        return self._key if self._key.startswith("arn:") else ""


class FileSigner:
    """An Ed25519 private key in a PEM file (PKCS#8, not encrypted), as `openssl genpkey -algorithm ed25519` writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key: Any = None

    async def signing(self) -> Signing:
        der = self._load().public_key().public_bytes(*_der())
        return _of("Ed25519", self._path.name, der)

    async def sign(self, message: bytes) -> bytes:
        signature: bytes = self._load().sign(message)
        return signature

    def _load(self) -> Any:
        if self._key is None:
            run = f"openssl genpkey -algorithm ed25519 -out {self._path}"
            try:
                key = _serialization().load_pem_private_key(self._path.read_bytes(), None)
            except OSError as error:
                why = error.strerror or type(error).__name__
                raise Misconfigured("cannot read the signing key", where=str(self._path), why=why, run=run, code="E381") from None
            except (ValueError, TypeError):  # their text may quote the file
                why = "it is no private key in PEM without a password"
                raise Misconfigured("cannot read the signing key", where=str(self._path), why=why, run=run, code="E381") from None
            if not isinstance(key, _ed25519().Ed25519PrivateKey):
                why = "it is a key of another kind"
                raise Misconfigured("the signing key must be Ed25519", where=str(self._path), why=why, run=run, code="E381")
            self._key = key
        return self._key


def signer_of(key: str | None, directory: str, aws: Aws) -> Signer:
    """Who signs, by the option `digest.key`."""
    if key is None:
        return NoSigner()
    return KmsSigner(key, aws) if is_kms(key) else FileSigner(Path(directory) / key)


class PublicKey(msgspec.Struct, frozen=True):
    """A key that verifies. `name`: where it came from, for messages."""

    name: str
    der: bytes

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.der).hexdigest()

    def verifies(self, algorithm: str, signature: bytes, message: bytes) -> bool:
        """Is it this key's signature? False for a key of another algorithm."""
        key = _serialization().load_der_public_key(self.der)
        invalid = importlib.import_module("cryptography.exceptions").InvalidSignature
        try:
            if algorithm == "Ed25519" and isinstance(key, _ed25519().Ed25519PublicKey):
                key.verify(signature, message)
                return True
            ec = importlib.import_module("cryptography.hazmat.primitives.asymmetric.ec")
            if algorithm == _ALGORITHM and isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(signature, message, ec.ECDSA(importlib.import_module("cryptography.hazmat.primitives.hashes").SHA256()))
                return True
        except invalid:
            return False
        return False


def read_public_key(path: Path) -> PublicKey:
    """A public key in a PEM file, as `openssl pkey -pubout` or `aws kms get-public-key` (DER) give it. Raises Misconfigured."""
    try:
        data = path.read_bytes()
        load = _serialization().load_pem_public_key if data.lstrip().startswith(b"-----") else _serialization().load_der_public_key
        der = load(data).public_bytes(*_der())
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise Misconfigured("cannot read a public key", where=str(path), why=why, run="dsqlcdc audit verify --help", code="E382") from None
    except (ValueError, TypeError):
        why, run = "it is no public key in PEM or DER", f"openssl pkey -in PRIVATE.pem -pubout -out {path}"
        raise Misconfigured("cannot read a public key", where=str(path), why=why, run=run, code="E382") from None
    return PublicKey(str(path), der)


def public_key_of(text: str, name: str) -> PublicKey | None:
    """The key that a digest itself names (Base64 of DER); None for what is none."""
    try:
        der = base64.b64decode(text, validate=True)
        _serialization().load_der_public_key(der)
    except ValueError:
        return None
    return PublicKey(name, der)


def _of(algorithm: str, key: str, der: bytes) -> Signing:
    return Signing(algorithm, key, base64.b64encode(der).decode(), hashlib.sha256(der).hexdigest())


def _serialization() -> Any:
    return _module("cryptography.hazmat.primitives.serialization")


def _ed25519() -> Any:
    return _module("cryptography.hazmat.primitives.asymmetric.ed25519")


def _der() -> tuple[Any, Any]:
    serialization = _serialization()
    return serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        why = f"the library cryptography is not installed ({error.name})"
        raise Misconfigured(
            "cannot sign or verify digests", where="digest.key", why=why, run="pip install 'dsqlcdc[audit]'", code="E383"
        ) from None
