"""The OpenSearch sink: the newest of each row by external versions, deletes as tombstone documents, late ones judged one by one."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import msgspec
from yarl import URL

from dsqlcdc.contract import Batching, Change, Context, Known, Misconfigured, Resume, Setback, Sink, Table, Unavailable, Verdict
from dsqlcdc_opensearch import scripted
from dsqlcdc_opensearch.answers import Meaning, Said, dead_code
from dsqlcdc_opensearch.bulk import Bulk, Limits, Result
from dsqlcdc_opensearch.cluster import Cluster
from dsqlcdc_opensearch.document import GREATEST, Operation, Shape, purging, removal, replacement
from dsqlcdc_opensearch.http import Transport
from dsqlcdc_opensearch.indexes import Indexes, Target
from dsqlcdc_opensearch.late import Late, Rows, judge
from dsqlcdc_opensearch.names import id_of
from dsqlcdc_opensearch.opening import connection, database, mapping_files, trust
from dsqlcdc_opensearch.options import SEND_WITHIN
from dsqlcdc_opensearch.options import Options as OpenSearchOptions
from dsqlcdc_opensearch.purge import Purge
from dsqlcdc_opensearch.watermark import State, Watermark

log = logging.getLogger("dsqlcdc.opensearch")

YOUNG = 120.0
"""Seconds that a collection may deny an index it has just made."""
_FILTER = "items.*._id,items.*.status,items.*.error"
_SHOWN = f"{_FILTER},items.*.result,items.*.get._source.{scripted.VERSION}"


class _Row(msgspec.Struct, frozen=True, gc=False):
    """The newest change of a row in a batch."""

    index: int
    change: Change
    target: Target
    id: str


class OpenSearchSink(Sink):
    """One index a table, one document a row. `transport` makes the connection to the cluster (it is called on entering), `rows` asks the
    database for late upserts.
    """

    Options: ClassVar[type[OpenSearchOptions]] = OpenSearchOptions
    needs_key = True
    order = "latest"

    def __init__(
        self,
        options: OpenSearchOptions,
        context: Context,
        *,
        transport: Callable[[], Transport] | None = None,
        rows: Callable[[], Rows] | None = None,
    ) -> None:
        self._options, self._context = options, context
        self._where = f"sink {context.sink}, {URL(options.url[0]).host}"
        self._connect = transport
        self._make_rows = rows
        self.lanes = options.bulk.concurrency
        self.batching = Batching(bytes=options.bulk.bytes, records=options.bulk.records, age=options.bulk.age)
        self._transport: Transport | None = None
        self._rows: Rows | None = None
        self._files: Mapping[Path, Mapping[str, Any]] = {}
        self._stop: Misconfigured | None = None
        self._missing: float | None = None
        self._blocked = False
        self._newest = 0
        self._followed_at: float | None = None
        self._purging: asyncio.Task[None] | None = None

    @classmethod
    def from_options(cls, options: Mapping[str, Any], context: Context) -> Self:
        """Raises pydantic.ValidationError for unknown or wrong options."""
        return cls(OpenSearchOptions.model_validate(dict(options)), context)

    async def probe(self) -> bool:
        """Read the sink's own document, as every start does: the address, the certificate and the right to read are tried."""
        await self._watermark.load()
        return True

    # ── at start ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def __aenter__(self) -> Self:
        """Raises Misconfigured where a certificate or a mapping file cannot be read."""
        options, context = self._options, self._context
        if options.mappings:
            self._files = await asyncio.to_thread(mapping_files, options, context, self._where)
        if self._connect is not None:
            self._transport = self._connect()
        else:
            self._transport = connection(options, context, await asyncio.to_thread(trust, options, context, self._where), self._where)
        self._rows = self._make_rows() if self._make_rows is not None else database(options, context, self._where)
        owner = {"pipeline": context.pipeline, "sink": context.sink}
        self._cluster = Cluster(self._transport, self._where)
        self._limits = Limits(options.bulk.bytes, options.bulk.records, options.bulk.concurrency)
        path = f"/_bulk?filter_path={_SHOWN if self._scripted else _FILTER}" + ("&require_alias=true" if self._writes_to_alias else "")
        self._bulk = Bulk(self._transport, self._limits, path)
        self._indexes = self._targets(self._cluster, owner)
        settings = _small(options.settings.body)
        self._watermark = Watermark(self._cluster, options.index_prefix, owner, settings, by_script=self._scripted)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        purging, self._purging = self._purging, None
        if purging is not None:
            purging.cancel()
            await asyncio.wait({purging})
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.close()

    @property
    def _writes_to_alias(self) -> bool:
        return self._options.profile == "managed"

    @property
    def _scripted(self) -> bool:
        return self._options.mode == "scripted"

    def _targets(self, cluster: Cluster, owner: Mapping[str, str]) -> Indexes:
        options = self._options
        return Indexes(
            cluster,
            options.index_prefix,
            owner,
            shape=self._shape,
            settings=options.settings.body,
            by_alias=self._writes_to_alias,
            mode=options.mode,
        )

    def _shape(self, table: Table) -> Shape:
        options = self._options
        path = options.mapping_file(str(table))
        return Shape(
            self._context.columns(str(table)),
            json=options.json_columns,
            bytea=options.bytea_columns,
            evolve=options.evolve,
            fields=None if path is None else self._files[path],
        )

    async def resume(self, resume: Resume) -> Iterable[Known]:
        """Sees that the engine compares versions, and reads the watermark. May be called again."""
        await self._watermark.prepare(f"probe-{secrets.token_hex(8)}")
        await self._watermark.load()
        if self._purging is None and self._purges:
            purge = Purge(
                self._cluster,
                self._watermark,
                self._bulk,
                indexes=self._indexes.owned,
                progress=resume.progress,
                newest=lambda: self._newest,
                retention=self._options.tombstones_for,
                grace=self._options.grace,
                remove=self._purging_operation,
                me=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(8)}",
            )
            self._purging = asyncio.create_task(purge.run())
        return ()

    @property
    def _purges(self) -> bool:
        """One invocation of a function does not live to see the grace end, and sees one shard only."""
        options = self._options
        return options.purge == "leader" and options.delete_mode == "tombstone" and self._context.whole

    # ── a batch ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        """The newest change of each row as a full replacement at its version; older ones are stale.

        Raises Unavailable when none went in, Misconfigured when the cluster refuses everything. Cancelled: what was sent may be in.
        """
        if self._stop is not None:
            raise self._stop
        if self._purging is not None and self._purging.done():
            self._purging.result()  # it ends by an error only, and nobody may miss that
        if self._blocked:  # maybe because a rebuild puts another index in its place
            await self._indexes.follow()
            self._blocked = False
        state, read_at = await self._horizon()
        verdicts: dict[int, Setback] = {}
        rows, twins = await self._newest_of(changes, verdicts)
        rows, held = self._apart(rows, state.held)
        operations = await self._operations(rows, state.watermark, verdicts)
        results = {**held, **await self._bulk.send(operations, read_at + SEND_WITHIN)}
        return self._judge(changes, verdicts, results, twins)

    async def _horizon(self) -> tuple[State, float]:
        """The version up to which deletes may have been forgotten, which indexes are held, and when that was read (loop time).

        Where an index is written to by its own name, the aliases are looked at after each reading: one whose place another has taken was held
        for as long as anything may be sent that was judged by what was read before.
        """
        state, read_at = await self._watermark.current()
        if not self._writes_to_alias and read_at != self._followed_at:
            await self._indexes.follow()
            self._followed_at = read_at
        return state, read_at

    def _apart(self, rows: Iterable[_Row], held: Sequence[str]) -> tuple[Iterable[_Row], Mapping[int, Result]]:
        """The rows that may be written, and what is said of those whose index is held."""
        if not held:
            return rows, {}
        rows = list(rows)
        result = Result(Meaning.BLOCKED, Said("held", "a rebuild puts another index in the place of this one"))
        waiting = {row.index: result for row in rows if row.target.index in held}
        if waiting:
            self._watermark.forget()  # it may be over at the next attempt
        return [row for row in rows if row.index not in waiting], waiting

    async def _newest_of(self, changes: Sequence[Change], verdicts: dict[int, Setback]) -> tuple[Iterable[_Row], Mapping[int, list[int]]]:
        """The newest change of each row, and by its place those of the same version. Older ones get their verdict."""
        newest: dict[tuple[str, str], _Row] = {}
        twins: dict[int, list[int]] = {}
        for index, change in enumerate(changes):
            target = self._indexes.known(change.table) or await self._indexes.target(change.table)
            if not 0 < change.version <= GREATEST:
                verdicts[index] = Setback(index, Verdict.DEAD, "bad_version", "a version is a positive 64-bit number")
                continue
            if (key := change.key) is None:
                verdicts[index] = Setback(index, Verdict.DEAD, "no_key", "without a key there is no document to replace")
                continue
            row = _Row(index, change, target, id_of(key))
            name = (target.index, row.id)
            other = newest.get(name)
            if other is None:
                newest[name] = row
            elif other.change.version == change.version:
                twins.setdefault(other.index, []).append(index)
            else:
                older, newer = (other, row) if other.change.version < change.version else (row, other)
                newest[name] = newer
                for stale in (older.index, *twins.pop(older.index, ())):
                    verdicts[stale] = Setback(stale, Verdict.STALE)
        return newest.values(), twins

    async def _operations(self, rows: Iterable[_Row], watermark: int, verdicts: dict[int, Setback]) -> list[Operation]:
        operations: list[Operation] = []
        late: list[_Row] = []
        fresh: list[_Row] = []
        native = self._options.delete_mode == "native"
        for row in rows:
            change = row.change
            if (native or change.version <= watermark) and change.image is None:
                operations.append(self._removal(row))
            elif change.version <= watermark and not native:
                late.append(row)
            else:
                fresh.append(row)
        if late:
            fresh += await self._late(late, verdicts)
        return operations + await self._replacements(fresh, verdicts)

    def _removal(self, row: _Row) -> Operation:
        if self._scripted:
            return scripted.removal(row.index, row.target.name, row.id, row.change.version)
        return removal(row.index, row.target.index, row.id, row.change.version)

    @property
    def _purging_operation(self) -> Callable[[int, str, str, int], Operation]:
        if self._scripted:
            return scripted.purging if self._writes_to_alias else scripted.unaliased
        return purging

    async def _replacements(self, rows: Sequence[_Row], verdicts: dict[int, Setback]) -> list[Operation]:
        """Fields that were not known are put into the mapping before the first document that has them, those of a batch at once."""
        make = scripted.replacement if self._scripted else replacement
        operations: list[Operation] = []
        fields: dict[Target, dict[str, Mapping[str, Any]]] = {}
        again: list[tuple[_Row, msgspec.Raw]] = []
        for row in rows:
            change, target = row.change, row.target
            if (image := change.image) is None:
                operations.append(make(row.index, change, target.name, row.id, None))
                continue
            try:
                text, fresh = target.shape.row(image)
            except (msgspec.MsgspecError, ValueError) as error:
                verdicts[row.index] = Setback(row.index, Verdict.DEAD, "bad_row", f"the row is no JSON object: {error}")
                continue
            if fresh:
                fields[target] = {**fresh, **fields.get(target, {})}
                again.append((row, image))
            else:
                operations.append(make(row.index, change, target.name, row.id, text))
        for target, some in fields.items():
            await self._indexes.learn(target, some)
        for row, image in again:
            operations.append(make(row.index, row.change, row.target.name, row.id, row.target.shape.row(image)[0]))
        return operations

    async def _late(self, late: Sequence[_Row], verdicts: dict[int, Setback]) -> list[_Row]:
        """Those that may be written as any other."""
        by_index = {row.index: row for row in late}
        asked = [Late(row.index, row.change, row.target.index, row.id) for row in late]
        judged = await judge(self._cluster, asked, self._rows, scripted=self._scripted)
        for index in judged.stale:
            verdicts[index] = Setback(index, Verdict.STALE)
        for index in judged.duplicate:
            verdicts[index] = Setback(index, Verdict.DUPLICATE)
        for index in judged.unknown:
            detail = (
                "older than the deletes that are remembered, and its row has no document: whether it was deleted since is not known here"
            )
            verdicts[index] = Setback(index, Verdict.DEAD, "late_upsert", detail)
        return [by_index[index] for index in judged.fresh]

    # ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _judge(
        self,
        changes: Sequence[Change],
        verdicts: dict[int, Setback],
        results: Mapping[int, Result],
        twins: Mapping[int, Sequence[int]],
    ) -> Sequence[Setback]:
        faults: dict[Meaning, Unavailable | Misconfigured] = {}
        for index, result in results.items():
            verdicts[index] = self._setback(index, result, faults)
        stopping = [fault for fault in faults.values() if isinstance(fault, Misconfigured)]
        fault = next(iter(stopping or faults.values()), None)
        for index, others in twins.items():
            told = verdicts.get(index)
            for other in others:
                verdicts[other] = Setback(other, Verdict.DUPLICATE) if told is None else msgspec.structs.replace(told, index=other)
        self._blocked = self._blocked or any(result.meaning is Meaning.BLOCKED for result in results.values())
        if isinstance(fault, Misconfigured):
            self._stop = fault
        owed = [index for index, setback in verdicts.items() if setback.verdict is Verdict.RETRY]
        if fault is not None and len(owed) == len(changes):
            try:
                raise fault
            finally:
                del fault  # or it would hold this frame, and with it the batch, until the garbage is collected
        for index, change in enumerate(changes):
            if change.version > self._newest and (index not in verdicts or verdicts[index].verdict is not Verdict.RETRY):
                self._newest = change.version
        return list(verdicts.values())

    def _setback(self, index: int, result: Result, faults: dict[Meaning, Unavailable | Misconfigured]) -> Setback:
        """The verdict. Why something is to be tried again goes into `faults`, once for all that is so for one reason."""
        said, meaning = result.said, result.meaning
        match meaning:
            case Meaning.STALE:
                return Setback(index, Verdict.STALE)
            case Meaning.DUPLICATE:
                return Setback(index, Verdict.DUPLICATE)
            case Meaning.DEAD | Meaning.TOO_LARGE | Meaning.MALFORMED:
                return Setback(index, Verdict.DEAD, dead_code(result.status, said), f"it answered {result.status} {said}")
            case Meaning.MISSING if self._still_young():
                meaning, result = Meaning.RETRY, msgspec.structs.replace(result, meaning=Meaning.RETRY, after=5.0)
            case _:
                pass
        if meaning not in faults:
            faults[meaning] = self._cluster.fault(result)
        fault = faults[meaning]
        after = fault.after if isinstance(fault, Unavailable) else None
        return Setback(index, Verdict.RETRY, said.type or "unavailable", said.reason[:300], after)

    def _still_young(self) -> bool:
        """May an index that is said not to exist be one that was made just now? In a collection only."""
        if self._options.profile == "managed":
            return False
        now = asyncio.get_running_loop().time()
        self._missing = now if self._missing is None else self._missing
        return now - self._missing < YOUNG


def _small(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of the index that holds a few documents."""
    index = {name: value for name, value in settings.get("index", {}).items() if name != "number_of_shards"}
    return {"index": index} if index else {}
