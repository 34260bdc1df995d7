"""One Kinesis data stream: its shards, resharding, retention, and the settings that calls change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from dsqlcdc.local.clock import Clock
from dsqlcdc.local.refusal import Refusal, bad_argument
from dsqlcdc.local.shards import HASH_SPACE, Shard

ACCOUNT = "123456789012"
DAY = 24 * 3600.0


class Stream:
    """A stream. Its status follows the clock: CREATING and UPDATING end, and a DELETING stream is gone, `delay` seconds later."""

    def __init__(self, name: str, region: str, count: int, mode: str, max_record_kib: int, clock: Clock, delay: float) -> None:
        self.name, self.mode, self.max_record_kib = name, mode, max_record_kib
        self.arn = f"arn:aws:kinesis:{region}:{ACCOUNT}:stream/{name}"
        self.retention_hours = 24
        self.encryption: str | None = None
        self.key_id: str | None = None
        self.tags: dict[str, str] = {}
        self.created = clock.now()
        self.deleted = False
        self._clock, self._delay = clock, delay
        self._busy, self._busy_until = "CREATING", self.created + delay
        self._done: dict[str, list[float]] = {}
        self._born = 0
        self._made = 0
        self.shards: dict[str, Shard] = {}
        for start, end in even_ranges(count):
            self._open(start, end, self._generation())

    @property
    def status(self) -> str:
        return self._busy if self._clock.now() < self._busy_until else "ACTIVE"

    @property
    def gone(self) -> bool:
        return self.deleted and self._clock.now() >= self._busy_until

    def check_active(self) -> None:
        if self.status != "ACTIVE":
            why = f"Stream {self.name} under account {ACCOUNT} not ACTIVE, instead in state {self.status}"
            raise Refusal("ResourceInUseException", why)

    def begin(self, status: str) -> None:
        """Start a change that takes a while. Refused while another one is under way."""
        self.check_active()
        self._busy, self._busy_until = status, self._clock.now() + self._delay

    def spend(self, what: str, most: int) -> None:
        """Count a change that may be made `most` times within 24 hours. Refused beyond that."""
        now = self._clock.now()
        done = [at for at in self._done.get(what, []) if at > now - DAY]
        if len(done) >= most:
            why = f"{what} may be done {most} times within 24 hours on stream {self.name} under account {ACCOUNT}."
            raise Refusal("LimitExceededException", why)
        self._done[what] = [*done, now]

    def activate(self) -> None:
        """End CREATING or UPDATING at once."""
        self._busy_until = 0.0

    def delete(self) -> None:
        """Refused while it is made, changed or deleted."""
        self.check_active()
        self._busy, self._busy_until = "DELETING", self._clock.now() + self._delay
        self.deleted = True

    def open_shards(self) -> list[Shard]:
        return [shard for shard in self.shards.values() if not shard.closed]

    def shard(self, shard_id: str) -> Shard:
        found = self.shards.get(shard_id)
        if found is None:
            raise Refusal("ResourceNotFoundException", f"Shard {shard_id} in stream {self.name} under account {ACCOUNT} does not exist")
        return found

    def shard_for(self, partition_key: str, explicit: str | None = None) -> Shard:
        key = int(explicit) if explicit else int.from_bytes(hashlib.md5(partition_key.encode(), usedforsecurity=False).digest())
        if not 0 <= key < HASH_SPACE:
            raise bad_argument(f"Invalid ExplicitHashKey. {explicit} is not in the range of hash keys.")
        return next(shard for shard in self.shards.values() if not shard.closed and shard.holds(key))

    def expire(self) -> None:
        """Trim what is older than the retention; a closed shard whose time is over is no longer listed."""
        horizon = self._clock.now() - self.retention_hours * 3600
        for shard in list(self.shards.values()):
            shard.trim_before(horizon)
            if shard.closed and shard.closed < horizon:
                del self.shards[shard.id]

    def split(self, shard: Shard, at: int) -> tuple[Shard, Shard]:
        if shard.closed or not shard.start < at <= shard.end:
            raise bad_argument(f"NewStartingHashKey {at} does not split shard {shard.id}: it is not inside it, or the shard is closed.")
        born = self._generation()
        low = self._open(shard.start, at - 1, born, shard)
        return low, self._open(at, shard.end, born, shard)

    def merge(self, first: Shard, second: Shard) -> Shard:
        if first.closed or second.closed or (first.end + 1 != second.start and second.end + 1 != first.start):
            raise bad_argument(f"Shards {first.id} and {second.id} are not an adjacent pair of open shards eligible for merging")
        return self._open(min(first.start, second.start), max(first.end, second.end), self._generation(), first, second)

    def scale(self, target: int) -> None:
        """Uniform scaling, as the service does it: split at the boundaries that are missing, then merge across those too many."""
        wanted = even_ranges(target)
        for start, _ in wanted:
            holder = next(shard for shard in self.open_shards() if shard.holds(start))
            if holder.start != start:
                self.split(holder, start)
        for start, end in wanted:
            pieces = sorted((s for s in self.open_shards() if start <= s.start and s.end <= end), key=lambda s: s.start)
            merged = pieces[0]
            for piece in pieces[1:]:
                merged = self.merge(merged, piece)

    def _generation(self) -> int:
        """Children are numbered above their parents, in sequence numbers too."""
        self._born = max(self._born + 1, int(self._clock.now() * 1000))
        return self._born

    def _open(self, start: int, end: int, born: int, *parents: Shard) -> Shard:
        now = self._clock.now() if parents else self.created
        shard = Shard(self._made, born, start, end, now, tuple(parent.id for parent in parents))
        self._made += 1
        self.shards[shard.id] = shard
        for parent in parents:
            parent.closed = parent.closed or now
            parent.children.append(shard)
        return shard


def even_ranges(count: int) -> list[tuple[int, int]]:
    """The hash ranges of `count` equal shards."""
    return list(_even(count))


def _even(count: int) -> Iterator[tuple[int, int]]:
    for index in range(count):
        yield HASH_SPACE * index // count, HASH_SPACE * (index + 1) // count - 1
