"""Compaction of an s3 sink's lake, as the command asks for it: what may be touched is asked of the stream and of the state."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from dsqlcdc.assemble import aws_of, open_checkpoints
from dsqlcdc.config import Config
from dsqlcdc.config.resolved import SinkConfig
from dsqlcdc.core.ports import Name
from dsqlcdc.errors import ConfigError
from dsqlcdc.sources.budget import ReadLimits
from dsqlcdc.sources.feeds import open_feeds

GROUP = "dsqlcdc.compactions"


async def compact(
    config: Config, sink: SinkConfig, *, older_than: float, size: int, dry: bool, tell: Callable[[Any], None], deadline: float = 60.0
) -> int:
    """Compact hours that ended `older_than` seconds ago; how many objects were made. `tell` hears of each (folder, objects, bytes, rows).

    Raises ConfigError where the sink has no compaction, and what Kinesis, the state and S3 raise.
    """
    found = list(entry_points(group=GROUP, name=sink.type))
    if not found:
        why, run = f"sinks of type {sink.type} have none", "dsqlcdc config show CONFIG"
        raise ConfigError("nothing can be compacted", where=f"sink {sink.name}", why=why, run=run, code="E397")
    work = found[0].load()(sink.options, config.context(sink.name))
    source, limits = config.source, ReadLimits(config.source.reads_per_second, config.source.bytes_per_second)
    async with open_feeds(
        source.stream, aws_of(config), limits=limits, poll=source.poll, prefetch=source.prefetch, deadline=deadline
    ) as feeds:
        retention, stream, now = feeds.description.retention, feeds.stream, feeds.now()
    checkpoints = open_checkpoints(config, read_only=True)
    try:
        checkpoint = await checkpoints.load(Name(config.pipeline, sink.name, stream))
    finally:
        await checkpoints.close()
    made: int = await work.run(
        None if checkpoint is None else checkpoint.word,
        hour_before=now - older_than,
        arrived_before=now - retention,
        size=size,
        dry=dry,
        clock=time.time,
        tell=tell,
    )
    return made
