"""Single requests to the cluster: JSON in, JSON out, and the faults that everything but a bulk item can end in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from dsqlcdc.contract import Misconfigured, Unavailable
from dsqlcdc_opensearch.answers import BLOCKED_FOR, Meaning, Said, hopeless, of_request, said_in
from dsqlcdc_opensearch.bulk import Result, wait_of
from dsqlcdc_opensearch.http import NoAnswer, Transport

log = logging.getLogger("dsqlcdc.opensearch")

UNTRUSTED_FOR = 600.0
"""Seconds that the certificate may be refused before the sink stops."""
_encode = msgspec.json.encode
_UNKNOWN = "it does not know who asks (basic or sign)"
_NO_RIGHT = (
    "who asks has no right to this. A domain wants es:ESHttp* in its access policy or the role's and, with fine-grained access control, a role "
    "mapped to it; a collection wants aoss:APIAccessAll and a data access policy (docs/reference.md, OpenSearch: Access)"
)


class Cluster:
    """Asks, and makes faults of what is no answer. `where` names the sink and the host."""

    def __init__(self, transport: Transport, where: str) -> None:
        self.transport, self.where = transport, where
        self._untrusted: float | None = None

    async def ask(self, method: str, path: str, body: Any = None, *, lines: bool = False, also: Sequence[int] = ()) -> tuple[int, Any]:
        """The status and the decoded body of what was answered 2xx, or with one of `also`; of the latter an Said instead.

        Raises Unavailable (no answer, overloaded, blocked) and Misconfigured (refused, no such thing).
        """
        data = b"" if body is None else body if isinstance(body, bytes) else _encode(body)
        refreshed = False
        while True:
            try:
                answer = await self.transport(method, path, data, lines=lines)
            except NoAnswer as error:
                raise self.fault(Result(Meaning.RETRY, Said("untrusted" if error.untrusted else "no_answer", error.why))) from error
            self._untrusted = None
            if 200 <= answer.status < 300:
                try:
                    return answer.status, msgspec.json.decode(answer.body) if answer.body else None
                except msgspec.MsgspecError as error:
                    raise self.fault(Result(Meaning.RETRY, Said("", f"an answer that is no JSON: {error}"))) from error
            said = said_in(answer.body)
            if answer.status in also:
                return answer.status, said
            meaning = of_request(answer.status, said)
            if meaning is Meaning.DENIED and not refreshed and await self.transport.refresh():
                refreshed = True
                continue
            raise self.fault(Result(meaning, said, answer.status, wait_of(answer.retry_after)), doing=f"{method} {path.partition('?')[0]}")

    def fault(self, result: Result, *, doing: str = "write") -> Unavailable | Misconfigured:
        """What a whole request that did not go in is to the pipeline."""
        said, status = result.said, result.status
        why = f"it answered {status} {said}".strip() if status else str(said.reason)
        match result.meaning:
            case Meaning.RETRY | Meaning.OVERLOADED | Meaning.IN | Meaning.STALE | Meaning.DUPLICATE:
                return self._untrusting(why) if said.type == "untrusted" else self._unavailable(why, result.after)
            case Meaning.BLOCKED:
                log.error("%s: writing is blocked (%s); nothing is lost meanwhile but Kinesis's retention runs", self.where, said.reason)
                return Unavailable(
                    "OpenSearch blocks writing",
                    where=self.where,
                    why=f"{said.reason}: make room, or lift the block (not while a rebuild is under way: that ends it itself)",
                    code="E161",
                    after=max(BLOCKED_FOR, result.after or 0.0),
                )
            case Meaning.DENIED:
                why = f"{why}: {_UNKNOWN if status == 401 else _NO_RIGHT}"
                run = "dsqlcdc doctor CONFIG, once it is allowed"
                return Misconfigured("OpenSearch refuses access", where=self.where, why=why, run=run, code="E162")
            case Meaning.MISSING:
                return Misconfigured(
                    "the index or its alias is gone",
                    where=self.where,
                    why=f"{why}. It is made again, empty, at the next start; to fill it, deliver the stream from its beginning",
                    run="dsqlcdc checkpoint reset CONFIG",
                    code="E163",
                )
            case _:
                if (hint := hopeless(said)) is not None:
                    run = "dsqlcdc run CONFIG, once that is changed: nothing is lost meanwhile"
                    return Misconfigured("OpenSearch can hold no document", where=self.where, why=f"{hint} ({why})", run=run, code="E164")
                run = "dsqlcdc doctor CONFIG"
                return Misconfigured("OpenSearch refuses a request", where=self.where, why=f"{doing}: {why}", run=run, code="E165")

    def _unavailable(self, why: str, after: float | None) -> Unavailable:
        return Unavailable("OpenSearch does not answer, or not now", where=self.where, why=why, code="E160", after=after)

    def _untrusting(self, why: str) -> Unavailable | Misconfigured:
        now = asyncio.get_running_loop().time()
        self._untrusted = now if self._untrusted is None else self._untrusted
        if now - self._untrusted <= UNTRUSTED_FOR:
            return self._unavailable(why, None)
        why = f"for {now - self._untrusted:.0f} s now: {why}"
        run = "dsqlcdc doctor CONFIG, once tls.ca or the certificate is right"
        return Misconfigured("OpenSearch's certificate is not trusted", where=self.where, why=why, run=run, code="E166")
