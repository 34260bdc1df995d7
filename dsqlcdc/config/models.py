"""The config file as it may be written: strict pydantic models of its blocks."""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, StringConstraints, ValidationInfo, WithJsonSchema, model_validator

from dsqlcdc.options import Duration, Size, StrictOptions, duration, size

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
"""Pipelines and sinks become file names, metric labels and object names: ASCII letters, digits, `_` and `-`, 64 at the most."""
ARN = re.compile(r"arn:aws[a-z-]*:kinesis:([a-z0-9-]+):[0-9]{12}:stream/[a-zA-Z0-9_.-]{1,128}")
_STREAM = re.compile(r"[a-zA-Z0-9_.-]{1,128}")
STARTS = ("latest", "trim_horizon")
OpWord = Literal["insert", "update", "delete", "upsert", "snapshot"]
OrderWord = Literal["unique", "latest", "commit"]
MaskWord = Literal["hash", "fixed", "drop"]
Start = Literal["latest", "trim_horizon"] | float


def _name(value: str) -> str:
    if not re.match(NAME, value):
        raise ValueError(
            "a name is ASCII letters, digits, _ and -, begins with a letter or digit, and has at most 64 (it becomes a file name)"
        )
    return value


def _stream(value: str) -> str:
    if not (ARN.fullmatch(value) if value.startswith("arn:") else _STREAM.fullmatch(value)):
        raise ValueError("a Kinesis data stream is expected: its name (letters, digits, _ . -, at most 128) or its ARN")
    return value


def _start(value: object) -> Start:
    if value == "latest":
        return "latest"
    if value == "trim_horizon":
        return "trim_horizon"
    if isinstance(value, str) and re.match(r"\d", value):
        try:
            when = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("not an ISO time: write for example 2026-11-01T00:00:00Z") from None
        if when.tzinfo is None:
            raise ValueError("the time has no zone: end it with Z, or with an offset such as +02:00")
        return when.astimezone(UTC).timestamp()
    raise ValueError("choices: latest, trim_horizon, or an ISO time with a zone")


def _path(value: Path, info: ValidationInfo) -> Path:
    context: Any = info.context or {}
    return Path(context.get("directory", ".")) / value.expanduser()


def glob(value: str) -> str:
    """A pattern over `schema.table`; raises ValueError where it can match nothing."""
    if "." not in value and value != "*":
        raise ValueError("a pattern matches schema.table: write for example public.orders or app.*")
    return value


def _endpoint(value: str) -> str:
    if not re.fullmatch(r"https?://[^/?#@\s]+/?", value):
        raise ValueError("an address such as http://127.0.0.1:4566 is expected, without a user, path or query")
    return value


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise ValueError("one of them is given twice")
    return values


