"""Dates and times as DSQL sends them: exact counts of days or microseconds, with PostgreSQL's infinities and its whole range of years."""

from __future__ import annotations

import datetime as dt
from typing import Any, ClassVar, Final, Self

import msgspec
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema

from dsqlcdc.columns.calendar import DAY, EPOCH_ORDINAL, FIRST_DAY, LAST_DAY, clock_text, day_text, moment_text
from dsqlcdc.columns.kinds import COLUMNS, INT64, counted

_EPOCH = dt.datetime(1970, 1, 1)
_EPOCH_UTC = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)

PLUS_INFINITY: Final = 9_223_372_036_825_200_000
"""What `infinity` of timestamp and timestamptz is on the wire."""
MINUS_INFINITY: Final = -9_223_372_036_832_400_000
_INFINITIES: Final = {PLUS_INFINITY: "infinity", MINUS_INFINITY: "-infinity"}
DATE_PLUS_INFINITY: Final = 2**31 - 1
"""What this package writes for a date's `infinity`; which counts it reads as one, see Date."""
DATE_MINUS_INFINITY: Final = -(2**31)
_FIRST_PG_DAY = -2_440_588
"""4714-11-24 BC, the first date PostgreSQL has."""
_LAST_PG_DAY = 2_145_042_905
"""5874897-12-31, the last."""


class _Count(msgspec.Struct, frozen=True, gc=False):
    """A count on a line. Compares and orders with its own kind only; `infinity` is above and `-infinity` below everything else."""

    low: ClassVar[int] = INT64[0]
    high: ClassVar[int] = INT64[1]

    def count(self) -> int:
        """The number on the wire."""
        raise TypeError("a count without a unit")

    def infinite(self) -> int:
        """1 for infinity, -1 for -infinity, 0 for everything else."""
        return 0

    def _outside(self) -> ValueError:
        return ValueError(f"{type(self).__name__} takes a whole number from {self.low} to {self.high}")

    def _rank(self) -> tuple[int, int]:
        return self.infinite(), self.count()

    def __lt__(self, other: Self) -> bool:
        return self._rank() < other._rank() if type(other) is type(self) else NotImplemented

    def __le__(self, other: Self) -> bool:
        return self._rank() <= other._rank() if type(other) is type(self) else NotImplemented

    def __gt__(self, other: Self) -> bool:
        return self._rank() > other._rank() if type(other) is type(self) else NotImplemented

    def __ge__(self, other: Self) -> bool:
        return self._rank() >= other._rank() if type(other) is type(self) else NotImplemented

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return COLUMNS[cls].schema


class _Moment(_Count, frozen=True, gc=False):
    """`micros`: microseconds since 1970-01-01 00:00:00 UTC, any int64. Two of them are the infinities, PLUS_INFINITY and MINUS_INFINITY."""

    micros: int

    def __post_init__(self) -> None:
        if type(self.micros) is not int or not -(2**63) <= self.micros < 2**63:
            raise self._outside()

    def count(self) -> int:
        return self.micros

    def infinite(self) -> int:
        return 1 if self.micros == PLUS_INFINITY else -1 if self.micros == MINUS_INFINITY else 0

    @classmethod
    def infinity(cls) -> Self:
        return cls(PLUS_INFINITY)

    @classmethod
    def minus_infinity(cls) -> Self:
        return cls(MINUS_INFINITY)

    def __str__(self) -> str:
        return _INFINITIES.get(self.micros) or moment_text(self.micros)

    def _naive(self) -> dt.datetime:
        if not FIRST_DAY * DAY <= self.micros < (LAST_DAY + 1) * DAY:
            raise OverflowError(f"{self} is outside the years 1 to 9999 that datetime has")
        return _EPOCH + dt.timedelta(microseconds=self.micros)


