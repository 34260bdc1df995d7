"""The format of a dead letter: its deterministic name and its gzipped JSON, the same in every store."""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from dsqlcdc.core.ports import DeadLetter
from dsqlcdc.errors import Misconfigured

VERSION = 1
_NAMED = 5  # broken letters that an error names
_REASON = 4096  # bytes
_WORD = 120  # characters of one part of a name
_INTEGER_BITS = 13_000  # below the 4,300 digits that Python converts
_EVENT = {"key": "pk", "version": "ts_ns", "transaction": "tx"}  # our words, and those of the letter's format


class Newer(ValueError):
    """The letter was written by a newer version."""


def unreadable(broken: Sequence[tuple[str, ValueError]], where: str) -> Misconfigured:
    """What a store says, after all the others were given, of letters (by name) that it could not read: E202 newer format, E207 damaged."""
    newer = all(isinstance(error, Newer) for _, error in broken)
    named = "; ".join(f"{name}: {error}" for name, error in broken[:_NAMED])
    more = f"; and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    what = f"{len(broken)} dead letter{'s' if len(broken) > 1 else ''} cannot be read"
    run = "pip install --upgrade dsqlcdc" if newer else "dsqlcdc dead list CONFIG, once they are moved away or restored"
    return Misconfigured(what, where=where, why=named + more, run=run, code="E202" if newer else "E207")


def name_of(letter: DeadLetter) -> str:
    """Where a letter is stored: free of the sink's name where the record was bad before routing, so that all sinks mean one letter.

    A row that was put together is named by its change's id and the day of its commit: each of its records may have come twice, and which
    copy was met first is another matter in another run. Raises ValueError for a letter without sequence or code: two of them would share a name.
    """
    if not letter.sequence or not letter.code:
        raise ValueError("a dead letter needs a sequence and a code")
    if letter.sink and letter.images and letter.id:
        version: Any = letter.event.get("version")
        place = (
            f"dt={_day(version / 1e9 if isinstance(version, int) else letter.arrived)}/row/{_word(letter.id)}-{_word(letter.code)}.json.gz"
        )
    else:
        record = f"{_word(letter.sequence).replace('-', '%2D')}-{_word(letter.code)}.json.gz"
        place = f"dt={_day(letter.arrived)}/shard={_word(letter.shard)}/{record}"
    return f"sink={_word(letter.sink)}/{place}" if letter.sink else place


def _day(moment: float) -> str:
    try:
        return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return "unknown"


def _word(text: str) -> str:
    word = quote(text, safe="", errors="surrogatepass")
    if len(word) > _WORD:
        word = f"{word[: _WORD - 33].rpartition('%')[0] or word[: _WORD - 33]}~{hashlib.sha256(word.encode()).hexdigest()[:32]}"
    return word


def encode(letter: DeadLetter, *, version: str, config_sha256: str) -> bytes:
    """A letter's bytes: the same for the same letter. The reason is cut at 4 KiB, everything else is kept."""
    body = {
        "v": VERSION,
        "id": letter.id,
        "sink": letter.sink,
        "pipeline": letter.pipeline,
        "error": {
            "class": "record",
            "code": letter.code,
            "type": "refused" if letter.sink else "before_routing",
            "reason": _cut(letter.detail),
            "attempts": letter.attempts,
            "first_at": letter.at,
            "last_at": letter.at,
        },
        "event": {_EVENT.get(name, name): _plain(value) for name, value in letter.event.items()},
        "source": {"stream": letter.stream, "shard": letter.shard, "seq": letter.sequence, "arrival": _plain(letter.arrived)},
        "raw_b64": base64.b64encode(letter.raw).decode(),
        "images_b64": {name: base64.b64encode(image).decode() for name, image in letter.images.items()},
        "env": {"version": version, "config_sha256": config_sha256},
    }
    return _packed(body)


def amended(data: bytes, code: str, detail: str, at: float) -> bytes:
    """The letter with one more failed attempt; the same bytes where this very attempt is in it. Its own code stays: its name says it.
    Raises ValueError as decode does."""
    return _with_tries(data, [{"at": at, "code": code, "detail": _cut(detail)}])


def merged(copy: bytes, letter: bytes, closed: bytes) -> bytes:
    """What to keep of a letter of which a `copy` was put aside before: the copy, with the attempts that only the letter knows.

    A copy that is damaged gives way to `closed`; one of a newer format stays as it is. Raises ValueError where the letter is damaged.
    """
    decode(letter)
    try:
        return _with_tries(copy, json.loads(gzip.decompress(letter))["error"].get("tries", []))
    except Newer:
        return copy
    except ValueError:
        return closed


def _with_tries(data: bytes, tries: Sequence[Mapping[str, Any]]) -> bytes:
    decode(data)
    body: dict[str, Any] = json.loads(gzip.decompress(data))
    error = body["error"]
    known: list[Mapping[str, Any]] = error.get("tries", [])
    new = [one for one in tries if one not in known]
    if not new:
        return data
    error["tries"] = sorted([*known, *new], key=lambda one: one["at"])
    error["attempts"] += len(new)
    error["last_at"] = max(error["last_at"], *(one["at"] for one in new))
    return _packed(body)


def closed(data: bytes, outcome: str, reason: str, at: float) -> bytes:
    """The letter with what became of it. Raises ValueError as decode does."""
    decode(data)
    body: dict[str, Any] = json.loads(gzip.decompress(data))
    body["closed"] = {"outcome": outcome, "reason": _cut(reason), "at": at}
    return _packed(body)


def _cut(text: str) -> str:
    return text.encode("utf-8", "backslashreplace")[:_REASON].decode("utf-8", "ignore")


def _packed(body: Mapping[str, Any]) -> bytes:
    return gzip.compress(json.dumps(body, separators=(",", ":")).encode(), compresslevel=6, mtime=0)


def decode(data: bytes) -> DeadLetter:
    """Read a letter back. Raises ValueError where it is damaged, Newer where its format is not known yet."""
    try:
        body: dict[str, Any] = json.loads(gzip.decompress(data))
        version = body["v"]
        if not isinstance(version, int) or version < 1:
            raise ValueError(f"its format version is {version!r}")
        if version > VERSION:
            raise Newer(f"its format is {version}, this dsqlcdc knows {VERSION}: use a newer dsqlcdc")
        return _letter(body)
    except (OSError, EOFError, zlib.error, KeyError, TypeError, AttributeError, binascii.Error, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _letter(body: Mapping[str, Any]) -> DeadLetter:
    words = {theirs: ours for ours, theirs in _EVENT.items()}
    error, source = body["error"], body["source"]
    event: dict[str, Any] = body["event"]
    return DeadLetter(
        pipeline=body["pipeline"],
        sink=body["sink"],
        stream=source["stream"],
        shard=source["shard"],
        sequence=source["seq"],
        arrived=float(source["arrival"]),
        code=error["code"],
        detail=error["reason"],
        raw=base64.b64decode(body["raw_b64"], validate=True),
        id=body["id"],
        event={words.get(name, name): value for name, value in event.items()},
        images={name: base64.b64decode(image, validate=True) for name, image in body["images_b64"].items()},
        attempts=error["attempts"],
        at=float(error["last_at"]),
        tries=tuple(error.get("tries", ())),
    )


def _plain(value: Any) -> Any:
    """What JSON can hold: other things as text, so that a strange key never keeps a letter from being written."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if value.bit_length() < _INTEGER_BITS else hex(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        items: list[tuple[Any, Any]] = list(value.items())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        return {str(name): _plain(item) for name, item in items}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return str(value)
