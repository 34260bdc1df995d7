"""The purge: tombstones at or below the watermark are removed, by one process at a time, after everybody knows of the watermark."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from dsqlcdc.contract import Misconfigured, Progress, Unavailable
from dsqlcdc_opensearch.answers import Meaning
from dsqlcdc_opensearch.bulk import Bulk
from dsqlcdc_opensearch.cluster import Cluster
from dsqlcdc_opensearch.document import Operation, purging
from dsqlcdc_opensearch.watermark import State, Watermark

log = logging.getLogger("dsqlcdc.opensearch")

BEAT = 60.0
"""Seconds between two signs of life of the process that purges; after three without one another takes over."""
EVERY = 3600.0
"""Seconds between two moves of the watermark, at the least."""
_PAGE = 5000
"""More than a transaction of DSQL may delete (3,000): tombstones of one version fit into a page."""
_KEEP = "5m"


class _Deposed(Exception):
    """Another process purges now."""


class Purge:
    """The job of one process. `indexes` names the physical indexes of this sink, `progress` and `newest` say how far it has come: what
    arrived at every shard, and the newest version that was acknowledged. `retention` and `grace` in seconds, `me` names this process.
    `remove` makes the operation that removes a tombstone (place, index, id, version)."""

    def __init__(
        self,
        cluster: Cluster,
        watermark: Watermark,
        bulk: Bulk,
        *,
        indexes: Callable[[], Awaitable[Sequence[str]]],
        progress: Callable[[], Sequence[Progress]],
        newest: Callable[[], int],
        retention: float,
        grace: float,
        me: str,
        remove: Callable[[int, str, str, int], Operation] = purging,
    ) -> None:
        self._cluster, self._watermark, self._bulk = cluster, watermark, bulk
        self._indexes, self._progress, self._newest = indexes, progress, newest
        self._remove = remove
        self._retention, self._grace, self._me = round(retention * 10**9), grace, me
        self._beaten = 0.0
        self.purged = 0

    async def run(self) -> None:
        """Until cancelled. What cannot be done now is done later: nothing is wrong while tombstones stay longer."""
        while True:
            try:
                await self._lead(await self._take())
            except _Deposed:
                log.info("%s: another process purges now", self._cluster.where)
            except (Unavailable, Misconfigured) as error:
                log.warning("%s: no purge of tombstones for now: %s", self._cluster.where, error)
            await asyncio.sleep(BEAT)

    def goal(self) -> int:
        """The watermark that may be: what is older by `retention` than all that is still owed. 0 where that is not known."""
        open_shards = [shard for shard in self._progress() if not shard.ended or shard.open]
        arrived = min((shard.arrived for shard in open_shards), default=0.0)
        if arrived <= 0 or self._newest() <= 0:
            return 0
        return max(0, min(int(arrived) * 10**9, self._newest()) - self._retention)

    async def _take(self) -> State:
        """Become the one that purges: at once where nobody is, or when whoever was has given no sign of life for three beats."""
        seen, since = await self._watermark.load(), asyncio.get_running_loop().time()
        while True:
            now = asyncio.get_running_loop().time()
            if (seen.owner in ("", self._me) or now - since >= 3 * BEAT) and await self._store(seen.watermark):
                return seen
            await asyncio.sleep(BEAT)
            state = await self._watermark.load()
            if (state.owner, state.count) != (seen.owner, seen.count):
                seen, since = state, asyncio.get_running_loop().time()

    async def _store(self, watermark: int) -> bool:
        self._beaten = asyncio.get_running_loop().time()
        return await self._watermark.store(msgspec.structs.replace(self._watermark.state, watermark=watermark, owner=self._me))

    async def _lead(self, state: State) -> None:
        """Purge by the watermark as it stands (nobody knows for how long it has), then move it, again and again."""
        watermark = state.watermark
        while True:
            if watermark:
                await self._pause(self._grace)
                await self.purge(watermark)
            await self._pause(EVERY)
            while (goal := self.goal()) <= watermark:
                await self._pause(BEAT)
            if not await self._store(goal):
                raise _Deposed
            watermark = goal

    async def _pause(self, seconds: float) -> None:
        until = asyncio.get_running_loop().time() + seconds
        while (rest := until - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(rest, BEAT))
            await self._beat()

    async def _beat(self) -> None:
        if asyncio.get_running_loop().time() - self._beaten >= BEAT and not await self._store(self._watermark.state.watermark):
            raise _Deposed

    async def purge(self, watermark: int) -> int:
        """Remove the tombstones at or below the watermark from all indexes; how many. Those that are in the way of nobody may stay."""
        removed = 0
        for index in await self._indexes():
            status, opened = await self._cluster.ask("POST", f"/{index}/_search/point_in_time?keep_alive={_KEEP}", also=(404,))
            if status == 404:
                continue
            pit = {"id": opened["pit_id"], "keep_alive": _KEEP}
            try:
                removed += await self._purge(index, watermark, pit)
            finally:
                await self._cluster.ask("DELETE", "/_search/point_in_time", {"pit_id": [pit["id"]]}, also=(404,))
        self.purged += removed
        if removed:
            log.info("%s: purged %d tombstones", self._cluster.where, removed)
        return removed

    async def _purge(self, index: str, watermark: int, pit: Mapping[str, Any]) -> int:
        removed, low = 0, 0
        seen: set[str] = set()
        while True:
            hits = await self._page(low, watermark, pit)
            fresh = [(str(hit["_id"]), int(hit["sort"][0])) for hit in hits if hit["_id"] not in seen]
            if not fresh:
                return removed
            operations = [self._remove(n, index, id, version) for n, (id, version) in enumerate(fresh)]
            results = await self._bulk.send(operations, asyncio.get_running_loop().time() + BEAT)
            removed += len(operations) - len(results)
            for result in results.values():  # a newer document has taken its place, or it could not be done now
                if result.meaning not in (Meaning.STALE, Meaning.DUPLICATE):
                    raise self._cluster.fault(result, doing="purge")
            # A page may end amid the tombstones of one version: that version is asked for again.
            low = fresh[-1][1]
            seen = {str(hit["_id"]) for hit in hits if hit["sort"][0] == low}
            await self._beat()

    async def _page(self, low: int, watermark: int, pit: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        versions = {"range": {"__cdc.version": {"gte": low, "lte": watermark}}}
        body = {
            "size": _PAGE,
            "query": {"bool": {"filter": [{"term": {"__cdc.deleted": True}}, versions]}},
            "sort": [{"__cdc.version": "asc"}],
            "pit": pit,
            "_source": False,
        }
        _, data = await self._cluster.ask("POST", "/_search", body)
        hits: Sequence[Mapping[str, Any]] = data["hits"]["hits"]
        return hits
