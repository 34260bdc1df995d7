"""Whose credentials these are, and whether this machine's clock is right."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

from dsqlcdc.aws import Aws, client, errors, translate
from dsqlcdc.doctor.finding import Finding, Severity, found, of_fault
from dsqlcdc.errors import Fault

REFUSED = 300.0
"""Seconds of difference beyond which AWS takes a signature for expired, or for made in the future."""
NOTICED = 30.0


async def check_place(aws: Aws, clock: Callable[[], float]) -> list[Finding]:
    """Ask AWS who we are, and what time it is. `clock`: this machine's, seconds since the epoch."""
    try:
        async with client("sts", aws) as sts:
            said, fault = await _identity(sts)
    except Fault as error:
        return [of_fault(error)]
    now = clock()
    skew = now - said if said else 0.0
    findings = [of_fault(fault)] if fault is not None else []
    if abs(skew) > NOTICED:
        side = "ahead" if skew > 0 else "behind"
        why = f"it is {abs(skew):.0f} s {side} of AWS's; signatures are refused from {REFUSED:.0f} s on, and ages are misjudged by as much"
        remedy, what = "Have it set by NTP. Run: timedatectl set-ntp true", "this machine's clock is wrong"
        grave: Severity = "error" if abs(skew) > REFUSED else "warning"
        findings.append(found("E180", what, where="this machine", why=why, remedy=remedy, severity=grave))
    return findings


async def _identity(sts: Any) -> tuple[float, Fault | None]:
    """(the time of AWS's answer, 0 where it gave none; what was wrong). An answer that refuses has a time too."""
    try:
        answer: Any = await sts.get_caller_identity()
    except errors() as error:
        fault = translate(error, doing="say whose credentials these are", where="aws sts")
        return _date(getattr(error, "response", {})), fault
    return _date(answer), None


def _date(answer: Any) -> float:
    text = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        return parsedate_to_datetime(text).timestamp() if text else 0.0
    except ValueError:
        return 0.0
