"""Names: which table, which key, which typed row, and the id that follows from them."""

from __future__ import annotations

import fnmatch
import hashlib
import logging
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress, repeat
from typing import Any

import msgspec

from dsqlcdc.contract import UNREAD, Change, Op, Table
from dsqlcdc.core import wire
from dsqlcdc.core.ports import Part
from dsqlcdc.core.records import Record

log = logging.getLogger("dsqlcdc.tables")

Model = Callable[[msgspec.Raw], tuple[Any, bytes]]
"""Decodes and validates an image: the row model's instance and its documented JSON form. Raises ValueError."""

_encode = msgspec.json.Encoder().encode
_parse, _null, _ops, _pack = wire.parse, wire.NULL, wire.OPS.get, struct.Struct(">q").pack
_lines, _raws = msgspec.json.Encoder().encode_lines, msgspec.json.Decoder(msgspec.Raw).decode_lines
_STRETCH = 250
"""Records read together, column by column: what is made of them stays in the processor's cache."""
_PLACES = 10_000
"""As many ways to name a table are learnt; what is named in yet another one is read alone."""
_UNCOMMON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError)
_Raw, _DELETE, _UPSERT = msgspec.Raw, Op.DELETE, Op.UPSERT  # an enum's members are slow to look up


class Rule(msgspec.Struct, frozen=True):
    """What the configuration says of the tables a glob matches: the key columns in order, the row model."""

    key: tuple[str, ...] | None = None
    model: Model | None = None


class Bad(msgspec.Struct, frozen=True):
    """A record that is a dead letter before any sink sees it, and what could still be read of it."""

    code: str
    detail: str
    event: Mapping[str, Any] = {}


