"""The doctor against the embedded AWS: each finding reached by its real cause."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from dsqlcdc.doctor.place import check_place
from dsqlcdc.streams.observed import CODES

from .conftest import ROLE, STREAM, Shop


def test_a_healthy_setup_is_ok(shop: Shop) -> None:
    shop.aws.commit(cluster=shop.cluster, transactions=20)
    code, told, _ = shop.doctor()
    assert (code, told) == (0, {"ok": True, "findings": []})


def test_looking_leaves_nothing_behind(shop: Shop) -> None:
    shop.aws.commit(cluster=shop.cluster, transactions=5)
    shop.doctor()
    assert [path.name for path in shop.directory.iterdir()] == ["dsqlcdc.yaml"]
    assert "Contents" not in shop.ask("s3", lambda s3: s3.list_objects_v2(Bucket="lake"))


def test_without_a_stream_block_the_consumers_side_is_checked_and_that_is_said(shop: Shop) -> None:
    shop.write(stream=None)
    code, told, _ = shop.doctor()
    assert (code, [one["code"] for one in told["findings"]]) == (0, ["DSQLCDC-E181"])


def test_findings_have_every_member_and_errors_come_first(shop: Shop) -> None:
    shop.ask("iam", lambda iam: iam.delete_role_policy(RoleName=ROLE, PolicyName=f"dsqlcdc-write-{STREAM}"))
    shop.write(tables="{}", sinks="{lake: {type: s3, bucket: nowhere, prefix: cdc/}}", more="state: {type: memory}")
    shop.aws.commit(cluster=shop.cluster, transactions=20)
    code, told, _ = shop.doctor()
    assert (code, told["ok"]) == (1, False)
    for one in told["findings"]:
        assert list(one) == ["code", "severity", "what", "where", "why", "remedy", "fixable"]
        assert one["what"], one["remedy"]
        assert "CONFIG" not in one["remedy"]
    severities = [one["severity"] for one in told["findings"]]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)
    assert {"KINESIS_ACCESS_DENIED", "DSQLCDC-E103", "DSQLCDC-E188"} <= {one["code"] for one in told["findings"]}


# ── statusReasons ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


REASONS = sorted({*CODES} - {"KINESIS_STREAM_NOT_FOUND"})


def test_an_impaired_stream_is_an_error_under_the_code_of_its_reason(shop: Shop) -> None:
    stream = shop.stream_id()
    for reason in REASONS:
        shop.aws.cdc(shop.cluster, stream, impair=reason)
        found = shop.findings("error")
        assert found.keys() == {reason}
        assert "IMPAIRED" in found[reason]["what"]
        assert found[reason]["why"].startswith(reason)
        assert found[reason]["remedy"]


def test_a_stream_whose_target_is_gone_is_failed_and_not_for_fix(shop: Shop) -> None:
    shop.ask("kinesis", lambda kinesis: kinesis.delete_stream(StreamName=STREAM))
    shop.aws.commit(cluster=shop.cluster, transactions=1)
    found = shop.findings("error")
    assert "FAILED" in found["KINESIS_STREAM_NOT_FOUND"]["what"]
    assert "--replace" in found["KINESIS_STREAM_NOT_FOUND"]["remedy"]
    assert found["KINESIS_STREAM_NOT_FOUND"]["fixable"] is False
    assert found.keys() == {"KINESIS_STREAM_NOT_FOUND"}, "one cause, one finding"
    assert "DSQLCDC-E406" in found["KINESIS_STREAM_NOT_FOUND"]["why"]


def test_a_kinesis_stream_that_is_gone_is_told_once_also_before_aws_has_noticed(shop: Shop) -> None:
    shop.aws.rules(retry=3600.0)
    shop.aws.cdc(shop.cluster, shop.stream_id(), impair="INTERNAL_ERROR")
    shop.ask("kinesis", lambda kinesis: kinesis.delete_stream(StreamName=STREAM))
    assert shop.findings("error").keys() == {"E406", "INTERNAL_ERROR"}


def test_a_stream_that_is_being_made_is_an_error_without_a_reason(shop: Shop) -> None:
    stream = shop.stream_id()
    shop.aws.rules(delay=0.0)
    shop.ask("dsql", lambda dsql: dsql.delete_stream(clusterIdentifier=shop.cluster, streamIdentifier=stream))
    assert "E402" in shop.findings("error")
    shop.aws.rules(delay=1000.0)
    given = {
        "targetDefinition": {
            "kinesis": {
                "streamArn": f"arn:aws:kinesis:us-east-1:123456789012:stream/{STREAM}",
                "roleArn": f"arn:aws:iam::123456789012:role/{ROLE}",
            }
        },
        "ordering": "UNORDERED",
        "format": "JSON",
    }
    shop.ask("dsql", lambda dsql: dsql.create_stream(clusterIdentifier=shop.cluster, **given))
    assert "CREATING" in shop.findings("error")["E403"]["what"]


# ── the stream's side ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_trust_policy_that_names_the_cluster_is_named_as_that(shop: Shop) -> None:
    role = shop.ask("iam", lambda iam: iam.get_role(RoleName=ROLE))["Role"]
    trust = json.dumps(role["AssumeRolePolicyDocument"]).replace("/stream/*", "")
    shop.ask("iam", lambda iam: iam.update_assume_role_policy(RoleName=ROLE, PolicyDocument=trust))
    shop.aws.commit(cluster=shop.cluster, transactions=1)
    found = shop.findings("error")
    assert found.keys() == {"ROLE_ACCESS_DENIED"}, "one cause, one finding"
    assert (found["ROLE_ACCESS_DENIED"]["severity"], found["ROLE_ACCESS_DENIED"]["fixable"]) == ("error", True)
    assert "DSQLCDC-E415 the trust policy names the cluster" in found["ROLE_ACCESS_DENIED"]["why"]
    assert f"cluster/{shop.cluster}/stream/*" in found["ROLE_ACCESS_DENIED"]["remedy"]
    assert found["ROLE_ACCESS_DENIED"]["remedy"].count("aws iam update-assume-role-policy") == 1


def test_a_role_that_may_not_write_is_named_with_the_policy_it_needs(shop: Shop) -> None:
    shop.ask("iam", lambda iam: iam.delete_role_policy(RoleName=ROLE, PolicyName=f"dsqlcdc-write-{STREAM}"))
    shop.aws.commit(cluster=shop.cluster, transactions=1)
    found = shop.findings("error")
    assert found.keys() == {"KINESIS_ACCESS_DENIED"}
    assert "DSQLCDC-E419" in found["KINESIS_ACCESS_DENIED"]["why"]
    assert "kinesis:PutRecords" in found["KINESIS_ACCESS_DENIED"]["remedy"]
    assert found["KINESIS_ACCESS_DENIED"]["remedy"].count("aws iam put-role-policy") == 1


def test_a_missing_role_is_an_error(shop: Shop) -> None:
    shop.ask("iam", lambda iam: iam.delete_role_policy(RoleName=ROLE, PolicyName=f"dsqlcdc-write-{STREAM}"))
    shop.ask("iam", lambda iam: iam.delete_role(RoleName=ROLE))
    shop.aws.commit(cluster=shop.cluster, transactions=1)
    found = shop.findings("error")
    assert found.keys() == {"ROLE_ACCESS_DENIED"}
    assert "DSQLCDC-E413" in found["ROLE_ACCESS_DENIED"]["why"]


def test_a_cluster_that_is_not_there_is_an_error_and_the_rest_is_looked_at(shop: Shop) -> None:
    shop.cluster = "a" * 26
    shop.write()
    assert "E400" in shop.findings("error")


def test_a_config_of_another_cluster_is_told_whose_role_and_kinesis_stream_it_names_and_fix_leaves_them(shop: Shop) -> None:
    theirs = shop.cluster
    shop.cluster = shop.ask("dsql", lambda dsql: dsql.create_cluster(deletionProtectionEnabled=False))["identifier"]
    shop.aws.advance(5)
    shop.write()
    found = shop.findings("error")
    assert found.keys() == {"E191", "E402", "E414"}
    assert theirs in found["E191"]["why"]
    assert not any(one["fixable"] for one in found.values())


def test_a_sleeping_cluster_with_its_stream_is_a_warning_without_it_an_error(shop: Shop) -> None:
    shop.aws.cdc(shop.cluster, status="IDLE")
    assert shop.findings()["E401"]["severity"] == "warning"
    stream = shop.stream_id()
    shop.aws.rules(delay=0.0)
    shop.ask("dsql", lambda dsql: dsql.delete_stream(clusterIdentifier=shop.cluster, streamIdentifier=stream))
    shop.aws.cdc(shop.cluster, status="IDLE")
    assert shop.findings()["E401"]["severity"] == "error"


def test_a_target_that_forgets_early_and_is_of_another_mode_is_two_findings(shop: Shop) -> None:
    shop.write(stream="kinesis: {retention: 336h, mode: on_demand}")
    found = shop.findings()
    assert found["E409"]["severity"] == found["E408"]["severity"] == "warning"
    assert found.keys() == {"E408", "E409"}
    shop.write(stream="kinesis: {retention: 336h}")
    assert shop.findings().keys() == {"E409"}, "where no mode is written, the one it has is right"


def test_a_stream_of_small_records_is_an_error_before_the_first_large_row(shop: Shop) -> None:
    given = {"StreamARN": f"arn:aws:kinesis:us-east-1:123456789012:stream/{STREAM}", "MaxRecordSizeInKiB": 1024}
    shop.ask("kinesis", lambda kinesis: kinesis.update_max_record_size(**given))
    found = shop.findings("error")
    assert found.keys() == {"E407"}
    assert "--max-record-size-in-ki-b 10240" in found["E407"]["remedy"]
    shop.aws.commit(cluster=shop.cluster, transactions=1, oversize=1)
    assert shop.findings("error").keys() == {"KINESIS_OVERSIZE_RECORD"}


# ── what may not be asked ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


DENIED = {
    "dsql:GetCluster": "warning",
    "dsql:GetStream": "error",
    "iam:GetRole": "warning",
    "kinesis:ListTagsForStream": "warning",
    "kinesis:GetRecords": "error",
    "s3:GetObject": "error",
    "cloudwatch:GetMetricStatistics": "info",
}
DENIED_TOO = {
    "dsql:ListStreams": "error",
    "iam:GetRolePolicy": "warning",
    "kinesis:ListShards": "error",
    "s3:PutObject": "error",
}


@pytest.mark.parametrize("denied", [DENIED, DENIED_TOO])
def test_a_denial_names_action_and_resource_prints_the_statement_and_the_rest_goes_on(shop: Shop, denied: dict[str, str]) -> None:
    for action in denied:
        shop.aws.deny(action)
    shop.write(more="state: {type: memory}")
    code, told, _ = shop.doctor()
    assert code == 1
    assert {one["code"] for one in told["findings"]} == {"DSQLCDC-E102", "DSQLCDC-E188"}
    severities = {}
    for one in told["findings"]:
        if one["code"] == "DSQLCDC-E102":
            statement = json.loads(one["remedy"].splitlines()[0].partition(": ")[2])
            assert statement["Effect"] == "Allow"
            assert statement["Action"] in one["why"]
            assert statement["Resource"].startswith("arn:aws:") or statement["Resource"] == "*"
            severities[statement["Action"]] = one["severity"]
    assert severities == denied


def test_no_credentials_and_no_aws_leave_the_other_checks(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.write(sinks="{hook: {type: webhook, url: 'https://127.0.0.1:9/', secrets: [whsec_%s], allow_private: [127.0.0.0/8]}}" % ("A" * 32))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(shop.directory / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(shop.directory / "none"))
    code, told, _ = shop.doctor()
    assert code == 1
    assert {"DSQLCDC-E105", "DSQLCDC-E140"} <= {one["code"] for one in told["findings"]}


@pytest.mark.parametrize(
    ("seconds", "severity", "side"), [(0.0, "", ""), (-120.0, "warning", "behind"), (120.0, "warning", "ahead"), (3600.0, "error", "ahead")]
)
def test_a_clock_that_is_wrong_is_told_by_how_much(shop: Shop, seconds: float, severity: str, side: str) -> None:
    found = asyncio.run(check_place(shop.account, lambda: time.time() + seconds))
    assert [(one.code, one.severity) for one in found] == ([("E180", severity)] if severity else [])
    assert side in "".join(one.why for one in found)


def test_the_time_is_told_also_where_aws_refuses_us(shop: Shop) -> None:
    shop.aws.fault("error", service="sts", code="RequestExpired", status=400)
    found = asyncio.run(check_place(shop.account, lambda: time.time() - 1000))
    assert [one.code for one in found] == ["E122", "E180"]
