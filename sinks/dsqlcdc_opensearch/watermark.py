"""The purge watermark: deletes at or below it are forgotten. Kept in the cluster, one document a sink, never moves back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from dsqlcdc.contract import Misconfigured, Unavailable
from dsqlcdc_opensearch.cluster import Cluster

REFRESH = 60.0
"""Seconds after which a watermark that was read is read again before anything is judged by it."""


class State(msgspec.Struct, frozen=True):
    """`watermark`: a version (ns), 0 at first; `owner` runs the purge job; `count` grows with each writing."""

    watermark: int = 0
    owner: str = ""
    count: int = 0


class Watermark:
    """Reads and writes a sink's document in the index `{index_prefix}__dsqlcdc`. Writing is by external versions, so none is lost."""

    def __init__(self, cluster: Cluster, prefix: str, owner: Mapping[str, str], settings: Mapping[str, Any]) -> None:
        self._cluster, self._settings = cluster, settings
        self.index = f"{prefix}__dsqlcdc"
        self._path = f"/{self.index}/_doc/{owner['pipeline']}~{owner['sink']}"
        self._state = State()
        self._read_at: float | None = None
        self._lock = asyncio.Lock()

    async def prepare(self, probe: str) -> None:
        """Make the index, and see that the engine keeps external versions: `probe` is an id of a document that nobody else uses.

        Raises Misconfigured where it does not, Unavailable.
        """
        body: dict[str, Any] = {"mappings": {"dynamic": False, "properties": {"watermark": {"type": "long"}}}}
        if self._settings:
            body["settings"] = dict(self._settings)
        status, said = await self._cluster.ask("PUT", f"/{self.index}", body, also=(400,))
        if status == 400 and said.type != "resource_already_exists_exception":
            why = f"it answered {status} {said}"
            raise Misconfigured(
                "an index cannot be made",
                where=f"{self._cluster.where}, {self.index}",
                why=why,
                run="dsqlcdc run CONFIG, once the cluster lets it be made",
                code="E168",
            )
        path = f"/{self.index}/_doc/{probe}"
        status, said = await self._cluster.ask("PUT", f"{path}?version=2&version_type=external", {}, also=(404,))
        if status == 404:  # made a moment ago
            raise Unavailable("a new index is not there yet", where=f"{self._cluster.where}, {self.index}", code="E160", after=5.0)
        older, _ = await self._cluster.ask("PUT", f"{path}?version=1&version_type=external", {}, also=(409,))
        gone, _ = await self._cluster.ask("DELETE", f"{path}?version=3&version_type=external", also=(404, 409))
        if older != 409 or gone == 409:
            why = "a document took the place of a newer one: deletes and updates that come late would undo newer ones"
            raise Misconfigured(
                "OpenSearch does not keep external versions",
                where=self._cluster.where,
                why=why,
                run="dsqlcdc config show CONFIG, and name a cluster that does",
                code="E470",
            )

    async def current(self) -> tuple[int, float]:
        """The watermark, and when it was read (loop time), at most REFRESH seconds ago. Raises Unavailable, Misconfigured."""
        if not self._fresh:
            async with self._lock:
                if not self._fresh:
                    await self.load()
        assert self._read_at is not None
        return self._state.watermark, self._read_at

    @property
    def state(self) -> State:
        """What was read or written last."""
        return self._state

    @property
    def _fresh(self) -> bool:
        return self._read_at is not None and asyncio.get_running_loop().time() - self._read_at < REFRESH

    async def load(self) -> State:
        """Read it now."""
        asked_at = asyncio.get_running_loop().time()
        status, data = await self._cluster.ask("GET", self._path, also=(404,))
        state = State()
        if status < 300 and data.get("found"):
            state = msgspec.convert(data["_source"], State)
            state = msgspec.structs.replace(state, count=data["_version"])
        # Never back, whatever is read: a document that somebody deleted does not undelete what was purged by it.
        self._state = msgspec.structs.replace(state, watermark=max(state.watermark, self._state.watermark))
        self._read_at = asked_at
        return self._state

    async def store(self, state: State) -> bool:
        """Write a successor of the state that was read last; False where another process wrote one before."""
        count = state.count + 1
        body = msgspec.structs.replace(state, count=count)
        status, _ = await self._cluster.ask("PUT", f"{self._path}?version={count}&version_type=external", body, also=(409,))
        if status == 409:
            return False
        self._state = body
        return True
