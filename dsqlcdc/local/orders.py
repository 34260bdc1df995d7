"""What the control calls are given."""

from __future__ import annotations

from typing import Literal

import msgspec

from dsqlcdc.local.cdc import Reason


class _Given(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class Pipe(_Given):
    stream: str = "orders-cdc"
    shards: int = 4
    max_record_kib: int = 10240


class Advance(_Given):
    seconds: float


class Throttle(_Given):
    """`reads` and `writes` switch the limits; `refuse_reads`: so many reads of `shard` ("" for any) are refused.

    `demand`: the writes on `stream`, where it is provisioned, fill so many shards; with fewer a part of them is refused, 0 ends it.
    `latest_lag`: seconds for which ListShards by AT_LATEST still gives a shard that was closed.
    """

    reads: bool | None = None
    writes: bool | None = None
    refuse_reads: int = 0
    latest_lag: float | None = None
    shard: str = ""
    stream: str = ""
    demand: int | None = None


class Shards(_Given):
    """Which shards of a stream: one, or all where `shard` is empty. `until`: a sequence number, `before`: seconds since the epoch."""

    stream: str
    shard: str = ""
    until: str = ""
    before: float = 0.0
    times: int = 1


class Raw(_Given):
    """A record of a foreign producer. `data` is base64. `shard` chooses where it goes; `copies` of it are written."""

    stream: str
    data: str
    shard: str = ""
    partition_key: str = "foreign"
    copies: int = 1


class Bucket(_Given):
    name: str
    gone: bool = True


class CdcState(_Given):
    """One cluster and, with `stream`, one of its CDC streams.

    `status`: puts the cluster to sleep (IDLE, INACTIVE) or wakes it (ACTIVE). `impair`: hold everything back with a statusReason code, ""
    mends it; `fail`: FAILED with this code; both without a real cause, as for INTERNAL_ERROR. `late`: seconds by which it delivers late from
    now on, ACTIVE all the same.
    """

    cluster: str
    stream: str = ""
    status: Literal["ACTIVE", "IDLE", "INACTIVE"] | None = None
    impair: Reason | Literal[""] | None = None
    fail: Reason | None = None
    late: float | None = None


class Cause(_Given):
    """The real cause of a reason, done to what is there (causes.py)."""

    cluster: str
    stream: str
    reason: Reason


class Rules(_Given):
    """The service's ways, for all clusters: the fields of Pace (cdc.py); `role_delay` and `role_refusals`: how long, and how often, a role
    is refused that was just made; `delay`: seconds that creating and deleting take."""

    retry: float | None = None
    lag_limit: float | None = None
    stuck: bool | None = None
    delay: float | None = None
    role_delay: float | None = None
    role_refusals: int | None = None
