"""A DSQL cluster and its CDC streams: statuses that follow the clock, and delivery into Kinesis."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from dsqlcdc.local.clock import Clock
from dsqlcdc.local.kinesis import Kinesis
from dsqlcdc.local.refusal import Refusal

KEPT = 7 * 24 * 3600.0
"""Undelivered changes are kept for a week; a stream that lags further has failed."""
DELIVERS = ("ACTIVE", "IMPAIRED")

TrustOf = Callable[[str], bool | None]
"""Whether the role of this ARN trusts dsql.amazonaws.com; None where there is no such role."""


class CdcStream:
    """A CDC stream. What cannot be delivered waits in order of commit while everything else goes on (IMPAIRED), as on AWS."""

    def __init__(
        self, arn: str, target: Mapping[str, Any], tags: Mapping[str, str], token: str | None, active_at: float, clock: Clock
    ) -> None:
        self.arn, self.target, self.tags, self.token = arn, target, dict(tags), token
        self.cluster, self.id = arn.split("/")[1], arn.split("/")[3]
        self.created = clock.now()
        self.error, self.error_at = "", 0.0
        self._clock, self._active_at, self._gone_at = clock, active_at, 0.0
        self._failed = False
        self._injected = ""
        self._waiting: deque[tuple[float, str, bytes]] = deque()

    @property
    def status(self) -> str:
        now = self._clock.now()
        if self._gone_at:
            return "DELETED" if now >= self._gone_at else "DELETING"
        if now < self._active_at:
            return "CREATING"
        if self._failed:
            return "FAILED"
        return "IMPAIRED" if self.error else "ACTIVE"

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def activate(self) -> None:
        """End CREATING at once."""
        self._active_at = 0.0

    def delete(self, after: float) -> None:
        self._gone_at = self._clock.now() + after
        self._waiting.clear()

    def fail(self, error: str) -> None:
        """Final: what waits is lost, and so is what is committed from now on."""
        self._failed = True
        self._note(error)
        self._waiting.clear()

    def impair(self, error: str) -> None:
        """Hold everything back with this error, until called with ""."""
        self._injected = error
        self._note(error)

    def send(self, records: list[tuple[str, bytes]], kinesis: Kinesis, trust: TrustOf) -> None:
        """Take (partition key, data) for delivery. Only while the stream delivers."""
        now = self._clock.now()
        self._waiting.extend((now, key, data) for key, data in records)
        self.deliver(kinesis, trust)

    def deliver(self, kinesis: Kinesis, trust: TrustOf) -> None:
        """Try everything that waits once. What is refused stays, and its reason is the stream's."""
        if self.status not in DELIVERS or not (self._waiting or self.error):
            return
        error = self._injected or self._target_error(kinesis, trust)
        if error == "KINESIS_STREAM_NOT_FOUND":
            return self.fail(error)
        if not error:
            error = self._drain(kinesis)
        if self._waiting and self._clock.now() - self._waiting[0][0] > KEPT:
            return self.fail(error or self.error)
        self._note(error)

    def _target_error(self, kinesis: Kinesis, trust: TrustOf) -> str:
        if not trust(self.target["roleArn"]):
            return "ROLE_ACCESS_DENIED"
        try:
            status = kinesis.stream(self.target["streamArn"]).status
        except Refusal:
            return "KINESIS_STREAM_NOT_FOUND"
        return "KINESIS_STREAM_NOT_FOUND" if status == "DELETING" else ""

    def _drain(self, kinesis: Kinesis) -> str:
        stream = kinesis.stream(self.target["streamArn"])
        held: deque[tuple[float, str, bytes]] = deque()
        error = ""
        for item in self._waiting:
            try:
                done = kinesis.put_bytes(stream, item[2], item[1])
            except Refusal:
                held.append(item)
                error = "KINESIS_OVERSIZE_RECORD"
                continue
            if done is None:
                held.append(item)
                error = error or "KINESIS_THROUGHPUT_EXCEEDED"
        self._waiting = held
        return error

    def _note(self, error: str) -> None:
        if error != self.error:
            self.error, self.error_at = error, self._clock.now()


class Cluster:
    """A cluster. `idle`: it sleeps, and CreateStream is refused."""

    def __init__(self, id: str, arn: str, region: str, given: Mapping[str, Any], active_at: float, clock: Clock) -> None:
        self.id, self.arn = id, arn
        self.created = clock.now()
        self.endpoint = f"{id}.dsql.{region}.on.aws"
        self.protected = bool(given.get("deletionProtectionEnabled", True))
        self.tags: dict[str, str] = dict(given.get("tags") or {})
        self.kms_key: str | None = given.get("kmsEncryptionKey")
        self.token: str | None = given.get("clientToken")
        self.idle = False
        self.streams: dict[str, CdcStream] = {}
        self._clock, self._active_at, self._gone_at = clock, active_at, 0.0

    @property
    def status(self) -> str:
        now = self._clock.now()
        if self._gone_at:
            return "DELETED" if now >= self._gone_at else "DELETING"
        if now < self._active_at:
            return "CREATING"
        return "IDLE" if self.idle else "ACTIVE"

    def activate(self) -> None:
        """End CREATING at once."""
        self._active_at = 0.0

    def delete(self, after: float) -> None:
        self._gone_at = self._clock.now() + after

    def live_streams(self) -> list[CdcStream]:
        return [stream for stream in self.streams.values() if stream.status != "DELETED"]
