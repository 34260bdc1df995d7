"""Row models: an image decoded, validated and written in the JSON form, beside json.loads and json.dumps of the standard library."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from dsqlcdc.columns import decode, row_json, wire
from tests.columns.models import ORDER, Order

ROWS = 20_000
LEAST = 0.7
"""Of json.loads and json.dumps, which give neither types nor checks."""


def _rate(work: Callable[[], object]) -> float:
    best = 0.0
    for _ in range(5):
        start = time.process_time()
        for _ in range(ROWS):
            work()
        best = max(best, ROWS / (time.process_time() - start))
    return best


@pytest.mark.bench
def test_typed_rows_keep_up_with_untyped_json() -> None:
    row = decode(Order, ORDER)
    plain = _rate(lambda: json.dumps(json.loads(ORDER)))
    both = _rate(lambda: row_json(decode(Order, ORDER)))
    print(f"\nrow models, eight typed columns (rows a CPU second): decode {_rate(lambda: decode(Order, ORDER)):,.0f}", end="")
    print(
        f" · JSON form {_rate(lambda: row_json(row)):,.0f} · wire {_rate(lambda: wire(row)):,.0f} · decode and JSON form {both:,.0f}",
        end="",
    )
    print(f" · json.loads and json.dumps {plain:,.0f} · ratio {both / plain:.2f}, at least {LEAST}")
    assert both >= LEAST * plain
