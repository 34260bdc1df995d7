"""The webhook sink: changes become signed requests, answers become verdicts, and what concerns the endpoint is told apart from what
concerns a record."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import SecretStr
from yarl import URL

from dsqlcdc.contract import Batching, Change, Context, Misconfigured, Setback, Sink, Unavailable, Verdict
from dsqlcdc_webhook.answers import Meaning, dead_code, meaning, overloaded, retry_after
from dsqlcdc_webhook.breaker import Breaker, Window
from dsqlcdc_webhook.event import CONTENT_TYPE, event
from dsqlcdc_webhook.options import Options as WebhookOptions
from dsqlcdc_webhook.options import Tls
from dsqlcdc_webhook.post import Answer, HttpPost, NoAnswer, Post
from dsqlcdc_webhook.rounds import Round
from dsqlcdc_webhook.sign import secret_key, signatures

log = logging.getLogger("dsqlcdc.webhook")

MISSING_FOR = 60.0
"""Seconds that a receiver may answer one change with 404 or 405 before the sink stops."""
UNTRUSTED_FOR = 600.0
"""Seconds that a receiver's certificate may be refused before the sink stops."""
_SHOWN = 500


class WebhookSink(Sink):
    """POSTs each change as a signed CloudEvent. At least once; of one row never two in flight, and none past one that did not go in.

    An endpoint that does not answer is backpressure (Unavailable), however long: no record is dead for it. `post` makes the transport (it is
    called on entering), `clock` is the wall clock in seconds, for the signatures.
    """

    Options = WebhookOptions
    batching = Batching(bytes=8 * 1024 * 1024, records=256, age=0.05)

    def __init__(
        self, options: WebhookOptions, context: Context, *, post: Callable[[], Post] | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._options, self._clock = options, clock
        self._directory = Path(context.directory)
        self._where = f"sink {context.sink}, {URL(options.url).host}"
        self._make_post = post
        self._post: Post | None = None
        self._keys = [secret_key(secret.get_secret_value()) for secret in options.secrets]
        self._hidden = [value for secret in (*options.secrets, *options.headers.values()) for value in _forms(secret)]
        self._breaker = Breaker(lambda: asyncio.get_running_loop().time())
        self._window = Window(options.concurrency)
        self._quiet_until = 0.0
        self._missing: dict[bytes, float] = {}
        self._untrusted: float | None = None
        self._stop: Misconfigured | None = None

    @classmethod
    def from_options(cls, options: Mapping[str, Any], context: Context) -> Self:
        """Raises pydantic.ValidationError for unknown or wrong options, an address that is refused among them."""
        return cls(cls.Options.model_validate(dict(options)), context)

    async def __aenter__(self) -> Self:
        """Raises Misconfigured where a certificate cannot be read."""
        if self._make_post is not None:
            self._post = self._make_post()
            return self
        options = self._options
        tls = await asyncio.to_thread(self._trust, options.tls)
        self._post = HttpPost(
            options.url,
            where=self._where,
            headers={name: value.get_secret_value() for name, value in options.headers.items()},
            allowed=options.networks,
            tls=tls,
            concurrency=options.concurrency,
            timeout=options.timeout,
            connect_timeout=options.connect_timeout,
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._post is not None:
            await self._post.close()

    def _trust(self, tls: Tls) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=None if tls.ca is None else self._directory / tls.ca)
            if tls.certificate is not None:
                key = None if tls.key is None else self._directory / tls.key
                context.load_cert_chain(self._directory / tls.certificate, key, password=lambda: b"")
        except (OSError, ValueError) as error:
            raise Misconfigured("a certificate of the webhook cannot be used", where=self._where, why=str(error), code="E142") from error
        return context

    async def probe(self) -> bool:
        """Resolve, judge the address, connect and shake hands: no event is sent."""
        assert self._post is not None
        try:
            await self._post.reach()
        except NoAnswer as error:
            if error.untrusted:
                raise Misconfigured("the receiver's certificate is not trusted", where=self._where, why=error.why, code="E143") from error
            raise self._unavailable(error.why, 0.0) from error
        return True

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        """One attempt at each change at the most; what did not go in comes back as RETRY, with those of its row behind it.

        Raises Unavailable when none went in, or the circuit is open; Misconfigured when the receiver refuses everything (401, 403, 410;
        404 and 405 for a minute; a bad certificate for ten) or its address is refused. Cancelled: requests under way may have arrived.
        """
        if self._stop is not None:
            raise self._stop
        if (wait := self._wait()) > 0:
            raise self._unavailable("it is given a rest", wait)
        round = Round(changes, self._send, self._limit)
        await round.run()
        rest = round.unsettled
        if round.settled == 0:
            if self._stop is not None:
                raise self._stop
            said = next(iter(round.setbacks.values()), None)
            raise self._unavailable(said.detail if said is not None else "it is given a rest", self._wait())
        wait = self._wait()
        setbacks = [setback for setback in round.setbacks.values() if setback.verdict is not Verdict.RETRY]
        reasons = {index: round.setbacks.get(index) for index in rest}
        setbacks += [_again(index, reason, wait) for index, reason in reasons.items()]
        return setbacks

    def _wait(self) -> float:
        return max(self._breaker.wait, self._quiet_until - asyncio.get_running_loop().time(), 0.0)

    def _limit(self) -> int:
        if self._stop is not None or self._wait() > 0:
            return 0
        return 1 if self._breaker.probing else self._window.size

    async def _send(self, index: int, change: Change) -> Setback | None:
        assert self._post is not None
        try:
            body = event(change)
        except (ValueError, OverflowError) as error:
            return Setback(index, Verdict.DEAD, "bad_row", f"the event cannot be written: {error}")
        id, now = change.id.hex(), int(self._clock())
        headers = {
            "Content-Type": CONTENT_TYPE,
            "webhook-id": id,
            "webhook-timestamp": str(now),
            "webhook-signature": signatures(self._keys, id, now, body),
        }
        round = self._window.start()
        try:
            answer = await self._post(body, headers)
        except NoAnswer as error:
            return self._no_answer(index, error, round)
        except Misconfigured as error:
            self._stop = error
            return Setback(index, Verdict.RETRY)
        return self._judge(index, change, answer, round, headers["webhook-signature"])

    def _no_answer(self, index: int, error: NoAnswer, round: int) -> Setback:
        now = asyncio.get_running_loop().time()
        if error.untrusted:
            self._untrusted = now if self._untrusted is None else self._untrusted
            if now - self._untrusted > UNTRUSTED_FOR:
                why = f"for {now - self._untrusted:.0f} s now: {error.why}"
                self._stop = Misconfigured("the receiver's certificate is not trusted", where=self._where, why=why, code="E143")
        self._window.bad(round)
        self._failed(error.why)
        return Setback(index, Verdict.RETRY, "no_answer", error.why)

    def _judge(self, index: int, change: Change, answer: Answer, round: int, signature: str) -> Setback | None:
        status = answer.status
        sense = meaning(status)
        self._untrusted = None
        if sense is Meaning.RETRY:
            return self._later(index, answer, round)
        if self._breaker.succeeded():
            log.info("%s: it answers again", self._where)
        if sense is Meaning.MISSING:
            return self._not_there(index, change, status)
        if sense is Meaning.STOP:
            what = "the receiver is gone for good" if status == 410 else "the receiver refuses all requests"
            self._stop = Misconfigured(what, where=self._where, why=f"it answered {status}", code="E145" if status == 410 else "E144")
            return Setback(index, Verdict.RETRY)
        self._missing.pop(change.id, None)
        self._window.good()
        if sense is Meaning.DEAD:
            detail = f"the receiver answered {status}: {self._shown(answer.text, signature)}"
            return Setback(index, Verdict.DEAD, dead_code(status), detail)
        return Setback(index, Verdict.DUPLICATE) if sense is Meaning.DUPLICATE else None

    def _later(self, index: int, answer: Answer, round: int) -> Setback:
        wait = retry_after(answer.retry_after, self._clock())
        if overloaded(answer.status):
            self._window.bad(round)
        if wait:
            self._quiet_until = max(self._quiet_until, asyncio.get_running_loop().time() + wait)
        self._failed(why := f"it answered {answer.status}")
        return Setback(index, Verdict.RETRY, "unavailable", why, wait)

    def _not_there(self, index: int, change: Change, status: int) -> Setback:
        now = asyncio.get_running_loop().time()
        since = self._missing.setdefault(change.id, now)
        if now - since > MISSING_FOR:
            why = f"it has answered {status} for {now - since:.0f} s"
            self._stop = Misconfigured("there is no receiver at this address", where=self._where, why=why, code="E146")
        return Setback(index, Verdict.RETRY, "missing", f"it answered {status}")

    def _failed(self, why: str) -> None:
        if self._breaker.failed():
            log.error(
                "%s: given a rest of %.0f s, %s; nothing is lost meanwhile but Kinesis's retention runs",
                self._where,
                self._breaker.wait,
                why,
            )

    def _unavailable(self, why: str, after: float) -> Unavailable:
        return Unavailable("the receiver does not take changes", where=self._where, why=why, code="E140", after=after or None)

    def _shown(self, text: bytes, signature: str) -> str:
        """The beginning of an answer's body, without what a receiver may have echoed of the secrets."""
        shown = text[: 4 * _SHOWN].decode("utf-8", "replace")
        for hidden in (*self._hidden, *signature.split()):
            shown = shown.replace(hidden, "***")
        return "".join([c if c.isprintable() else " " for c in shown[:_SHOWN]]).strip()


def _again(index: int, reason: Setback | None, wait: float) -> Setback:
    if reason is None:
        return Setback(index, Verdict.RETRY, "behind", "not sent yet", wait or None)
    return Setback(index, Verdict.RETRY, reason.code, reason.detail, max(reason.after or 0.0, wait) or None)


def _forms(secret: SecretStr) -> list[str]:
    value = secret.get_secret_value()
    return [form for form in (value, value.removeprefix("whsec_")) if len(form) >= 4]