class Tables:
    """Reads records into changes, for all pipelines of the process. `rules` by glob over `schema.table`, the first match wins."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self._rules = dict(rules)
        self._known: dict[tuple[str, str, str], _Known] = {}
        self._keyed: dict[tuple[str, str, str], _Keyed] = {}
        self._placed: dict[bytes, _Keyed] = {}
        self._last: _Keyed | None = None
        self._models = False

    def read_all(self, shard: str, records: Sequence[Record]) -> list[Change | Part | Bad]:
        """What `read` says of each record, which a record remembers."""
        found: list[Change | Part | Bad] = []
        for start in range(0, len(records), _STRETCH):
            stretch = records[start : start + _STRETCH]
            items: list[Change | Part | Bad] = [record.parsed for record in stretch]
            if not all(items):  # else another pipeline has read them
                try:
                    items = self._columns(shard, stretch)
                except _UNCOMMON:
                    items = [self.read(shard, record) for record in stretch]
                for record, item in zip(stretch, items, strict=True):
                    record.parsed = item
            found += items
        return found

    def _columns(self, shard: str, records: Sequence[Record]) -> list[Change | Part | Bad]:
        """What `read` says of each record, column by column: this is the dearest road of the house, and so most of it runs in C.

        Whole rows of keyed tables go this way, all others by `read`. Which table a record is of is guessed, and its decoder
        holds it to the guess. Raises one of _UNCOMMON where each record must be read alone.
        """
        texts = [record.data for record in records]
        last = self._last
        if last is not None:
            try:
                envelopes = list(map(last.parse, texts))
            except msgspec.ValidationError:
                pass  # nearly always: there are other tables among them
            else:
                return self._changes(shard, records, texts, [last] * len(texts), envelopes)
        found = list(map(self._placed.get, map(_place, texts)))
        sure = [table for table in found if table is not None]
        changes: Iterator[Change | Part | Bad] = iter(())
        if sure:
            self._last = sure[-1]
            texts = list(compress(texts, found))
            envelopes = [table.parse(text) for table, text in zip(sure, texts, strict=True)]
            changes = iter(self._changes(shard, list(compress(records, found)), texts, sure, envelopes))
        return [self._learn(shard, record) if table is None else next(changes) for record, table in zip(records, found, strict=True)]

    def _learn(self, shard: str, record: Record) -> Change | Part | Bad:
        """What `read` says, and where in records like this one the table's name stands."""
        item = self.read(shard, record)
        if isinstance(item, Change) and (place := _place(record.data)):
            keyed = self._keyed.get((item.table.schema, item.table.name, item.table.cluster))
            if keyed is not None and len(self._placed) < _PLACES:
                self._placed[place] = keyed
        return item

    def _changes(
        self, shard: str, records: Sequence[Record], texts: Sequence[bytes], tables: Sequence[_Keyed], envelopes: Sequence[wire.Whole]
    ) -> list[Change | Part | Bad]:
        wire.check_all_utf8(texts)
        ops = [envelope.op for envelope in envelopes]
        rows, others = [envelope.after for envelope in envelopes], [envelope.before for envelope in envelopes]
        images: list[msgspec.Raw | None] = [UNREAD] * len(ops)
        olds: list[msgspec.Raw | None] = [None] * len(ops)
        if _DELETE in ops:
            for n in [n for n, op in enumerate(ops) if op is _DELETE]:
                rows[n], others[n] = others[n], rows[n]
                images[n], olds[n] = None, UNREAD
        if not all(rows) or others.count(None) < len(others):
            return [self.read(shard, record) for record in records]
        keys = _raws(_lines(rows))
        sources = [envelope.source for envelope in envelopes]
        versions = [source.ts_ns for source in sources]
        ids: list[bytes] = []
        for table, key, version in zip(tables, keys, map(_pack, versions), strict=True):
            digest = table.hasher()
            digest.update(key)
            digest.update(version)
            ids.append(digest.digest())
        typed, wrong = self._typed(tables, texts, images) if self._models else (repeat(None), [])
        found: list[Change | Part | Bad] = list(
            map(
                Change,
                ids,
                ops,
                [table.table for table in tables],
                keys,
                versions,
                [source.transaction for source in sources],
                images,
                olds,
                texts,
                repeat(shard),
                [record.sequence_number for record in records],
                [record.arrived for record in records],
                typed,
            )
        )
        for n in wrong:
            found[n] = self.read(shard, records[n])
        return found

    @staticmethod
    def _typed(tables: Sequence[_Keyed], texts: Sequence[bytes], images: list[msgspec.Raw | None]) -> tuple[list[Any], list[int]]:
        """The instances of the tables' row models, and which rows they refuse. What becomes of the others' images is put in their place."""
        instances: list[Any] = [None] * len(texts)
        wrong: list[int] = []
        for n, table in enumerate(tables):
            if table.model is not None and images[n] is not None:
                try:
                    instances[n], images[n] = table.model(_parse(texts[n]).after)
                except wire.Unreadable:
                    wrong.append(n)
        return instances, wrong

    def read(self, shard: str, record: Record) -> Change | Part | Bad:
        """What the record is: a change of a row, a part of an oversized row, or bad. Never raises for what a record may hold."""
        # Flat on purpose: where no columns can be read, this and `_change` are run for every record.
        envelope: wire.Envelope | None = None
        data = record.data
        try:
            envelope = _parse(data)
            if len(data) > wire.SLICE:
                wire.check_utf8(data)
            else:
                data.decode()
            kind = envelope.type
            if kind == "full" or kind is None:  # missing means full (spec §2)
                return self._change(envelope, data, shard, record.sequence_number, record.arrived, None)
            return wire.part(envelope, data, shard, record.sequence_number, record.arrived)
        except wire.Unreadable as error:
            return Bad(error.code, error.detail, describe(envelope))
        except wire.ERRORS as error:
            unreadable = wire.why(error, data)
            return Bad(unreadable.code, unreadable.detail)

    def assembled(self, main: Part, pieces: dict[str, list[bytes]]) -> Change | Bad:
        """The change of a complete oversized row, at its main record's position (which counts for the id of a row without a key)."""
        envelope: wire.Envelope | None = None
        try:
            envelope, images = wire.join(main, pieces)
            return self._change(envelope, main.raw, main.shard, main.sequence, main.arrived, images)
        except wire.Unreadable as error:
            return Bad(error.code, error.detail, describe(envelope or wire.decode(main.raw)))

    def _change(
        self, envelope: wire.Envelope, raw: bytes, shard: str, sequence: str, arrived: float, images: Mapping[str, bytes] | None
    ) -> Change:
        source = envelope.source
        if source is None:
            raise wire.Unreadable("a record without `source`")
        op, image, old = _ops(envelope.op, _UPSERT), envelope.after, envelope.before
        before = old if old != _null else None
        if op is not _DELETE:
            if image == _null:
                raise wire.Unreadable(f"op {envelope.op!r} without an `after` image", "bad_envelope")
            if before is not None:
                wire.check_object("before", before)
        elif image != _null:
            raise wire.Unreadable("a delete with an `after` image", "bad_envelope")
        else:
            image = old
        known = self._known.get((source.schema, source.table, source.cluster))
        if known is None:
            known = self._meet(source)
        key = known.key_of(image)
        if key is not None:
            digest = known.hasher.copy()
            digest.update(key + _pack(source.ts_ns))
        else:
            if image != _null:
                wire.check_object("before" if op is _DELETE else "after", image)
            digest = known.keyless(op, source, image, shard, sequence)
        typed: Any = None
        after = None if op is _DELETE else image
        if op is not _DELETE and known.model is not None:
            typed, after = known.typed(image)
        elif key is not None and images is None and (op is _DELETE or before is None):
            after, before = (None, UNREAD) if op is _DELETE else (UNREAD, None)
        return Change(
            digest.digest(),
            op,
            known.table,
            None if key is None else _Raw(key),
            source.ts_ns,
            source.transaction,
            after,
            before,
            raw,
            shard,
            sequence,
            arrived,
            typed,
            images,
        )

    def _meet(self, source: wire.Origin) -> _Known:
        name = f"{source.schema}.{source.table}"
        rule = next((rule for glob, rule in self._rules.items() if fnmatch.fnmatchcase(name, glob)), None)
        if rule is None:
            rule = Rule()
            log.warning(
                "table %s: no key is configured, so its changes are at least once; add it under `tables:`, with {key: […]} or {}", name
            )
        known = _Known(source, rule)
        self._known[source.schema, source.table, source.cluster] = known
        if known.parse is not None:
            model = None if known.model is None else known.typed
            self._models = self._models or model is not None
            self._keyed[source.schema, source.table, source.cluster] = _Keyed(known.parse, known.hasher.copy, known.table, model)
        return known


