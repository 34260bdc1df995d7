"""What a verification finds, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

Kind = Literal["altered", "missing", "gap", "note"]
"""altered, missing: the lake is not what was written (exit 1). gap: what is known not to be in it (exit 3). note: nothing is wrong."""
_LIMIT = 10_000
"""Findings that are kept one by one; what is more is counted."""


class Finding(msgspec.Struct, frozen=True):
    """`where`: the object's key, or the shard. `code`: a short word that stays the same."""

    kind: Kind
    code: str
    where: str
    what: str


class Report(msgspec.Struct, kw_only=True):
    """What was judged, and what was found.

    Of all runs together: read = Σ settled + open + left; what was `left` was open when a run ended, and was read again by the next.
    `unproved`: what no verification of this lake can say, in sentences. `skipped`: objects that a verification which was stopped had found to be
    as they should be, and are as they were; they are counted in all else. With `deep`: `sent_again`: rows that stand once more, as DSQL sent
    their changes again; `copies`: rows that stand in a compacted object too; `unmade`: rows without a key whose ids cannot be made again.
    """

    pipeline: str
    sink: str
    place: str
    first: int = 0
    last: int = 0
    sealed: int = 0
    since: str = ""
    until: str = ""
    manifests: int = 0
    digests: int = 0
    signed: int = 0
    signers: list[str] = []
    objects: int = 0
    void: int = 0
    rows: int = 0
    bytes: int = 0
    uncompressed_bytes: int = 0
    shards: int = 0
    read: int = 0
    settled: dict[str, int] = {}
    open: int = 0
    left: int = 0
    deep: bool = False
    skipped: int = 0
    sent_again: int = 0
    copies: int = 0
    unmade: int = 0
    findings: list[Finding] = []
    more: int = 0
    unproved: list[str] = []
    _bad: int = 0
    _gaps: int = 0

    def add(self, kind: Kind, code: str, where: str, what: str) -> None:
        if kind in ("altered", "missing"):
            self._bad += 1
        elif kind == "gap":
            self._gaps += 1
        if len(self.findings) < _LIMIT:
            self.findings.append(Finding(kind, code, where, what))
        else:
            self.more += 1

    def in_order(self, begun: int) -> None:
        """Put what was found since there were so many findings in order of where it is."""
        self.findings[begun:] = sorted(self.findings[begun:], key=lambda one: one.where)

    @property
    def verdict(self) -> Literal["whole", "whole with declared gaps", "altered or missing"]:
        if self._bad:
            return "altered or missing"
        return "whole with declared gaps" if self._gaps else "whole"

    @property
    def exit_code(self) -> int:
        return {"whole": 0, "whole with declared gaps": 3, "altered or missing": 1}[self.verdict]

    def as_json(self) -> dict[str, Any]:
        body: dict[str, Any] = {"verdict": self.verdict, **msgspec.to_builtins(self)}
        return {name: value for name, value in body.items() if not name.startswith("_")}


class Anchor(msgspec.Struct, frozen=True):
    """What the state store says, where it could be asked: the sink's word, each shard's committed position ("" unknown, "end"), and the gaps."""

    word: bytes
    positions: Mapping[str, str]
    gaps: Sequence[Mapping[str, Any]]
    stream: str = ""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be verified. `since` and `until`: seconds since the epoch, 0 for the ends of the chain.

    `public_keys`: files. `resume`: a file to note in how far it came; where it is "", one in the directory `keep`; "" for none. `fresh`: what was
    noted before does not count.
    """

    since: float = 0.0
    until: float = 0.0
    deep: bool = False
    public_keys: Sequence[str] = ()
    resume: str = ""
    keep: str = ""
    fresh: bool = False
    anchor: Anchor | None = None
    parallel: int = 4


class Told(msgspec.Struct, frozen=True):
    """Progress: the step, how far it is, of how much (0 where unknown), and compressed bytes judged so far. `note`: something to be said once."""

    step: str
    done: int
    of: int
    bytes: int
    note: str = ""
