"""The policies in deploy/iam allow what the code calls, and nothing more."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from dsqlcdc.streams.policies import trust_policy, write_policy
from dsqlcdc_s3.aws_objects import policy as sink_policy
from dsqlcdc_s3.options import ObjectLock, Options
from dsqlcdc_webhook.options import ClaimCheck

from .reading import POLICIES, ROOT, VALUES, action, actions, aws_commands, blocks, operation, policy, statements
from .reading import README as README_FILE

CONSUMER = {"dsqlcdc/sources/kinesis_client.py": "kinesis", "sinks/dsqlcdc_s3/aws_objects.py": "s3"}
STATE = {
    "dsqlcdc/stores/dynamodb_items.py": "dynamodb",
    "dsqlcdc/stores/s3_dead_letters.py": "s3",
    "dsqlcdc/stores/s3_objects.py": "s3",
}
CLAIMS = {"sinks/dsqlcdc_webhook/claim.py": "s3"}
MANAGER = tuple(f"dsqlcdc/streams/{name}.py" for name in ("clients", "observe", "target", "role", "cdc", "lag"))
"""Their calls are recorded in real runs: tests/streams/test_rights.py."""
DOCTOR = ("dsqlcdc/doctor/reading.py", "dsqlcdc/doctor/place.py", "sinks/dsqlcdc_s3/lock.py")
"""What it calls beside what the stream manager and the consumer call."""
INIT = ("dsqlcdc/hosts/inventory.py",)
"""What `init --ask-aws` lists."""
LAKE = ("dsqlcdc/hosts/lake_store.py",)
DIGESTS = {"sinks/dsqlcdc_s3/signing.py": "kms", "dsqlcdc/aws.py": "sts"}
AUDIT = ("sinks/dsqlcdc_s3/audit/lake.py",)
"""What `audit verify` calls; and as every reader of the lake, GetObject and ListBucket."""
COMPACT = ("sinks/dsqlcdc_s3/compact.py", "sinks/dsqlcdc_s3/lock.py")
"""What `audit compact` calls beside what the consumer calls."""
LAMBDA = {
    "dsqlcdc/hosts/lambda_config.py": ("s3", "ssm"),
    "dsqlcdc/hosts/lambda_destination.py": ("s3",),
    "sinks/dsqlcdc_s3/aws_objects.py": ("s3",),
    "dsqlcdc/stores/s3_dead_letters.py": ("s3",),
    "dsqlcdc/stores/s3_objects.py": ("s3",),
}
BY_THE_TRIGGER = {
    "kinesis:DescribeStream",
    "kinesis:DescribeStreamSummary",
    "kinesis:ListShards",
    "kinesis:GetShardIterator",
    "kinesis:GetRecords",
    "kinesis:SubscribeToShard",
    "logs:CreateLogGroup",
    "logs:CreateLogStream",
    "logs:PutLogEvents",
}
"""What Lambda itself does in the function's name."""
SERVICES = ("kinesis", "dsql", "s3", "ssm", "iam", "sts", "kms", "dynamodb", "sqs", "lambda", "cloudwatch", "secretsmanager")
ON_THIS_MACHINE = ("dsqlcdc/local/", "dsqlcdc/testing/", "dsqlcdc/hosts/demo.py")
"""They talk to the embedded AWS only."""
WITHOUT_PERMISSION = {"sts:GetCallerIdentity"}
"""Everybody may ask who they are."""
BESIDE_THE_CALLS = {"iam:CreateServiceLinkedRole": "the first cluster of an account makes one"}


def calls(source: str) -> set[tuple[str, str]]:
    """(receiver, method) of every AWS call in a module: `clients.dsql.get_stream`, `self._client.put_object`, `kinesis.list_shards`."""
    found: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            receiver = ast.unparse(node.value).rpartition(".")[2]
            if receiver in ("_client", "client") or receiver in SERVICES:
                found.add((receiver, node.attr))
    return found


