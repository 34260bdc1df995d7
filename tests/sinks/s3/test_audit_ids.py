"""Every id of a lake stands once: what stands again is an alteration, or DSQL sent it again, or it is being compacted; each is told apart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.contract import Change
from dsqlcdc.core.records import Record
from dsqlcdc.core.tables import Tables
from dsqlcdc_s3.apart import Attempts
from dsqlcdc_s3.audit import spill
from dsqlcdc_s3.audit.findings import Report
from dsqlcdc_s3.audit.ids import Ids, Span

from .auditing import audit, troubles
from .lake import NOON, Bucket, FakeObjects, change, make_sink, resume
from .test_apart import put
from .test_compaction import Killed, compact, lake


class At(msgspec.Struct, frozen=True):
    shard: str
    sequence: str


KINDS = ("", "replay", "apart", "compaction")
PARTS = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(0, 3),
        st.lists(st.tuples(st.integers(0, 12), st.sampled_from("ab"), st.integers(1, 4)), max_size=5),
    ),
    max_size=5,
)


@given(PARTS, st.integers(0, 3))
def test_a_repeat_is_found_wherever_it_stands_and_its_kind_is_that_of_a_plain_look(
    parts: list[tuple[Any, int, list[tuple[int, str, int]]]], lost: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"_BLOCK": 40, "_LOOK": 1}.items():
            patch.setattr(spill, name, value)
        ids = Ids(group=60)
        spans: dict[int, Span] = {}
        rows: list[tuple[int, tuple[str, int], Span]] = []
        for number, (kind, part, held) in enumerate(parts):
            seen = ids.part()
            seen.add([bytes([id % 3]) * 8 + bytes([id]) * 8 for id, _, _ in held], [At(shard, str(at)) for _, shard, at in held])
            if number != lost:  # of an object that was not judged to its end nothing counts
                spans[seen.number] = Span(f"part {part}", f"object {number}", kind)
                rows += [(id, (shard, at), spans[seen.number]) for id, shard, at in held]
        found = list(ids.repeats(spans.get))
        ids.close()
    pairs = [(one, two) for one, two in itertools.combinations(rows, 2) if one[0] == two[0]]
    assert len(found) == len(rows) - len({row[0] for row in rows})
    assert {repeat.id[-2:] for repeat in found if not repeat.legal} == {f"{one[0]:02x}" for one, two in pairs if not _legal(one, two)}


def _legal(one: tuple[int, tuple[str, int], Span], two: tuple[int, tuple[str, int], Span]) -> bool:
    """The rule, in other words."""
    (_, place, here), (_, other, there) = one, two
    if here.part == there.part:
        return here.object != there.object
    if here.beside == there.beside:
        return place != other
    return "apart" in (here.beside, there.beside)


async def chain(*batches: Sequence[Change]) -> Bucket:
    """A chain whose writer was not told that it had written something before."""
    bucket = Bucket()
    async with make_sink(FakeObjects(bucket)) as sink:
        await sink.resume(resume())
        for batch in batches:
            assert await sink.write(batch) == []
    return bucket


async def test_a_record_that_stands_twice_in_the_chain_is_found_with_both_objects() -> None:
    bucket = await chain([change(1), change(2)], [change(3)], [change(2), change(4)])
    assert troubles(await audit(bucket, deep=False)) == []
    first, _, second = [key for key, _ in bucket.data()]
    ((kind, code, where, what),) = troubles(await audit(bucket))
    assert (kind, code, where) == ("altered", "repeated", second)
    assert first in what
    assert change(2).id.hex() in what


async def test_what_dsql_sent_again_is_counted() -> None:
    report = await audit(await chain([change(1), change(2)], [change(2, shard="s2", sequence=77)]))
    assert (troubles(report), report.sent_again, report.copies, report.exit_code) == ([], 1, 0, 0)
    assert [one.code for one in report.findings if one.kind == "note"] == ["repeated", "unsealed"]


async def test_in_lambda_copies_are_counted_and_a_record_that_goes_in_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket()
    await put(bucket, [change(n) for n in range(1, 6)])
    await put(bucket, [change(n) for n in range(4, 8)])
    await put(bucket, [change(n, shard="s2", sequence=100 + n) for n in range(1, 3)])
    report = await audit(bucket)
    assert (troubles(report), report.sent_again) == ([], 2)

    async def blind(self: Attempts, shard: str, first: str, last: str) -> list[str]:
        return []

    monkeypatch.setattr(Attempts, "overlapping", blind)
    await put(bucket, [change(n) for n in range(6, 9)])
    assert [one[:2] for one in troubles(await audit(bucket))] == [("altered", "repeated")] * 2


async def test_a_compaction_that_was_stopped_is_counted_and_finished() -> None:
    copies = 0
    for kill in range(0, 40, 2):
        bucket = await lake("jsonl", batches=3)
        with suppress(Killed):
            await compact(bucket, calls=kill)
        report = await audit(bucket)
        assert troubles(report) == []
        copies += report.copies
        await compact(bucket)
        assert (await audit(bucket)).copies == 0
    assert copies > 0


# ── rows without a key ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def received(number: int, *, delete: bool = False) -> Change:
    """A record of a table without a key, as the pipeline reads it."""
    source = f'"source":{{"ts_ns":{NOON * 10**9 + number},"txId":"t","schema":"public","table":"log","cluster":"c1"}}'
    image = f'{{"line": "no {number}", "n": {number}}}'
    text = f'{{"type":"full","op":"{"d" if delete else "c"}","before":null,"after":{"null" if delete else image},{source}}}'
    (made,) = Tables({}).read_all("s1", [Record(sequence_number=str(number), arrived=float(NOON), data=text.encode())])
    assert isinstance(made, Change)
    assert made.key_image is None
    return made


async def test_ids_of_rows_without_a_key_are_made_again_of_what_is_stored() -> None:
    report = await audit(await chain([received(1), received(2), received(3, delete=True), change(9)]))
    assert (troubles(report), report.unmade) == ([], 0)
    assert not _keyless(report)


async def test_where_the_image_is_another_by_now_it_is_said_for_how_many_it_cannot_be_proved() -> None:
    masked = msgspec.structs.replace(received(2), image=msgspec.Raw(b'{"line":"***"}'))
    report = await audit(await chain([received(1), masked, change(9)]))
    assert (troubles(report), report.unmade) == ([], 1)
    assert _keyless(report)


def _keyless(report: Report) -> bool:
    return any("rows without a key" in sentence for sentence in report.unproved)
