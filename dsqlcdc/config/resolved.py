"""The config as the rest of the house sees it: validated, resolved, frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dsqlcdc.config.models import (
    Aws,
    DynamodbState,
    FileDeadLetters,
    Http,
    MaskWord,
    MemoryFragments,
    MemoryState,
    S3DeadLetters,
    S3Fragments,
    Source,
    SqliteFragments,
    SqliteState,
    Start,
    Table,
)
from dsqlcdc.contract import Context, Op

OPS: Mapping[str, Op] = {op.word: op for op in Op}


@dataclass(frozen=True, slots=True)
class SinkConfig:
    """One sink. `order` is the file's or the sink class's; `start` None means the source's. `options` may hold secrets."""

    name: str
    type: str
    tables: tuple[str, ...] | None
    ops: tuple[str, ...] | None
    order: str
    start: Start | None
    options: Mapping[str, Any] = field(repr=False)
    masks: Mapping[str, Mapping[str, MaskWord]] = field(default_factory=dict[str, Mapping[str, MaskWord]])
    """Columns by table pattern, `exclude` among them as drop."""
    mask_key: str | None = field(default=None, repr=False)

    @property
    def accepts(self) -> frozenset[Op]:
        """The ops that are routed here: all, or those named, where insert and update each include upsert."""
        if self.ops is None:
            return frozenset(Op)
        named = {OPS[word] for word in self.ops}
        return frozenset(named | {Op.UPSERT} if named & {Op.INSERT, Op.UPDATE} else named)


@dataclass(frozen=True, slots=True)
class Config:
    """One pipeline's config. `path` is the file, `directory` what its relative paths are relative to, `sha256` the hash (hex) of its bytes
    as written, that is without the values of its variables."""

    pipeline: str
    aws: Aws
    source: Source
    tables: Mapping[str, Table]
    sinks: Mapping[str, SinkConfig]
    state: SqliteState | DynamodbState | MemoryState
    dead_letters: FileDeadLetters | S3DeadLetters
    fragments: SqliteFragments | MemoryFragments | S3Fragments
    http: Http | None
    path: Path
    directory: Path
    sha256: str

    def context(self, sink: str, *, whole: bool = True) -> Context:
        """What the factory of this sink is told."""
        aws, directory = self.aws, str(self.directory)
        return Context(self.pipeline, sink, directory, region=aws.region, profile=aws.profile, endpoint_url=aws.endpoint_url, whole=whole)
