"""Has a bucket S3 Object Lock?"""

from __future__ import annotations

from typing import Any

from dsqlcdc.aws import error_code, errors, translate


async def object_lock(s3: Any, bucket: str, **owner: str) -> bool:
    """Asked through an aiobotocore client. Raises Unavailable, Misconfigured."""
    try:
        answer: dict[str, Any] = await s3.get_object_lock_configuration(Bucket=bucket, **owner)
    except errors() as error:
        if error_code(error) == "ObjectLockConfigurationNotFoundError":
            return False
        raise translate(error, doing="ask for the bucket's Object Lock", where=f"s3://{bucket}") from error
    return bool(answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled")
