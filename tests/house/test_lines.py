"""A line of JSON holds the change exactly: bytes of the row, nanoseconds of the commit, and one line whatever was received."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.contract import Change, Context, Op, Table
from dsqlcdc.errors import Misconfigured
from dsqlcdc.lines import line
from dsqlcdc.sinks_builtin import Drop, Stdout

ORDERS = Table("abc", "public", "orders", ("id",))


def change(image: bytes | None = b'{"id":1}', version: int = 1_790_000_000_123_456_789, **more: object) -> Change:
    row = None if image is None else msgspec.Raw(image)
    made = Change(
        b"\x01" * 16, Op.INSERT, ORDERS, msgspec.Raw(b'{"id":1}'), version, "tx", row, None, b'{"a":"\xc3\xa9"}', "s-0", "49", 1.5
    )
    return msgspec.structs.replace(made, **more)


def test_the_fields_are_the_published_ones_in_their_order() -> None:
    assert json.loads(line(change())) == {
        "id": "01" * 16,
        "op": "insert",
        "schema": "public",
        "table": "orders",
        "cluster": "abc",
        "key": {"id": 1},
        "row": {"id": 1},
        "before": None,
        "version": 1_790_000_000_123_456_789,
        "committed_at": "2026-09-21T14:13:20.123456789Z",
        "transaction": "tx",
        "shard": "s-0",
        "sequence": "49",
        "arrived_at": "1970-01-01T00:00:01.500Z",
    }


@given(st.integers(-(2**63), 2**63 - 1))
def test_the_commit_time_is_exact_to_the_nanosecond(version: int) -> None:
    text: str = json.loads(line(change(version=version)))["committed_at"]
    seconds = datetime.fromisoformat(text[:19]).replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    assert seconds // timedelta(seconds=1) * 1_000_000_000 + int(text[20:29]) == version


@pytest.mark.parametrize("image", [b'{\n"id":\r\n1}', b'{"id":1.000000000000000000001}', b'{"id":123456789012345678901234567890}'])
def test_a_row_is_spliced_in_as_received_on_one_line(image: bytes) -> None:
    text = line(change(image))
    assert text.count(b"\n") == 1
    assert b'"row":' + image.replace(b"\n", b" ").replace(b"\r", b" ") in text


def test_raw_is_the_record_exactly_as_received() -> None:
    made = change()
    assert json.loads(line(made, True))["raw"].encode() == made.raw
    whole = change(assembled={"after": b'{"id":1}'})
    assert json.loads(line(whole, True))["raw"] == {"main": made.raw.decode(), "after": '{"id":1}'}


async def test_stdout_prints_lines_and_says_when_nobody_reads() -> None:
    out = io.BytesIO()
    await Stdout(out=out).write([change(), change()])
    assert out.getvalue() == line(change()) * 2
    out.close()
    with pytest.raises(Misconfigured, match="closed"):
        await Stdout(out=out).write([change()])


async def test_drop_counts_and_forgets() -> None:
    drop = Drop.from_options({}, Context("p", "s"))
    assert await drop.write([change(), change()]) == ()
    assert (drop.changes, drop.bytes) == (2, 2 * len(change().raw))
    with pytest.raises(ValueError, match="Extra inputs"):
        Drop.from_options({"x": 1}, Context("p", "s"))
