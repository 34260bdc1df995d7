"""Text for days and microseconds of any size: ISO 8601 in the proleptic Gregorian calendar, also beyond datetime's years 1 to 9999."""

from __future__ import annotations

import datetime as dt
from functools import lru_cache
from typing import Final

DAY: Final = 86_400_000_000
"""Microseconds in a day."""
EPOCH_ORDINAL: Final = dt.date(1970, 1, 1).toordinal()
FIRST_DAY: Final = dt.date.min.toordinal() - EPOCH_ORDINAL
LAST_DAY: Final = dt.date.max.toordinal() - EPOCH_ORDINAL

_CYCLE = 146_097
"""Days in 400 years, after which the calendar repeats."""


@lru_cache(maxsize=4096)
def day_text(days: int) -> str:
    """The date of a day counted from 1970-01-01.

    Years 0 to 9999 have four digits; others a sign and at least six (`+294246-01-01`, `-004712-01-01`), as ISO 8601's expanded form
    has them. Year 0 is 1 BC.
    """
    if FIRST_DAY <= days <= LAST_DAY:
        return dt.date.fromordinal(days + EPOCH_ORDINAL).isoformat()
    cycles, rest = divmod(days, _CYCLE)
    day = dt.date.fromordinal(rest + EPOCH_ORDINAL)
    year = day.year + 400 * cycles
    text = f"{year:04d}" if 0 <= year <= 9999 else f"{'-' if year < 0 else '+'}{abs(year):06d}"
    return f"{text}-{day.month:02d}-{day.day:02d}"


def clock_text(micros: int) -> str:
    """A time of day, microseconds since midnight, always with six digits of fraction; a whole day is `24:00:00.000000`."""
    minute, rest = divmod(micros, 60_000_000)
    digits = str(rest + 100_000_000)  # nine digits: a leading 1, the seconds, the fraction
    return f"{_MINUTES[minute]}{digits[1:3]}.{digits[3:]}"


def moment_text(micros: int) -> str:
    """Date and time of microseconds since the epoch, without a zone."""
    minutes, rest = divmod(micros, 60_000_000)
    days, minute = divmod(minutes, 1440)
    digits = str(rest + 100_000_000)
    return f"{day_text(days)}T{_MINUTES[minute]}{digits[1:3]}.{digits[3:]}"


_MINUTES = [f"{hour:02d}:{minute:02d}:" for hour in range(24) for minute in range(60)] + ["24:00:"]
