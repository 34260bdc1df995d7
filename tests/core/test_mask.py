"""Masks: what a sink sees of the columns it must not see, and what a dead letter keeps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.contract import Change, Misconfigured, Setback, Verdict
from dsqlcdc.core.mask import How, Masked, Masks
from dsqlcdc.core.pipeline import Pipeline, Recipe
from dsqlcdc.core.ports import Name
from dsqlcdc.core.records import Record
from dsqlcdc.core.replay import replayable
from dsqlcdc.core.tables import Rule, Tables
from dsqlcdc.stores.files import FileDeadLetters
from dsqlcdc.stores.fragments import MemoryFragments
from dsqlcdc.stores.memory_checkpoints import MemoryCheckpoints
from dsqlcdc.testing import MemorySource, MemoryStream, RecordingSink
from dsqlcdc.testing.records import full

KEY = b"0123456789abcdef"
TABLES = Tables({"a.b": Rule(key=("id",))})


def change(row: dict[str, Any] | None, *, before: dict[str, Any] | None = None, data: bytes | None = None, table: str = "a.b") -> Change:
    data = data or full("d" if row is None else "u", table, row, 1_800_000_000_000_000_000, before=before)
    read = TABLES.read("shard", Record("1", data, 1.0))
    assert isinstance(read, Change)
    return read


def masks(key: bytes = KEY, **columns: How) -> Masks:
    return Masks({"a.b": columns}, key, "sink x")


def test_each_way_does_what_it_says_and_other_columns_stay_byte_for_byte() -> None:
    seen = masks(gone="drop", star="fixed", mark="hash").mask(
        change({"id": 1, "gone": "s1", "star": "s2", "mark": "s3", "n": 1.50}, before={"id": 1, "gone": "s4", "star": 5})
    )
    assert seen.row is not None
    mark = seen.row.pop("mark")
    assert seen.row | {} == {"id": 1, "star": "***", "mark": mark, "n": 1.5}
    assert seen.before == {"id": 1, "star": "***"}
    assert (len(mark), int(mark, 16) > 0) == (64, True)
    assert (seen.raw, seen.typed, seen.assembled) == (b"", None, None)
    assert not any(secret in msgspec.json.encode(seen) for secret in (b"s1", b"s2", b"s3", b"s4"))


def test_a_column_that_the_first_row_of_a_table_has_not_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    some = masks(emial="drop", email="drop")
    some.mask(change(None, before={"id": 1}))
    assert caplog.messages == []  # a delete has no row to tell by
    for number in range(3):
        some.mask(change({"id": number, "email": "a@b"}))
    (told,) = caplog.messages
    assert "sink x: no column emial in the first row of a.b" in told
    masks(email="drop").mask(change({"id": 1, "email": None}))
    assert caplog.messages == [told]


@given(st.dictionaries(st.sampled_from("abcdef"), st.none() | st.integers() | st.text() | st.lists(st.integers())), st.data())
def test_a_mask_changes_its_columns_and_nothing_else(row: dict[str, Any], data: st.DataObject) -> None:
    how = data.draw(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["drop", "fixed", "hash"])))
    whole = change({"id": 1, **row})
    seen = masks(**how).mask(whole)
    assert seen.row is not None
    assert {c: v for c, v in seen.row.items() if c not in how} == {c: v for c, v in (whole.row or {}).items() if c not in how}
    assert all(c not in seen.row for c, way in how.items() if way == "drop")
    assert (seen.id, seen.key, seen.version, seen.op) == (whole.id, whole.key, whole.version, whole.op)


def test_equal_values_have_equal_hashes_under_one_key_only() -> None:
    def mark(text: bytes, key: bytes = KEY) -> Any:
        data = full("u", "a.b", {"id": 1, "m": 0}, 1_800_000_000_000_000_000).replace(b'"m":0', b'"m":' + text)
        row = masks(key, m="hash").mask(change(None, data=data)).row
        assert row is not None
        return row["m"]

    assert mark(b'"a"') == mark(b'"\\u0061"') != mark(b'"b"')
    assert mark(b'"a"') != mark(b'"a"', b"another key of 16")
    assert mark(b"null") is None


def test_of_two_patterns_the_one_that_shows_less_counts() -> None:
    both = Masks({"a.*": {"x": "drop", "y": "hash"}, "*.b": {"x": "hash", "y": "fixed"}}, KEY, "")
    assert both.mask(change({"id": 1, "x": 1, "y": 2})).row == {"id": 1, "y": "***"}
    other = change({"id": 1, "x": 1}, table="c.c")
    assert both.mask(other) is other


def test_a_column_of_the_key_cannot_be_masked() -> None:
    with pytest.raises(Misconfigured, match=r"id of a\.b"):
        masks(id="hash").mask(change({"id": 1}))


async def test_the_sink_sees_the_mask_and_the_dead_letter_the_record(tmp_path: Path) -> None:
    async def refuse(changes: Sequence[Change]) -> Sequence[Setback]:
        seen.extend(changes)
        return [Setback(1, Verdict.DEAD, "refused", "no")]

    seen: list[Change] = []
    stream, letters = MemoryStream(), FileDeadLetters(tmp_path)
    records = [full("u", "a.b", {"id": n, "secret": f"hush{n}"}, (n + 1) * 10**9) for n in range(2)]
    for record in records:
        stream.put("shardId-000000000000", record)
    inner = RecordingSink(refuse)
    pipeline = Pipeline(
        Recipe(
            name=Name("p", "x", stream.name), source=MemorySource(stream, page=2), sink=Masked(inner, masks(secret="drop")), tables=TABLES,
            checkpoints=MemoryCheckpoints(), dead_letters=letters, fragments=MemoryFragments(("x",)), clock=lambda: stream.now,
            random=random.Random(1).random,
        )
    )  # fmt: skip
    await pipeline.run(asyncio.Event())
    assert [c.row for c in seen] == [{"id": 0}, {"id": 1}]
    (letter,) = [letter async for _, letter in letters.letters()]
    assert records[1] in letter.raw
    assert len(inner.resumed) == 1


class Replaying(RecordingSink):
    def __init__(self) -> None:
        super().__init__()
        self.replayed: list[Change] = []

    async def replay(self, changes: Sequence[Change]) -> Sequence[Setback]:
        self.replayed.extend(changes)
        return ()


async def test_a_replay_is_masked_and_is_a_replay() -> None:
    sink = Replaying()
    await Masked(sink, masks(secret="drop")).replay([change({"id": 1, "secret": "s", "open": 2})])
    assert [one.row for one in sink.replayed] == [{"id": 1, "open": 2}]
    assert sink.written == []


def test_a_mask_makes_no_sink_replayable() -> None:
    class Ordered(RecordingSink):
        needs_order = True

    assert not replayable(Masked(Ordered(), masks(secret="drop")))
    assert replayable(Masked(RecordingSink(), masks(secret="drop")))


async def test_a_probe_reaches_the_sink_behind_the_masks() -> None:
    class Asked(RecordingSink):
        async def probe(self) -> bool:
            return True

    assert await Masked(Asked(), Masks({}, b"", "here")).probe() is True
    assert await Masked(RecordingSink(), Masks({}, b"", "here")).probe() is False
