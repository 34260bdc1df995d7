"""Pages kept for the pipelines that come after the one that read them. Who reads ahead waits for those that follow, but not for long."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from typing import Generic, Protocol, TypeVar

from dsqlcdc.sources.share import Credit, Share

T = TypeVar("T", contravariant=True)

_TICK = 0.002
_STUCK = 10.0
"""Seconds after which a page that keeps a pipeline hungry is waited for no more, however busy the processor is."""


class Keeper(Protocol[T]):
    """Whose pages the window holds."""

    def forget(self, thing: T) -> None:
        """It was put out."""
        ...

    def owed(self, thing: T) -> Collection[Credit]:
        """Of those that have not had it and are waited for."""
        ...


class Hold:
    """Bytes of the window for a page that is being read."""

    def __init__(self, size: int) -> None:
        self.size = size


class Window(Generic[T]):
    """Over all shards: up to `limit` bytes of kept pages and of those being read for several, or one page of any size.

    Where there is no room, a page that nobody is waited for goes first; else whoever wants to read on waits until those behind have taken
    theirs. As long as a pipeline has nothing left to work on, that is charged to those for whom the oldest page is kept: the time in which
    the loop had nothing to do either, as pipelines that only share the processor are like in speed; and all there is once that page has
    been the oldest for long.

    `busy`: seconds for which the loop's thread has worked so far.
    """

    def __init__(self, limit: int, busy: Callable[[], float]) -> None:
        self.limit, self._busy = limit, busy
        self.bytes = 0
        self._usual = 0
        self._ticked = self._worked = 0.0
        self._held = 0
        self._kept: OrderedDict[int, tuple[T, int, Keeper[T]]] = OrderedDict()
        self._oldest = (0, 0.0)  # the page that was charged for last, by its id, and since when
        self._waiting: deque[tuple[asyncio.Future[None], int, Keeper[T], Share]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def usual(self) -> int:
        """Bytes to expect of a shard that has not been read yet; while nothing is known of any, so many that few are read at once."""
        return self._usual or self.limit // 8

    def learn(self, size: int) -> None:
        """A page of some shard had so many bytes."""
        self._usual = max(size, self._usual * 7 // 8)

    def hold(self, size: int, *, called: bool) -> Hold | None:
        """Room for a page to be read, if there is some now and nobody has waited longer. `called`: by `wait`."""
        if (self._waiting and not called) or not self._room(size):
            return None
        self._held += size
        return Hold(size)

    def widen(self, hold: Hold, size: int) -> None:
        """The page being read is larger than was thought: others go out for it."""
        if size > hold.size:
            self._held += size - hold.size
            hold.size = size
            self._shrink()

    def let_go(self, hold: Hold) -> None:
        self._held -= hold.size
        hold.size = 0
        self._wake()

    async def wait(self, size: int, keeper: Keeper[T], share: Share) -> None:
        """Until there may be room, or a page of this keeper has come: look again. Cancelled, nothing is held. `share`: of who waits."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        entry = (future, size, keeper, share)
        self._waiting.append(entry)
        if self._timer is None:
            self._wind(loop)
        try:
            await future
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    def keep(self, thing: T, size: int, keeper: Keeper[T], hold: Hold) -> None:
        """Keep a page, in the room that was held for it."""
        self._kept[id(thing)] = (thing, size, keeper)
        self.bytes += size
        self._held -= hold.size
        hold.size = 0
        self._shrink()
        for future, _, whose, _ in self._waiting:
            if whose is keeper and not future.done():
                future.set_result(None)

    def drop(self, thing: T) -> None:
        """Forget a page that its keeper has forgotten already."""
        if id(thing) in self._kept:
            self._pop(thing)
            self._wake()

    def _room(self, size: int) -> bool:
        """Make room by putting out what nobody is waited for. One page always fits."""
        if self._over(size):
            self._put_out_spare(size)
        return not self._over(size)

    def _over(self, size: int) -> bool:
        return self.bytes + self._held + size > self.limit and self.bytes + self._held > 0

    def _put_out_spare(self, size: int) -> None:
        for thing, _, keeper in list(self._kept.values()):
            if not self._over(size):
                return
            if not keeper.owed(thing):
                self._put_out(thing)

    def _shrink(self) -> None:
        """Back to the limit: what is spare first, then the oldest, whoever follows. The newest stays where it is alone."""
        if self.bytes + self._held > self.limit:
            self._put_out_spare(0)
            while self.bytes + self._held > self.limit and len(self._kept) > (self._held == 0):
                self._put_out(next(iter(self._kept.values()))[0])

    def _put_out(self, thing: T) -> None:
        self._pop(thing).forget(thing)

    def _pop(self, thing: T) -> Keeper[T]:
        _, size, keeper = self._kept.pop(id(thing))
        self.bytes -= size
        if self._oldest[0] == id(thing):
            self._oldest = (0, 0.0)
        return keeper

    def _wake(self) -> None:
        while self._waiting and self._waiting[0][0].done():
            self._waiting.popleft()
        if self._waiting and self._room(self._waiting[0][1]):
            self._waiting.popleft()[0].set_result(None)

    def _wind(self, loop: asyncio.AbstractEventLoop) -> None:
        self._ticked, self._worked = loop.time(), self._busy()
        self._timer = loop.call_later(_TICK, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if not self._waiting:
            self._oldest = (0, 0.0)
            return
        now = loop.time()
        if any(share.hungry for _, _, _, share in self._waiting):
            self._charge(min(_TICK, now - self._ticked - (self._busy() - self._worked)), now)
        self._wake()
        self._wind(loop)

    def _charge(self, idle: float, now: float) -> None:
        for name, (thing, _, keeper) in self._kept.items():
            if owed := keeper.owed(thing):
                if self._oldest[0] != name:
                    self._oldest = name, now
                stuck = now - self._oldest[1] >= _STUCK
                for credit in owed:
                    credit.spend(Credit.FULL if stuck else max(0.0, idle), now)
                return
