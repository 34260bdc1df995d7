"""The example of an audit log: its walk-through, line by line, and the alert that it raises."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from shutil import copytree

import botocore.session
import pytest

from dsqlcdc.testing.local import LocalAws

from .reading import ROOT, blocks

EXAMPLE = ROOT / "examples" / "audit"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_walk_through_can_be_followed(local_aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in local_aws.environ.items():
        monkeypatch.setenv(name, value)
    local_aws.pipe("orders-cdc", shards=2)
    local_aws.commit(transactions=40, tables=["public.orders"], duplicates=0.1, disorder=20)
    botocore.session.get_session().create_client("s3").create_bucket(Bucket="audit-lake")
    work = tmp_path / "audit"
    copytree(EXAMPLE, work)
    script = "\n".join(["set -eu", "trap 'kill $(jobs -p)' EXIT", *(block.text for block in blocks(EXAMPLE / "README.md", "bash"))])
    environ = {**os.environ, "STREAM": "orders-cdc", "BUCKET": "audit-lake", "AWS_REGION": "us-east-1"}
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
    done = subprocess.run(["bash", "-c", script], cwd=work, env=environ, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    changes = sorted((change for change in local_aws.changes() if change.table == "orders"), key=lambda change: change.version)
    alerts = [json.loads(line) for line in (work / "alerts.log").read_text().splitlines()[1:]]
    watched = [change for change in changes if change.sent_op != "c"]
    told = dict.fromkeys(alert["id"] for alert in alerts)
    assert len(told) == len(watched) > 0
    transactions = [alert["alert"].split(" in transaction ")[1].split()[0] for alert in alerts]
    assert transactions == [change.transaction for change in sorted(watched, key=lambda change: (change.version, change.transaction))]
    first = changes[0].transaction
    assert first in done.stdout
    assert "create or replace view" in done.stdout
    assert "whole" in done.stdout.splitlines()[-1] or "whole" in done.stdout[-3000:]


def test_an_alert_that_is_not_signed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALERT_SECRET", f"whsec_{base64.b64encode(b'k' * 32).decode()}")
    call = (
        "import alert, json, sys; print(alert.handler({'headers': {'Webhook-Id': '1', 'Webhook-Timestamp': sys.argv[1], "
        "'Webhook-Signature': 'v1,AAAA'}, 'body': '{}'}))"
    )
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLE))  # what is in the working directory need not be found by itself
    done = subprocess.run([sys.executable, "-c", call, str(int(time.time()))], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'statusCode': 401}"
