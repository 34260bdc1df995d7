"""The contract: all that a sink's author imports. Standard library and msgspec only."""

from __future__ import annotations

import abc
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from types import TracebackType
from typing import Any, ClassVar, Self

import msgspec

from dsqlcdc.errors import Misconfigured, Unavailable

__all__ = [
    "Batching",
    "Change",
    "Context",
    "Digests",
    "Known",
    "Misconfigured",
    "Op",
    "Outcome",
    "Progress",
    "Resume",
    "Setback",
    "Sink",
    "Table",
    "Unavailable",
    "Verdict",
]


class Op(StrEnum):
    """What happened to the row. The values are the wire's codes; a code DSQL may add is an UPSERT (spec §2, "Envelope")."""

    INSERT = "c"
    UPDATE = "u"
    DELETE = "d"
    SNAPSHOT = "r"
    UPSERT = "?"

    @property
    def word(self) -> str:
        """The word users see: insert, update, delete, snapshot, upsert."""
        return self.name.lower()


class Outcome(StrEnum):
    """Every way for a record to leave the ledger. Also the metric label `outcome`."""

    DELIVERED = "delivered"
    STALE = "stale"
    DUPLICATE = "duplicate"
    UNROUTED = "unrouted"
    PARKED = "parked"
    DEAD = "dead"


class Verdict(StrEnum):
    """What a sink says of a change that did not simply go in."""

    STALE = "stale"
    DUPLICATE = "duplicate"
    RETRY = "retry"
    DEAD = "dead"


class Table(msgspec.Struct, frozen=True, cache_hash=True):
    """A table as the stream names it. `key` are the primary-key columns, None where none is configured."""

    cluster: str
    schema: str
    name: str
    key: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


_decode_row = msgspec.json.Decoder(dict[str, Any]).decode


class Change(msgspec.Struct, frozen=True, gc=False):
    """One committed change of one row.

    `id` is 16 bytes, the same for every delivery, retry and replay: a hash of cluster, schema, table, key and version; where no key is
    known, of the image and the record's position instead (then only a re-read record has the same id).
    `version` is source.ts_ns: nanoseconds since the epoch, the commit time and the order of changes.
    `key_image` is the JSON text of an object: the primary-key columns in the configured order and their values as sent; None where no key is
    known. `image` and `old_image` are the JSON text of the row after and before, in the form sinks write; None where there is none. They share
    memory with `raw`, the record exactly as received, until somebody decodes them, and are mostly looked for in it each time they are asked
    for: whoever needs one twice keeps it.
    `assembled` holds, for an oversized row, the reassembled image texts exactly as received, by "before" and "after".
    `arrived` is Kinesis's ApproximateArrivalTimestamp, seconds since the epoch. An oversized row has the position and arrival of the record
    that completed it, which answers for it; `raw` is its main record. `typed` is the row model's instance, if the table has one.
    Where columns of the table are masked for this sink, `raw` is empty and `typed` and `assembled` are None.
    `late`, with order `commit` only: changes committed after this one went to the sink before it.
    """

    id: bytes
    op: Op
    table: Table
    key_image: msgspec.Raw | None
    version: int
    transaction: str
    image: msgspec.Raw | None
    old_image: msgspec.Raw | None
    raw: bytes
    shard: str
    sequence: str
    arrived: float
    typed: Any = None
    assembled: Mapping[str, bytes] | None = None
    late: bool = False

    @property
    def key(self) -> dict[str, Any] | None:
        """Primary-key columns and their values as sent, or None."""
        return None if self.key_image is None else _decode_row(self.key_image)

    @property
    def row(self) -> dict[str, Any] | None:
        """The row after the change, decoded at each call; None for a delete. Always the whole row: replace, never merge (spec §5)."""
        return None if (image := self.image) is None else decode_image(image)

    @property
    def before(self) -> dict[str, Any] | None:
        """What was sent of the row before: for a delete its primary-key columns."""
        return None if (image := self.old_image) is None else decode_image(image)

    @property
    def size(self) -> int:
        """Bytes this change holds in memory, about: what batches and buffers count."""
        extra = sum(map(len, self.assembled.values())) if self.assembled else 0
        return len(self.raw) + extra + 500


UNREAD = msgspec.Raw(b"")
"""In place of an image that nobody has looked for yet: the one of a change's `raw`."""


class _Images(msgspec.Struct, gc=False):
    before: msgspec.Raw = UNREAD
    after: msgspec.Raw = UNREAD


_images = msgspec.json.Decoder(_Images).decode


