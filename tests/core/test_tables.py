"""From bytes to changes: a bad record is a verdict, never an exception; ids are the same again and differ where the change differs."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsqlcdc.contract import Change, Op
from dsqlcdc.core.ports import Part
from dsqlcdc.core.reassemble import texts
from dsqlcdc.core.records import Record
from dsqlcdc.core.tables import Bad, Rule, Tables, key_hash
from dsqlcdc.testing.records import chunked, full

TABLES = Tables({"app.*": Rule(key=("id",)), "two.*": Rule(key=("a b", "K-1"))})
ROW = {"id": 1, "text": "é"}
GOOD = full("c", "app.t", ROW, 5)
MAIN, *PIECES = chunked("c", "app.t", ROW, 5, size=8)


def read(data: bytes, tables: Tables = TABLES, *, shard: str = "a", sequence: str = "1") -> Change | Part | Bad:
    """One by one and with a page: the page's way, which is the short one for what is common, says the same of everything in this file."""
    item = tables.read(shard, Record(sequence, data, 1.0))
    assert tables.read_all(shard, [Record(sequence, data, 1.0)]) == [item]
    return item


def changed(record: bytes, **fields: Any) -> bytes:
    """The record with other fields; `source__x` is a field of the source; ... leaves one out."""
    body = json.loads(record)
    for name, value in fields.items():
        inner, _, field = name.rpartition("__")
        place = body[inner] if inner else body
        if value is ...:
            del place[field]
        else:
            place[field] = value
    return json.dumps(body).encode()


def cut(**fields: Any) -> bytes:
    """The main record with other fields of its cut."""
    body = json.loads(MAIN)
    body["chunked"]["after"].update(fields)
    return json.dumps(body).encode()


