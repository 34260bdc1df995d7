"""One stream as a process reads it: one client, one listing of shards, one feed a shard, for all pipelines."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random as random_module
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TypeVar

from dsqlcdc.aws import EXPIRED, Aws
from dsqlcdc.core.backoff import Backoff
from dsqlcdc.core.patience import within
from dsqlcdc.errors import Misconfigured, Unavailable
from dsqlcdc.sources.budget import Budget, ReadLimits
from dsqlcdc.sources.counts import Counters
from dsqlcdc.sources.feed import Feed
from dsqlcdc.sources.fetched import Fetched
from dsqlcdc.sources.kinesis_client import connect
from dsqlcdc.sources.service import Description, Service
from dsqlcdc.sources.shards import Shard, hole_words, holes
from dsqlcdc.sources.share import Share
from dsqlcdc.sources.window import Window

T = TypeVar("T")
MIB = 1024 * 1024
log = logging.getLogger("dsqlcdc.source")

_LISTING_TRIES = 6
_RENEWALS = 20
"""Attempts, in a row and with full jitter (minutes in all), after which expired credentials count as final."""
_RETRIES = Backoff(base=0.2, cap=20.0)


class Feeds:
    """A stream's shared state in this process. Made by `open_feeds`, or over any Service and then opened.

    `limits`: None for the service's own. `poll`: seconds between reads of a shard at its tip. `prefetch`: bytes of pages read ahead, of all
    pipelines together: a quarter are pages kept for pipelines that follow, the rest is shared equally, and each may always hold one page.
    `clock`: the wall clock, corrected by the service's. `busy`: seconds for which the loop's thread has worked so far (see Window).
    """

    def __init__(
        self,
        service: Service,
        *,
        limits: ReadLimits | None = None,
        poll: float = 1.0,
        prefetch: int = 64 * MIB,
        rediscover: float = 60.0,
        deadline: float | None = None,
        clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random_module.random,
        busy: Callable[[], float] = time.thread_time,
    ) -> None:
        self.service = service
        self.counters = Counters()
        self.rediscover = rediscover
        self.random = random
        self._limits = limits or ReadLimits()
        self._poll = poll
        self._prefetch = prefetch
        self._deadline = deadline
        self._clock = clock
        self._offset: float | None = None
        self._description: Description | None = None
        self._shards: dict[str, Shard] = {}
        self._listed_at = float("-inf")
        self._listing = asyncio.Lock()
        self._feeds: dict[str, Feed] = {}
        self._shares: list[Share] = []
        self._owners = itertools.count()
        self._window: Window[Fetched] = Window(prefetch // 4, busy)

    async def open(self) -> None:
        """Ask who the stream is. Raises Misconfigured, or Unavailable when `deadline` has passed."""
        self._description = await self.patiently(self.service.describe, self._deadline)
        self.heard(self._description.now)

    @property
    def description(self) -> Description:
        if self._description is None:
            raise RuntimeError("the feeds are not open")
        return self._description

    @property
    def stream(self) -> str:
        """The stream's name with its creation time, as in Name.stream."""
        made = datetime.fromtimestamp(self.description.created, UTC)
        return f"{self.description.name}@{made:%Y%m%dT%H%M%SZ}"

    @property
    def shards(self) -> Sequence[Shard]:
        """The last listing."""
        return tuple(self._shards.values())

    @property
    def cached_bytes(self) -> int:
        return self._window.bytes

    def now(self) -> float:
        """The service's clock (seconds since the epoch), as far as we know it; never ahead of it once it was heard."""
        return self._clock() + (self._offset or 0.0)

    def heard(self, date: float) -> None:
        """The service said what time it was, in whole seconds: the largest difference seen is the nearest to the truth."""
        if date:
            offset = date - self._clock()
            if self._offset is None or offset > self._offset or self._offset - offset > 5:
                self._offset = offset

    def feed(self, shard: str) -> Feed:
        found = self._feeds.get(shard)
        if found is None:
            found = self._feeds[shard] = Feed(
                shard,
                self.service,
                Budget(self._limits),
                window=self._window,
                counters=self.counters,
                poll=self._poll,
                now=self.now,
                heard=self.heard,
                random=self.random,
            )
        return found

    def owner(self) -> int:
        """A new reader's number."""
        return next(self._owners)

    def join(self) -> Share:
        """A pipeline's share of the memory. All shares shrink or grow as pipelines come and go."""
        share = Share(self._prefetch)
        self._shares.append(share)
        self._divide()
        return share

    def leave(self, share: Share) -> None:
        self._shares.remove(share)
        self._divide()

    def _divide(self) -> None:
        each = (self._prefetch - self._window.limit) // max(1, len(self._shares))
        for share in self._shares:
            share.resize(each)

    async def list(self, *, since: float, ended: Collection[str] = (), expected: Collection[str] = ()) -> Sequence[Shard]:
        """The shards as listed at loop time `since` or later. `ended`: shards read to their end; `expected`: children they named.

        A listing with a hole in the hash range, or one that lags behind what reading has shown, is asked for again a few times: a reshard
        may be under way. Raises Unavailable naming the hole; Misconfigured when the stream was made anew under its name.
        """
        async with self._listing:
            if self._listed_at >= since and not self._lags(self._shards, ended, expected):
                return self.shards
            trouble = ""
            for attempt in range(_LISTING_TRIES):
                if attempt:
                    await asyncio.sleep(0.25 * 2**attempt * (0.5 + 0.5 * self.random()))
                began = asyncio.get_running_loop().time()
                found = {shard.id: shard for shard in await self.service.list_shards()}
                self.counters.count("listings")
                missing = holes(found.values())
                trouble = f"no open shard covers the hash keys {hole_words(missing)}" if missing else self._lags(found, ended, expected)
                if not trouble:
                    await self._same_stream()
                    if self._shards and found.keys() - self._shards.keys():
                        self.counters.count("reshards")
                    self._shards, self._listed_at = found, began
                    return self.shards
            raise Unavailable(
                "the listing of shards is not whole",
                where=f"stream {self.service.stream}",
                why=trouble,
                code="E111",
                run=f"aws kinesis list-shards --stream-name {self.service.stream}",
            )

    def _lags(self, found: dict[str, Shard], ended: Collection[str], expected: Collection[str]) -> str:
        absent = [child for child in expected if child not in found]
        if absent:
            return f"the child shard {absent[0]} is not listed yet"
        still = [shard for shard in ended if shard in found and not found[shard].closed]
        return f"shard {still[0]} has ended and is still listed as open" if still else ""

    async def _same_stream(self) -> None:
        description = await self.service.describe()
        if self._description is not None and abs(description.created - self._description.created) > 0.5:
            raise Misconfigured(
                "the stream was deleted and made anew while it was read",
                where=f"stream {self.service.stream}",
                why="its checkpoints belong to the old one",
                run="dsqlcdc run CONFIG, which begins the new one at source.start",
                code="E108",
            )
        self._description = description
        self.heard(description.now)

    async def patiently(self, call: Callable[[], Awaitable[T]], deadline: float | None) -> T:
        """Call until it is not Unavailable, with full jitter; after `deadline` seconds (None: never) that is raised."""
        loop = asyncio.get_running_loop()
        began, attempt = loop.time(), 0
        while True:
            try:
                return await call()
            except Unavailable as error:
                wait = max(_RETRIES.delay(attempt, self.random), error.after or 0.0)
                self.retried(error, attempt)
                cut = within(wait, loop.time() - began, deadline)
                if cut is None:
                    raise
                await asyncio.sleep(cut)
                attempt += 1

    def retried(self, error: Unavailable, attempt: int) -> None:
        """Count a retry by its reason, and say so, ever more seldom. Raises Misconfigured when expired credentials stay expired: nobody
        renews them, and waiting on would end in records that are trimmed unread."""
        self.counters.retried(error.code)
        if error.code == EXPIRED and attempt >= _RENEWALS:
            why = f"{error.why}; refused {attempt + 1} times, so nobody renews them"
            raise Misconfigured(error.what, where=error.where, why=why, run="aws sts get-caller-identity", code="E105") from error
        if attempt & (attempt - 1) == 0 and error.code not in ("E123", "E124"):
            log.warning("%s (attempt %d, will be retried)", error, attempt + 1)


@asynccontextmanager
async def open_feeds(
    stream: str,
    aws: Aws,
    *,
    limits: ReadLimits | None = None,
    poll: float = 1.0,
    prefetch: int = 64 * MIB,
    rediscover: float = 60.0,
    deadline: float | None = None,
    clock: Callable[[], float] = time.time,
) -> AsyncGenerator[Feeds, None]:
    """Connect to a stream (name or ARN) and open its feeds. Leaving closes the client.

    Raises Misconfigured, or Unavailable after `deadline` seconds (None: asked for ever).
    """
    async with connect(stream, aws, clock=clock) as service:
        feeds = Feeds(service, limits=limits, poll=poll, prefetch=prefetch, rediscover=rediscover, deadline=deadline, clock=clock)
        await feeds.open()
        yield feeds
