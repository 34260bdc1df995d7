"""Indexes: one a table, made before the first write with its mapping and its alias, kept up with the columns that appear."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dsqlcdc.contract import Misconfigured, Table, Unavailable
from dsqlcdc_opensearch.answers import Meaning, hopeless
from dsqlcdc_opensearch.bulk import Result
from dsqlcdc_opensearch.cluster import Cluster
from dsqlcdc_opensearch.document import Shape
from dsqlcdc_opensearch.mapping import body_of
from dsqlcdc_opensearch.names import alias_of, index_of

log = logging.getLogger("dsqlcdc.opensearch")

ALIVE: Mapping[str, Any] = {"bool": {"must_not": {"term": {"__cdc.deleted": True}}}}
"""The filter of an alias: rows that are not deleted."""
OWNED, BUILDING, REPLACED = "dsqlcdc", "dsqlcdc_building", "dsqlcdc_replaced"
"""What is kept in an index's mapping: whose it is; that a rebuild fills it; that a rebuild has put another in its place."""
EXTERNAL = "external"
"""The mode of an index that says none."""
LEARNT_AT_ONCE, LEARNT_WITHIN = 10, 10.0
_TRIES = 5


class Target:
    """Where a table's documents go. `name` is what is written to: the alias, or the physical index."""

    def __init__(self, table: Table, alias: str, index: str, name: str, shape: Shape) -> None:
        self.table, self.alias, self.index, self.name, self.shape = table, alias, index, name, shape
        self.learnt: deque[float] = deque(maxlen=LEARNT_AT_ONCE)


