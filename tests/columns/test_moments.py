"""Dates and times: their texts, their infinities, and what goes over to Python's own types."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.columns import Date, Time, Timestamp, Timestamptz, Timetz
from dsqlcdc.columns.calendar import day_text


@given(st.datetimes())
def test_a_datetime_goes_over_and_comes_back(value: dt.datetime) -> None:
    assert Timestamp.of(value).datetime() == value
    assert Timestamptz.of(value.replace(tzinfo=dt.UTC)).datetime() == value.replace(tzinfo=dt.UTC)
    assert str(Timestamp.of(value)) == value.isoformat(timespec="microseconds")
    assert str(Timestamptz.of(value.replace(tzinfo=dt.UTC))) == value.isoformat(timespec="microseconds") + "Z"
    assert Date.of(value.date()).date() == value.date()
    assert str(Date.of(value.date())) == value.date().isoformat()
    assert Time.of(value.time()).time() == value.time()
    assert str(Time.of(value.time())) == value.time().isoformat(timespec="microseconds")


@given(st.times(), st.integers(-24 * 60 + 1, 24 * 60 - 1))
def test_a_timetz_is_moved_to_utc_and_wrapped_into_one_day(value: dt.time, minutes: int) -> None:
    zoned = value.replace(tzinfo=dt.timezone(dt.timedelta(minutes=minutes)))
    moved = dt.datetime.combine(dt.date(2026, 7, 1), zoned).astimezone(dt.UTC).timetz()
    assert Timetz.of(zoned).time() == moved
    assert str(Timetz.of(zoned)) == moved.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


@pytest.mark.parametrize(
    ("days", "text"),
    [
        (0, "1970-01-01"), (-719_162, "0001-01-01"), (-719_163, "0000-12-31"), (-719_528, "0000-01-01"), (-719_529, "-000001-12-31"),
        (2_932_896, "9999-12-31"), (2_932_897, "+010000-01-01"), (-2_440_588, "-004713-11-24"), (2_145_042_905, "+5874897-12-31"),
        (-719_528 + 59, "0000-02-29"), (-2_440_589, "-infinity"), (2_145_042_906, "infinity"), (2**31 - 1, "infinity"),
        (2**31 - 1 + 10_957, "infinity"), (-(2**31), "-infinity"), (2**63 - 1, "infinity"),
    ],
)  # fmt: skip
def test_a_date_is_written_in_iso_and_what_postgresql_has_no_date_for_is_infinite(days: int, text: str) -> None:
    assert str(Date(days)) == text
    assert Date(days).infinite() == {"infinity": 1, "-infinity": -1}.get(text, 0)


@given(st.integers(-(10**7), 10**7))
def test_consecutive_days_have_consecutive_dates(days: int) -> None:
    """An oracle of its own: year, month and day one at a time, by the Gregorian leap rule."""

    def parse(text: str) -> tuple[int, int, int]:
        year, month, day = text[1:].split("-") if text[0] in "+-" else text.split("-")
        return (-int(year) if text[0] == "-" else int(year)), int(month), int(day)

    year, month, day = parse(day_text(days))
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    last = (31, 29 if leap else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]
    following = (year, month, day + 1) if day < last else (year, month + 1, 1) if month < 12 else (year + 1, 1, 1)
    assert parse(day_text(days + 1)) == following


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (9_223_372_036_825_200_000, "infinity"),
        (-9_223_372_036_832_400_000, "-infinity"),
        (9_223_372_036_825_199_999, "+294247-01-10T04:00:25.199999"),
        (2**63 - 1, "+294247-01-10T04:00:54.775807"),
        (-210_866_803_200_000_000, "-004713-11-24T00:00:00.000000"),
        (-1, "1969-12-31T23:59:59.999999"),
        (1_782_912_345_678_901, "2026-07-01T13:25:45.678901"),
    ],
)
def test_timestamps_are_written_to_the_microsecond_in_any_year(micros: int, text: str) -> None:
    assert str(Timestamp(micros)) == text
    assert str(Timestamptz(micros)) == (text if "infinity" in text else text + "Z")


@pytest.mark.parametrize(
    "micros", [9_223_372_036_825_200_000, -9_223_372_036_832_400_000, 253_402_300_800_000_000, -62_135_596_800_000_001]
)
def test_what_datetime_cannot_hold_is_an_overflow_and_never_another_time(micros: int) -> None:
    with pytest.raises(OverflowError):
        Timestamp(micros).datetime()
    with pytest.raises(OverflowError):
        Timestamptz(micros).datetime()
    with pytest.raises(OverflowError):
        Date.infinity().date()
    with pytest.raises(OverflowError):
        Time(86_400_000_000).time()
    assert str(Time(86_400_000_000)) == "24:00:00.000000"


def test_infinities_are_above_and_below_all_and_kinds_do_not_mix() -> None:
    assert Timestamp.minus_infinity() < Timestamp(-(2**63)) < Timestamp(2**63 - 1) < Timestamp.infinity()
    assert Date.minus_infinity() < Date(0) < Date.infinity()
    assert max(Date.infinity(), Date(5)) == Date.infinity()
    assert Timestamp(1) != Timestamptz(1)
    with pytest.raises(TypeError):
        assert Timestamp(1) < Timestamptz(2)  # type: ignore[operator]


def test_values_hash_and_cannot_be_changed() -> None:
    assert {Timestamptz(1): "a"}[Timestamptz(1)] == "a"
    with pytest.raises(AttributeError):
        Timestamptz(1).micros = 2  # type: ignore[misc]


@pytest.mark.parametrize("cls", [Timestamp, Timestamptz, Time, Timetz, Date])
@pytest.mark.parametrize("count", [2**63, -(2**63) - 1, 1.0, True, "1"])
def test_a_count_that_the_wire_cannot_carry_is_refused(cls: type, count: object) -> None:
    with pytest.raises(ValueError, match="whole number"):
        cls(count)


def test_zones_are_not_guessed() -> None:
    naive, aware = dt.datetime(2026, 7, 1, 12), dt.datetime(2026, 7, 1, 12, tzinfo=dt.UTC)
    with pytest.raises(ValueError, match="tzinfo"):
        Timestamp.of(aware)
    with pytest.raises(ValueError, match="tzinfo"):
        Timestamptz.of(naive)
    with pytest.raises(ValueError, match="tzinfo"):
        Time.of(aware.timetz())
    with pytest.raises(ValueError, match="tzinfo"):
        Timetz.of(naive.time())
