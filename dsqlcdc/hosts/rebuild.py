"""A rebuild: a sink's destination for one table filled anew from the lake or the stream, beside the one in use, then put in its place.

    begin → the lake's rows, where they come from there → the stream to its tip → the old one is held still → the stream to its tip again → swap

The daemon may go on meanwhile: while the old destination is held still it waits. Whatever happens, this may be run again: it goes on where
it was. What has been read is kept as a checkpoint under the name of what is filled.
"""

from __future__ import annotations

import asyncio
import glob
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol, cast

import msgspec

from dsqlcdc.assemble import aws_of, make_sink, make_tables, open_checkpoints, open_dead_letters
from dsqlcdc.config import Config
from dsqlcdc.contract import Change, Sink, Table, Verdict
from dsqlcdc.core.pipeline import Pipeline, Recipe
from dsqlcdc.core.ports import CheckpointStore, Commit, DeadLetter, DeadLetterStore, Gap, Name
from dsqlcdc.core.route import Route
from dsqlcdc.core.telemetry import Status
from dsqlcdc.errors import ConfigError, Fault, Lost, Stopped, Unavailable
from dsqlcdc.hosts.lake import Lake
from dsqlcdc.plugins import REBUILDS, sink_factory
from dsqlcdc.sources.feeds import Feeds, open_feeds
from dsqlcdc.sources.kinesis import KinesisSource
from dsqlcdc.stores.fragments import MemoryFragments

log = logging.getLogger("dsqlcdc.rebuild")

_BATCH = 2000

_AGAIN = "dsqlcdc opensearch rebuild CONFIG, once the mapping takes it: --anew begins again"


class Standing(Protocol):
    """What is under way. `run` names it, unlike any other; `note`: what was noted of it; `old` is "" where nothing is to be replaced."""

    @property
    def run(self) -> str: ...

    @property
    def alias(self) -> str: ...
    @property
    def old(self) -> str: ...
    @property
    def new(self) -> str: ...
    @property
    def note(self) -> Mapping[str, Any]: ...
    @property
    def swapped(self) -> bool: ...


class Rebuilder(Protocol):
    """The steps that a sink of the entry-point group `dsqlcdc.rebuilds` has beside writing to what is filled."""

    async def begin(self, table: Table, *, anew: bool = False) -> Standing: ...
    async def note(self, standing: Any, note: Mapping[str, Any]) -> None: ...
    async def hold_still(self, standing: Any) -> None: ...
    async def let_go(self, standing: Any) -> None: ...
    async def rows(self, standing: Any) -> tuple[int, int]: ...
    async def swap(self, standing: Any) -> None: ...


class Told(msgspec.Struct, frozen=True):
    """Progress: what is being done, how many records of it so far, and of how many (0: not known)."""

    step: str
    done: int
    of: int = 0


class Rebuilt(msgspec.Struct, frozen=True):
    """What was done. `rows`: how many the alias shows now; `replaced`: what it showed, and where from ("" where there was nothing).
    `letters`: dead letters that this wrote."""

    alias: str
    index: str
    replaced: str
    rows_before: int
    rows: int
    letters: int = 0


class _Letters:
    """Dead letters of a rebuild: a row that the new destination refuses ends it. A record of the table that is bad before any sink is a
    letter as the daemon's are; where the daemon has written it, nothing is written."""

    def __init__(self, store: DeadLetterStore, table: Table) -> None:
        self._store, self._table = store, (table.schema, table.name)
        self.written = 0

    async def put(self, letter: DeadLetter) -> bool:
        event = letter.event
        if letter.sink:
            what, why = "a row does not fit what is being filled", f"{letter.code}: {letter.detail}"
            where = f"{event.get('table', '')} {event.get('key', '')}".strip()
            raise Stopped(what, where=where, why=why[:500], run=_AGAIN, code="E151")
        if (event.get("schema"), event.get("table")) == self._table:
            self.written += await self._store.put(letter)
        return True

    def letters(self) -> AsyncIterator[tuple[str, DeadLetter]]:
        return self._store.letters()

    async def letter(self, name: str) -> DeadLetter:
        return await self._store.letter(name)

    async def close(self) -> None:
        return None


