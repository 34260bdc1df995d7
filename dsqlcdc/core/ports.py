"""The few ports of the core: where pages come from, where checkpoints, pieces and dead letters are kept."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

from dsqlcdc.core.records import Mark, Page


class Name(msgspec.Struct, frozen=True):
    """Whose state it is. `stream` is the stream's name with its creation time, so that a stream re-created under its name starts anew."""

    pipeline: str
    sink: str
    stream: str

    @property
    def reserved(self) -> bool:
        """It is no sink's: something else of the pipeline is kept here, under a word that no sink can be named."""
        return self.sink.startswith(".")


class Memory(msgspec.Struct, frozen=True):
    """What a sequencer wants remembered of one commit: an opaque blob of its `kind`, and the newest arrival time (seconds) in it."""

    kind: str
    newest: float
    blob: bytes


GAP_KINDS = ("trimmed", "incomplete", "reset", "replaced", "recreated")
"""What a gap may be of."""


class Gap(msgspec.Struct, frozen=True):
    """Changes that may have been lost, with bounds. `id` is the same whenever the same gap is found again.

    `kind`: one of GAP_KINDS. `after` and `until`: positions, as far as known (of a CDC stream that was recreated: the ids of the old and the
    new one); `from_time` and `to_time`: seconds since the epoch, 0 where unknown; no end is before the beginning. `acked`: the reason
    given by whoever acknowledged it, "" while nobody has.
    """

    id: str
    pipeline: str
    sink: str
    stream: str
    kind: str
    shard: str
    after: str = ""
    until: str = ""
    from_time: float = 0.0
    to_time: float = 0.0
    detail: str = ""
    found_at: float = 0.0
    acked: str = ""
    acked_at: float = 0.0


class Checkpoint(msgspec.Struct, frozen=True):
    """What is stored for a Name: each shard's mark, the sequencer's memories (oldest first), the sink's word."""

    marks: Mapping[str, Mark]
    memories: Sequence[Memory] = ()
    word: bytes = b""


class Commit(msgspec.Struct, frozen=True):
    """One step forward, stored whole or not at all.

    `marks`: the shards that moved. `memory`: what was settled since the last commit. `horizon`: memories whose newest is before it may be
    dropped. `word`: None leaves the stored one. `forget`: shards whose marks may go (see Source.forgettable).
    """

    marks: Mapping[str, Mark]
    memory: Memory | None = None
    horizon: float = 0.0
    word: bytes | None = None
    forget: Sequence[str] = ()


class CheckpointStore(Protocol):
    """Checkpoints and gaps. Every method raises Unavailable when the store cannot be asked just now, Misconfigured when never."""

    remembers: bool
    """Memories are kept. Where not, the source reads the last `lateness` again at start (design: "warm-up")."""

    async def hold(self, name: Name) -> None:
        """Become the one runner of this pipeline and sink until close, or until the process dies. Raises Held, naming who has it."""
        ...

    async def load(self, name: Name) -> Checkpoint | None:
        """What the last commit left; None where there was none."""
        ...

    async def commit(self, name: Name, commit: Commit) -> None:
        """Store, durably and atomically. A mark never moves back: a commit that would is refused with Misconfigured, whole."""
        ...

    async def names(self) -> Sequence[Name]: ...

    async def record_gap(self, gap: Gap) -> Gap:
        """Store durably; where a gap of this id is stored already, that one is kept and given back (acknowledged or not)."""
        ...

    async def gaps(self, pipeline: str) -> Sequence[Gap]: ...

    async def ack_gap(self, pipeline: str, id: str, reason: str, at: float) -> Gap:
        """Acknowledge; raises KeyError for an unknown id. Acknowledging twice keeps the first reason."""
        ...

    async def end_gap(self, pipeline: str, id: str, *, until: str, to_time: float) -> Gap:
        """Say where a gap ends that was recorded before anybody knew; one that has an end keeps it. Raises KeyError for an unknown id."""
        ...

    async def close(self) -> None: ...


