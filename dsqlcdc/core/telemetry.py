"""What a run can say of itself: plain counters, read when somebody asks, never pushed from the hot path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from dsqlcdc.contract import Digests
from dsqlcdc.core.lag import Spread
from dsqlcdc.core.ports import Gap


class Counts:
    """Counters of one run that the ledger does not keep. One owner: the pipeline."""

    def __init__(self, began_at: float) -> None:
        self.began_at = began_at
        self.bytes_read = 0
        self.remembered = 0
        self.retries: dict[str, int] = {}
        self.dead: dict[str, int] = {}
        self.letters = 0
        self.commits = 0
        self.committed_at = 0.0
        self.newest_settled_version = 0
        self.gaps = 0

    def retried(self, code: str) -> None:
        self.retries[code] = self.retries.get(code, 0) + 1


class ShardStatus(msgspec.Struct, frozen=True):
    """One shard as one pipeline sees it. `checkpoint` is the stored position as text; times in seconds since the epoch, 0 unknown."""

    shard: str
    start: str
    checkpoint: str
    checkpoint_arrived: float
    read: int
    open: int
    behind_ms: int
    read_to: float
    ended: bool


class Status(msgspec.Struct, frozen=True):
    """One pipeline at a moment. read == sum of settled + open.

    `retention_used`: the part (from 0) of the stream's retention that has gone by since nothing was owed. `alarm`: the level of it that was
    told because the sink stands still, 0 where it does not. `retention_left`: seconds until the oldest change owed is lost, None where nobody
    knows. `lag`: by leg (see core.lag). `circuit`: how the sink's circuit breaker stands, "" where it has none. `held`: changes of
    `open` that are held back for commit order; `late`: changes that came too late for it. `began_at` and `committed_at`: the run, and its last
    commit, in seconds since the epoch, 0 unknown. `digests`: None where the sink writes none.
    """

    pipeline: str
    sink: str
    stream: str
    state: str
    read: int
    bytes: int
    settled: Mapping[str, int]
    open: int
    in_flight_bytes: int
    batches: int
    retries: Mapping[str, int]
    dead: Mapping[str, int]
    letters: int
    remembered: int
    memory: int
    commits: int
    committed_at: float
    newest_version: int
    gaps: int
    shards: Sequence[ShardStatus]
    reason: str = ""
    retention_used: float = 0.0
    alarm: float = 0.0
    retention_left: float | None = None
    lag: Mapping[str, Spread] = {}
    circuit: str = ""
    held: int = 0
    late: int = 0
    began_at: float = 0.0
    digests: Digests | None = None


class Kept(msgspec.Struct, frozen=True):
    """What the stores held when they were last asked, at `at` (seconds since the epoch, 0 never). `gaps`: of the pipeline, from this run or an
    earlier one, acknowledged ones too. `parts` and `part_bytes`: pieces of oversized rows that wait."""

    pipeline: str
    gaps: Sequence[Gap] = ()
    parts: int = 0
    part_bytes: int = 0
    at: float = 0.0

    @property
    def owed(self) -> Sequence[Gap]:
        """Gaps that nobody has acknowledged."""
        return [gap for gap in self.gaps if not gap.acked]
