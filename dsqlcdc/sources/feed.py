"""One shard's pages for all pipelines: read once, within the shard's budget, kept until all have had them or room is short."""

from __future__ import annotations

import asyncio
import itertools
import random as random_module
from collections import deque
from collections.abc import Callable

from dsqlcdc.core.records import Position, Record
from dsqlcdc.sources.budget import Budget
from dsqlcdc.sources.counts import Counters
from dsqlcdc.sources.fetched import Cursor, Fetched, after, number, past
from dsqlcdc.sources.service import Expired, Oversize, Service, Throttled
from dsqlcdc.sources.share import Credit, Room, Share
from dsqlcdc.sources.turns import Turns
from dsqlcdc.sources.window import Hold, Window

ITERATOR_LIFE = 285.0
"""Seconds an iterator is used; the service lets them expire after 300."""
ROOM_PATIENCE = 5.0
"""Seconds an answer's body is left unread for want of room, before it is dropped."""
PAGE_RECORDS = 2_000
"""Records asked for at a time. Those of DSQL have 350 bytes or more, so five reads a second of this many give more than a shard's 2 MB/s;
larger answers only cost memory, and leave the processor's cache before they are read."""
VISIBLE = 1.0
"""Seconds after its arrival time within which a record can surely be read: an answer at the tip says nothing of the last one."""
BEAT = 0.1
"""Seconds between two times at which polls are sent; a tenth of the poll interval where that is less."""
_SMALL = 64 * 1024
_WALK = 60.0


