"""A rebuild: a table's new physical index beside the one in use, filled with the whole history, then put in its place in one step.

What is under way is kept in the new index's mapping, so that another process may go on with it. While an index is filled nothing is purged
from it: every delete is a tombstone, and the newest of each row wins in whatever order they come.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from dsqlcdc.contract import Context, Known, Misconfigured, Resume, Table
from dsqlcdc_opensearch.cluster import Cluster
from dsqlcdc_opensearch.indexes import ALIVE, BUILDING, EXTERNAL, OWNED, REPLACED, Indexes, Target
from dsqlcdc_opensearch.mapping import body_of
from dsqlcdc_opensearch.names import alias_of, index_of
from dsqlcdc_opensearch.options import Options
from dsqlcdc_opensearch.sink import YOUNG, OpenSearchSink
from dsqlcdc_opensearch.watermark import State

log = logging.getLogger("dsqlcdc.opensearch")

DISORDER = 3600 * 10**9
"""Nanoseconds by which a delete that waits may be older than the newest change that is in."""
_PAGE = 5000
SEARCHABLE = 60.0
"""Seconds after which a collection's searches see what was written, at the latest."""


class Standing(msgspec.Struct, frozen=True):
    """What is under way: the alias, the index behind it ("" where there is none), the one that is filled; what was noted of the filling.

    `run` names this filling, unlike any other of this index's name; `mode` is how it compares versions. `swapped`: the new index is behind
    the alias already.
    """

    alias: str
    old: str
    new: str
    run: str
    note: Mapping[str, Any]
    mode: str = EXTERNAL

    @property
    def swapped(self) -> bool:
        return self.old == self.new


class Rebuild(OpenSearchSink):
    """A sink that writes to the index that is being filled, and the steps of the rebuild. One instance serves one run, or one step."""

    def __init__(self, options: Options, context: Context, **given: Any) -> None:
        super().__init__(options.model_copy(update={"delete_mode": "tombstone", "purge": "off"}), context, **given)

    def _targets(self, cluster: Cluster, owner: Mapping[str, str]) -> Indexes:
        options = self._options
        return _Filling(
            cluster, options.index_prefix, owner, shape=self._shape, settings=options.settings.body, by_alias=False, mode=options.mode
        )

    @property
    def _writes_to_alias(self) -> bool:
        return False

    @property
    def _serverless(self) -> bool:
        return self._options.profile == "serverless"

    async def resume(self, resume: Resume) -> Iterable[Known]:
        return ()

    async def _horizon(self) -> tuple[State, float]:
        return State(), asyncio.get_running_loop().time()  # nothing has been forgotten in this index

    # ── steps; each raises Unavailable and Misconfigured as the sink does ─────────────────────────────────────────────────────────────

    async def begin(self, table: Table, *, anew: bool = False) -> Standing:
        """The rebuild that is under way, or a new one with an index of the mapping that is right now. `anew` throws away what was filled."""
        standing = await self.standing(table)
        if standing is not None and anew and not standing.swapped:
            await self._cluster.ask("DELETE", f"/{standing.new}", also=(404,))
            standing = None
        assert isinstance(self._indexes, _Filling)
        if standing is not None:
            self._indexes.check_mode(standing.new, {"mode": standing.mode, "table": str(table)}, more=" --anew")
            return standing
        alias = alias_of(self._options.index_prefix, table)
        index = index_of(alias, await self._indexes.next_number(alias))
        await self._indexes.make_unused(index, table)
        made = await self.standing(table)
        end = asyncio.get_running_loop().time() + YOUNG
        while made is None and self._serverless and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(5.0)  # a collection shows an index only some time after it was made
            made = await self.standing(table)
        if made is None:
            what, run = "an index cannot be made", "dsqlcdc opensearch rebuild CONFIG, once nobody deletes it"
            raise Misconfigured(what, where=f"{self._where}, {index}", why="it is gone again", run=run, code="E168")
        return made

    async def standing(self, table: Table) -> Standing | None:
        """The rebuild that is under way, None where none is."""
        assert isinstance(self._indexes, _Filling)
        alias = alias_of(self._options.index_prefix, table)
        found = await self._indexes.building(alias)
        if found is None:
            return None
        index, about = found
        return Standing(
            alias,
            await self._indexes.behind(alias) or "",
            index,
            f"{index}~{about['run']}",
            about["note"],
            about["owner"].get("mode", EXTERNAL),
        )

    async def note(self, standing: Standing, note: Mapping[str, Any]) -> None:
        """Keep this with the index that is filled."""
        await self._indexes.describe(standing.new, lambda meta: {**meta, BUILDING: {**meta[BUILDING], "note": dict(note)}})

    async def hold_still(self, standing: Standing) -> None:
        """The old index takes no more writes; those that were under way are in. Whoever writes to it waits, and nothing is lost."""
        if not standing.old or standing.swapped:
            return
        if not self._serverless:
            await self._cluster.ask("PUT", f"/{standing.old}/_block/write")
            return
        await self._watermark.change(lambda state: _held(state, {*state.held, standing.old}))
        log.info("%s: %s is held still; all who write to it have seen that after %.0f s", self._where, standing.old, self._options.grace)
        await asyncio.sleep(self._options.grace)

    async def let_go(self, standing: Standing) -> None:
        """The old index takes writes again."""
        if not standing.old or standing.swapped:
            return
        if self._serverless:
            await self._watermark.change(lambda state: _held(state, {*state.held} - {standing.old}))
        else:
            await self._cluster.ask("PUT", f"/{standing.old}/_settings", {"index.blocks.write": None}, also=(404,))

    async def rows(self, standing: Standing) -> tuple[int, int]:
        """How many rows the old index shows, without those that were deleted while it was held still, and how many the new one would."""
        counts: list[int] = []
        if self._serverless:
            await asyncio.sleep(SEARCHABLE)
        for index in (standing.old, standing.new):
            if index and not self._serverless:
                await self._cluster.ask("POST", f"/{index}/_refresh")
            _, data = await self._cluster.ask("POST", f"/{index}/_count", {"query": ALIVE}) if index else (200, {"count": 0})
            counts.append(int(data["count"]))
        old, new = counts
        return old - (await self._deleted_since(standing) if new < old else 0), new

    async def _deleted_since(self, standing: Standing) -> int:
        """Rows of the old index that are tombstones in the new one: their deletes wait for the swap."""
        body = {"size": 1, "sort": [{"__cdc.version": "desc"}], "_source": False}
        _, found = await self._cluster.ask("POST", f"/{standing.old}/_search", body)
        low = max([int(hit["sort"][0]) for hit in found["hits"]["hits"]], default=0) - DISORDER
        seen: set[str] = set()
        count = 0
        while True:
            query = {"bool": {"filter": [{"term": {"__cdc.deleted": True}}, {"range": {"__cdc.version": {"gte": low}}}]}}
            body = {"size": _PAGE, "sort": [{"__cdc.version": "asc"}], "_source": False, "query": query}
            _, found = await self._cluster.ask("POST", f"/{standing.new}/_search", body)
            hits = found["hits"]["hits"]
            fresh = [str(hit["_id"]) for hit in hits if hit["_id"] not in seen]
            if not fresh:
                return count
            docs = [{"_index": standing.old, "_id": id} for id in fresh]
            _, got = await self._cluster.ask("POST", "/_mget?realtime=true&_source=__cdc.deleted", {"docs": docs})
            count += sum(1 for doc in got["docs"] if doc.get("found") and not doc["_source"]["__cdc"]["deleted"])
            low = int(hits[-1]["sort"][0])  # a page may end amid those of one version, of which a transaction has fewer than a page
            seen = {str(hit["_id"]) for hit in hits if int(hit["sort"][0]) == low}

    async def swap(self, standing: Standing) -> None:
        """The new index takes the old one's place behind the alias, in one step, and is this sink's from then on. May be done again.

        The old index stays, without an alias and closed to writing: whoever still writes to it by its name learns so that it has moved.
        """
        await self._indexes.describe(standing.new, lambda meta: {**meta, OWNED: meta[BUILDING]["owner"]})
        if not standing.swapped:
            actions: list[dict[str, Any]] = [{"add": {"index": standing.new, "alias": standing.alias, "filter": ALIVE}}]
            if standing.old:
                actions.append({"remove": {"index": standing.old, "alias": standing.alias}})
            await self._cluster.ask("POST", "/_aliases", {"actions": actions})
        for index in await self._indexes.owned():  # what was replaced is purged by nobody any more
            if index != standing.new and _number(index, standing.alias) is not None:
                await self._indexes.describe(index, lambda meta: {REPLACED: {"by": standing.new, "was": meta[OWNED]}})
        await self._indexes.describe(standing.new, lambda meta: {OWNED: meta[OWNED]})
        if self._serverless:  # whoever writes has seen the old one held, and looks behind the alias before it writes again
            await self._watermark.change(lambda state: _held(state, {held for held in state.held if _number(held, standing.alias) is None}))


