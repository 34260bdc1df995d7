"""Where a lake is read from: its bucket, or a local copy of what is under its prefix."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from dsqlcdc.assemble import aws_of
from dsqlcdc.aws import Aws, client, errors, translate
from dsqlcdc.config import Config
from dsqlcdc.config.resolved import SinkConfig
from dsqlcdc.errors import ConfigError

_CHUNK = 1024 * 1024
SUFFIXES = (".jsonl.gz", ".parquet")


class LakeStore(Protocol):
    """Reads a lake; names begin with data/ or manifests/. Raises Unavailable, Misconfigured; FileNotFoundError for a name that is not there."""

    where: str

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    async def names(self, start: str) -> Sequence[str]:
        """All names that begin with `start`, sorted."""
        ...

    async def folders(self, start: str) -> Sequence[str]:
        """The folders right below the folder `start`, by their names."""
        ...

    async def fetch(self, name: str, to: Path) -> None:
        """Write an object to a file, in bounded memory."""
        ...


def lake_sink(config: Config, name: str) -> SinkConfig:
    """The sink of type s3 that is meant; "" means the only one. Raises ConfigError."""
    known = [sink for sink in config.sinks.values() if sink.type == "s3"]
    found = [sink for sink in known if name in ("", sink.name)]
    if len(found) == 1:
        return found[0]
    named, where = " or ".join(f"--sink {sink.name}" for sink in known), str(config.path)
    if not known:
        others = ", ".join(f"{sink.name} ({sink.type})" for sink in config.sinks.values())
        what, why = "there is no lake", f"a lake is what a sink of type s3 writes, and its sinks are {others}"
    elif found:
        what, why = "there are several lakes", f"say which: {named}"
    else:
        what, where, why = "there is no such lake", f"--sink {name}", f"the config has {named}"
    raise ConfigError(what, where=where, why=why, run=f"dsqlcdc config show {config.path}", code="E391")


def open_lake(config: Config, sink: SinkConfig, directory: Path | None) -> LakeStore:
    """The lake of a sink: a local copy in `directory`, else its bucket."""
    if directory is not None:
        return LocalLake(directory)
    bucket, prefix, aws = str(sink.options["bucket"]), str(sink.options.get("prefix", "")), aws_of(config)
    region, endpoint = sink.options.get("region") or aws.region, sink.options.get("endpoint_url") or aws.endpoint_url
    return S3Lake(bucket, prefix, Aws(region=region, profile=aws.profile, endpoint_url=endpoint))


class LocalLake:
    """A LakeStore over a directory: what `aws s3 sync s3://BUCKET/PREFIX DIR` made."""

    def __init__(self, directory: Path) -> None:
        self._directory, self.where = directory, f"{directory}/"

    async def __aenter__(self) -> Self:
        if not (self._directory / "data").is_dir():
            why, run = "it has no folder data/", "aws s3 sync s3://BUCKET/PREFIX DIR"
            raise ConfigError("that is no copy of a lake", where=str(self._directory), why=why, run=run, code="E393")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    async def names(self, start: str) -> Sequence[str]:
        return await asyncio.to_thread(self._names, start)

    def _names(self, start: str) -> Sequence[str]:
        folder = self._directory / start.rpartition("/")[0]
        found = (Path(place, file) for place, _, files in os.walk(folder) for file in files)
        names = (path.relative_to(self._directory).as_posix() for path in found)
        return sorted(name for name in names if name.startswith(start))

    async def folders(self, start: str) -> Sequence[str]:
        folder = self._directory / start
        return sorted(one.name for one in folder.iterdir() if one.is_dir()) if folder.is_dir() else ()

    async def fetch(self, name: str, to: Path) -> None:
        await asyncio.to_thread(shutil.copyfile, self._directory / name, to)


class S3Lake:
    """A LakeStore over a bucket."""

    def __init__(self, bucket: str, prefix: str, aws: Aws) -> None:
        self._bucket, self._prefix, self._aws = bucket, prefix, aws
        self.where = f"s3://{bucket}/{prefix}"
        self._opening: AbstractAsyncContextManager[Any] | None = None
        self._client: Any = None

    async def __aenter__(self) -> Self:
        opening = client("s3", self._aws)
        self._client = await opening.__aenter__()
        self._opening = opening
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._opening is not None:
            await self._opening.__aexit__(kind, error, trace)

    async def names(self, start: str) -> Sequence[str]:
        pages = await self._list(start)
        return [str(entry["Key"])[len(self._prefix) :] for page in pages for entry in page.get("Contents", ())]

    async def folders(self, start: str) -> Sequence[str]:
        pages = await self._list(start, Delimiter="/")
        found = [str(entry["Prefix"]) for page in pages for entry in page.get("CommonPrefixes", ())]
        return sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in found)

    async def _list(self, start: str, **more: str) -> Sequence[dict[str, Any]]:
        pages: list[dict[str, Any]] = []
        while True:
            try:
                page: dict[str, Any] = await self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix + start, **more)
            except errors() as error:
                raise translate(error, doing="list the objects of the lake", where=f"{self.where}{start}") from error
            pages.append(page)
            if not page.get("IsTruncated"):
                return pages
            more["ContinuationToken"] = page["NextContinuationToken"]

    async def fetch(self, name: str, to: Path) -> None:
        try:
            answer = await self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
            async with answer["Body"] as body:
                with to.open("wb") as file:
                    while chunk := await body.read(_CHUNK):
                        await asyncio.to_thread(file.write, chunk)
        except errors() as error:
            fault = translate(error, doing="read an object of the lake", where=f"{self.where}{name}")
            if "NoSuchKey" in str(error):
                raise FileNotFoundError(name) from error
            raise fault from error
