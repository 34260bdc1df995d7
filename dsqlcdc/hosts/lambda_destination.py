"""What a trigger gave up, from its on-failure destination in S3: read back, and delivered as the function would have."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec

from dsqlcdc.assemble import aws_of
from dsqlcdc.aws import client, errors, translate
from dsqlcdc.config import Config
from dsqlcdc.errors import Misconfigured
from dsqlcdc.hosts.invocation import Outfit, first_owed, work
from dsqlcdc.hosts.outfit import open_outfit
from dsqlcdc.sources.lambda_event import Batch, LambdaSource, read_event


class GivenUp(msgspec.Struct, frozen=True):
    """One object: its key, why the trigger gave up ("" where it does not say), and the batch, None where it holds no records."""

    key: str
    condition: str
    batch: Batch | None


class Destination:
    """The objects under one place. Methods raise Misconfigured or Unavailable as S3 answers."""

    def __init__(self, s3: Any, where: str, config: Config) -> None:
        self._client = s3
        self._bucket, _, self._start = where.removeprefix("s3://").partition("/")
        self._config = config
        self._outfit: Outfit | None = None

    async def keys(self) -> list[str]:
        """Every object whose key begins so, oldest first, as Lambda names them by time."""
        found, more = list[str](), dict[str, Any]()
        while True:
            try:
                answer = await self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._start, **more)
            except errors() as error:
                raise translate(error, doing="list what the trigger gave up", where=f"s3://{self._bucket}/{self._start}") from error
            found += [str(entry["Key"]) for entry in answer.get("Contents", ())]
            if not answer.get("IsTruncated"):
                return sorted(found, key=lambda key: key.rpartition("/")[2])
            more["ContinuationToken"] = answer["NextContinuationToken"]

    async def read(self, key: str) -> GivenUp:
        """One object. Raises Misconfigured (E462) too where it is no invocation record with a payload, and what read_event raises."""
        where = f"s3://{self._bucket}/{key}"
        try:
            answer = await self._client.get_object(Bucket=self._bucket, Key=key)
            async with answer["Body"] as stream:
                body: bytes = await stream.read()
        except errors() as error:
            raise translate(error, doing="read what the trigger gave up", where=where) from error
        condition, event = parse(body, where)
        return GivenUp(key, condition, read_event(event, self._config.source.stream))

    async def deliver(self, given: GivenUp, seconds: float) -> str:
        """Deliver one object's batch; the first sequence number that is owed after so many seconds, "" for none. Raises what stopped a sink."""
        if given.batch is None:
            return ""
        if self._outfit is None:
            self._outfit = await open_outfit(self._config, time.time)
        sources = {name: LambdaSource(given.batch, time.time()) for name in self._outfit.outlets}
        done = await work(self._outfit, sources, seconds)
        for fault in done.faults.values():
            raise fault
        return first_owed(given.batch, done)

    async def close(self) -> None:
        if self._outfit is not None:
            await self._outfit.shut()


@asynccontextmanager
async def destination(where: str, config: Config) -> AsyncGenerator[Destination, None]:
    """The destination at `s3://bucket` or `s3://bucket/beginning-of-keys`. Raises Misconfigured (E462) for another kind of place."""
    if not where.startswith("s3://") or not where.removeprefix("s3://").partition("/")[0]:
        why = "queues and topics get no payload; s3://bucket/beginning-of-keys is expected"
        raise Misconfigured("this is no destination in S3", where=where, why=why, run="dsqlcdc dead replay --help", code="E462")
    async with client("s3", aws_of(config)) as s3:
        opened = Destination(s3, where, config)
        try:
            yield opened
        finally:
            await opened.close()


def parse(body: bytes, where: str) -> tuple[str, object]:
    """Why the trigger gave up, and the event, of an invocation record. Raises Misconfigured (E462)."""
    try:
        record: object = json.loads(body)
        if not isinstance(record, dict):
            raise ValueError("it is no JSON object")
        told = cast("dict[str, Any]", record)
        if "payload" not in told:
            raise ValueError("it has no payload" if "KinesisBatchInfo" in told else "it is no invocation record of Lambda")
        payload = told["payload"]
        about = told.get("requestContext")
        condition = str(cast("dict[str, Any]", about).get("condition", "")) if isinstance(about, dict) else ""
        return condition, json.loads(payload) if isinstance(payload, str) else payload
    except ValueError as error:
        run = "aws s3 cp, with what is named above, to look at it"
        raise Misconfigured("this is nothing that a trigger gave up", where=where, why=str(error), run=run, code="E462") from error