def _place(data: bytes) -> bytes:
    """The part of a record that names its table, in the layout of DSQL; empty where it has another one."""
    start = data.rfind(b'"schema":"')
    return data[start : data.find(b"}", start)]


class _Keyed(msgspec.Struct, frozen=True, eq=False):
    """A keyed table: its records' decoder, the beginning of its ids (a copy at each call), the table, its row model's `typed`."""

    parse: Callable[[bytes], wire.Whole]
    hasher: Callable[[], Any]
    table: Table
    model: Callable[[msgspec.Raw], tuple[Any, msgspec.Raw]] | None


class _Known:
    """A table that was met: the decoders of its key and of its records, and the beginning of its ids."""

    def __init__(self, source: wire.Origin, rule: Rule) -> None:
        table = Table(source.cluster, source.schema, source.table, rule.key)
        self.table, self.model = table, rule.model
        head = _encode([table.cluster, table.schema, table.name])
        self.hasher = hashlib.blake2b(head, digest_size=16)
        self._warned = False
        self.decode_key: Callable[[msgspec.Raw], Any] | None = None
        self.parse: Callable[[bytes], wire.Whole] | None = None
        if rule.key:
            self.decode_key, self.parse = wire.decoders(source, rule.key)

    def key_of(self, image: msgspec.Raw) -> bytes | None:
        """The key's canonical JSON object (and so proof that the image is an object); None where there is none to be had."""
        if self.decode_key is None or image == _null:
            return None
        try:
            return _encode(self.decode_key(image))
        except (msgspec.MsgspecError, OverflowError) as error:
            if not self._warned and memoryview(image)[0] == 0x7B:  # anything but an object is a bad record, not a wrong config
                self._warned = True
                log.warning("table %s: the configured key is not in its records (%s); they are handled as without a key", self.table, error)
            return None

    def typed(self, image: msgspec.Raw) -> tuple[Any, msgspec.Raw]:
        """The row model's instance and its JSON form. Raises Unreadable ("bad_row")."""
        assert self.model is not None
        try:
            typed, form = self.model(image)
        except ValueError as error:
            raise wire.Unreadable(str(error), "bad_row") from None
        return typed, msgspec.Raw(form)

    def keyless(self, op: Op, source: wire.Origin, image: msgspec.Raw, shard: str, sequence: str) -> Any:
        """Without a key only a record that is read again has the same id (design, "Types that carry the design")."""
        digest = self.hasher.copy()
        digest.update(_encode(["keyless", op.value, source.transaction, source.ts_ns, shard, sequence]))
        digest.update(image)
        return digest


_rows: dict[Table, Callable[[], Any]] = {}


def key_hash(change: Change) -> bytes:
    """16 bytes that name the row a change belongs to; a change without a key is a row of its own."""
    if change.key_image is None:
        return change.id
    table = change.table
    begun = _rows.get(table)
    if begun is None:
        head = _encode([table.cluster, table.schema, table.name])
        begun = _rows[table] = hashlib.blake2b(head, digest_size=16).copy
    digest = begun()
    digest.update(change.key_image)
    found: bytes = digest.digest()
    return found


def describe(envelope: wire.Envelope | None) -> dict[str, Any]:
    """What a dead letter says of a record that could be read in part."""
    if envelope is None or envelope.source is None:
        return {}
    source = envelope.source
    return {
        "cluster": source.cluster,
        "schema": source.schema,
        "table": source.table,
        "version": source.ts_ns,
        "transaction": source.transaction,
        "op": envelope.what.word,
    }


def describe_change(change: Change) -> dict[str, Any]:
    """What a dead letter says of a change that a sink refused."""
    table = change.table
    return {
        "cluster": table.cluster,
        "schema": table.schema,
        "table": table.name,
        "key": change.key,
        "version": change.version,
        "transaction": change.transaction,
        "op": change.op.word,
    }