def operations(path: str, service: str = "") -> set[str]:
    """The IAM actions of a module's calls; `service` is whose client `_client` is."""
    found: set[str] = set()
    for receiver, method in calls((ROOT / path).read_text(encoding="utf-8")):
        name = service if receiver in ("_client", "client") else receiver
        if name and (called := operation(name, method)) is not None:
            found.add(action(name, called))
    return found


def _is_operation(receiver: str, method: str) -> bool:
    """Does a call look like one of AWS, by whatever client?"""
    services = (receiver,) if receiver in SERVICES else SERVICES
    return any(operation(service, method) is not None for service in services)


def modules() -> list[str]:
    paths = [path for folder in ("dsqlcdc", "sinks") for path in (ROOT / folder).rglob("*.py")]
    names = [path.relative_to(ROOT).as_posix() for path in paths]
    return [name for name in names if not name.startswith(ON_THIS_MACHINE)]


def test_the_consumer_may_do_what_it_calls_and_nothing_more() -> None:
    called = {name for path, service in CONSUMER.items() for name in operations(path, service)}
    assert "kinesis:GetRecords" in called
    assert actions(policy("consumer.json")) == called


def test_durable_state_may_do_what_it_calls_and_nothing_more() -> None:
    called = {name for path, service in STATE.items() for name in operations(path, service)}
    assert {"dynamodb:PutItem", "s3:ListBucket", "s3:DeleteObject"} <= called
    assert actions(policy("consumer-state.json")) == called


def test_the_claim_check_may_do_what_it_calls_and_read_what_its_urls_lead_to() -> None:
    called = {name for path, service in CLAIMS.items() for name in operations(path, service)}
    assert called == {"s3:PutObject"}
    assert actions(policy("consumer-claims.json")) == called | {"s3:GetObject"}
    prefix = ClaimCheck(bucket=VALUES["BUCKET"]).prefix
    for statement in statements(policy("consumer-claims.json")):
        assert statement["Resource"] == f"arn:aws:s3:::{VALUES['BUCKET']}/{prefix}*"


def test_the_doctor_may_do_what_it_calls_beside_and_nothing_more() -> None:
    called = {name for path in DOCTOR for name in operations(path)}
    assert "sts:GetCallerIdentity" in called
    assert actions(policy("doctor.json")) == called - WITHOUT_PERMISSION


def test_who_reads_the_lake_may_do_what_it_calls_and_nothing_more() -> None:
    called = {name for path in LAKE for name in operations(path, "s3")}
    assert called == {"s3:GetObject", "s3:ListBucket"}
    assert actions(policy("lake-read.json")) == called


def test_compaction_may_do_what_it_calls_beside_and_nothing_more() -> None:
    called = {name for path in COMPACT for name in operations(path, "s3")}
    assert "s3:DeleteObject" in called
    assert actions(policy("lake-compact.json")) == called


def test_init_may_list_what_it_lists_and_nothing_more() -> None:
    called = {name for path in INIT for name in operations(path)}
    assert called == {"kinesis:ListStreams", "dsql:ListClusters"}
    assert actions(policy("init.json")) == called


def test_a_function_may_do_what_it_and_its_trigger_call_and_nothing_more() -> None:
    called = {name for path, services in LAMBDA.items() for service in services for name in operations(path, service)}
    assert {"ssm:GetParameter", "s3:DeleteObject"} <= called
    assert actions(policy("lambda.json")) == called | BY_THE_TRIGGER


def test_the_writer_of_signed_digests_may_sign_and_take_its_role() -> None:
    called = {name for path, service in DIGESTS.items() for name in operations(path, service)}
    assert called == {"kms:GetPublicKey", "kms:Sign", "sts:AssumeRole"}
    assert actions(policy("consumer-digests.json")) == called
    assert actions(policy("digests-role.json")) == {"s3:PutObject", "s3:GetObject", "s3:ListBucket"}
    asked = json.loads(sink_policy(Options(bucket=VALUES["BUCKET"], object_lock=ObjectLock(mode="COMPLIANCE", days=1))))
    assert (
        actions(policy("consumer-lock.json")) == actions(policy("digests-lock.json")) == {"s3:PutObjectRetention"} < set(asked[0]["Action"])
    )


