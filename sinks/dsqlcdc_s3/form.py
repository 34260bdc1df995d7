"""What a part is by its name: gzip JSON Lines or Parquet. Both hold the same lines; a lake may have both."""

from __future__ import annotations

from functools import cache

from dsqlcdc import parquet
from dsqlcdc_s3 import encode


def void_of(key: str) -> bytes:
    """The object that voids the part of this name: readers find no rows in it. Raises Misconfigured where pyarrow is missing."""
    return _void_parquet() if key.endswith(parquet.SUFFIX) else encode.void()


@cache
def _void_parquet() -> bytes:
    return parquet.void()


def content_type(key: str) -> str:
    return parquet.CONTENT if key.endswith(parquet.SUFFIX) else "application/gzip"
