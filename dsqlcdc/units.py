"""Sizes and durations as people write them: `64MiB`, `30m`. Standard library only."""

from __future__ import annotations

import re
from fractions import Fraction

_SIZES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_TIMES = {"ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60), "h": Fraction(3600)}
_QUANTITY = re.compile(r"(\d{1,19}(?:\.\d{1,9})?)\s*([A-Za-zµ]*)", re.ASCII)
_MEANT = {
    **dict.fromkeys(("k", "kb", "kib", "K"), "KiB"),
    **dict.fromkeys(("m", "mb", "mib"), "MiB"),
    **dict.fromkeys(("g", "gb", "gib"), "GiB"),
    **dict.fromkeys(("b", "byte", "bytes"), "B"),
}
_MEANT_TIME = {
    **dict.fromkeys(("msec", "msecs", "millis", "milliseconds"), "ms"),
    **dict.fromkeys(("sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), "m"),
    **dict.fromkeys(("hr", "hrs", "hour", "hours"), "h"),
}


def parse_size(value: object) -> int:
    """Bytes of a size such as `512B`, `64KiB`, `1.5MiB`, `10GiB`.

    Raises ValueError, with a fix in its text, where the unit is missing or unknown, the number is no number, or bytes would be cut.
    """
    number, unit = _quantity(value, "a size", "64MiB", "B, KiB, MiB, GiB")
    if unit not in _SIZES:
        meant = _MEANT.get(unit.lower())
        hint = f"write {value_text(number)}{meant} (units count in 1024s)" if meant else "the units are B, KiB, MiB, GiB"
        raise ValueError(f"no such unit of size, {unit!r}: {hint}")
    exact = number * _SIZES[unit]
    if exact.denominator != 1:
        raise ValueError("a size is a whole number of bytes: write it in a smaller unit")
    return int(exact)


def parse_duration(value: object) -> float:
    """Seconds of a duration such as `500ms`, `30s`, `5m`, `24h`.

    Raises ValueError, with a fix in its text, where the unit is missing or unknown or the number is no number.
    """
    number, unit = _quantity(value, "a time", "30s", "ms, s, m, h")
    if unit not in _TIMES:
        if unit.lower() in ("d", "day", "days"):
            raise ValueError(f"no such unit of time, {unit!r}: write {value_text(number * 24)}h")
        meant = _MEANT_TIME.get(unit.lower()) or next((u for u in _TIMES if u == unit.lower()), None)
        raise ValueError(
            f"no such unit of time, {unit!r}: " + (f"write {value_text(number)}{meant}" if meant else "the units are ms, s, m, h")
        )
    return float(number * _TIMES[unit])


def format_size(size: int) -> str:
    """The shortest exact way to write a size, which parse_size reads back."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZES[unit] == 0:
            return f"{size // _SIZES[unit]}{unit}"
    return f"{size}B"


def format_duration(seconds: float) -> str:
    """A short way to write a duration; parse_duration reads it back, to the microsecond."""
    micros = round(seconds * 1_000_000)
    for unit, length in (("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1000)):
        if micros and micros % length == 0:
            return f"{micros // length}{unit}"
    return f"{value_text(Fraction(micros, 1000))}ms" if micros else "0s"


def value_text(number: Fraction) -> str:
    """A decimal fraction in plain digits: 1.5, 60."""
    whole, rest = divmod(number, 1)
    if not rest:
        return str(whole)
    return f"{whole}.{round(rest * 10**12):012d}".rstrip("0")


def _quantity(value: object, what: str, example: str, units: str) -> tuple[Fraction, str]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ValueError(f"{what} needs a unit ({units}): write for example {example}")
    if not isinstance(value, str):
        raise ValueError(f"{what} is a number with a unit ({units}): write for example {example}")
    match = _QUANTITY.fullmatch(value.strip())
    if match is None:
        raise ValueError(f"not {what}: a number with one unit ({units}) is expected, for example {example}")
    if not match[2]:
        raise ValueError(f"{what} needs a unit ({units}): write for example {example}")
    return Fraction(match[1]), match[2]
