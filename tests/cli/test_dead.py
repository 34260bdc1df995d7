"""`dead list` and `dead show`."""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.cli.letter import _indented, find_wrong

from .conftest import Project

EVENT = {
    "cluster": "abc",
    "schema": "public",
    "table": "orders",
    "pk": {"id": 7},
    "ts_ns": 1_700_000_000_123_456_789,
    "tx": "a7",
    "op": "insert",
}
BEGAN = time.time()  # one moment for letters and filters: parameters are made long before tests run
GOOD = b'{"op":"c","n":12345678901234567890123,"after":{"id":7,"x":[],"y":{}},"op":"c"}'


def test_without_letters_stdout_is_empty(project: Project) -> None:
    answer = project.run("dead", "list", "CONFIG")
    assert (answer.code, answer.out, answer.err) == (0, "", "No dead letters.\n")
    assert project.run("dead", "list", "CONFIG", "--json").out == ""


def test_a_sink_that_no_letter_is_of_is_told_those_there_are(project: Project) -> None:
    project.letter()
    answer = project.run("dead", "list", "CONFIG", "--sink", "nosuch")
    assert (answer.out, answer.err) == ("", "No dead letter is of the sink 'nosuch'. The sinks that have some: -.\n")


def test_a_letter_is_a_line_with_its_name_and_reason(project: Project) -> None:
    project.letter()
    answer = project.run("dead", "list", "CONFIG")
    assert answer.out.split() == [
        "2023-11-14T22:13:20Z",
        "unreadable",
        "-",
        "-",
        "dt=2023-11-14/shard=shardId-000000000001/4966-unreadable.json.gz",
        "not",
        "valid",
        "JSON:",
        "truncated",
    ]
    assert answer.err == "1 dead letter.\n"


def fill(project: Project) -> None:
    project.letter("1", arrived=BEGAN - 7200)
    project.letter("2", sink="lake", code="refused", event=EVENT, arrived=BEGAN - 60)
    project.letter("3", sink="hook", code="no_key", event={**EVENT, "table": "items"}, arrived=BEGAN - 30)
    project.letter("4", pipeline="other")


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], {"1", "2", "3"}),
        (["--sink", "lake"], {"2"}),
        (["--sink", "-"], {"1"}),
        (["--table", "public.orders"], {"2"}),
        (["--table", "public.*"], {"2", "3"}),
        (["--code", "no_key"], {"3"}),
        (["--since", "1h"], {"2", "3"}),
        (["--since", datetime.fromtimestamp(BEGAN - 45, UTC).isoformat()], {"3"}),
        (["--since", "1h", "--code", "refused", "--table", "*.orders"], {"2"}),
        (["--code", "nothing"], set()),
    ],
)
def test_filters_narrow_what_is_listed(project: Project, filters: list[str], expected: set[str]) -> None:
    fill(project)
    answer = project.run("dead", "list", "CONFIG", "--json", *filters)
    assert answer.code == 0
    assert {line["sequence"] for line in answer.jsons} == expected


def test_a_limit_says_that_there_are_more(project: Project) -> None:
    fill(project)
    answer = project.run("dead", "list", "CONFIG", "-n", "1")
    assert (len(answer.out.splitlines()), answer.err) == (1, "The first 1; there are more.\n")
    assert project.run("dead", "list", "CONFIG", "-n", "3").err == "3 dead letters.\n"


@pytest.mark.parametrize("option", [["-n", "many"], ["-n", "-1"], ["--since", "yesterday"]])
def test_options_that_mean_nothing_are_refused(project: Project, option: list[str]) -> None:
    answer = project.run("dead", "list", "CONFIG", *option)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("DSQLCDC-E090 ")


def test_json_has_the_event_with_an_exact_version(project: Project) -> None:
    project.letter("2", sink="lake", code="refused", event=EVENT, id="00ff")
    (line,) = project.run("dead", "list", "CONFIG", "--json").jsons
    assert line["table"] == "public.orders"
    assert line["event"]["version"] == "1700000000123456789"
    assert line["event"]["key"] == {"id": 7}
    assert (line["id"], line["sink"], line["bytes"]) == ("00ff", "lake", 7)


def test_show_points_at_the_place_that_is_wrong(project: Project) -> None:
    project.letter(raw=b'{"op":"c","after":{"id":tru}}')
    answer = project.run("dead", "show", "4966-unreadable", "CONFIG")
    assert answer.code == 0
    said, record, mark = answer.out.splitlines()[-3:]
    assert said.startswith("wrong at byte 24 of 29: expecting value")
    assert record[mark.index("^")] == "t"
    assert "reason    unreadable: not valid JSON: truncated" in answer.out


def test_show_prints_a_valid_record_as_it_was_written(project: Project) -> None:
    project.letter(raw=GOOD, sink="lake", code="refused", event=EVENT)
    shown = project.run("dead", "show", "refused", "CONFIG").out
    head, _, record = shown.partition("\n\n")
    assert "12345678901234567890123" in record
    assert record.count('"op": "c"') == 2, "a key given twice shows twice"
    assert '"x": [],' in record
    assert "table     public.orders" in head
    assert "change    insert 1700000000123456789 a7" in head
    assert 'key       {"id": 7}' in head


