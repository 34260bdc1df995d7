"""Seeded worlds for the road: what was committed, and the stream that carries it: disorder, repeats, pieces, resharding."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from dsqlcdc.core.tables import Rule
from dsqlcdc.testing.memory import MemoryStream
from dsqlcdc.testing.records import chunked, full

RULES = {"app.*": Rule(key=("id",))}
LATENESS = 400.0
"""Seconds; every repeat and every latecomer of a world arrives well within it."""

Key = tuple[str, int]


@dataclass(frozen=True)
class Committed:
    """A change as the database committed it, and its records."""

    key: Key
    version: int
    row: dict[str, object] | None
    records: list[bytes]


@dataclass
class World:
    """A history and its stream, written bit by bit: what one life does not find, the next one does."""

    seed: int
    history: list[Committed] = field(default_factory=list)
    stream: MemoryStream = field(default_factory=MemoryStream)

    def __post_init__(self) -> None:
        rng = random.Random(self.seed)
        self.stream = MemoryStream(shards=rng.randint(1, 4))
        self._pending = self._arrivals(rng)
        self._rng = rng

    def _arrivals(self, rng: random.Random) -> list[bytes]:
        keys = [(f"app.t{n % 2}", n) for n in range(rng.randint(1, 6))]
        alive: dict[Key, bool] = {}
        placed: list[tuple[float, bytes]] = []
        for n in range(rng.randint(4, 28)):
            key, version = rng.choice(keys), 1_700_000_000_000_000_000 + n * 1000 + rng.randint(0, 999)
            change = self._commit(rng, key, version, alive.get(key, False))
            alive[key] = change.row is not None
            self.history.append(change)
            for record in change.records:
                place = n + rng.random() * rng.choice((0.5, 2, 8))
                placed.append((place, record))
                while rng.random() < 0.15:  # the same record again, under another sequence number
                    placed.append((place + rng.random() * 12, record))
        placed.sort(key=lambda item: item[0])
        return [record for _, record in placed]

    @staticmethod
    def _commit(rng: random.Random, key: Key, version: int, alive: bool) -> Committed:
        table, id = key
        if alive and rng.random() < 0.3:
            return Committed(key, version, None, [full("d", table, None, version, before={"id": id})])
        row: dict[str, object] = {"id": id, "text": f"v{version} é {'x' * rng.randint(0, 30)}"}
        op = "u" if alive else "c"
        if rng.random() < 0.25:
            before = {"id": id, "old": "y" * 30} if rng.random() < 0.2 else None
            return Committed(key, version, row, chunked(op, table, row, version, before=before, size=rng.randint(20, 60)))
        return Committed(key, version, row, [full(op, table, row, version)])

    @property
    def written(self) -> bool:
        return not self._pending

    def write(self, count: int) -> None:
        """Let some records arrive; now and then the stream is resharded."""
        for _ in range(min(count, len(self._pending))):
            if self._rng.random() < 0.03:
                self._reshard()
            shard = self._rng.choice(self.stream.open_shards()).name
            self.stream.put(shard, self._pending.pop(0), after=self._rng.choice((0.001, 1.0, 5.0)))

    def _reshard(self) -> None:
        shards = [shard.name for shard in self.stream.open_shards()]
        if len(shards) > 1 and self._rng.random() < 0.5:
            self.stream.merge(*self._rng.sample(shards, 2))
        elif len(self.stream.shards) < 10:
            self.stream.split(self._rng.choice(shards))

    @property
    def versions(self) -> set[tuple[Key, int]]:
        return {(change.key, change.version) for change in self.history}

    @property
    def newest(self) -> dict[Key, dict[str, object]]:
        """The database's state at the end."""
        state = {change.key: change.row for change in sorted(self.history, key=lambda change: change.version)}
        return {key: row for key, row in state.items() if row is not None}