def listen_address(value: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`. Raises ValueError."""
    host, colon, port = value.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not bare or not re.fullmatch(r"\d{1,5}", port, re.ASCII) or int(port) > 65535:
        raise ValueError("an address and a port are expected, for example 127.0.0.1:8080")
    if bare != host:
        ipaddress.IPv6Address(bare)
    elif ":" in host:
        raise ValueError("an IPv6 address stands in brackets, for example [::1]:8080")
    return bare, int(port)


def is_loopback(host: str) -> bool:
    """Is this host of a listen address one that only this machine reaches?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _host(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", value):
        raise ValueError("a host name is expected, for example dsqlcdc.shop.svc, without a port")
    return value


def _listen(value: str) -> str:
    listen_address(value)
    return value


Name = Annotated[str, AfterValidator(_name), WithJsonSchema({"type": "string", "pattern": NAME})]
Text = Annotated[str, StringConstraints(min_length=1)]
Glob = Annotated[str, AfterValidator(glob), WithJsonSchema({"type": "string", "pattern": r"\.|^\*$"})]
Globs = Annotated[tuple[Glob, ...], Field(min_length=1)]
StartAt = Annotated[
    Start,
    BeforeValidator(_start),
    WithJsonSchema({"anyOf": [{"enum": list(STARTS)}, {"type": "string", "pattern": r"^\d{4}-\d\d-\d\d.*(Z|[+-]\d\d:?\d\d)$"}]}),
]
StorePath = Annotated[Path, AfterValidator(_path), WithJsonSchema({"type": "string", "minLength": 1})]


def _store_path(default: str) -> Any:
    return Field(default=Path(default), validate_default=True, json_schema_extra={"default": default})


def _block(**default: str) -> Any:
    """A default that is validated like what is written, so that its paths are relative to the file too."""
    extra: dict[str, Any] = {"default": default}
    return Field(default_factory=lambda: dict(default), validate_default=True, json_schema_extra=extra)


class Block(StrictOptions):
    """A block of the file."""


class Aws(Block):
    """Where AWS is; what is not said comes from the standard chain (environment, profile, instance)."""

    region: Annotated[str, StringConstraints(pattern=r"^[a-z]{2,4}(-[a-z]+)+-\d+$")] | None = None
    profile: Text | None = None
    endpoint_url: Annotated[str, AfterValidator(_endpoint)] | None = None


class Source(Block):
    """The Kinesis data stream to read. `start`: latest, trim_horizon, or seconds since the epoch. Sizes are bytes, times seconds."""

    stream: Annotated[str, AfterValidator(_stream)]
    start: StartAt = "trim_horizon"
    on_trimmed: Literal["halt", "continue"] = "halt"
    lateness: Duration = duration("30m", description="how long a settled change is remembered to tell duplicates and stale ones")
    skew: Duration = duration("5m", description="a shard further ahead of the slowest than this pauses")
    prefetch: Size = size("64MiB", least="16MiB", description="bytes read ahead, over all shards")
    poll: Duration = duration("1s", least="200ms", description="pause between reads of a shard at its tip")
    reads_per_second: Annotated[float, Field(gt=0)] = 5.0
    """GetRecords calls a second and shard, by all sinks together. AWS allows 5, shared by every reader of the stream."""
    bytes_per_second: Size = size(
        "1953KiB", least="1KiB", description="bytes read a second and shard; AWS allows 2 MB, shared by every reader"
    )


class Table(Block):
    """A table, or several by a pattern. `key`: the primary-key columns in order. `model`: `module:Class`, a row model."""

    key: Annotated[tuple[Text, ...], Field(min_length=1), AfterValidator(_distinct)] | None = None
    model: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")] | None = None


class SinkCommon(Block):
    """What every sink takes; the other keys are the sink's own options."""

    type: Text
    tables: Globs | None = None
    ops: Annotated[tuple[OpWord, ...], Field(min_length=1), AfterValidator(_distinct)] | None = None
    order: OrderWord | None = None
    hold_back: Duration | None = None
    """With order commit: how long after its commit a change may arrive and still be in order. 30s where it is not said."""
    start: StartAt | None = None
    mask: dict[Glob, dict[Text, MaskWord]] = Field(default_factory=dict)
    exclude: dict[Glob, tuple[Text, ...]] = Field(default_factory=dict)
    mask_key: Annotated[SecretStr, Field(min_length=16)] | None = None

    @model_validator(mode="after")
    def _hashes_have_a_key(self) -> Self:
        if self.mask_key is None and any("hash" in columns.values() for columns in self.mask.values()):
            raise ValueError("mask: without a secret of 16 characters or more hashes are guessed: write mask_key: '${VARIABLE}' beside it")
        return self


class SqliteState(Block):
    type: Literal["sqlite"] = "sqlite"
    path: StorePath = _store_path("state.db")


class MemoryState(Block):
    type: Literal["memory"]


class DynamodbState(Block):
    type: Literal["dynamodb"]
    table: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{3,255}$")]
    create: bool = False
    """Make the table where it is missing, with on-demand billing."""
    takeover: Duration = duration("6s", least="3s", description="how long a runner must be silent before another succeeds it")


class FileDeadLetters(Block):
    type: Literal["files"] = "files"
    path: StorePath = _store_path("dead-letters")


class S3DeadLetters(Block):
    type: Literal["s3"]
    bucket: Text
    prefix: str = "dead-letters/"


_MAX_BYTES: Any = size(
    "10GiB", least="16MiB", description="what waiting pieces may take; the oldest rows beyond it are declared incomplete"
)
_MAX_AGE: Any = duration("24h", description="a row whose pieces wait longer is declared incomplete")


class SqliteFragments(Block):
    type: Literal["sqlite"] = "sqlite"
    path: StorePath = _store_path("fragments.db")
    max_bytes: Size = _MAX_BYTES
    max_age: Duration = _MAX_AGE


class MemoryFragments(Block):
    type: Literal["memory"]
    max_bytes: Size = size("256MiB", least="16MiB", description="what waiting pieces may take, in memory")
    max_age: Duration = _MAX_AGE


class S3Fragments(Block):
    type: Literal["s3"]
    bucket: Text
    prefix: Annotated[str, StringConstraints(max_length=400)] = "fragments/"
    max_bytes: Size = _MAX_BYTES
    max_age: Duration = _MAX_AGE


class Http(Block):
    """Where /healthz, /readyz, /metrics, /status and the page are served."""

    listen: Annotated[str, AfterValidator(_listen), WithJsonSchema({"type": "string", "examples": ["127.0.0.1:8080"]})]
    token: Annotated[SecretStr, Field(min_length=16)] | None = None
    """A bearer token that all but /healthz ask for."""
    hosts: Annotated[tuple[Annotated[str, AfterValidator(_host)], ...], AfterValidator(_distinct)] = ()
    """Names, beside localhost and addresses, that the server answers to."""

    @property
    def host(self) -> str:
        return listen_address(self.listen)[0]

    @property
    def port(self) -> int:
        return listen_address(self.listen)[1]

    @property
    def secret(self) -> str:
        """The token, "" where there is none."""
        return "" if self.token is None else self.token.get_secret_value()

    @property
    def exposed(self) -> bool:
        """Others than this machine may reach it."""
        return not is_loopback(self.host)


_KMS = (
    r"^(alias/[a-zA-Z0-9/_-]{1,250}|[a-f0-9-]{36}|mrk-[a-f0-9]{32}"
    r"|arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:(key|alias)/[a-zA-Z0-9/_-]{1,250})$"
)
_TAG = re.compile(r"[\w .:/=+@-]*", re.ASCII)
RemedyWord = Literal["explain", "apply"]


def _tag(value: str) -> str:
    if not 1 <= len(value) <= 128 or not _TAG.fullmatch(value):
        raise ValueError("a tag's key is 1 to 128 letters, digits, spaces and _ . : / = + - @")
    if value.startswith(("aws:", "dsqlcdc:")):
        raise ValueError("tags that begin with aws: are AWS's, with dsqlcdc: ours")
    return value


def _tag_value(value: str) -> str:
    if len(value) > 256 or not _TAG.fullmatch(value):
        raise ValueError("a tag's value is up to 256 letters, digits, spaces and _ . : / = + - @")
    return value


def _tags(value: dict[str, str]) -> dict[str, str]:
    seen: dict[str, str] = {}
    for key in value:
        if (other := seen.setdefault(key.lower(), key)) != key:
            raise ValueError(f"{other} and {key} differ only in case, and IAM takes them for one")
    return value


def _cluster(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9]{26}", value):
        raise ValueError("a cluster's identifier is 26 lower-case letters and digits (not its ARN or its endpoint)")
    return value


def _role_name(value: str) -> str:
    if not re.fullmatch(r"[\w+=,.@-]{1,64}", value, re.ASCII):
        raise ValueError("a role's name (not its ARN or path) is 1 to 64 letters, digits and _ + = , . @ -")
    return value


def _kms_key(value: str) -> str:
    if not re.fullmatch(_KMS, value):
        raise ValueError("a KMS key is given by its id, its ARN, or alias/NAME")
    return value


def _kinesis_name(value: str) -> str:
    if not _STREAM.fullmatch(value):
        raise ValueError("a Kinesis stream's name (not its ARN) is 1 to 128 letters, digits and _ . -")
    return value


def _whole_hours(value: float) -> float:
    if value % 3600 or not 24 * 3600 <= value <= 8760 * 3600:
        raise ValueError("Kinesis keeps records for whole hours, 24h to 8760h")
    return value


def _whole_kib(value: int) -> int:
    if value % 1024 or not 1024 * 1024 <= value <= 10240 * 1024:
        raise ValueError("Kinesis takes whole KiB, 1MiB to 10MiB")
    return value


class StreamKinesis(Block):
    """The Kinesis data stream that DSQL writes to. `name`: the source's stream where it is not said. `kms_key`: None leaves encryption as
    it is, `alias/aws/kinesis` is AWS's own key."""

    name: Annotated[str, AfterValidator(_kinesis_name), WithJsonSchema({"type": "string", "pattern": f"^{_STREAM.pattern}$"})] | None = None
    mode: Literal["on_demand", "provisioned"] = "on_demand"
    shards: Annotated[int, Field(ge=1, le=10_000)] | None = None
    max_shards: Annotated[int, Field(ge=1, le=10_000)] | None = None
    retention: Annotated[Duration, AfterValidator(_whole_hours)] = duration("168h", description="whole hours, raised and never lowered")
    max_record_size: Annotated[Size, AfterValidator(_whole_kib)] = size(
        "10MiB", description="raised and never lowered; below 10MiB a large row impairs the CDC stream"
    )
    kms_key: Annotated[str, AfterValidator(_kms_key), WithJsonSchema({"type": "string", "pattern": _KMS})] | None = None

    @model_validator(mode="after")
    def _shards_suit_the_mode(self) -> Self:
        if self.mode == "provisioned" and self.shards is None:
            raise ValueError("mode provisioned needs shards, how many the stream begins with")
        if self.mode == "on_demand" and (self.shards is not None or self.max_shards is not None):
            raise ValueError("an on_demand stream has as many shards as it needs: remove shards and max_shards, or write mode: provisioned")
        if self.shards is not None and self.max_shards is not None and self.max_shards < self.shards:
            raise ValueError("max_shards is less than shards")
        return self


class StreamRole(Block):
    """The role that DSQL assumes to write. `name`: `{kinesis name}-dsql` where it is not said."""

    name: (
        Annotated[str, AfterValidator(_role_name), WithJsonSchema({"type": "string", "pattern": r"^[a-zA-Z0-9_+=,.@-]{1,64}$"})] | None
    ) = None


class Remedies(Block):
    """What the daemon does about each statusReason of the CDC stream: explain it, or apply its remedy."""

    default: RemedyWord = "explain"
    KINESIS_THROUGHPUT_EXCEEDED: RemedyWord | None = None
    KINESIS_STREAM_NOT_FOUND: RemedyWord | None = None
    ROLE_ACCESS_DENIED: RemedyWord | None = None
    KINESIS_ACCESS_DENIED: RemedyWord | None = None
    KINESIS_KMS_ACCESS_DENIED: RemedyWord | None = None
    KINESIS_OVERSIZE_RECORD: RemedyWord | None = None
    CLUSTER_CMK_INACCESSIBLE: RemedyWord | None = None
    INTERNAL_ERROR: RemedyWord | None = None


Tags = Annotated[
    dict[Annotated[str, AfterValidator(_tag)], Annotated[str, AfterValidator(_tag_value)]], Field(max_length=40), AfterValidator(_tags)
]


class Stream(Block):
    """The CDC stream: what `dsqlcdc stream apply` makes, `doctor` checks and the daemon watches. `cluster`: its identifier."""

    cluster: Annotated[str, AfterValidator(_cluster), WithJsonSchema({"type": "string", "pattern": "^[a-z0-9]{26}$"})]
    kinesis: StreamKinesis = StreamKinesis()
    role: StreamRole = StreamRole()
    tags: Tags = Field(default_factory=dict)
    remedies: Remedies = Remedies()
    poll: Duration = duration("60s", least="1s", description="how often the CDC stream is looked at while it is ACTIVE")


def _sqlite(value: object) -> object:
    """A block that names no type is of the default one."""
    return _typed(value, "sqlite")


def _files(value: object) -> object:
    return _typed(value, "files")


def _typed(value: object, default: str) -> object:
    if not isinstance(value, dict):
        return value
    block = cast("dict[str, object]", value)
    return {"type": default, **block}


State = Annotated[SqliteState | DynamodbState | MemoryState, Field(discriminator="type"), BeforeValidator(_sqlite)]
DeadLetters = Annotated[FileDeadLetters | S3DeadLetters, Field(discriminator="type"), BeforeValidator(_files)]
Fragments = Annotated[SqliteFragments | MemoryFragments | S3Fragments, Field(discriminator="type"), BeforeValidator(_sqlite)]


class File(Block):
    """The whole file. Paths in it are relative to it."""

    pipeline: Name
    aws: Aws = Aws()
    source: Source
    tables: dict[Glob, Table] = Field(default_factory=dict)
    sinks: Annotated[dict[Name, SinkCommon], Field(min_length=1)]
    state: State = _block(type="sqlite")
    dead_letters: DeadLetters = _block(type="files")
    fragments: Fragments = _block(type="sqlite")
    http: Http | None = None
    stream: Stream | None = None