class Timestamp(_Moment, frozen=True, gc=False):
    """A `timestamp`: a date and time without a zone, exact to the microsecond. `str` gives its JSON form."""

    def datetime(self) -> dt.datetime:
        """As a datetime without a zone. Raises OverflowError for the infinities and outside the years 1 to 9999."""
        return self._naive()

    @classmethod
    def of(cls, value: dt.datetime) -> Self:
        """From a datetime without a zone; ValueError for one with a zone."""
        if value.tzinfo is not None:
            raise ValueError("a timestamp has no zone: give a datetime without tzinfo, or use Timestamptz")
        return cls((value - _EPOCH) // _MICROSECOND)


class Timestamptz(_Moment, frozen=True, gc=False):
    """A `timestamptz`: a point in time, exact to the microsecond. `str` gives its JSON form."""

    def __str__(self) -> str:
        return _INFINITIES.get(self.micros) or moment_text(self.micros) + "Z"

    def datetime(self) -> dt.datetime:
        """As a datetime in UTC. Raises OverflowError for the infinities and outside the years 1 to 9999."""
        return self._naive().replace(tzinfo=dt.UTC)

    @classmethod
    def of(cls, value: dt.datetime) -> Self:
        """From a datetime with a zone; ValueError for one without."""
        if value.utcoffset() is None:
            raise ValueError("a timestamptz is a point in time: give a datetime with tzinfo, or use Timestamp")
        return cls((value - _EPOCH_UTC) // _MICROSECOND)


class Date(_Count, frozen=True, gc=False):
    """A `date`: `days` since 1970-01-01. `str` gives its JSON form.

    The service sends ±infinity as sentinel day counts and does not say which. No date of PostgreSQL lies outside 4714-11-24 BC to
    5874897-12-31, so a count outside these days can be nothing but a sentinel: above it is infinity, below -infinity, and the count is
    kept as it came. Made here, the infinities are PostgreSQL's own, 2147483647 and -2147483648 (DATEVAL_NOEND and DATEVAL_NOBEGIN): not
    moved to the epoch of 1970, as the sentinels of timestamps are not either, and moved they would not fit 32 bits.
    """

    days: int

    def __post_init__(self) -> None:
        if type(self.days) is not int or not -(2**63) <= self.days < 2**63:
            raise self._outside()

    def count(self) -> int:
        return self.days

    def infinite(self) -> int:
        return 1 if self.days > _LAST_PG_DAY else -1 if self.days < _FIRST_PG_DAY else 0

    @classmethod
    def infinity(cls) -> Self:
        return cls(DATE_PLUS_INFINITY)

    @classmethod
    def minus_infinity(cls) -> Self:
        return cls(DATE_MINUS_INFINITY)

    def __str__(self) -> str:
        if _FIRST_PG_DAY <= self.days <= _LAST_PG_DAY:
            return day_text(self.days)
        return "infinity" if self.days > 0 else "-infinity"

    def date(self) -> dt.date:
        """As a date. Raises OverflowError for the infinities and outside the years 1 to 9999."""
        if not FIRST_DAY <= self.days <= LAST_DAY:
            raise OverflowError(f"{self} is outside the years 1 to 9999 that date has")
        return dt.date.fromordinal(self.days + EPOCH_ORDINAL)

    @classmethod
    def of(cls, value: dt.date) -> Self:
        return cls(value.toordinal() - EPOCH_ORDINAL)


class Time(_Count, frozen=True, gc=False):
    """A `time`: `micros` since midnight, from 0 to 86400000000: PostgreSQL has 24:00:00. `str` gives its JSON form."""

    low = 0
    high = DAY
    micros: int

    def __post_init__(self) -> None:
        if type(self.micros) is not int or not 0 <= self.micros <= DAY:
            raise self._outside()

    def count(self) -> int:
        return self.micros

    def __str__(self) -> str:
        return clock_text(self.micros)

    def time(self) -> dt.time:
        """As a time without a zone. Raises OverflowError for 24:00:00."""
        if self.micros == DAY:
            raise OverflowError("24:00:00 is a time of PostgreSQL, not of Python")
        return (_EPOCH + dt.timedelta(microseconds=self.micros)).time()

    @classmethod
    def of(cls, value: dt.time) -> Self:
        """From a time without a zone; ValueError for one with a zone."""
        if value.tzinfo is not None:
            raise ValueError("a time has no zone: give a time without tzinfo, or use Timetz")
        return cls(((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond)


class Timetz(_Count, frozen=True, gc=False):
    """A `timetz`, moved to UTC and wrapped into one day by the service: `micros` since midnight UTC, from 0 to 86400000000."""

    low = 0
    high = DAY
    micros: int

    def __post_init__(self) -> None:
        if type(self.micros) is not int or not 0 <= self.micros <= DAY:
            raise self._outside()

    def count(self) -> int:
        return self.micros

    def __str__(self) -> str:
        return clock_text(self.micros) + "Z"

    def time(self) -> dt.time:
        """As a time in UTC. Raises OverflowError for 24:00:00."""
        if self.micros == DAY:
            raise OverflowError("24:00:00 is a time of PostgreSQL, not of Python")
        return (_EPOCH_UTC + dt.timedelta(microseconds=self.micros)).timetz()

    @classmethod
    def of(cls, value: dt.time) -> Self:
        """From a time with a fixed offset, moved to UTC and wrapped into one day; ValueError for one without."""
        offset = value.utcoffset()
        if offset is None:
            raise ValueError("a timetz has a zone: give a time with tzinfo, or use Time")
        local = ((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond
        return cls((local - offset // _MICROSECOND) % DAY)


COLUMNS[Timestamp] = counted("timestamp", Timestamp, Timestamp.low, Timestamp.high)
COLUMNS[Timestamptz] = counted("timestamptz", Timestamptz, Timestamptz.low, Timestamptz.high)
COLUMNS[Date] = counted("date", Date, Date.low, Date.high)
COLUMNS[Time] = counted("time", Time, Time.low, Time.high)
COLUMNS[Timetz] = counted("timetz", Timetz, Timetz.low, Timetz.high)
