"""What an s3 sink proves its lake with: who signs, where digests go, Object Lock. Tried, never used."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from .conftest import Shop

ROLE = "arn:aws:iam::123456789012:role/orders-cdc-digests"


def lake(more: str) -> str:
    return f"{{lake: {{type: s3, bucket: lake, prefix: cdc/, {more}}}}}"


def keys(shop: Shop, *buckets: str) -> list[str]:
    return [
        one["Key"] for bucket in buckets for one in shop.ask("s3", lambda s3, b=bucket: s3.list_objects_v2(Bucket=b)).get("Contents", ())
    ]


def kms_key(shop: Shop, **about: str) -> str:
    made: dict[str, Any] = shop.ask("kms", lambda kms: kms.create_key(**{"KeyUsage": "SIGN_VERIFY", "KeySpec": "ECC_NIST_P256"} | about))
    return str(made["KeyMetadata"]["Arn"])


def test_a_key_that_signs_and_a_bucket_that_takes_digests_are_no_finding_and_nothing_is_left(shop: Shop) -> None:
    shop.ask("s3", lambda s3: s3.create_bucket(Bucket="digests", ObjectLockEnabledForBucket=True))
    key = kms_key(shop)
    shop.write(sinks=lake(f"digest: {{key: '{key}', bucket: digests, role: '{ROLE}'}}"))
    assert shop.findings() == {}
    assert keys(shop, "lake", "digests") == []


def test_a_key_of_a_file_is_read_and_tried(shop: Shop) -> None:
    shop.write(sinks=lake("digest: {key: audit.pem}"))
    found = shop.findings("error")
    assert found.keys() == {"E381"}
    assert "openssl genpkey" in found["E381"]["remedy"]
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (shop.directory / "audit.pem").write_bytes(Ed25519PrivateKey.generate().private_bytes(*form))
    assert shop.findings() == {}
    subprocess.run(["openssl", "genpkey", "-algorithm", "RSA", "-out", str(shop.directory / "audit.pem")], check=True, capture_output=True)
    assert "must be Ed25519" in shop.findings("error")["E381"]["what"]


def test_a_kms_key_that_may_not_sign_is_told_with_the_statement_to_add(shop: Shop) -> None:
    shop.write(sinks=lake(f"digest: {{key: '{kms_key(shop)}'}}"))
    shop.aws.deny("kms:Sign")
    assert "kms:Sign" in shop.findings("error")["E102"]["remedy"]


def test_a_kms_key_of_another_use_is_told(shop: Shop) -> None:
    shop.write(sinks=lake(f"digest: {{key: '{kms_key(shop, KeyUsage='ENCRYPT_DECRYPT', KeySpec='RSA_2048')}'}}"))
    assert "SIGN_VERIFY" in shop.findings("error")["E381"]["remedy"]


@pytest.mark.parametrize("action", ["sts:AssumeRole", "s3:PutObject"])
def test_the_bucket_of_digests_is_tried_with_its_own_role(shop: Shop, action: str) -> None:
    shop.ask("s3", lambda s3: s3.create_bucket(Bucket="digests"))
    shop.write(sinks=lake(f"digest: {{bucket: digests, role: '{ROLE}'}}"))
    assert shop.findings() == {}
    shop.aws.deny(action)
    found = shop.findings("error")["E102"]
    assert action in found["remedy"]


def test_a_missing_bucket_of_digests_and_a_missing_key_are_both_told(shop: Shop) -> None:
    shop.write(sinks=lake(f"digest: {{key: audit.pem, bucket: nowhere, role: '{ROLE}'}}"))
    _, told, _ = shop.doctor()
    assert {(one["code"], one["severity"]) for one in told["findings"]} == {("DSQLCDC-E381", "error"), ("DSQLCDC-E103", "error")}
    assert any("nowhere" in one["where"] for one in told["findings"])


def test_a_bucket_without_the_object_lock_that_is_wanted_is_told(shop: Shop) -> None:
    shop.ask("s3", lambda s3: s3.create_bucket(Bucket="held", ObjectLockEnabledForBucket=True))
    for bucket, digests, missing in (("held", "held", ""), ("held", "lake", "lake"), ("lake", "held", "lake")):
        options = f"bucket: {bucket}, prefix: cdc/, object_lock: {{mode: GOVERNANCE, days: 1}}, digest: {{bucket: {digests}}}"
        shop.write(sinks=f"{{lake: {{type: s3, {options}}}}}")
        _, told, _ = shop.doctor()
        assert {one["where"].removeprefix("s3://").partition("/")[0] for one in told["findings"]} == ({missing} if missing else set())
        assert all("put-object-lock-configuration" in one["remedy"] for one in told["findings"])
    assert keys(shop, "lake", "held") == []
