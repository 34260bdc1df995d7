"""What `dsqlcdc audit compact` runs: the lake of a sink's options, opened in AWS to be compacted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from dsqlcdc.aws import Aws, client, errors, translate
from dsqlcdc.contract import Context
from dsqlcdc_s3.aws_objects import AwsObjects
from dsqlcdc_s3.chain import Owner
from dsqlcdc_s3.compaction import Bounds, Compactable, Compactor, Step
from dsqlcdc_s3.lock import object_lock
from dsqlcdc_s3.manifest import decode_word
from dsqlcdc_s3.options import Options


class LakeCompaction:
    """One run over one lake. Found by the entry-point group `dsqlcdc.compactions`; `options` and `context` are the sink's."""

    def __init__(
        self, options: Options, context: Context, opened: Callable[[], AbstractAsyncContextManager[Compactable]] | None = None
    ) -> None:
        self._options, self._context = options, context
        self._open = opened or (lambda: _InAws(options, context))

    @classmethod
    def from_options(cls, options: Mapping[str, Any], context: Context) -> LakeCompaction:
        """Raises ValueError; does no I/O."""
        return cls(Options.model_validate(options), context)

    async def run(
        self,
        word: bytes | None,
        *,
        hour_before: float,
        arrived_before: float,
        size: int,
        dry: bool,
        clock: Callable[[], float],
        tell: Callable[[Step], None],
    ) -> int:
        """Compact what ended before `hour_before` and arrived before `arrived_before` (seconds since the epoch), into objects of `size` bytes at
        the most; how many were made. `word` is the sink's, from its checkpoint; None where there is no checkpoint. See Compactor.run."""
        options, context = self._options, self._context
        place = f"s3://{options.bucket}/{options.prefix}"
        said = decode_word(word or b"")
        before = said.oldest if said is not None and said.place == place else 2**63
        async with self._open() as objects:
            compactor = Compactor(objects, Owner(context.pipeline, context.sink, place, options.prefix), clock, options.zstd)
            bounds = Bounds(hour_before, arrived_before, before, size)
            return await compactor.run(bounds, dry=dry, tell=tell)


class _InAws(AbstractAsyncContextManager[Compactable]):
    def __init__(self, options: Options, context: Context) -> None:
        aws = Aws(options.region or context.region, context.profile, options.endpoint_url or context.endpoint_url)
        self._opening, self._options = client("s3", aws), options

    async def __aenter__(self) -> Compactable:
        return _AwsCompactable(await self._opening.__aenter__(), self._options)

    async def __aexit__(self, *ended: Any) -> None:
        await self._opening.__aexit__(*ended)


class _AwsCompactable(AwsObjects):
    """Compactable over an aiobotocore client."""

    async def delete(self, key: str) -> None:
        try:
            await self._client.delete_object(Bucket=self._options.bucket, Key=key, **self._owner)
        except errors() as error:
            raise translate(error, doing="delete a part that was compacted", where=f"s3://{self._options.bucket}/{key}") from error

    async def locked(self) -> str:
        bucket = self._options.bucket
        enabled = await object_lock(self._client, bucket, **self._owner)
        return f"the bucket {bucket} has S3 Object Lock" if enabled else ""
