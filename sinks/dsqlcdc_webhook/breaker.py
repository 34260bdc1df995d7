"""The circuit breaker of one endpoint, and how many requests it is given at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Breaker:
    """Closed, open, half-open. Opens after 10 failures in a row, or when over half of at least 20 answers within a minute were failures.

    Open it says how long to wait; then one probe goes, and decides. Each probe that fails doubles the wait, from 30 s to 10 minutes.
    `time` is the loop's.
    """

    ROW, LEAST, WINDOW, FIRST, LONGEST = 10, 20, 60.0, 30.0, 600.0

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._recent: deque[tuple[float, bool]] = deque()
        self._row = self._bad = 0
        self._pause = self.FIRST
        self._until: float | None = None

    @property
    def wait(self) -> float:
        """Seconds until anything may be sent; 0 where something may."""
        return 0.0 if self._until is None else max(0.0, self._until - self._time())

    @property
    def probing(self) -> bool:
        """Only one request at a time may go."""
        return self._until is not None

    @property
    def state(self) -> str:
        """closed, open, or half_open: the next request is the probe."""
        return "closed" if self._until is None else "open" if self.wait > 0 else "half_open"

    def succeeded(self) -> bool:
        """The endpoint answered. True if that closed the circuit."""
        self._row = 0
        if self._until is not None:
            self._until, self._pause = None, self.FIRST
            self._recent.clear()
            self._bad = 0
            return True
        self._count(False)
        return False

    def failed(self) -> bool:
        """The endpoint did not answer, or not usefully. True if that opened the circuit (again)."""
        self._row += 1
        self._count(True)
        if self._until is not None:
            if self._time() < self._until:  # was under way when the circuit opened
                return False
            self._pause = min(self._pause * 2, self.LONGEST)
        elif self._row < self.ROW and not (len(self._recent) >= self.LEAST and self._bad * 2 > len(self._recent)):
            return False
        self._until = self._time() + self._pause
        return True

    def _count(self, bad: bool) -> None:
        now = self._time()
        self._recent.append((now, bad))
        self._bad += bad
        while len(self._recent) > 10_000 or self._recent[0][0] < now - self.WINDOW:
            self._bad -= self._recent.popleft()[1]


class Window:
    """Requests in flight at the most: one more after each round of good answers, half as many after a bad one (AIMD)."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.size = max(1, most // 2)
        self._good = 0
        self._round = 0

    def start(self) -> int:
        """A request goes: the round it belongs to, for `bad`."""
        return self._round

    def good(self) -> None:
        self._good += 1
        if self._good >= self.size and self.size < self.most:
            self.size += 1
            self._good = 0

    def bad(self, round: int) -> None:
        """One of this round was too much. What was sent before the last shrinking says nothing of the new size."""
        if round == self._round:
            self._round += 1
            self.size = max(1, self.size // 2)
            self._good = 0
