"""The tables of the config against those that were seen in a sample of the stream and in the dead letters. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import msgspec

from dsqlcdc.contract import Change, Op
from dsqlcdc.core.ports import Part
from dsqlcdc.core.records import Record
from dsqlcdc.core.tables import Bad, Tables
from dsqlcdc.doctor.finding import Finding, found

ENOUGH = 100
"""Changes in a sample from which on a table that is not among them is worth a word."""


class Met(msgspec.Struct):
    """What was seen of a table. `keyless`: changes whose key is not known. `columns`: of its deletes, which hold the primary key."""

    key: Sequence[str] | None
    changes: int = 0
    keyless: int = 0
    columns: tuple[str, ...] = ()


class Sample(msgspec.Struct):
    """A short piece of the stream. `bad`: by reason, how many and the first one's words."""

    tables: dict[str, Met] = {}
    bad: dict[str, tuple[int, str]] = {}
    records: int = 0


class Wants(msgspec.Struct, frozen=True, kw_only=True):
    """What a sink takes. `needs_key`: a change without a key is dead to it, or cannot be ordered."""

    sink: str
    tables: Sequence[str] = ()
    needs_key: bool = False

    def takes(self, table: str) -> bool:
        return not self.tables or any(fnmatchcase(table, pattern) for pattern in self.tables)


def sample_of(records: Iterable[tuple[str, Record]], tables: Tables) -> Sample:
    """Read (shard, record) as a pipeline would. A part of an oversized row says nothing of its table."""
    sample = Sample()
    for shard, record in records:
        sample.records += 1
        read = tables.read(shard, record)
        if isinstance(read, Bad):
            count, first = sample.bad.get(read.code, (0, f"{read.detail} (shard {shard}, record {record.sequence_number})"))
            sample.bad[read.code] = count + 1, first
        elif not isinstance(read, Part):
            _meet(sample, read)
    return sample


def _meet(sample: Sample, change: Change) -> None:
    met = sample.tables.setdefault(str(change.table), Met(change.table.key))
    met.changes += 1
    if change.key_image is None:
        met.keyless += 1
    if change.op is Op.DELETE and change.old_image is not None and not met.columns:
        met.columns = tuple(change.before or ())


def check_tables(sample: Sample, patterns: Mapping[str, Sequence[str] | None], sinks: Sequence[Wants]) -> Iterator[Finding]:
    """`patterns`: of the config's `tables`, with their keys (None: none, on purpose); the first match counts."""
    for table, met in sorted(sample.tables.items()):
        yield from _table(table, met, patterns, [sink.sink for sink in sinks if sink.needs_key and sink.takes(table)])
    for code, (count, first) in sorted(sample.bad.items()):
        why = f"{count} of {sample.records} records of a sample are {code}, the first: {first}"
        remedy = "Mend the row model" if code == "bad_row" else "Look for who else writes to the Kinesis stream"
        yield found("E433", "records cannot be read", why=why, remedy=f"{remedy}. Run: dsqlcdc tail CONFIG -o raw -n 20")
    if sum(met.changes for met in sample.tables.values()) < ENOUGH:
        return
    unmet = [("tables", pattern) for pattern in patterns]
    unmet += [(f"sinks.{sink.sink}.tables", pattern) for sink in sinks for pattern in sink.tables]
    for place, pattern in unmet:
        if not any(fnmatchcase(table, pattern) for table in sample.tables):
            why = f"seen were {', '.join(sorted(sample.tables)[:10])}; the sample was short"
            remedy = f"See that {pattern!r} is spelt as schema.table, as PostgreSQL has them"
            yield found("E432", "a pattern matches no table that was seen", where=f"{place}.{pattern}", why=why, remedy=remedy)


def _table(table: str, met: Met, patterns: Mapping[str, Sequence[str] | None], needing: Sequence[str]) -> Iterator[Finding]:
    listed = any(fnmatchcase(table, pattern) for pattern in patterns)
    where, guess = f"table {table}", f"[{', '.join(met.columns)}]" if met.columns else "[…]"
    remedy = f'Write under tables: "{table}": {{key: {guess}}}'
    if met.key is not None:
        if met.keyless:
            why = f"{', '.join(met.key)} is not in {met.keyless} of {met.changes} changes: they are handled as without a key"
            why += f"; its deletes hold {', '.join(met.columns)}" if met.columns else ""
            yield found("E431", "the configured key is not in the records", where=where, why=why, remedy=remedy)
        return
    if needing:
        why = f"sink {', '.join(needing)} cannot take changes without a key"
        yield found("E430", "the table has no key", where=where, why=why, remedy=remedy, severity="error")
    elif not listed:
        why = "its changes are at least once: a copy that DSQL sends later cannot be told from a new change"
        yield found("E430", "the table has no key", where=where, why=why, remedy=f'{remedy}; "{table}": {{}} where it has none')
