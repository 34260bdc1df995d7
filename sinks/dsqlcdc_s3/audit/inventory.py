"""What is known of each name of a lake: told as it is met, in any order, and put together name by name at the end, on disk in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from dsqlcdc_s3.audit.spill import Spill, mark

Kind = Literal[
    "there", "hidden", "versions", "named", "input", "found", "replaced", "voided", "missing", "empty", "wrong", "digest", "seal", "sealed"
]
"""there, hidden, versions: by the list of names (`text`: what of it). named: by a manifest (`text`: the hash of a part). input: as a part of a
compacted object (`text`: its hash), found: there it is, as it should be. replaced: by a compaction, which may have deleted it. voided: a
manifest says so. missing, empty, wrong (`text`: how): so its object was met. digest: one is there; seal: a manifest that one belongs to.
sealed: named by a digest (`text`: its hash)."""


class Fact(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`n`: the number of the manifest it belongs to, 0 beside the chain. `open`: nobody has said yet what becomes of it."""

    kind: Kind
    key: str
    n: int = 0
    text: str = ""
    open: bool = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Fact).decode


class Inventory:
    """Facts by name. Used as a context manager; raises as Spill does."""

    def __init__(self) -> None:
        self._spill = Spill()

    def __enter__(self) -> Inventory:
        return self

    def __exit__(self, *_: object) -> None:
        self._spill.close()

    def add(self, kind: Kind, key: str, n: int = 0, text: str = "", *, open: bool = False) -> None:
        self._spill.add((mark(key) + _encode(Fact(kind, key, n, text, open)) + b"\n",))

    def names(self) -> Iterator[tuple[str, Sequence[Fact]]]:
        """Each name with its facts, in no order."""
        for group in self._spill.groups():
            found: dict[str, list[Fact]] = {}
            for line in group:
                fact = _decode(memoryview(line)[16:])
                found.setdefault(fact.key, []).append(fact)
            yield from found.items()
