"""Assembly: the only module that knows every concrete class. A config becomes stores, a source a sink, and recipes."""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal

import msgspec

from dsqlcdc.aws import Aws
from dsqlcdc.config import Config
from dsqlcdc.config.models import S3Fragments as S3FragmentsBlock
from dsqlcdc.contract import Sink
from dsqlcdc.core.mask import Masked, Masks
from dsqlcdc.core.pipeline import Pipeline, Recipe
from dsqlcdc.core.ports import CheckpointStore, FragmentStore, Name, ResettableStore
from dsqlcdc.core.route import Route
from dsqlcdc.core.tables import Model, Rule, Tables
from dsqlcdc.core.telemetry import Kept, Status
from dsqlcdc.errors import ConfigError, Unavailable
from dsqlcdc.plugins import GROUP, sink_factory
from dsqlcdc.sources.budget import ReadLimits
from dsqlcdc.sources.counts import Counts
from dsqlcdc.sources.feeds import open_feeds
from dsqlcdc.sources.kinesis import KinesisSource
from dsqlcdc.stores.dynamodb_checkpoints import DynamoCheckpoints
from dsqlcdc.stores.dynamodb_items import DynamoItems
from dsqlcdc.stores.files import FileDeadLetters
from dsqlcdc.stores.fragments import MemoryFragments, SqliteFragments
from dsqlcdc.stores.memory_checkpoints import MemoryCheckpoints
from dsqlcdc.stores.s3_dead_letters import S3DeadLetters
from dsqlcdc.stores.s3_fragments import S3Fragments
from dsqlcdc.stores.s3_objects import S3Objects
from dsqlcdc.stores.spill import FileSpill
from dsqlcdc.stores.sqlite_checkpoints import SqliteCheckpoints
from dsqlcdc.streams.clients import Clients, open_clients
from dsqlcdc.streams.deeds import acting_name
from dsqlcdc.streams.desired import Desired, Target
from dsqlcdc.streams.health import Event
from dsqlcdc.streams.watch import Watch, log_event
from dsqlcdc.traces import Wrap

_ROOM = 96 * 1024 * 1024
"""Bytes in flight of one pipeline, at least: a few of the largest rows, and one batch being written while the next one fills."""


class Assembly(msgspec.Struct, frozen=True):
    """What one process runs: the pipelines, one a sink, and what they share. `watch`: of the CDC stream, where the config has one.
    `pipeline`: its name."""

    pipelines: Sequence[Pipeline]
    sources: Sequence[KinesisSource]
    checkpoints: CheckpointStore
    fragments: FragmentStore
    pipeline: str
    watch: Watch | None = None

    def statuses(self) -> Sequence[Status]:
        return [pipeline.status() for pipeline in self.pipelines]

    def reading(self) -> Counts:
        """What all pipelines together have read of the stream."""
        counts = [source.counts() for source in self.sources]
        return msgspec.structs.replace(counts[0], buffered_bytes=sum(count.buffered_bytes for count in counts))

    async def kept(self) -> Kept:
        """What the stores hold. Raises Unavailable, Misconfigured."""
        parts, size = await self.fragments.waiting()
        return Kept(self.pipeline, tuple(await self.checkpoints.gaps(self.pipeline)), parts, size, time.time())


def aws_of(config: Config) -> Aws:
    return Aws(region=config.aws.region, profile=config.aws.profile, endpoint_url=config.aws.endpoint_url)


