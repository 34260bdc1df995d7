"""One request after the other: forms, packs and signs what is sent, and turns each answer into verdicts on the changes in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec
from pydantic import SecretStr

from dsqlcdc.contract import Change, Misconfigured, Setback, Unavailable, Verdict
from dsqlcdc_webhook.answers import Answer, Meaning, dead_code, meaning
from dsqlcdc_webhook.batch import Failure, Unclear, batch_body, batch_id, failures, fitting
from dsqlcdc_webhook.claim import ROOM, Claims, secrets_of
from dsqlcdc_webhook.endpoint import Endpoint
from dsqlcdc_webhook.event import BATCH, data
from dsqlcdc_webhook.named import NAMED_FOR, Named
from dsqlcdc_webhook.options import Options
from dsqlcdc_webhook.parcel import FORMS, Format, Made, Parcel, claimed
from dsqlcdc_webhook.post import NoAnswer, Post
from dsqlcdc_webhook.rounds import Round
from dsqlcdc_webhook.sign import Signer

CLAIM = "claim_check"
"""The code of what waits because its data cannot be put away."""
_SHOWN = 500
_BATCH = {"Content-Type": BATCH}

Said = Sequence[Setback | None]
"""Of each parcel, in their order: None where it is in."""


class Requests:
    """All requests of one sink's life. `clock` is the wall clock in seconds, for the signatures. `strict`: one at a time, in the order given."""

    def __init__(
        self, options: Options, endpoint: Endpoint, post: Post, claims: Claims | None, clock: Callable[[], float], *, strict: bool = False
    ) -> None:
        self._strict = strict
        self._endpoint, self._post, self._claims, self._clock = endpoint, post, claims, clock
        self._format: Format = options.format
        self._form = FORMS[options.format]
        self._above = options.claim_check.above if options.claim_check is not None else None
        self._batch = options.batch
        self._most_bytes = options.batch.max_bytes if options.batch is not None else 0
        self._named = Named()
        self._sign = Signer([secret.get_secret_value() for secret in options.secrets]).sign
        self._hidden = [form for secret in (*options.secrets, *options.headers.values()) for form in _forms(secret)]

    def round(self, changes: Sequence[Change]) -> Round:
        """The sending of these changes."""
        made = Made(changes, self._parcel)
        send, limit = partial(self._send, made), self._endpoint.limit
        if self._batch is None:
            return Round(changes, send, limit, strict=self._strict)
        return Round(changes, send, limit, most=self._batch.max_items, fits=partial(self._fits, changes, made), strict=self._strict)

    def _fits(self, changes: Sequence[Change], made: Made, indices: Sequence[int]) -> int:
        sizes: list[int] = []
        total = 0
        for index in indices:
            if self._named.goes_alone(changes[index].id):
                if not sizes:
                    return 1
                break
            sizes.append(self._size(made.look(index)))
            total += sizes[-1] + 1
            if total > self._most_bytes:
                break
        return fitting(sizes, self._most_bytes)

    def _size(self, parcel: Parcel | Setback) -> int:
        if isinstance(parcel, Setback):
            return 0
        return ROOM if self._large(parcel) else len(parcel.body)

    def _large(self, parcel: Parcel) -> bool:
        return self._above is not None and len(parcel.body) > self._above and not parcel.dataref

    def _parcel(self, index: int, change: Change) -> Parcel | Setback:
        try:
            parcel = self._form(index, change)
        except (ValueError, OverflowError) as error:
            return Setback(index, Verdict.DEAD, "bad_row", f"the event cannot be written: {error}")
        if self._batch is None and not self._large(parcel):
            now = int(self._clock())
            return msgspec.structs.replace(parcel, signed=self._signed(change.id.hex(), parcel.headers, parcel.body, now), signed_at=now)
        return parcel

    def _signed(self, id: str, headers: Mapping[str, str], body: bytes, now: int) -> Mapping[str, str]:
        return {**headers, "webhook-id": id, "webhook-timestamp": str(now), "webhook-signature": self._sign(id, now, body)}

    async def _send(self, made: Made, indices: Sequence[int]) -> Said:
        """Send these in one request. What cannot be written or put away is left out of it."""
        if self._batch is None and self._above is None:  # the plain road, without detours: it is taken often
            parcel = made.take(indices[0])
            return (parcel,) if isinstance(parcel, Setback) else await self._deliver((parcel,))
        said: dict[int, Setback | None] = {}
        parcels: list[Parcel] = []
        for index in indices:
            parcel = made.take(index)
            if isinstance(parcel, Parcel) and self._large(parcel):
                parcel = await self._claim(parcel)
            if isinstance(parcel, Parcel):
                parcels.append(parcel)
            else:
                said[index] = parcel
        if parcels:
            answers = await self._deliver(parcels)
            if not said:
                return answers
            said.update(zip([parcel.index for parcel in parcels], answers, strict=True))
        return [said[index] for index in indices]

    async def _claim(self, parcel: Parcel) -> Parcel | Setback:
        assert self._claims is not None
        try:
            dataref = await self._claims.put(parcel.change.id.hex(), data(parcel.change))
        except Unavailable as error:
            return Setback(parcel.index, Verdict.RETRY, CLAIM, f"{error.what}, {error.where}: {error.why}", error.after)
        except Misconfigured as error:
            self._endpoint.stop = error
            return Setback(parcel.index, Verdict.RETRY)
        return claimed(parcel, self._format, dataref)

    async def _deliver(self, parcels: Sequence[Parcel]) -> Said:
        alone = self._batch is not None and len(parcels) == 1 and self._named.goes_alone(parcels[0].change.id)
        now = int(self._clock())
        if self._batch is None or alone:
            parcel = parcels[0]
            body = parcel.body
            headers = parcel.signed if parcel.signed_at == now else self._signed(parcel.change.id.hex(), parcel.headers, body, now)
        else:
            body = batch_body(parcels)
            headers = self._signed(batch_id(parcels), _BATCH, body, now)
        signature = headers["webhook-signature"]
        round = self._endpoint.start()
        try:
            answer = await self._post(body, headers)
        except NoAnswer as error:
            self._endpoint.silent(error.why, error.untrusted, round)
            return _all(parcels, Verdict.RETRY, "no_answer", error.why)
        except Misconfigured as error:
            self._endpoint.stop = error
            return _all(parcels, Verdict.RETRY)
        sense = meaning(answer.status)
        if sense is Meaning.IN:
            return self._in(parcels, answer, round, signature, alone)
        if sense is Meaning.RETRY:
            return self._later(parcels, answer, f"it answered {answer.status}", round)
        self._endpoint.answered()
        if sense is Meaning.MISSING:
            self._endpoint.missing([parcel.change.id for parcel in parcels], answer.status)
            return _all(parcels, Verdict.RETRY, "missing", f"it answered {answer.status}")
        if sense is Meaning.STOP:
            self._endpoint.closed(answer.status)
            return _all(parcels, Verdict.RETRY)
        self._endpoint.judged([parcel.change.id for parcel in parcels])
        if sense is Meaning.DUPLICATE:
            self._settled(parcels)
            return _all(parcels, Verdict.DUPLICATE)
        return await self._refused(parcels, answer, len(body), signature)

    def _settled(self, parcels: Sequence[Parcel]) -> None:
        for parcel in parcels:
            self._named.over(parcel.change.id)

    def _in(self, parcels: Sequence[Parcel], answer: Answer, round: int, signature: str, alone: bool) -> Said:
        """A 2xx. An answer to a batch that may speak of failures and cannot be understood settles nothing. `alone`: this was no batch but a
        single event, which had been named in batches too often."""
        failed: Mapping[str, Failure] = {}
        if self._batch is not None:
            try:
                failed = failures(answer, [parcel.change.id.hex() for parcel in parcels])
            except Unclear as error:
                return self._later(parcels, answer, str(error), round)
        self._endpoint.answered()
        self._endpoint.judged([parcel.change.id for parcel in parcels])
        if not failed:
            self._settled(parcels)
            return (None,) * len(parcels)
        return [self._item(parcel, failed.get(parcel.change.id.hex()), signature, alone) for parcel in parcels]

    def _item(self, parcel: Parcel, failure: Failure | None, signature: str, alone: bool) -> Setback | None:
        """One event of a batch. A status that closes the endpoint means this record here: others went in."""
        if failure is not None and failure.status is None and not alone:
            self._named.again(parcel.change.id)
        else:
            self._settled([parcel])
        if failure is None:
            return None
        reason = "" if failure.reason is None else self._shown(str(failure.reason).encode("utf-8", "replace"), [parcel], signature)
        if failure.status is None and alone:
            detail = f"the receiver named this event as failed for {NAMED_FOR:.0f} s, then alone too, and never said a status: {reason}"
            return Setback(parcel.index, Verdict.DEAD, "refused", detail)
        if failure.status is None:
            return Setback(parcel.index, Verdict.RETRY, "failed", reason or "it was named among the failures")
        sense = meaning(failure.status)
        if sense is Meaning.IN:
            return None
        if sense is Meaning.DUPLICATE:
            return Setback(parcel.index, Verdict.DUPLICATE)
        detail = f"the receiver answered {failure.status} for this event: {reason}"
        if sense is Meaning.RETRY:
            return Setback(parcel.index, Verdict.RETRY, "failed", detail)
        return Setback(parcel.index, Verdict.DEAD, dead_code(failure.status), detail)

    def _later(self, parcels: Sequence[Parcel], answer: Answer, why: str, round: int) -> Said:
        wait = self._endpoint.later(answer, why, round)
        return _all(parcels, Verdict.RETRY, "unavailable", why, wait)

    async def _refused(self, parcels: Sequence[Parcel], answer: Answer, size: int, signature: str) -> Said:
        """The request is refused for good. Of several events, which one is at fault is found by halving; a body that is too large is not
        tried again at that size, and its data goes elsewhere where there is a place for it."""
        large = answer.status == 413
        if len(parcels) > 1:
            if large:
                self._most_bytes = min(self._most_bytes, size // 2)
            half = len(parcels) // 2
            first = await self._deliver(parcels[:half])
            if self._endpoint.limit() == 0:
                return [*first, *_all(parcels[half:], Verdict.RETRY, "behind", "not sent yet")]
            return [*first, *await self._deliver(parcels[half:])]
        (parcel,) = parcels
        if large and self._claims is not None and not parcel.dataref:
            smaller = await self._claim(parcel)
            return [smaller] if isinstance(smaller, Setback) else await self._deliver([smaller])
        self._settled(parcels)
        detail = f"the receiver answered {answer.status}: {self._shown(answer.text, parcels, signature)}"
        return _all(parcels, Verdict.DEAD, dead_code(answer.status), detail)

    def _shown(self, text: bytes, parcels: Sequence[Parcel], signature: str) -> str:
        """The beginning of a receiver's words, without what it may have echoed of secrets, signatures and signed URLs."""
        shown = text.decode("utf-8", "replace")
        referred = [secret for parcel in parcels if parcel.dataref for secret in secrets_of(parcel.dataref)]
        for hidden in (*referred, *self._hidden, *signature.split()):
            shown = shown.replace(hidden, "***")
        return "".join([c if c.isprintable() else " " for c in shown[:_SHOWN]]).strip()


def _all(parcels: Sequence[Parcel], verdict: Verdict, code: str = "", detail: str = "", after: float | None = None) -> Said:
    return [Setback(parcel.index, verdict, code, detail, after) for parcel in parcels]


def _forms(secret: SecretStr) -> list[str]:
    value = secret.get_secret_value()
    return [form for form in (value, value.removeprefix("whsec_")) if len(form) >= 4]
