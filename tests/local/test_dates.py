"""Times that are compared with one another come from one clock."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

import pytest

from dsqlcdc.aws import Aws, client
from dsqlcdc.testing.local import LocalAws


async def test_s3_has_one_clock_whatever_the_others_were_pushed_to(local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Date and its objects' LastModified are compared by whoever asks for an age."""
    for name, value in local_aws.environ.items():
        monkeypatch.setenv(name, value)
    local_aws.advance(7200)
    async with client("s3", Aws()) as s3:
        await s3.create_bucket(Bucket="dated")
        put = await s3.put_object(Bucket="dated", Key="k", Body=b"")
        head = await s3.head_object(Bucket="dated", Key="k")
    dated = parsedate_to_datetime(put["ResponseMetadata"]["HTTPHeaders"]["date"])
    assert abs((head["LastModified"] - dated).total_seconds()) < 60
