"""The log: a line a record, in the form asked for, without secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Literal

import pytest

from dsqlcdc.config.findings import Finding
from dsqlcdc.config.tree import Place
from dsqlcdc.errors import Misconfigured
from dsqlcdc.hosts.logs import setup


@pytest.fixture(autouse=True)
def _untouched() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("dsqlcdc")
    before = root.level, ours.level, list(root.handlers)
    yield
    root.setLevel(before[0])
    ours.setLevel(before[1])
    root.handlers[:] = before[2]


def test_text_is_one_line_a_record_whatever_is_in_it() -> None:
    out = io.StringIO()
    setup(stream=out)
    logging.getLogger("dsqlcdc.pipeline").info("%s said %s", "a", "x\ny\x1b[31m")
    (line,) = out.getvalue().splitlines()
    assert line.endswith(" info    pipeline: a said x\\ny\\x1b[31m")
    assert line[10] == "T"
    assert line.split()[0].endswith("Z")


def test_json_holds_the_message_the_extra_fields_and_the_fault() -> None:
    out = io.StringIO()
    setup("json", stream=out)
    fault = Misconfigured("no such bucket", where="sink lake", why="NoSuchBucket", run="create it", code="E101")
    logging.getLogger("dsqlcdc.daemon").error("%s", fault, extra={"sink": "lake", "count": 3, "shards": ["a"]})
    body = json.loads(out.getvalue())
    assert body.pop("time").endswith("Z")
    assert body == {
        "level": "error",
        "logger": "dsqlcdc.daemon",
        "message": str(fault),
        "sink": "lake",
        "count": 3,
        "shards": ["a"],
        "error": {"code": "DSQLCDC-E101", "what": "no such bucket", "where": "sink lake", "why": "NoSuchBucket", "run": "create it"},
    }


@pytest.mark.parametrize("form", ["text", "json"])
def test_remedies_name_the_config_file_where_it_is_known(form: Literal["text", "json"]) -> None:
    out = io.StringIO()
    setup(form, stream=out, config="conf/orders.yaml")
    logging.getLogger("dsqlcdc.daemon").error("%s", Misconfigured("x", why="see CONFIGURED", run="dsqlcdc status CONFIG"))
    said = out.getvalue()
    assert "dsqlcdc status conf/orders.yaml" in said
    assert ("see CONFIGURED" in said, "CONFIG " in said, '"dsqlcdc status CONFIG"' in said) == (True, False, False)


def test_json_takes_a_fault_with_numbers_in_it() -> None:
    out = io.StringIO()
    setup("json", stream=out)
    finding = Finding("E010", "unknown key", file="c.yaml", place=Place(3, 7))
    try:
        raise finding
    except Finding:
        logging.getLogger("dsqlcdc").exception("%s", finding)
    assert json.loads(out.getvalue())["error"]["line"] == 3


def test_json_takes_what_json_cannot_hold() -> None:
    out = io.StringIO()
    handler = setup("json", stream=out)
    # straight to our handler: what pytest captures is sent between processes as UTF-8, which cannot hold it either
    handler.handle(
        logging.makeLogRecord(
            {"name": "dsqlcdc", "levelno": 20, "levelname": "INFO", "msg": "\ud800", "big": 2**80, "odd": {1: object, "x": {2}}}
        )
    )
    assert json.loads(out.getvalue())["big"] == str(2**80)


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "text",
    [
        "posting with s3cr3t-token-value",
        "https://user:hunter22222@host/path",
        "GET /?X-Amz-Signature=abcdef0123&x=1",
        "key AKIAABCDEFGHIJKLMNOP",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        'headers {"Authorization": "AWS4-HMAC-abcdef0123"}',
    ],
)
def test_a_secret_never_shows(form: str, text: str) -> None:
    out = io.StringIO()
    setup("json" if form == "json" else "text", stream=out, secrets=["s3cr3t-token-value"])
    log = logging.getLogger("dsqlcdc")
    try:
        raise RuntimeError(text)
    except RuntimeError:
        log.exception("%s", text, extra={"field": text, "nested": {"a": [text]}})
    written = out.getvalue()
    assert "***" in written
    for secret in ("s3cr3t", "hunter", "abcdef0123", "AKIA", "whsec_"):
        assert secret not in written


def test_the_default_level_has_no_debug_lines_and_other_libraries_only_warn() -> None:
    out = io.StringIO()
    setup(stream=out)
    logging.getLogger("dsqlcdc.x").debug("no")
    logging.getLogger("botocore.credentials").info("no")
    logging.getLogger("somebody").info("no")
    logging.getLogger("botocore").warning("yes")
    assert out.getvalue().count("\n") == 1
    assert "yes" in out.getvalue()


def test_set_up_twice_it_speaks_once() -> None:
    first, second = io.StringIO(), io.StringIO()
    setup(stream=first)
    setup(stream=second)
    logging.getLogger("dsqlcdc").info("once")
    assert (first.getvalue(), second.getvalue().count("once")) == ("", 1)


def test_stderr_is_looked_up_when_a_line_is_written(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    setup()
    later = io.StringIO()
    monkeypatch.setattr("sys.stderr", later)
    logging.getLogger("dsqlcdc").info("here")
    assert "here" in later.getvalue()
    assert capsys.readouterr().err == ""


def test_a_level_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="no such log level, 'loud'"):
        setup(level="loud")