async def rebuild(
    config: Config,
    sink: str,
    table: str,
    *,
    lake: str = "",
    anew: bool = False,
    fewer: bool = False,
    deadline: float | None = 300.0,
    tell: Callable[[Told], None] = lambda told: None,
) -> Rebuilt:
    """Fill and swap. `lake` names the s3 sink whose objects are read before the stream ("": the stream alone, from trim_horizon).

    `fewer` lets the new one take the place even if it shows fewer rows. Raises ConfigError, and what sink, stream and stores raise; then
    the old one is in use as before, and calling again goes on.
    """
    key = _key(config, table)
    schema, _, name = table.partition(".")
    one = Table("", schema, name, key)
    if lake:
        Lake(config, lake, one)  # before anything is made
    async with AsyncExitStack() as stack:
        store = open_dead_letters(config)
        stack.push_async_callback(store.close)
        await store.prepare()
        letters = _Letters(store, one)
        feeds = await stack.enter_async_context(open_feeds(config.source.stream, aws_of(config), deadline=deadline))
        async with _steps(config, sink) as steps:
            standing = await steps.begin(one, anew=anew)
        work = _Work(config, sink, one, feeds, letters, standing, deadline, tell)
        if standing.swapped:  # all that was left is to say so
            async with _steps(config, sink) as steps:
                await steps.swap(standing)
                return Rebuilt(standing.alias, standing.new, "", 0, (await steps.rows(standing))[1])
        if lake:
            await work.from_lake(lake)
        await work.from_stream("the stream")
        return await work.swap(fewer)


