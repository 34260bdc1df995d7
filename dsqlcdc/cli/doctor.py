"""`dsqlcdc doctor`: everything a first run trips over, each with its remedy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsqlcdc.cli.output import emit, emit_json, printable, say
from dsqlcdc.cli.shape import AsJson, ConfigFile, Yes, application
from dsqlcdc.errors import ConfigError

if TYPE_CHECKING:
    from dsqlcdc.config import Config
    from dsqlcdc.hosts.doctor import Report

app = application()

_PATIENCE = 120.0
"""Seconds for what --fix does, the waiting for the CDC stream to get well included."""


@app.command()
def doctor(
    config: ConfigFile,
    fix: Annotated[bool, typer.Option("--fix", help="Show what can be mended from here, ask, do it, look again.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Look at everything CONFIG depends on: credentials and clock, the CDC stream with its role and Kinesis stream, the right to read it,
    tables and keys, state, dead letters, sinks. Exits 1 where a finding is an error.

    Nothing is changed without --fix, no event is delivered and no checkpoint moves. It reads a few records, within the shards' shared limits.
    """
    import asyncio
    import logging

    from dsqlcdc.config import load

    logging.getLogger("dsqlcdc").addHandler(logging.NullHandler())  # what is worth saying is a finding
    report = asyncio.run(_round(load(Path(config)), str(config), fix=fix, yes=yes, quiet=as_json))
    if as_json:
        emit_json(report.as_json())
    else:
        render(report)
    raise typer.Exit(0 if report.ok else 1)


async def _round(config: Config, path: str, *, fix: bool, yes: bool, quiet: bool) -> Report:
    from dsqlcdc.cli.selection import asked
    from dsqlcdc.errors import Fault
    from dsqlcdc.hosts.doctor import changes_of, examine, mending
    from dsqlcdc.streams.apply import apply

    report = await examine(config)
    if not fix:
        return report
    if not any(finding.fixable for finding in report.findings):
        say("There is nothing that --fix can do.")
        return report
    if not quiet:
        render(report)
    try:
        async with mending(config, say) as (plan, work):
            say("\n".join(["These changes would be made:", *changes_of(plan, work)]))
            if not asked("Make them?", f"dsqlcdc doctor {path} --fix", yes=yes):
                say("Nothing was changed.")
                if not quiet:  # it has been shown
                    raise typer.Exit(0 if report.ok else 1)
                return report
            done = await apply(plan, work, deadline=_PATIENCE)
            if done.fault is not None:
                say(str(done.fault))
    except ConfigError:
        raise
    except Fault as fault:
        say(str(fault))
    say("Looking again.")
    return await examine(config)


def render(report: Report) -> None:
    """For people: a finding a paragraph, its remedy indented; the sum to stderr."""
    for finding in report.findings:
        head = finding.as_json()["code"]
        emit(printable(f"{finding.severity.upper():7} {head}  {finding.what}" + (f", {finding.where}" if finding.where else "")))
        for line in (finding.why, *finding.remedy.splitlines()):
            if line:
                emit(printable(f"        {line}"))
        if finding.fixable:
            emit("        --fix does it")
    counts = {severity: sum(one.severity == severity for one in report.findings) for severity in ("error", "warning", "info")}
    said = ", ".join(f"{count} {severity}{'s' if count > 1 and severity != 'info' else ''}" for severity, count in counts.items() if count)
    say(f"{said}." if said else "Nothing to complain of.")
