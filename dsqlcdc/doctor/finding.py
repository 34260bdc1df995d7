"""Findings: what the doctor may say, under which code, and how grave it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from dsqlcdc.errors import Fault, Unavailable

Severity = Literal["error", "warning", "info"]
"""error: changes are lost, held up or refused, or will be. warning: they may be, or it could not be looked at. info: good to know."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing. `code`: one of KINDS, of dsqlcdc.errors, or of a CDC stream's statusReason. `remedy` may have several lines; CONFIG in it
    stands for the config's path. `fixable`: `--fix` can do it."""

    code: str
    severity: Severity
    what: str
    where: str = ""
    why: str = ""
    remedy: str = ""
    fixable: bool = False

    def as_json(self) -> dict[str, Any]:
        body: dict[str, Any] = msgspec.to_builtins(self)
        return body | {"code": f"DSQLCDC-{self.code}" if self.code in KINDS or self.code[1:].isdigit() else self.code}


KINDS: Mapping[str, tuple[Severity, str]] = {
    "E180": ("error", "this machine's clock is wrong: AWS refuses requests signed by it (warning: from 30 s on)"),
    "E181": ("info", "the config has no block `stream`: only the consumer's side was looked at"),
    "E182": (
        "warning",
        "the stream was read and AWS said that others read too much of it: readers share 5 reads and 2 MB a second and shard",
    ),
    "E183": ("error", "a checkpoint nears the stream's retention: what it has not read will be lost (warning: from half of it on)"),
    "E184": ("warning", "a gap is not acknowledged: changes may be lost"),
    "E185": ("warning", "there are dead letters"),
    "E186": ("error", "a file or directory of the config cannot be written"),
    "E187": ("warning", "pieces of oversized rows fill most of the room they have"),
    "E188": ("info", "the state is kept in memory: after each run everything is read again, from `start` on"),
    "E189": ("info", "a sink has no way to be tried without delivering to it"),
    "E400": ("error", "there is no such cluster in this account and Region"),
    "E401": ("error", "the cluster is not ACTIVE (warning: an idle one that has its CDC stream)"),
    "E402": ("error", "no CDC stream of the cluster writes to the Kinesis stream"),
    "E403": ("error", "the CDC stream is not ACTIVE, and AWS gives no reason"),
    "E404": ("warning", "several CDC streams write to the Kinesis stream: every change comes as often"),
    "E405": ("warning", "the listing of the Kinesis stream's shards has a hole: a reshard may be under way"),
    "E406": ("error", "there is no such Kinesis stream"),
    "E407": ("error", "the Kinesis stream takes smaller records than DSQL may send: the first large row impairs the CDC stream"),
    "E408": ("warning", "the Kinesis stream's mode is not the config's"),
    "E409": ("warning", "the Kinesis stream keeps records for less time than the config says, or than an outage may last"),
    "E410": ("warning", "the Kinesis stream is not encrypted with the config's key"),
    "E411": ("error", "the KMS key of the Kinesis stream is not there or not enabled"),
    "E412": ("error", "the cluster's own KMS key is not there or not enabled"),
    "E413": ("error", "there is no such role"),
    "E414": ("error", "the trust policy keeps DSQL from assuming the role"),
    "E415": ("error", "the trust policy names the cluster, where it must name the cluster's streams"),
    "E416": ("warning", "the trust policy has conditions of which cannot be told whether DSQL meets them"),
    "E417": ("warning", "streams of other accounts could have DSQL use the role (confused deputy)"),
    "E418": ("info", "streams of other clusters of the account may use the role"),
    "E419": ("error", "the role may not write to the Kinesis stream"),
    "E420": (
        "error",
        "the role may not use the KMS key of the Kinesis stream (warning: the CDC stream is ACTIVE, so the key's own policy lets it)",
    ),
    "E421": ("warning", "it cannot be told whether the role may write: conditions, or a permissions boundary"),
    "E422": ("warning", "the CDC stream writes with another role than the config names"),
    "E430": ("warning", "a table without a configured key: its changes are at least once (error: a sink needs the key)"),
    "E431": ("error", "the configured key columns of a table are not in its records"),
    "E432": ("info", "a pattern of the config matches no table that was seen"),
    "E433": ("warning", "records of the stream cannot be read, or do not fit their row model: they become dead letters"),
}
"""By code: how grave, and the meaning. docs/reference.md has the same table."""


def found(code: str, what: str, *, where: str = "", why: str = "", remedy: str = "", severity: Severity | None = None) -> Finding:
    """A finding of KINDS; `severity` where it is not the usual one."""
    return Finding(code=code, severity=severity or KINDS[code][0], what=what, where=where, why=why, remedy=remedy)


def of_fault(fault: Fault, *, severity: Severity = "error", about: str = "") -> Finding:
    """What kept the doctor from looking at something, under the fault's own code. `about` says what could not be looked at."""
    why = f"{about}: {fault.why}" if about and fault.why else about or fault.why
    statement = why.partition("IAM statement to add: ")[2]
    if statement:
        end = json.JSONDecoder().raw_decode(statement)[1]
        more = statement[end:].lstrip(". ")
        remedy = f"Add to the policy of whoever runs this: {statement[:end]}" + (f"\n{more}" if more else "")
    elif fault.run:
        remedy = f"Run: {fault.run}"
    elif isinstance(fault, Unavailable):
        remedy = "See that it runs and is reached from this machine, then run: dsqlcdc doctor CONFIG"
    else:
        remedy = "Mend that, then run: dsqlcdc doctor CONFIG"
    return Finding(code=fault.code, severity=severity, what=fault.what, where=fault.where, why=why, remedy=remedy)
