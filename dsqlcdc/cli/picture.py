"""A row's history as a picture: a line a column, its values over time from left to right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from dsqlcdc.cli.output import printable

_BARS, _ASCII_BARS = "▁▂▃▄▅▆▇█", ".:-=+*#@"
_TICK, _LINE, _END = "│─┤", "|-|", ""


def picture(moments: Sequence[tuple[str, Mapping[str, Any] | None]], *, width: int, plain: bool) -> str:
    """Draw versions of a row, each its time and its values (None: deleted), oldest first, equally spaced. `plain`: ASCII only.

    A column of numbers is drawn as bars between its least and its greatest value, any other as its values where they change.
    """
    names = list(dict.fromkeys(name for _, row in moments for name in row or {}))
    if not names:
        return ""
    label = max(map(len, names))
    step = max(2, (width - label - 3) // max(1, len(moments)))
    shown = min(len(moments), max(1, (width - label - 3) // step))
    cut = moments[-shown:]
    lines = [
        f"{'':{label}}  {len(moments)} versions, {cut[0][0]} to {cut[-1][0]}" + (f", the last {shown}" if shown < len(moments) else "")
    ]
    for name in names:
        values = [None if row is None else row.get(name) for _, row in cut]
        gone = [row is None for _, row in cut]
        numbers = [_number(value) for value in values]
        drawn = [n for n in numbers if n is not None]
        known = [value for value in values if value is not None]
        if drawn and len(drawn) == len(known) and min(drawn) < max(drawn):
            bars, low, high = (_ASCII_BARS if plain else _BARS), min(drawn), max(drawn)
            cells = [
                ("x" if off else " ") if n is None else bars[int((n - low) / (high - low) * (len(bars) - 1))]
                for n, off in zip(numbers, gone, strict=True)
            ]
            lines.append(f"{printable(name):{label}}  {''.join(cell * (step - 1) + ' ' for cell in cells)} {low} to {high}")
        else:
            lines.append(f"{printable(name):{label}}  {_segments(values, gone, step, plain)}")
    return "\n".join(line.rstrip() for line in lines)


def _segments(values: Sequence[Any], gone: Sequence[bool], step: int, plain: bool) -> str:
    """Each value once, where it begins, and a line as long as it lasts."""
    tick, rule = ("|", "-") if plain else ("├", "─")
    out: list[str] = []
    start = 0
    for place in range(1, len(values) + 1):
        if place < len(values) and (values[place], gone[place]) == (values[start], gone[start]):
            continue
        room = (place - start) * step
        text = "deleted" if gone[start] else _short(values[start])
        last = place == len(values)
        body = f"{tick}{text if last else text[: max(1, room - 2)]} "
        out.append(body if last and len(body) >= room else body.ljust(room, rule))
        start = place
    return "".join(out)


def _short(value: Any) -> str:
    if value is None:
        return "null"
    text = printable(str(value))
    return text if len(text) <= 40 else f"{text[:39]}…"


def _number(value: Any) -> Decimal | None:
    """A number, or a text that is one (numeric comes as text)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
