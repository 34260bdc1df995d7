"""Assembly: the only module that knows every concrete class. A config becomes stores, a source a sink, and recipes."""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from dsqlcdc.aws import Aws
from dsqlcdc.config import Config
from dsqlcdc.contract import Sink
from dsqlcdc.core.mask import Masked, Masks
from dsqlcdc.core.pipeline import Pipeline, Recipe
from dsqlcdc.core.ports import CheckpointStore, FragmentStore, Name
from dsqlcdc.core.route import Route
from dsqlcdc.core.tables import Model, Rule, Tables
from dsqlcdc.core.telemetry import Status
from dsqlcdc.errors import Unavailable
from dsqlcdc.plugins import GROUP, sink_factory
from dsqlcdc.sources.budget import ReadLimits
from dsqlcdc.sources.counts import Counts
from dsqlcdc.sources.feeds import open_feeds
from dsqlcdc.sources.kinesis import KinesisSource
from dsqlcdc.stores.dynamodb_checkpoints import DynamoCheckpoints
from dsqlcdc.stores.files import FileDeadLetters
from dsqlcdc.stores.fragments import MemoryFragments, SqliteFragments
from dsqlcdc.stores.memory_checkpoints import MemoryCheckpoints
from dsqlcdc.stores.s3_dead_letters import S3DeadLetters
from dsqlcdc.stores.s3_fragments import S3Fragments
from dsqlcdc.stores.s3_objects import S3Objects
from dsqlcdc.stores.sqlite_checkpoints import SqliteCheckpoints

_ROOM = 96 * 1024 * 1024
"""Bytes in flight of one pipeline, at least: a few of the largest rows, and one batch being written while the next one fills."""


class Assembly(msgspec.Struct, frozen=True):
    """What one process runs: the pipelines, one a sink, and what they share."""

    pipelines: Sequence[Pipeline]
    sources: Sequence[KinesisSource]
    checkpoints: CheckpointStore

    def statuses(self) -> Sequence[Status]:
        return [pipeline.status() for pipeline in self.pipelines]

    def reading(self) -> Counts:
        """What all pipelines together have read of the stream."""
        counts = [source.counts() for source in self.sources]
        return msgspec.structs.replace(counts[0], buffered_bytes=sum(count.buffered_bytes for count in counts))


def aws_of(config: Config) -> Aws:
    return Aws(region=config.aws.region, profile=config.aws.profile, endpoint_url=config.aws.endpoint_url)


def open_checkpoints(config: Config, *, read_only: bool = False) -> CheckpointStore:
    """The checkpoint store of a config. `read_only` makes no file: a state that is not there yet reads as empty."""
    if config.state.type == "memory":
        return MemoryCheckpoints()
    if config.state.type == "dynamodb":
        takeover = config.state.takeover
        beat = min(1.0, takeover / 6)
        return DynamoCheckpoints(
            config.state.table,
            aws_of(config),
            create=config.state.create,
            read_only=read_only,
            beat=beat,
            looks=math.ceil(takeover / beat),
        )
    return SqliteCheckpoints(config.state.path, read_only=read_only)


def open_dead_letters(config: Config) -> FileDeadLetters | S3DeadLetters:
    if config.dead_letters.type == "s3":
        return S3DeadLetters(config.dead_letters.bucket, config.dead_letters.prefix, aws_of(config), config.sha256)
    return FileDeadLetters(config.dead_letters.path, config.sha256)


def open_fragments(config: Config) -> FragmentStore:
    """Where pieces of oversized rows wait, for all sinks of the process."""
    names, fragments = tuple(config.sinks), config.fragments
    if fragments.type == "s3":
        return S3Fragments(S3Objects(fragments.bucket, f"{fragments.prefix}{config.pipeline}/", aws_of(config)), names, fragments.max_bytes)
    if fragments.type == "memory":
        return MemoryFragments(names, fragments.max_bytes)
    return SqliteFragments(fragments.path, names, fragments.max_bytes)


def make_sink(config: Config, name: str, group: str = GROUP) -> Sink:
    """The sink of a config by its name. Raises ValueError for options it does not take."""
    sink = config.sinks[name]
    made = sink_factory(sink.type, group)(sink.options, config.context(name))
    if not sink.masks:
        return made
    return Masked(made, Masks(sink.masks, (sink.mask_key or "").encode(), f"sink {name}"))


def make_tables(config: Config) -> Tables:
    return Tables({glob: Rule(key=table.key, model=_model(table.model)) for glob, table in config.tables.items()})


def _model(path: str | None) -> Model | None:
    if path is None:
        return None
    from dsqlcdc.columns import decode, load_model, row_json

    model = load_model(path)

    def read(image: msgspec.Raw) -> tuple[Any, bytes]:
        row = decode(model, image)
        return row, row_json(row)

    return read


@asynccontextmanager
async def assemble(config: Config, *, once: bool = False, deadline: float | None = None) -> AsyncGenerator[Assembly, None]:
    """Open everything a run needs and make its pipelines; leaving closes it all.

    Raises ConfigError, Misconfigured (no such stream, access denied, an unusable state), Unavailable when the stream could not be asked
    within `deadline` seconds (None: asked for ever).
    """
    checkpoints, letters, fragments = open_checkpoints(config), open_dead_letters(config), open_fragments(config)
    try:
        await letters.prepare()
        if isinstance(fragments, S3Fragments):
            with contextlib.suppress(Unavailable):  # the first piece will tell
                await fragments.prepare()
        tables, source = make_tables(config), config.source
        limits = ReadLimits(source.reads_per_second, source.bytes_per_second)
        async with open_feeds(
            source.stream, aws_of(config), limits=limits, poll=source.poll, prefetch=source.prefetch, deadline=deadline
        ) as feeds:
            pipelines: list[Pipeline] = []
            sources: list[KinesisSource] = []
            for name, sink in config.sinks.items():
                reader = KinesisSource(
                    feeds,
                    pipeline=config.pipeline,
                    sink=name,
                    start=sink.start if sink.start is not None else source.start,
                    on_trimmed=source.on_trimmed,
                    on_gap=checkpoints.record_gap,
                    skew=source.skew,
                    once=once,
                    deadline=deadline,
                )
                sources.append(reader)
                destination = make_sink(config, name)
                pipelines.append(
                    Pipeline(
                        Recipe(
                            name=Name(config.pipeline, name, feeds.stream),
                            source=reader,
                            sink=destination,
                            tables=tables,
                            checkpoints=checkpoints,
                            dead_letters=letters,
                            fragments=fragments,
                            clock=time.time,
                            random=random.random,
                            route=Route(sink.tables or (), sink.ops or ()),
                            order="latest" if sink.order == "latest" else "unique",
                            lateness=source.lateness,
                            max_age=config.fragments.max_age,
                            room=max(_ROOM, int(destination.batching.bytes * 1.5)),
                            deadline=deadline,
                        )
                    )
                )
            yield Assembly(pipelines, sources, checkpoints)
    finally:
        await fragments.close()
        await letters.close()
        await checkpoints.close()
