"""One pipeline's reading of one shard: page after page from the feed, verified, into the source's queue."""

from __future__ import annotations

import asyncio
from typing import Protocol

from dsqlcdc.core.backoff import Backoff
from dsqlcdc.core.patience import within
from dsqlcdc.core.ports import Gap
from dsqlcdc.core.records import Mark, Page, Position, Record
from dsqlcdc.errors import Unavailable
from dsqlcdc.sources import trimmed
from dsqlcdc.sources.feed import Feed
from dsqlcdc.sources.feeds import Feeds
from dsqlcdc.sources.fetched import Cursor, Fetched, number
from dsqlcdc.sources.service import Expired, Oversize, Throttled
from dsqlcdc.sources.shards import Shard
from dsqlcdc.sources.share import Share

_RETRIES = Backoff(base=0.1, cap=20.0)
_EMPTY_EVERY = 0.95
"""Seconds between empty pages of one shard: they only say how far it was read."""


class Owner(Protocol):
    """What a reader asks of its source."""

    pipeline: str
    sink: str
    once: bool
    deadline: float | None
    started_at: float

    def put(self, reader: Reader, page: Page, held: int, read_to: float) -> None: ...

    def moved(self) -> None: ...

    async def may_read(self, reader: Reader) -> None: ...

    async def gap(self, reader: Reader, gap: Gap) -> None: ...