def test_an_auditor_may_read_every_version_and_change_nothing() -> None:
    called = {name for path in AUDIT for name in operations(path, "s3")}
    assert called == {"s3:ListBucketVersions", "s3:GetObject"}
    beside = {"s3:ListBucket", "s3:GetObjectRetention", "kms:GetPublicKey"}
    assert actions(policy("audit.json")) == called | beside


def test_no_other_module_calls_aws() -> None:
    """A new one must be given a policy: it fails here first."""
    known = {*CONSUMER, *STATE, *CLAIMS, *MANAGER, *DOCTOR, *INIT, *LAMBDA, *LAKE, *COMPACT, *DIGESTS, *AUDIT}
    found = {path for path in modules() if any(_is_operation(*call) for call in calls((ROOT / path).read_text(encoding="utf-8")))}
    assert found == known


def test_a_call_that_no_policy_allows_is_found() -> None:
    """The control: what reads the sources sees a call that is not allowed."""
    source = """
async def f(self):
    await self._client.delete_object(Bucket="b", Key="k")
    await clients.dsql.delete_cluster(identifier="c")
"""
    assert calls(source) == {("_client", "delete_object"), ("dsql", "delete_cluster")}


def test_whoever_goes_through_the_readme_may_do_what_it_calls_and_nothing_more() -> None:
    text = "\n".join(block.text for block in blocks(README_FILE, "bash"))
    called = {action(command.service, command.operation) for command in aws_commands(text)}
    allowed = actions(policy("provision.json"))
    assert {"dsql:CreateCluster", "iam:CreatePolicy", "s3:CreateBucket"} <= called
    assert allowed == (called - WITHOUT_PERMISSION) | BESIDE_THE_CALLS.keys()


def test_the_service_role_is_what_provisioning_makes() -> None:
    region, account, cluster = VALUES["REGION"], VALUES["ACCOUNT"], VALUES["CLUSTER"]
    assert policy("dsql-service-role-trust.json") == trust_policy(region, account, cluster)
    stream = f"arn:aws:kinesis:{region}:{account}:stream/{VALUES['STREAM']}"
    assert policy("dsql-service-role.json") == write_policy(stream)
    encrypted = statements(policy("dsql-service-role.json")) + statements(policy("dsql-service-role-kms.json"))
    assert encrypted == write_policy(stream, VALUES["STREAM_KEY_ARN"])["Statement"]


def test_the_lake_statements_are_what_the_sink_asks_for_when_it_is_denied() -> None:
    asked = json.loads(sink_policy(Options(bucket=VALUES["BUCKET"], prefix=VALUES["PREFIX"])))
    ours = [statement for statement in statements(policy("consumer.json")) if "s3:" in json.dumps(statement)]
    assert [{key: value for key, value in statement.items() if key != "Sid"} for statement in ours] == asked


def test_no_policy_gives_a_resource_of_everything_but_where_aws_knows_no_other() -> None:
    wide = {
        (path.name, statement["Sid"])
        for path in POLICIES.glob("*.json")
        for statement in statements(policy(path.name))
        if statement.get("Resource") == "*"
    }
    assert wide == {
        ("doctor.json", "SeeHowOftenReadsAreThrottled"),
        ("init.json", "ListStreamsAndClusters"),
        ("stream-watch.json", "SeeHowFarBehindItIs"),
    }


@pytest.mark.parametrize("path", sorted(POLICIES.glob("*.json")), ids=lambda path: path.name)
def test_every_placeholder_is_known_and_the_readme_uses_every_policy(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{(\w+)\}", text)) <= VALUES.keys()
    assert policy(path.name)["Version"] == "2012-10-17"
    assert path.name in README_FILE.read_text(encoding="utf-8")
