"""Committed transactions, written through a cluster's CDC streams, with the truth kept beside them."""

from __future__ import annotations

import asyncio
import base64
import random
from collections import deque
from typing import Any

import msgspec

from dsqlcdc.local.cdc import CdcStream
from dsqlcdc.local.clock import Clock
from dsqlcdc.local.database import Database, Net, Row, Statement, Table
from dsqlcdc.local.dsql import Dsql
from dsqlcdc.local.envelope import DEVIATIONS, OVERSIZE, Event, Source, records, sent_op

REMEMBERED = 20_000
SLICE = 200
"""Transactions between two turns of the event loop."""


class Commit(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What to commit. `cluster` may be left out where there is but one.

    `explicit`: transactions given statement by statement; `declare`: tables for them, by name with their key columns. `transactions`: so
    many drawn ones more, over `tables` (all, where empty), `oversize` of them (at most) with a row whose image has `oversize_bytes`.
    `evolve`: tables whose columns change half-way. `duplicates` and `deviations` are shares of the records; `disorder` is how many places a
    record may be moved; `repeat`: records sent earlier that are sent again.
    """

    cluster: str = ""
    transactions: int = 0
    explicit: list[list[Statement]] = []
    declare: dict[str, list[str]] = {}
    tables: list[str] = []
    duplicates: float = 0.0
    disorder: int = 0
    deviations: float = 0.0
    oversize: int = 0
    oversize_bytes: int = 12 * 1024 * 1024
    evolve: list[str] = []
    repeat: int = 0


class Committed(msgspec.Struct, frozen=True):
    """One change as it was committed. `version` is the commit time in nanoseconds; `sent_op` the code on the wire.

    `records`: how many Kinesis records it made. `streams`: the CDC streams that took it; a change that none took is delivered by nobody.
    """

    cluster: str
    schema: str
    table: str
    key: Row | None
    version: int
    transaction: str
    op: str
    sent_op: str
    row: Row | None
    records: int
    streams: list[str]


class Summary(msgspec.Struct, frozen=True):
    """What a commit did: the changes from `first` up to, not including, `end` in the truth. `sent`: Kinesis records by CDC stream."""

    cluster: str
    transactions: int
    first: int
    end: int
    sent: dict[str, int]


class Generator:
    """One for each cluster. The same seed, clock and calls give the same records."""

    def __init__(self, cluster: str, dsql: Dsql, clock: Clock, seed: int = 0, limit: int = OVERSIZE) -> None:
        self.cluster = cluster
        self.database = Database()
        self.changes: list[Committed] = []
        self._dsql, self._clock, self._limit = dsql, clock, limit
        self._rng = random.Random(seed)
        self._sent: deque[bytes] = deque(maxlen=REMEMBERED)
        self._lock = asyncio.Lock()

    def state(self) -> dict[tuple[str, tuple[Any, ...]], Committed]:
        """The newest change of every row that exists, by table and key: what a replica must hold. Only tables with a key."""
        newest: dict[tuple[str, tuple[Any, ...]], Committed] = {}
        for change in self.changes:
            if change.key is not None:
                newest[f"{change.schema}.{change.table}", tuple(change.key.values())] = change
        return {where: change for where, change in newest.items() if change.op != "d"}

    async def commit(self, commit: Commit) -> Summary:
        """Commit and write. Raises ValueError for a statement that the database refuses; the transactions before it stand."""
        async with self._lock:
            return await self._commit(commit)

    async def _commit(self, commit: Commit) -> Summary:
        for name, key in commit.declare.items():
            self.database.declare(name, key)
        tables = [self.database.table(name) for name in commit.tables] or list(self.database.tables.values())
        evolving = [self.database.table(name) for name in commit.evolve]
        first = len(self.changes)
        self._dsql.cluster(self.cluster).asleep = ""  # a query wakes it
        streams = self._dsql.delivering(self.cluster)
        out: list[bytes] = []
        refused: ValueError | None = None
        try:
            for explicit in commit.explicit:
                self._transact(explicit, commit, streams, out)
            await self._draw_all(commit, tables, evolving, streams, out)
        except ValueError as error:
            refused = error
        repeated = self._rng.sample(self._sent, min(commit.repeat, len(self._sent)))
        self._sent.extend(out)
        sent = {stream.id: await self._write(stream, out + repeated, commit) for stream in streams}
        if refused is not None:
            raise refused
        done = len(commit.explicit) + commit.transactions
        return Summary(self.cluster, done, first, len(self.changes), sent)

    async def _draw_all(
        self, commit: Commit, tables: list[Table], evolving: list[Table], streams: list[CdcStream], out: list[bytes]
    ) -> None:
        large = _spread(commit.oversize, commit.transactions)
        for index in range(commit.transactions):
            if index == commit.transactions // 2:
                for table in evolving:
                    table.evolve()
            statements = self._draw(tables)
            if index in large:
                statements.append(self._large(commit.oversize_bytes))
            self._transact(statements, commit, streams, out)
            if index % SLICE == SLICE - 1:
                await asyncio.sleep(0)

    def _transact(self, statements: list[Statement], commit: Commit, streams: list[CdcStream], out: list[bytes]) -> None:
        nets = self.database.transact(statements)
        transaction = base64.b32encode(self._rng.randbytes(16)).decode().rstrip("=").lower()
        source = Source(self._clock.unique_ns(), transaction, self.cluster)
        names = [stream.id for stream in streams]
        for net in nets:
            deviation = self._rng.choice(DEVIATIONS) if self._rng.random() < commit.deviations else ""
            made = self._records(net, source, deviation)
            out += made
            self.changes.append(
                Committed(
                    cluster=self.cluster,
                    schema=net.table.schema,
                    table=net.table.name,
                    key=net.key,
                    version=source.ts_ns,
                    transaction=transaction,
                    op=net.op,
                    sent_op=sent_op(net.op, deviation),
                    row=net.after,
                    records=len(made),
                    streams=names,
                )
            )

    def _records(self, net: Net, source: Source, deviation: str) -> list[bytes]:
        before = net.key if net.op == "d" else None
        return records(
            Event(source, net.table.schema, net.table.name, net.op, before, net.after),
            sent_at=source.ts_ns + self._rng.randint(1_000_000, 400_000_000),
            rng=self._rng,
            deviation=deviation,
            limit=self._limit,
        )

    def _draw(self, tables: list[Table]) -> list[Statement]:
        """One to five writes; now and then several on one row, which make one record or none."""
        statements: list[Statement] = []
        gone: set[tuple[str, tuple[Any, ...]]] = set()
        for _ in range(self._rng.randint(1, 5)):
            table, dice = self._rng.choice(tables), self._rng.random()
            name = str(table)
            if not table.columns:
                continue
            if dice < 0.5 or not table.rows:
                row = table.draw(self._rng)
                if table.key and (table.row_id(row) in table.rows or (name, table.row_id(row)) in gone):
                    continue
                statements.append(Statement(name, "insert", row))
                if table.key:
                    key = {column: row[column] for column in table.key}
                    gone.add((name, table.row_id(row)))
                    if dice < 0.05:
                        statements.append(Statement(name, "delete", key=key))
                    elif dice < 0.1:
                        statements.append(Statement(name, "update", self._changed(table), key))
                continue
            row_id = table.some_row(self._rng)
            if (name, row_id) in gone:
                continue
            key = dict(zip(table.key or ("row",), row_id, strict=True))
            if dice < 0.8:
                statements.append(Statement(name, "update", self._changed(table), key))
            else:
                gone.add((name, row_id))
                statements.append(Statement(name, "delete", key=key))
        return statements

    def _changed(self, table: Table) -> Row:
        return table.values(self._rng, [name for name in table.columns if name not in table.key and self._rng.random() < 0.6])

    def _large(self, size: int) -> Statement:
        """A row of a few MiB whose image is six times as long: control characters are escaped as six bytes each."""
        slug = f"large/{self._rng.getrandbits(64):016x}"
        unit = "\x01" * 1000 + self._rng.choice("é漢🙂") + '"' + str(self._rng.random())
        body = unit * -(-size // (len(msgspec.json.encode(unit)) - 2))
        row = {"slug": slug, "body": body, "tags": None}
        return Statement("app.notes", "insert", {c: row.get(c) for c in self.database.table("app.notes").columns})

    async def _write(self, stream: CdcStream, out: list[bytes], commit: Commit) -> int:
        """Write through one CDC stream, a record in its place or up to `disorder` places later, some of them twice."""
        placed: list[tuple[float, bytes]] = []
        for index, data in enumerate(out):
            copies = 2 if self._rng.random() < commit.duplicates else 1
            placed += [(index + self._rng.random() * commit.disorder, data) for _ in range(copies)]
        placed.sort(key=lambda item: item[0])
        for start in range(0, len(placed), SLICE):
            keyed = [(f"{self._rng.getrandbits(128):032x}", data) for _, data in placed[start : start + SLICE]]
            stream.send(keyed, self._dsql.kinesis, self._dsql.obstacle)
            await asyncio.sleep(0)
        return len(placed)


def _spread(count: int, total: int) -> set[int]:
    """`count` places among `total`, evenly."""
    return {index * total // count for index in range(count)} if count else set()
