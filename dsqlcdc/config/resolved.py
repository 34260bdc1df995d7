"""The config as the rest of the house sees it: validated, resolved, frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
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
    Stream,
    Table,
)
from dsqlcdc.contract import Context, Op

HOLD_BACK = 30.0
"""Seconds; the default of a sink's `hold_back`."""
OPS: Mapping[str, Op] = {op.word: op for op in Op}


@dataclass(frozen=True, slots=True)
class SinkConfig:
    """One sink. `order` is the file's or the sink class's; `start` None means the source's; `hold_back` in seconds. `options`
    may hold secrets."""

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
    hold_back: float = HOLD_BACK

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
    stream: Stream | None
    path: Path
    directory: Path
    sha256: str
    remarks: tuple[str, ...] = ()
    """Warnings, in words: it runs all the same."""

    def context(self, sink: str, *, whole: bool = True) -> Context:
        """What the factory of this sink is told."""
        aws = self.aws
        return Context(
            self.pipeline,
            sink,
            str(self.directory),
            region=aws.region,
            profile=aws.profile,
            endpoint_url=aws.endpoint_url,
            whole=whole,
            order=self.sinks[sink].order,
            columns=partial(self._columns, self.sinks[sink].masks),
        )

    def _columns(self, masks: Mapping[str, Mapping[str, MaskWord]], table: str) -> Mapping[str, str] | None:
        """The column types of a table's row model, as a sink with these masks sees them. Raises ConfigError for a model that is unfit."""
        model = next((rule.model for pattern, rule in self.tables.items() if fnmatchcase(table, pattern)), None)
        if model is None:
            return None
        from dsqlcdc.columns.check import load_model, types_of

        types = types_of(load_model(model, str(self.directory)))
        for pattern, columns in masks.items():
            if fnmatchcase(table, pattern):
                for column, how in columns.items():
                    if how == "drop":
                        types.pop(column, None)
                    elif column in types:
                        types[column] = "text"
        return types
