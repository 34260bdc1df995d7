"""`audit compact` as a user types it, against the embedded AWS."""

from __future__ import annotations

import gzip
from pathlib import Path

import botocore.session
import pytest

from dsqlcdc.cli.app import invoke
from dsqlcdc.testing.local import LocalAws

CONFIG = """\
pipeline: orders-cdc
aws: {{region: us-east-1, endpoint_url: "{endpoint}"}}
source: {{stream: orders-cdc}}
tables: {{"public.orders": {{key: [order_id, item_id]}}}}
sinks: {{lake: {{type: s3, bucket: lake, prefix: cdc/, roll: {{records: 10, age: 1s}}}}}}
"""


@pytest.mark.timeout(240)
def test_small_objects_become_one_once_the_stream_has_forgotten_them(
    local_aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in local_aws.environ.items():
        monkeypatch.setenv(name, value)
    local_aws.pipe("orders-cdc", shards=2)
    local_aws.commit(transactions=40, tables=["public.orders"])
    s3 = botocore.session.get_session().create_client("s3")
    s3.create_bucket(Bucket="lake")
    config = tmp_path / "lake.yaml"
    config.write_text(CONFIG.format(endpoint=local_aws.endpoint), encoding="utf-8")

    def run(*words: str) -> tuple[int, str, str]:
        code = invoke([*words, str(config)])
        out, err = capsys.readouterr()
        return code, out, err

    def rows() -> tuple[int, list[bytes]]:
        keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket="lake", Prefix="cdc/data/")["Contents"]]
        lines = [line for key in keys for line in gzip.decompress(s3.get_object(Bucket="lake", Key=key)["Body"].read()).splitlines()]
        return len(keys), sorted(lines)

    assert run("run", "--once")[0] == 0
    objects, lines = rows()
    assert objects > 3
    code, out, err = run("audit", "compact", "--older-than", "1h", "--yes")
    assert (code, out, err.splitlines()[-1]) == (0, "", "Nothing to put together.")
    local_aws.advance(9 * 86_400)
    code, out, _ = run("audit", "compact", "--older-than", "1h", "--dry-run")
    assert code == 0
    assert " would become one of " in out
    assert rows() == (objects, lines)
    assert run("audit", "compact", "--older-than", "1h", "--yes", "--json")[0] == 0
    left, after = rows()
    assert (left < objects, after) == (True, lines)
    assert run("audit", "compact", "--size", "1GiB")[0] == 2
    assert run("audit", "transactions", "--json")[1].count("\n") == 40
