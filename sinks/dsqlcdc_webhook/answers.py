"""What an answer means: the failure table, as a pure function of status and Retry-After."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum, auto

import msgspec

LONGEST_WAIT = 3600.0
_PATIENT = frozenset({408, 425, 429})
_CLOSED = frozenset({401, 403, 410})


class Answer(msgspec.Struct, frozen=True):
    """A status, the Retry-After header as sent, and the beginning of the body. `whole`: nothing of the body is missing."""

    status: int
    retry_after: str | None = None
    text: bytes = b""
    whole: bool = True


class Meaning(Enum):
    """What becomes of the change, or of the sink."""

    IN = auto()
    DUPLICATE = auto()
    DEAD = auto()
    RETRY = auto()
    MISSING = auto()
    """Retried for a short while (a deployment under way), then the sink stops."""
    STOP = auto()


def meaning(status: int) -> Meaning:
    """Of a status code. Redirects are answers like others: they are never followed, and no record will ever pass."""
    if 200 <= status < 300:
        return Meaning.IN
    if status == 409:
        return Meaning.DUPLICATE
    if status in _CLOSED:
        return Meaning.STOP
    if status in (404, 405):
        return Meaning.MISSING
    if status in _PATIENT or status < 200 or status >= 500:
        return Meaning.RETRY
    return Meaning.DEAD


def dead_code(status: int) -> str:
    if status < 400:
        return "redirect"
    return "too_large" if status == 413 else "refused"


def overloaded(status: int) -> bool:
    """Does it say: fewer at a time?"""
    return status in (408, 429, 503, 504)


def retry_after(text: str | None, now: float) -> float | None:
    """Seconds that a Retry-After asks for: digits or an HTTP date, at most an hour; None for what says nothing (or not that)."""
    if not text:
        return None
    text = text.strip()[:64]
    if text.isascii() and text.isdigit():
        return min(float(text), LONGEST_WAIT)
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        wait = (moment - datetime.fromtimestamp(now, UTC)).total_seconds()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(wait, 0.0), LONGEST_WAIT)
