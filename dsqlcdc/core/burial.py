"""Burial: a record is DEAD only after its dead letter is durable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dsqlcdc.contract import Change, Setback
from dsqlcdc.core.patience import Patience
from dsqlcdc.core.ports import DeadLetter, DeadLetterStore, Name, Part
from dsqlcdc.core.records import Record
from dsqlcdc.core.tables import Bad, describe_change
from dsqlcdc.core.telemetry import Counts

_REASON = 4096


class Burial:
    """Writes the dead letters of one run, waiting out a store that cannot be written.

    `place`: shard, sequence number and arrival of the record that a change's letter is named by: the same in every run, or a crash between
    letter and commit would leave two letters of one change.
    """

    def __init__(
        self,
        name: Name,
        store: DeadLetterStore,
        patience: Patience,
        counts: Counts,
        clock: Callable[[], float],
        place: Callable[[Change], tuple[str, str, float]],
    ) -> None:
        self._name, self._store, self._patience, self._counts, self._clock, self._place = name, store, patience, counts, clock, place

    async def record(self, shard: str, record: Record, bad: Bad) -> None:
        """A record that is bad before routing: its letter's name is free of the sink."""
        await self._put(shard, record.sequence_number, record.arrived, bad, record.data)

    async def parts(self, parts: Sequence[Part], bad: Bad) -> None:
        """Every record of an oversized row, a letter each."""
        for part in parts:
            await self._put(part.shard, part.sequence, part.arrived, bad, part.raw)

    async def change(self, change: Change, setback: Setback, attempts: int) -> None:
        """A change the sink refused."""
        bad = Bad(setback.code or "refused", setback.detail, describe_change(change))
        await self._put(
            *self._place(change),
            bad,
            change.raw,
            sink=self._name.sink,
            id=change.id.hex(),
            images=change.assembled or {},
            attempts=attempts,
        )

    async def _put(
        self,
        shard: str,
        sequence: str,
        arrived: float,
        bad: Bad,
        raw: bytes,
        *,
        sink: str = "",
        id: str = "",
        images: Mapping[str, bytes] | None = None,
        attempts: int = 1,
    ) -> None:
        letter = DeadLetter(
            pipeline=self._name.pipeline,
            sink=sink,
            stream=self._name.stream,
            shard=shard,
            sequence=sequence,
            arrived=arrived,
            code=bad.code,
            detail=bad.detail[:_REASON],
            raw=raw,
            id=id,
            event=bad.event,
            images=images or {},
            attempts=attempts,
            at=self._clock(),
        )
        self._counts.dead[bad.code] = self._counts.dead.get(bad.code, 0) + 1
        if await self._patience.ask(lambda: self._store.put(letter)):
            self._counts.letters += 1
