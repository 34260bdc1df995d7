"""One shard: its records, how they are numbered, read, throttled and trimmed."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

import msgspec

from dsqlcdc.local.refusal import Refusal, bad_argument

HASH_SPACE = 2**128
STEP = 65_537
"""Sequence numbers of a shard lie this far apart: they grow, and are not dense, as on AWS."""
READ_BYTES = 2 * 1024 * 1024
WRITE_BYTES = 1024 * 1024
REPLY_BYTES = 10 * 1024 * 1024
REPLY_RECORDS = 10_000
FULL_REPLY = 10_000_000
"""A reply of 10 MB makes the shard refuse reads for the next five seconds."""


class Shard:
    """A shard. Records are numbered 1, 2, 3 … here; `sequence` turns that into the 56 digits that clients see.

    A record is kept as the JSON text that GetRecords gives, so a reply is a join. `first` is the number of the oldest record held.
    """

    def __init__(self, index: int, born: int, start: int, end: int, opened: float, parents: tuple[str, ...] = ()) -> None:
        self.id = f"shardId-{index:012d}"
        self.start, self.end = start, end
        self.opened, self.closed = opened, 0.0
        self.parents = parents
        self.children: list[Shard] = []
        self.born = born
        self.first = 1
        self.empty_reads = 0
        self._prefix = f"49{born:013d}{index:06d}"
        self._rendered: list[bytes] = []
        self._sizes: list[int] = []
        self._arrived: list[float] = []
        self._reads: deque[float] = deque(maxlen=5)
        self._read_credit, self._read_at, self._refuse_until = float(READ_BYTES), 0.0, 0.0
        self._write_bytes, self._write_records, self._write_at = float(WRITE_BYTES), 1000.0, 0.0

    def sequence(self, number: int) -> str:
        return f"{self._prefix}{number * STEP:035d}"

    @property
    def next(self) -> int:
        """The number that the next record gets."""
        return self.first + len(self._rendered)

    @property
    def ending(self) -> str | None:
        return self.sequence(self.next) if self.closed else None

    def number(self, sequence: str, *, after: bool = False) -> int:
        """The first record held at (or `after`) this sequence number. Refused: a number that this shard can never have given.

        A trimmed number leads to the oldest record held, without an error, as on AWS.
        """
        if len(sequence) != 56 or not (sequence.isascii() and sequence.isdigit() and sequence.startswith(self._prefix)):
            why = "is invalid because it did not come from this stream"
            raise bad_argument(f"StartingSequenceNumber {sequence} used in GetShardIterator on shard {self.id} {why}.")
        number, rest = divmod(int(sequence[len(self._prefix) :]), STEP)
        if number > (self.next if self.closed else self.next - 1) or (rest and number == self.next):
            raise bad_argument(f"StartingSequenceNumber {sequence} is beyond the last one of shard {self.id}.")
        return max(number + 1 if rest or after else number, self.first)

    def number_at(self, timestamp: float) -> int:
        """The first record held that arrived at this time or later."""
        return self.first + bisect_left(self._arrived, timestamp)

    def holds(self, hash_key: int) -> bool:
        return self.start <= hash_key <= self.end

    def put(self, data: str, partition_key: str, size: int, now: float, encryption: str | None = None) -> str:
        """Append a record (data in base64, `size` counted with the partition key); its sequence number."""
        arrived = self._arrived[-1] if self._arrived and self._arrived[-1] > now else round(now, 3)
        sequence = self.sequence(self.next)
        suffix = f',"EncryptionType":"{encryption}"}}' if encryption else "}"
        head = f'{{"SequenceNumber":"{sequence}","ApproximateArrivalTimestamp":{arrived:.3f},"Data":"'
        self._rendered.append(f'{head}{data}","PartitionKey":{quoted(partition_key)}{suffix}'.encode())
        self._sizes.append(size)
        self._arrived.append(arrived)
        return sequence

    def read(self, number: int, limit: int, now: float) -> tuple[list[bytes], int, int]:
        """(records as JSON texts, the number to go on from, milliseconds behind the tip)."""
        index = max(number, self.first) - self.first
        if self.empty_reads and index < len(self._rendered):
            self.empty_reads -= 1
            return [], number, max(1, int((now - self._arrived[index]) * 1000))
        stop, size = index, 0
        while stop < len(self._rendered) and stop - index < limit:
            size += self._sizes[stop]
            if size > REPLY_BYTES and stop > index:
                size -= self._sizes[stop]
                break
            stop += 1
        self._spend_read(size, now)
        behind = 0
        if stop < len(self._rendered):
            behind = max(1, int((now - self._arrived[max(stop - 1, index)]) * 1000))
        return self._rendered[index:stop], self.first + stop, behind

    def check_read(self, now: float) -> None:
        """Refuse a read above five calls or 2 MB a second, or within five seconds of a reply of 10 MB."""
        credit = min(READ_BYTES, self._read_credit + (now - self._read_at) * READ_BYTES)
        full = len(self._reads) == 5 and now - self._reads[0] < 1.0
        if full or credit <= 0 or now < self._refuse_until:
            raise Refusal("ProvisionedThroughputExceededException", f"Rate exceeded for shard {self.id}.")
        self._reads.append(now)

    def _spend_read(self, size: int, now: float) -> None:
        self._read_credit = min(READ_BYTES, self._read_credit + (now - self._read_at) * READ_BYTES) - size
        self._read_at = now
        if size >= FULL_REPLY:
            self._refuse_until = now + 5.0

    def may_write(self, size: int, now: float) -> bool:
        """Whether this record fits into 1 MB and 1,000 records a second; takes its share when it does. A record above 1 MB borrows."""
        passed = now - self._write_at
        self._write_bytes = min(WRITE_BYTES, self._write_bytes + passed * WRITE_BYTES)
        self._write_records = min(1000.0, self._write_records + passed * 1000.0)
        self._write_at = now
        if self._write_records < 1 or self._write_bytes < min(size, WRITE_BYTES):
            return False
        self._write_bytes -= size
        self._write_records -= 1
        return True

    def trim(self, number: int) -> int:
        """Forget the records before this number; how many there were."""
        count = min(max(number - self.first, 0), len(self._rendered))
        del self._rendered[:count], self._sizes[:count], self._arrived[:count]
        self.first += count
        return count

    def trim_before(self, timestamp: float) -> int:
        return self.trim(self.number_at(timestamp)) if self._arrived and self._arrived[0] < timestamp else 0

    def describe(self) -> dict[str, object]:
        numbers = {"StartingSequenceNumber": self.sequence(0)}
        if self.closed:
            numbers["EndingSequenceNumber"] = self.sequence(self.next)
        out: dict[str, object] = {"ShardId": self.id}
        if self.parents:
            out["ParentShardId"] = self.parents[0]
        if len(self.parents) > 1:
            out["AdjacentParentShardId"] = self.parents[1]
        return out | {"HashKeyRange": self.hash_range(), "SequenceNumberRange": numbers}

    def hash_range(self) -> dict[str, str]:
        return {"StartingHashKey": str(self.start), "EndingHashKey": str(self.end)}


def quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()
