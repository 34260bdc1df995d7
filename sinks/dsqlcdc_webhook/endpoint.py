"""What the answers so far say of the receiver as a whole: whether it is given a rest, how many requests at a time, whether to stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from dsqlcdc.contract import Misconfigured, Unavailable
from dsqlcdc_webhook.answers import Answer, overloaded, retry_after
from dsqlcdc_webhook.breaker import Breaker, Window

log = logging.getLogger("dsqlcdc.webhook")

MISSING_FOR = 60.0
"""Seconds that a receiver may answer one change with 404 or 405 before the sink stops."""
UNTRUSTED_FOR = 600.0
"""Seconds that a certificate may be refused, the receiver's or ours, before the sink stops."""


class Endpoint:
    """The state of one receiver. `clock` is the wall clock in seconds; waiting goes by the loop's."""

    def __init__(self, where: str, concurrency: int, clock: Callable[[], float]) -> None:
        self.where, self._clock = where, clock
        self.stop: Misconfigured | None = None
        self._breaker = Breaker(_now)
        self._window = Window(concurrency)
        self._quiet_until = 0.0
        self._missing: dict[bytes, float] = {}
        self._untrusted: float | None = None

    @property
    def wait(self) -> float:
        """Seconds until anything may be sent; 0 where something may."""
        return max(self._breaker.wait, self._quiet_until - _now(), 0.0)

    @property
    def circuit(self) -> str:
        """See Breaker.state."""
        return self._breaker.state

    def limit(self) -> int:
        """Requests that may be under way just now."""
        if self.stop is not None or (self._quiet_until and self.wait > 0):
            return 0
        if self._breaker.probing:
            return 0 if self._breaker.wait > 0 else 1
        return self._window.size

    def start(self) -> int:
        """A request goes; the answer is to be told with this number."""
        return self._window.start()

    def silent(self, why: str, untrusted: bool, round: int) -> None:
        """It did not answer. `untrusted`: its certificate is refused, or it refuses ours."""
        if untrusted:
            now = _now()
            self._untrusted = now if self._untrusted is None else self._untrusted
            if now - self._untrusted > UNTRUSTED_FOR:
                why = f"for {now - self._untrusted:.0f} s now: {why}"
                self.stop = no_trust(self.where, why)
        self._window.bad(round)
        self._failed(why)

    def later(self, answer: Answer, why: str, round: int) -> float | None:
        """It asks to come again, after so many seconds if it said so."""
        self._untrusted = None
        wait = retry_after(answer.retry_after, self._clock())
        if overloaded(answer.status):
            self._window.bad(round)
        if wait:
            self._quiet_until = max(self._quiet_until, _now() + wait)
        self._failed(why)
        return wait

    def answered(self) -> None:
        """It answered, whatever it thinks of the record."""
        self._untrusted = None
        if self._breaker.succeeded():
            log.info("%s: it answers again", self.where)

    def judged(self, ids: Sequence[bytes]) -> None:
        """It judged the changes of a request."""
        if self._missing:
            for id in ids:
                self._missing.pop(id, None)
        self._window.good()

    def missing(self, ids: Sequence[bytes], status: int) -> None:
        """It answered a request with these changes with 404 or 405: a deployment under way, or no receiver."""
        now = _now()
        since = min([self._missing.setdefault(id, now) for id in ids])
        if now - since > MISSING_FOR:
            why = f"it has answered {status} for {now - since:.0f} s"
            what, run = "there is no receiver at this address", "dsqlcdc config show CONFIG, for the address that is used"
            self.stop = Misconfigured(what, where=self.where, why=why, run=run, code="E146")

    def closed(self, status: int) -> None:
        """It answered 401, 403 or 410: nothing will go in until somebody mends it."""
        what = "the receiver is gone for good" if status == 410 else "the receiver refuses all requests"
        mended = "its url is changed" if status == 410 else "it takes requests with these secrets and headers again"
        run = f"dsqlcdc run CONFIG, once {mended}; until then nothing is lost"
        self.stop = Misconfigured(what, where=self.where, why=f"it answered {status}", run=run, code="E145" if status == 410 else "E144")

    def unavailable(self, why: str, after: float) -> Unavailable:
        return Unavailable("the receiver does not take changes", where=self.where, why=why, code="E140", after=after or None)

    def _failed(self, why: str) -> None:
        if self._breaker.failed():
            rest = self._breaker.wait
            log.error("%s: given a rest of %.0f s, %s; nothing is lost meanwhile but Kinesis's retention runs", self.where, rest, why)


def _now() -> float:
    return asyncio.get_running_loop().time()


def no_trust(where: str, why: str) -> Misconfigured:
    """A certificate is refused, the receiver's or ours."""
    what, run = "there is no trust between this sink and the receiver", "dsqlcdc run CONFIG, once its url and the certificates are right"
    return Misconfigured(what, where=where, why=why, run=run, code="E143")