def test_show_dumps_what_is_no_text(project: Project) -> None:
    project.letter(raw=b"\xf3\x89\x9a\xc2" + bytes(range(16)) + bytes(range(128, 176)))
    out = project.run("dead", "show", "4966", "CONFIG").out
    assert "wrong at byte 0 of 68: not UTF-8" in out
    assert "00000000  f3 89 9a c2 00 01" in out


def test_show_does_nothing_to_the_terminal(project: Project) -> None:
    project.letter(raw=b'{"a": "\x1b]0;owned\x07', detail="\x1b[2J")
    assert "\x1b" not in project.run("dead", "show", "4966", "CONFIG").out
    assert "\x1b" not in project.run("dead", "list", "CONFIG").out


def test_show_as_json_has_the_exact_bytes(project: Project) -> None:
    raw = b'{"a": "\xff"}'
    project.letter(raw=raw)
    told = project.run("dead", "show", "4966", "CONFIG", "--json").json
    assert base64.b64decode(told["raw_base64"]) == raw
    assert (told["text"], told["wrong"]) == (None, {"byte": 7, "why": "not UTF-8"})


def test_show_by_the_full_name(project: Project) -> None:
    fill(project)
    for line in project.run("dead", "list", "CONFIG", "--json").jsons:
        assert project.run("dead", "show", line["name"], "CONFIG", "--json").json["sequence"] == line["sequence"]


def test_a_name_that_nobody_has_and_one_that_several_have(project: Project) -> None:
    project.letter("11")
    project.letter("12")
    answer = project.run("dead", "show", "99", "CONFIG")
    assert (answer.code, answer.err) == (
        2,
        "DSQLCDC-E092 no such dead letter, pipeline orders-cdc: 99. Run: dsqlcdc dead list DIR/dsqlcdc.yaml\n",
    )
    answer = project.run("dead", "show", "unreadable", "CONFIG")
    assert answer.code == 2
    assert "2 have it in their names" in answer.err


def test_a_damaged_letter_hides_no_other_and_is_an_error(project: Project) -> None:
    project.letter()
    broken = project.directory / "dead-letters" / "dt=2023-11-14" / "x-broken.json.gz"
    broken.write_bytes(b"not gzip")
    answer = project.run("dead", "list", "CONFIG")
    assert (answer.code, len(answer.out.splitlines())) == (1, 1)
    assert "E207" in answer.err
    assert project.run("dead", "show", "dt=2023-11-14/x-broken.json.gz", "CONFIG").code == 1


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(documents)
def test_indenting_changes_nothing_but_blanks(document: object) -> None:
    text = json.dumps(document)
    assert json.loads("\n".join(_indented(text))) == document
    assert find_wrong(text.encode()) is None


@given(documents, st.data())
def test_what_find_wrong_accepts_is_json_and_the_rest_is_not(document: object, data: st.DataObject) -> None:
    text = json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
    cut = text[: data.draw(st.integers(0, len(text)))] + data.draw(st.sampled_from((b"", b"x", b"\xff", b"}", b'"')))
    try:
        json.loads(cut.decode())
    except ValueError:
        assert find_wrong(cut) is not None
    else:
        assert find_wrong(cut) is None


@pytest.mark.parametrize(
    ("raw", "byte", "why"),
    [
        (b"", 0, "expecting value"),
        (b'{"a":1} x', 8, "extra data"),
        ('{"é":}'.encode(), 6, "expecting value"),
        (b'{"NaN":NaN}', 7, "NaN is no JSON value"),
        (b'["\xc3', 2, "not UTF-8"),
        (b"[" * 200_000, 0, "nested too deeply"),
    ],
)
def test_the_wrong_place_is_a_byte(raw: bytes, byte: int, why: str) -> None:
    wrong = find_wrong(raw)
    assert wrong is not None
    assert (wrong.byte, wrong.why) == (byte, why)


def test_a_number_of_a_million_digits_is_not_wrong() -> None:
    assert find_wrong(b"1" * 1_000_000) is None


def test_a_code_that_no_letter_has_is_told_with_those_there_are(project: Project) -> None:
    assert project.run("dead", "list", "CONFIG", "--code", "nope").err == "No dead letters.\n"
    project.letter("1", code="unreadable")
    project.letter("2", sink="lake", code="refused")
    said = "No dead letter has the code 'nope'. The codes there are: refused, unreadable.\n"
    for words in (["list"], ["replay", "--yes"], ["discard", "--yes", "--reason", "x"]):
        answer = project.run("dead", words[0], "CONFIG", "--code", "nope", *words[1:])
        assert (answer.code, answer.out, answer.err) == (0, "", said)
    assert project.run("dead", "list", "CONFIG", "--sink", "hook").err.endswith("The sinks that have some: -, lake.\n")
