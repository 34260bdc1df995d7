"""The options of `type: opensearch`."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, StringConstraints, WithJsonSchema, field_validator, model_validator
from yarl import URL

from dsqlcdc.options import Duration, InputFile, Size, StrictOptions, Tls, duration, size
from dsqlcdc.units import format_duration
from dsqlcdc_opensearch.mapping import ByteaWord, JsonWord

WEEK = 7 * 86_400.0
"""DSQL holds what it could not deliver for a week."""
DAY = 86_400.0
SEND_WITHIN = 120.0
"""Seconds from reading the watermark to the last moment that a request judged by it may be sent."""
LARGEST_BULK = 9 * 1024 * 1024
_PREFIX = r"^[a-z0-9][a-z0-9_-]{0,63}$"
Text = Annotated[str, StringConstraints(min_length=1)]


def _url(value: str) -> str:
    if not all("!" <= c <= "~" for c in value) or "\\" in value:
        raise ValueError("url holds a character that a URL cannot: write it percent-encoded")
    url = URL(value)
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("url begins with https:// or http:// and names a host: write https://HOST:9200")
    if "@" in value.partition("://")[2].partition("/")[0] or url.query_string or url.fragment:
        raise ValueError("url holds a user, password or query: write basic: {user: …, password: …} instead")
    return value


def _several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _glob(value: str) -> str:
    if "." not in value and value != "*":
        raise ValueError("a pattern matches schema.table: write for example public.orders or app.*")
    return value


Urls = Annotated[
    tuple[Annotated[str, AfterValidator(_url)], ...],
    BeforeValidator(_several),
    Field(min_length=1, max_length=64),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
Glob = Annotated[str, AfterValidator(_glob)]


class Basic(StrictOptions):
    """A user of the cluster, with the password."""

    user: Text
    password: SecretStr


class Sign(StrictOptions):
    """AWS Signature Version 4, with the credentials of the standard chain."""

    service: Literal["es", "aoss"] | None = Field(default=None, description="null: aoss with profile serverless, otherwise es")
    region: str | None = Field(default=None, pattern=r"^[a-z]{2}(-[a-z]+)+-\d+$", description="null: as in the aws block")


class Verify(StrictOptions):
    """The cluster that late upserts are verified with; needs the extra `dsql`, and a user that may select from the tables."""

    endpoint: str = Field(pattern=r"^[a-z0-9.-]+$", description="as in abc….dsql.us-east-1.on.aws")
    user: Text = Field(default="admin", description="of the database")


class BulkSize(StrictOptions):
    """How much goes into a bulk request, and how many at a time."""

    bytes: Size = size("5MiB", least="64KiB", description="less where the cluster says so, by 413 and 429")
    records: int = Field(default=2000, ge=1, le=100_000)
    age: Duration = duration("200ms", description="of the first change, by the monotonic clock")
    concurrency: int = Field(default=8, ge=1, le=64, description="at the most; grows and shrinks by the answers")

    @field_validator("bytes")
    @classmethod
    def _bytes_fit(cls, value: int) -> int:
        if value > LARGEST_BULK:
            raise ValueError("a bulk request has at most 9MiB: small instances and collections refuse more than 10MiB")
        return value


class IndexSettings(StrictOptions):
    """Settings of new indexes; null: the cluster's own."""

    shards: int | None = Field(default=None, ge=1, le=1024)
    replicas: int | None = Field(default=None, ge=0, le=100)
    refresh_interval: Duration | None = Field(default=None, ge=0.1)

    @property
    def body(self) -> dict[str, Any]:
        named = {"number_of_shards": self.shards, "number_of_replicas": self.replicas}
        settings: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        if self.refresh_interval is not None:
            settings["refresh_interval"] = f"{round(self.refresh_interval * 1000)}ms"
        return {"index": settings} if settings else {}


