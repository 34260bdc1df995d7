"""Logging as a process sets it up: text or JSON lines on stderr, without secrets."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Literal, TextIO

import orjson

from dsqlcdc.errors import Fault

__all__ = ["setup"]

_NOISY = ("aiobotocore", "aiohttp", "asyncio", "botocore", "boto3", "moto", "s3transfer", "urllib3", "werkzeug")
"""Libraries that speak of every call: only their warnings are wanted."""

_SCRUBBED: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(://[^/\s:@]*):[^/\s@]+@"), r"\1:***@"),
    (
        re.compile(
            r"(?i)((?:x-amz-(?:security-token|signature|credential)|authorization|password|secret\w*)[\"']?\s*[=:]\s*\[?[\"']?)[^\s&,;\"'\[\]]+"
        ),
        r"\1***",
    ),
    (re.compile(r"\b(?:whsec_[A-Za-z0-9+/=]{8,}|(?:AKIA|ASIA)[A-Z0-9]{16})"), "***"),
)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Scrubber:
    """Takes secrets out of a line: the values it was told of, and what looks like one wherever it comes from. Names the config file."""

    def __init__(self, secrets: Collection[str], config: str) -> None:
        self._config = config
        known = sorted({secret for secret in secrets if len(secret) >= 4}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub("***", text)
        for pattern, instead in _SCRUBBED:
            text = pattern.sub(instead, text)
        return Fault.name_config(text, self._config)


class TextFormatter(logging.Formatter):
    """`2026-11-20T21:40:00Z info  pipeline: …`, one line a record but for tracebacks."""

    def __init__(self, secrets: Collection[str] = (), config: str = "") -> None:
        super().__init__()
        self._scrub = _Scrubber(secrets, config)

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record, 'seconds')} {record.levelname.lower():7} {_place(record)}: {_single(record.getMessage())}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return self._scrub(line)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, then `extra` fields, a fault's `error` object, a traceback."""

    def __init__(self, secrets: Collection[str] = (), config: str = "") -> None:
        super().__init__()
        self._scrub = _Scrubber(secrets, config)

    def format(self, record: logging.LogRecord) -> str:
        message = self._scrub(record.getMessage())
        body: dict[str, object] = {
            "time": _time(record, "milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        body |= {name: self._plain(value) for name, value in vars(record).items() if name not in _STANDARD and name not in body}
        error = record.exc_info[1] if record.exc_info else None
        fault = error or next((value for value in _arguments(record) if isinstance(value, Fault)), None)
        if isinstance(fault, Fault):
            body["error"] = self._plain(fault.as_json())
        if record.exc_info:
            body["traceback"] = self._scrub(self.formatException(record.exc_info))
        try:
            return orjson.dumps(body).decode()
        except TypeError:  # a lone surrogate, an integer beyond 64 bits: said as text rather than not at all
            shown = {name: str(value).encode("utf-8", "backslashreplace").decode() for name, value in body.items()}
            return orjson.dumps(shown).decode()

    def _plain(self, value: object) -> object:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, Mapping):
            items: list[tuple[object, object]] = list(value.items())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
            return {str(name): self._plain(item) for name, item in items}
        if isinstance(value, list | tuple | set | frozenset):
            things: list[object] = list(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
            return [self._plain(item) for item in things]
        return self._scrub(str(value))


class _Stderr:
    """What sys.stderr is now, not what it was: lines then do not tear a live display that has put itself before it."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def setup(
    form: Literal["text", "json"] = "text",
    level: str = "info",
    *,
    secrets: Collection[str] = (),
    config: str = "",
    stream: TextIO | None = None,
) -> logging.Handler:
    """Send the process's log to stderr (or `stream`) in this form; give the handler. Called again it replaces what it set up before.

    At level info there is a line for a start, for every change of state and for a summary a minute, nothing per record. `secrets` are
    values that must never show, wherever they turn up; `config` is the file's name, for remedies that say
    CONFIG. Raises ValueError for a level that does not exist.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"no such log level, {level!r}: write debug, info, warning or error")
    handler: logging.Handler = logging.StreamHandler(_Stderr() if stream is None else stream)
    handler.setFormatter(TextFormatter(secrets, config) if form == "text" else JsonFormatter(secrets, config))
    handler.set_name("dsqlcdc")
    root = logging.getLogger()
    for old in [old for old in root.handlers if old.get_name() == "dsqlcdc"]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("dsqlcdc").setLevel(number)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    return handler


def _time(record: logging.LogRecord, precision: Literal["seconds", "milliseconds"]) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def _place(record: logging.LogRecord) -> str:
    return record.name.removeprefix("dsqlcdc.")


def _single(message: str) -> str:
    """A line stays a line, whatever somebody else's error says; control characters do nothing to a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)


def _arguments(record: logging.LogRecord) -> tuple[object, ...]:
    return record.args if isinstance(record.args, tuple) else ()
