"""The S3 sink: one batch, one manifest, then its parts. What was begun and not finished is voided by whoever comes next."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Self

import msgspec

from dsqlcdc.contract import Batching, Change, Context, Digests, Known, Misconfigured, Progress, Resume, Setback, Sink
from dsqlcdc.errors import Held
from dsqlcdc_s3.account import Books
from dsqlcdc_s3.batch import Begun, entry, fresh
from dsqlcdc_s3.batch_sink import BatchSink
from dsqlcdc_s3.chain import Chain, Owner
from dsqlcdc_s3.encode import CAP, Part, encode
from dsqlcdc_s3.manifest import FORMAT, Link, Manifest, Seal, Word, decode_word, digest
from dsqlcdc_s3.memory import Memory, furthest
from dsqlcdc_s3.objects import Objects, Put
from dsqlcdc_s3.opening import digests_in_aws, in_aws, signer, unique_name
from dsqlcdc_s3.options import Options as S3Options
from dsqlcdc_s3.parts import Parts
from dsqlcdc_s3.paths import manifest_key
from dsqlcdc_s3.probing import all_of, locks
from dsqlcdc_s3.replay import Replayer, Replays
from dsqlcdc_s3.sealing import Sealer, same
from dsqlcdc_s3.ticker import Ticker

log = logging.getLogger("dsqlcdc.s3")

_INLINE = 128 * 1024
"""Batches below this many bytes are encoded in the loop: a thread would cost more."""
_WINDOW = 64
"""Manifests looked at together at start."""


class S3Sink(Sink):
    """JSON Lines or Parquet in S3, every change once, whatever crashes.

    `objects` opens the store (tests put a faulty one there); `clock` gives seconds since the epoch, for `created_at` only; `writer` names
    this run among all writers; `cap` is the size of an object at the most. `ticking` False leaves sealing to whoever calls `seal`.
    """

    Options: ClassVar[type[S3Options]] = S3Options

    def __init__(
        self,
        options: S3Options,
        context: Context,
        *,
        objects: Callable[[], AbstractAsyncContextManager[Objects]] | None = None,
        clock: Callable[[], float] = time.time,
        writer: str = "",
        cap: int = CAP,
        ticking: bool = True,
    ) -> None:
        self._options = options
        self._context = context
        self._faked = objects is not None
        self._open = objects or (lambda: in_aws(options, context))
        self._apart = None if objects else digests_in_aws(options, context)
        self._ticking = ticking and options.digest is not None
        self._clock = clock
        self._writer = writer or unique_name()
        self._cap = cap
        self._shape = options.shape(context.columns)
        self.lanes = 1
        self.batching = Batching(bytes=options.roll.bytes, records=options.roll.records, age=options.roll.age)
        self._place = f"s3://{options.bucket}/{options.prefix}"
        self._opened: AbstractAsyncContextManager[Objects] | None = None
        self._chain: Chain | None = None
        self._parts: Parts | None = None
        self._replays: Replays | None = None
        self._replayer: Replayer | None = None
        self._sealer: Sealer | None = None
        self._ticker: Ticker | None = None
        self._turn = asyncio.Lock()
        self._resume: Resume | None = None
        self._books = Books()
        self._progress: Callable[[], Sequence[Progress]] = tuple
        self._since = 0.0
        self._epoch = 0
        self._next = 1
        self._prev: Link | None = None
        self._newest = 0.0
        self._voided: dict[str, int] = {}
        self._memory = Memory()
        self._begun: Begun | None = None
        self._stopped: Held | None = None

    @classmethod
    def from_options(cls, options: Mapping[str, Any], context: Context) -> Sink:
        """The factory that the entry point names: a BatchSink where not the whole stream is seen. Raises ValueError; does no I/O."""
        checked = S3Options.model_validate(options)
        if context.whole:
            return cls(checked, context)
        if checked.format != "jsonl":
            raise ValueError(f"format {checked.format} cannot be written in Lambda: pyarrow alone is most of what a function may hold")
        return BatchSink(checked, context, lambda: in_aws(checked, context), writer=unique_name())

    async def __aenter__(self) -> Self:
        opening = self._open()
        objects = await opening.__aenter__()
        self._opened = opening
        context = self._context
        owner = Owner(context.pipeline, context.sink, self._place, self._options.prefix)
        self._chain = Chain(objects, owner)
        self._replays = Replays(objects, self._options.prefix)
        self._replayer = Replayer(objects, self._chain, owner, self._options, self._clock, self._shape)
        self._parts = Parts(objects, self._chain, f"s3://{self._options.bucket}/", self._options.parallel)
        apart, where = self._apart or (lambda: same(objects)), self._options
        prefix = where.prefix if where.digest is None or where.digest.prefix is None else where.digest.prefix
        self._sealer = Sealer(objects, self._chain, owner, apart, prefix, signer(where, context), where.parallel)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        ticker, self._ticker = self._ticker, None
        if ticker is not None:
            await ticker.end(gone=self._stopped is not None or isinstance(error, asyncio.CancelledError))
        opened, self._opened, self._chain, self._parts = self._opened, None, None, None
        self._replays = self._replayer = self._sealer = None
        if opened is not None:
            await opened.__aexit__(kind, error, trace)

    # ── at start ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def resume(self, resume: Resume) -> Iterable[Known]:
        """Decide every manifest from the word's oldest on that may hold something since `since`, and become their successor.

        Raises Misconfigured too where the store ignores conditions, or the prefix is another sink's. May be called again.
        """
        chain, parts = self._ready()
        await self._known_replays().look()
        word = decode_word(resume.word)
        here = word if word is not None and word.place == self._place else None
        self._progress, self._since = resume.progress, resume.since
        last = await chain.last(0 if here is None else max(0, here.oldest - 2))
        self._epoch = 1 + (word.epoch if word else 0)
        self._next = here.oldest if here else 1
        self._memory, self._voided, self._begun, self._prev = Memory(), {}, None, None
        self._resume = resume
        self._keep_books(resume, word, None, (), last or 0)
        if here is None and word is not None:
            log.warning("sink %s now writes to %s; what it delivered before stays in %s", self._context.sink, self._place, word.place)
        if last is None:
            if here is not None and here.oldest > 1:
                raise Misconfigured(
                    "the lake's manifests are gone",
                    where=f"{self._place}manifests/",
                    why=f"the state says that {here.oldest - 1} or more were written, and none is there: somebody deleted or moved them",
                    run="restore them; or, to deliver anew what the stream still holds, set `state.path` to a new file in CONFIG",
                )
            self._tick()
            return ()
        if here is not None and last < here.last:
            raise Misconfigured(
                "the end of the lake's chain is gone",
                where=f"{self._place}{manifest_key('', last)}",
                why=f"the state says that {here.last} manifests were written, this is the last: somebody deleted those behind it",
                run="restore them; dsqlcdc audit verify CONFIG says what else is missing",
                code="E385",
            )
        body = await chain.fetch(last)
        if body is None:
            where = f"{self._place}{manifest_key('', last)}"
            raise Misconfigured("the last manifest is gone", where=where, why="it was listed a moment ago", run="dsqlcdc run CONFIG")
        end = chain.decode(last, body)
        await chain.verify_conditions(last, body)
        first = here.oldest if here else 0
        if here is None or last - first > _WINDOW:  # only the last can be undecided: its writer had decided all before it
            first = await chain.since(max(first, await chain.first() or last), last, resume.since)
        known, newest = await self._decide_all(parts, first, last, resume.since)
        bases = [account.base + 1 for account in word.accounts] if word and here else []
        told = (
            [m for n in range(min(bases), last + 1, _WINDOW) for m in await parts.manifests(range(n, min(n + _WINDOW, last + 1)))]
            if bases
            else []
        )
        self._epoch = 1 + max(end.epoch, word.epoch if word else 0)
        self._keep_books(resume, here, end, told, last)
        self._next = max(self._next, last + 1)
        self._prev = Link(manifest_key(self._options.prefix, last), digest(body)) if self._next == last + 1 else None
        self._newest = end.newest_arrived
        self._tick()
        return (Known(id, arrived, newest) for id, arrived in known.items())

    async def _decide_all(self, parts: Parts, first: int, last: int, since: float) -> tuple[dict[bytes, float], int]:
        known: dict[bytes, float] = {}
        newest = 0
        reach: dict[str, tuple[int, str]] = {}
        voided: list[str] = []
        noted: set[str] = set()
        told_from = 0
        for start in range(first, last + 1, _WINDOW):
            manifests = await parts.manifests(range(start, min(start + _WINDOW, last + 1)))
            found = await parts.decide(manifests, since)
            noted.update(key for manifest in manifests for key in manifest.voided)
            voided += found.parts
            known |= found.delivered.ids
            newest = max(newest, found.delivered.newest)
            for shard, at in found.delivered.furthest.items():
                reach[shard] = max(at, reach.get(shard, at))
            if known and not told_from:
                told_from = start
        self._voided = {key: _number(key) for key in voided if key not in noted}
        self._memory.wrote(told_from, reach)
        return known, newest

    def word(self) -> bytes:
        """The epoch, and the oldest manifest with lines that may be read again."""
        oldest = min([self._memory.oldest(self._next, self._progress()), *self._voided.values()])
        return msgspec.json.encode(Word(FORMAT, self._epoch, oldest, self._place, self._next - 1, self._books.carried))

    def account(self, word: bytes) -> bytes:
        """The word, and what was read that no manifest tells yet."""
        said = decode_word(word)
        return word if said is None else msgspec.json.encode(msgspec.structs.replace(said, accounts=self._books.accounts()))

    def digests(self) -> Digests | None:
        """None too before `resume`."""
        ticker, sealer = self._ticker, self._sealer
        return None if ticker is None or sealer is None else ticker.standing(sealer.at)

    async def probe(self) -> bool:
        """Says too where the prefix is another sink's; where digests cannot be signed or written; where Object Lock is wanted and off."""
        held = () if self._options.object_lock is None or self._faked else locks(self._options, self._context)
        proved = self._sealer.trials() if self._sealer is not None and self._options.digest is not None else ()
        await all_of([self._ready()[0].probe, *proved, *held])
        return True

    async def replay(self, changes: Sequence[Change]) -> Sequence[Setback]:
        """Objects of their own, named by Change.id, beside whoever writes the chain. See dsqlcdc_s3.replay for what is guaranteed."""
        if self._replayer is None:
            raise RuntimeError("the sink has not been entered")
        return await self._replayer.replay(changes)

    # ── a batch ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        """One batch, one manifest: first the manifest, then its parts; all in when this returns.

        After Unavailable the same batch goes on where it stopped; another one voids what was begun first. Raises Held where another
        writer has taken over, and ever after.
        """
        async with self._turn:
            if self._stopped is not None:
                raise self._stopped
            try:
                setbacks = await self._write(changes)
            except Held as fault:
                self._stopped = fault
                raise
            self._memory.settled(changes, setbacks)
        return setbacks

    async def seal(self, *, closing: bool = False) -> bool:
        """End a period of the chain here, and write its digest, and those that are missing before it. False where a batch is under way: later.

        Raises Held as `write` does, Unavailable and Misconfigured; what was not finished is finished by the next call, or the next run.
        """
        sealer, _ = self._sealing()
        if not await self._end_period(closing=closing):
            return False
        await sealer.finish()
        return True

    async def _end_period(self, *, closing: bool = False) -> bool:
        sealer, resume = self._sealing()
        told, void = await sealer.tell(resume, closing)
        async with self._turn:
            if self._stopped is not None:
                raise self._stopped
            if self._begun is not None:
                return False
            try:
                await self._seal(told, void)
            except Held as fault:
                self._stopped = fault
                raise
        return True

    async def _seal(self, told: Callable[[Sequence[Progress]], Seal], void: Sequence[str]) -> None:
        chain, parts = self._ready()
        while True:
            progress = self._progress()
            manifest = self._manifest((), progress, told(progress), void)
            begun = Begun((), manifest, manifest.encode(), {}, (), [], progress, claimed=False)
            if await self._claim(chain, parts, begun):
                return self._pass(manifest, Link(manifest_key(self._options.prefix, manifest.n), digest(begun.body)))

    async def _write(self, changes: Sequence[Change]) -> list[Setback]:
        chain, parts = self._ready()
        if self._begun is not None and (self._begun.given_up or not self._begun.same(changes)):
            await self._give_up(parts, self._begun)
        while True:
            if self._begun is None:
                begun, setbacks = await self._begin(changes)
                if begun is None:
                    return setbacks
                self._begun = begun
            begun = self._begun
            if not begun.claimed and not await self._claim(chain, parts, begun):
                self._begun = None
            elif begun.looked or not await self._overtaken(begun):
                begun.looked = True
                break
            else:
                await self._give_up(parts, begun)
        await parts.upload(begun)
        self._voided |= dict.fromkeys(begun.voided, begun.manifest.n)
        self._pass(begun.manifest, Link(manifest_key(self._options.prefix, begun.manifest.n), digest(begun.body)))
        self._memory.wrote(begun.manifest.n, furthest(changes))
        self._begun = None
        return begun.setbacks

    async def _begin(self, changes: Sequence[Change]) -> tuple[Begun | None, list[Setback]]:
        """B1, B2: what is to be written, encoded; None where nothing is left to write."""
        replays = self._known_replays()
        await replays.met(changes)
        rows, setbacks = fresh(changes, self._memory.untold, replays.taken)
        options = self._options
        if sum(change.size for _, change in rows) < _INLINE:
            parts, dead = encode(rows, raw=options.raw, level=options.level, cap=self._cap, shape=self._shape)
        else:
            parts, dead = await asyncio.to_thread(encode, rows, raw=options.raw, level=options.level, cap=self._cap, shape=self._shape)
        setbacks += dead
        if not parts:
            return None, setbacks
        progress = self._progress()
        manifest = self._manifest(parts, progress)
        return Begun(
            changes=changes,
            manifest=manifest,
            body=manifest.encode(),
            bodies={number: part.body for number, part in enumerate(parts)},
            indexes=[part.indexes for part in parts],
            setbacks=setbacks,
            progress=progress,
        ), setbacks

    def _manifest(
        self, parts: Sequence[Part], progress: Sequence[Progress], seal: Seal | None = None, void: Sequence[str] = ()
    ) -> Manifest:
        n, prefix, lock = self._next, self._options.prefix, self._options.object_lock
        return Manifest(
            format=FORMAT,
            n=n,
            epoch=self._epoch,
            writer=self._writer,
            pipeline=self._context.pipeline,
            sink=self._context.sink,
            created_at=datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            prev=self._prev,
            newest_arrived=max([self._newest, *(part.arrivals[1] for part in parts)]),
            parts=[entry(part, part.partition.key(prefix, n, number, part.suffix)) for number, part in enumerate(parts)],
            reads=self._books.untold(progress),
            voided=[*self._voided, *void],
            stream=self._resume.stream if self._resume is not None else "",
            carried=tuple(self._books.carried),
            sealed=self._sealer.sealed if self._sealer is not None else 0,
            seal=seal,
            lock=f"{lock.mode}:{lock.days}" if lock is not None else "",
        )

    async def _claim(self, chain: Chain, parts: Parts, begun: Begun) -> bool:
        """B3: put the manifest. False where the number was taken: that manifest has been decided, and the batch is to be cut anew."""
        n = begun.manifest.n
        if await chain.put(n, begun.body) is Put.EXISTS:
            taken = await chain.taken(n, begun.body, self._epoch, self._writer)
            if taken is not None:
                await self._decide(parts, taken[0])
                self._books.met(taken[0])
                self._pass(*taken)
                return False
        begun.claimed = True
        self._books.told(n, begun.progress, begun.manifest.carried)
        self._voided = {key: at for key, at in self._voided.items() if key not in begun.manifest.voided}
        return True

    async def _overtaken(self, begun: Begun) -> bool:
        """Has a replay put a row of this claimed batch? Looked for after the claim: a replay begun later sees that."""
        replays = self._known_replays()
        await replays.look()
        return await replays.met(begun.changes)

    async def _give_up(self, parts: Parts, begun: Begun) -> None:
        """Void what was begun, since another batch is to be written. Where the manifest may not be in, its number is tried again."""
        if begun.claimed:
            begun.given_up = True
            await self._decide(parts, begun.manifest)
            self._pass(begun.manifest, Link(manifest_key(self._options.prefix, begun.manifest.n), digest(begun.body)))
        self._begun = None

    async def _decide(self, parts: Parts, manifest: Manifest) -> None:
        found = await parts.decide([manifest], self._since)
        self._memory.learn(found.delivered, manifest.n)
        self._voided |= {key: manifest.n for key in found.parts if key not in self._voided}

    def _pass(self, manifest: Manifest, link: Link) -> None:
        """This manifest is decided: the next one follows it."""
        if self._sealer is not None:
            self._sealer.passed(manifest, link)
        self._next, self._prev = manifest.n + 1, link
        self._newest = max(self._newest, manifest.newest_arrived)

    def _keep_books(self, resume: Resume, word: Word | None, end: Manifest | None, told: Sequence[Manifest], last: int) -> None:
        """Begin the account of this run, with what the runs before left untold."""
        self._books = Books(self._epoch, self._writer, resume.stream, resume.progress)
        self._books.carry(word.accounts if word is not None else (), last, told)
        if self._sealer is not None:
            self._sealer.begin(end)

    def _tick(self) -> None:
        given, sealer = self._options.digest, self._sealer
        if self._ticking and self._ticker is None and given is not None and sealer is not None:
            closing, where = partial(self.seal, closing=True), f"sink {self._context.sink}"
            self._ticker = Ticker(self._end_period, sealer.finish, closing, given.every, self._clock, where)

    def _ready(self) -> tuple[Chain, Parts]:
        if self._chain is None or self._parts is None:
            raise RuntimeError("the sink has not been entered")
        return self._chain, self._parts

    def _sealing(self) -> tuple[Sealer, Resume]:
        if self._sealer is None or self._resume is None:
            raise RuntimeError("the sink has not been entered and resumed")
        return self._sealer, self._resume

    def _known_replays(self) -> Replays:
        if self._replays is None:
            raise RuntimeError("the sink has not been entered")
        return self._replays


def _number(key: str) -> int:
    """The number of the manifest that a part's key is of."""
    return int(key.rpartition("/")[2].partition("-")[0])