DEEP = b"[" * 100_000 + b"]" * 100_000
UNREADABLE = {
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "a string": b'"x"',
    "a number": b"7",
    "an empty object": b"{}",
    "no JSON": b"INSERT INTO t",
    "truncated": GOOD[:-1],
    "truncated in an escape": GOOD[: GOOD.index(b'"text"') + 9],
    "two records": GOOD + GOOD,
    "invalid UTF-8 in an image": GOOD.replace("é".encode(), b"\xc3"),
    "invalid UTF-8 in a skipped field": GOOD.replace(b'"postgres"', b'"\xff"'),
    "invalid UTF-8 in a key column": full("c", "app.t", {"id": "x~"}, 5).replace(b"~", b"\xfe"),
    "invalid UTF-8 in a name": GOOD.replace(b'"app"', b'"\xe9"'),
    "an overlong encoding": GOOD.replace("é".encode(), b"\xc0\xaf"),
    "a surrogate in UTF-8": GOOD.replace("é".encode(), b"\xed\xa0\x80"),
    "a lone surrogate in an image": GOOD.replace("é".encode(), rb"\ud800"),
    "a lone surrogate in a column's name": GOOD.replace(b'"text"', rb'"\udc00"'),
    "a lone surrogate in the source": GOOD.replace(b'"tx5"', rb'"\ud800"'),
    "a lone surrogate in a skipped field": GOOD.replace(b'"postgres"', rb'"\ud800x"'),
    "a NaN literal": GOOD.replace('"é"'.encode(), b"NaN"),
    "an Infinity literal": GOOD.replace('"é"'.encode(), b"-Infinity"),
    "a control character in a string": GOOD.replace("é".encode(), b"\x01"),
    "deep nesting in an image": GOOD.replace('"é"'.encode(), DEEP),
    "deep nesting in a skipped field": GOOD.replace(b'"postgres"', DEEP),
    "deep nesting all around": DEEP,
    "no source": changed(GOOD, source=...),
    "source null": changed(GOOD, source=None),
    "source a string": changed(GOOD, source="x"),
    "no ts_ns": changed(GOOD, source__ts_ns=...),
    "ts_ns only at the top": changed(GOOD, source__ts_ns=..., ts_ns=5),
    "ts_ns null": changed(GOOD, source__ts_ns=None),
    "ts_ns a float": changed(GOOD, source__ts_ns=5.5),
    "ts_ns a whole float": GOOD.replace(b'"ts_ns":5,', b'"ts_ns":5.0,'),
    "ts_ns an exponent": GOOD.replace(b'"ts_ns":5,', b'"ts_ns":5e18,'),
    "ts_ns a string": changed(GOOD, source__ts_ns="5"),
    "ts_ns a boolean": changed(GOOD, source__ts_ns=True),
    "ts_ns huge": changed(GOOD, source__ts_ns=10**30),
    "ts_ns of 5,000 digits": GOOD.replace(b'"ts_ns":5,', b'"ts_ns":' + b"9" * 5000 + b","),
    "no schema": changed(GOOD, source__schema=...),
    "no table": changed(GOOD, source__table=...),
    "table a number": changed(GOOD, source__table=3),
    "transaction a number": changed(GOOD, source__txId=3),
    "op a number": changed(GOOD, op=3),
    "type a number": changed(GOOD, type=3),
    "an unknown type": changed(GOOD, type="heartbeat"),
    "no image": changed(GOOD, after=None),
    "no image at all": changed(GOOD, after=...),
    "an image that is a list": changed(GOOD, after=[1]),
    "an image that is a string": changed(GOOD, after="x"),
    "an image before that is a list": changed(GOOD, before=[1]),
    "a delete with an image after": changed(GOOD, op="d"),
    "a delete whose image is a list": changed(GOOD, op="d", before=[1], after=None),
    "chunked without cuts": changed(MAIN, chunked=...),
    "chunked with no cut": changed(MAIN, chunked={}),
    "chunked as a list": changed(MAIN, chunked=[]),
    "chunked without a source": changed(MAIN, source=...),
    "chunked and whole": changed(MAIN, after=ROW),
    "no chunk id": cut(chunk_id=""),
    "chunk id null": cut(chunk_id=None),
    "no pieces": cut(total_fragments=0),
    "a million pieces": cut(total_fragments=1_000_000),
    "fewer than no pieces": cut(total_fragments=-1),
    "two and a half pieces": cut(total_fragments=2.5),
    "pieces as a string": cut(total_fragments="3"),
    "a CRC that is no number": cut(crc32c="abc"),
    "a CRC as a number": cut(crc32c=12),
    "a negative CRC": cut(crc32c="-1"),
    "one chunk for both images": changed(MAIN, chunked={name: json.loads(MAIN)["chunked"]["after"] for name in ("before", "after")}),
    "a piece without chunk id": changed(PIECES[0], chunk_id=...),
    "a piece without index": changed(PIECES[0], index=...),
    "a piece of negative index": changed(PIECES[0], index=-1),
    "a piece beyond all rows": changed(PIECES[0], index=1_000_000),
    "a piece of a float's index": changed(PIECES[0], index=1.5),
    "a piece of a huge index": changed(PIECES[0], index=10**40),
    "a piece without data": changed(PIECES[0], data=...),
    "a piece whose data is an object": changed(PIECES[0], data={}),
    "a piece with a lone surrogate": PIECES[0].replace(b'"data":"', rb'"data":"\ud800'),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_bad_record_is_a_verdict_with_a_reason(name: str) -> None:
    bad = read(UNREADABLE[name])
    assert isinstance(bad, Bad)
    assert bad.code in ("unreadable", "bad_envelope")
    assert bad.detail
    assert len(bad.detail) < 500


def test_an_aggregated_record_is_foreign() -> None:
    bad = read(b"\xf3\x89\x9a\xc2" + b"\x0a\x01a" * 20)
    assert isinstance(bad, Bad)
    assert bad.code == "foreign"


GOOD_ONES: dict[str, tuple[bytes, Op]] = {
    "whole": (GOOD, Op.INSERT),
    "an update": (full("u", "app.t", ROW, 5), Op.UPDATE),
    "a snapshot": (full("r", "app.t", ROW, 5), Op.SNAPSHOT),
    "a delete": (full("d", "app.t", None, 5, before={"id": 1}), Op.DELETE),
    "an unknown op": (full("truncate?", "app.t", ROW, 5), Op.UPSERT),
    "no op": (changed(GOOD, op=...), Op.UPSERT),
    "no type": (changed(GOOD, type=...), Op.INSERT),
    "type null": (changed(GOOD, type=None), Op.INSERT),
    "no outer times": (changed(GOOD, ts_ms=..., ts_ns=...), Op.INSERT),
    "odd outer times": (changed(GOOD, ts_ms="soon", ts_ns=-5.5), Op.INSERT),
    "no cluster": (changed(GOOD, source__cluster=...), Op.INSERT),
    "the transaction at the top only": (changed(GOOD, source__txId=..., txId="top"), Op.INSERT),
    "fields nobody knows": (changed(GOOD, extra={"a": [1]}, source__more=None), Op.INSERT),
    "duplicate fields": (GOOD.replace(b'"op":"c"', b'"op":"d","op":"c"'), Op.INSERT),
    "white space": (json.dumps(json.loads(GOOD), indent=3).encode(), Op.INSERT),
    "a NUL in a string": (GOOD.replace("é".encode(), rb"\u0000"), Op.INSERT),
    "a surrogate pair": (GOOD.replace("é".encode(), rb"\ud83d\ude00"), Op.INSERT),
    "a 10 MiB string": (full("c", "app.t", {"id": 1, "text": "é" * (5 << 20)}, 5), Op.INSERT),
    "100,000 columns": (full("c", "app.t", {"id": 1, **{f"c{n}": n for n in range(100_000)}}, 5), Op.INSERT),
    "a commit before 1970": (full("c", "app.t", ROW, -5), Op.INSERT),
    "an empty name": (changed(GOOD, source__table=""), Op.INSERT),
}


@pytest.mark.parametrize("name", GOOD_ONES)
def test_what_is_odd_but_right_is_a_change(name: str) -> None:
    record, op = GOOD_ONES[name]
    change = read(record)
    assert isinstance(change, Change)
    assert change.op is op
    assert change.raw == record
    row = json.loads(record)
    assert change.row == (None if op is Op.DELETE else row["after"])
    assert change.before == row.get("before")
    assert change.size >= len(record)
    if name != "an empty name":
        assert change.key == {"id": 1}


def test_only_the_sources_transaction_counts() -> None:
    change = read(GOOD_ONES["the transaction at the top only"][0])
    assert isinstance(change, Change)
    assert change.transaction == ""


def test_of_duplicate_columns_the_last_counts_in_the_row_and_in_the_key() -> None:
    change = read(GOOD.replace(b'{"id":1,', b'{"id":9,"id":1,'))
    assert isinstance(change, Change)
    assert change.row == ROW
    assert change.key == {"id": 1}


def test_numbers_that_no_float_holds_keep_their_value() -> None:
    from decimal import Decimal

    change = read(GOOD.replace('"é"'.encode(), b"[1e400,123456789012345678901234567890.5," + b"7" * 5000 + b"]"))
    assert isinstance(change, Change)
    row = change.row
    assert row is not None
    assert row["text"][0] == Decimal("1e400")
    assert str(row["text"][2]) == "7" * 5000


@pytest.mark.parametrize("key", ["null", "[1]", "{}", "1e400"])
def test_a_row_whose_key_is_no_key_is_handled_as_without_one(key: str) -> None:
    record = GOOD.replace(b'"id":1', b'"id":' + key.encode())
    one, other = read(record), read(record, sequence="2")
    assert isinstance(one, Change)
    assert isinstance(other, Change)
    assert one.key is None
    assert one.id != other.id


def test_a_deletes_key_comes_from_before() -> None:
    change = read(full("d", "app.t", None, 5, before={"id": 7}))
    assert isinstance(change, Change)
    assert change.key == {"id": 7}
    assert change.row is None
    assert change.before == {"id": 7}


def test_a_delete_without_a_key_is_a_change_without_a_key() -> None:
    change = read(full("d", "app.t", None, 5))
    assert isinstance(change, Change)
    assert change.key is None
    assert change.row is None


def test_key_columns_need_not_be_identifiers_and_come_in_the_configured_order() -> None:
    change = read(full("c", "two.t", {"K-1": "x", "a b": 3, "z": 1}, 5))
    assert isinstance(change, Change)
    assert change.key_image is not None
    assert bytes(change.key_image) == b'{"a b":3,"K-1":"x"}'


def test_the_first_glob_that_matches_counts() -> None:
    tables = Tables({"app.a*": Rule(key=("x",)), "app.*": Rule(key=("id",))})
    one, other = read(full("c", "app.abc", {"x": 1, "id": 2}, 5), tables), read(full("c", "app.b", {"x": 1, "id": 2}, 5), tables)
    assert isinstance(one, Change)
    assert isinstance(other, Change)
    assert (one.key, other.key) == ({"x": 1}, {"id": 2})


def test_a_model_that_refuses_a_row_makes_it_a_dead_letter_and_one_that_takes_it_gives_its_form() -> None:
    def model(image: msgspec.Raw) -> tuple[Any, bytes]:
        row = msgspec.json.decode(image)
        if row["text"] == "bad":
            raise ValueError("text: bad")
        return row["text"], b'{"form":1}'

    tables = Tables({"*": Rule(key=("id",), model=model)})
    good, bad = read(GOOD, tables), read(full("c", "app.t", {"id": 1, "text": "bad"}, 5), tables)
    assert isinstance(good, Change)
    assert (good.typed, good.row, good.key) == ("é", {"form": 1}, {"id": 1})
    assert isinstance(bad, Bad)
    assert bad.code == "bad_row"
    assert bad.event["table"] == "t"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_are_an_exception(data: bytes) -> None:
    assert isinstance(read(data), Change | Part | Bad)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from([GOOD, MAIN, PIECES[0]]), st.data())
