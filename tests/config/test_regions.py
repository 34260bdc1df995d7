"""Regions: every one that botocore knows is taken, what cannot be one is refused, and what may be newer than the list is a warning."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from botocore.session import Session

from dsqlcdc.config import load, look
from dsqlcdc.config.regions import doubt, regions

BASE = "pipeline: orders\nsource: {stream: orders}\nsinks: {lake: {type: drop}}\n"


def test_every_region_of_every_partition_is_taken() -> None:
    session = Session()
    told = {region for partition in session.get_available_partitions() for region in session.get_available_regions("kinesis", partition)}
    assert told
    assert {region: doubt(region) for region in told} == dict.fromkeys(told)
    assert {"us-east-1", "eusc-de-east-1", "us-gov-west-1", "cn-northwest-1"} <= regions().keys()
    assert "aws-global" not in regions()


@pytest.mark.parametrize(
    ("region", "severity", "fix"),
    [
        ("us-esat-1", "error", "'us-east-1'"),
        ("eu-wst-1", "error", "'eu-west-1'"),
        ("ap-southeats-2", "error", "'ap-southeast-2'"),
        ("uk-east-1", "error", "Did you mean"),
        ("us-east-7", "warning", "Did you mean"),
        ("eu-northeast-1", "warning", "Did you mean"),
    ],
)
def test_what_is_misspelt_is_refused_and_what_may_be_new_is_a_warning(region: str, severity: str, fix: str, tmp_path: Path) -> None:
    path = tmp_path / "dsqlcdc.yaml"
    path.write_text(f"{BASE}aws: {{region: {region}}}\n", encoding="utf-8")
    mistakes, warnings = look(path, {})
    (found,) = [*mistakes, *warnings]
    assert (found.code, found.severity, found.line, found.column) == ("E044", severity, 4, 15)
    assert fix in found.told()
    assert bool(mistakes) == (severity == "error")
    if not mistakes:
        assert load(path, {}).remarks == (found.told(),)


@pytest.mark.parametrize(
    "more",
    [
        "source: {stream: 'arn:aws:kinesis:us-esat-1:123456789012:stream/o'}\n",
        f"source: {{stream: o}}\nstream: {{cluster: {'a' * 26}, kinesis: {{kms_key: 'arn:aws:kms:us-esat-1:123456789012:alias/mine'}}}}\n",
    ],
    ids=["stream", "key"],
)
def test_regions_in_arns_are_looked_at_too(more: str, tmp_path: Path) -> None:
    path = tmp_path / "dsqlcdc.yaml"
    path.write_text(f"pipeline: orders\nsinks: {{lake: {{type: drop}}}}\n{more}", encoding="utf-8")
    assert [(one.code, "us-esat-1" in one.what) for one in look(path, {})[0]] == [("E044", True)]


def test_what_is_not_aws_may_call_its_regions_as_it_likes(tmp_path: Path) -> None:
    path = tmp_path / "dsqlcdc.yaml"
    path.write_text(f"{BASE}aws: {{region: xx-local-1, endpoint_url: 'http://127.0.0.1:4566'}}\n", encoding="utf-8")
    assert look(path, {}) == ([], [])


def test_the_list_is_read_without_loading_botocore() -> None:
    code = "import sys; from dsqlcdc.config.regions import regions; assert regions(); assert 'botocore' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
