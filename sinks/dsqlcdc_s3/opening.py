"""What an s3 sink opens: its bucket, the one its digests go to, and who signs them."""

from __future__ import annotations

import os
import secrets
import socket
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

from dsqlcdc.aws import Aws, client
from dsqlcdc.contract import Context
from dsqlcdc_s3.aws_objects import AwsObjects
from dsqlcdc_s3.objects import Objects, Store
from dsqlcdc_s3.options import Options
from dsqlcdc_s3.signing import NoSigner, Signer, signer_of


def unique_name() -> str:
    """The name of one writer among all."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(8)}"


def in_aws(options: Options, context: Context) -> AbstractAsyncContextManager[Objects]:
    """The store that the options name, to be entered."""
    return _Opened(client("s3", aws_of(options, context)), options)


class _Opened(AbstractAsyncContextManager[Objects]):
    """The client of one run, as Objects."""

    def __init__(self, opening: AbstractAsyncContextManager[Any], options: Options) -> None:
        self._opening = opening
        self._options = options

    async def __aenter__(self) -> Objects:
        return AwsObjects(await self._opening.__aenter__(), self._options)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._opening.__aexit__(kind, error, trace)


def aws_of(options: Options, context: Context) -> Aws:
    """How the sink reaches its bucket."""
    return Aws(options.region or context.region, context.profile, options.endpoint_url or context.endpoint_url)


def elsewhere(options: Options, context: Context) -> tuple[Options, Aws]:
    """The bucket that digests go to, as options of a sink, and how it is reached, without its role."""
    aws, digest = aws_of(options, context), options.digest
    if digest is None or digest.bucket in (None, options.bucket):
        return options, aws
    own = {"sse": None, "kms_key_id": None, "bucket_key": None, "expected_bucket_owner": None}
    return options.model_copy(update={"bucket": digest.bucket, **own}), Aws(digest.region or aws.region, aws.profile, aws.endpoint_url)


def digests_in_aws(options: Options, context: Context) -> Store | None:
    """Opens the bucket that digests go to; None where it is the lake's, asked for with the same rights."""
    if options.digest is None or (options.digest.bucket is None and options.digest.role is None):
        return None
    apart, aws = elsewhere(options, context)
    assumed = Aws(aws.region, aws.profile, aws.endpoint_url, options.digest.role)
    return lambda: _Opened(client("s3", assumed), apart)


def signer(options: Options, context: Context) -> Signer:
    """Who signs the digests."""
    if options.digest is None:
        return NoSigner()
    return signer_of(options.digest.key, context.directory, Aws(options.region or context.region, context.profile, context.endpoint_url))
