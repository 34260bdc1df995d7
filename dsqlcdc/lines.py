"""A change as one line of JSON, as the sinks `s3` and `stdout` write it. The row is spliced in as it was received, never decoded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec

from dsqlcdc.contract import Change, Op

__all__ = ["commit_time", "line", "received", "rewritten"]

_LINE_FEED, _RETURN = b"\n\r"  # as integers: looking for one byte is five times faster so
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WORDS = {op: op.word for op in Op}


class _Line(msgspec.Struct, gc=False, omit_defaults=True):
    id: str
    op: str
    schema: str
    table: str
    cluster: str
    key: msgspec.Raw | None
    row: msgspec.Raw | None
    before: msgspec.Raw | None
    version: int
    committed_at: str
    transaction: str
    shard: str
    sequence: str
    arrived_at: str
    late: bool = False


class _RawLine(_Line, gc=False, omit_defaults=True):
    raw: Any = None


_encode = msgspec.json.encode


def line(change: Change, raw: bool = False) -> bytes:
    """The change as one line of JSON that ends in a line feed.

    `id` is in hex, `op` a word, `version` nanoseconds since the epoch as an integer; `committed_at` is the same moment, RFC 3339 in UTC
    with all nine digits; `arrived_at` has milliseconds, which is what Kinesis knows. `row` and `before` are the images as received, `key`
    the key columns, each null where there is none. `late` is there, and true, where the change came too late for order `commit`. With `raw`
    the record is added exactly as received, as a JSON string; of a reassembled row an object of such strings: `main` (its main record),
    `before` and `after` (the image texts that were cut).

    Raises UnicodeDecodeError, with `raw`, where the record is not UTF-8, and OverflowError where the version lies beyond the year 9999:
    the wire decoder lets neither through.
    """
    seconds, nanos = divmod(change.version, 1_000_000_000)
    arrived, millis = divmod(int(change.arrived * 1000 + 0.5), 1000)
    table = change.table
    fields = (
        change.id.hex(),
        _WORDS[change.op],
        table.schema,
        table.name,
        table.cluster,
        change.key_image,
        change.image,
        change.old_image,
        change.version,
        _second(seconds) + str(nanos + 1_000_000_000)[1:] + "Z",
        change.transaction,
        change.shard,
        change.sequence,
        _second(arrived) + str(millis + 1000)[1:] + "Z",
        change.late,
    )
    text = _encode(_RawLine(*fields, received(change)) if raw else _Line(*fields))
    if _LINE_FEED in text or _RETURN in text:
        # An image may have line ends between its tokens; inside strings they cannot stand unescaped.
        text = text.replace(b"\n", b" ").replace(b"\r", b" ")
    return text + b"\n"


def rewritten(
    *,
    id: str,
    op: str,
    schema: str,
    table: str,
    cluster: str,
    key: str | None,
    row: str | None,
    before: str | None,
    version: int,
    transaction: str,
    shard: str,
    sequence: str,
    arrived_millis: int,
    late: bool,
    raw: str | None,
) -> bytes:
    """The very line that `line` made, from what it holds: `key`, `row`, `before` and `raw` as JSON texts, `arrived_millis` since the epoch."""
    seconds, nanos = divmod(version, 1_000_000_000)
    arrived, millis = divmod(arrived_millis, 1000)
    made = _RawLine(
        id=id,
        op=op,
        schema=schema,
        table=table,
        cluster=cluster,
        key=_image(key),
        row=_image(row),
        before=_image(before),
        version=version,
        committed_at=_second(seconds) + str(nanos + 1_000_000_000)[1:] + "Z",
        transaction=transaction,
        shard=shard,
        sequence=sequence,
        arrived_at=_second(arrived) + str(millis + 1000)[1:] + "Z",
        late=late,
        raw=_image(raw),
    )
    return _encode(made) + b"\n"


def _image(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())


def commit_time(change: Change) -> datetime:
    """When the change was committed, in UTC, cut to whole seconds (for partitions by day and hour)."""
    return _EPOCH + timedelta(seconds=change.version // 1_000_000_000)


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat() + "."


def received(change: Change) -> str | dict[str, str]:
    if not change.assembled:
        return change.raw.decode()
    return {"main": change.raw.decode(), **{name: text.decode() for name, text in change.assembled.items()}}