def test_no_damage_is_an_exception(record: bytes, data: st.DataObject) -> None:
    damaged = bytearray(record)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(damaged) - 1, 0)))
        piece = data.draw(
            st.binary(max_size=4) | st.sampled_from([b"null", b"{}", b"[]", b'"', b"-1", b"1e999", b"\\u", b"\\ud800", b"9" * 30])
        )
        damaged[at : at + data.draw(st.integers(0, 12))] = piece
    item = read(bytes(damaged))
    assert isinstance(item, Change | Part | Bad)
    if isinstance(item, Change):  # and what was let through can be read by whoever asks
        assert item.row is None or isinstance(item.row, dict)
        assert item.before is None or isinstance(item.before, dict)
        key_hash(item)
        item.raw.decode()


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([GOOD, MAIN, PIECES[0]]), st.data())
def test_no_wrong_type_is_an_exception(record: bytes, data: st.DataObject) -> None:
    body = json.loads(record)
    place = body
    name = data.draw(st.sampled_from(sorted(place)))
    if isinstance(place[name], dict) and place[name] and data.draw(st.booleans()):
        place = place[name]
        name = data.draw(st.sampled_from(sorted(place)))
    place[name] = data.draw(_json)
    try:
        text = json.dumps(body).encode()
    except UnicodeEncodeError:
        return
    assert isinstance(read(text), Change | Part | Bad)


