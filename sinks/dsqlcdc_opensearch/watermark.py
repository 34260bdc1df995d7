"""The purge watermark: deletes at or below it are forgotten. Kept in the cluster, one document a sink, never moves back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from dsqlcdc.contract import Misconfigured, Unavailable
from dsqlcdc_opensearch import scripted
from dsqlcdc_opensearch.answers import Meaning, hopeless
from dsqlcdc_opensearch.bulk import Result
from dsqlcdc_opensearch.cluster import Cluster

log = logging.getLogger("dsqlcdc.opensearch")

REFRESH = 60.0
"""Seconds after which a watermark that was read is read again before anything is judged by it."""


class State(msgspec.Struct, frozen=True):
    """`watermark`: a version (ns), 0 at first; `owner` runs the purge job; `count` grows with each writing. `held`: physical indexes that
    nobody writes to while a rebuild puts another in their place, where the engine has no blocks."""

    watermark: int = 0
    owner: str = ""
    count: int = 0
    held: tuple[str, ...] = ()


class Watermark:
    """Reads and writes a sink's document in the index `{index_prefix}__dsqlcdc`. A write is compared with the one before by its count (an
    external version, or with `by_script` a script's parameter), so none is lost."""

    def __init__(
        self, cluster: Cluster, prefix: str, owner: Mapping[str, str], settings: Mapping[str, Any], *, by_script: bool = False
    ) -> None:
        self._cluster, self._settings, self._scripted = cluster, settings, by_script
        self.index = f"{prefix}__dsqlcdc"
        self._id = f"{owner['pipeline']}~{owner['sink']}"
        self._path = f"/{self.index}/_doc/{self._id}"
        self._state = State()
        self._read_at: float | None = None
        self._lock = asyncio.Lock()

    async def prepare(self, probe: str) -> None:
        """Make the index, and see that the engine compares versions as it is asked to: `probe` is an id of a document that nobody else uses.

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
        why = await self._external(probe)
        if not self._scripted and why:
            raise Misconfigured(
                "OpenSearch does not keep external versions",
                where=self._cluster.where,
                why=f"{why}: deletes and updates that come late would undo newer ones",
                run="dsqlcdc config lint CONFIG, with mode: scripted in this sink, and fill a new index",
                code="E470",
            )
        if self._scripted:
            if not why:
                log.warning("%s: external versions are kept here, so mode: scripted is slower than it need be", self._cluster.where)
            await self._by_script(f"{probe}-scripted")

    async def _external(self, probe: str) -> str:
        """What is wrong with external versions; "" where they are kept."""
        path = f"/{self.index}/_doc/{probe}"
        status, said = await self._cluster.ask("PUT", f"{path}?version=2&version_type=external", {}, also=(400, 404))
        if status == 404:  # made a moment ago
            raise Unavailable("a new index is not there yet", where=f"{self._cluster.where}, {self.index}", code="E160", after=5.0)
        if status == 400:
            if (stop := hopeless(said)) is not None:
                raise self._cluster.fault(Result(Meaning.STOP, said, status), doing=stop)
            return f"it answered {status} {said}"
        older, _ = await self._cluster.ask("PUT", f"{path}?version=1&version_type=external", {}, also=(409,))
        gone, _ = await self._cluster.ask("DELETE", f"{path}?version=3&version_type=external", also=(404, 409))
        return "a document took the place of a newer one" if older != 409 or gone == 409 else ""

    async def _by_script(self, probe: str) -> None:
        """Raises Misconfigured where scripts do not run, or do not compare."""
        said = [await self._update(probe, scripted.REPLACE, {"doc": {"__cdc": {"version": version}}}) for version in (2, 1)]
        said += [await self._update(probe, scripted.REMOVE, {"version": version}, upsert=False) for version in (1, 3)]
        if said != ["created", "noop", "noop", "deleted"]:
            raise self._deaf(f"a document that was written at versions 2 and 1 and deleted at 1 and 3 was {', '.join(said)}")

    def _deaf(self, why: str) -> Misconfigured:
        what, run = "OpenSearch does not compare versions by a script", "dsqlcdc config lint CONFIG, without mode: scripted"
        return Misconfigured(what, where=self._cluster.where, why=why, run=run, code="E476")

    async def _update(self, id: str, script: str, params: Any, *, upsert: bool = True) -> str:
        """What became of a document: created, updated, deleted, noop, or conflict."""
        path = f"/{self.index}/_update/{id}?retry_on_conflict={scripted.TRIES}"
        status, data = await self._cluster.ask("POST", path, scripted.update(script, params, upsert), also=(400, 404, 409))
        if status == 400:
            raise self._deaf(f"{hopeless(data) or 'it takes no such update'} (it answered {status} {data})")
        if status == 404:
            raise Unavailable("a new index is not there yet", where=f"{self._cluster.where}, {self.index}", code="E160", after=5.0)
        return "conflict" if status == 409 else str(data["result"])

    async def current(self) -> tuple[State, float]:
        """What was read, and when (loop time), at most REFRESH seconds ago. Raises Unavailable, Misconfigured."""
        if not self._fresh:
            async with self._lock:
                if not self._fresh:
                    await self.load()
        assert self._read_at is not None
        return self._state, self._read_at

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
            if not self._scripted:
                state = msgspec.structs.replace(state, count=data["_version"])
        # Never back, whatever is read: a document that somebody deleted does not undelete what was purged by it.
        self._state = msgspec.structs.replace(state, watermark=max(state.watermark, self._state.watermark))
        self._read_at = asked_at
        return self._state

    def forget(self) -> None:
        """What was read is too old: `current` reads again."""
        self._read_at = None

    async def change(self, how: Callable[[State], State]) -> None:
        """Store what `how` makes of the newest state, whoever else writes meanwhile."""
        while not await self.store(how(await self.load())):
            pass

    async def store(self, state: State) -> bool:
        """Write a successor of the state that was read last; False where another process wrote one before."""
        count = state.count + 1
        body = msgspec.structs.replace(state, count=count)
        if self._scripted:
            if await self._update(self._id, scripted.SUCCEED, {"state": body}) not in ("created", "updated"):
                return False
        else:
            status, _ = await self._cluster.ask("PUT", f"{self._path}?version={count}&version_type=external", body, also=(409,))
            if status == 409:
                return False
        self._state = body
        return True
