"""The options of `type: s3`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from dsqlcdc.options import Duration, Size, StrictOptions, duration, size

_BUCKET = r"^(?:[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]|arn:aws[a-z-]*:s3[a-z-]*:[^\s]+)$"
StorageClass = Literal[
    "STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "REDUCED_REDUNDANCY", "EXPRESS_ONEZONE"
]


class Roll(StrictOptions):
    """When a batch is written: bytes as received, age of its first change, or records, whichever comes first."""

    bytes: Size = size("64MiB", least="1KiB", description="as received")
    age: Duration = duration("60s", least="10ms", description="of the first change, by the monotonic clock")
    records: int = Field(default=100_000, ge=1)


class Options(StrictOptions):
    """S3 as a lake or an audit trail: JSON Lines, gzip, every change once."""

    bucket: str = Field(pattern=_BUCKET, description="name, or access point ARN")
    prefix: str = Field(default="", description="goes before data/ and manifests/ as it stands, so end it with a slash; one sink each")
    roll: Roll = Roll()
    gzip: int = Field(default=1, ge=1, le=9, description="compression level; 1 costs a tenth of the time of 6")
    raw: bool = Field(default=False, description="each line holds the record exactly as received, too")
    parallel: int = Field(default=4, ge=1, le=64, description="objects written at a time")
    storage_class: StorageClass | None = Field(default=None, description="one that can be read at once: the sink reads back what it wrote")
    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = Field(default=None, description="null: as the bucket says")
    kms_key_id: str | None = Field(default=None, min_length=1, description="with sse aws:kms or aws:kms:dsse")
    bucket_key: bool | None = Field(default=None, description="S3 Bucket Key, with sse aws:kms; null: as the bucket says")
    expected_bucket_owner: str | None = Field(default=None, pattern=r"^\d{12}$", description="account id; another's bucket is refused")
    region: str | None = Field(default=None, description="of the bucket; null: as in the aws block")
    endpoint_url: str | None = Field(default=None, description="a store that speaks S3; null: as in the aws block")

    @field_validator("prefix")
    @classmethod
    def _prefix_fits(cls, prefix: str) -> str:
        if prefix.startswith("/"):
            raise ValueError(f"a prefix begins without a slash: write {prefix.lstrip('/')!r}")
        if len(prefix.encode()) > 400:
            raise ValueError("a prefix has at most 400 bytes, keys at most 1024")
        if any(ord(c) < 32 or ord(c) == 127 for c in prefix):
            raise ValueError("a prefix holds no control characters")
        return prefix

    @model_validator(mode="after")
    def _encryption_agrees(self) -> Self:
        kms = self.sse is not None and self.sse.startswith("aws:kms")
        if self.kms_key_id is not None and not kms:
            raise ValueError("kms_key_id goes with KMS only: write sse: aws:kms (or aws:kms:dsse)")
        if self.bucket_key is not None and self.sse != "aws:kms":
            raise ValueError("bucket_key goes with KMS only: write sse: aws:kms")
        return self