class ResettableStore(CheckpointStore, Protocol):
    """A store whose marks may be set anew on request: the one way for a mark to move back, and never a runner's."""

    async def reset(self, name: Name, marks: Mapping[str, Mark], *, gaps: Sequence[Gap] = (), forget: bool = False) -> None:
        """Set these marks as they are, drop the sink's word (it says what need not be known), record the gaps: all or nothing, durably.

        `forget` drops the memories too. Other shards' marks stay. Raises Misconfigured (E208) unless this store holds the name's lock,
        KeyError where the name has no checkpoint.
        """
        ...


class Spill(Protocol):
    """Room on disk for what is held back in memory's stead. Nothing in it is needed by another run: it goes with the process."""

    async def put(self, bodies: Sequence[bytes]) -> Sequence[int]:
        """Keep these; a number for each. Raises Misconfigured where the disk is full or cannot be written: then none is kept."""
        ...

    async def take(self, number: int) -> bytes:
        """Give one back, and its room with it. Raises Misconfigured where it cannot be read."""
        ...

    async def close(self) -> None: ...


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A record that can never be delivered, with its exact bytes. `sink` is "" where it was bad before routing.

    `code`: a short word (unreadable, checksum, incomplete, no_key, bad_row, or the sink's own). `event`: cluster, schema, table, key, version,
    transaction and op as far as they are known. `images`: for a reassembled row its image texts. Times are seconds since the epoch.
    `tries`: the attempts to replay it that failed, each with `at`, `code` and `detail`; they count as attempts.
    """

    pipeline: str
    sink: str
    stream: str
    shard: str
    sequence: str
    arrived: float
    code: str
    detail: str
    raw: bytes
    id: str = ""
    event: Mapping[str, Any] = {}
    images: Mapping[str, bytes] = {}
    attempts: int = 1
    at: float = 0.0
    tries: Sequence[Mapping[str, Any]] = ()


class DeadLetterStore(Protocol):
    """Raises Unavailable when a letter could not be stored just now: then nothing is settled."""

    async def put(self, letter: DeadLetter) -> bool:
        """Durable on return. False where a letter of this name is stored already: shard, sequence, code, and sink if it has one; of a row that
        was put together (with images) its id in place of shard and sequence."""
        ...

    def letters(self) -> AsyncIterator[tuple[str, DeadLetter]]:
        """Every letter with its name, oldest arrival day first."""
        ...

    async def letter(self, name: str) -> DeadLetter:
        """One letter by its name. Raises KeyError where there is none, ValueError where it cannot be read."""
        ...

    async def close(self) -> None: ...


class LetterBox(DeadLetterStore, Protocol):
    """A dead-letter store whose letters can be dealt with. What was dealt with is out of `letters`, and stays readable by its new name."""

    async def tried(self, name: str, code: str, detail: str, at: float) -> None:
        """Add a failed attempt to a letter, durably. Nothing where there is no such letter any more."""
        ...

    async def close_letter(
        self, name: str, folder: Literal["replayed", "discarded"], outcome: str, reason: str, at: float, *, keep: bool = False
    ) -> bool:
        """Move a letter to `{folder}/{name}`, with outcome, reason and time: first stored there, then removed here, durably.

        May be stopped anywhere and called again. False where there is no such letter any more. `keep`: stored there and not removed here yet;
        letters that belong together are all stored before the first is removed.
        """
        ...


class Part(msgspec.Struct, frozen=True):
    """One record of an oversized row, exactly as received.

    A piece: `chunk_id`, `index`, `text` (its slice of the image text as UTF-8). A main record: index -1, `text` empty, `needs` what it names:
    by image ("before", "after") the chunk id, the number of pieces and the CRC-32C; chunk_id is then the first of these chunk ids.
    """

    chunk_id: str
    index: int
    raw: bytes
    text: bytes
    shard: str
    sequence: str
    arrived: float
    needs: Mapping[str, Need] = {}


class Need(msgspec.Struct, frozen=True):
    """A cut image, as its main record describes it."""

    chunk_id: str
    total: int
    crc32c: int


class Parked(msgspec.Struct, frozen=True):
    """What the store says of the row a part belongs to, after the part was added.

    waiting: parts are missing. complete: all are there, and this sink is not done with it. done: this sink is done with it (the part was not
    stored again). refused: the part contradicts what is stored (`why`). `row` names the row: the chunk id of its main record, "" while the
    main record is unknown.
    """

    state: Literal["waiting", "complete", "done", "refused"]
    row: str = ""
    why: str = ""


class FragmentStore(Protocol):
    """Parts of oversized rows, for the whole process: all sinks share the parts, each sink has its own done markers and verdicts."""

    durable: bool
    """What was added survives the process: the part may be settled as PARKED."""

    async def add(self, sink: str, part: Part) -> Parked:
        """Store a part, durably where `durable`. The same part again replaces itself."""
        ...

    async def row(self, row: str) -> Sequence[Part]:
        """All parts of a row that is complete: the main record first, then by chunk id and index."""
        ...

    async def done(self, sink: str, rows: Sequence[str]) -> None:
        """This sink is done with these rows, durably. Parts go when every sink is done; the markers stay, so that a part that comes again
        is known."""
        ...

    async def overdue(self, sink: str, before: float) -> Sequence[Part]:
        """Parts of rows (or of no known row) that are incomplete, on which this sink has passed no verdict, and of which the newest part
        arrived before `before` (seconds), or which are the oldest beyond the store's `max_bytes`."""
        ...

    async def judged(self, sink: str, chunk_ids: Sequence[str]) -> None:
        """This sink has passed its verdict (incomplete) on the rows of these chunk ids. The parts stay while there is room: one that comes
        later still completes the row."""
        ...

    async def waiting(self) -> tuple[int, int]:
        """(parts, bytes) that wait."""
        ...

    async def close(self) -> None: ...


@runtime_checkable
class SharedFragmentStore(FragmentStore, Protocol):
    """A durable store that several processes use at once, for one sink too, where each record is read again until it is settled.

    `complete` is said to one record of a row, and to it as often as it comes again, whoever reads it; to others `waiting`: that one is owed
    until the row is settled.
    """

    async def unfinished(self, sink: str, age: float) -> Sequence[str]:
        """Rows that are complete and with which this sink is not done, though nothing was stored of them for `age` seconds, by the store's own
        clock: the record that was to deliver them does not come again. To be delivered, and marked done, by whoever asks."""
        ...

    async def carrier(self, sink: str, row: str) -> Part | None:
        """The main record of a complete row, at the position of the record that was to deliver it for this sink (at its own where none was
        chosen yet): added once more, it is told `complete`. None where the row is not complete, or no longer."""
        ...


class Source(Protocol):
    """Where pages come from and where the frontier goes, for one run of one pipeline."""

    stream: str
    """The stream's name with its creation time, as in Name.stream."""
    whole: bool
    """Every shard of the stream is seen."""

    async def start(self, checkpoint: Checkpoint | None, *, warm_up: float | None) -> Mapping[str, Mark]:
        """Resolve where every shard begins; these marks are persisted before the first page is taken.

        `warm_up`: seconds before the oldest mark from which settled records are read again, as pages with `remember`; None where the store
        remembers. Raises Misconfigured, Unavailable, Lost.
        """
        ...

    def pages(self) -> AsyncGenerator[Page, None]:
        """Pages of all shards, each shard's in order; pages to remember come before all others. Ends, where reading to the tip was asked
        for, when every shard has been read that far. Raises Misconfigured, Unavailable (after its own retries), Lost."""
        ...

    def forgettable(self) -> Sequence[str]:
        """Shards of the checkpoint whose marks may go: no longer listed, and read to the end or given up as a gap. Known after start."""
        ...

    def lineage(self) -> Mapping[str, Sequence[str]]:
        """The shards that are listed, read or not, each with its parents. Known after start."""
        ...

    def oldest_readable(self) -> float:
        """No record that arrived before this time (seconds) can be read again: the stream's retention."""
        ...

    def slowest(self) -> float:
        """The arrival time (seconds) up to which every shard has been read; a shard at its tip counts as read up to now."""
        ...

    async def close(self) -> None: ...
