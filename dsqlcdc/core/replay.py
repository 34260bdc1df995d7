"""Replay: dead records down the same road again, but past what the sequencer remembers: it would call them duplicates of themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from dsqlcdc.contract import Batching, Change, Outcome, Setback, Sink, Verdict
from dsqlcdc.core.deliver import Delivery, Room
from dsqlcdc.core.intake import NO_KEY
from dsqlcdc.core.mask import Masked
from dsqlcdc.core.patience import Patience
from dsqlcdc.core.ports import DeadLetter, Part
from dsqlcdc.core.reassemble import texts
from dsqlcdc.core.records import Record
from dsqlcdc.core.route import Route
from dsqlcdc.core.tables import Bad, Tables

_ROOM = 1 << 62

INCOMPLETE = Bad("incomplete", "parts of this oversized row are missing among the letters")


class Answer(msgspec.Struct, frozen=True):
    """What a sink made of a change: an outcome, and for DEAD why."""

    outcome: Outcome
    code: str = ""
    detail: str = ""


Answers = dict[str, Answer]
"""By sink."""


def read(tables: Tables, letter: DeadLetter) -> Change | Part | Bad:
    """What the dead record is today: a change, a part of an oversized row whose letters must come together, or still bad.

    A change without a key keeps the id it died with.
    """
    item = tables.read(letter.shard, Record(letter.sequence, letter.raw, letter.arrived))
    if isinstance(item, Part) and letter.images:
        if not item.needs.keys() <= letter.images.keys():
            return INCOMPLETE
        item = tables.assembled(item, {name: [letter.images[name]] for name in item.needs})
    if isinstance(item, Change) and item.key_image is None and len(letter.id) == 32:
        try:
            item = msgspec.structs.replace(item, id=bytes.fromhex(letter.id))
        except ValueError:
            return item
    return item


def rows(parts: Mapping[str, Part]) -> list[tuple[list[str], bool]]:
    """Letters by name, gathered to rows: a main record's name first, then all others', copies too; and whether the row is complete.

    A piece whose main record is no letter is a row of its own, incomplete.
    """
    pieces: dict[tuple[str, int], list[str]] = {}
    mains: dict[str, list[str]] = {}
    for name, part in parts.items():
        if part.index >= 0:
            pieces.setdefault((part.chunk_id, part.index), []).append(name)
        else:
            mains.setdefault(part.chunk_id, []).append(name)
    found: list[tuple[list[str], bool]] = []
    for main, *copies in mains.values():
        wanted = [(need.chunk_id, index) for need in parts[main].needs.values() for index in range(need.total)]
        gathered = [pieces.pop(place, []) for place in wanted]
        found.append(([main, *(name for names in gathered for name in names), *copies], all(gathered)))
    return found + [([name], False) for names in pieces.values() for name in names]


def join(tables: Tables, parts: Sequence[Part]) -> Change | Bad:
    """The change of a complete row, its main record first. It has the position of the part that came last, as in the pipeline."""
    unique = {(part.chunk_id, part.index): part for part in reversed(parts) if part.index >= 0}
    change = tables.assembled(parts[0], texts([parts[0], *unique.values()]))
    if isinstance(change, Bad):
        return change
    last = max(parts, key=lambda part: part.arrived)
    return msgspec.structs.replace(change, shard=last.shard, sequence=last.sequence, arrived=last.arrived)


def takers(change: Change, sink: str, routes: Mapping[str, Route]) -> list[str]:
    """The sinks that take a change: the one that refused it, or every one where it was bad before routing; none that is not routed."""
    asked = [sink] if sink else list(routes)
    return [name for name in asked if name in routes and routes[name].takes_table(change.table) and change.op in routes[name].operations()]


def replayable(sink: Sink) -> bool:
    """May old changes be written to it? Not where it cannot tell stale from fresh and has no way of its own."""
    inner = sink.inner if isinstance(sink, Masked) else sink
    return not inner.needs_order or type(inner).replay is not Sink.replay


class Replaying(Sink):
    """A sink whose `write` is the replay of another: so the rules of delivery hold for replays as for anything else."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.batching = Batching(sink.batching.bytes, sink.batching.records, 0.0)

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        return await self._sink.replay(changes)


class Replay:
    """Delivers changes to sinks that have been entered, and says what each came to."""

    def __init__(self, sinks: Mapping[str, Sink], patience: Patience) -> None:
        self._sinks, self._patience = sinks, patience

    async def deliver(self, changes: Sequence[tuple[Change, Sequence[str]]], answered: Callable[[int, str, Answer], None]) -> None:
        """Deliver changes, each to the sinks named with it; `answered` is told of each as it happens, by index and sink.

        Raises Stopped, Misconfigured, Poisoned: what was not answered is still owed. Cancelled: the same.
        """
        for name, sink in self._sinks.items():
            mine = [n for n, (_, targets) in enumerate(changes) if name in targets]
            mine.sort(key=lambda n: changes[n][0].version)
            if sink.needs_key:
                for n in [n for n in mine if changes[n][0].key_image is None]:
                    answered(n, name, Answer(Outcome.DEAD, NO_KEY.code, NO_KEY.detail))
                    mine.remove(n)
            if mine:
                await self._to(name, sink, [changes[n][0] for n in mine], mine, answered)

    async def _to(
        self, name: str, sink: Sink, changes: Sequence[Change], places: Sequence[int], answered: Callable[[int, str, Answer], None]
    ) -> None:
        reasons: dict[tuple[bytes, str, str], Setback] = {}

        def settle(changes: Sequence[Change], debts: Sequence[int], outcome: Outcome) -> None:
            for change, place in zip(changes, debts, strict=True):
                why = reasons.get(_copy(change), Setback(0, Verdict.DEAD)) if outcome is Outcome.DEAD else Setback(0, Verdict.DUPLICATE)
                answered(place, name, Answer(outcome, why.code, why.detail))

        async def bury(change: Change, setback: Setback, attempts: int) -> None:
            reasons[_copy(change)] = msgspec.structs.replace(setback, code=setback.code or "refused")

        delivery = Delivery(Replaying(sink), f"sink {name}", settle=settle, bury=bury, room=Room(_ROOM), patience=self._patience)
        delivery.offer(changes, places)
        delivery.close()
        try:
            await delivery.run()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None


def _copy(change: Change) -> tuple[bytes, str, str]:
    return change.id, change.shard, change.sequence
