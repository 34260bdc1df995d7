"""The templates name what is there: handlers, policies that fit the calls, the alarms people need, a package that runs by itself."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from dsqlcdc.streams.policies import trust_policy, write_policy

from ..docs.reading import ROOT, VALUES, actions, policy
from ..docs.test_policies import operations
from .test_docker import UNREACHABLE

FOLDER = ROOT / "deploy" / "cloudformation"
TEMPLATES = [*sorted(FOLDER.glob("*.yaml")), ROOT / "deploy" / "cloudwatch" / "alarms.yaml"]
FILLED = {
    "AWS::Partition": "aws",
    "AWS::Region": VALUES["REGION"],
    "AWS::AccountId": VALUES["ACCOUNT"],
    "AWS::StackName": "orders",
    "ClusterIdentifier": VALUES["CLUSTER"],
    "StreamName": VALUES["STREAM"],
    "StreamIdentifier": "stream",
    "RetentionHours": "168",
    "HalfRetentionMilliseconds": "302400000",
    "Stream.Arn": f"arn:aws:kinesis:{VALUES['REGION']}:{VALUES['ACCOUNT']}:stream/{VALUES['STREAM']}",
}


class Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short functions, those of known names resolved."""


def _function(loader: Loader, tag: str, node: yaml.Node) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        raise TypeError(f"!{tag} of {node}")
    text = str(loader.construct_scalar(node))
    if tag == "Sub":
        return re.sub(r"\$\{([\w:.]+)\}", lambda found: FILLED.get(found[1], found[0]), text)
    return FILLED.get(text, {tag: text})


Loader.add_multi_constructor("!", _function)


def template(path: Path) -> dict[str, Any]:
    made: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader)
    return made


def resources(name: str) -> dict[str, Any]:
    found: dict[str, Any] = template(FOLDER / f"{name}.yaml")["Resources"]
    return found


def alarms() -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (made["Properties"]["Namespace"], made["Properties"]["MetricName"]): made["Properties"]
        for path in TEMPLATES
        for made in template(path)["Resources"].values()
        if made["Type"] == "AWS::CloudWatch::Alarm"
    }


def role_actions(role: dict[str, Any]) -> set[str]:
    (inline,) = role["Properties"]["Policies"]
    return actions(inline["PolicyDocument"])


def test_the_service_role_is_what_the_stream_manager_makes() -> None:
    made = resources("stream")["Role"]["Properties"]
    assert made["AssumeRolePolicyDocument"] == trust_policy(VALUES["REGION"], VALUES["ACCOUNT"], VALUES["CLUSTER"])
    wanted = write_policy(FILLED["Stream.Arn"])
    (given,) = made["Policies"]
    assert actions(given["PolicyDocument"]) == actions(wanted)
    assert {statement["Resource"] for statement in given["PolicyDocument"]["Statement"]} == {FILLED["Stream.Arn"]}


def test_the_kinesis_stream_takes_the_largest_record_and_outlives_the_stack() -> None:
    made = resources("stream")["Stream"]
    assert made["Properties"]["MaxRecordSizeInKiB"] == 10240
    assert made["Properties"]["StreamModeDetails"] == {"StreamMode": "ON_DEMAND"}
    assert (made["DeletionPolicy"], made["UpdateReplacePolicy"]) == ("Retain", "Retain")


def test_the_custom_resource_gives_what_its_handler_asks_for_and_waits_for_two_invocations() -> None:
    from dsqlcdc.hosts import cfn

    found = resources("stream")
    properties = found["CdcStream"]["Properties"]
    assert set(cfn.REQUIRED) <= properties.keys() <= {*cfn.REQUIRED, *cfn.OPTIONAL, *cfn.OF_CLOUDFORMATION}
    assert properties["ServiceTimeout"] > 2 * found["Function"]["Properties"]["Timeout"] + 60  # the minute that Lambda waits between them
    assert found["Repeats"]["Properties"]["MaximumRetryAttempts"] > 0


def test_the_custom_resources_function_may_do_what_it_calls() -> None:
    called = {name for name in operations("dsqlcdc/streams/cdc.py") | operations("dsqlcdc/streams/observe.py") if name.startswith("dsql:")}
    allowed = role_actions(resources("stream")["FunctionRole"])
    assert "dsql:CreateStream" in called
    assert {name for name in allowed if name.startswith("dsql:")} == called
    assert allowed - called == {"iam:PassRole", "logs:CreateLogStream", "logs:PutLogEvents"}


def test_the_task_may_do_what_the_daemon_calls_and_nothing_more() -> None:
    wanted = actions(policy("consumer.json")) | actions(policy("consumer-state.json"))
    assert role_actions(resources("fargate")["TaskRole"]) == wanted


def test_there_is_one_task_and_the_old_one_ends_first_with_time_to_drain() -> None:
    found = resources("fargate")
    service, (container,) = found["Service"]["Properties"], found["Task"]["Properties"]["ContainerDefinitions"]
    limits = service["DeploymentConfiguration"]
    assert (service["DesiredCount"], limits["MinimumHealthyPercent"], limits["MaximumPercent"]) == (1, 0, 100)
    assert container["StopTimeout"] > 30
    assert (container["User"], container["ReadonlyRootFilesystem"]) == ("10001:10001", True)
    assert "/healthz" in container["HealthCheck"]["Command"][-1]


