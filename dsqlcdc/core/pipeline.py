"""The pipeline: a recipe for one sink's road, and one run of it."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import partial
from typing import Any, Literal, cast

import msgspec

from dsqlcdc.contract import Change, Outcome, Resume, Sink
from dsqlcdc.core.backoff import Backoff
from dsqlcdc.core.burial import Burial
from dsqlcdc.core.commit import Committer
from dsqlcdc.core.commit_order import CommitOrder
from dsqlcdc.core.deliver import Delivery, Room
from dsqlcdc.core.intake import Intake
from dsqlcdc.core.lag import Lag
from dsqlcdc.core.ledger import Imbalance, Ledger
from dsqlcdc.core.patience import Patience, until
from dsqlcdc.core.ports import Checkpoint, CheckpointStore, Commit, DeadLetterStore, FragmentStore, Name, Source, Spill
from dsqlcdc.core.reassemble import Reassembler
from dsqlcdc.core.route import Route, Router
from dsqlcdc.core.sequence import Latest, Sequencer, Unique
from dsqlcdc.core.standstill import Standstill
from dsqlcdc.core.succession import gap_of, stream_of
from dsqlcdc.core.tables import Tables
from dsqlcdc.core.telemetry import Counts, ShardStatus, Status
from dsqlcdc.errors import Fault, Misconfigured

log = logging.getLogger("dsqlcdc.pipeline")


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """All that one run of one sink's pipeline is made of.

    `lateness` and `max_age` (of waiting parts), `commit_every`, `drain` and `deadline` are seconds; `deadline` is how long anything may stay
    unavailable (None: for ever); `room` are the bytes in flight between intake and settlement. `complete_since`: what arrived before (seconds
    since the epoch) may have parts that are still to be delivered, however old it is; infinite while nobody knows how long that goes on.
    `look_every`: seconds between looks at parts that wait too long; None leaves that verdict to somebody else. With order "commit" changes are
    held back by `hold_back` seconds, up to `held_room` bytes in memory and beyond that in `spill`, which is then required.
    `commit_until`: the loop's time up to which the last commit may take, where `drain` ends before.
    """

    name: Name
    source: Source
    sink: Sink
    tables: Tables
    checkpoints: CheckpointStore
    dead_letters: DeadLetterStore
    fragments: FragmentStore
    clock: Callable[[], float]
    random: Callable[[], float]
    route: Route = Route()
    order: Literal["unique", "latest", "commit"] = "unique"
    hold_back: float = 30.0
    held_room: int = 64 * 1024 * 1024
    spill: Spill | None = None
    lateness: float = 1800.0
    max_age: float = 86_400.0
    look_every: float | None = 5.0
    room: int = 128 * 1024 * 1024
    commit_every: float = 1.0
    drain: float = 30.0
    commit_until: float = 0.0
    deadline: float | None = None
    backoff: Backoff = Backoff(0.1, 30.0)
    complete_since: Callable[[], float] = lambda: 0.0


class Pipeline:
    """One run. `run` is called once; `status` at any time."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self.counts = Counts(recipe.clock())
        self.state: Literal["starting", "running", "draining", "done", "stopped"] = "starting"
        self.fault: BaseException | None = None
        self._patience = Patience(recipe.backoff, recipe.random, deadline=recipe.deadline, noticed=self.counts.retried)
        self._ledger = Ledger()
        self._room = Room(recipe.room)
        self._sequencer: Sequencer = Unique(self._ledger, recipe.lateness)
        self._order: CommitOrder | None = None
        self._delivery: Delivery | None = None
        self._committer: Committer | None = None
        self._committing = asyncio.Lock()
        self._seen: dict[str, tuple[int, float, float]] = {}
        self._began: dict[str, float] = {}
        self._lag = Lag(recipe.clock, lambda: 0.0)
        self._standstill = Standstill(f"{recipe.name.pipeline}/{recipe.name.sink}")

    async def run(self, stop: asyncio.Event) -> None:
        """Read, deliver and commit until the source ends or `stop` is set; then drain and commit what was settled.

        Raises Held, Misconfigured, Poisoned, Stopped, Lost, or whatever the sink raised; what had been settled is committed all the same.
        Cancelled: the same, without draining. What is owed is read again by the next run.
        """
        running = asyncio.create_task(self._run(stop))  # one task: what a sink opens on entering, it may close on leaving
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if self.state == "starting" and not running.done():
                running.cancel()
                await asyncio.wait({running})
                if running.cancelled():
                    self.state = "done"
                    return
            await running
        except asyncio.CancelledError:
            running.cancel()
            await asyncio.wait({running})
            raise
        finally:
            stopping.cancel()

    async def _run(self, stop: asyncio.Event) -> None:
        try:
            async with AsyncExitStack() as stack:
                intake = await self._begin(stack)
                self.state = "running"
                try:
                    await self._work(intake, stop)
                finally:
                    await self._last_commit()
            self.state = "done"
        except BaseException as error:
            self.state, self.fault = "stopped", _first(error)
            if isinstance(error, BaseExceptionGroup):
                raise self.fault from None
            raise

    async def _begin(self, stack: AsyncExitStack) -> Intake:
        recipe, ask = self._recipe, self._patience.ask
        self._lag = Lag(recipe.clock, asyncio.get_running_loop().time)
        stack.push_async_callback(recipe.source.close)
        if recipe.spill is not None:
            stack.push_async_callback(recipe.spill.close)
        await ask(lambda: recipe.checkpoints.hold(recipe.name))
        checkpoint = await ask(lambda: recipe.checkpoints.load(recipe.name))
        known = checkpoint is not None and recipe.checkpoints.remembers and all(m.kind == _KINDS[recipe.order] for m in checkpoint.memories)
        # Parts held in memory are gone: only reading again tells which of those still to come belong to rows that are done.
        warm_up = None if checkpoint is None or (known and recipe.fragments.durable) else recipe.lateness
        marks = dict(await ask(lambda: recipe.source.start(checkpoint, warm_up=warm_up)))
        if checkpoint is None:
            await self._succeed()
        stored = checkpoint or Checkpoint({})
        new = {shard: mark for shard, mark in marks.items() if stored.marks.get(shard) != mark}
        for shard, mark in sorted(marks.items()):
            log.info("%s/%s: %s starts at %s%s", *_names(recipe), shard, mark.position, "" if shard in new else " (checkpoint)")
        await ask(lambda: recipe.checkpoints.commit(recipe.name, Commit(new, forget=recipe.source.forgettable())))
        self._ledger = Ledger(marks)
        self._sequencer = self._sequence()
        if known:
            for memory in stored.memories:
                self._sequencer.load(memory)
        await ask(lambda: stack.enter_async_context(recipe.sink))
        resume = Resume(
            pipeline=recipe.name.pipeline,
            sink=recipe.name.sink,
            word=stored.word,
            since=recipe.source.oldest_readable(),
            progress=lambda: self._ledger.progress(),
            stream=recipe.name.stream,
            lineage=recipe.source.lineage,
            gaps=self._gaps,
            dead=lambda: self.counts.dead,
        )
        for entry in await ask(lambda: recipe.sink.resume(resume)):
            self._sequencer.remember_id(entry.id, entry.arrived)
            if self._order is not None:
                self._order.passed(entry.version)
        reassembler = Reassembler(recipe.name.sink, recipe.fragments, self._ledger, recipe.tables)
        self._committer = Committer(
            recipe.name,
            recipe.checkpoints,
            ledger=self._ledger,
            sequencer=self._sequencer,
            reassembler=reassembler,
            marks=marks,
            word=stored.word,
            lateness=recipe.lateness,
            patience=self._patience,
            counts=self.counts,
            clock=recipe.clock,
            account=recipe.sink.account,
        )
        self._committer.word = recipe.sink.word()
        await self._commit()  # the sink's word (an epoch, say) must be durable before its first write
        burial = Burial(recipe.name, recipe.dead_letters, self._patience, self.counts, recipe.clock, reassembler.main)
        self._delivery = Delivery(
            recipe.sink,
            f"sink {recipe.name.sink}",
            settle=self._settle,
            bury=burial.change,
            room=self._room,
            patience=self._patience,
            lanes=None if self._order is None else 1,
        )
        return Intake(
            recipe.name,
            tables=recipe.tables,
            ledger=self._ledger,
            reassembler=reassembler,
            sequencer=self._sequencer,
            router=Router(recipe.route),
            delivery=self._delivery if self._order is None else self._order,
            burial=burial,
            patience=self._patience,
            counts=self.counts,
            needs_key=recipe.sink.needs_key,
            record_gap=recipe.checkpoints.record_gap,
            clock=recipe.clock,
        )

    def _sequence(self) -> Sequencer:
        recipe = self._recipe
        if recipe.order == "latest":
            return Latest(self._ledger, recipe.lateness, blind=recipe.sink.needs_order)
        if recipe.order == "unique":
            return Unique(self._ledger, recipe.lateness)
        if not recipe.source.whole or recipe.spill is None or recipe.sink.needs_order:
            why = "changes are released by how far all shards were read, and not all are seen here"
            if recipe.sink.needs_order:
                why = "what comes too late is out of order, and this sink would put an old row over a newer one: write order: latest"
            raise Misconfigured(
                "order commit cannot be had", where=f"sink {recipe.name.sink}", why=why, run="dsqlcdc run CONFIG, the daemon", code="E217"
            )
        route = recipe.route
        ops = route.operations()
        self._order = CommitOrder(
            self._ledger,
            recipe.lateness,
            hold=recipe.hold_back,
            tables=recipe.tables,
            spill=recipe.spill,
            takes=lambda change: change.op in ops and route.takes_table(change.table),
            room=recipe.held_room,
        )
        return self._order

    async def _succeed(self) -> None:
        """Where a stream of this name was read before, and made anew since: what the old one still held is gone. A gap, said and kept."""
        recipe, ask = self._recipe, self._patience.ask
        name = recipe.name
        gaps = await ask(lambda: recipe.checkpoints.gaps(name.pipeline))
        for former in await ask(recipe.checkpoints.names):
            if (former.pipeline, former.sink) != (name.pipeline, name.sink) or stream_of(former) != stream_of(name):
                continue
            gap = gap_of(former, await ask(partial(recipe.checkpoints.load, former)), name, gaps, recipe.clock())
            if gap is not None and not (await ask(partial(recipe.checkpoints.record_gap, gap))).acked:
                self.counts.gaps += 1
                log.error("%s/%s: gap %s: %s", *_names(recipe), gap.id, gap.detail)

    async def _gaps(self) -> Sequence[Mapping[str, Any]]:
        """What this sink may have lost, as an account of it says so: of others' gaps it knows nothing."""
        found = await self._recipe.checkpoints.gaps(self._recipe.name.pipeline)
        return [msgspec.to_builtins(gap) for gap in found if gap.sink in ("", self._recipe.name.sink)]

    async def _work(self, intake: Intake, stop: asyncio.Event) -> None:
        delivery = self._delivery
        assert delivery is not None
        async with asyncio.TaskGroup() as group:
            delivering = group.create_task(delivery.run())
            committing = group.create_task(self._commit_often())
            stopped = await until(self._read(intake), stop) is None
            self.state = "draining"
            delivery.close()
            if not stopped:
                stopped = await until(asyncio.wait({delivering}), stop) is None
            if stopped:
                await asyncio.wait({delivering}, timeout=self._recipe.drain)
                if not delivering.done():
                    log.warning("%s/%s: not drained within %.0f s; what is owed is read again", *_names(self._recipe), self._recipe.drain)
                    delivering.cancel()
            await asyncio.wait({delivering})
            committing.cancel()

    async def _read(self, intake: Intake) -> Literal[True]:
        recipe, loop = self._recipe, asyncio.get_running_loop()
        every = math.inf if recipe.look_every is None else recipe.look_every
        due = loop.time() + every
        async with aclosing(recipe.source.pages()) as pages:
            async for page in pages:
                if page.remember:
                    await intake.remember(page)
                    continue
                self._lag.enters(self._ledger.pages)
                await intake.take(page)
                if page.records:
                    self._began.setdefault(page.shard, page.records[0].arrived)
                    self._lag.came(page)
                self._seen[page.shard] = (page.behind, page.records[-1].arrived if page.records else 0.0, page.read_at)
                await self._have_room()
                if self._order is not None:
                    await self._release(self._order, recipe.source.slowest())
                    await self._order.relieve()
                if loop.time() >= due:
                    await self._expire(intake)
                    due = loop.time() + every
        if self._order is not None:
            await self._release(self._order, math.inf)
        if every == 0:  # a run for that verdict alone may have no page
            await self._expire(intake)
        return True

    def source_lag(self) -> float | None:
        """As Lag.source_lag: by how many seconds DSQL is behind."""
        return self._lag.source_lag()

    async def _release(self, order: CommitOrder, read_to: float) -> None:
        assert self._delivery is not None
        async with aclosing(order.ripe(read_to)) as lots:
            async for changes, debts in lots:
                self._delivery.offer(changes, debts)
                await self._have_room()

    async def _have_room(self) -> None:
        if self._room.full and self._delivery is not None:
            self._delivery.starve()
            await self._room.free()

    async def _expire(self, intake: Intake) -> None:
        recipe = self._recipe
        before = recipe.source.slowest() - recipe.max_age
        await intake.expire(before if before >= recipe.complete_since() else 0.0)  # 0: only what is beyond the store's bytes

    async def _commit_often(self) -> None:
        while True:
            await asyncio.sleep(self._recipe.commit_every)
            self._look()
            self._lag.forget(self._ledger.is_page_open)
            await self._commit()

    def _look(self) -> None:
        recipe, delivery, committer = self._recipe, self._delivery, self._committer
        if delivery is not None and committer is not None:
            marks = [(mark.arrived or self._began.get(shard, 0.0), mark) for shard, mark in committer.marks.items()]
            owed = [arrived for arrived, mark in marks if arrived and mark.position.kind != "end"]
            self._standstill.look(recipe.clock(), recipe.source.oldest_readable(), owed, delivery.stood - recipe.sink.batching.age)

    async def _commit(self) -> None:
        async with self._committing:
            if self._committer is not None:
                await self._committer.commit()

    async def _last_commit(self) -> None:
        """What was settled is stored whatever ended the run, but for a ledger that does not balance."""
        try:
            loop = asyncio.get_running_loop()
            async with asyncio.timeout_at(max(loop.time() + self._recipe.drain, self._recipe.commit_until)):
                await self._commit()
        except Imbalance:
            raise
        except (Fault, TimeoutError) as error:
            log.warning("%s/%s: the last commit failed (%s); what it held is read again", *_names(self._recipe), error)

    def _settle(self, changes: Sequence[Change], debts: Sequence[int], outcome: Outcome) -> None:
        if outcome is Outcome.DELIVERED:
            pages = self._ledger.page_of(debts[0]), self._ledger.page_of(debts[-1])
            self._lag.delivered(changes, pages)
        self._ledger.settle(debts, outcome)
        self._sequencer.settled(changes)
        if self._committer is not None:
            # Asked here, not at the commit: between a write's return and this line the word would promise too much.
            self._committer.word = self._recipe.sink.word()
        self.counts.newest_settled_version = max(self.counts.newest_settled_version, changes[-1].version)

    def status(self) -> Status:
        """The run as it stands."""
        recipe, delivery = self._recipe, self._delivery
        marks = self._committer.marks if self._committer is not None else {}
        progress = self._ledger.progress()
        shards: list[ShardStatus] = []
        unread, now = 0.0, recipe.clock()
        for p in progress:
            behind, _, read_at = self._seen.get(p.shard, (0, 0.0, 0.0))
            if read_at and not p.ended:
                unread = max(unread, behind / 1000 + now - read_at)
            mark = marks.get(p.shard)
            checkpoint, arrived = (str(mark.position), mark.arrived) if mark is not None else ("", 0.0)
            shards.append(ShardStatus(p.shard, p.start, checkpoint, arrived, p.read, p.open, behind, read_at, p.ended))
        return Status(
            pipeline=recipe.name.pipeline,
            sink=recipe.name.sink,
            stream=recipe.name.stream,
            state=self.state,
            read=self._ledger.read,
            bytes=self.counts.bytes_read,
            settled=self._ledger.settled,
            open=self._ledger.open,
            in_flight_bytes=self._room.used,
            batches=delivery.batches if delivery is not None else 0,
            retries=dict(self.counts.retries),
            dead=dict(self.counts.dead),
            letters=self.counts.letters,
            remembered=self.counts.remembered,
            memory=len(self._sequencer),
            commits=self.counts.commits,
            committed_at=self.counts.committed_at,
            newest_version=self.counts.newest_settled_version,
            gaps=self.counts.gaps,
            shards=tuple(shards),
            held=self._order.held if self._order is not None else 0,
            late=self._order.late if self._order is not None else 0,
            reason=str(self.fault) if self.fault is not None else "",
            retention_used=self._standstill.used,
            alarm=self._standstill.level,
            retention_left=self._standstill.left,
            lag=self._lag.spreads(self._ledger.is_page_open, unread),
            circuit=recipe.sink.circuit(),
            began_at=self.counts.began_at,
            digests=recipe.sink.digests(),
        )


_KINDS = {"unique": Unique.kind, "commit": CommitOrder.kind, "latest": Latest.kind}


def _names(recipe: Recipe) -> tuple[str, str]:
    return recipe.name.pipeline, recipe.name.sink


def _first(error: BaseException) -> BaseException:
    """The first real error of a group of tasks."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
