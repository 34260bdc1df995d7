"""The order of positions, and the law that a mark never moves back."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from dsqlcdc.core.ports import Name
from dsqlcdc.core.records import Mark, Position
from dsqlcdc.errors import Misconfigured

_KINDS = ("trim_horizon", "time", "after", "end")


def place(position: Position) -> tuple[int, int | float]:
    """A position's place in its shard's order: trim_horizon < time (by arrival) < after (by sequence number) < end.

    Raises ValueError for a sequence number that is not a decimal number.
    """
    kind = _KINDS.index(position.kind)
    if position.kind == "after":
        if not (position.sequence.isascii() and position.sequence.isdigit()):
            raise ValueError(f"{position.sequence!r} is not a sequence number")
        return kind, int(position.sequence)
    return kind, position.arrived if position.kind == "time" else 0


def advance(name: Name, stored: Mapping[str, Mark], marks: Mapping[str, Mark]) -> dict[str, Mark]:
    """The marks to store. `arrived` never falls: what was not owed stays not owed.

    Raises Misconfigured (E205) when one would move back, (E206) when a position cannot be compared.
    """
    moved: dict[str, Mark] = {}
    for shard, mark in marks.items():
        old = stored.get(shard)
        try:
            back = place(mark.position) < place(old.position if old else mark.position)
        except ValueError as error:
            run = "dsqlcdc checkpoint show CONFIG"
            raise Misconfigured("A checkpoint cannot be stored", where=_where(name, shard), why=str(error), run=run, code="E206") from None
        if old is not None and back:
            why = f"it stands at {old.position} and would move back to {mark.position}; is another runner at work?"
            raise Misconfigured(
                "A checkpoint would move back", where=_where(name, shard), why=why, run="dsqlcdc status CONFIG", code="E205"
            )
        moved[shard] = msgspec.structs.replace(mark, arrived=old.arrived) if old and old.arrived > mark.arrived else mark
    return moved


def _where(name: Name, shard: str) -> str:
    return f"{name.pipeline}/{name.sink}, {name.stream}, {shard}"
