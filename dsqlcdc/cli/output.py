"""What commands print: data to stdout, talk to stderr, tables as plain columns."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import ParamSpec, TextIO

P = ParamSpec("P")


class ReaderGone(Exception):
    """Whoever read stdout has had enough (`… | head -1`)."""


def stand_in() -> None:
    """A stream that was closed before the program began (`>&-`) is None in Python: what goes there is lost, and nothing else."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open until the process ends)


def emit(text: str) -> None:
    """A line (or several) of data to stdout. Raises ReaderGone when nobody reads it any more."""
    try:
        sys.stdout.write(_encodable(text, sys.stdout) + "\n")
    except BrokenPipeError as error:
        raise ReaderGone from error


def _encodable(text: str, stream: TextIO) -> str:
    """The text with what the stream cannot take spelt out: lone surrogates, and much where the locale is ASCII."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def emit_bytes(data: bytes) -> None:
    """Bytes to stdout as they are. Raises ReaderGone."""
    flush()
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        raise ReaderGone from error


def emit_json(value: object) -> None:
    """One object on one line to stdout, at once: whoever reads a stream of things waits for it."""
    emit(json_text(value))
    flush()


def json_text(value: object) -> str:
    """One line of JSON."""
    import orjson

    try:
        return orjson.dumps(value, default=str).decode()
    except TypeError:  # an integer beyond 64 bits, a lone surrogate
        import json

        return json.dumps(value, separators=(",", ":"), default=str)


def flush() -> None:
    """Raises ReaderGone."""
    try:
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise ReaderGone from error


def silence() -> None:
    """Nothing more to stdout: the interpreter's last flush would complain of the closed pipe."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return  # not a real file: nothing to silence


def say(text: str) -> None:
    """A line of talk to stderr."""
    print(_encodable(text, sys.stderr), file=sys.stderr, flush=True)


def answer(question: str, default: str | None = None) -> str:
    """What somebody at the terminal answers, without blanks around it; `default` for an empty line. Without one it asks again.

    The question goes to stderr (typer's own prompt puts a blank on stdout, which is data). Raises Abort at the end of the input.
    """
    from typer.exceptions import Abort

    while True:
        print(_encodable(f"{question}{f' [{default}]' if default else ''}: ", sys.stderr), end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise Abort
        if line.strip() or default is not None:
            return line.strip() or default or ""


def agreed(question: str) -> bool:
    """Does somebody at the terminal say yes? Enter is no. Raises Abort at the end of the input."""
    while (word := answer(f"{question} [y/N]", "").lower()) not in ("", "y", "yes", "n", "no"):
        say(f"  {printable(word)!r} is neither yes nor no")
    return word in ("y", "yes")


def coloured() -> bool:
    """May stdout have colour?"""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def columns(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Rows under headings in aligned columns, never cut: the columns whose numbers are in `right` to the right."""
    lines = [tuple(head), *(tuple(printable(cell) for cell in row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [
        "  ".join(
            cell.rjust(width) if place in right else cell.ljust(width) for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    texts = [text.rstrip() for text in texts]
    if coloured():
        texts[0] = f"\x1b[1m{texts[0]}\x1b[0m"
    return "\n".join(texts)


def counted(count: int, what: str) -> str:
    """`1 gap`, `2 gaps`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def every_few_seconds(line: Callable[P, str], every: float = 2.0) -> Callable[P, None]:
    """Says how far something is, when it is told, at most every so many seconds and not at once."""
    last = time.monotonic()

    def tell(*args: P.args, **named: P.kwargs) -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            say(line(*args, **named))
            last = time.monotonic()

    return tell


def printable(text: str) -> str:
    """The text with its control characters spelt out: data of strangers does nothing to a terminal."""
    return (
        text
        if text.isprintable()
        else "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    )


def moment(seconds: float) -> str:
    """RFC 3339 in UTC, to the second; "-" where unknown (0) or beyond the calendar."""
    if not seconds:
        return "-"
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return "-"
