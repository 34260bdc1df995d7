"""Where the consumer keeps things: checkpoints and gaps, dead letters, waiting pieces."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dsqlcdc.core.ports import CheckpointStore, DeadLetterStore, FragmentStore
from dsqlcdc.doctor.finding import Finding, found, of_fault
from dsqlcdc.errors import Fault
from dsqlcdc.sources.service import Description

_LETTERS = 200
"""Letters that are read at the most: each may be an object of its own."""
_FULL = 0.8


async def check_checkpoints(store: CheckpointStore, pipeline: str, sinks: Sequence[str], stream: Description | None) -> list[Finding]:
    """Can the state be read; is a checkpoint about to be overtaken by the stream's retention; are gaps not dealt with?"""
    findings: list[Finding] = []
    try:
        for name in await store.names():
            if name.pipeline == pipeline and name.sink in sinks and stream is not None and name.stream.startswith(f"{stream.name}@"):
                checkpoint = await store.load(name)
                marks = checkpoint.marks.values() if checkpoint is not None else ()
                owed = [mark.arrived for mark in marks if mark.arrived and mark.position.kind != "end"]
                if owed:
                    findings += check_age(name.sink, stream.now - min(owed), stream.retention)
        gaps = [gap for gap in await store.gaps(pipeline) if not gap.acked]
    except Fault as fault:
        return [*findings, of_fault(fault)]
    if gaps:
        why = f"{len(gaps)}, the first is {gaps[0].id} ({gaps[0].kind}): {gaps[0].detail or 'changes may be lost'}"
        remedy = f"Repair what they lack, then run: dsqlcdc gaps ack {gaps[0].id} CONFIG --reason '…'"
        findings.append(found("E184", "there are gaps that nobody has acknowledged", where=f"pipeline {pipeline}", why=why, remedy=remedy))
    return findings


def check_age(sink: str, age: float, retention: float) -> list[Finding]:
    """`age`: seconds since the arrival of the oldest record that may be owed."""
    if age < retention / 2:
        return []
    left = max(0.0, retention - age) / 3600
    why = f"it is {age / 3600:.1f} h old, and Kinesis keeps records for {retention / 3600:g} h: {left:.1f} h are left"
    remedy = "See that it runs: dsqlcdc status CONFIG. To win time: aws kinesis increase-stream-retention-period"
    what = "a checkpoint nears the stream's retention"
    return [found("E183", what, where=f"sink {sink}", why=why, remedy=remedy, severity="error" if age >= 0.9 * retention else "warning")]


async def check_letters(store: DeadLetterStore, pipeline: str) -> list[Finding]:
    reasons: Counter[str] = Counter()
    looked = 0
    try:
        async for _, letter in store.letters():
            looked += 1
            if letter.pipeline == pipeline:
                reasons[letter.code] += 1
            if looked >= _LETTERS:
                break
    except Fault as fault:
        return [of_fault(fault)]
    count = reasons.total()
    if not count:
        return []
    said = ", ".join(f"{number} {code}" for code, number in reasons.most_common())
    why = f"{count}{' or more' if looked >= _LETTERS else ''}: {said}"
    remedy = "Run: dsqlcdc dead list CONFIG; mend the cause, then run: dsqlcdc dead replay CONFIG"
    return [found("E185", "there are dead letters", where=f"pipeline {pipeline}", why=why, remedy=remedy)]


async def check_fragments(store: FragmentStore, room: int) -> list[Finding]:
    """`room`: bytes that waiting pieces may take."""
    try:
        parts, held = await store.waiting()
    except Fault as fault:
        return [of_fault(fault)]
    if held < _FULL * room:
        return []
    why = f"{parts} pieces take {held} of {room} bytes; beyond that the oldest rows are declared incomplete and become dead letters"
    remedy = "Raise fragments.max_bytes; see whether the CDC stream is IMPAIRED, which holds back the pieces they wait for"
    return [found("E187", "waiting pieces fill most of their room", where="fragments", why=why, remedy=remedy)]


def check_writable(block: str, path: Path, *, directory: bool = False) -> list[Finding]:
    """May a file (or directory) be made or written there? Asked of the file system; nothing is made."""
    there = path if path.exists() else next(parent for parent in path.absolute().parents if parent.exists())
    if directory and there == path and not path.is_dir():
        why = "it is not a directory"
    elif there != path and not there.is_dir():
        why = f"{there} is not a directory"
    elif not os.access(there, os.W_OK | (os.X_OK if there.is_dir() else 0)):
        why = f"{there} cannot be written by this user"
    else:
        return []
    remedy = f"Run: ls -ld {there}; or write another {block}.path"
    return [found("E186", f"{block} cannot be written", where=str(path), why=why, remedy=remedy)]
