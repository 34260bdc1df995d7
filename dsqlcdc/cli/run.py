"""`dsqlcdc run`: the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dsqlcdc.cli.output import counted, emit_json, json_text, say
from dsqlcdc.cli.shape import AsJson, ConfigFile, application

if TYPE_CHECKING:
    from dsqlcdc.config import Config
    from dsqlcdc.hosts.daemon import Result, Watcher

app = application()

_KEPT_NEAR, _KEPT_FAR = 5.0, 60.0
"""Seconds between two questions of the page to the stores: on this machine, and where each costs a request."""


@app.command()
def run(
    config: ConfigFile,
    once: Annotated[bool, typer.Option("--once", help="Read every shard to the tip, deliver, commit, end.")] = False,
    deadline: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long anything may be unreachable [default: 5m with --once, else for ever].")
    ] = None,
    log: Annotated[Literal["text", "json"], typer.Option(help="The form of the log on stderr.")] = "text",
    log_level: Annotated[Literal["debug", "info", "warning", "error"], typer.Option(help="What is logged.")] = "info",
    plain: Annotated[bool, typer.Option("--plain", help="Log lines in place of the live table on a terminal.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read the stream and deliver to every sink of CONFIG.

    Runs until SIGTERM or SIGINT: then reading stops, what is in flight is delivered within 30 s, and the checkpoint is committed. What was
    not delivered is read again by the next run. Exit codes, the first that holds: 2 bad config; 1 a sink or the source stopped, or was not
    reached within --deadline; 3 an unacknowledged gap; 4 dead letters were written by this --once; 0.
    """
    import asyncio
    import logging

    from dsqlcdc import __version__
    from dsqlcdc.config import load, show
    from dsqlcdc.config.show import secrets_of
    from dsqlcdc.hosts import daemon, logs, process
    from dsqlcdc.traces import tracing

    patience = _seconds(deadline, 300.0 if once else None)
    loaded = load(config)
    logs.setup(
        log,
        log_level,
        secrets=[*(secret for sink in loaded.sinks.values() for secret in secrets_of(sink.options)), *filter(None, [http_token(loaded)])],
        config=str(config),
    )
    logging.getLogger("dsqlcdc.run").info("dsqlcdc %s runs %s: %s", __version__, config, json_text(show(loaded)))
    watchers = watchers_of(loaded, once, plain or log == "json" or as_json)
    process.settle_in()
    try:
        with tracing(loaded.pipeline) as wrap:
            result = asyncio.run(daemon.run(loaded, once=once, deadline=patience, watchers=watchers, wrap=wrap))
    except asyncio.CancelledError:
        raise typer.Exit(130) from None
    _tell(result, str(config), as_json)
    raise typer.Exit(result.exit_code)


def http_token(config: Config) -> str:
    """The token of the http server, "" where there is none."""
    return config.http.secret if config.http is not None else ""


def _seconds(text: str | None, default: float | None) -> float | None:
    from dsqlcdc.units import parse_duration

    try:
        return default if text is None else parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--deadline") from None


def watchers_of(config: Config, once: bool, plain: bool) -> list[Watcher]:
    """The http server where the config has one, and the display."""
    from contextlib import AbstractAsyncContextManager
    from typing import Any

    from dsqlcdc.assemble import Assembly
    from dsqlcdc.hosts import display

    def shown(assembly: Assembly) -> AbstractAsyncContextManager[Any]:
        return display.display(assembly.statuses, live=False if plain else None, every=5.0 if once else 60.0, config=str(config.path))

    def served(assembly: Assembly) -> AbstractAsyncContextManager[Any]:
        from dsqlcdc.hosts import http  # a web server costs half a second to import: only where one is wanted

        assert config.http is not None
        watch = assembly.watch.view if assembly.watch is not None else None
        return http.serve(
            config.http.listen,
            assembly.statuses,
            source=assembly.reading,
            watch=watch,
            kept=assembly.kept,
            kept_every=_KEPT_NEAR if config.state.type != "dynamodb" and config.fragments.type != "s3" else _KEPT_FAR,
            names=config.http.hosts,
            token=config.http.secret,
            config=str(config.path),
        )

    return [served, shown] if config.http is not None else [shown]


def _tell(result: Result, config: str, as_json: bool) -> None:
    if as_json:
        emit_json(result.summary())
        return
    for status in result.statuses:
        settled = ", ".join(f"{count} {outcome}" for outcome, count in status.settled.items() if count) or "nothing settled"
        say(f"{status.sink}: read {status.read} = {settled} + {status.open} open")
    for sink, fault in result.faults.items():
        say(f"{sink}: {fault}")
    if result.gaps:
        say(f"{counted(result.gaps, 'unacknowledged gap')}: changes may have been lost. Run: dsqlcdc gaps {config}")
    if any(status.settled["dead"] or status.letters for status in result.statuses):
        say(f"dead letters were written. Run: dsqlcdc dead list {config}")
