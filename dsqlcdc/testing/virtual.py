"""Virtual time: an event loop whose clock jumps to the next timer when nothing else is to be done.

`run(coro)` plays hours of waiting in the time the work itself takes. Jobs in threads and, with `grace`, sockets are waited for in real
time, so SQLite behind asyncio.to_thread works, and so do servers on loopback.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_STALL = 30.0  # real seconds without any event before a run with nothing scheduled is called a deadlock


class Deadlock(RuntimeError):
    """Nothing is ready, nothing is scheduled, no thread works: the awaited thing can never happen."""


class _Jumping(selectors.BaseSelector):
    """A selector that moves the loop's clock instead of sleeping."""

    def __init__(self, grace: float) -> None:
        self._real = selectors.DefaultSelector()
        self.grace = grace
        self.now = 0.0
        self.jobs = 0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Any:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if self.jobs:  # a thread's result comes first, and costs no virtual time
            return self._real.select(_STALL)
        sockets = len(self._real.get_map()) > 1  # beside the loop's own wake-up pipe
        if sockets and self.grace > 0:
            ready = self._real.select(self.grace)
            if ready:
                return ready
        if timeout is None:
            ready = self._real.select(_STALL) if sockets and self.grace > 0 else []
            if not ready:
                raise Deadlock("nothing is ready, nothing is scheduled: the awaited thing can never happen")
            return ready
        self.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time, which begins at 0. `grace`: real seconds to wait for sockets before the clock jumps."""

    def __init__(self, grace: float = 0.0) -> None:
        self._jumping = _Jumping(grace)
        super().__init__(self._jumping)

    @property
    def grace(self) -> float:
        """Real seconds to wait for sockets before the clock jumps; may be set at any time."""
        return self._jumping.grace

    @grace.setter
    def grace(self, seconds: float) -> None:
        self._jumping.grace = seconds

    def time(self) -> float:
        return self._jumping.now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        future = super().run_in_executor(executor, func, *args)
        self._jumping.jobs += 1
        future.add_done_callback(self._job_done)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        self._jumping.jobs += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._jumping.jobs -= 1

    def _job_done(self, _: asyncio.Future[Any]) -> None:
        self._jumping.jobs -= 1


def run(coro: Coroutine[Any, Any, T], *, grace: float = 0.0) -> T:
    """Run a coroutine to its end on virtual time, as asyncio.run does on real time. Raises Deadlock where asyncio.run would hang."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(grace)) as runner:
        return runner.run(coro)


def wall(epoch: float = 1_800_000_000.0) -> Callable[[], float]:
    """A wall clock (seconds since the Unix epoch) that moves with the running loop's time; `epoch` is its reading at loop time 0."""
    return lambda: epoch + asyncio.get_running_loop().time()
