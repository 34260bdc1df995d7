"""A DSQL cluster and its CDC streams: statuses that follow the clock, and delivery into Kinesis."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from dsqlcdc.local.clock import Clock
from dsqlcdc.local.kinesis import Kinesis
from dsqlcdc.local.refusal import Refusal

KEPT = 7 * 24 * 3600.0
"""Undelivered changes are kept for a week; a stream that lags further has failed."""
DELIVERS = ("ACTIVE", "IMPAIRED")
FINAL_WHEN_CREATING = ("ROLE_ACCESS_DENIED", "KINESIS_STREAM_NOT_FOUND", "CLUSTER_CMK_INACCESSIBLE")
Reason = Literal[
    "KINESIS_THROUGHPUT_EXCEEDED",
    "KINESIS_STREAM_NOT_FOUND",
    "ROLE_ACCESS_DENIED",
    "KINESIS_ACCESS_DENIED",
    "KINESIS_KMS_ACCESS_DENIED",
    "KINESIS_OVERSIZE_RECORD",
    "CLUSTER_CMK_INACCESSIBLE",
    "INTERNAL_ERROR",
]
_Record = tuple[float, str, bytes]


class Pace(msgspec.Struct):
    """What of the service's own pace a test may change, for all CDC streams.

    `retry`: seconds until what was refused is tried again, doubled up to 64 times that; 0 tries at every call. `lag_limit`: seconds that
    the oldest undelivered change may wait before the stream is FAILED, a week at most. `stuck`: a stream whose role cannot be assumed
    stays CREATING until that is mended, instead of FAILED (both have been seen).
    """

    retry: float = 0.0
    lag_limit: float = KEPT
    stuck: bool = False


class CdcStream:
    """A CDC stream. What cannot be delivered is held in order of commit while everything else goes on (IMPAIRED), as on AWS."""

    def __init__(self, arn: str, target: Mapping[str, Any], given: Mapping[str, Any], active_at: float, clock: Clock, pace: Pace) -> None:
        self.arn, self.target, self.tags, self.given = arn, target, dict(given.get("tags") or {}), given
        self.cluster, self.id = arn.split("/")[1], arn.split("/")[3]
        self.created = clock.now()
        self.error, self.error_at = "", 0.0
        self._clock, self._pace, self._active_at, self._gone_at = clock, pace, active_at, 0.0
        self._creating, self._failed = True, False
        self._injected = ""
        self.late = 0.0
        """Seconds by which the service delivers late, while the stream is ACTIVE all the same."""
        self._queue: deque[_Record] = deque()
        self._next_try, self._pause = 0.0, 0.0
        self._held: deque[_Record] = deque()

    @property
    def status(self) -> str:
        now = self._clock.now()
        if self._gone_at:
            return "DELETED" if now >= self._gone_at else "DELETING"
        if now < self._active_at or (self._creating and not self._failed):
            return "CREATING"
        if self._failed:
            return "FAILED"
        return "IMPAIRED" if self.error else "ACTIVE"

    @property
    def waiting(self) -> int:
        return len(self._held)

    @property
    def lag(self) -> float:
        """Seconds since the oldest undelivered change."""
        now = self._clock.now()
        return max((now - records[0][0] for records in (self._held, self._queue) if records), default=0.0)

    def activate(self) -> None:
        """End CREATING at once."""
        self._active_at, self._creating = 0.0, False

    def delete(self, after: float) -> None:
        self._gone_at = self._clock.now() + after
        self._held.clear()
        self._queue.clear()

    def fail(self, error: str) -> None:
        """Final: what is held is lost, and so is what is committed from now on."""
        self._failed = True
        self._note(error)
        self._held.clear()
        self._queue.clear()

    def impair(self, error: str) -> None:
        """Hold everything back with this error, until called with "". Raises ValueError once the stream is FAILED, which is final."""
        if self._failed:
            raise ValueError(f"stream {self.id} is FAILED: that is final")
        self._injected = error
        self._next_try = 0.0
        self._note(error)

    def send(self, records: list[tuple[str, bytes]], kinesis: Kinesis, obstacle: Obstacle) -> None:
        """Take (partition key, data) for delivery; what is held is not in their way. Only while the stream delivers."""
        self.look(kinesis, obstacle)
        if self.status not in DELIVERS:
            return
        now = self._clock.now()
        self._queue += ((now, key, data) for key, data in records)
        self._go_on(kinesis, obstacle)

    def _go_on(self, kinesis: Kinesis, obstacle: Obstacle) -> None:
        """Deliver what has waited as long as the service takes."""
        now = self._clock.now()
        due: deque[_Record] = deque()
        while self._queue and self._queue[0][0] + self.late <= now:
            due.append(self._queue.popleft())
        if not due:
            return
        refused, error = self._attempt(due, kinesis, obstacle)
        if error == "KINESIS_STREAM_NOT_FOUND":
            return self.fail(error)
        self._held += refused
        if error:
            self._note(error)
            self._next_try = self._next_try or now + self._pace.retry
        elif not self._held:
            self._settle()

    def look(self, kinesis: Kinesis, obstacle: Obstacle) -> None:
        """One round of the service: see whether the target can be reached, and when a retry is due, try what is held.

        A cause that is mended is noticed here, and the stream is ACTIVE again by itself.
        """
        if self._creating:
            self._end_creating(obstacle)
        now = self._clock.now()
        if self.status not in DELIVERS:
            return
        if self._held and self.lag > min(self._pace.lag_limit, KEPT):
            return self.fail(self.error)
        self._go_on(kinesis, obstacle)
        if self._failed:
            return
        if now < self._next_try:
            return
        self._held, error = self._attempt(self._held, kinesis, obstacle)
        if error == "KINESIS_STREAM_NOT_FOUND":
            return self.fail(error)
        if not error:
            return self._settle()
        self._note(error)
        self._pause = min(self._pause * 2 or self._pace.retry, self._pace.retry * 64)
        self._next_try = now + self._pause

    def _end_creating(self, obstacle: Obstacle) -> None:
        """Once its time has come. What a new stream cannot begin with ends it at once."""
        if self._failed or self._gone_at or self._clock.now() < self._active_at:
            return
        error = self._injected or obstacle(self)
        self._note(error)
        if error == "ROLE_ACCESS_DENIED" and self._pace.stuck:
            return
        self._creating = False
        if error in FINAL_WHEN_CREATING:
            self.fail(error)

    def _attempt(self, records: deque[_Record], kinesis: Kinesis, obstacle: Obstacle) -> tuple[deque[_Record], str]:
        """Write them all, if the target can be reached; those that were not written, and why."""
        error = self._injected or obstacle(self)
        return (records, error) if error else self._put(records, kinesis)

    def _put(self, records: deque[_Record], kinesis: Kinesis) -> tuple[deque[_Record], str]:
        """Those that Kinesis refuses, and why."""
        if not records:
            return records, ""
        stream = kinesis.stream(self.target["streamArn"])
        held: deque[_Record] = deque()
        error = ""
        for item in records:
            try:
                done = kinesis.put_bytes(stream, item[2], item[1])
            except Refusal:
                held.append(item)
                error = "KINESIS_OVERSIZE_RECORD"
                continue
            if done is None:
                held.append(item)
                error = error or "KINESIS_THROUGHPUT_EXCEEDED"
        return held, error

    def _settle(self) -> None:
        self._note("")
        self._pause = self._next_try = 0.0

    def _note(self, error: str) -> None:
        if error != self.error:
            self.error, self.error_at = error, self._clock.now()


Obstacle = Callable[[CdcStream], str]
"""The statusReason code of what keeps this stream from its target now, "" where nothing does."""


def given_key(given: Mapping[str, Any]) -> str:
    """The customer's key of a cluster, "" for the service's own."""
    key: str = given.get("kmsEncryptionKey") or ""
    return "" if key == "AWS_OWNED_KMS_KEY" else key


class Cluster:
    """A cluster. `asleep`: IDLE or INACTIVE until a query wakes it, and CreateStream is refused; "" while it is awake."""

    def __init__(self, id: str, arn: str, region: str, given: Mapping[str, Any], active_at: float, clock: Clock) -> None:
        self.id, self.arn = id, arn
        self.created = clock.now()
        self.endpoint = f"{id}.dsql.{region}.on.aws"
        self.protected = bool(given.get("deletionProtectionEnabled", True))
        self.tags: dict[str, str] = dict(given.get("tags") or {})
        self.kms_key = given_key(given)
        self.token: str | None = given.get("clientToken")
        self.asleep = ""
        self.streams: dict[str, CdcStream] = {}
        self._clock, self._active_at, self._gone_at = clock, active_at, 0.0

    @property
    def status(self) -> str:
        now = self._clock.now()
        if self._gone_at:
            return "DELETED" if now >= self._gone_at else "DELETING"
        if now < self._active_at:
            return "CREATING"
        return self.asleep or "ACTIVE"

    def activate(self) -> None:
        """End CREATING at once."""
        self._active_at = 0.0

    def delete(self, after: float) -> None:
        self._gone_at = self._clock.now() + after

    def live_streams(self) -> list[CdcStream]:
        return [stream for stream in self.streams.values() if stream.status != "DELETED"]