def _on_demand(field: str, found: Callable[[_Images], msgspec.Raw]) -> property:
    """The field as it stands, or where UNREAD stands what `found` finds."""
    slot: Any = vars(Change)[field]

    def image(change: Change) -> msgspec.Raw | None:
        kept: msgspec.Raw | None = slot.__get__(change)
        return found(_images(change.raw)) if kept is UNREAD else kept

    return property(image)


# Finding an image costs a sixth of reading a record, and many a change goes by without anybody asking: duplicates, other tables, deletes.
type.__setattr__(Change, "image", _on_demand("image", lambda images: images.after))
type.__setattr__(Change, "old_image", _on_demand("old_image", lambda images: images.before))


def decode_image(image: msgspec.Raw) -> dict[str, Any]:
    """Decode an image's JSON object. Numbers that no float or int of msgspec holds come as decimal.Decimal."""
    try:
        return _decode_row(image)
    except msgspec.ValidationError:
        import json
        from decimal import Decimal

        row: dict[str, Any] = json.loads(bytes(image), parse_float=Decimal, parse_int=_integer)
        return row


def _integer(text: str) -> Any:
    from decimal import Decimal

    return int(text) if len(text) < 4000 else Decimal(text)


class Setback(msgspec.Struct, frozen=True):
    """What a sink says of one change that did not simply go in. `index` is its place in the batch given to write.

    RETRY: `after` seconds at the earliest, if the destination said so. DEAD: `code` (a short word) and `detail` (without secrets).
    """

    index: int
    verdict: Verdict
    code: str = ""
    detail: str = ""
    after: float | None = None


class Batching(msgspec.Struct, frozen=True):
    """When a batch is full: bytes as received, records, or age in seconds of its first change (monotonic clock), whichever comes first."""

    bytes: int = 4 * 1024 * 1024
    records: int = 10_000
    age: float = 0.2


class Known(msgspec.Struct, frozen=True):
    """A change that a sink found to be in already: its id and the arrival time (seconds) of its record.

    `version`: of this change or of the newest that it found, 0 where it does not say; with order `commit` what is older is late.
    """

    id: bytes
    arrived: float
    version: int = 0


class Progress(msgspec.Struct, frozen=True):
    """How far one shard was read in this run, and what became of it: cumulative counts since the run's start.

    `sequence` is the last record read, "" before the first; `start` says where reading began (a sequence number, "trim_horizon", a time).
    read == sum of settled + open. `frontier`: nothing at or before this sequence number is owed, and no restart from now on reads it again
    but to remember it; "" where nothing is known yet, "end" for the whole of a closed shard. It may lag. `arrived`: nothing that arrived at
    this shard up to then (seconds since the epoch) is owed; it moves on while the shard is read at its tip, and is 0 where nothing is known.
    `first` is the first record read in this run, "" before that.
    """

    shard: str
    start: str
    sequence: str
    read: int
    settled: Mapping[str, int]
    open: int
    ended: bool = False
    frontier: str = ""
    arrived: float = 0.0
    first: str = ""


def _no_lineage() -> Mapping[str, Sequence[str]]:
    return {}


async def _no_gaps() -> Sequence[Mapping[str, Any]]:
    return ()


def _no_dead() -> Mapping[str, int]:
    return {}


class Resume(msgspec.Struct, frozen=True):
    """What a sink is told at start.

    `word` is what the sink said last (Sink.word) with the last commit, b"" at first. `since`: no record that arrived before this time
    (seconds) can be read again, so what came in earlier need not be known. `progress` answers at any moment, per shard.

    What an account of the run is made of: `stream` is its name with its creation time; `lineage` the shards that are listed, read or not,
    each with its parents; `gaps` what this sink may have lost, each with id, kind, sink, stream, shard, after, until, from_time, to_time,
    detail and acked (it raises Unavailable); `dead` the dead letters of this run by code.
    """

    pipeline: str
    sink: str
    word: bytes
    since: float
    progress: Callable[[], Sequence[Progress]]
    stream: str = ""
    lineage: Callable[[], Mapping[str, Sequence[str]]] = _no_lineage
    gaps: Callable[[], Awaitable[Sequence[Mapping[str, Any]]]] = _no_gaps
    dead: Callable[[], Mapping[str, int]] = _no_dead


def _no_columns(table: str) -> Mapping[str, str] | None:
    return None


