"""A page read column by column says of every record what reading it alone says, whatever stands beside it."""

from __future__ import annotations

from collections import defaultdict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.contract import Change
from dsqlcdc.core import tables as tables_module
from dsqlcdc.core import wire
from dsqlcdc.core.records import Record
from dsqlcdc.core.tables import Rule, Tables
from dsqlcdc.testing.records import chunked, full

ROW = {"id": 1, "text": "é"}


def _model(image: msgspec.Raw) -> tuple[object, bytes]:
    if b"bad" in bytes(image):
        raise ValueError("a bad row")
    return "typed", b'{"typed":true}'


def _tables() -> Tables:
    """All tables have been met, and where their names stand: until then a record is read alone anyway."""
    tables = Tables({"app.*": Rule(key=("id",)), "two.*": Rule(key=("id", "text")), "typed.*": Rule(key=("id",), model=_model)})
    for data in KINDS.values():
        tables.read_all("shard", [Record("0", data, 0.0)])
    return tables


def _last_place(data: bytes, other: bytes) -> bytes:
    """The record, with what names the other's table behind all else."""
    place = other[other.index(b'"schema"') : other.index(b"}", other.index(b'"schema"')) + 1]
    return data[:-1] + b',"more":{' + place + b"}"


KINDS: dict[str, bytes] = {
    "insert": full("c", "app.t", {"id": 1, "text": "LETTER"}, 5).replace(b"LETTER", "é".encode()),
    "update": full("u", "two.t", {"id": 2, "text": "日本"}, 6),
    "delete": full("d", "app.t", None, 7, before={"id": 1}),
    "a delete with a row": full("d", "app.t", {"id": 1}, 7),
    "update with what was before": full("u", "app.t", ROW, 8).replace(b'"before":null', b'"before":{"id":1}'),
    "no key": full("c", "loose.t", ROW, 9),
    "a column of the key missing": full("c", "two.t", {"id": 1}, 10),
    "typed": full("c", "typed.t", {"id": 1, "text": "good"}, 11),
    "not of its type": full("c", "typed.t", {"id": 1, "text": "bad"}, 12),
    "of another cluster": full("c", "app.t", ROW, 12).replace(b'"cluster":"', b'"cluster":"x'),
    "a table's name where another's is looked for": _last_place(full("c", "app.t", ROW, 13), full("c", "two.t", ROW, 13)),
    "two names": full("c", "app.t", ROW, 13).replace(b'"table":"t"', b'"table":"t","table":"u"'),
    "two images": full("c", "app.t", ROW, 13).replace(b'"after":', b'"after":{"id":9},"after":'),
    "two keys": full("c", "app.t", {"id": 2, "text": "x"}, 13).replace(b'"text":"x"', b'"id":3'),
    "spaced out": full("c", "app.t", ROW, 13).replace(b":", b" : "),
    "a new op": full("x", "app.t", ROW, 13),
    "no image": full("c", "app.t", ROW, 14).replace(b'"after":', b'"later":'),
    "cut off": full("c", "app.t", ROW, 15)[:-3],
    "not UTF-8": full("c", "app.t", {"id": 1, "text": "LETTER"}, 16).replace(b"LETTER", b"\xe9"),
    "half a letter at its end": full("c", "app.t", ROW, 17) + b"\xc3",
    "half a letter at its beginning": b"\xa9" + full("c", "app.t", ROW, 18),
    "two at once": full("c", "app.t", ROW, 19) + b"," + full("c", "app.t", ROW, 19),
    "nothing": b"",
    **{f"oversized {n}": part for n, part in enumerate(chunked("c", "app.t", ROW, 20, size=8))},
}


def _same(kinds: list[str]) -> bool:
    one, all_ = _tables(), _tables()
    records = [Record(f"{n}", KINDS[kind], 1.0 + n) for n, kind in enumerate(kinds)]
    alone = [one.read("shard", record) for record in records]
    together = all_.read_all("shard", records)
    return together == alone and [record.parsed for record in records] == alone and all(map(_images_are_right, together, records))


def _images_are_right(item: object, record: Record) -> bool:
    """Against the envelope as it is decoded whole."""
    if not isinstance(item, Change) or item.typed is not None:
        return True
    envelope = wire.decode(record.data)
    before, after = (None if image == wire.NULL else image for image in (envelope.before, envelope.after))
    return (item.image, item.old_image) == (after, before)


@given(st.lists(st.sampled_from(sorted(KINDS)), max_size=40))
def test_a_page_is_read_as_its_records_are(kinds: list[str]) -> None:
    assert _same(kinds)


@pytest.mark.parametrize("odd", sorted(KINDS))
def test_one_odd_record_among_many_changes_nothing_for_the_others(odd: str) -> None:
    many = ["insert", "delete", "update"] * 200
    assert _same([*many[:310], odd, *many[310:]])


def test_records_of_a_known_table_are_not_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever tables take turns: else all of the above would hold, and be slow."""
    tables = _tables()

    def read(shard: str, record: Record) -> Change:
        raise AssertionError(record.data)

    monkeypatch.setattr(tables, "read", read)
    many = ["insert", "update", "delete", "typed"] * 100 + ["insert"] * 600
    assert all(
        isinstance(item, Change) for item in tables.read_all("shard", [Record(f"{n}", KINDS[kind], 1.0) for n, kind in enumerate(many)])
    )


def test_no_more_places_are_learnt_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables_module, "_PLACES", 3)
    tables = Tables({"app.*": Rule(key=("id",))})
    records = [Record(f"{n}", full("c", f"app.t{n}", ROW, n), 1.0) for n in range(600)]
    found = [str(item.table) for item in tables.read_all("shard", records * 2) if isinstance(item, Change)]
    assert found == [f"app.t{n}" for n in range(600)] * 2
    assert len(tables._placed) == 3  # pyright: ignore[reportPrivateUsage]


def test_an_image_that_was_put_in_stands_before_the_record() -> None:
    """What masks change must not come back from the record."""
    (item,) = _tables().read_all("shard", [Record("1", KINDS["insert"], 1.0)])
    assert isinstance(item, Change)
    assert item.row == ROW
    assert msgspec.structs.replace(item, image=msgspec.Raw(b'{"id":0}'), raw=b"").row == {"id": 0}
    assert msgspec.structs.replace(item, image=None, raw=b"").row is None


def test_control_a_record_that_is_not_held_to_the_table_it_is_taken_for_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    anything: dict[str, type] = defaultdict(lambda: str)
    monkeypatch.setattr(wire, "_only", anything)
    assert not _same(["insert", "update", "insert"])


def test_what_another_pipeline_has_read_is_not_read_again() -> None:
    tables = _tables()
    records = [Record(f"{n}", KINDS["insert"], 1.0) for n in range(300)]
    first = tables.read_all("shard", records)
    assert all(again is item for again, item in zip(tables.read_all("shard", records), first, strict=True))


def test_control_invalid_text_that_nobody_checks_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The property above sees it when the check of a whole stretch is left out."""
    assert _same(["insert", "not UTF-8"])
    monkeypatch.setattr(wire, "check_all_utf8", lambda texts: None)
    assert not _same(["insert", "not UTF-8"])


def test_control_a_delete_read_as_an_insert_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables_module, "_DELETE", None)
    tables = _tables()
    (item,) = tables.read_all("shard", [Record("1", KINDS["delete"], 1.0)])
    assert not isinstance(item, Change)
