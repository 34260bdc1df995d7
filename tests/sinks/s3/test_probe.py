"""The lake's probe: it lists, reads and is refused a put; it stores nothing, and says whose the prefix is."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dsqlcdc.contract import Context, Misconfigured, Unavailable
from dsqlcdc_s3.probing import all_of
from dsqlcdc_s3.signing import FileSigner

from .lake import Bucket, FakeObjects, change, context, make_sink, resume


async def test_a_probe_stores_nothing_before_the_first_batch_and_after() -> None:
    bucket = Bucket()
    async with make_sink(FakeObjects(bucket)) as sink:
        assert await sink.probe() is True
        assert bucket.objects == {}
        await sink.resume(resume())
        await sink.write([change(1)])
        before = dict(bucket.objects)
        assert await sink.probe() is True
        assert bucket.objects == before


async def test_a_prefix_of_another_sink_is_told_before_anything_is_written() -> None:
    bucket = Bucket()
    async with make_sink(FakeObjects(bucket)) as sink:
        await sink.resume(resume())
        await sink.write([change(1)])
    async with make_sink(FakeObjects(bucket), context=context("other")) as sink:
        with pytest.raises(Misconfigured, match="another sink"):
            await sink.probe()


async def test_a_store_that_ignores_conditions_is_told() -> None:
    class Careless(FakeObjects):
        async def try_put(self, key: str) -> bool:
            return True

    async with make_sink(Careless(Bucket())) as sink:
        with pytest.raises(Misconfigured, match="ignores If-Match"):
            await sink.probe()


def signs(directory: Path) -> Context:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "audit.pem").write_bytes(Ed25519PrivateKey.generate().private_bytes(*form))
    return Context("orders-cdc", "lake", str(directory))


async def test_a_probe_signs_what_is_no_digest_and_leaves_nothing(tmp_path: Path) -> None:
    bucket = Bucket()
    async with make_sink(FakeObjects(bucket), {"digest": {"key": "audit.pem"}}, context=signs(tmp_path)) as sink:
        assert await sink.probe() is True
    assert bucket.objects == {}


async def test_control_a_key_whose_signature_does_not_fit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def sign(self: FileSigner, message: bytes) -> bytes:
        return bytes(64)

    monkeypatch.setattr(FileSigner, "sign", sign)
    async with make_sink(FakeObjects(Bucket()), {"digest": {"key": "audit.pem"}}, context=signs(tmp_path)) as sink:
        with pytest.raises(Misconfigured, match="does not fit its public key"):
            await sink.probe()


async def test_all_that_is_wrong_is_told_not_only_the_first() -> None:
    class Careless(FakeObjects):
        async def try_put(self, key: str) -> bool:
            return True

    async with make_sink(Careless(Bucket()), {"digest": {"key": "missing.pem"}}) as sink:
        with pytest.raises(ExceptionGroup) as caught:
            await sink.probe()
    assert [str(one).split(" ")[1] for one in caught.value.exceptions] == ["the", "cannot", "the"]

    async def away() -> None:
        raise Unavailable("no answer")

    with pytest.raises(Unavailable):
        await all_of([away])
