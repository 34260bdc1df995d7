"""What a sound config means: defaults, paths, variables, ops, what is shown, and that secrets are not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from dsqlcdc.config import load, schema, show
from dsqlcdc.config.tree import parse
from dsqlcdc.contract import Op

from .conftest import BASE, Lint

FULL = """\
pipeline: orders-cdc
aws: {region: us-east-1, profile: null, endpoint_url: "http://127.0.0.1:4566"}
source:
  stream: "${STREAM:orders-cdc}"
  start: 2026-01-01T02:00:00+02:00
  on_trimmed: continue
  lateness: 1h
  skew: 90s
tables:
  "public.orders": {key: [order_id, item_id]}
  "app.*": {key: [id]}
sinks:
  lake: {type: s3, bucket: my-lake, prefix: cdc/, roll: {bytes: 64MiB, age: 60s, records: 100000}}
  out: {type: stdout, raw: true, tables: ["public.*"], ops: [insert, delete], order: latest, start: latest}
state: {type: sqlite, path: var/state.db}
dead_letters: {type: files, path: /var/dead}
fragments: {type: memory, max_bytes: 1GiB, max_age: 24h}
http: {listen: "[::1]:8080"}
"""


def test_a_full_config_means_what_it_says(write: Callable[[str], Path]) -> None:
    path = write(FULL)
    config = load(path, {})
    assert (config.pipeline, config.source.stream, config.source.start) == ("orders-cdc", "orders-cdc", 1767225600.0)
    assert (config.source.lateness, config.source.skew, config.source.poll, config.source.prefetch) == (3600.0, 90.0, 1.0, 64 << 20)
    assert config.tables["public.orders"].key == ("order_id", "item_id")
    assert config.state.type == "sqlite"
    assert config.state.path == path.parent / "var/state.db"
    assert config.dead_letters.path == Path("/var/dead")
    assert (config.fragments.max_bytes, config.fragments.max_age) == (1 << 30, 86400.0)
    assert config.http is not None
    assert (config.http.host, config.http.port) == ("::1", 8080)
    assert config.sinks["lake"].order == "unique"
    assert config.sinks["out"].options == {"raw": True}
    assert config.sinks["out"].accepts == {Op.INSERT, Op.UPSERT, Op.DELETE}
    assert config.context("out").endpoint_url == "http://127.0.0.1:4566"
    assert config.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_default_paths_are_relative_to_the_file(write: Callable[[str], Path]) -> None:
    path = write(BASE)
    config = load(path, {})
    assert config.state.type == "sqlite"
    assert config.state.path == path.parent / "state.db"
    assert config.dead_letters.path == path.parent / "dead-letters"


def test_variables_are_put_in_once_and_never_again(write: Callable[[str], Path]) -> None:
    config = load(write(BASE.replace("{stream: orders}", "{stream: '${A}${B:x}${C:}'}")), {"A": "a", "B": "b"})
    assert config.source.stream == "ab"
    reported: list[str] = []
    tree = parse("a: '$${A}'\n", lambda *found: reported.append(found[0]), lambda text, _: (text, False))
    assert tree.data == {"a": "$${A}"}
    assert not reported


def test_what_looks_like_a_word_is_a_word(write: Callable[[str], Path]) -> None:
    assert load(write(BASE.replace("pipeline: orders", "pipeline: no")), {}).pipeline == "no"


def test_what_is_shown_is_a_config_again(write: Callable[[str], Path], tmp_path: Path) -> None:
    shown = show(load(write(FULL), {}))
    again = tmp_path / "again.yaml"
    again.write_text(json.dumps(shown))
    assert show(load(again, {})) == shown
    assert shown["source"]["lateness"] == "1h"


@pytest.mark.parametrize("option", ["secret", "secrets", "api_key", "password", "auth_token", "key"])
def test_a_secret_never_shows_in_findings(findings: Lint, option: str) -> None:
    text = f'pipeline: a\nsource: {{stream: s}}\nsinks: {{x: {{type: stdout, {option}: "${{S}}", raw: "${{S}}"}}}}\n'
    found = findings(text, {"S": "hunter2hunter2"})
    assert {f.code for f in found} == {"E010", "E013"}
    assert all("hunter2" not in str(f) + json.dumps(f.as_json()) for f in found)


def test_secrets_are_masked_and_what_is_none_is_shown() -> None:
    from dsqlcdc.config.show import _mask

    options = {
        "url": "https://user:hunter2@example.org/path?token=hunter2",
        "secrets": ["hunter2", "hunter2"],
        "nested": {"api_key": "hunter2", "kms_key": "arn:x"},
        "tls": {"key": "keys/client.pem"},
        "digest": {"key": "alias/lake"},
        "signing": {"key": "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"},
        "other": {"key": "hunter2"},
        "pasted": {"key": "-----BEGIN PRIVATE KEY-----\nMC4CAQ==\n-----END PRIVATE KEY-----\nx.pem"},
        "bucket": "lake",
    }
    masked = {name: _mask(name, value) for name, value in options.items()}
    assert masked == {
        "url": "https://***@example.org/path?***",
        "secrets": ["***", "***"],
        "nested": {"api_key": "***", "kms_key": "arn:x"},
        "tls": {"key": "keys/client.pem"},
        "digest": {"key": "alias/lake"},
        "signing": {"key": "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"},
        "other": {"key": "***"},
        "pasted": {"key": "***"},
        "bucket": "lake",
    }


def test_a_webhook_is_shown_without_its_secrets(write: Callable[[str], Path]) -> None:
    path = write(
        "pipeline: p\nsource: {stream: s}\nsinks:\n  h: {type: webhook, url: 'https://h.example/x?token=hunter2', secrets: ['${S}'],\n"
        "    headers: {Authorization: hunter2}, format: cloudevents, batch: {max_items: 7}, claim_check: {bucket: claims, expires: 2h}}\n"
    )
    secret = "whsec_" + "A" * 32
    shown = show(load(path, {"S": secret}))["sinks"]["h"]
    assert "hunter2" not in str(shown)
    assert secret not in str(shown)
    assert (shown["format"], shown["batch"]["max_items"], shown["claim_check"]["expires"]) == ("cloudevents", 7, "2h")


def test_a_config_in_a_traceback_shows_no_options(write: Callable[[str], Path]) -> None:
    assert "my-lake" not in repr(load(write(FULL), {}))


SCHEMA_BAD = ["sink: {}", "state: {type: sqlight}", "stream: {}", "http: {}", "fragments: {type: memory, max_bytes: 5}"]


def test_the_schema_accepts_what_loads() -> None:
    made = schema()
    jsonschema.Draft202012Validator.check_schema(made)
    for text in (FULL, BASE):
        data = parse(text, lambda *_: None, lambda value, _: (value, False)).data
        jsonschema.Draft202012Validator(made).validate(data)


@pytest.mark.parametrize("extra", SCHEMA_BAD)
def test_the_schema_refuses_what_lint_refuses(findings: Lint, extra: str) -> None:
    text = BASE + extra + "\n"
    data = parse(text, lambda *_: None, lambda value, _: (value, False)).data
    assert findings(text)
    assert not jsonschema.Draft202012Validator(schema()).is_valid(data)


def test_what_is_shown_of_a_sink_has_its_defaults_and_none_of_its_secrets(write: Callable[[str], Path]) -> None:
    text = BASE + (
        "  lake: {type: s3, bucket: lake}\n"
        "  hook: {type: webhook, url: 'https://x.example', secrets: [whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw], headers: {x-key: hunter2}}\n"
    )
    shown = show(load(write(text.replace("sinks: {out: {type: drop}}", "sinks:")), {}))["sinks"]
    assert shown["lake"]["roll"] == {"bytes": "64MiB", "age": "1m", "records": 100_000}
    assert (shown["lake"]["prefix"], shown["lake"]["parallel"], shown["hook"]["timeout"]) == ("", 4, "15s")
    assert (shown["hook"]["secrets"], shown["hook"]["headers"]) == (["***"], "***")
    assert "hunter2" not in str(shown)
    assert "MfKQ9r8" not in str(shown)
