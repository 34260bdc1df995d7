"""The `stream` block: what AWS would refuse is refused at lint, at its place, with the rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dsqlcdc.assemble import desired_of
from dsqlcdc.config import load, look

from .conftest import BASE, Lint

CLUSTER = "abcdefghijklmnopqrstuvwxyz"
KEY = "arn:aws:kms:eu-west-1:123456789012:key/01234567-89ab-cdef-0123-456789abcdef"


def block(text: str) -> str:
    return BASE + f"stream: {{cluster: {CLUSTER}, {text}}}\n"


BAD: list[tuple[str, str, str]] = [
    (BASE + "stream: {}\n", "E011", "'cluster'"),
    (BASE + "stream: {cluster: short}\n", "E013", "26 lower-case"),
    (BASE + f"stream: {{cluster: 'arn:aws:dsql:us-east-1:123456789012:cluster/{CLUSTER}'}}\n", "E013", "not its ARN"),
    (block("kinesis: {name: 'a b'}"), "E013", "128 letters"),
    (block("kinesis: {name: other}"), "E040", "Write name: orders"),
    (block("kinesis: {mode: ondemand}"), "E012", "on_demand"),
    (block("kinesis: {mode: provisioned}"), "E013", "needs shards"),
    (block("kinesis: {shards: 4}"), "E013", "mode: provisioned"),
    (block("kinesis: {mode: provisioned, shards: 0}"), "E013", "1"),
    (block("kinesis: {mode: provisioned, shards: 4, max_shards: 2}"), "E013", "less than shards"),
    (block("kinesis: {retention: 90m}"), "E013", "whole hours"),
    (block("kinesis: {retention: 23h}"), "E013", "24h to 8760h"),
    (block("kinesis: {retention: 8761h}"), "E013", "24h to 8760h"),
    (block("kinesis: {max_record_size: 512KiB}"), "E013", "1MiB to 10MiB"),
    (block("kinesis: {max_record_size: 11MiB}"), "E013", "1MiB to 10MiB"),
    (block("kinesis: {kms_key: 'my key'}"), "E013", "alias/NAME"),
    (block(f"kinesis: {{kms_key: '{KEY}'}}") + "aws: {region: us-east-1}\n", "E042", "eu-west-1"),
    (block("role: {name: 'a/b'}"), "E013", "64 letters"),
    (block("role: {name: 'arn:aws:iam::123456789012:role/r'}"), "E013", "not its ARN"),
    (block(f"role: {{name: {'r' * 65}}}"), "E013", "64 letters"),
    (block("role: {name: rôle}"), "E013", "64 letters"),
    (block("tags: {'dsqlcdc:pipeline': x}"), "E013", "ours"),
    (block("tags: {'aws:x': y}"), "E013", "AWS's"),
    (block("tags: {a: 'b#c'}"), "E013", "256 letters"),
    (block(f"tags: {{{'k' * 129}: v}}"), "E013", "128 letters"),
    (block("tags: {Team: a, team: b}"), "E013", "only in case"),
    (block(f"tags: {{{', '.join(f'k{n}: v' for n in range(41))}}}"), "E013", "40"),
    (block("remedies: {KINESIS_OVERSIZED: apply}"), "E010", "KINESIS_OVERSIZE_RECORD"),
    (block("remedies: {default: maybe}"), "E012", "explain, apply"),
    (block("poll: 100ms"), "E013", "at least 1"),
    (block("kinesis: {retain: 24h}"), "E010", "retention"),
]


@pytest.mark.parametrize(("text", "code", "rule"), BAD, ids=[f"{code} {rule}" for _, code, rule in BAD])
def test_what_aws_would_refuse_is_refused_with_the_rule(findings: Lint, text: str, code: str, rule: str) -> None:
    (found,) = findings(text)
    assert found.code == code
    assert rule in str(found)
    assert "line 4" in found.where or ":4:" in str(found)


def test_what_is_not_said_is_what_a_cdc_stream_needs(write: Callable[[str], Path]) -> None:
    path = write(BASE.replace("orders}", "'arn:aws:kinesis:us-east-1:123456789012:stream/orders'}") + f"stream: {{cluster: {CLUSTER}}}\n")
    desired = desired_of(load(path, {}))
    target = desired.target
    assert (target.name, target.mode, target.max_record_kib, target.retention_hours) == ("orders", "on_demand", 10240, 168)
    assert target.arn == "arn:aws:kinesis:us-east-1:123456789012:stream/orders"
    assert (desired.role, desired.role_named, target.mode_named, desired.policy("INTERNAL_ERROR")) == (
        "orders-dsql",
        False,
        False,
        "explain",
    )
    named = desired_of(load(write(block("role: {name: r}, kinesis: {mode: on_demand}")), {}))
    assert (named.role, named.role_named, named.target.mode_named) == ("r", True, True)


@pytest.mark.parametrize(
    ("remedies", "state", "told"),
    [("default: apply", "memory", True), ("default: explain", "memory", False), ("default: apply", "sqlite", False)],
)
def test_remedies_that_two_processes_could_both_apply_are_a_warning(remedies: str, state: str, told: bool, tmp_path: Path) -> None:
    path = tmp_path / "dsqlcdc.yaml"
    path.write_text(f"{block(f'remedies: {{{remedies}}}')}state: {{type: {state}}}\n", encoding="utf-8")
    mistakes, warnings = look(path, {})
    assert (mistakes, [one.code for one in warnings]) == ([], ["E045"] * told)
    assert len(load(path, {}).remarks) == told
