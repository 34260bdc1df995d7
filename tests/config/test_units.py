"""Sizes and durations: what is written is read back, and nothing is guessed."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.units import format_duration, format_size, parse_duration, parse_size


@given(st.integers(0, 2**50))
def test_a_size_written_is_read_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 10**12))
def test_a_duration_written_is_read_back_to_the_microsecond(micros: int) -> None:
    assert round(parse_duration(format_duration(micros / 1_000_000)) * 1_000_000) == micros


@given(st.text(max_size=12) | st.integers() | st.none() | st.booleans() | st.floats())
def test_anything_else_is_a_value_error(value: object) -> None:
    for parse in (parse_size, parse_duration):
        with contextlib.suppress(ValueError):
            assert parse(value) >= 0


@pytest.mark.parametrize(("text", "size"), [("0B", 0), ("1KiB", 1024), ("1.5MiB", 3 << 19), (" 10 GiB ", 10 << 30)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("30s", 30.0), ("1.5m", 90.0), ("24h", 86400.0)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "fix"),
    [("64MB", "write 64MiB"), ("64", "needs a unit"), ("1.5B", "smaller unit"), ("-1B", "not a size"), ("1 XiB", "the units are")],
)
def test_a_wrong_size_says_the_fix(text: str, fix: str) -> None:
    with pytest.raises(ValueError, match=fix):
        parse_size(text)


@pytest.mark.parametrize(("text", "fix"), [("2d", "write 48h"), ("5min", "write 5m"), ("5 weeks", "the units are"), ("", "not a time")])
def test_a_wrong_duration_says_the_fix(text: str, fix: str) -> None:
    with pytest.raises(ValueError, match=fix):
        parse_duration(text)
