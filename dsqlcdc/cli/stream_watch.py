"""`dsqlcdc stream watch`: the CDC stream's health as it goes, and its remedies where the config says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsqlcdc.cli.output import emit_json, moment, say
from dsqlcdc.cli.shape import AsJson, ConfigFile
from dsqlcdc.errors import Fault

if TYPE_CHECKING:
    from dsqlcdc.config import Config
    from dsqlcdc.streams.health import Event
    from dsqlcdc.streams.watch import View, Watch


def watch(
    config: ConfigFile,
    once: Annotated[bool, typer.Option("--once", help="Look once, do what the remedy says where CONFIG says so, end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at the CDC stream again and again and tell what changes, until interrupted (SIGINT, SIGTERM).

    Every `stream.poll`, faster while it is not ACTIVE. With `stream.remedies` set to apply, what is broken is mended as by a running
    daemon; several may watch, one acts. Exit codes, the first that holds: 1 the CDC stream is not ACTIVE, or was not reached; 3 it was
    replaced and the gap is not acknowledged; 0.
    """
    import asyncio

    from dsqlcdc.config import load

    view = asyncio.run(_watch(load(config), once, as_json))
    if view.health.fault or view.health.status != "ACTIVE":
        raise typer.Exit(1)
    raise typer.Exit(3 if view.gaps else 0)


async def _watch(config: Config, once: bool, as_json: bool) -> View:
    from dsqlcdc.assemble import make_watch, open_checkpoints

    for remark in config.remarks:
        say(f"warning: {remark}")
    store = open_checkpoints(config)
    told = _Telling(as_json, str(config.path))
    watching = make_watch(config, store, told)
    told.watch = watching
    try:
        await (watching.once() if once else _until_signalled(watching))
    finally:
        await store.close()
    return watching.view()


async def _until_signalled(watching: Watch) -> None:
    import asyncio
    import signal

    from dsqlcdc.core.patience import until

    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        await until(watching.run(), stop)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


class _Telling:
    """Events as they come: lines of talk, or one object a line."""

    def __init__(self, as_json: bool, path: str) -> None:
        self._as_json, self._path = as_json, path
        self.watch: Watch | None = None

    def __call__(self, event: Event) -> None:
        if self._as_json:
            emit_json(plain(event))
            return
        for line in (f"{moment(event.at)} {event.level:7} {event.kind}: {event.what}", *(f"    {line}" for line in self._more(event))):
            say(Fault.name_config(line, self._path))

    def _more(self, event: Event) -> Sequence[str]:
        """The remedy whole, and of an action on a policy what it changes."""
        from dsqlcdc.streams.remedies import diff, text

        found = self.watch.view().remedy if self.watch is not None else None
        if event.kind == "remedy" and found is not None:
            return text(found, event.at)
        if event.kind == "acting" and isinstance(event.after, dict):
            return diff(event.before, event.after)
        return ()


def plain(event: Event) -> dict[str, Any]:
    """An event as JSON."""
    return {
        "event": event.kind,
        "at": moment(event.at),
        "level": event.level,
        "id": event.stream or None,
        "what": event.what,
        "before": event.before if event.before != "" else None,
        "after": event.after if event.after != "" else None,
    }
