"""Rows that are complete and that nobody delivers any more, as a Source: each comes as the record that was to deliver it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

from dsqlcdc.core.ports import Checkpoint, SharedFragmentStore
from dsqlcdc.core.records import TRIM_HORIZON, Mark, Page, Record


class ParkedSource:
    """A Source over what `SharedFragmentStore.unfinished` tells one sink, `most` rows at a time.

    A record comes at the position of the one that claimed its row: should that one come again after all, a sink that goes by positions meets
    the same change at the same place. `slowest` is the clock: nobody here knows how far the shards were read.
    """

    whole = False

    def __init__(
        self, store: SharedFragmentStore, sink: str, stream: str, *, age: float, clock: Callable[[], float], most: int = 100
    ) -> None:
        self._store, self._sink, self._age, self._clock, self._most = store, sink, age, clock, most
        self.stream = stream
        self._found: dict[str, list[Record]] = {}

    async def start(self, checkpoint: Checkpoint | None, *, warm_up: float | None) -> Mapping[str, Mark]:
        """Raises what the store raises."""
        self._found = {}
        for row in list(await self._store.unfinished(self._sink, self._age))[: self._most]:
            part = await self._store.carrier(self._sink, row)
            if part is not None:  # else somebody has finished it meanwhile
                self._found.setdefault(part.shard, []).append(Record(part.sequence, part.raw, part.arrived))
        return {shard: Mark(TRIM_HORIZON) for shard in self._found}

    async def pages(self) -> AsyncGenerator[Page, None]:
        for shard, records in self._found.items():
            yield Page(shard, sorted(records, key=lambda record: int(record.sequence_number)), self._clock(), behind=1)

    def lineage(self) -> Mapping[str, Sequence[str]]:
        return {}

    def forgettable(self) -> Sequence[str]:
        return ()

    def oldest_readable(self) -> float:
        return 0.0

    def slowest(self) -> float:
        return self._clock()

    async def close(self) -> None:
        return None