_name = st.text(min_size=0, max_size=4, alphabet='ab".,\\\x00{é0')
_key = st.integers(0, 30) | _name | st.booleans() | st.floats(allow_nan=False, allow_infinity=False, width=16)
_spot = st.tuples(_name, _name, _name, _key, _key, st.integers(0, 40))


def _spotted(spot: tuple[Any, ...], *, sequence: str = "1") -> Change:
    cluster, schema, table, one, two, version = spot
    record = changed(full("c", "x.y", {"k": one, "l": two}, version, cluster=cluster), source__schema=schema, source__table=table)
    change = Tables({"*": Rule(key=("k", "l"))}).read("a", Record(sequence, record, 1.0))
    assert isinstance(change, Change)
    return change


def _differ(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return json.dumps(one) != json.dumps(other)


@settings(max_examples=400, deadline=None)
@given(_spot, _spot)
def test_an_id_names_one_cluster_table_key_and_version(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    assert (_spotted(one).id != _spotted(other, sequence="2").id) == _differ(one, other)
    assert (key_hash(_spotted(one)) != key_hash(_spotted(other))) == _differ(one[:5], other[:5])


def test_ids_that_run_names_together_are_caught_by_the_same_question() -> None:
    """The control: a hash over joined text takes two tables for one."""
    one, other = ("c", "a", "b.c", 1, 1, 5), ("c", "a.b", "c", 1, 1, 5)
    assert ".".join(map(str, one)) == ".".join(map(str, other))
    assert _differ(one, other)
    assert _spotted(one).id != _spotted(other).id


def test_a_redelivery_has_the_same_id_and_the_operation_does_not_count() -> None:
    one, other = read(GOOD), read(changed(GOOD, ts_ms=99, op="u", source__txId="other"), shard="b", sequence="9")
    assert isinstance(one, Change)
    assert isinstance(other, Change)
    assert one.id == other.id


def test_without_a_key_the_position_counts() -> None:
    tables = Tables({})
    ids = [read(GOOD, tables, shard=shard, sequence=sequence) for shard, sequence in (("a", "1"), ("a", "2"), ("b", "1"), ("a", "1"))]
    assert [item.id for item in ids if isinstance(item, Change)] != []
    first, second, third, again = (item.id for item in ids if isinstance(item, Change))
    assert len({first, second, third}) == 3
    assert first == again


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.integers(1, 30), st.sampled_from(["after", "before"]))
def test_an_oversized_row_is_the_same_change_as_a_whole_one(text: str, size: int, name: str) -> None:
    row, before = {"id": 1, "text": text}, {"id": 1, "old": text}
    kept = ("before",) if name == "after" else ("after",)
    main, *pieces = (read(record) for record in chunked("u", "app.t", row, 5, before=before, whole=kept, size=size))
    whole = read(full("u", "app.t", row, 5, before=before))
    assert isinstance(main, Part)
    assert isinstance(whole, Change)
    parts = [main, *(piece for piece in pieces if isinstance(piece, Part))]
    change = TABLES.assembled(main, texts(parts))
    assert isinstance(change, Change)
    assert (change.id, change.key, change.row, change.before, change.version) == (
        whole.id,
        whole.key,
        whole.row,
        whole.before,
        whole.version,
    )
    assert change.assembled is not None
    assert set(change.assembled) == {name}


@pytest.mark.parametrize(
    ("damage", "code"),
    [(lambda text: text + b" ", "checksum"), (lambda text: text[:-1], "checksum"), (lambda text: text[::-1], "checksum")],
)
def test_a_checksum_that_does_not_match_is_a_dead_letter(damage: Any, code: str) -> None:
    main = read(MAIN)
    assert isinstance(main, Part)
    bad = TABLES.assembled(main, {"after": [damage(msgspec.json.encode(ROW))]})
    assert isinstance(bad, Bad)
    assert bad.code == code
    assert bad.event["table"] == "t"


@pytest.mark.parametrize("text", [b"", b"nul", b"[1]", b"{} {}", b'{"id":1,}', DEEP, rb'{"id":"\ud800"}', b"null"])
def test_a_reassembled_image_that_is_no_row_is_a_dead_letter(text: bytes) -> None:
    import google_crc32c

    main = read(cut(crc32c=str(google_crc32c.value(text))))
    assert isinstance(main, Part)
    bad = TABLES.assembled(main, {"after": [text]})
    assert isinstance(bad, Bad)
    assert bad.detail


@pytest.mark.parametrize("size", [10, 3 * 1024 * 1024], ids=["small", "large"])
def test_invalid_utf8_is_told_by_its_place_in_the_record(size: int) -> None:
    data = full("c", "app.t", {"id": 1, "text": "x" * size + "~"}, 5).replace(b"~", b"\xff")
    bad = read(data)
    assert isinstance(bad, Bad)
    assert bad.detail == f"invalid UTF-8 at byte {data.index(0xFF)}"


def test_a_bad_record_is_not_taken_for_a_wrong_key(caplog: pytest.LogCaptureFixture) -> None:
    tables = Tables({"app.*": Rule(key=("id",))})
    assert isinstance(read(changed(GOOD, after=[1]), tables), Bad)
    assert caplog.text == ""
    assert isinstance(read(changed(GOOD, after={"other": 1}), tables), Change)
    assert "the configured key is not in its records" in caplog.text


def test_a_table_that_no_rule_names_is_said_once_and_one_that_has_an_empty_rule_is_not(caplog: pytest.LogCaptureFixture) -> None:
    tables = Tables({"app.known": Rule()})
    for number in range(3):
        tables.read("shard", Record(str(number), full("c", "app.t", {"id": number}, number)))
        tables.read("shard", Record(str(number), full("c", "app.known", {"id": number}, number)))
    assert [record.message.split(":")[0] for record in caplog.records] == ["table app.t"]
