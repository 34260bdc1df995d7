"""Faults that a test injects: errors, resets, cut and slow replies, answers that are lost."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["error", "reset", "cut", "lost", "slow", "hang"]


class Fault(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What happens to the next `times` matching calls, after `skip` of them went through; times 0 means until cleared.

    `service` (kinesis, dsql, s3, dynamodb, iam, sts, kms), `operation` (PutObject, GetRecords, …) and `contains` (a part of the path,
    for GetRecords of the shard's id) must match where they are set.

    `kind`: error: answered with `code`, without being done; `status` and `message`, where left out, are those the service has for this
    code. reset: the connection breaks before anything is done.
    cut: done, but the connection breaks in the middle of the reply's body. lost: done, but the connection breaks before the reply.
    slow: done, and the body takes `seconds` to come. hang: nothing happens for `seconds`, then it is done, unless
    everything was reset meanwhile.

    aiohttp's client, and so aiobotocore, asks an idempotent call (a PUT is one) again by itself, once, when a kept-alive connection breaks
    before the answer: reset and lost are seen by such a client from `times` 2 on.
    """

    kind: Kind
    service: str = ""
    operation: str = ""
    contains: str = ""
    times: int = 1
    skip: int = 0
    code: str = "InternalFailure"
    status: int = 0
    message: str = ""
    seconds: float = 1.0

    def matches(self, service: str, operation: str, path: str) -> bool:
        fits = (self.service in ("", service), self.operation in ("", operation), self.contains in path)
        return all(fits)


class Faults:
    """The faults that wait, oldest first: each call takes at most one."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []
        self.hits = 0

    def add(self, fault: Fault) -> None:
        self._waiting.append(fault)

    def clear(self) -> None:
        self._waiting.clear()
        self.hits = 0

    def waiting(self) -> list[Fault]:
        return list(self._waiting)

    def take(self, service: str, operation: str, path: str) -> Fault | None:
        for fault in self._waiting:
            if not fault.matches(service, operation, path):
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            if fault.times:
                fault.times -= 1
                if not fault.times:
                    self._waiting.remove(fault)
            self.hits += 1
            return fault
        return None
