"""What `dsqlcdc audit` does with one s3 sink's lake: verify it, and write the digests that are missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from dsqlcdc.aws import client
from dsqlcdc.contract import Context
from dsqlcdc_s3.audit.findings import Asked, Report, Told
from dsqlcdc_s3.audit.lake import AwsLake, Lake
from dsqlcdc_s3.audit.verify import Verification
from dsqlcdc_s3.chain import Owner
from dsqlcdc_s3.opening import aws_of, elsewhere, signer
from dsqlcdc_s3.options import Options
from dsqlcdc_s3.signing import PublicKey, read_public_key


class Audit:
    """The lake of one sink, for commands. The caller's own credentials are used, not the writer's role."""

    def __init__(self, options: Options, context: Context) -> None:
        self._options, self._context = options, context
        place = f"s3://{options.bucket}/{options.prefix}"
        self._owner = Owner(context.pipeline, context.sink, place, options.prefix)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], context: Context) -> Self:
        """The factory that the entry point names. Raises ValueError; does no I/O."""
        return cls(Options.model_validate(options), context)

    async def verify(self, asked: Asked, tell: Callable[[Told], None]) -> Report:
        """Raises Unavailable, and Misconfigured where the lake, or a key, cannot be read at all."""
        options, context = self._options, self._context
        digest = options.digest
        keys = [read_public_key(Path(path)) for path in asked.public_keys]
        if digest is not None:
            keys += [read_public_key(Path(context.directory) / path) for path in digest.public_keys]
            if digest.key is not None and not keys:
                keys.append(await self._own_key())
        async with AsyncExitStack() as stack:
            lake: Lake = AwsLake(await stack.enter_async_context(client("s3", aws_of(options, context))), options)
            store, prefix = lake, options.prefix
            if digest is not None and (digest.bucket is not None or digest.prefix is not None):
                apart, aws = elsewhere(options, context)
                store = AwsLake(await stack.enter_async_context(client("s3", aws)), apart)
                prefix = digest.prefix if digest.prefix is not None else options.prefix
            signs = digest is not None and digest.key is not None
            return await Verification(lake, self._owner, store, prefix, keys, asked, tell, signs=signs).run()

    async def _own_key(self) -> PublicKey:
        """The public half of the key that the config signs with."""
        import base64

        signing = await signer(self._options, self._context).signing()
        return PublicKey("digest.key", base64.b64decode(signing.public_key))
