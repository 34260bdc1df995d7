"""The example of an audit log: its walk-through, line by line, and the alert that it raises."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from pathlib import Path
from shutil import copytree

import botocore.session
import pytest
from botocore import xform_name

from dsqlcdc.testing.local import LocalAws

from .reading import ROOT, aws_commands, blocks, model
from .walking import Clone, script_of

EXAMPLE = ROOT / "examples" / "audit"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_walk_through_can_be_followed(local_aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in local_aws.environ.items():
        monkeypatch.setenv(name, value)
    local_aws.pipe("orders-cdc", shards=2)
    local_aws.commit(transactions=40, tables=["public.orders"], duplicates=0.1, disorder=20)
    botocore.session.get_session().create_client("s3").create_bucket(Bucket="audit-lake")
    work = tmp_path / "audit"
    copytree(EXAMPLE, work)
    environ = {**local_aws.environ, "STREAM": "orders-cdc", "BUCKET": "audit-lake", "AWS_REGION": "us-east-1"}
    script = script_of(block.text for block in blocks(EXAMPLE / "README.md", "bash"))
    said = Clone(tmp_path, environ).walk(script, where="audit", timeout=580)

    changes = sorted((change for change in local_aws.changes() if change.table == "orders"), key=lambda change: change.version)
    alerts = [json.loads(line) for line in (work / "alerts.log").read_text().splitlines()[1:]]
    watched = [change for change in changes if change.sent_op != "c"]
    told = dict.fromkeys(alert["id"] for alert in alerts)
    assert len(told) == len(watched) > 0
    transactions = [alert["alert"].split(" in transaction ")[1].split()[0] for alert in alerts]
    assert transactions == [change.transaction for change in sorted(watched, key=lambda change: (change.version, change.transaction))]
    assert changes[0].transaction in said


def test_what_is_for_a_real_account_is_a_command_with_parameters_that_the_api_has() -> None:
    """The function cannot be made here: its commands are held to the API."""
    commands = aws_commands("\n".join(block.text for block in blocks(EXAMPLE / "README.md", "sh")))
    assert [command.operation for command in commands] == ["CreateFunction", "CreateFunctionUrlConfig"]
    for command in commands:
        shape = model(command.service).operation_model(command.operation).input_shape
        members = {xform_name(name, "-") for name in shape.members} | {"zip-file"}  # the CLI's word for Code.ZipFile
        assert {xform_name(name, "-") for name in shape.required_members} - {"code"} <= command.flags.keys() <= members


def test_an_alert_that_is_not_signed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALERT_SECRET", f"whsec_{base64.b64encode(b'k' * 32).decode()}")
    call = (
        "import alert, json, sys; print(alert.handler({'headers': {'Webhook-Id': '1', 'Webhook-Timestamp': sys.argv[1], "
        "'Webhook-Signature': 'v1,AAAA'}, 'body': '{}'}))"
    )
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLE))  # what is in the working directory need not be found by itself
    done = subprocess.run([sys.executable, "-c", call, str(int(time.time()))], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'statusCode': 401}"
