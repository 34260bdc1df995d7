"""The doctor's round: every check of a config, one after the other; what cannot be asked is a finding and keeps none from the others."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from dsqlcdc import assemble
from dsqlcdc.config import Config
from dsqlcdc.config.show import secrets_of
from dsqlcdc.contract import Sink
from dsqlcdc.doctor import keeping, tables
from dsqlcdc.doctor.account import Account, look
from dsqlcdc.doctor.causes import one_per_cause
from dsqlcdc.doctor.finding import Finding, found, of_fault
from dsqlcdc.doctor.fixes import steps_of, with_fixes, without_loss
from dsqlcdc.doctor.place import check_place
from dsqlcdc.doctor.reading import Reading, check_budget, read_a_little, throttled_lately
from dsqlcdc.doctor.role import check_role
from dsqlcdc.doctor.stream import check_cdc_stream, check_cluster, check_retention, check_target
from dsqlcdc.errors import Fault, Unavailable
from dsqlcdc.sources.kinesis_client import connect
from dsqlcdc.sources.service import Description
from dsqlcdc.streams.clients import open_clients
from dsqlcdc.streams.observe import observe
from dsqlcdc.streams.plan import Plan, plan
from dsqlcdc.streams.remedies import diff
from dsqlcdc.streams.wanted import policy_name, wanted_policy, wanted_trust
from dsqlcdc.streams.work import Work

PATIENCE = 15.0
"""Seconds for one thing that does not answer."""
_UNSEEN = ("E173", "E191")
"""Obstacles of a plan that are no findings yet: a cluster without room, what was made for another one."""
_MISSING = "E103"
"""What is asked for does not exist: of the reader, the Kinesis stream."""
_ORDER = {"error": 0, "warning": 1, "info": 2}


class Report(msgspec.Struct, frozen=True):
    """What was found, the gravest first. `account`: what was seen of the stream's side, None where it was not looked at."""

    findings: Sequence[Finding]
    account: Account | None = None

    @property
    def ok(self) -> bool:
        return not any(finding.severity == "error" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        return {"ok": self.ok, "findings": [finding.as_json() for finding in self.findings]}


async def examine(config: Config, *, clock: Callable[[], float] = time.time) -> Report:
    """Look at everything; changes nothing, delivers nothing, moves no checkpoint. `clock`: seconds since the epoch. Cancelled at any time."""
    findings = await check_place(assemble.aws_of(config), clock)
    account = await _stream_side(config, findings, clock())
    reading = await _reading(config, findings, clock)
    if account is not None and account.seen.observed.target is None and "target" not in account.seen.unknown:
        findings[:] = [one for one in findings if one not in reading.findings or one.code != _MISSING]  # that it is gone has been said
    await _keeping(config, findings, reading.description)
    await _sinks(config, findings, reading)
    hidden = [secret for sink in config.sinks.values() for secret in secrets_of(sink.options) if len(secret) > 3]
    told = [_told(finding, str(config.path), hidden) for finding in one_per_cause(list(dict.fromkeys(findings)))]
    return Report(sorted(told, key=lambda finding: _ORDER[finding.severity]), account)


async def _stream_side(config: Config, findings: list[Finding], now: float) -> Account | None:
    if config.stream is None:
        why = "so neither cluster, CDC stream, role nor the Kinesis stream's settings were checked"
        remedy = "Write stream: {cluster: …}; see dsqlcdc config schema"
        findings.append(found("E181", "the config has no block `stream`", where=str(config.path), why=why, remedy=remedy))
        return None
    desired = assemble.desired_of(config)
    try:
        async with open_clients(assemble.aws_of(config), desired, deadline=PATIENCE) as clients:
            account = await look(desired, clients)
    except Fault as fault:
        findings.append(of_fault(fault, about="the CDC stream's side could not be checked"))
        return None
    seen = account.seen
    findings += account.findings
    findings += check_cluster(desired, seen)
    findings += check_cdc_stream(desired, seen, now)
    findings += check_target(desired, seen)
    findings += check_role(desired, seen, account.boundary)
    if not seen.unknown:
        wanted = plan(desired, seen.observed)
        if wanted.obstacle is not None and wanted.obstacle.code in _UNSEEN:
            findings.append(of_fault(wanted.obstacle))
        findings[:] = with_fixes(findings, steps_of(wanted))
    return account


@asynccontextmanager
async def mending(config: Config, say: Callable[[str], None], clock: Callable[[], float] = time.time) -> AsyncGenerator[tuple[Plan, Work]]:
    """What `--fix` would do, and all that is needed to do it. Raises as open_clients and observe do."""
    desired = assemble.desired_of(config)
    async with open_clients(assemble.aws_of(config), desired, deadline=PATIENCE) as clients:
        observed = await observe(desired, clients)
        work = Work(desired=desired, observed=observed, clients=clients, say=say, clock=clock)
        yield without_loss(plan(desired, observed)), work


def changes_of(plan: Plan, work: Work) -> list[str]:
    """What is going to be changed, in lines, policies as the lines that differ."""
    lines: list[str] = []
    role = work.observed.role
    for action in plan.changes:
        lines.append(f"{action.action} {action.resource} {action.name}: {action.detail}")
        if action.step == "trust" and role is not None:
            lines += [f"    {line}" for line in diff(role.trust, wanted_trust(work.desired, work.observed))]
        elif action.step == "policy":
            before = role.inline.get(policy_name(work.desired)) if role is not None else None
            lines += [f"    {line}" for line in diff(before, wanted_policy(work.desired, work.observed))]
    return lines


async def _reading(config: Config, findings: list[Finding], clock: Callable[[], float]) -> Reading:
    aws, reading = assemble.aws_of(config), Reading()
    try:
        async with connect(config.source.stream, aws, clock=clock) as service, asyncio.timeout(4 * PATIENCE):
            reading = await read_a_little(service)
    except Fault as fault:
        reading.findings.append(of_fault(fault))
    except TimeoutError:
        reading.findings.append(_late("the stream", f"stream {config.source.stream}", 4 * PATIENCE))
    findings += reading.findings
    if reading.description is None:
        return reading
    name = reading.description.name
    if config.stream is None:
        findings += check_retention(name, reading.description.retention / 3600, None)
    lately, unasked = await throttled_lately(aws, name, reading.description.now)
    findings += [*unasked, *check_budget(name, reading.throttles, lately, config.source.reads_per_second)]
    return reading


async def _keeping(config: Config, findings: list[Finding], stream: Description | None) -> None:
    if config.state.type == "memory":
        remedy = "Write state: {type: sqlite, path: state.db}"
        findings.append(found("E188", "the state is kept in memory", where="state", why="it ends with the process", remedy=remedy))
    for block, store in (("state", config.state), ("dead_letters", config.dead_letters), ("fragments", config.fragments)):
        if (path := getattr(store, "path", None)) is not None:
            findings += await asyncio.to_thread(keeping.check_writable, block, path, directory=block == "dead_letters")
    checkpoints = assemble.open_checkpoints(config, read_only=True)
    letters, fragments, table = assemble.open_dead_letters(config), assemble.open_fragments(config), assemble.state_table(config)
    try:
        findings += await keeping.check_checkpoints(checkpoints, config.pipeline, list(config.sinks), stream)
        findings += await keeping.check_letters(letters, config.pipeline)
        findings += await keeping.check_fragments(fragments, config.fragments.max_bytes)
        if table is not None:
            findings += await _tried(table.may_write(), f"DynamoDB table {table.table}")
    finally:
        for opened in (checkpoints, letters, fragments, *([table] if table is not None else [])):
            await opened.close()


async def _sinks(config: Config, findings: list[Finding], reading: Reading) -> None:
    wants: list[tables.Wants] = []
    for name, options in config.sinks.items():
        sink = assemble.make_sink(config, name)
        ordered = options.order == "latest" or sink.needs_order or sink.needs_key
        wants.append(tables.Wants(sink=name, tables=options.tables or (), needs_key=ordered))
        findings += await _probe(name, sink)
    patterns = {pattern: table.key for pattern, table in config.tables.items()}
    sample = tables.sample_of(reading.records, assemble.make_tables(config))
    findings += tables.check_tables(sample, patterns, wants)


async def _probe(name: str, sink: Sink) -> list[Finding]:
    answers: list[bool] = []

    async def ask() -> None:
        async with sink:
            answers.append(await sink.probe())

    findings = await _tried(ask(), f"sink {name}")
    if answers == [False]:
        why = "its class does not say how (Sink.probe)"
        findings.append(found("E189", "the sink was not tried", where=f"sink {name}", why=why, remedy="Run: dsqlcdc run CONFIG --once"))
    return findings


async def _tried(work: Awaitable[None], where: str) -> list[Finding]:
    try:
        async with asyncio.timeout(2 * PATIENCE):
            await work
    except Fault as fault:
        return [of_fault(fault)]
    except ExceptionGroup as several:
        faults, others = several.split(Fault)
        if others is not None:
            raise others from None
        return [of_fault(fault) for fault in faults.exceptions if isinstance(fault, Fault)] if faults is not None else []
    except TimeoutError:
        return [_late("it", where, 2 * PATIENCE)]
    return []


def _late(what: str, where: str, seconds: float) -> Finding:
    return of_fault(Unavailable(f"{what} does not answer", where=where, why=f"no answer within {seconds:.0f} s"))


def _told(finding: Finding, path: str, hidden: Sequence[str]) -> Finding:
    """As people see it: with the config's path, without secrets."""
    said = {name: getattr(finding, name) for name in ("what", "where", "why", "remedy")}
    for name, text in said.items():
        for secret in hidden:
            text = text.replace(secret, "***")
        said[name] = text.replace("CONFIG", shlex.quote(path)) if name == "remedy" else text
    return msgspec.structs.replace(finding, **said)
