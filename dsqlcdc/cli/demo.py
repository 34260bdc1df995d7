"""`dsqlcdc demo`: the whole road on this machine, without AWS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsqlcdc.cli.output import emit, emit_json, say
from dsqlcdc.cli.shape import AsJson, application

if TYPE_CHECKING:
    from dsqlcdc.hosts.demo import Report

app = application()


@app.command()
def demo(
    directory: Annotated[Path | None, typer.Option("--dir", help="Where config, state and a copy of the lake are left.")] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Go on until Ctrl-C, the page open.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port of the page; 0 takes a free one.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write real-shaped DSQL changes through a CDC stream into Kinesis, deliver them to S3 and a webhook, and compare with the database.

    Everything runs on this machine: no account, no network. The records come with duplicates, disorder, deletes, resharding and one row of
    12 MiB. Exit 0 when the lake holds every committed change exactly once, value for value, and the webhook was sent each; 1 when not.
    """
    import asyncio

    from dsqlcdc.cli.run import watchers_of
    from dsqlcdc.hosts import demo as demonstration
    from dsqlcdc.hosts import logs

    logs.setup("text", "warning")
    try:
        report = asyncio.run(
            demonstration.demo(directory=directory, port=port, say=say, stay=stay, watch=lambda config: watchers_of(config, False, as_json))
        )
    except asyncio.CancelledError:
        raise typer.Exit(130) from None
    if as_json:
        import msgspec

        emit_json({**msgspec.to_builtins(report), "holds": report.holds})
    else:
        _show(report)
    raise typer.Exit(0 if report.holds else 1)


def _show(report: Report) -> None:
    for run in report.runs:
        for sink, counts in run["sinks"].items():
            settled = " + ".join(f"{count} {outcome}" for outcome, count in counts["settled"].items() if count) or "0"
            emit(f"{sink}: read {counts['read']} = {settled} + {counts['open']} open")
    found = report.comparison
    emit(f"the database committed {found.committed} changes; the lake holds {found.rows} rows")
    verdict = "every change exactly once, value for value" if found.holds else "NOT as it should be"
    emit(f"  missing {found.missing}, repeated {found.repeated}, different {found.different}, unknown {found.unknown}: {verdict}")
    if found.keyless_repeats:
        emit(f"  {found.keyless_repeats} repeats in the table without a key, which is at least once by nature")
    hook = report.webhook
    emit(f"webhook: {report.deliveries} signed deliveries of {hook.rows} changes; missing {hook.missing}, different {hook.different}")
    audit = report.audit
    shards = f"{audit['shards']} shards read without a gap" if audit["verdict"] == "whole" else "look at dsqlcdc audit verify"
    emit(
        f"audit verify: {audit['verdict']}; {audit['manifests']} manifests, {audit['digests']} digests, {audit['rows']} rows judged, {shards}"
    )
    for what, names in found.examples.items():
        for name in names:
            emit(f"  {what}: {name}")
    emit(
        f"look at: {report.directory}/lake/cdc/data (gzip JSON Lines), {report.directory}/lake/cdc/manifests, {report.directory}/dsqlcdc.yaml"
    )
    program = _program()
    emit(f"next, a config of your own: {program} init orders.yaml, then {program} config lint orders.yaml")


def _program() -> str:
    """How this program is called from here: by its name where the shell finds it, else by its path."""
    import os
    import shlex
    import shutil
    import sys

    beside = os.path.join(os.path.dirname(sys.executable), "dsqlcdc")
    return (
        "dsqlcdc"
        if shutil.which("dsqlcdc") or not os.path.exists(beside)
        else shlex.quote(beside if os.path.relpath(beside).startswith("..") else os.path.relpath(beside))
    )