class Context(msgspec.Struct, frozen=True):
    """Where a sink is made: `factory(options, context)`, the callable that the entry point in the group `dsqlcdc.sinks` names.

    The factory checks its options and does no I/O. It raises ValueError (pydantic.ValidationError is one), which `config lint` reports with
    line and column. `region`, `profile` and `endpoint_url` are the config's `aws` block; `directory` is the config file's.
    `columns` gives, for a table's name `schema.table`, the PostgreSQL types of the columns by name, as this sink gets them (masked ones are
    text, dropped ones are left out); None where the table has no row model.

    `order` is the sink's, from the config (unique, latest, commit). With `commit` write is called by one lane, in commit order: what a sink
    sends of one batch it sends in the order given, and nothing past what did not go in.

    `whole` False (Lambda): other processes write at the same time, none of them sees every shard, and there is no checkpoint to keep a
    `word` with. The instance is entered once and serves one run after another, each of a few records of one shard, each begun by `resume`:
    nothing it judged before counts any more, and no task of its own may run between two of its calls.
    """

    pipeline: str
    sink: str
    directory: str = "."
    region: str | None = None
    profile: str | None = None
    endpoint_url: str | None = None
    columns: Callable[[str], Mapping[str, str] | None] = _no_columns
    whole: bool = True
    order: str = "unique"


class Digests(msgspec.Struct, frozen=True):
    """How the digests stand of a sink that proves what it wrote. Times in seconds since the epoch.

    `at`: when the period ended of the newest one that is there, 0 where none is known; `due`: by when the next must be there; `failed`:
    attempts of this run that failed, each of which is made again; `why`: what the last attempt met with, "" where that went well.
    """

    at: float
    due: float
    failed: int = 0
    why: str = ""


class Sink(abc.ABC):
    """A destination. One instance serves one run of one pipeline: entered once, left once (where not all is seen: see Context.whole).

    The pipeline promises: write is called with at least one change, `lanes` calls at the most are in flight at a time, and with
    `needs_order` changes of one key go down the same lane. A change may come again (same id) after a restart.
    """

    needs_key: ClassVar[bool] = False
    """Changes of tables without a known key become dead letters ("no_key") instead of reaching this sink."""
    needs_order: ClassVar[bool] = False
    """The destination cannot tell stale from fresh: changes of one key must come in order. Refused where not all shards are seen."""
    order: ClassVar[str] = "unique"
    """The default of the config key `order`: unique, latest or commit."""
    lanes: int = 1
    batching: Batching = Batching()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    async def resume(self, resume: Resume) -> Iterable[Known]:
        """Called once, before the first write. Sinks that remember answer with what is in beyond the checkpoint.

        Raises Unavailable (it is called again later), Misconfigured (the pipeline stops).
        """
        return ()

    @abc.abstractmethod
    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        """Write a batch; answer with what did NOT simply go in. An index not named is in, durably.

        Raises Unavailable when the destination could not be asked or its answer was lost: nothing counts as in, the whole batch comes
        again. Misconfigured when every record would fail: the pipeline stops, nothing is settled. Any other exception stops the
        pipeline too. When cancelled, the batch counts as not written and comes again after a restart.
        """

    async def probe(self) -> bool:
        """Ask the destination whether it would take changes; False where there is no way to ask, which is the default.

        `dsqlcdc doctor` calls it on a sink that was entered, without `resume` and `write`, perhaps beside a running daemon. It delivers nothing
        and leaves nothing behind. Raises Unavailable, Misconfigured, as `write` would; an ExceptionGroup of them where several things are wrong.
        """
        return False

    async def replay(self, changes: Sequence[Change]) -> Sequence[Setback]:
        """Write changes that were dead letters, older than what is in perhaps, while another process may be writing. As `write` otherwise.

        Called on a sink that was entered and not resumed. The default is `write`: right where that needs no `resume` and the destination tells
        by `id` or `version` what it has. Sinks with `needs_order` are not replayed to unless they override this.
        """
        return await self.write(changes)

    def word(self) -> bytes:
        """A few bytes to be stored with the next commit and given back by `resume`. Asked right after a write has been settled."""
        return b""

    def circuit(self) -> str:
        """How its circuit breaker stands: closed, open, half_open; "" where it has none, which is the default. Asked at any time, for metrics."""
        return ""

    def digests(self) -> Digests | None:
        """How its digests stand; None where it writes none, which is the default. Asked at any time, for metrics."""
        return None

    def account(self, word: bytes) -> bytes:
        """The word as a commit is to store it. Asked in the moment whose frontiers that commit stores: what `resume` says of `progress` now is
        what the checkpoint will say. The default is the word as it is; sinks that keep an account of what was read add it."""
        return word
