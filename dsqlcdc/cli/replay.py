"""`dead replay` and `dead discard`: letters dealt with, one batch after the other, stopped anywhere and taken up again."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import msgspec

from dsqlcdc.assemble import make_sink, make_tables
from dsqlcdc.cli.output import emit, emit_json, printable, say
from dsqlcdc.cli.selection import Filter, asked, letters, open_letters
from dsqlcdc.contract import Change, Outcome, Sink
from dsqlcdc.core.backoff import Backoff
from dsqlcdc.core.patience import Patience
from dsqlcdc.core.ports import Part
from dsqlcdc.core.replay import INCOMPLETE, Answer, Answers, Replay, join, read, replayable, rows, takers
from dsqlcdc.core.route import Route
from dsqlcdc.core.tables import Bad
from dsqlcdc.errors import ConfigError

if TYPE_CHECKING:
    from dsqlcdc.config import Config
    from dsqlcdc.core.ports import LetterBox
    from dsqlcdc.core.tables import Tables

_BATCH, _BATCH_BYTES = 500, 32 * 1024 * 1024
_TELL = 1.0
_IN = (Outcome.DELIVERED, Outcome.STALE, Outcome.DUPLICATE)
_STAYS = 4


class Planned(msgspec.Struct, frozen=True):
    """Letters that are one change, by name; their bytes; the sinks they go to, or why they stay.

    `over`: a replay that was stopped had delivered their row and moved others of it.
    """

    names: Sequence[str]
    size: int
    targets: Sequence[str] = ()
    stays: Bad | None = None
    over: bool = False


class Replaying:
    """One `dead replay`."""

    def __init__(self, config: Config, box: LetterBox, *, rate: int, deadline: float, as_json: bool) -> None:
        self._config, self._box, self._rate, self._deadline, self._as_json = config, box, rate, deadline, as_json
        self._tables: Tables = make_tables(config)
        self._routes = {name: Route(sink.tables or (), sink.ops or ()) for name, sink in config.sinks.items()}
        self.counts: Counter[str] = Counter()

    async def plan(self, wanted: Filter) -> list[Planned]:
        """What is to be done with the letters that are wanted. Keeps their names, not their bytes."""
        found: list[Planned] = []
        parts: dict[str, Part] = {}
        sizes: dict[str, int] = {}
        async for name, letter in letters(self._box, self._config, wanted):
            item = read(self._tables, letter)
            sizes[name] = len(letter.raw) + sum(map(len, letter.images.values()))
            if isinstance(item, Part):
                parts[name] = msgspec.structs.replace(item, raw=b"", text=b"")
            else:
                found.append(self._planned([name], sizes[name], item, letter.sink))
        for names, complete in rows(parts):
            size = sum(sizes[name] for name in names)
            row = await self._row(names) if complete else INCOMPLETE
            if not complete and await self._over(names):
                found.append(Planned(names, size, over=True))
            elif row is not None:
                found.append(self._planned(names, size, row, ""))
        return found

    def _planned(self, names: Sequence[str], size: int, item: Change | Bad, sink: str) -> Planned:
        if isinstance(item, Bad):
            return Planned(names, size, stays=item)
        targets = takers(item, sink, self._routes)
        if targets:
            return Planned(names, size, targets)
        why = (
            f"the sink {sink} is not in the config"
            if sink and sink not in self._routes
            else f"no sink takes {item.op.word}s of {item.table}"
        )
        return Planned(names, size, stays=Bad("unrouted", why))

    async def _row(self, names: Sequence[str]) -> Change | Bad | None:
        """The change of some letters as it is today; None where one of them is gone."""
        parts: list[Part] = []
        for name in names:
            try:
                item = read(self._tables, await self._box.letter(name))
            except KeyError:
                return None
            if not isinstance(item, Part):
                return item
            parts.append(item)
        return join(self._tables, parts) if len(parts) > 1 else INCOMPLETE

    async def _over(self, names: Sequence[str]) -> bool:
        """Is every one of these letters stored as replayed already?"""
        try:
            for name in names:
                await self._box.letter(f"replayed/{name}")
        except (KeyError, ValueError):
            return False
        return True

    async def run(self, planned: Sequence[Planned]) -> None:
        """Deal with all of it, telling how far it is. Raises what ends it: what is not dealt with stays."""
        total, began = sum(len(one.names) for one in planned), asyncio.get_running_loop().time()
        patience = Patience(Backoff(0.2, 10.0), random.random, deadline=self._deadline)
        for one in planned:
            if one.stays is not None:
                await self._stay(one.names, one.stays, {})
            elif one.over:
                await self._close(one.names, Outcome.DUPLICATE, "its row was replayed", {})
        going = [one for one in planned if one.targets]
        async with AsyncExitStack() as stack:
            sinks = await self._enter(stack, {target for one in going for target in one.targets}, patience)
            replay, told, done = Replay(sinks, patience), 0.0, 0
            while going:
                batch = self._cut(going)
                del going[: len(batch)]
                await self._batch(replay, batch)
                done += len(batch)
                now = asyncio.get_running_loop().time()
                if going and now - told >= _TELL and not self._as_json:
                    say(f"{self.counts.total()} of {total} letters")
                    told = now
                if going and self._rate:
                    await asyncio.sleep(max(0.0, began + done / self._rate - now))

    def _cut(self, going: Sequence[Planned]) -> list[Planned]:
        batch: list[Planned] = []
        size = 0
        for one in going[: min(_BATCH, self._rate or _BATCH)]:
            size += one.size
            if batch and size > _BATCH_BYTES:
                break
            batch.append(one)
        return batch

    async def _enter(self, stack: AsyncExitStack, names: set[str], patience: Patience) -> Mapping[str, Sink]:
        sinks: dict[str, Sink] = {}
        for name in sorted(names):
            sink = make_sink(self._config, name)
            if not replayable(sink):
                raise ConfigError(
                    "this sink cannot be replayed to",
                    where=f"sink {name}",
                    why="it needs changes in order, and cannot tell an old one from a new one",
                    run=f"dsqlcdc dead list {self._config.path} --sink {name}",
                    code="E095",
                )
            sinks[name] = await patience.ask(lambda sink=sink: stack.enter_async_context(sink))  # type: ignore[misc]
        return sinks

    async def _batch(self, replay: Replay, batch: Sequence[Planned]) -> None:
        """Deliver a batch; whatever ends it, letters whose sinks have all answered are dealt with."""
        items = [(one, await self._row_or_change(one.names)) for one in batch]
        going = [(one, item) for one, item in items if isinstance(item, Change)]
        answers: list[Answers] = [{} for _ in going]

        def answered(place: int, sink: str, answer: Answer) -> None:
            answers[place][sink] = answer

        try:
            await replay.deliver([(item, one.targets) for one, item in going], answered)
        finally:
            for one, item in items:
                if isinstance(item, Bad):
                    await self._stay(one.names, item, {})
            for (one, _), said in zip(going, answers, strict=True):
                if said.keys() >= set(one.targets):
                    await self._settle(one, said)

    async def _row_or_change(self, names: Sequence[str]) -> Change | Bad | None:
        if len(names) > 1:
            return await self._row(names)
        try:
            item = read(self._tables, await self._box.letter(names[0]))
        except KeyError:
            return None
        return INCOMPLETE if isinstance(item, Part) else item

    async def _settle(self, one: Planned, said: Answers) -> None:
        dead = {sink: answer for sink, answer in said.items() if answer.outcome not in _IN}
        if dead:
            sink, answer = next(iter(dead.items()))
            await self._stay(one.names, Bad(answer.code, f"{sink}: {answer.detail}" if answer.detail else sink), said)
            return
        outcomes = {answer.outcome for answer in said.values()}
        outcome = Outcome.DELIVERED if Outcome.DELIVERED in outcomes else next(iter(outcomes))
        reason = ", ".join(f"{sink} {answer.outcome.value}" for sink, answer in said.items())
        await self._close(one.names, outcome, reason, said)

    async def _close(self, names: Sequence[str], outcome: Outcome, reason: str, said: Answers) -> None:
        """Move the letters of one change: all are stored as replayed before the first is removed, or a part would be left alone."""
        for name in names if len(names) > 1 else ():
            await self._box.close_letter(name, "replayed", outcome.value, reason, time.time(), keep=True)
        for name in names:
            await self._box.close_letter(name, "replayed", outcome.value, reason, time.time())
            self._tell(name, outcome.value, said)

    async def _stay(self, names: Sequence[str], bad: Bad, said: Answers) -> None:
        for name in names:
            if bad.code != "unrouted":  # nothing was tried
                await self._box.tried(name, bad.code, bad.detail, time.time())
            self._tell(name, "unrouted" if bad.code == "unrouted" else "dead", said, bad)

    def _tell(self, name: str, outcome: str, said: Answers, bad: Bad | None = None) -> None:
        self.counts[outcome] += 1
        if self._as_json:
            sinks = {sink: answer.outcome.value for sink, answer in said.items()}
            code, detail = (bad.code, bad.detail) if bad is not None else (None, None)
            emit_json({"name": name, "outcome": outcome, "moved": bad is None, "sinks": sinks, "code": code, "detail": detail})
        else:
            emit(printable(f"{outcome:10} {name}" + (f"  {bad.code}: {bad.detail}" if bad is not None else "")))


async def replay(config: Config, wanted: Filter, *, dry_run: bool, yes: bool, rate: int, deadline: float, as_json: bool) -> int:
    """The command. Its exit code: 0, or 4 where letters stay."""
    box = open_letters(config)
    try:
        work = Replaying(config, box, rate=rate, deadline=deadline, as_json=as_json)
        planned = await work.plan(wanted)
        total = sum(len(one.names) for one in planned)
        if not total:
            say(wanted.none())
            return 0
        if dry_run:
            _show(planned, as_json)
        going = Counter(target for one in planned if one.stays is None for target in one.targets)
        staying = sum(len(one.names) for one in planned if one.stays is not None)
        to = ", ".join(f"{count} to {sink}" for sink, count in sorted(going.items())) or "none to any sink"
        say(f"{_letters(total)}: {to}" + (f"; {staying} cannot be delivered as they are" if staying else "") + ".")
        if dry_run:
            say("A dry run: nothing was written.")
            return 0
        if not asked("Replay them?", f"dsqlcdc dead replay {config.path}", yes=yes):
            say("Nothing was changed.")
            return 0
        try:
            await work.run(planned)
        finally:
            stay = work.counts["dead"] + work.counts["unrouted"]
            told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(work.counts.items())) or "none dealt with"
            left = total - work.counts.total()
            say(f"{_letters(total)}: {told}" + (f"; {left} not come to" if left else "") + ".")
        return _STAYS if stay else 0
    finally:
        await box.close()


async def discard(config: Config, wanted: Filter, reason: str, *, dry_run: bool, yes: bool, as_json: bool) -> int:
    """The command. Letters are moved one by one: stopped anywhere, the rest is still there."""
    box = open_letters(config)
    try:
        names = [name async for name, _ in letters(box, config, wanted)]
        if not names:
            say(wanted.none())
            return 0
        if not dry_run:
            if not reason:
                run = f"dsqlcdc dead discard {config.path} --reason '…'"
                raise ConfigError("letters are discarded with a reason", run=run, code="E090")
            again = f"dsqlcdc dead discard {config.path} --reason '…'"
            if not asked(f"Discard {_letters(len(names))}? They are delivered to nobody, and kept in discarded/.", again, yes=yes):
                say("Nothing was changed.")
                return 0
        moved = 0
        for name in names:
            if not dry_run:
                moved += await box.close_letter(name, "discarded", "discarded", reason, time.time())
            if as_json:
                emit_json({"name": name, "outcome": "discarded", "moved": not dry_run})
            else:
                emit(printable(name))
        say(f"A dry run: {_letters(len(names))} would be discarded." if dry_run else f"{_letters(moved)} discarded.")
        return 0
    finally:
        await box.close()


def _show(planned: Sequence[Planned], as_json: bool) -> None:
    for one in planned:
        bad = one.stays
        for name in one.names:
            if as_json:
                code, detail = (bad.code, bad.detail) if bad is not None else (None, None)
                body: dict[str, Any] = {"name": name, "would_go_to": list(one.targets), "code": code, "detail": detail}
                emit_json(body)
            else:
                emit(printable(f"{name}  " + (f"stays: {bad.code}: {bad.detail}" if bad is not None else "to " + ", ".join(one.targets))))


def _letters(count: int) -> str:
    return f"{count} dead letter{'s' if count != 1 else ''}"
