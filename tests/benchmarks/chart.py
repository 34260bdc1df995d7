"""A small chart as SVG: what it costs and what it holds, over what grows. Both axes of values begin at nought."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 560, 240, 60, 60, 40, 40
_CPU, _MEMORY = "#2563eb", "#d97706"


class Point(NamedTuple):
    """`at`: the words on the axis; `cost` in the chart's unit; `memory` in MiB."""

    at: str
    cost: float
    memory: float


def draw(title: str, unit: str, points: Sequence[Point]) -> str:
    """The chart; points stand at equal distances, whatever lies between them."""
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(points) - 1)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_WIDTH / 2}" y="16" text-anchor="middle" font-size="13">{escape(title)}</text>',
    ]
    base = _HEIGHT - _BOTTOM
    for n, point in enumerate(points):
        out.append(f'<text x="{_LEFT + n * step:.0f}" y="{base + 16}" text-anchor="middle">{escape(point.at)}</text>')
    for values, colour, name, side in (
        ([point.cost for point in points], _CPU, unit, "start"),
        ([point.memory for point in points], _MEMORY, "peak MiB", "end"),
    ):
        top = max(values) * 1.15 or 1.0
        places = [(_LEFT + n * step, base - (base - _TOP) * value / top) for n, value in enumerate(values)]
        out.append(f'<polyline fill="none" stroke="{colour}" points="{" ".join(f"{x:.0f},{y:.0f}" for x, y in places)}"/>')
        for (x, y), value in zip(places, values, strict=True):
            out.append(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3" fill="{colour}"/>')
            out.append(f'<text x="{x:.0f}" y="{y - 6:.0f}" text-anchor="middle" fill="{colour}">{value:.3g}</text>')
        x = 4 if side == "start" else _WIDTH - 4
        out.append(f'<text x="{x}" y="32" text-anchor="{side}" fill="{colour}">{escape(name)}</text>')
    out.append(f'<line x1="{_LEFT}" y1="{base}" x2="{_WIDTH - _RIGHT}" y2="{base}" stroke="#999"/></svg>')
    return "\n".join(out) + "\n"
