"""One dead letter as people read it: why, where it was, and the record with the place where it is wrong."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any

import msgspec

from dsqlcdc.cli.output import moment, printable

if TYPE_CHECKING:
    from dsqlcdc.core.ports import DeadLetter

_LINES = 200
"""Lines of a record that are shown; all of it with --raw."""
_AROUND = 60
_DUMPED = 256
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|-?[A-Za-z0-9.+-]+', re.DOTALL)


class Wrong(msgspec.Struct, frozen=True):
    """Where a record stops being JSON: the byte, and why."""

    byte: int
    why: str


def find_wrong(raw: bytes) -> Wrong | None:
    """The first place where the record is no UTF-8 or no JSON; None where it is both."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        return Wrong(error.start, "not UTF-8")
    try:
        json.loads(text, parse_int=str, parse_float=str, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        return Wrong(len(text[: error.pos].encode()), error.msg[:1].lower() + error.msg[1:])
    except RecursionError:
        return Wrong(0, "nested too deeply")
    except _NoConstant as error:
        at = next((match.start() for match in _TOKEN.finditer(text) if match[0] == str(error)), 0)
        return Wrong(len(text[:at].encode()), f"{error} is no JSON value")
    return None


class _NoConstant(Exception):
    """NaN and the infinities, which Python's parser would take."""


def _no_constant(word: str) -> None:
    raise _NoConstant(word)


def plain(name: str, letter: DeadLetter) -> dict[str, Any]:
    """A letter as JSON. `raw_base64` is the record byte for byte; `text` the same as text, null where it is not UTF-8."""
    wrong = find_wrong(letter.raw)
    return {
        "name": name,
        "pipeline": letter.pipeline,
        "sink": letter.sink or None,
        "stream": letter.stream,
        "shard": letter.shard,
        "sequence": letter.sequence,
        "arrived_at": moment(letter.arrived) if letter.arrived else None,
        "written_at": moment(letter.at) if letter.at else None,
        "code": letter.code,
        "detail": letter.detail,
        "attempts": letter.attempts,
        "tries": [{**each, "at": moment(each["at"])} for each in letter.tries],
        "id": letter.id or None,
        "event": event_json(letter),
        "wrong": msgspec.to_builtins(wrong) if wrong is not None else None,
        "text": _text(letter.raw),
        "raw_base64": base64.b64encode(letter.raw).decode(),
        "images": {image: _text(data) for image, data in letter.images.items()},
    }


def event_json(letter: DeadLetter) -> dict[str, Any]:
    """What is known of the change. `version`, beyond 2^53, is a string."""
    return {name: str(value) if name == "version" and value is not None else value for name, value in letter.event.items()}


def render(name: str, letter: DeadLetter) -> str:
    """For people: what is known, then the record."""
    event = letter.event
    known = {
        "name": name,
        "reason": f"{letter.code}: {letter.detail}" if letter.detail else letter.code,
        "sink": letter.sink or "- (bad before any sink)",
        "table": f"{event['schema']}.{event['table']}" if event.get("schema") and event.get("table") else "- (unknown)",
        "key": _compact(event.get("key")),
        "change": " ".join(str(event[word]) for word in ("op", "version", "transaction") if event.get(word)),
        "id": letter.id,
        "stream": letter.stream,
        "shard": letter.shard,
        "sequence": letter.sequence,
        "arrived": moment(letter.arrived),
        "written": moment(letter.at),
        "attempts": str(letter.attempts) if letter.sink or letter.tries else "",
        "bytes": f"{len(letter.raw):,}",
    }
    texts = [f"{label:9} {printable(value)}" for label, value in known.items() if value]
    tries = [(moment(each["at"]), each["code"], each["detail"]) for each in letter.tries]
    texts += [f"replay    {at} {printable(f'{code}: {detail}')}" for at, code, detail in tries]
    texts += ["", *_record(letter.raw)]
    for image, data in letter.images.items():
        texts += ["", f"the image `{image}`, put together of its pieces:", *_record(data)]
    return "\n".join(texts)


def _record(raw: bytes) -> list[str]:
    wrong = find_wrong(raw)
    if wrong is None:
        return _cut(_indented(raw.decode()))
    said = f"wrong at byte {wrong.byte:,} of {len(raw):,}: {wrong.why}"
    text = _text(raw)
    if text is None and _binary(raw):
        return [said, *_dump(raw, wrong.byte)]
    return [said, *_pointed(raw, wrong.byte)]


def _indented(text: str) -> list[str]:
    """Valid JSON, indented token by token: numbers stay as they were written, and keys that are given twice show twice."""
    lines: list[str] = []
    depth, line = 0, ""
    for token in _TOKEN.findall(text):
        if token in "{[":
            lines.append(line + token)
            depth += 1
            line = "  " * depth
        elif token in "}]":
            depth -= 1
            if line.strip():
                lines.append(line)
                line = "  " * depth + token
            else:
                line = lines.pop() + token  # empty: {} or []
        elif token == ",":
            lines.append(line + ",")
            line = "  " * depth
        else:
            line += ": " if token == ":" else token
    return [*lines, line]


def _cut(lines: list[str]) -> list[str]:
    shown = [printable(line) for line in lines[:_LINES]]
    return shown if len(lines) <= _LINES else [*shown, f"… and {len(lines) - _LINES} more lines: all of it with --raw"]


def _pointed(raw: bytes, byte: int) -> list[str]:
    """The surroundings of a byte on one line, and a mark below it."""
    start, end = max(0, byte - _AROUND), min(len(raw), byte + _AROUND)
    before = printable(raw[start:byte].decode("utf-8", "backslashreplace"))
    after = printable(raw[byte:end].decode("utf-8", "backslashreplace"))
    lead = "…" if start else ""
    return [lead + before + after + ("…" if end < len(raw) else ""), " " * len(lead + before) + "^"]


def _binary(raw: bytes) -> bool:
    """More like bytes than like text that has a flaw."""
    head = raw[:_DUMPED]
    return sum(byte < 9 or byte > 126 for byte in head) * 4 > len(head)


def _dump(raw: bytes, byte: int) -> list[str]:
    start = max(0, (byte - _DUMPED // 2) // 16 * 16)
    lines: list[str] = []
    for at in range(start, min(len(raw), start + _DUMPED), 16):
        chunk = raw[at : at + 16]
        shown = "".join(chr(b) if 32 <= b < 127 else "." for b in chunk)
        lines.append(f"{at:08x}  {chunk.hex(' '):47}  {shown}")
        if at <= byte < at + 16:
            lines.append(" " * (10 + 3 * (byte - at)) + "^^")
    return lines


def _compact(value: object) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _text(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