class _Work:
    """One rebuild, from knowing what is under way to the swap."""

    def __init__(
        self,
        config: Config,
        sink: str,
        table: Table,
        feeds: Feeds,
        letters: _Letters,
        standing: Standing,
        deadline: float | None,
        tell: Callable[[Told], None],
    ) -> None:
        self._config, self._sink, self._table = config, sink, table
        self._feeds, self._letters, self._standing, self._deadline, self._tell = feeds, letters, standing, deadline, tell
        self._name = Name(config.pipeline, f"{sink}>{standing.run}", feeds.stream)

    async def from_stream(self, step: str) -> None:
        """Read to the tip as of now."""
        async with self._checkpoints() as checkpoints:
            await self._read(step, checkpoints)

    async def _read(self, step: str, checkpoints: CheckpointStore) -> None:
        config, source = self._config, self._config.source
        sink = make_sink(config, self._sink, REBUILDS)
        reader = KinesisSource(
            self._feeds,
            pipeline=config.pipeline,
            sink=self._name.sink,
            start="trim_horizon",
            on_trimmed="halt",
            on_gap=_forgotten,
            skew=source.skew,
            once=True,
            deadline=self._deadline,
        )
        pipeline = Pipeline(
            Recipe(
                name=self._name,
                source=reader,
                sink=sink,
                tables=make_tables(config),
                checkpoints=checkpoints,
                dead_letters=self._letters,
                fragments=MemoryFragments((self._name.sink,), config.fragments.max_bytes),
                clock=time.time,
                random=random.random,
                route=Route((glob.escape(str(self._table)),)),
                order="latest",
                lateness=source.lateness,
                max_age=config.fragments.max_age,
                deadline=self._deadline,
            )
        )
        telling = asyncio.create_task(self._report(step, pipeline.status))
        try:
            await pipeline.run(asyncio.Event())
        except Lost as error:
            run = f"dsqlcdc opensearch rebuild {config.path} --table {self._table} --anew"
            what = "the stream no longer holds what comes next"
            raise Stopped(what, where=self._standing.new, why=str(error.why), run=run, code="E148") from error
        finally:
            telling.cancel()
        self._tell(Told(step, pipeline.status().read))

    @asynccontextmanager
    async def _checkpoints(self) -> AsyncGenerator[CheckpointStore, None]:
        """The store, for one step: what a step holds it lets go."""
        opened = open_checkpoints(self._config)
        try:
            yield opened
        finally:
            await opened.close()

    async def _report(self, step: str, status: Callable[[], Status]) -> None:
        while True:
            await asyncio.sleep(5.0)
            self._tell(Told(step, status().read))

    async def from_lake(self, lake: str) -> None:
        """What the lake holds. The stream is read from where the lake had been delivered before it was looked at."""
        config, note = self._config, dict(self._standing.note)
        async with self._checkpoints() as checkpoints:
            await checkpoints.hold(self._name)
            if await checkpoints.load(self._name) is None:
                delivered = await checkpoints.load(Name(config.pipeline, lake, self._feeds.stream))
                if delivered is None:
                    run = f"dsqlcdc run {config.path} --once"
                    raise ConfigError("the lake holds nothing of this stream yet", where=f"sinks.{lake}", run=run, code="E152")
                await checkpoints.commit(self._name, Commit(delivered.marks))
                note = {}
        if note.get("lake") == "done":
            return
        done = 0
        async with Lake(config, lake, self._table) as source:
            keys = [key for key in await source.keys() if key > note.get("after", "")]
            async with make_sink(config, self._sink, REBUILDS) as sink:
                for number, key in enumerate(keys, 1):
                    changes = await source.changes(key)
                    for start in range(0, len(changes), _BATCH):
                        await self._put(sink, changes[start : start + _BATCH])
                    done += len(changes)
                    if number % 20 == 0 or number == len(keys):
                        await self._noted({"after": key} if number < len(keys) else {"lake": "done"})
                        self._tell(Told(f"the lake, {number} of {len(keys)} objects", done))

    async def _put(self, sink: Sink, changes: Sequence[Change]) -> None:
        """Write until nothing is to be tried again."""
        rest: list[Change] = list(changes)
        end = None if self._deadline is None else asyncio.get_running_loop().time() + self._deadline
        while rest:
            try:
                said = list(await sink.write(rest))
            except Unavailable as error:
                if end is not None and asyncio.get_running_loop().time() > end:
                    raise
                await asyncio.sleep(error.after or 1.0)
                continue
            for setback in said:
                if setback.verdict is Verdict.DEAD:
                    change = rest[setback.index]
                    what, why = "a row does not fit what is being filled", f"{setback.code}: {setback.detail}"[:500]
                    raise Stopped(what, where=f"{change.table} {change.key}", why=why, run=_AGAIN, code="E151")
            rest = [rest[setback.index] for setback in said if setback.verdict is Verdict.RETRY]
            if rest:
                await asyncio.sleep(1.0)

    async def _noted(self, note: Mapping[str, Any]) -> None:
        async with _steps(self._config, self._sink) as steps:
            await steps.note(self._standing, note)

    async def swap(self, fewer: bool) -> Rebuilt:
        """Hold the old one still, read what came meanwhile, swap. What fails lets the old one go."""
        standing = self._standing
        async with _steps(self._config, self._sink) as steps:
            try:
                await steps.hold_still(standing)
                await self.from_stream("the stream, up to now")
                before, now = await steps.rows(standing)
                if now < before and not fewer:
                    why = f"{standing.new} would show {now} rows, {standing.old} shows {before}: the history that was read is not the whole one"
                    run = f"dsqlcdc opensearch rebuild {self._config.path} --table {self._table} --fewer"
                    raise Stopped("the new index would show fewer rows", where=standing.alias, why=why, run=run, code="E153")
                await steps.swap(standing)
            except BaseException:
                try:
                    await asyncio.shield(steps.let_go(standing))
                except Fault as error:
                    log.error("%s is still closed to writing, and its writers wait: run this command again (%s)", standing.old, error)
                raise
            return Rebuilt(standing.alias, standing.new, standing.old, before, now, self._letters.written)


async def _forgotten(gap: Gap) -> Gap:
    """A gap in what was being filled is no gap of the pipeline's: it is filled anew."""
    return gap


@asynccontextmanager
async def _steps(config: Config, sink: str) -> AsyncGenerator[Rebuilder, None]:
    one = config.sinks[sink]
    async with sink_factory(one.type, REBUILDS)(one.options, config.context(sink)) as made:
        yield cast(Rebuilder, made)


def _key(config: Config, table: str) -> tuple[str, ...]:
    """The key of a table that one sink is asked for by name. Raises ConfigError."""
    from fnmatch import fnmatchcase

    rule = next((rule for pattern, rule in config.tables.items() if fnmatchcase(table, pattern)), None)
    if rule is None or rule.key is None or "." not in table:
        why = "without a key there is no document to replace" if "." in table else "a table is named schema.table"
        raise ConfigError("this table cannot be rebuilt", where=table, why=why, run=f"dsqlcdc config show {config.path}", code="E154")
    return tuple(rule.key)
