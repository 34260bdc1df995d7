"""Column values as the change stream sends them: one drawing for each PostgreSQL type, its special values among them (spec §2)."""

from __future__ import annotations

import base64
import json
import random
import uuid
from collections.abc import Callable
from typing import Any

PLUS_INFINITY = 9223372036825200000
MINUS_INFINITY = -9223372036832400000
SPECIAL_FLOATS = ("NaN", "Infinity", "-Infinity")
_PLAIN = ("pear", "Grüße", "naïve", "日本語", "🙂 ok", "")
_AWKWARD = ('say "hi"', "back\\slash", "a/b%c", "line\nbreak", "\x01\x02", "tab\there", " lead")
_WORDS = _PLAIN + _AWKWARD

Draw = Callable[[random.Random], Any]


def _number(low: int, high: int) -> Draw:
    return lambda rng: rng.choice((low, high, 0)) if rng.random() < 0.1 else rng.randint(low, high)


def _text(rng: random.Random) -> str:
    return " ".join(rng.choices(_WORDS, k=rng.randint(1, 6)))


def _double(rng: random.Random) -> Any:
    return rng.choice(SPECIAL_FLOATS) if rng.random() < 0.2 else rng.uniform(-1e6, 1e6)


def _numeric(rng: random.Random) -> str:
    if rng.random() < 0.1:
        return rng.choice(SPECIAL_FLOATS)
    return f"{rng.randint(-(10**20), 10**20)}.{rng.randint(0, 10**9 - 1):09d}"


def _timestamp(rng: random.Random) -> int:
    if rng.random() < 0.2:
        return rng.choice((PLUS_INFINITY, MINUS_INFINITY, 400_000 * 365 * 86_400_000_000 // 10))
    return rng.randint(0, 2 * 10**15)


def _json(rng: random.Random) -> str:
    return json.dumps({"n": rng.randint(0, 9), "word": rng.choice(_WORDS), "list": [1, None, True]}, ensure_ascii=rng.random() < 0.5)


def _bytea(rng: random.Random) -> str:
    return base64.b64encode(rng.randbytes(rng.randint(0, 40))).decode()


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


DRAWS: dict[str, Draw] = {
    "smallint": _number(-(2**15), 2**15 - 1),
    "integer": _number(-(2**31), 2**31 - 1),
    "bigint": _number(-(2**63), 2**63 - 1),
    "oid": _number(0, 2**32 - 1),
    "real": lambda rng: rng.choice(SPECIAL_FLOATS) if rng.random() < 0.2 else rng.randint(-8000, 8000) / 8,
    "double": _double,
    "numeric": _numeric,
    "boolean": lambda rng: rng.random() < 0.5,
    "varchar": _text,
    "text": _text,
    "name": lambda rng: rng.choice(_WORDS),
    "char": lambda rng: rng.choice("abcxyz"),
    "bpchar": lambda rng: _text(rng).rstrip(" "),
    "bytea": _bytea,
    "date": lambda rng: rng.randint(-700_000, 40_000),
    "time": lambda rng: rng.randrange(86_400_000_000),
    "timetz": lambda rng: rng.randrange(86_400_000_000),
    "timestamp": _timestamp,
    "timestamptz": _timestamp,
    "interval": lambda rng: rng.randint(-12, 120) * 2_629_800_000_000 + rng.randrange(10**9),
    "uuid": _uuid,
    "json": _json,
    "oidvector": lambda _rng: [],
}
