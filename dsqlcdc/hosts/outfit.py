"""What a sandbox keeps, made from its config."""

from __future__ import annotations

import random
from collections.abc import Callable

from dsqlcdc.assemble import make_sink, make_tables, open_dead_letters, open_shared_fragments
from dsqlcdc.config import Config
from dsqlcdc.core.route import Route
from dsqlcdc.hosts.invocation import Kept, Outfit, Outlet


async def open_outfit(config: Config, clock: Callable[[], float]) -> Outfit:
    """The sinks and stores of a config that `load_partial` gave; the sinks are entered by the first run. Raises Misconfigured where dead
    letters cannot be kept."""
    letters = open_dead_letters(config)
    try:
        await letters.prepare()
    except BaseException:
        await letters.close()
        raise
    outlets = {
        name: Outlet(
            Kept(make_sink(config, name, whole=False)),
            Route(sink.tables or (), sink.ops or ()),
            "latest" if sink.order == "latest" else "unique",
        )
        for name, sink in config.sinks.items()
    }
    return Outfit(
        pipeline=config.pipeline,
        outlets=outlets,
        tables=make_tables(config),
        dead_letters=letters,
        fragments=open_shared_fragments(config),
        clock=clock,
        random=random.random,
        lateness=config.source.lateness,
        max_age=config.fragments.max_age,
    )
