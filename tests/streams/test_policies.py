"""What a policy means: ours let DSQL in and nobody else, and whatever is taken out of them or added to them is noticed."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.streams.policies import SERVICE, WRITE_ACTIONS, grants, key_arn, trust_faults, trust_policy, write_policy
from dsqlcdc.streams.policies.conditions import Context, holds

REGION, ACCOUNT, CLUSTER = "eu-west-1", "123456789012", "abcdefghijklmnopqrstuvwxyz"
ARN = f"arn:aws:dsql:{REGION}:{ACCOUNT}:cluster/{CLUSTER}"
STREAM = f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/orders"
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/6f1c2d3e-0000-4000-8000-00000000000a"
VIA: Context = {"kms:viaservice": f"kinesis.{REGION}.amazonaws.com"}
NEEDED: list[tuple[str, str, Context]] = [*((action, STREAM, {}) for action in WRITE_ACTIONS), ("kms:GenerateDataKey", KEY, VIA)]

accounts = st.from_regex(r"[0-9]{12}", fullmatch=True).filter(lambda text: text != "000000000000")
clusters = st.from_regex(r"[a-z0-9]{26}", fullmatch=True)
regions = st.sampled_from(["us-east-1", "eu-west-1", "ap-northeast-1"])
partitions = st.sampled_from(["aws", "aws-us-gov"])


def faults(trust: dict[str, Any], stream: str = "") -> list[str]:
    return [fault.kind for fault in trust_faults(trust, account=ACCOUNT, region=REGION, cluster=CLUSTER, stream=stream)]


def trusting(**changed: Any) -> dict[str, Any]:
    """Our trust policy with elements of its statement replaced; None takes one out."""
    policy = trust_policy(REGION, ACCOUNT, CLUSTER)
    statement = {**policy["Statement"][0], **changed}
    return {**policy, "Statement": [{name: value for name, value in statement.items() if value is not None}]}


def conditions(**changed: Any) -> dict[str, Any]:
    return trusting(Condition=changed)


def without_one(value: Any) -> Iterator[Any]:
    """Every way to take one thing out of a document, wherever it stands."""
    if isinstance(value, dict):
        for name in value:
            yield {other: kept for other, kept in value.items() if other != name}
            yield from ({**value, name: smaller} for smaller in without_one(value[name]))
    elif isinstance(value, list):
        for place, one in enumerate(value):
            yield value[:place] + value[place + 1 :]
            yield from ([*value[:place], smaller, *value[place + 1 :]] for smaller in without_one(one))


@given(regions, accounts, clusters, partitions)
def test_our_trust_policy_lets_the_clusters_streams_in_and_nobody_else(region: str, account: str, cluster: str, partition: str) -> None:
    trust = trust_policy(region, account, cluster, partition)
    at = {"account": account, "region": region, "cluster": cluster, "partition": partition}
    assert list(trust_faults(trust, **at)) == []
    assert list(trust_faults(json.loads(json.dumps(trust)), **at, stream="abc")) == []


@given(regions, accounts, clusters, st.sampled_from(["account", "region", "cluster", "partition"]))
def test_our_trust_policy_of_another_place_shuts_dsql_out(region: str, account: str, cluster: str, changed: str) -> None:
    at = {"account": account, "region": region, "cluster": cluster, "partition": "aws"}
    elsewhere = {**at, changed: {"account": "111111111110", "region": "sa-east-1", "cluster": "0" * 26, "partition": "aws-cn"}[changed]}
    if elsewhere != at:
        assert any(fault.shuts_out for fault in trust_faults(trust_policy(region, account, cluster), **elsewhere))


@pytest.mark.parametrize("element", ["Effect", "Principal", "Action", "Condition"])
def test_a_statement_without_one_of_its_elements_is_a_fault(element: str) -> None:
    assert faults(trusting()) == []
    assert faults(trusting(**{element: None})) != []


@pytest.mark.parametrize(
    "same",
    [
        trusting(Principal={"Service": ["lambda.amazonaws.com", SERVICE]}),
        trusting(Action=["sts:TagSession", "STS:assume*"]),
        trusting(Action="sts:*"),
        trusting(Action=None, NotAction="iam:*"),
        conditions(StringEquals={"aws:SourceAccount": ["999999999999", ACCOUNT]}, ArnEquals={"aws:SourceArn": f"{ARN}/stream/*"}),
        conditions(StringLike={"AWS:sourceARN": f"{ARN}/*"}),
        conditions(ArnLikeIfExists={"aws:SourceArn": f"{ARN}/stream/??????????????????????????"}),
        conditions(**{"ForAnyValue:StringLike": {"aws:SourceArn": [f"{ARN}/stream/*"]}}),
        conditions(ArnLike={"aws:SourceArn": f"{ARN}/stream/*"}, ArnNotLike={"aws:SourceArn": "arn:aws:dsql:*:*:cluster/other/*"}),
        conditions(ArnLike={"aws:SourceArn": f"{ARN}/stream/*"}, Null={"aws:SourceArn": "false"}),
        conditions(ArnLike={"aws:SourceArn": f"{ARN}/stream/*"}, Bool={"aws:PrincipalIsAWSService": True}),
    ],
)
def test_the_same_said_otherwise_is_right(same: dict[str, Any]) -> None:
    assert faults(same) == []
    assert faults({**same, "Statement": same["Statement"][0]}) == []


@pytest.mark.parametrize(
    ("wrong", "kinds"),
    [
        (trusting(Principal={"Service": "lambda.amazonaws.com"}), ["principal"]),
        (trusting(Principal={"AWS": f"arn:aws:iam::{ACCOUNT}:root"}), ["principal"]),
        (trusting(Principal=SERVICE), ["principal"]),
        (trusting(Effect="Deny"), ["denied"]),
        (trusting(Effect="allow"), ["principal"]),
        (trusting(Action="sts:TagSession"), ["action"]),
        (trusting(Action=None, NotAction="sts:*"), ["action"]),
        (trusting(Principal={"AWS": "*"}), ["unclear"]),
        (trusting(Principal=None, NotPrincipal={"AWS": f"arn:aws:iam::{ACCOUNT}:root"}), ["unclear"]),
        (trusting(Principal="*", Condition=None), ["open"]),
        (conditions(StringEquals={"aws:SourceAccount": ACCOUNT}), ["wide"]),
        (conditions(ArnLike={"aws:SourceArn": f"arn:aws:dsql:{REGION}:{ACCOUNT}:cluster/*"}), ["wide"]),
        (conditions(StringEquals={"aws:SourceAccount": "999999999999"}), ["source_account"]),
        (conditions(StringNotEquals={"aws:SourceAccount": ACCOUNT}), ["source_account", "open"]),
        (conditions(StringNotLikeIfExists={"aws:SourceAccount": "1*"}), ["source_account", "open"]),
        (conditions(Null={"aws:SourceArn": "true"}), ["source_arn"]),
        (conditions(ArnLike={"aws:SourceArn": ARN}), ["cluster_arn"]),
        (conditions(ArnEqualsIfExists={"aws:SourceArn": [ARN, "arn:aws:dsql:*:*:cluster/other"]}), ["cluster_arn"]),
        (conditions(StringEquals={"aws:SourceArn": ARN}), ["cluster_arn"]),
        (conditions(StringEquals={"aws:SourceArn": f"{ARN}/stream/*"}), ["source_arn"]),
        (conditions(ArnLike={"aws:SourceArn": f"{ARN}/stream/oneoneoneoneoneoneoneoneon"}), ["source_arn"]),
        (conditions(ArnLike={"aws:SourceArn": f"arn:aws:dsql:us-west-2:{ACCOUNT}:cluster/{CLUSTER}/stream/*"}), ["source_arn"]),
        (conditions(ArnLike={"aws:SourceArn": "arn:*"}), ["source_arn"]),
        (conditions(ArnNotLike={"aws:SourceArn": f"{ARN}/stream/*"}), ["source_arn", "open"]),
        (conditions(Bool={"aws:PrincipalIsAWSService": "false"}), ["condition"]),
        (conditions(StringEquals={"aws:SourceOrgID": "o-abc"}), ["unclear"]),
        (conditions(StringEquals={"aws:SourceAccount": "${aws:PrincipalAccount}"}), ["unclear"]),
        (conditions(StringSomething={"aws:SourceAccount": ACCOUNT}), ["unclear"]),
        (conditions(StringEquals={"aws:SourceOrgID": "o-abc", "aws:SourceAccount": "999999999999"}), ["unclear", "source_account"]),
    ],
)
def test_what_shuts_dsql_out_or_lets_others_in_is_named(wrong: dict[str, Any], kinds: list[str]) -> None:
    assert faults(wrong) == kinds


def test_a_condition_on_the_stream_that_is_there_is_right_for_it_only() -> None:
    one = conditions(ArnLike={"aws:SourceArn": f"{ARN}/stream/oneone"})
    assert faults(one, stream="oneone") == []
    assert faults(one, stream="another") == ["source_arn"]


def test_a_deny_wins_over_any_allow() -> None:
    ours = trusting()["Statement"][0]
    deny = {"Effect": "Deny", "Principal": "*", "Action": "sts:*"}
    assert faults({"Statement": [ours, deny]}) == ["denied"]
    assert faults({"Statement": [ours, {**deny, "Principal": {"AWS": "*"}}]}) == ["denied"]
    assert faults({"Statement": [ours, {**deny, "Principal": {"Service": "lambda.amazonaws.com"}}]}) == []
    assert faults({"Statement": [ours, {**deny, "Condition": {"StringNotEquals": {"aws:SourceAccount": ACCOUNT}}}]}) == []
    assert faults({"Statement": [ours, {**deny, "Condition": {"StringNotEquals": {"aws:SourceOrgID": "o-1"}}}]}) == ["unclear"]


def test_one_statement_that_lets_dsql_in_is_enough_and_of_wrong_ones_the_nearest_is_named() -> None:
    ours, lambdas = trusting()["Statement"][0], trusting(Principal={"Service": "lambda.amazonaws.com"})["Statement"][0]
    clustered = conditions(ArnLike={"aws:SourceArn": ARN})["Statement"][0]
    assert faults({"Statement": [lambdas, clustered, ours]}) == []
    assert faults({"Statement": [lambdas, clustered]}) == ["cluster_arn"]
    assert faults({"Statement": []}) == ["principal"]


junk = st.recursive(
    st.none() | st.booleans() | st.text(max_size=8) | st.sampled_from(["*", SERVICE, "Allow", "sts:AssumeRole", ARN]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Effect", "Principal", "Action", "Condition", "ArnLike", "aws:SourceArn", "Service", "AWS", "Statement"]),
            inner,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["Version", "Statement"]), junk), junk)
def test_a_document_of_any_form_is_judged_and_never_breaks_the_judge(document: dict[str, Any], principal: Any) -> None:
    assert list(trust_faults(document, account=ACCOUNT, region=REGION, cluster=CLUSTER)) is not None
    trust_faults(trusting(Principal=principal, Condition=document), account=ACCOUNT, region=REGION, cluster=CLUSTER)
    assert grants([document], "kinesis:PutRecord", STREAM) in ("denied", "implicitly denied", "allowed", "unclear")


# ── what the role may do ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("action", "resource", "context"), NEEDED)
def test_our_write_policy_allows_what_dsql_needs_and_nothing_else(action: str, resource: str, context: Context) -> None:
    ours = write_policy(STREAM, KEY)
    assert grants([ours], action, resource, context) == "allowed"
    assert grants([ours], action, resource + "x", context) == "implicitly denied"
    assert grants([ours], action + "x", resource, context) == "implicitly denied"
    if action == "kms:GenerateDataKey":
        assert grants([ours], action, resource, {"kms:viaservice": "s3.eu-west-1.amazonaws.com"}) == "implicitly denied"
        assert grants([ours], action, resource) == "unclear"
        assert grants([write_policy(STREAM)], action, resource, context) == "implicitly denied"


def test_whatever_is_taken_out_of_the_write_policy_takes_a_right_away() -> None:
    ours = write_policy(STREAM, KEY)
    smaller = [document for document in without_one(ours) if document.keys() == ours.keys()]
    assert len(smaller) > 12
    for document in smaller:
        kept = [grants([document], *needed) == "allowed" for needed in NEEDED]
        loosened = grants([document], "kms:GenerateDataKey", KEY, {"kms:viaservice": "other"}) == "allowed"  # its condition went
        assert loosened or not all(kept), document


@given(st.permutations(NEEDED), st.sampled_from(["attached", "inline", "boundary"]))
def test_a_deny_wins_wherever_it_stands(needed: list[tuple[str, str, Context]], place: str) -> None:
    action, resource, context = needed[0]
    ours = write_policy(STREAM, KEY)
    deny: dict[str, Any] = {"Statement": [{"Effect": "Deny", "Action": action.split(":")[0] + ":*", "Resource": "*"}]}
    everything: dict[str, Any] = {"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}
    both: dict[str, Any] = {"Statement": [everything["Statement"], *deny["Statement"]]}
    assert grants([everything, ours], action, resource, context, boundary=everything) == "allowed"
    if place == "boundary":
        assert grants([everything, ours], action, resource, context, boundary=both) == "denied"
    else:
        assert grants([deny, ours] if place == "attached" else [ours, both], action, resource, context) == "denied"


def test_a_boundary_must_allow_it_too() -> None:
    ours, other = write_policy(STREAM), write_policy(STREAM + "-2")
    assert grants([ours], "kinesis:PutRecord", STREAM, boundary=ours) == "allowed"
    assert grants([ours], "kinesis:PutRecord", STREAM, boundary=other) == "implicitly denied"
    assert grants([other], "kinesis:PutRecord", STREAM, boundary=ours) == "implicitly denied"


@pytest.mark.parametrize(
    ("statement", "grant"),
    [
        ({"Effect": "Allow", "NotAction": "kinesis:Get*", "NotResource": "*-2"}, "allowed"),
        ({"Effect": "Allow", "NotAction": "KINESIS:put*", "Resource": "*"}, "implicitly denied"),
        ({"Effect": "Allow", "Action": "kinesis:PutRecor?", "NotResource": "*/orders"}, "implicitly denied"),
        ({"Effect": "Allow", "Action": "kinesis:PutRecord"}, "implicitly denied"),
        ({"Effect": "Allow", "Action": "kinesis:PutRecord", "Resource": "*", "Condition": {"Bool": {"aws:MFA": "true"}}}, "unclear"),
        ({"Effect": "Allow", "Action": "*", "Resource": f"arn:aws:kinesis:*:{ACCOUNT}:stream/*"}, "allowed"),
    ],
)
def test_wildcards_and_what_is_left_out_are_understood(statement: dict[str, Any], grant: str) -> None:
    assert grants([{"Statement": statement}], "kinesis:PutRecord", STREAM) == grant


def test_a_deny_that_cannot_be_told_is_said() -> None:
    deny = {"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}
    assert grants([write_policy(STREAM), {"Statement": deny}], "kinesis:PutRecord", STREAM) == "unclear"


def test_documents_are_made_anew_each_time() -> None:
    first = trust_policy(REGION, ACCOUNT, CLUSTER)
    kept = copy.deepcopy(first)
    first["Statement"][0]["Condition"].clear()
    assert trust_policy(REGION, ACCOUNT, CLUSTER) == kept


def test_a_key_is_named_by_its_arn_and_an_alias_only_by_kms() -> None:
    at = {"region": REGION, "account": ACCOUNT}
    assert key_arn(KEY, **at) == key_arn(KEY.rpartition("/")[2], **at) == KEY
    assert key_arn("mrk-" + "0" * 32, **at).endswith(":key/mrk-" + "0" * 32)
    assert key_arn("alias/orders", **at) == key_arn(f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/orders", **at) == key_arn("", **at) == ""


def test_conditions_that_a_request_lacks() -> None:
    """As IAM documents it: a missing key fails a comparison, satisfies a negated one, …IfExists and ForAllValues."""
    lacking: Context = {"aws:sourcearn": None}
    for operator, answer in {
        "StringEquals": False,
        "StringNotEquals": True,
        "StringEqualsIfExists": True,
        "ForAllValues:StringEquals": True,
        "ForAnyValue:StringEquals": False,
        "ForAnyValue:StringNotEquals": False,
    }.items():
        assert holds({operator: {"aws:SourceArn": "x"}}, lacking) is answer, operator
        assert holds({operator: {"aws:SourceArn": "x"}}, {}) is None
