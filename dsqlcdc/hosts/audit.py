"""The audit of a lake: which sink's, by whom, and what the state store says of how far it reached."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import msgspec

from dsqlcdc.assemble import open_checkpoints
from dsqlcdc.config import Config
from dsqlcdc.core.ports import Gap
from dsqlcdc.errors import Stopped, Unavailable
from dsqlcdc.hosts.lake_store import lake_sink
from dsqlcdc.plugins import AUDITS, sink_factory


class Told(Protocol):
    """How far it is. See dsqlcdc_s3.audit.findings."""

    step: str
    done: int
    of: int
    bytes: int
    note: str


class Finding(Protocol):
    kind: str
    code: str
    where: str
    what: str


class Report(Protocol):
    """The verdict. See dsqlcdc_s3.audit.findings."""

    place: str
    first: int
    last: int
    since: str
    until: str
    manifests: int
    digests: int
    signed: int
    signers: Sequence[str]
    objects: int
    void: int
    rows: int
    bytes: int
    uncompressed_bytes: int
    shards: int
    read: int
    settled: Mapping[str, int]
    open: int
    left: int
    deep: bool
    skipped: int
    findings: Sequence[Finding]
    more: int
    unproved: Sequence[str]

    @property
    def verdict(self) -> str: ...

    @property
    def exit_code(self) -> int: ...

    def as_json(self) -> dict[str, Any]: ...


class Audit(Protocol):
    """What the entry points in the group `dsqlcdc.audits` make."""

    async def verify(self, asked: Mapping[str, Any], tell: Callable[[Told], None]) -> Report: ...

    async def digest(self, *, every: bool = False, due: bool = False) -> Sequence[str]: ...


def audit_of(config: Config, name: str) -> tuple[str, Audit]:
    """The sink that is meant, which may be left out where there is but one, and its audit. Raises ConfigError."""
    sink = lake_sink(config, name)
    made = sink_factory(sink.type, AUDITS)(sink.options, config.context(sink.name))
    return sink.name, cast(Audit, made)


async def anchor(config: Config, sink: str) -> dict[str, Any] | None:
    """What the state store says of a sink: its word, where every shard stands, its gaps. None where it knows nothing, or cannot be asked."""
    try:
        store = open_checkpoints(config, read_only=True)
    except Stopped:
        return None
    try:
        names = [name for name in await store.names() if (name.pipeline, name.sink) == (config.pipeline, sink)]
        gaps = [gap for gap in await store.gaps(config.pipeline) if gap.sink in ("", sink)]
        found = [(name, await store.load(name)) for name in names]
    except (Stopped, Unavailable):
        return None
    finally:
        await store.close()
    for name, checkpoint in sorted(found, key=lambda one: one[0].stream, reverse=True):
        if checkpoint is not None and checkpoint.word:
            marks = checkpoint.marks.items()
            positions = {shard: "end" if mark.position.kind == "end" else mark.position.sequence for shard, mark in marks}
            return {"word": checkpoint.word, "positions": positions, "gaps": _plain(gaps), "stream": name.stream}
    return None


def _plain(gaps: Sequence[Gap]) -> list[dict[str, Any]]:
    return [msgspec.to_builtins(gap) for gap in gaps]


def cache() -> str:
    """Where is noted how far a verification came: `dsqlcdc/audit` in XDG_CACHE_HOME, or in ~/.cache; "" for a user without a home."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(home):
        home = os.path.expanduser("~/.cache")
    return os.path.join(home, "dsqlcdc", "audit") if os.path.isabs(home) else ""


async def verify(config: Config, sink: str, asked: Mapping[str, Any], tell: Callable[[Told], None]) -> Report:
    """Verify the lake of a sink; `asked` as dsqlcdc_s3.audit.findings.Asked, without its anchor and where it keeps how far it came.

    The state is asked first: what it says of by then, the lake has. Raises ConfigError, Misconfigured, Unavailable; and Stopped where there is
    nothing to be judged, which proves nothing.
    """
    name, audit = audit_of(config, sink)
    report = await audit.verify({**asked, "anchor": await anchor(config, name), "keep": cache()}, tell)
    if not (report.findings or report.objects or report.digests or report.last >= max(1, report.first)):
        limited = asked["since"] or asked["until"]
        why = (
            "no period of the lake ends in that time"
            if limited
            else "nobody has written there, or all of it was deleted: is that the place?"
        )
        run = f"dsqlcdc audit verify {config.path}" if limited else f"dsqlcdc config show {config.path}"
        raise Stopped("there is nothing to verify", where=report.place, why=why, run=run, code="E392")
    return report