def test_the_trigger_loses_nothing_in_silence() -> None:
    found = resources("lambda")
    trigger = found["Trigger"]["Properties"]
    assert trigger["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert trigger["BisectBatchOnFunctionError"]
    assert trigger["MaximumRetryAttempts"] == -1
    assert trigger["DestinationConfig"]["OnFailure"]["Destination"] == {"GetAtt": "OnFailure.Arn"}
    assert found["OnFailure"]["Type"] == "AWS::S3::Bucket"  # SQS and SNS get no payload
    assert "TumblingWindowInSeconds" not in trigger


def test_the_alarms_people_need_are_there_and_each_names_its_page() -> None:
    found = alarms()
    limits = {
        ("AWS/AuroraDSQL", "IsImpaired"): 0,
        ("AWS/AuroraDSQL", "BehindSourceLag"): 60_000,
        ("AWS/Kinesis", "WriteProvisionedThroughputExceeded"): 0,
        ("AWS/Lambda", "IteratorAge"): 300_000,
        ("AWS/Lambda", "OnFailureDestinationDeliveredEventCount"): 0,
        ("dsqlcdc", "dsqlcdc_letters"): 0,
        ("dsqlcdc", "dsqlcdc_gaps"): 0,
        ("dsqlcdc", "dsqlcdc_stopped"): 0,
        ("dsqlcdc", "dsqlcdc_digest_failed"): 0,
    }
    assert {metric: found[metric]["Threshold"] for metric in limits} == limits
    assert ("AWS/Kinesis", "GetRecords.IteratorAgeMilliseconds") in found
    for made in found.values():
        page = re.search(r"docs/runbook/[\w-]+\.md$", made["AlarmDescription"])
        assert page is not None, made["AlarmDescription"]
        assert (ROOT / page[0]).exists()
        assert made["AlarmActions"] == [{"Ref": "TopicArn"}]


def test_the_runbooks_index_names_every_alarm() -> None:
    text = (ROOT / "docs" / "runbook" / "README.md").read_text(encoding="utf-8")
    for path in TEMPLATES:
        for name, made in template(path)["Resources"].items():
            if made["Type"] == "AWS::CloudWatch::Alarm":
                page = made["Properties"]["AlarmDescription"].rpartition("/")[2]
                (row,) = [line for line in text.splitlines() if f"({page})" in line]
                assert f"`{path.stem}.{name}`" in row


def test_the_dashboard_is_json_and_shows_what_is_alarmed() -> None:
    body = json.loads(template(ROOT / "deploy" / "cloudwatch" / "alarms.yaml")["Resources"]["Dashboard"]["Properties"]["DashboardBody"])
    shown = {(metric[0], metric[1]) for widget in body["widgets"] for metric in widget["properties"]["metrics"]}
    assert {metric for metric in alarms() if metric[0] in ("AWS/AuroraDSQL",)} <= shown
    assert ("AWS/Kinesis", "GetRecords.IteratorAgeMilliseconds") in shown


def handlers() -> set[str]:
    found = [
        made["Properties"]["Handler"]
        for path in TEMPLATES
        for made in template(path)["Resources"].values()
        if "Lambda::Function" in made["Type"]
    ]
    return set(found)


@pytest.mark.parametrize("name", sorted(handlers()))
def test_every_handler_is_there(name: str) -> None:
    module, _, function = name.rpartition(".")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_package_runs_by_itself_and_fits(tmp_path: Path) -> None:
    """Unpacked, as Lambda does, with a Python that has nothing else."""
    made, config = tmp_path / "dsqlcdc.zip", tmp_path / "orders.yaml"
    place = "{type: s3, bucket: lake}"
    config.write_text(f"pipeline: p\nsource: {{stream: orders}}\nsinks: {{lake: {place}}}\ndead_letters: {place}\nfragments: {place}\n")
    done = subprocess.run(
        [sys.executable, ROOT / "deploy" / "lambda" / "build.py", "--out", made, "--add", config],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and UNREACHABLE.search(done.stderr):
        pytest.skip("NOT RUN: no package index can be reached from here, so the package was not built")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "task"
    with zipfile.ZipFile(made) as opened:
        assert sum(each.file_size for each in opened.infolist()) < 60_000_000
        opened.extractall(folder)
    script = f"""
import sys
sys.path[:0] = [{str(folder)!r}]
import asyncio
import dsqlcdc.hosts.cfn, dsqlcdc.hosts.aws_lambda, dsqlcdc.hosts.lambda_config, botocore.session
config = asyncio.run(dsqlcdc.hosts.lambda_config.load_config({{"DSQLCDC_CONFIG": "orders.yaml", "LAMBDA_TASK_ROOT": {str(folder)!r}}}))
assert list(config.sinks) == ["lake"]
assert callable(dsqlcdc.hosts.cfn.handler) and dsqlcdc.__file__.startswith({str(folder)!r})
services = ("dsql", "kinesis", "s3", "dynamodb", "sts", "iam", "kms", "ssm")
session = botocore.session.get_session()
assert "CreateStream" in session.get_service_model("dsql").operation_names
for service in services:
    session.create_client(service, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
assert not any("site-packages" in (getattr(module, "__file__", "") or "") for module in sys.modules.values())
"""
    said = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert said.returncode == 0, said.stderr