class Reader:
    """Reads one shard from a mark on. `floor`: everything that arrived up to then has been read (seconds); the skew goes by it.

    `known`: the same, but 0 where nothing is known; the search for trimmed records goes by it. `handed_to`: as `floor`, of
    what the pipeline has taken. `verified`: it is known whether records before the first one were trimmed unread, and the gap is kept.
    `finished`: read as far as was asked for.
    """

    def __init__(self, shard: Shard, feeds: Feeds, share: Share, owner: Owner, mark: Mark, floor: float) -> None:
        self.shard = shard
        self.cursor = Cursor(feeds.owner(), mark.position)
        self.known = mark.arrived
        self.floor = self.handed_to = floor
        self.verified = mark.position.kind != "after"
        self.finished = False
        self.ended = False
        self.paused = False
        self.at_tip = False
        self.behind = 0
        self.last_arrived = mark.position.arrived
        self.records = 0
        self.children: tuple[Shard, ...] = ()
        self.queued = 0
        self._feed: Feed = feeds.feed(shard.id)
        self._feeds = feeds
        self._share = share
        self._owner = owner
        self._emptied = float("-inf")
        # a first start at the trim horizon promises no record in particular until reading is clear of the moving edge
        self.guarded = mark.position.kind != "trim_horizon" or mark.arrived > 0

    async def run(self) -> None:
        """Read until the shard ends, or with `once` until its tip. Raises Misconfigured, Unavailable (after the deadline)."""
        self._feed.attach(self.cursor, self._share)
        try:
            while not self.finished:
                await self._owner.may_read(self)
                if number(self.cursor.position) >= 0 and self._overtaken():
                    self.cursor.verify = True
                fetched, held = await patiently(self._feed, self.cursor, self._share, self._feeds, self._owner.deadline)
                try:
                    await self._judge(fetched)
                except BaseException:
                    self._share.release(held)
                    raise
                self._accept(fetched, held)
                del fetched  # its records are the queue's now: not kept alive while the next are waited for
        finally:
            self._feed.detach(self.cursor.owner)

    async def remember(self, since: float) -> None:
        """Read what was settled before, from the time `since` up to the cursor's position, as pages to be remembered."""
        target = self.cursor.position
        cursor = Cursor(self._feeds.owner(), Position("time", arrived=since))
        limit = number(target)
        self._feed.attach(cursor, self._share)
        try:
            while True:
                fetched, held = await patiently(self._feed, cursor, self._share, self._feeds, self._owner.deadline)
                records = fetched.records
                if records:
                    last = records[-1]
                    cursor.position = Position("after", last.sequence_number, last.arrived)
                past = bool(records) and 0 <= limit <= int(records[-1].sequence_number)
                if past:
                    records = [record for record in records if int(record.sequence_number) <= limit]
                if records:
                    self._owner.put(
                        self,
                        Page(self.shard.id, records, read_at=fetched.now, behind=fetched.behind, remember=True),
                        held,
                        self.handed_to,
                    )
                else:
                    self._share.release(held)
                if past or fetched.ended or (limit >= 0 and fetched.behind == 0):
                    return
                del fetched, records
        finally:
            self._feed.detach(cursor.owner)

    def _overtaken(self) -> bool:
        near = trimmed.near_the_edge(self.known, now=self._feeds.now(), retention=self._feeds.description.retention)
        self.guarded = self.guarded or not near
        return near and self.guarded and not self.cursor.verifying

    async def _judge(self, fetched: Fetched) -> None:
        """Look for records that were trimmed unread, whenever reading began anew at a known position."""
        asked = self.cursor.position.kind == "after"
        if asked and not fetched.decided and not (fetched.ended or fetched.behind == 0):
            return  # empty answers come before the record: go on
        gap = self._missed(fetched)
        if gap is not None:
            await self._owner.gap(self, gap)
        self.verified = True

    def _missed(self, fetched: Fetched) -> Gap | None:
        """The gap before what was fetched, where there may be one."""
        position = self.cursor.position
        asked = position.kind == "after"
        if asked and fetched.found and fetched.decided:
            return None
        if not asked and not fetched.begun:
            return None
        self.cursor.verifying = False
        now, retention = self._feeds.now(), self._feeds.description.retention
        if not self.guarded and now - retention - self.known < trimmed.EDGE:
            return None
        if not trimmed.missed(position, self.known, now=now, retention=retention):
            return None
        return self._gap(position, now, retention, fetched.records[0] if fetched.records else None)

    def _gap(self, position: Position, now: float, retention: float, first: Record | None) -> Gap:
        return trimmed.gap(
            pipeline=self._owner.pipeline,
            sink=self._owner.sink,
            stream=self._feeds.stream,
            shard=self.shard.id,
            position=position,
            arrived=self.known,
            now=now,
            first=first,
            horizon=now - retention,
        )

    def _accept(self, fetched: Fetched, held: int) -> None:
        loop = asyncio.get_running_loop()
        records, ended = fetched.records, fetched.ended
        last = records[-1] if records else None
        if last is not None:
            self.cursor.position = Position("after", last.sequence_number, last.arrived)
            self.last_arrived = last.arrived
            self.records += len(records)
        if ended or fetched.behind:
            # the tip of a closed shard says nothing of the time after it closed: its children have that
            read_to = last.arrived if last else (0.0 if ended else fetched.now - fetched.behind / 1000)
        else:
            read_to = max(fetched.now, last.arrived if last else 0.0)
        self.floor = max(self.floor, read_to)
        self.known = max(self.known, read_to)
        self.behind, self.ended, self.at_tip = fetched.behind, ended, fetched.behind == 0
        self.children = fetched.children or self.children
        done = self._owner.once and (fetched.behind == 0 or (last is not None and last.arrived > self._owner.started_at))
        self.finished = ended or (done and not self.cursor.verifying)
        seldom = self.queued == 0 and loop.time() - self._emptied >= _EMPTY_EVERY
        if not records and not self.finished and not seldom:
            self._share.release(held)
            if self.queued == 0:
                self.handed_to = self.floor
            self._owner.moved()
            return
        if not records:
            self._emptied = loop.time()
        # not `floor`: a bound that was only assumed, kept with the mark, would look like trimmed records after a restart
        read_at = self.known if ended else fetched.now
        self._owner.put(self, Page(self.shard.id, records, read_at=read_at, behind=fetched.behind, ended=ended), held, self.floor)


async def patiently(feed: Feed, cursor: Cursor, share: Share, feeds: Feeds, deadline: float | None) -> tuple[Fetched, int]:
    """The next page, however long it takes: Unavailable is retried with full jitter, raised after `deadline` seconds (None: never)."""
    loop = asyncio.get_running_loop()
    began, attempt = loop.time(), 0
    while True:
        try:
            return await feed.next(cursor, share)
        except Unavailable as error:
            feeds.retried(error, attempt)
            if isinstance(error, Oversize):
                feeds.counters.count("dropped")
                continue
            # an expired iterator is simply renewed; after throttling the shard's budget does the waiting
            free = isinstance(error, Throttled) or (isinstance(error, Expired) and attempt == 0)
            wait = 0.0 if free else max(_RETRIES.delay(attempt, feeds.random), error.after or 0.0)
            cut = within(wait, loop.time() - began, deadline)
            if cut is None:
                raise
            if cut:
                await asyncio.sleep(cut)
            attempt += 1