class _Filling(Indexes):
    """Targets are the indexes that are being filled."""

    async def building(self, alias: str) -> tuple[str, Mapping[str, Any]] | None:
        """The index that is being filled for an alias, and what is kept of it: `owner`, `run`, `note`."""
        for index, meta in (await self.metas(f"{alias}-*")).items():
            if self._owner.items() <= meta.get(BUILDING, {}).get("owner", {}).items() and _number(index, alias) is not None:
                return index, meta[BUILDING]
        return None

    async def next_number(self, alias: str) -> int:
        return 1 + max((number for index in await self.metas(f"{alias}-*") if (number := _number(index, alias)) is not None), default=0)

    async def make_unused(self, index: str, table: Table) -> None:
        """An index without an alias, that nobody's but a rebuild's is."""
        owner = {**self._owner, "table": str(table), **self._marked}
        body: dict[str, Any] = {"mappings": body_of(self._shape(table).fields, {})}
        body["mappings"]["_meta"] = {BUILDING: {"owner": owner, "run": secrets.token_hex(4), "note": {}}}
        if self._settings:
            body["settings"] = dict(self._settings)
        await self._cluster.ask("PUT", f"/{index}", body)

    async def _find(self, table: Table) -> Target:
        alias = alias_of(self._prefix, table)
        found = await self.building(alias)
        if found is None:
            why = "it was put in place, or deleted, meanwhile"
            run = "dsqlcdc opensearch rebuild CONFIG"
            raise Misconfigured("nothing is being rebuilt", where=f"{self._cluster.where}, {alias}", why=why, run=run, code="E158")
        shape = self._shape(table)
        await self._adopt(found[0], alias, shape)
        return Target(table, alias, found[0], found[0], shape)

    async def _check_owner(self, index: str, mappings: Mapping[str, Any]) -> None:
        return None  # it was found by its owner

    async def _follow(self, target: Target) -> None:
        return None  # nothing takes the place of what is being filled


def _held(state: State, held: Iterable[str]) -> State:
    return msgspec.structs.replace(state, held=tuple(sorted(held)))


def _number(index: str, alias: str) -> int | None:
    found = re.fullmatch(r"-(\d{6,})", index.removeprefix(alias))
    return int(found[1]) if found else None
