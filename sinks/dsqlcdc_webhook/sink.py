"""The webhook sink: changes become signed requests, answers become verdicts, and what concerns the endpoint is told apart from what
concerns a record."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from yarl import URL

from dsqlcdc.aws import Aws
from dsqlcdc.contract import Batching, Change, Context, Misconfigured, Setback, Sink, Unavailable, Verdict
from dsqlcdc.options import Tls
from dsqlcdc_webhook.claim import Claims, S3Claims
from dsqlcdc_webhook.endpoint import Endpoint, no_trust
from dsqlcdc_webhook.options import Options as WebhookOptions
from dsqlcdc_webhook.post import HttpPost, NoAnswer, Post
from dsqlcdc_webhook.requests import CLAIM, Requests

_WRITTEN = 8 * 1024 * 1024
_WRITTEN_IN_BATCHES = 32 * 1024 * 1024
_READ = 64 * 1024
_READ_AN_EVENT = 1024
"""Bytes read of an answer, and so many more for each event of a batch, which it may name."""


class WebhookSink(Sink):
    """POSTs each change as a signed CloudEvent. At least once; of one row never two in flight, and none past one that did not go in.

    An endpoint that does not answer is backpressure (Unavailable), however long: no record is dead for it. `post` and `claims` make the
    transport and the place of large data (called on entering), `clock` is the wall clock in seconds, for the signatures.
    """

    Options = WebhookOptions
    batching = Batching(bytes=_WRITTEN, records=256, age=0.05)

    def __init__(
        self,
        options: WebhookOptions,
        context: Context,
        *,
        post: Callable[[], Post] | None = None,
        claims: Callable[[], Claims] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._options = options
        self._directory = Path(context.directory)
        self._where = f"sink {context.sink}, {URL(options.url).host}"
        self._make_post, self._make_claims = post or self._http, claims or self._s3
        self._aws = Aws(region=context.region, profile=context.profile, endpoint_url=context.endpoint_url)
        self._clock = clock
        self._strict = context.order == "commit"
        self._endpoint = Endpoint(self._where, options.concurrency, clock)
        self._tls: ssl.SSLContext | None = None
        self._requests: Requests | None = None
        self._post: Post | None = None
        self._stack = AsyncExitStack()
        if (batch := options.batch) is not None:
            records = min(batch.max_items * options.concurrency, 10_000)
            self.batching = Batching(min(batch.max_bytes * options.concurrency, _WRITTEN_IN_BATCHES), records, batch.linger)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], context: Context) -> Self:
        """Raises pydantic.ValidationError for unknown or wrong options, an address that is refused among them."""
        return cls(cls.Options.model_validate(dict(options)), context)

    async def __aenter__(self) -> Self:
        """Raises Misconfigured where a certificate cannot be read, and what opening a client of S3 raises, where one is needed."""
        self._tls = await asyncio.to_thread(self._trust, self._options.tls)
        async with AsyncExitStack() as stack:
            post = self._post = self._make_post()
            stack.push_async_callback(post.close)
            claims = await stack.enter_async_context(self._make_claims()) if self._options.claim_check is not None else None
            self._stack = stack.pop_all()
        self._requests = Requests(self._options, self._endpoint, post, claims, self._clock, strict=self._strict)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    def _http(self) -> Post:
        options = self._options
        assert self._tls is not None
        return HttpPost(
            options.url,
            where=self._where,
            headers={name: value.get_secret_value() for name, value in options.headers.items()},
            allowed=options.networks,
            tls=self._tls,
            concurrency=options.concurrency,
            timeout=options.timeout,
            connect_timeout=options.connect_timeout,
            read=_READ + (0 if options.batch is None else _READ_AN_EVENT * options.batch.max_items),
        )

    def _s3(self) -> Claims:
        assert self._options.claim_check is not None
        return S3Claims(self._options.claim_check, self._aws)

    def _trust(self, tls: Tls) -> ssl.SSLContext:
        files = [tls.ca]
        try:
            context = ssl.create_default_context(cafile=None if tls.ca is None else self._directory / tls.ca)
            if tls.certificate is not None:
                files = [tls.certificate, tls.key]
                key = None if tls.key is None else self._directory / tls.key
                context.load_cert_chain(self._directory / tls.certificate, key, password=lambda: b"")
        except (OSError, ValueError) as error:
            what, run = "a certificate of the webhook cannot be used", "dsqlcdc config lint CONFIG, once the file is right"
            named = [self._directory / file for file in files if file is not None]
            faulty = [file for file in named if not file.is_file()] or named
            why = f"{', '.join(map(str, faulty))}: {error}"
            raise Misconfigured(what, where=self._where, why=why, run=run, code="E142") from error
        return context

    def circuit(self) -> str:
        return self._endpoint.circuit

    async def probe(self) -> bool:
        """Resolve, judge the address, connect and shake hands: no event is sent."""
        assert self._post is not None
        try:
            await self._post.reach()
        except NoAnswer as error:
            if error.untrusted:
                raise no_trust(self._where, error.why) from error
            raise self._endpoint.unavailable(error.why, 0.0) from error
        return True

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        """One attempt at each change at the most (a batch that is refused whole is halved); what did not go in comes back as RETRY, with
        those of its row behind it.

        Raises Unavailable when none went in, or the circuit is open; Misconfigured when the receiver refuses everything (401, 403, 410;
        404 and 405 for a minute; a bad certificate for ten), its address is refused, or large data cannot be put anywhere. Cancelled:
        requests under way may have arrived.
        """
        endpoint, requests = self._endpoint, self._requests
        assert requests is not None
        if endpoint.stop is not None:
            raise endpoint.stop
        if (wait := endpoint.wait) > 0:
            raise endpoint.unavailable("it is given a rest", wait)
        round = requests.round(changes)
        await round.run()
        rest, wait = round.unsettled, endpoint.wait
        if round.settled == 0:
            if endpoint.stop is not None:
                raise endpoint.stop
            said = next(iter(round.setbacks.values()), None)
            if said is not None and said.code == CLAIM:
                raise Unavailable("large data cannot be stored", where=self._where, why=said.detail, code="E147", after=said.after)
            raise endpoint.unavailable(said.detail if said is not None else "it is given a rest", _longer(said, wait))
        setbacks = [setback for setback in round.setbacks.values() if setback.verdict is not Verdict.RETRY]
        return setbacks + [_again(index, round.setbacks.get(index), wait) for index in rest]


def _again(index: int, reason: Setback | None, wait: float) -> Setback:
    if reason is None:
        return Setback(index, Verdict.RETRY, "behind", "not sent yet", wait or None)
    return Setback(index, Verdict.RETRY, reason.code, reason.detail, _longer(reason, wait) or None)


def _longer(reason: Setback | None, wait: float) -> float:
    return max((reason.after if reason is not None else None) or 0.0, wait)
