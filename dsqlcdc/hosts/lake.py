"""The lake, read back: the changes of one table from the objects that an s3 sink wrote."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Self
from urllib.parse import quote

import msgspec

from dsqlcdc import parquet
from dsqlcdc.assemble import aws_of
from dsqlcdc.aws import Aws
from dsqlcdc.config import Config
from dsqlcdc.contract import Change, Op, Table
from dsqlcdc.errors import ConfigError, Stopped
from dsqlcdc.stores.s3_objects import S3Objects

_OPS = {op.word: op for op in Op}


class _Line(msgspec.Struct, frozen=True, gc=False):
    id: str
    op: str
    schema: str
    table: str
    cluster: str
    version: int
    transaction: str
    shard: str
    sequence: str
    arrived_at: str
    key: msgspec.Raw
    row: msgspec.Raw
    before: msgspec.Raw


_decode = msgspec.json.Decoder(_Line).decode


class Lake:
    """The objects of one table. Raises ConfigError where the sink is none of type s3, or does not hold every change of the table as it was."""

    def __init__(self, config: Config, name: str, table: Table) -> None:
        sink = config.sinks.get(name)
        if sink is None or sink.type != "s3":
            known = ", ".join(one.name for one in config.sinks.values() if one.type == "s3") or "there is none"
            raise ConfigError(
                "no such lake", where=f"sink {name}", why=f"sinks of type s3: {known}", run="dsqlcdc config show CONFIG", code="E155"
            )
        routed = sink.tables is None or any(fnmatchcase(str(table), glob) for glob in sink.tables)
        if not routed or sink.ops is not None or any(fnmatchcase(str(table), glob) for glob in sink.masks):
            why = "its `tables`, `ops`, `mask` or `exclude` keep something of the table out of it: fill from trim_horizon"
            run = "dsqlcdc opensearch rebuild CONFIG --from trim_horizon"
            raise ConfigError("this lake is not the whole table", where=f"sinks.{name}", why=why, run=run, code="E156")
        bucket, self._prefix = str(sink.options["bucket"]), str(sink.options.get("prefix", ""))
        aws = aws_of(config)
        region = sink.options.get("region") or aws.region
        self._objects = S3Objects(bucket, self._prefix, Aws(region=region, profile=aws.profile, endpoint_url=aws.endpoint_url))
        self._table, self._where = table, f"s3://{bucket}/{self._prefix}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._objects.close()

    async def keys(self) -> Sequence[str]:
        """The names of all objects with changes of the table, sorted."""
        folder = ".".join(
            quote(part.encode("utf-8", "surrogatepass"), safe="").replace(".", "%2E") for part in (self._table.schema, self._table.name)
        )
        return sorted(
            entry.name
            for entry in (await self._objects.list(f"data/{folder}/")).entries
            if entry.name.endswith((".jsonl.gz", parquet.SUFFIX))
        )

    async def changes(self, key: str) -> Sequence[Change]:
        """The changes in an object: none in one that voids a part. Raises Stopped for an object that is no lake's, or gone since it was named."""
        body = await self._objects.get(key)
        if body is None:  # its rows are in another by now, which was not listed
            what, why = "an object of the lake is gone", "it was compacted meanwhile"
            raise Stopped(what, where=f"{self._where}{key}", why=why, run="dsqlcdc opensearch rebuild CONFIG, again", code="E157")
        try:
            return await asyncio.to_thread(self._read, key, body)
        except (ValueError, OSError, EOFError, msgspec.MsgspecError) as error:
            what, run = "an object of the lake cannot be read", "dsqlcdc opensearch rebuild CONFIG --from trim_horizon"
            raise Stopped(what, where=f"{self._where}{key}", why=str(error), run=run, code="E157") from error

    def _read(self, key: str, body: bytes) -> Sequence[Change]:
        text = b"".join(parquet.lines(body)) if key.endswith(parquet.SUFFIX) else gzip.decompress(body)
        return [self._change(_decode(line)) for line in text.splitlines()]

    def _change(self, line: _Line) -> Change:
        return Change(
            bytes.fromhex(line.id),
            _OPS[line.op],
            msgspec.structs.replace(self._table, cluster=line.cluster),
            _image(line.key),
            line.version,
            line.transaction,
            _image(line.row),
            _image(line.before),
            b"",
            line.shard,
            line.sequence,
            datetime.fromisoformat(line.arrived_at).timestamp(),
        )


def _image(text: msgspec.Raw) -> msgspec.Raw | None:
    return None if bytes(text) == b"null" else text.copy()
