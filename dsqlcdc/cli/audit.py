"""`dsqlcdc audit`: the lake as evidence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsqlcdc.cli.lake import register
from dsqlcdc.cli.output import counted, emit, emit_json, every_few_seconds, printable, say
from dsqlcdc.cli.shape import AsJson, ConfigFile, group

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from dsqlcdc.hosts.audit import Report, Told

app = group("The lake of an s3 sink, as evidence: whole or not, what was committed, the history of a row.")

Sink = Annotated[str, typer.Option(help="Of which s3 sink; may be left out where there is but one.", show_default=False)]
_SHOWN = 200
"""Findings that are printed; --json has them all."""


@app.command(short_help="Prove that the lake is whole and unaltered.")
def verify(
    config: ConfigFile,
    sink: Sink = "",
    since: Annotated[
        str, typer.Option("--from", metavar="TIME", help="From the digest before: an ISO time, or 24h.", show_default=False)
    ] = "",
    until: Annotated[str, typer.Option("--to", metavar="TIME", help="To the digest behind: an ISO time, or 1h.", show_default=False)] = "",
    deep: Annotated[bool, typer.Option("--deep", help="Every row too: its id, its order, its place.")] = False,
    public_key: Annotated[
        list[Path],
        typer.Option("--public-key", metavar="FILE", help="Only this key's signatures count; may be given again.", show_default=False),
    ] = [],  # noqa: B006 (typer takes a list for an option that may come again, and hands out a new one)
    resume: Annotated[
        str, typer.Option(metavar="FILE", help="Note here how far it came, in place of the user's cache.", show_default=False)
    ] = "",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Judge every byte again, whatever an earlier run that was stopped has noted.")
    ] = False,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Objects that are read at a time.")] = 4,
    as_json: AsJson = False,
) -> None:
    """Judge every byte of the lake: signatures, the chain of digests and their Merkle roots, the chain of manifests, every object's hashes
    and rows, every shard's read ranges and whether what was read adds up, lineage, gaps, retention.

    Exits 0 where it is whole, 1 where something was altered or is missing, 3 where it is whole but for declared gaps. It says what it cannot
    prove. When it was stopped, the same command goes on: what was found to be whole and is as it was is not read again (--fresh: it is).
    """
    from dsqlcdc.cli.selection import span_of
    from dsqlcdc.config import load
    from dsqlcdc.errors import ConfigError
    from dsqlcdc.hosts.audit import verify as work

    start, end = span_of(since, until, "audit verify")
    if resume and (not (folder := Path(resume).absolute().parent).is_dir() or Path(resume).is_dir()):
        why = f"{folder} is no folder" if not folder.is_dir() else "it is a folder"
        raise ConfigError("no note can be kept there", where=f"--resume {resume}", why=why, run="dsqlcdc audit verify --help", code="E090")
    asked = {
        "since": start or 0.0,
        "until": end or 0.0,
        "deep": deep,
        "public_keys": [str(path) for path in public_key],
        "resume": resume,
        "fresh": fresh,
        "parallel": parallel,
    }
    report = _until_told(work(load(Path(config)), sink, asked, _progress()))
    if as_json:
        emit_json(report.as_json())
    else:
        render(report)
    raise typer.Exit(report.exit_code)


@app.command(short_help="Write the digests that are missing.")
def digest(
    config: ConfigFile,
    sink: Sink = "",
    every: Annotated[bool, typer.Option("--all", help="Look at all manifests of Lambda, also at those more than nine days late.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the digests that are missing: those whose writer was killed, and those of batches that were written in Lambda.

    A lake that the daemon writes has its digests from the daemon: only what it left unfinished is written here. To be run on a schedule where
    Lambda writes, once for each period; twice does no harm.
    """
    import asyncio

    from dsqlcdc.config import load
    from dsqlcdc.hosts.audit import audit_of

    _, audit = audit_of(load(Path(config)), sink)
    written = asyncio.run(audit.digest(every=every))
    if as_json:
        emit_json({"digests": list(written)})
        return
    for key in written:
        emit(key)
    if not written:
        say("No digest is missing.")


def _until_told(work: Coroutine[Any, Any, Report]) -> Report:
    """What the work says; SIGTERM ends it as SIGINT does, so that what was judged by then is noted. Raises Exit(143) then."""
    import asyncio
    import signal

    async def main() -> Report:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        say("Stopped: the same command goes on from here.")
        raise typer.Exit(128 + signal.SIGTERM) from None


def _progress() -> Callable[[Told], None]:
    """Says how far it is, at most every few seconds, and what is to be said once."""
    import time

    began = time.monotonic()

    def line(told: Told) -> str:
        of = f" of {told.of}" if told.of else ""
        return f"{told.step}: {told.done}{of}, {told.bytes / 1e6:.0f} MB, {time.monotonic() - began:.0f} s"

    often = every_few_seconds(line)

    def tell(told: Told) -> None:
        if told.note:
            say(told.note)
        often(told)

    return tell


def render(report: Report) -> None:
    """The verdict for people: findings first, what cannot be proved last."""
    for finding in report.findings[:_SHOWN]:
        emit(f"{finding.kind:8}{finding.code:12}{printable(finding.where)}: {printable(finding.what)}")
    rest = len(report.findings) - _SHOWN + report.more
    if rest > 0:
        emit(f"… and {counted(rest, 'finding')} more (--json)")
    signed = f"{report.signed} of {counted(report.digests, 'digest')} signed"
    if report.signers:
        signed += f" by {', '.join(signer[:16] for signer in report.signers)}"
    emit(f"{report.place}: {report.verdict}")
    emit(f"  manifests {report.first} to {report.last}, {report.since or '-'} to {report.until or '-'}; {signed}")
    before = f"; {counted(report.skipped, 'object')} judged before it was stopped" if report.skipped else ""
    objects = f"{counted(report.objects, 'object')} with {counted(report.rows, 'row')}, {report.bytes / 1e6:.1f} MB"
    emit(f"  {objects}{', every row judged' if report.deep else ''}; {report.void} void{before}")
    outcomes = " + ".join(f"{count} {outcome}" for outcome, count in report.settled.items()) or "0"
    left = f" + {report.left} left open by a run that ended, and read again" if report.left else ""
    emit(f"  {counted(report.shards, 'shard')}: read {report.read} = {outcomes} + {report.open} open{left}")
    for sentence in report.unproved:
        emit(f"  not proved: {sentence}")


register(app)
