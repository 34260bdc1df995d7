"""ListShards: its filters, its pages, its tokens."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import msgspec

from dsqlcdc.local.refusal import Refusal, bad_argument, invalid, need
from dsqlcdc.local.shards import Shard
from dsqlcdc.local.streams import Stream

TOKEN_LIFE = 300.0
PAGE = 1000
MOST = 10_000
_NOT_WITH_TOKEN = ("ExclusiveStartShardId", "ShardFilter", "StreamARN", "StreamCreationTimestamp", "StreamName")


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """What a call asks for; also what its NextToken holds, with the stream it belongs to and when it was made."""

    stream: str
    created: float
    after: str
    filter: dict[str, Any] | None
    made: float
    limit: int = PAGE


def asked(given: Mapping[str, Any], now: float) -> Asked:
    """Read the call, its token if it has one. `stream` is "" where the call names the stream itself."""
    limit = given.get("MaxResults") or PAGE
    if not 1 <= limit <= MOST:
        raise invalid(f"Value '{limit}' at 'maxResults' is not between 1 and {MOST}")
    token = given.get("NextToken")
    if token is None:
        return Asked("", 0.0, given.get("ExclusiveStartShardId") or "", given.get("ShardFilter"), now, limit)
    mixed = [name for name in _NOT_WITH_TOKEN if name in given]
    if mixed:
        raise bad_argument(f"NextToken and {mixed[0]} cannot be provided together.")
    try:
        found = msgspec.json.decode(base64.urlsafe_b64decode(token), type=Asked)
    except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError):
        raise bad_argument("Invalid NextToken.") from None
    if now - found.made > TOKEN_LIFE:
        raise Refusal("ExpiredNextTokenException", "The NextToken has expired: it lives for 300 seconds.")
    return msgspec.structs.replace(found, limit=limit)


def page(stream: Stream, asked: Asked, now: float, latest_lag: float) -> dict[str, Any]:
    """One page of shards. `latest_lag`: seconds for which AT_LATEST still lists a shard that was closed."""
    if asked.stream and stream.created != asked.created:
        raise Refusal("ResourceInUseException", f"Stream {stream.name} was created anew.")
    shards = [s for s in stream.shards.values() if s.id > asked.after and _wanted(stream, s, asked.filter, now, latest_lag)]
    out: dict[str, Any] = {"Shards": [shard.describe() for shard in shards[: asked.limit]]}
    if len(shards) > asked.limit:
        raw = msgspec.json.encode(Asked(stream.name, stream.created, shards[asked.limit - 1].id, asked.filter, now))
        out["NextToken"] = base64.urlsafe_b64encode(raw).decode()
    return out


def _wanted(stream: Stream, shard: Shard, given: Mapping[str, Any] | None, now: float, latest_lag: float) -> bool:
    if not given:
        return True
    kind = given.get("Type")
    if kind == "AFTER_SHARD_ID":
        return shard.id > str(need(given, "ShardId"))
    if kind == "FROM_TRIM_HORIZON":
        return True
    if kind == "AT_TRIM_HORIZON":
        at = max(stream.created, now - stream.retention_hours * 3600)
        return shard.opened <= at and (not shard.closed or shard.closed >= at)
    if kind == "AT_LATEST":
        return not shard.closed or now - shard.closed < latest_lag
    if kind in ("AT_TIMESTAMP", "FROM_TIMESTAMP"):
        at = float(need(given, "Timestamp"))
        ends_later = not shard.closed or shard.closed >= at
        return ends_later and (kind == "FROM_TIMESTAMP" or shard.opened <= at)
    raise invalid(f"Value '{kind}' at 'shardFilter.type' is no filter type")
