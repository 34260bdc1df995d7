"""The OpenSearch sink: the newest of each row by external versions, deletes as tombstone documents, late ones judged one by one."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import msgspec
from yarl import URL

from dsqlcdc.aws import Aws
from dsqlcdc.contract import Batching, Change, Context, Known, Misconfigured, Resume, Setback, Sink, Table, Unavailable, Verdict
from dsqlcdc_opensearch.answers import Meaning, dead_code
from dsqlcdc_opensearch.bulk import Bulk, Limits, Result
from dsqlcdc_opensearch.cluster import Cluster
from dsqlcdc_opensearch.database import Database
from dsqlcdc_opensearch.document import GREATEST, Operation, Shape, removal, replacement
from dsqlcdc_opensearch.http import HttpTransport, Transport
from dsqlcdc_opensearch.indexes import Indexes, Target
from dsqlcdc_opensearch.late import Late, Rows, judge
from dsqlcdc_opensearch.names import id_of
from dsqlcdc_opensearch.options import SEND_WITHIN
from dsqlcdc_opensearch.options import Options as OpenSearchOptions
from dsqlcdc_opensearch.purge import Purge
from dsqlcdc_opensearch.sign import SigV4
from dsqlcdc_opensearch.watermark import Watermark

log = logging.getLogger("dsqlcdc.opensearch")

YOUNG = 120.0
"""Seconds that a collection may deny an index it has just made."""
_FILTER = "items.*._id,items.*.status,items.*.error"


class _Row(msgspec.Struct, frozen=True, gc=False):
    """The newest change of a row in a batch."""

    index: int
    change: Change
    target: Target
    id: str


class _MappingFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    properties: dict[str, dict[str, Any]]


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
            self._files = await asyncio.to_thread(self._read_mappings)
        self._transport = self._connect() if self._connect is not None else self._http(await asyncio.to_thread(self._trust))
        self._rows = self._make_rows() if self._make_rows is not None else self._database()
        owner = {"pipeline": context.pipeline, "sink": context.sink}
        self._cluster = Cluster(self._transport, self._where)
        self._limits = Limits(options.bulk.bytes, options.bulk.records, options.bulk.concurrency)
        path = f"/_bulk?filter_path={_FILTER}" + ("&require_alias=true" if self._writes_to_alias else "")
        self._bulk = Bulk(self._transport, self._limits, path)
        self._indexes = self._targets(self._cluster, owner)
        self._watermark = Watermark(self._cluster, options.index_prefix, owner, _small(options.settings.body))
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

    def _targets(self, cluster: Cluster, owner: Mapping[str, str]) -> Indexes:
        options = self._options
        return Indexes(
            cluster, options.index_prefix, owner, shape=self._shape, settings=options.settings.body, by_alias=self._writes_to_alias
        )

    def _http(self, tls: ssl.SSLContext) -> Transport:
        options, context = self._options, self._context
        signer = None
        if options.sign is not None:
            service = options.sign.service or ("aoss" if options.profile == "serverless" else "es")
            signer = SigV4(service, Aws(options.sign.region or context.region, context.profile), self._where)
        basic = None if options.basic is None else (options.basic.user, options.basic.password.get_secret_value())
        return HttpTransport(
            options.url,
            tls=tls,
            basic=basic,
            signer=signer,
            gzip=options.gzip,
            connections=options.bulk.concurrency + 4,
            timeout=options.timeout,
            connect_timeout=options.connect_timeout,
        )

    def _database(self) -> Rows | None:
        verify, context = self._options.verify, self._context
        if verify is None:
            return None
        try:
            Database.check()
        except ImportError as error:
            why = "late_upsert: verify needs the connector of Aurora DSQL"
            raise Misconfigured(
                "a package is missing", where=self._where, why=why, run="pip install 'dsqlcdc[dsql]'", code="E475"
            ) from error
        return Database(verify.endpoint, verify.user, region=context.region, profile=context.profile, where=self._where)

    def _trust(self) -> ssl.SSLContext:
        directory, tls = Path(self._context.directory), self._options.tls
        files = [tls.ca]
        try:
            trust = ssl.create_default_context(cafile=None if tls.ca is None else directory / tls.ca)
            if tls.certificate is not None:
                files = [tls.certificate, tls.key]
                key = None if tls.key is None else directory / tls.key
                trust.load_cert_chain(directory / tls.certificate, key, password=lambda: b"")
        except (OSError, ValueError) as error:
            what, run = "a certificate of OpenSearch cannot be used", "dsqlcdc config lint CONFIG, once the file is right"
            named = [directory / file for file in files if file is not None]
            faulty = [file for file in named if not file.is_file()] or named
            why = f"{', '.join(map(str, faulty))}: {error}"
            raise Misconfigured(what, where=self._where, why=why, run=run, code="E471") from error
        return trust

    def _read_mappings(self) -> Mapping[Path, Mapping[str, Any]]:
        directory = Path(self._context.directory)
        try:
            return {path: _fields(path, (directory / path).read_bytes()) for path in self._options.mappings.values()}
        except (OSError, ValueError) as error:
            what, run = "a mapping file of OpenSearch cannot be used", "dsqlcdc config show CONFIG"
            raise Misconfigured(what, where=self._where, why=str(error), run=run, code="E472") from error

    def _shape(self, table: Table) -> Shape:
        options = self._options
        path = options.mapping_file(str(table))
        return Shape(
            self._context.columns(str(table)),
            json=options.json_columns,
            bytea=options.bytea_columns,
            fields=None if path is None else self._files[path],
        )

    async def resume(self, resume: Resume) -> Iterable[Known]:
        """Sees that the engine keeps external versions, and reads the watermark. May be called again."""
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
                me=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(8)}",
            )
            self._purging = asyncio.create_task(purge.run())
        return ()

    @property
    def _purges(self) -> bool:
        """One invocation of a function does not live to see the grace end, and sees one shard only."""
        options = self._options
        return options.purge == "leader" and options.delete_mode == "tombstone" and "AWS_LAMBDA_FUNCTION_NAME" not in os.environ

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
        watermark, read_at = await self._horizon()
        verdicts: dict[int, Setback] = {}
        rows, twins = await self._newest_of(changes, verdicts)
        operations = await self._operations(rows, watermark, verdicts)
        results = await self._bulk.send(operations, read_at + SEND_WITHIN)
        return self._judge(changes, verdicts, results, twins)

    async def _horizon(self) -> tuple[int, float]:
        """The version up to which deletes may have been forgotten, and when that was read (loop time)."""
        return await self._watermark.current()

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
        native = self._options.delete_mode == "native"
        for row in rows:
            change = row.change
            if change.image is None and (native or change.version <= watermark):
                operations.append(removal(row.index, row.target.index, row.id, change.version))
            elif change.version <= watermark and not native:
                late.append(row)
            elif (operation := await self._replacement(row, verdicts)) is not None:
                operations.append(operation)
        if late:
            operations += await self._late(late, verdicts)
        return operations

    async def _replacement(self, row: _Row, verdicts: dict[int, Setback]) -> Operation | None:
        change, target = row.change, row.target
        text = None
        if change.image is not None:
            try:
                text, fresh = target.shape.row(change.image)
                if fresh:
                    await self._indexes.learn(target, fresh)
                    text, _ = target.shape.row(change.image)
            except (msgspec.MsgspecError, ValueError) as error:
                verdicts[row.index] = Setback(row.index, Verdict.DEAD, "bad_row", f"the row is no JSON object: {error}")
                return None
        return replacement(row.index, change, target.name, row.id, text)

    async def _late(self, late: Sequence[_Row], verdicts: dict[int, Setback]) -> list[Operation]:
        by_index = {row.index: row for row in late}
        judged = await judge(self._cluster, [Late(row.index, row.change, row.target.index, row.id) for row in late], self._rows)
        for index in judged.stale:
            verdicts[index] = Setback(index, Verdict.STALE)
        for index in judged.duplicate:
            verdicts[index] = Setback(index, Verdict.DUPLICATE)
        for index in judged.unknown:
            detail = (
                "older than the deletes that are remembered, and its row has no document: whether it was deleted since is not known here"
            )
            verdicts[index] = Setback(index, Verdict.DEAD, "late_upsert", detail)
        made = [await self._replacement(by_index[index], verdicts) for index in judged.fresh]
        return [operation for operation in made if operation is not None]

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


def _fields(path: Path, text: bytes) -> Mapping[str, Any]:
    """The fields of a mapping file. Raises ValueError."""
    try:
        fields = msgspec.json.decode(text, type=_MappingFile).properties
    except msgspec.MsgspecError as error:
        raise ValueError(f'{path}: a JSON object with "properties" is expected, an object a field: {error}') from None
    if "__cdc" in fields:
        raise ValueError(f"{path}: the field __cdc is the sink's own")
    return fields


def _small(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of the index that holds a few documents."""
    index = {name: value for name, value in settings.get("index", {}).items() if name != "number_of_shards"}
    return {"index": index} if index else {}