class Options(StrictOptions):
    """A replica of the tables in OpenSearch: one index a table, one document a row, right after every delete and late record."""

    url: Urls = Field(description="of the cluster, or a list of its nodes")
    index_prefix: str = Field(default="cdc-", pattern=_PREFIX, description="begins the names of all indexes and aliases; one sink each")
    profile: Literal["managed", "serverless"] = Field(
        default="managed", description="serverless: a collection of type SEARCH of Amazon OpenSearch Serverless"
    )
    basic: Basic | None = None
    sign: Sign | None = None
    tls: Tls = Tls()
    mappings: dict[Glob, InputFile] = Field(
        default_factory=dict, description="by table pattern, a JSON file with the `properties` of the index's mapping; the first match wins"
    )
    settings: IndexSettings = IndexSettings()
    json_columns: JsonWord = Field(default="stored", description="object: searchable, as flat_object (with a row model)")
    bytea_columns: ByteaWord = Field(default="drop", description="base64: kept, not searchable (with a row model)")
    mode: Literal["external", "scripted"] = Field(
        default="external", description="scripted: versions are compared by a script, for an engine that refuses external ones (E470)"
    )
    evolve: Literal["add", "off"] | None = Field(
        default=None,
        description="a new column: add puts it into the mapping, off keeps it in the document only; null: add without a model and mapping file",
    )
    delete_mode: Literal["tombstone", "native"] = Field(
        default="tombstone",
        description="native: the engine forgets a delete within a minute or at a restart, and what comes late brings the row back",
    )
    late_upsert: Literal["verify", "dead"] = Field(
        default="dead", description="an upsert older than what the purge has forgotten, of a row without a document"
    )
    verify: Verify | None = Field(default=None, description="with late_upsert: verify")
    stream_retention: Duration = duration("168h", least="24h", description="of the Kinesis stream")
    retention: Duration | None = Field(default=None, description="of tombstones; null: the least, a week + stream_retention + a day")
    purge: Literal["leader", "off"] = Field(default="leader", description="off: another process runs it, or nobody and tombstones stay")
    grace: Duration = duration("10m", description="from moving the watermark to purging by it; at least two minutes and twice `timeout`")
    bulk: BulkSize = BulkSize()
    gzip: bool = Field(default=True, description="requests above 4KiB are compressed")
    timeout: Duration = duration("60s", least="1s", description="of a whole request")
    connect_timeout: Duration = duration("5s", least="10ms", description="of connecting, TLS included")

    @property
    def tombstones_for(self) -> float:
        """Seconds that a tombstone stays."""
        return self.retention if self.retention is not None else WEEK + self.stream_retention + DAY

    def mapping_file(self, table: str) -> Path | None:
        return next((path for pattern, path in self.mappings.items() if fnmatchcase(table, pattern)), None)

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.mode == "scripted" and self.delete_mode == "native":
            raise ValueError("delete_mode native needs an engine that compares versions itself: write delete_mode: tombstone")
        if self.basic is not None and self.sign is not None:
            raise ValueError("basic and sign exclude each other: write one of them")
        if (self.verify is None) == (self.late_upsert == "verify"):
            raise ValueError(
                "late_upsert asks a cluster, which is not named: write verify: {endpoint: …}"
                if self.verify is None
                else "verify is asked only by late upserts: write late_upsert: verify"
            )
        least = WEEK + self.stream_retention + DAY
        if self.tombstones_for < least:
            raise ValueError(f"retention is at least a week + stream_retention + a day: write {format_duration(least)}")
        if self.grace < (shortest := SEND_WITHIN + 2 * self.timeout):
            raise ValueError(f"grace is at least two minutes and twice the timeout: write {format_duration(shortest)}")
        if self.profile == "serverless":
            if self.sign is None or self.sign.service == "es":
                raise ValueError(
                    "sign is missing or for another service, and a serverless collection takes signed requests only: write sign: {service: aoss}"
                )
            if self.settings.body:
                raise ValueError("settings of indexes are what a serverless collection does not take: write none")
        elif self.sign is not None and self.sign.service == "aoss":
            raise ValueError("sign with service aoss goes with a collection: write profile: serverless")
        if self.secret_in_the_clear:
            raise ValueError("basic: a password goes over https only (or to this machine): write https://… in url")
        return self

    @property
    def secret_in_the_clear(self) -> bool:
        hosts = [URL(url) for url in self.url]
        return self.basic is not None and any(
            url.scheme == "http" and not re.fullmatch(r"localhost|127\.[0-9.]+|::1", url.host or "") for url in hosts
        )
