"""What `dsqlcdc audit` does with one s3 sink's lake: verify it, and write the digests that are missing."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import msgspec

from dsqlcdc.aws import client
from dsqlcdc.contract import Context
from dsqlcdc_s3.audit.findings import Asked, Report, Told
from dsqlcdc_s3.audit.lake import AwsLake, Lake
from dsqlcdc_s3.audit.verify import Verification
from dsqlcdc_s3.chain import Owner
from dsqlcdc_s3.job import seal_apart
from dsqlcdc_s3.opening import aws_of, elsewhere, in_aws, signer
from dsqlcdc_s3.options import Options
from dsqlcdc_s3.signing import PublicKey, read_public_key


class Audit:
    """The lake of one sink, for commands."""

    def __init__(self, options: Options, context: Context) -> None:
        self._options, self._context = options, context
        self._owner = Owner(context.pipeline, context.sink, f"s3://{options.bucket}/{options.prefix}", options.prefix)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], context: Context) -> Self:
        """The factory that the entry point names. Raises ValueError; does no I/O."""
        return cls(Options.model_validate(options), context)

    async def verify(self, given: Mapping[str, Any], tell: Callable[[Told], None]) -> Report:
        """Verify the lake, with the caller's own rights, not the writer's role; `given` are the fields of Asked.

        Raises Unavailable, and Misconfigured where the lake, or a key, cannot be read at all.
        """
        asked = msgspec.convert(given, Asked)
        options, context, digest = self._options, self._context, self._options.digest
        keys = [read_public_key(Path(path)) for path in asked.public_keys]
        if digest is not None and not keys:
            keys = [read_public_key(Path(context.directory) / path) for path in digest.public_keys]
            if digest.key is not None:
                keys.append(await self._own_key())
        async with AsyncExitStack() as stack:
            lake: Lake = AwsLake(await stack.enter_async_context(client("s3", aws_of(options, context))), options)
            store, prefix = lake, options.prefix
            if digest is not None and digest.bucket is not None:
                apart, aws = elsewhere(options, context)
                store = AwsLake(await stack.enter_async_context(client("s3", aws)), apart)
            if digest is not None and digest.prefix is not None:
                prefix = digest.prefix
            signs = digest is not None and digest.key is not None
            return await Verification(lake, self._owner, store, prefix, keys, asked, tell, signs=signs).run()

    async def digest(self, *, every: bool = False) -> Sequence[str]:
        """Write the digests that are missing, with the writer's rights: the keys of those written. `every`: look at all manifests of Lambda."""
        async with in_aws(self._options, self._context) as objects:
            return await seal_apart(objects, self._options, self._context, time.time, every=every)

    async def _own_key(self) -> PublicKey:
        """The public half of the key that the config signs with."""
        signing = await signer(self._options, self._context).signing()
        return PublicKey("digest.key", base64.b64decode(signing.public_key))
