"""Every mistake is found, under its code, at its place, with a fix; and all of them at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dsqlcdc.config import Finding, lint, load
from dsqlcdc.errors import ConfigError

from .conftest import BASE, Lint

TOP = "pipeline: orders\nsource: {stream: orders}\n"
HOOK = TOP + "sinks:\n  x: {type: webhook, url: 'https://a.example/', secrets: [whsec_" + "A" * 32 + "],\n    "
KEYED = "tables: {'*': {key: [id]}}\n"
SEARCH = TOP + KEYED + "sinks: {x: {type: opensearch, url: 'https://h:9200', "
DROP = "sinks: {out: {type: drop}}\n"
S3 = "sinks:\n  a: {type: s3, bucket: lake, prefix: cdc/}\n"

BAD: list[tuple[str, str, list[tuple[str, int, int, str]]]] = [
    ("empty", "", [("E004", 1, 1, "holds no config")]),
    ("only a comment", "# nothing\n", [("E004", 1, 1, "pipeline: NAME")]),
    ("a list", "- a\n", [("E004", 1, 1, "a mapping")]),
    ("no YAML", "pipeline: [a\nsource: {}\n", [("E005", 2, 7, "not YAML")]),
    ("a tab", "pipeline: a\n\tsource: b\n", [("E005", 2, 1, "spaces")]),
    ("an unquoted variable in a flow", "a: {url: ${X}, b: 1}\n", [("E005", 1, 11, "quotes around ${")]),
    ("two documents", BASE + "---\na: 1\n", [("E005", 4, 1, "one document")]),
    ("a tag", BASE + "http: !!python/object:os.system {listen: '127.0.0.1:1'}\n", [("E005", 4, 7, "tag")]),
    ("a key twice", BASE + "pipeline: again\n", [("E006", 4, 1, "first in line 1")]),
    ("unset variable", BASE.replace("stream: orders", "stream: '${STREAM}'"), [("E007", 2, 18, "STREAM is not set")]),
    ("variable not closed", BASE.replace("stream: orders", "stream: '${STREAM'"), [("E008", 2, 18, "closing }")]),
    ("variable without a name", BASE.replace("stream: orders", "stream: '${1x}'"), [("E008", 2, 18, "${NAME}")]),
    (
        "opensearch retention",
        TOP + KEYED + "sinks: {x: {type: opensearch, url: 'https://h', retention: 1h}}\n",
        [("E013", 4, 60, "Write 360h")],
    ),
    ("opensearch url", TOP + KEYED + "sinks: {x: {type: opensearch, url: 'h:9200'}}\n", [("E013", 4, 31, "https://")]),
    ("a short mask key", TOP + "sinks: {x: {type: drop, mask_key: abc}}\n", [("E013", 3, 35, "at least 16 characters")]),
    (
        "claims that outlive their signature",
        HOOK + "claim_check: {bucket: abc, expires: 400h}}\n",
        [("E013", 5, 41, "at most 168h. Write expires: 168h")],
    ),
    ("a short token", BASE + "http: {listen: '127.0.0.1:1', token: hunter2}\n", [("E013", 4, 38, "at least 16 characters")]),
    ("a host with a port", BASE + "http: {listen: '127.0.0.1:1', hosts: ['a.b:80']}\n", [("E013", 4, 39, "without a port")]),
    (
        "a hasty takeover",
        BASE + "state: {type: dynamodb, table: cdc, takeover: 10ms}\nfragments: {type: memory}\n",
        [("E013", 4, 37, "at least 3s. Write takeover: 3s")],
    ),
    ("a webhook without TLS", HOOK.replace("https:", "http:") + "}\n", [("E013", 4, 27, "Write https://")]),
    ("a webhook's user", HOOK.replace("//a.", "//u:hunter2@a.") + "}\n", [("E013", 4, 27, "Write a header")]),
    ("a webhook's fragment", HOOK.replace(".example/", ".example/#x") + "}\n", [("E013", 4, 27, "Write it without #")]),
    ("a hurried grace", SEARCH + "grace: 10s}}\n", [("E013", 4, 61, "Write 4m")]),
    ("two ways to say who asks", SEARCH + "basic: {user: u, password: p4ssw0rd}, sign: {}}}\n", [("E013", 4, 61, "Write one of them")]),
    ("verifying with nothing", SEARCH + "late_upsert: verify}}\n", [("E013", 4, 67, "Write verify:")]),
    ("a hash without its key", TOP + "sinks: {x: {type: drop, mask: {a.b: {c: hash}}}}\n", [("E013", 3, 31, "Write mask_key:")]),
    ("a way to mask", TOP + "sinks: {x: {type: drop, mask: {a.b: {c: rot13}}}}\n", [("E012", 3, 41, "drop")]),
    ("raw beside a mask", TOP + "sinks: {x: {type: stdout, raw: true, exclude: {a.b: [c]}}}\n", [("E038", 3, 32, "what is masked")]),
    ("raw events beside a mask", HOOK + "format: raw, exclude: {a.b: [c]}}\n", [("E038", 5, 13, "what is masked")]),
    ("a batch of raw records", HOOK + "format: raw, batch: {}}\n", [("E013", 5, 25, "cloudevents only")]),
    ("a claim check of raw records", HOOK + "format: raw, claim_check: {bucket: abc}}\n", [("E013", 5, 31, "no place to say")]),
    (
        "claims in a lake",
        HOOK + "claim_check: {bucket: abc, prefix: data/x/}}\n  l: {type: s3, bucket: abc}\n",
        [("E022", 5, 5, "readers")],
    ),
    ("a key masked", TOP + "tables: {a.b: {key: [c]}}\nsinks: {x: {type: drop, exclude: {'a.*': [c]}}}\n", [("E039", 4, 12, "which row")]),
    ("held back for nothing", TOP + "sinks: {x: {type: drop, hold_back: 1m}}\n", [("E048", 3, 25, "order: commit")]),
    ("unknown key", BASE + "sink: {}\n", [("E010", 4, 1, "Did you mean 'sinks'?")]),
    ("unknown key within", BASE.replace("orders}", "orders, latenes: 5m}"), [("E010", 2, 26, "Did you mean 'lateness'?")]),
    ("unknown key in a union", BASE + "state: {type: sqlite, pth: x}\n", [("E010", 4, 23, "Did you mean 'path'?")]),
    ("unknown key of a table", BASE + "tables:\n  a.b: {keys: [id]}\n", [("E010", 5, 9, "Did you mean 'key'?")]),
    ("unknown sink option", TOP + "sinks: {x: {type: stdout, rav: true}}\n", [("E010", 3, 27, "Did you mean 'raw'?")]),
    ("misspelt common sink key", TOP + "sinks: {x: {type: drop, opps: [insert]}}\n", [("E010", 3, 25, "Did you mean 'ops'?")]),
    ("missing keys", "pipeline: a\n", [("E011", 1, 1, "'source'"), ("E011", 1, 1, "'sinks'")]),
    ("missing stream", "pipeline: a\nsource: {}\n" + DROP, [("E011", 2, 1, "'stream'")]),
    ("missing sink type", TOP + "sinks: {x: {}}\n", [("E011", 3, 9, "'type'")]),
    ("misspelt enumeration", BASE.replace("orders}", "orders, on_trimmed: hold}"), [("E012", 2, 38, "halt, continue")]),
    ("misspelt start", BASE.replace("orders}", "orders, start: trim_horizont}"), [("E012", 2, 33, "Did you mean 'trim_horizon'?")]),
    ("misspelt store", BASE + "state: {type: sqlight}\n", [("E012", 4, 15, "Did you mean 'sqlite'?")]),
    ("misspelt op", TOP + "sinks: {x: {type: drop, ops: [insert, updat]}}\n", [("E012", 3, 39, "Did you mean 'update'?")]),
    ("misspelt order", TOP + "sinks: {x: {type: drop, order: lastest}}\n", [("E012", 3, 32, "Did you mean 'latest'?")]),
    ("size without unit", BASE.replace("orders}", "orders, prefetch: 67108864}"), [("E013", 2, 36, "Write for example 64MiB")]),
    ("decimal size", BASE.replace("orders}", "orders, prefetch: 64MB}"), [("E013", 2, 36, "64MiB")]),
    ("time without unit", BASE.replace("orders}", "orders, skew: 300}"), [("E013", 2, 32, "Write for example 30s")]),
    ("days", BASE.replace("orders}", "orders, lateness: 2d}"), [("E013", 2, 36, "48h")]),
    ("too small", BASE.replace("orders}", "orders, prefetch: 1MiB}"), [("E013", 2, 36, "at least 16MiB")]),
    ("time without zone", BASE.replace("orders}", "orders, start: 2026-01-01T00:00:00}"), [("E013", 2, 33, "no zone")]),
    ("no time", BASE.replace("orders}", "orders, start: 2026-13-01}"), [("E013", 2, 33, "not an ISO time")]),
    ("stream name", BASE.replace("orders}", "'a b'}"), [("E013", 2, 18, "name")]),
    ("pipeline name", BASE.replace("pipeline: orders", "pipeline: ../etc"), [("E013", 1, 11, "file name")]),
    ("sink name", TOP + "sinks: {a/b: {type: drop}}\n", [("E013", 3, 9, "file name")]),
    ("pattern without schema", BASE + "tables: {orders: {key: [id]}}\n", [("E013", 4, 10, "schema.table")]),
    ("a string for a list", BASE + "tables: {a.b: {key: id}}\n", [("E013", 4, 21, "[ ]")]),
    ("a column twice", BASE + "tables: {a.b: {key: [id, id]}}\n", [("E013", 4, 21, "twice")]),
    ("no sinks", TOP + "sinks: {}\n", [("E013", 3, 8, "Name at least one, as in lake: {type: s3, bucket: NAME}")]),
    ("no key columns", BASE + "tables: {a.b: {key: []}}\n", [("E013", 4, 21, "leave the key out")]),
    ("no secrets", TOP + "sinks: {h: {type: webhook, url: 'https://x.example', secrets: []}}\n", [("E013", 3, 63, "Name at least one.")]),
    ("one bad item of a list", TOP + "sinks: {x: {type: drop, ops: [inert]}}\n", [("E012", 3, 31, "Did you mean 'insert'?")]),
    ("a column that is a number", BASE + "tables: {a.b: {key: [3]}}\n", [("E013", 4, 22, "a wrong value for 'key'")]),
    ("number for a name", BASE.replace("pipeline: orders", "pipeline: 7"), [("E013", 1, 11, "quotes")]),
    ("listen", BASE + "http: {listen: '8080'}\n", [("E013", 4, 16, "127.0.0.1:8080")]),
    ("endpoint with a user", BASE + "aws: {endpoint_url: 'http://u:hunter2@h'}\n", [("E013", 4, 21, "without a user")]),
    ("sink type", TOP + "sinks: {x: {type: stdot}}\n", [("E014", 3, 19, "Did you mean 'stdout'?")]),
    ("model", BASE + "tables: {a.b: {key: [id], model: 'no_such_module:X'}}\n", [("E018", 4, 34, "no_such_module")]),
    ("latest without keys", TOP + "sinks: {x: {type: drop, order: latest}}\n", [("E020", 3, 32, "no table has one")]),
    ("one lake for two", TOP + S3 + "  b: {type: s3, bucket: lake, prefix: cdc/}\n", [("E022", 5, 3, "'a' writes there too")]),
    (
        "one replica for two",
        TOP
        + KEYED
        + "sinks:\n"
        + "".join(f"  {n}: {{type: opensearch, url: 'https://h:9200{end}'}}\n" for n, end in (("a", ""), ("b", "/"))),
        [("E022", 6, 3, "index_prefix of its own")],
    ),
    (
        "claims at a lake's prefix",
        HOOK + "claim_check: {bucket: lake, prefix: cdc/}}\n" + S3.removeprefix("sinks:\n"),
        [("E022", 5, 5, "claims inside a lake")],
    ),
    (
        "letters among pieces",
        BASE + "fragments: {type: s3, bucket: b, prefix: x/}\ndead_letters: {type: s3, bucket: b, prefix: x/}\n",
        [("E025", 4, 42, "its own prefix")],
    ),
    (
        "a mask that hides nothing",
        TOP + "sinks: {x: {type: drop, tables: [a.orders], mask: {a.order: {c: drop}}}}\n",
        [("E026", 3, 52, "Did you mean 'a.orders'?")],
    ),
    (
        "an exclusion that hides nothing",
        TOP + "sinks: {x: {type: drop, tables: [a.orders], exclude: {'b.*': [c]}}}\n",
        [("E026", 3, 55, "nothing would be hidden")],
    ),
    (
        "files that are not there",
        SEARCH + "tls: {ca: ca.pem}, mappings: {'*': m.json}}}\n",
        [("E043", 4, 64, "'ca.pem'"), ("E043", 4, 89, "'m.json'")],
    ),
    ("skew", BASE.replace("orders}", "orders, lateness: 1m}"), [("E023", 2, 1, "1m or less")]),
    (
        "memory and latest",
        "pipeline: a\nsource: {stream: s, start: latest}\n" + S3 + "state: {type: memory}\n",
        [("E024", 2, 28, "after each restart")],
    ),
    ("one path", BASE + "state: {type: sqlite, path: x}\nfragments: {type: sqlite, path: ./x}\n", [("E025", 5, 33, "one path")]),
    ("shadowed", BASE + "tables:\n  app.*: {key: [id]}\n  app.orders: {key: [oid]}\n", [("E026", 6, 3, "above 'app.*'")]),
    (
        "two Regions",
        BASE.replace("stream: orders", "stream: 'arn:aws:kinesis:eu-west-1:123456789012:stream/o'") + "aws: {region: us-east-1}\n",
        [("E027", 4, 15, "region: eu-west-1")],
    ),
    ("young pieces", BASE + "fragments: {type: memory, max_age: 1m}\n", [("E028", 4, 36, "5m or more")]),
    ("pieces that stay behind", BASE + "state: {type: dynamodb, table: cdc}\n", [("E030", 1, 1, "fragments: {type: s3")]),
    (
        "pieces that stay behind, as written",
        BASE + "state: {type: dynamodb, table: cdc}\nfragments: {type: sqlite}\n",
        [("E030", 5, 19, "fragments: {type: s3")],
    ),
    (
        "letters in a lake",
        TOP + S3 + "dead_letters: {type: s3, bucket: lake, prefix: cdc/data/x/}\n",
        [("E022", 5, 48, "a prefix of their own")],
    ),
    (
        "fragments in a lake",
        TOP + S3 + "fragments: {type: s3, bucket: lake, prefix: cdc/manifests/}\n",
        [("E022", 5, 45, "a prefix of their own")],
    ),
    ("fragments without a bucket", BASE + "fragments: {type: s3}\n", [("E011", 4, 1, "'bucket'")]),
    ("a table's name", BASE + "state: {type: dynamodb, table: 'a b'}\nfragments: {type: memory}\n", [("E013", 4, 25, "table")]),
    ("a table missing", BASE + "state: {type: dynamodb}\nfragments: {type: memory}\n", [("E011", 4, 1, "'table'")]),
    ("letters without a bucket", BASE + "dead_letters: {type: s3}\n", [("E011", 4, 1, "'bucket'")]),
    ("case", TOP + "sinks: {a: {type: drop}, A: {type: drop}}\n", [("E029", 3, 26, "only in case")]),
]


@pytest.mark.parametrize(("text", "expected"), [(text, expected) for _, text, expected in BAD], ids=[name for name, _, _ in BAD])
def test_a_mistake_is_found_with_code_place_and_fix(findings: Lint, text: str, expected: list[tuple[str, int, int, str]]) -> None:
    found = findings(text)
    assert [(f.code, f.line, f.column) for f in found] == [(code, line, column) for code, line, column, _ in expected]
    for finding, (*_, phrase) in zip(found, expected, strict=True):
        assert phrase in str(finding)
        assert str(finding).startswith(f"DSQLCDC-{finding.code} ")
        assert str(finding).endswith(f"Run: dsqlcdc config lint {finding.file}")


def test_all_mistakes_are_found_at_once(findings: Lint, write: Callable[[str], Path]) -> None:
    text = "pipeline: a b\nsource: {stream: '${S}', skew: 5, strat: latest}\nsinks: {x: {type: stdot}, y: {type: opensearch}}\n"
    text += "state: {type: dynamodb}\n"
    codes = [f.code for f in findings(text)]
    assert sorted(codes) == sorted(["E013", "E007", "E013", "E010", "E014", "E011", "E011"])
    with pytest.raises(ConfigError) as raised:
        load(write(text), {})
    assert [f.code for f in raised.value.findings] == codes


def test_one_mistake_is_raised_as_itself(write: Callable[[str], Path]) -> None:
    with pytest.raises(Finding) as raised:
        load(write(BASE + "sink: {}\n"), {})
    assert raised.value.code == "E010"
    assert raised.value.as_json()["line"] == 4


def test_a_file_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    (missing,) = lint(tmp_path / "none.yaml", {})
    (folder,) = lint(tmp_path, {})
    assert (missing.code, folder.code) == ("E002", "E002")


def test_a_file_that_is_not_utf8_names_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"pipeline: a\nsource: {stream: \xfc}\n")
    (finding,) = lint(path, {})
    assert (finding.code, finding.line, finding.column) == ("E003", 2, 18)


def test_aliases_that_multiply_end_in_a_finding(findings: Lint) -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{c}: &{c} [{','.join(['*' + p] * 10)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert "E005" in {f.code for f in findings(bomb)}


def test_masks_that_may_meet_a_sinks_tables_and_places_of_their_own_are_no_findings(findings: Lint, tmp_path: Path) -> None:
    """The control of what is found above."""
    (tmp_path / "ca.pem").touch()
    masked = "tables: [a.orders, 'b.*'], mask: {'a.*': {c: drop}, b.x: {c: drop}, '*.y': {c: drop}}"
    text = TOP + KEYED + "sinks:\n  a: {type: drop, " + masked + "}\n"
    text += "  b: {type: opensearch, url: 'https://h', tls: {ca: ca.pem}}\n  c: {type: opensearch, url: 'https://h', index_prefix: x-}\n"
    text += "  d: {type: opensearch, url: 'https://other'}\n"
    assert [str(finding) for finding in findings(text)] == []


def test_every_code_is_documented() -> None:
    import dsqlcdc.config.findings as module

    used = {code for _, _, expected in BAD for code, *_ in expected} | {"E002", "E003"}
    assert used <= {word for word in (module.__doc__ or "").split() if word.startswith("E0")}