def desired_of(config: Config) -> Desired:
    """What the `stream:` block asks for. Raises ConfigError where the config has none."""
    stream = config.stream
    if stream is None:
        what, why = (
            "the config has no block `stream`",
            "it says which cluster's changes go to which Kinesis stream: write stream: {cluster: IDENTIFIER}",
        )
        raise ConfigError(what, where=str(config.path), why=why, run="aws dsql list-clusters, for the identifier", code="E041")
    kinesis = stream.kinesis
    name = kinesis.name or config.source.stream.rpartition("/")[2]
    target = Target(
        name=name,
        arn=config.source.stream if config.source.stream.startswith("arn:") else "",
        mode=kinesis.mode,
        mode_named="mode" in kinesis.model_fields_set,
        shards=kinesis.shards,
        max_shards=kinesis.max_shards,
        retention_hours=int(kinesis.retention // 3600),
        max_record_kib=kinesis.max_record_size // 1024,
        kms_key=kinesis.kms_key,
    )
    return Desired(
        pipeline=config.pipeline,
        cluster=stream.cluster,
        target=target,
        role=stream.role.name or f"{name}-dsql"[-64:],
        role_named=stream.role.name is not None,
        tags=stream.tags,
        remedies=stream.remedies.model_dump(exclude_none=True),
        poll=stream.poll,
    )


def open_checkpoints(config: Config, *, read_only: bool = False) -> ResettableStore:
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


def state_table(config: Config) -> DynamoItems | None:
    """The DynamoDB table that holds the state; None where the state is kept elsewhere."""
    return DynamoItems(config.state.table, aws_of(config), create=True) if config.state.type == "dynamodb" else None


def open_dead_letters(config: Config) -> FileDeadLetters | S3DeadLetters:
    if config.dead_letters.type == "s3":
        return S3DeadLetters(config.dead_letters.bucket, config.dead_letters.prefix, aws_of(config), config.sha256)
    return FileDeadLetters(config.dead_letters.path, config.sha256)


def open_fragments(config: Config) -> FragmentStore:
    """Where pieces of oversized rows wait, for all sinks of the process."""
    names, fragments = tuple(config.sinks), config.fragments
    if fragments.type == "s3":
        return _fragments_in_s3(config, fragments, claims=False)
    if fragments.type == "memory":
        return MemoryFragments(names, fragments.max_bytes)
    return SqliteFragments(fragments.path, names, fragments.max_bytes)


def open_shared_fragments(config: Config) -> S3Fragments:
    """The same for processes that run one sink side by side. Raises ValueError unless they are in S3, as such a config says they are."""
    if config.fragments.type != "s3":
        raise ValueError(f"fragments of type {config.fragments.type} are not shared")
    return _fragments_in_s3(config, config.fragments, claims=True)


def _fragments_in_s3(config: Config, fragments: S3FragmentsBlock, *, claims: bool) -> S3Fragments:
    objects = S3Objects(fragments.bucket, f"{fragments.prefix}{config.pipeline}/", aws_of(config))
    return S3Fragments(objects, tuple(config.sinks), fragments.max_bytes, claims=claims, every=0.0 if claims else 60.0)


def make_sink(config: Config, name: str, group: str = GROUP, *, whole: bool = True) -> Sink:
    """The sink of a config by its name; `whole` as in its Context. Raises ValueError for options it does not take."""
    sink = config.sinks[name]
    made = sink_factory(sink.type, group)(sink.options, config.context(name, whole=whole))
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


def make_watch(
    config: Config,
    checkpoints: CheckpointStore,
    tell: Callable[[Event], None] = log_event,
    read: Callable[[], float | None] = lambda: None,
) -> Watch:
    """The watch over the CDC stream of the config; `tell` hears its events, `read` as in Watch. Raises ConfigError where the config has none."""
    desired, memory = desired_of(config), config.state.type == "memory"

    @asynccontextmanager
    async def lease() -> AsyncGenerator[CheckpointStore, None]:
        if memory:  # nobody else can know of it
            yield checkpoints
            return
        store = open_checkpoints(config)  # its own: what is held is let go by closing it
        try:
            await store.hold(acting_name(desired))
            yield store
        finally:
            await store.close()

    def clients() -> AbstractAsyncContextManager[Clients]:
        return open_clients(aws_of(config), desired, deadline=60.0, metrics=True)

    return Watch(desired, clients, checkpoints, lease, durable=not memory, tell=tell, clock=time.time, random=random.random, read=read)


def _order(word: str) -> Literal["unique", "latest", "commit"]:
    return "latest" if word == "latest" else "commit" if word == "commit" else "unique"


def _always() -> float:
    """Nobody watches the CDC stream: what is not there in time is missing."""
    return 0.0


@asynccontextmanager
async def assemble(
    config: Config, *, once: bool = False, deadline: float | None = None, wrap: Wrap | None = None
) -> AsyncGenerator[Assembly, None]:
    """Open everything a run needs and make its pipelines; leaving closes it all. `wrap`: each sink as it is to be run (see traces).

    Raises ConfigError, Misconfigured (no such stream, access denied, an unusable state), Unavailable when the stream could not be asked
    within `deadline` seconds (None: asked for ever).
    """
    checkpoints, letters, fragments = open_checkpoints(config), open_dead_letters(config), open_fragments(config)
    try:
        await letters.prepare()
        if isinstance(fragments, S3Fragments):
            with contextlib.suppress(Unavailable):  # the first piece will tell
                await fragments.prepare()
        pipelines: list[Pipeline] = []

        def source_lag() -> float | None:
            found = [seconds for one in pipelines if (seconds := one.source_lag()) is not None]
            return max(found, default=None)

        watch = make_watch(config, checkpoints, read=source_lag) if config.stream is not None else None
        tables, source = make_tables(config), config.source
        limits = ReadLimits(source.reads_per_second, source.bytes_per_second)
        async with open_feeds(
            source.stream, aws_of(config), limits=limits, poll=source.poll, prefetch=source.prefetch, deadline=deadline
        ) as feeds:
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
                if wrap is not None:
                    destination = wrap(name, destination)
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
                            order=_order(sink.order),
                            hold_back=sink.hold_back,
                            spill=FileSpill() if sink.order == "commit" else None,
                            lateness=source.lateness,
                            max_age=config.fragments.max_age,
                            room=max(_ROOM, int(destination.batching.bytes * 1.5)),
                            deadline=deadline,
                            complete_since=watch.complete_since if watch is not None else _always,
                        )
                    )
                )
            yield Assembly(pipelines, sources, checkpoints, fragments, config.pipeline, watch)
    finally:
        await fragments.close()
        await letters.close()
        await checkpoints.close()