class Indexes:
    """The targets of one sink. `owner` says whose they are: an index is written by one sink only, since its deletes are forgotten by that
    sink's watermark. `shape` makes the shape of a table; `by_alias`: documents are written to the alias; `mode`: how versions are compared."""

    def __init__(
        self,
        cluster: Cluster,
        prefix: str,
        owner: Mapping[str, str],
        *,
        shape: Callable[[Table], Shape],
        settings: Mapping[str, Any],
        by_alias: bool,
        mode: str = EXTERNAL,
    ) -> None:
        self._cluster, self._prefix, self._owner, self._mode = cluster, prefix, dict(owner), mode
        self._shape, self._settings, self._by_alias = shape, settings, by_alias
        self._known: dict[Table, Target] = {}
        self._lock = asyncio.Lock()

    def known(self, table: Table) -> Target | None:
        return self._known.get(table)

    async def follow(self) -> None:
        """Where a rebuild has put other indexes behind the aliases, go on with those. An alias that is gone stays missed. Raises as `target`."""
        async with self._lock:
            for target in self._known.values():
                await self._follow(target)

    async def owned(self) -> Sequence[str]:
        """The physical indexes of this sink, by what is kept in their mappings. Raises Unavailable, Misconfigured."""
        metas = await self.metas(f"{self._prefix}*")
        return sorted(index for index, meta in metas.items() if BUILDING not in meta and self._owner.items() <= meta.get(OWNED, {}).items())

    async def metas(self, names: str) -> Mapping[str, Mapping[str, Any]]:
        """What is kept in the mappings of these indexes, `*` for many."""
        status, data = await self._cluster.ask("GET", f"/{names}/_mapping?filter_path=*.mappings._meta", also=(404,))
        return {} if status == 404 else {index: found["mappings"]["_meta"] for index, found in data.items()}

    async def describe(self, index: str, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
        """Change what is kept in an index's mapping."""
        meta = (await self._mapping(index)).get("_meta", {})
        await self._cluster.ask("PUT", f"/{index}/_mapping", {"_meta": dict(change(meta))})

    async def target(self, table: Table) -> Target:
        """The table's index, made where it is not there. Two processes may do so at once.

        Raises Unavailable (also while a new index cannot be read yet), Misconfigured where the index is another sink's, or no index can be
        made.
        """
        async with self._lock:
            found = self._known.get(table)
            if found is None:
                found = await self._find(table)
                self._known[table] = found
            return found

    async def _find(self, table: Table) -> Target:
        alias = alias_of(self._prefix, table)
        shape = self._shape(table)
        for _ in range(_TRIES):
            index = await self.behind(alias)
            if index is None:
                await self._make(alias, table, shape)
                continue
            await self._adopt(index, alias, shape)
            return Target(table, alias, index, alias if self._by_alias else index, shape)
        raise Unavailable("a new index is not there yet", where=f"{self._cluster.where}, {alias}", code="E160", after=5.0)

    async def behind(self, alias: str) -> str | None:
        """The one index behind an alias, with its filter seen to; None where there is no such alias."""
        status, data = await self._cluster.ask("GET", f"/_alias/{alias}", also=(404,))
        if status == 404:
            return None
        if len(data) != 1:
            why = f"it leads to {len(data)} indexes ({', '.join(sorted(data))}); a row's version is compared within one index"
            raise Misconfigured(
                "an alias leads to several indexes",
                where=f"{self._cluster.where}, {alias}",
                why=why,
                run="dsqlcdc run CONFIG, once the alias leads to one index",
                code="E167",
            )
        ((index, found),) = data.items()
        if found["aliases"][alias].get("filter") is None:
            await self._alias(index, alias)
        return str(index)

    async def _alias(self, index: str, alias: str) -> None:
        add = {"index": index, "alias": alias, "filter": ALIVE}
        await self._cluster.ask("POST", "/_aliases", {"actions": [{"add": add}]})

    async def _make(self, alias: str, table: Table, shape: Shape) -> None:
        index = index_of(alias)
        owner = {**self._owner, "table": str(table), "cluster": table.cluster, **self._marked}
        body: dict[str, Any] = {"mappings": body_of(shape.fields, owner), "aliases": {alias: {"filter": ALIVE}}}
        if self._settings:
            body["settings"] = dict(self._settings)
        status, said = await self._cluster.ask("PUT", f"/{index}", body, also=(400,))
        if status < 300:
            log.info("%s: made the index %s", self._cluster.where, index)
            return
        if said.type != "resource_already_exists_exception":
            why = f"it answered {status} {said}"
            raise Misconfigured(
                "an index cannot be made",
                where=f"{self._cluster.where}, {index}",
                why=why,
                run="dsqlcdc run CONFIG, once the cluster lets it be made",
                code="E168",
            )
        if await self.behind(alias) is None:  # there, and without its alias: of another process's, both come at once
            await self._check_owner(index, await self._mapping(index))
            await self._alias(index, alias)

    async def _mapping(self, index: str) -> dict[str, Any]:
        status, data = await self._cluster.ask("GET", f"/{index}/_mapping", also=(404,))
        if status == 404:
            raise Unavailable("a new index is not there yet", where=f"{self._cluster.where}, {index}", code="E160", after=5.0)
        mappings: dict[str, Any] = data[index]["mappings"]
        return mappings

    async def _check_owner(self, index: str, mappings: Mapping[str, Any]) -> None:
        found = mappings.get("_meta", {}).get(OWNED)
        if found is None:
            why = "it was not made by dsqlcdc: give the sink another index_prefix, or delete the index"
        elif any(found.get(name) != value for name, value in self._owner.items()):
            why = f"it belongs to pipeline {found.get('pipeline')!r}, sink {found.get('sink')!r}: give this sink another index_prefix"
        else:
            return self.check_mode(index, found)
        raise Misconfigured(
            "the index is not this sink's",
            where=f"{self._cluster.where}, {index}",
            why=why,
            run="dsqlcdc config show CONFIG, and choose another index_prefix",
            code="E169",
        )

    @property
    def _marked(self) -> Mapping[str, str]:
        return {} if self._mode == EXTERNAL else {"mode": self._mode}

    def check_mode(self, index: str, owner: Mapping[str, Any], *, more: str = "") -> None:
        """Raises Misconfigured for an index that was filled in the other mode: what one compares, the other does not keep."""
        if (there := owner.get("mode", EXTERNAL)) != self._mode:
            raise Misconfigured(
                "the index was filled in another mode",
                where=f"{self._cluster.where}, {index}",
                why=f"mode: {there}, and this sink's is {self._mode}: an older change could take the place of a newer one",
                run=f"dsqlcdc opensearch rebuild CONFIG --table {owner.get('table', 'TABLE')}{more}",
                code="E477",
            )

    async def _adopt(self, index: str, alias: str, shape: Shape) -> None:
        """Take over the fields an index has, and give it those it lacks."""
        mappings = await self._mapping(index)
        await self._check_owner(index, mappings)
        have: dict[str, Any] = mappings.get("properties", {})
        lacking = {name: field for name, field in shape.fields.items() if name not in have}
        for name, field in shape.fields.items():
            if name in have and have[name].get("type", "object") != field.get("type", "object"):
                log.warning(
                    "%s: field %s of %s stays %s; %s needs a new index",
                    self._cluster.where,
                    name,
                    alias,
                    have[name].get("type"),
                    field.get("type"),
                )
        shape.learnt({name: field for name, field in have.items() if name != "__cdc"})
        if lacking:
            await self._put(index, lacking)

    async def learn(self, target: Target, fields: Mapping[str, Mapping[str, Any]]) -> None:
        """Put fields that are new into a target's mapping. What another process has put there meanwhile stands. Raises as `target`.

        A change of a mapping is one of the whole cluster's state: of an index at most LEARNT_AT_ONCE in LEARNT_WITHIN seconds, then it waits.
        """
        now = asyncio.get_running_loop().time()
        if len(target.learnt) == LEARNT_AT_ONCE and (wait := target.learnt[0] + LEARNT_WITHIN - now) > 0:
            await asyncio.sleep(wait)
        target.learnt.append(asyncio.get_running_loop().time())
        async with self._lock:
            for last in (False, False, True):
                await self._follow(target)
                fresh = {name: field for name, field in fields.items() if name not in target.shape.fields}
                if not fresh:
                    return
                have: dict[str, Any] = (await self._mapping(target.index)).get("properties", {})
                target.shape.learnt({name: have[name] for name in fresh.keys() & have.keys()})
                fresh = {name: field for name, field in fresh.items() if name not in have}
                if await self._put(target.index, fresh, last=last):
                    target.shape.learnt(fresh)

    async def _follow(self, target: Target) -> None:
        index = await self.behind(target.alias)
        if index is not None and index != target.index:
            await self._adopt(index, target.alias, target.shape)
            target.index = index
            target.name = target.alias if self._by_alias else index

    async def _put(self, index: str, fields: Mapping[str, Any], *, last: bool = True) -> bool:
        """False where it was refused, which may be for what another process has put there just before (not `last`)."""
        if not fields:
            return True
        path, body = f"/{index}/_mapping", {"properties": fields}
        status, said = await self._cluster.ask("PUT", path, body, also=() if last else (400,))
        if status >= 300 and (why := hopeless(said)) is not None:
            raise self._cluster.fault(Result(Meaning.STOP, said, status), doing=why)
        return status < 300
