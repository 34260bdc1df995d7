"""Statuses as pipelines give them, for tests of what shows them."""

from __future__ import annotations

from typing import Any

import msgspec

from dsqlcdc.contract import Digests
from dsqlcdc.core.lag import BOUNDS, LEGS, Spread
from dsqlcdc.core.ports import Gap
from dsqlcdc.core.telemetry import Kept, ShardStatus, Status
from dsqlcdc.streams.health import Health
from dsqlcdc.streams.observed import Reason
from dsqlcdc.streams.watch import View

NOW = 1_800_000_000.0
SETTLED = {"delivered": 90, "stale": 1, "duplicate": 5, "unrouted": 0, "parked": 2, "dead": 2}


def shard(name: str = "shardId-000000000000", **changes: Any) -> ShardStatus:
    plain = ShardStatus(name, "trim_horizon", "4966", NOW - 30.0, 110, 10, 1500, NOW - 2.0, ended=False)
    return msgspec.structs.replace(plain, **changes)


def status(sink: str = "lake", **changes: Any) -> Status:
    plain = Status(
        pipeline="orders-cdc",
        sink=sink,
        stream="orders-cdc@1700000000",
        state="running",
        read=110,
        bytes=48_000,
        settled=SETTLED,
        open=10,
        in_flight_bytes=4_400,
        batches=3,
        retries={"E120": 4},
        dead={"unreadable": 2},
        letters=2,
        remembered=7,
        memory=95,
        commits=12,
        committed_at=NOW - 1.5,
        newest_version=1_799_999_990_123_456_789,
        gaps=1,
        shards=(shard(),),
        retention_left=600_000.0,
        lag={leg: Spread((*(n for n, _ in enumerate(BOUNDS)), 5), 250.5, 0.4, 2.0) for leg in LEGS},
        circuit="closed",
        digests=Digests(NOW - 600.0, NOW + 3000.0),
    )
    return msgspec.structs.replace(plain, **changes)


def gap(id: str = "abc123", **changes: Any) -> Gap:
    plain = Gap(id, "orders-cdc", "lake", "orders-cdc@1700000000", "trimmed", "shardId-000000000000", "100", "200", NOW - 900, NOW - 600)
    return msgspec.structs.replace(plain, **{"detail": "records were trimmed unread", "found_at": NOW - 60.0, **changes})


def kept(**changes: Any) -> Kept:
    """A gap that nobody has acknowledged, one that somebody has, and three pieces that wait."""
    plain = Kept("orders-cdc", (gap(), gap("def456", kind="reset", acked="as planned")), 3, 9_000_000, NOW - 3.0)
    return msgspec.structs.replace(plain, **changes)


def view(**health: Any) -> View:
    """A CDC stream that has been IMPAIRED for an hour."""
    plain = Health(
        status="IMPAIRED",
        stream="one",
        reason=Reason("ROLE_ACCESS_DENIED", NOW - 3600.0),
        healthy_at=NOW - 3660.0,
        broken_since=NOW - 3600.0,
        answered_at=NOW - 5.0,
        lag=3600.0,
    )
    seen = msgspec.structs.replace(plain, **health)
    return View(
        pipeline="orders-cdc", cluster="c", target="orders-cdc", health=seen, stream=None, remedy=None, tried={("trust", "done"): 1}, gaps=2
    )
