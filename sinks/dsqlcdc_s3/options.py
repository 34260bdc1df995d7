"""The options of `type: s3`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from dsqlcdc.options import Duration, InputFile, Size, StrictOptions, duration, size

_BUCKET = r"^(?:[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]|arn:aws[a-z-]*:s3[a-z-]*:[^\s]+)$"
StorageClass = Literal[
    "STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "REDUCED_REDUNDANCY", "EXPRESS_ONEZONE"
]


def _untyped(table: str) -> None:
    return None


class Roll(StrictOptions):
    """When a batch is written: bytes as received, age of its first change, or records, whichever comes first."""

    bytes: Size = size("64MiB", least="1KiB", description="as received")
    age: Duration = duration("60s", least="10ms", description="of the first change, by the monotonic clock")
    records: int = Field(default=100_000, ge=1)


class ObjectLock(StrictOptions):
    """S3 Object Lock: what is written cannot be changed or deleted for so long. The bucket must have it switched on."""

    mode: Literal["GOVERNANCE", "COMPLIANCE"] = Field(
        description="COMPLIANCE binds everybody, the root user too; GOVERNANCE those without a permission"
    )
    days: int = Field(ge=1, le=36500, description="from the writing of each object")


class DigestOptions(StrictOptions):
    """The proof that the lake is whole: a digest of every period, each with the hash of the one before."""

    every: Duration = duration("1h", least="1s", description="a digest each so often, empty ones too, and one at the end of a run")
    key: str | None = Field(default=None, min_length=1, description="signs: a KMS key (ARN, id, alias/NAME), or a file with an Ed25519 key")
    public_keys: list[InputFile] = Field(
        default=[], description="files; `audit verify` takes these keys' signatures, those of earlier keys too"
    )
    bucket: str | None = Field(default=None, pattern=_BUCKET, description="where digests go; null: the lake's")
    prefix: str | None = Field(default=None, description="in that bucket; null: as the lake's")
    region: str | None = Field(default=None, description="of that bucket; null: the lake's")
    role: str | None = Field(default=None, pattern=r"^arn:aws[a-z-]*:iam::\d{12}:role/.+$", description="is assumed to write digests")


class Options(StrictOptions):
    """S3 as a lake or an audit trail: JSON Lines (gzip) or Parquet (zstd), every change once."""

    bucket: str = Field(pattern=_BUCKET, description="name, or access point ARN")
    prefix: str = Field(default="", description="goes before data/ and manifests/ as it stands, so end it with a slash; one sink each")
    roll: Roll = Roll()
    gzip: int = Field(default=1, ge=1, le=9, description="compression level of JSON Lines; 1 costs a tenth of the time of 6")
    format: Literal["jsonl", "parquet"] = Field(default="jsonl", description="of the objects")
    zstd: int = Field(default=3, ge=1, le=19, description="compression level of Parquet")
    typed: bool = Field(
        default=False, description="Parquet has a column `typed` with the values of tables with a row model, by their types"
    )
    raw: bool = Field(default=False, description="each line holds the record exactly as received, too")
    parallel: int = Field(default=4, ge=1, le=64, description="objects written at a time")
    storage_class: StorageClass | None = Field(default=None, description="one that can be read at once: the sink reads back what it wrote")
    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = Field(default=None, description="null: as the bucket says")
    kms_key_id: str | None = Field(default=None, min_length=1, description="with sse aws:kms or aws:kms:dsse")
    bucket_key: bool | None = Field(default=None, description="S3 Bucket Key, with sse aws:kms; null: as the bucket says")
    expected_bucket_owner: str | None = Field(default=None, pattern=r"^\d{12}$", description="account id; another's bucket is refused")
    object_lock: ObjectLock | None = Field(default=None, description="null: as the bucket says")
    digest: DigestOptions | None = Field(default=DigestOptions(), description="null: no digests are written")
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

    @property
    def level(self) -> int:
        """The compression level of the chosen format."""
        return self.zstd if self.format == "parquet" else self.gzip

    def shape(self, columns: Callable[[str], Mapping[str, str] | None]) -> Callable[[str], Mapping[str, str] | None] | None:
        """What `encode` is told of Parquet: the typed columns of a table; None for JSON Lines."""
        if self.format != "parquet":
            return None
        return columns if self.typed else _untyped

    @model_validator(mode="after")
    def _parquet_can_be_written(self) -> Self:
        if self.typed and self.format != "parquet":
            raise ValueError("typed columns are Parquet's: write format: parquet")
        if self.format == "parquet" and find_spec("pyarrow") is None:
            raise ValueError("format parquet needs pyarrow: pip install 'dsqlcdc[parquet]'")
        return self

    @model_validator(mode="after")
    def _encryption_agrees(self) -> Self:
        kms = self.sse is not None and self.sse.startswith("aws:kms")
        if self.kms_key_id is not None and not kms:
            raise ValueError("kms_key_id goes with KMS only: write sse: aws:kms (or aws:kms:dsse)")
        if self.bucket_key is not None and self.sse != "aws:kms":
            raise ValueError("bucket_key goes with KMS only: write sse: aws:kms")
        return self