class Feed:
    """Reads one shard. At any time one read is under way; readers that want the same page wait for it."""

    def __init__(
        self,
        shard: str,
        service: Service,
        budget: Budget,
        *,
        window: Window[Fetched],
        counters: Counters,
        poll: float,
        now: Callable[[], float],
        heard: Callable[[float], None],
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self.shard = shard
        self._service = service
        self._budget = budget
        self._window = window
        self._counters = counters
        self._poll = poll
        self._now = now
        self._heard = heard
        self._random = random
        self._serials = itertools.count()
        self._turns = Turns()
        self._readers: dict[int, tuple[Cursor, Credit]] = {}
        self._recent: deque[Fetched] = deque()
        self._tip: tuple[Position, int, float] | None = None
        self._expected = 0
        self._refusals = 0

    def attach(self, cursor: Cursor, share: Share) -> None:
        self._readers[cursor.owner] = cursor, share.credit

    def detach(self, owner: int) -> None:
        self._readers.pop(owner, None)
        for kept in list(self._recent):
            self._release(kept)

    async def next(self, cursor: Cursor, share: Share) -> tuple[Fetched, int]:
        """The page behind the cursor and the bytes of `share` now held for it. Waits for the budget, and at the tip for the next poll.

        Raises what Service.records raises. Cancelled, nothing is held, and the cursor has not moved.
        """
        loop = asyncio.get_running_loop()
        called = False
        while True:
            kept = self._lookup(cursor)
            if kept is not None:
                size, kept = kept.size, None  # a reader that waits for room must not keep the page alive
                await share.reserve(size)
                kept = self._lookup(cursor)
                if kept is not None and kept.size == size:
                    share.credit.met(loop.time())
                    return self._take(cursor, kept), size
                share.release(size)
                continue
            wait = max(self._budget.free_at, self._due(cursor)) - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
                continue
            expected = self._expected or max(_SMALL, self._window.usual)
            room = Room(share, expected)
            await room.open()
            try:
                async with self._turns.turn(-number(cursor.position)):
                    if self._lookup(cursor) is not None or max(self._budget.free_at, self._due(cursor)) > loop.time():
                        continue
                    hold = self._window.hold(expected, called=called) if self._followed(cursor) else Hold(0)
                    if hold is not None:
                        try:
                            fetched = await self._walk(cursor, room, hold)
                        finally:
                            self._window.let_go(hold)
                        return self._take(cursor, fetched), room.keep(fetched.size)
            finally:
                room.close()
            await self._window.wait(
                expected, self, share
            )  # with nothing in hand: who holds a share's room must not wait for who waits for it
            called = True

    def _followed(self, cursor: Cursor) -> bool:
        """Does a pipeline that is waited for come after, or along with, this one? The last one of all waits for nobody."""
        here = number(cursor.position)
        return any(
            number(other.position) <= here for owner, (other, credit) in self._readers.items() if owner != cursor.owner and not credit.spent
        )

    async def _walk(self, cursor: Cursor, room: Room, hold: Hold) -> Fetched:
        """Fetch on, past answers without a new record, as long as there are more and the tip is not reached.

        In one turn and one room: where room is scarce, an iterator given back to the queue might expire there every time, and reading begin
        again AT the same record for ever.
        """
        loop = asyncio.get_running_loop()
        until, begun = loop.time() + _WALK, False
        while True:
            fetched = await self._fetch(cursor, room, hold)
            fetched.begun = begun = fetched.begun or begun
            if fetched.records or fetched.ended or fetched.behind == 0 or loop.time() > until:
                return fetched
            self._take(cursor, fetched)
            await asyncio.sleep(self._budget.free_at - loop.time())

    def _due(self, cursor: Cursor) -> float:
        if self._tip is None or self._tip[1] != cursor.seen or self._tip[0] != cursor.position:
            return 0.0
        return self._tip[2]

    def _lookup(self, cursor: Cursor) -> Fetched | None:
        """A fetch that is kept and holds what follows the cursor, cut to it."""
        if cursor.verify:
            return None
        return next((found for kept in reversed(self._recent) if (found := after(kept, cursor)) is not None), None)

    def _take(self, cursor: Cursor, fetched: Fetched) -> Fetched:
        cursor.seen = fetched.serial
        cursor.verify = False
        cursor.iterator, cursor.iterator_at = fetched.iterator, fetched.at
        cursor.verifying = not fetched.decided
        fetched.taken.add(cursor.owner)
        for kept in list(self._recent):
            if kept.serial == fetched.serial:
                kept.taken.add(cursor.owner)
                self._release(kept)
        return fetched

    def _release(self, kept: Fetched) -> None:
        if kept.taken >= self._readers.keys():
            self._recent.remove(kept)
            self._window.drop(kept)

    def _keep(self, cursor: Cursor, fetched: Fetched, hold: Hold) -> None:
        """Keep a page for those that have it still before them."""
        if not (fetched.decided and fetched.found):
            return
        fetched.taken.update(owner for owner, (other, _) in self._readers.items() if past(number(other.position), fetched))
        if fetched.taken | {cursor.owner} >= self._readers.keys():
            return
        for older in list(self._recent):
            if not older.records and older.lo == fetched.lo and older.start == fetched.start:
                self._recent.remove(older)
                self._window.drop(older)
        self._recent.append(fetched)
        self._window.keep(fetched, fetched.size, self, hold)

    def forget(self, thing: Fetched) -> None:
        self._recent.remove(thing)

    def owed(self, thing: Fetched) -> list[Credit]:
        return [credit for owner, (_, credit) in self._readers.items() if owner not in thing.taken and not credit.spent]

    async def _fetch(self, cursor: Cursor, room: Room, hold: Hold) -> Fetched:
        loop = asyncio.get_running_loop()
        iterator, verifying, begun = cursor.iterator, cursor.verifying, False
        if iterator is None or cursor.verify or loop.time() - cursor.iterator_at > ITERATOR_LIFE:
            if iterator is not None:
                self._counters.count("renewed")
            iterator = await self._service.iterator(self.shard, cursor.position)
            cursor.iterator, cursor.iterator_at, cursor.verify = iterator, loop.time(), False
            cursor.verifying = verifying = cursor.position.kind == "after"
            begun = True

        async def admit(length: int) -> None:
            self._expected = max(_SMALL, length)
            if hold.size:
                self._window.widen(hold, length)
            deadline = loop.time() + ROOM_PATIENCE
            while not room.widen(length):
                if loop.time() >= deadline:
                    self._budget.received(length * 3 // 4, loop.time())  # the service counts it as read
                    raise Oversize(length, f"shard {self.shard}")
                await asyncio.sleep(0.05)

        sent_at = self._now()
        self._budget.sent(loop.time())
        self._counters.count("reads")
        try:
            reply = await self._service.records(self.shard, iterator, PAGE_RECORDS, admit)
        except Expired:
            cursor.iterator = None
            self._counters.count("expired")
            raise
        except Throttled as error:
            self._refusals = min(self._refusals + 1, 6)
            wait = max(error.after or 0.0, (0.2 + 0.8 * self._random()) * min(5.0, 0.25 * 2**self._refusals))
            self._budget.throttled(wait, loop.time())
            self._counters.count("throttles")
            raise
        self._refusals = 0
        payload = sum([len(record.data) for record in reply.records])
        self._budget.received(payload, loop.time())
        self._heard(reply.now)
        self._counters.received(len(reply.records), payload)
        self._expected = max(_SMALL, reply.size)
        self._window.learn(self._expected)
        fetched = self._fetched(cursor, reply.records, reply.iterator, verifying, payload)
        fetched.begun, fetched.now = begun, (reply.now or sent_at) - VISIBLE
        fetched.behind, fetched.children = reply.behind, tuple(reply.children)
        self._keep(cursor, fetched, hold)
        if reply.behind == 0:
            pause = self._poll * (0.85 + 0.3 * self._random())
            last = reply.records[-1] if reply.records else None
            where = Position("after", last.sequence_number, last.arrived) if last else cursor.position
            self._tip = (where, fetched.serial, on_the_beat(loop.time() + (min(pause, 0.25) if last else pause), self._poll))
        return fetched

    def _fetched(self, cursor: Cursor, records: list[Record], iterator: str | None, verifying: bool, payload: int) -> Fetched:
        wanted = cursor.position.sequence
        found, decided = True, True
        if verifying:
            if records:
                found = records[0].sequence_number == wanted
                if found:
                    payload -= len(records[0].data)
                    records = records[1:]
            else:
                found, decided = False, False
        lo = number(cursor.position) if found else -1
        return Fetched(
            serial=next(self._serials),
            start=cursor.position,
            records=records,
            iterator=iterator,
            at=asyncio.get_running_loop().time(),
            now=0.0,
            behind=0,
            size=payload + 300 * len(records),
            lo=lo,
            hi=int(records[-1].sequence_number) if records else lo,
            found=found,
            decided=decided,
        )


def on_the_beat(due: float, poll: float) -> float:
    """The nearest time at which polls are sent: waking the process costs more than a read, so those of many shards go together."""
    beat = min(BEAT, poll / 10)
    return round(due / beat) * beat if beat else due
