"""Columns that a sink must not see: taken out or made unreadable before it is given a change, in this one place for every sink."""

from __future__ import annotations

import fnmatch
import hashlib
import hmac
import logging
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from dsqlcdc.contract import Change, Misconfigured, Setback, Sink, Table
from dsqlcdc.core.around import Around

log = logging.getLogger("dsqlcdc.mask")

How = Literal["drop", "fixed", "hash"]
"""drop: the column is gone. fixed: "***". hash: HMAC-SHA256 of the value in hex, so that equal values stay equal; null stays null."""

_ORDER: Sequence[How] = ("hash", "fixed", "drop")
_FIXED = msgspec.Raw(b'"***"')
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_text = msgspec.json.Decoder(str).decode


class Masks:
    """Which columns of which tables, by glob over `schema.table`. All globs that match count; of two ways the one that shows less.

    `key` is the secret of the hashes. `mask` raises Misconfigured for a column of the primary key, which says which row it is. Of a table
    whose first row has not all the columns that are to be hidden it warns, once: a misspelt one hides nothing.
    """

    def __init__(self, columns: Mapping[str, Mapping[str, How]], key: bytes, where: str) -> None:
        self._columns, self._key, self._where = columns, key, where
        self._known: dict[Table, Mapping[str, How]] = {}
        self._seen: set[Table] = set()

    def mask(self, change: Change) -> Change:
        """The change as the sink may see it: nothing of the record as received, no typed row, where its table has masked columns."""
        table = change.table
        how = self._known.get(table)
        if how is None:
            how = self._known[table] = self._meet(table)
        if not how:
            return change
        image, old = change.image, change.old_image
        if image is not None and table not in self._seen:
            self._first(table, image, how)
        return msgspec.structs.replace(
            change,
            image=None if image is None else self._image(image, how),
            old_image=None if old is None else self._image(old, how),
            raw=b"",
            typed=None,
            assembled=None,
        )

    def _meet(self, table: Table) -> Mapping[str, How]:
        found: dict[str, How] = {}
        for glob, columns in self._columns.items():
            if fnmatch.fnmatchcase(str(table), glob):
                for column, how in columns.items():
                    before = found.get(column, how)
                    found[column] = how if _ORDER.index(how) >= _ORDER.index(before) else before
        if named := sorted(set(found) & set(table.key or ())):
            why = f"{', '.join(named)} of {table} says which row a change is of"
            raise Misconfigured(
                "a column of the key cannot be masked", where=self._where, why=why, run="dsqlcdc config lint CONFIG", code="E150"
            )
        return found

    def _first(self, table: Table, image: msgspec.Raw, how: Mapping[str, How]) -> None:
        self._seen.add(table)
        if missing := sorted(set(how) - set(_decode(image))):
            what = "%s: no column %s in the first row of %s: nothing of it is masked or excluded there. Is it spelt so? Run: dsqlcdc tail CONFIG"
            log.warning(what, self._where, ", ".join(missing), table)

    def _image(self, image: msgspec.Raw, how: Mapping[str, How]) -> msgspec.Raw:
        row = _decode(image)
        for column, way in how.items():
            if column not in row:
                continue
            if way == "drop":
                del row[column]
            elif way == "fixed":
                row[column] = _FIXED
            elif (value := bytes(row[column])) != b"null":
                row[column] = self._hash(value)
        return msgspec.Raw(_encode(row))

    def _hash(self, value: bytes) -> msgspec.Raw:
        if value[:1] == b'"':
            value = _encode(_text(value))  # one text, however it was escaped
        return msgspec.Raw(b'"%s"' % hmac.new(self._key, value, hashlib.sha256).hexdigest().encode())


class Masked(Around):
    """A sink that sees masked changes. Whoever gives them keeps the whole ones: a dead letter has the record's exact bytes."""

    def __init__(self, sink: Sink, masks: Masks) -> None:
        super().__init__(sink)
        self._masks = masks

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        return await self.inner.write([self._masks.mask(change) for change in changes])

    async def replay(self, changes: Sequence[Change]) -> Sequence[Setback]:
        return await self.inner.replay([self._masks.mask(change) for change in changes])
