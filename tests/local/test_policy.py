"""IAM's reading of a policy, case by case."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dsqlcdc.local.policy import Asked, like, says, together

ARN = "arn:aws:kinesis:us-east-1:123456789012:stream/orders"
ROLE = "arn:aws:iam::123456789012:role/r"
ASKED = Asked("kinesis:PutRecord", ARN, (("AWS", ROLE),), {"aws:SourceAccount": "123456789012", "aws:SourceArn": ARN})
ALLOW = {"Effect": "Allow", "Action": "kinesis:PutRecord", "Resource": ARN}


def said(*statements: dict[str, Any]) -> str:
    return says(json.dumps({"Version": "2012-10-17", "Statement": list(statements)}), ASKED)


def under(operator: str, key: str, *values: Any) -> str:
    return said(ALLOW | {"Condition": {operator: {key: list(values)}}})


@pytest.mark.parametrize(
    ("more", "verdict"),
    [
        ({}, "allow"),
        ({"Action": ["kinesis:Get*", "KINESIS:put*"]}, "allow"),
        ({"Action": "kinesis:PutRecords"}, "silent"),
        ({"Action": "*"}, "allow"),
        ({"Resource": "*"}, "allow"),
        ({"Resource": ARN[:-1] + "?"}, "allow"),
        ({"Resource": ARN.upper()}, "silent"),
        ({"Resource": ARN + "-2"}, "silent"),
        ({"Principal": "*"}, "allow"),
        ({"Principal": {"AWS": "*"}}, "allow"),
        ({"Principal": {"AWS": [ROLE, "arn:aws:iam::123456789012:root"]}}, "allow"),
        ({"Principal": {"AWS": ROLE[:-1] + "*"}}, "silent"),
        ({"Principal": {"Service": "dsql.amazonaws.com"}}, "silent"),
        ({"Principal": {"Service": "*"}}, "silent"),
        ({"Effect": "allow"}, "silent"),
    ],
)
def test_a_statement_fits_by_action_resource_and_principal(more: dict[str, Any], verdict: str) -> None:
    assert said(ALLOW | more) == verdict


def test_the_not_forms_fit_what_they_do_not_name() -> None:
    bare = {"Effect": "Allow"}
    assert said(bare | {"NotAction": "kinesis:Get*", "Resource": "*"}) == "allow"
    assert said(bare | {"NotAction": "kinesis:*", "Resource": "*"}) == "silent"
    assert said(bare | {"Action": "*", "NotResource": "*:stream/other"}) == "allow"
    assert said(bare | {"Action": "*", "NotResource": "*:stream/o*"}) == "silent"
    assert said(ALLOW, {"Effect": "Deny", "NotPrincipal": {"AWS": "x"}, "Action": "*", "Resource": "*"}) == "deny"
    assert said(ALLOW, {"Effect": "Deny", "NotPrincipal": {"AWS": ROLE}, "Action": "*", "Resource": "*"}) == "allow"


def test_a_deny_wins_wherever_it_stands() -> None:
    deny = {"Effect": "Deny", "Action": "kinesis:Put*", "Resource": "*"}
    assert said(ALLOW, deny) == said(deny, ALLOW) == "deny"
    documents = [json.dumps({"Statement": [ALLOW]}), json.dumps({"Statement": deny})]
    assert together(documents, ASKED) == "deny"
    assert together(documents[:1], ASKED) == "allow"
    assert together([], ASKED) == "silent"


@pytest.mark.parametrize(
    ("operator", "key", "value", "verdict"),
    [
        ("StringEquals", "aws:SourceAccount", "123456789012", "allow"),
        ("StringEquals", "AWS:sourceaccount", "123456789012", "allow"),
        ("StringEquals", "aws:SourceAccount", "1234567890*", "silent"),
        ("StringLike", "aws:SourceAccount", "1234567890*", "allow"),
        ("StringNotEquals", "aws:SourceAccount", "1", "allow"),
        ("StringNotEquals", "aws:SourceAccount", "123456789012", "silent"),
        ("StringEquals", "aws:SourceVpc", "vpc", "silent"),
        ("StringNotEquals", "aws:SourceVpc", "vpc", "allow"),
        ("StringEqualsIfExists", "aws:SourceVpc", "vpc", "allow"),
        ("StringEqualsIfExists", "aws:SourceAccount", "1", "silent"),
        ("Null", "aws:SourceVpc", "true", "allow"),
        ("Null", "aws:SourceArn", "true", "silent"),
        ("ArnLike", "aws:SourceArn", "arn:aws:kinesis:*:*:stream/*", "allow"),
        ("ArnEquals", "aws:SourceArn", "arn:aws:kinesis:*:*:stream/*", "allow"),
        ("ArnLike", "aws:SourceArn", "arn:aws:kin*:stream/*", "silent"),
        ("StringLike", "aws:SourceArn", "arn:aws:kin*:stream/*", "allow"),
        ("ArnLike", "aws:SourceArn", "arn:aws:kinesis:*:*:stream", "silent"),
        ("ArnNotLike", "aws:SourceArn", "arn:aws:kinesis:*:*:stream", "allow"),
        ("ForAllValues:StringEquals", "aws:TagKeys", "x", "allow"),
        ("ForAnyValue:StringEquals", "aws:TagKeys", "x", "silent"),
        ("Bool", "aws:SecureTransport", "true", "silent"),
        ("NoSuchOperator", "aws:SourceAccount", "123456789012", "silent"),
    ],
)
def test_a_condition_holds_as_iam_says(operator: str, key: str, value: str, verdict: str) -> None:
    assert under(operator, key, value) == verdict


def test_one_of_several_values_is_enough_and_a_negation_wants_none() -> None:
    assert under("StringEquals", "aws:SourceAccount", "1", "123456789012") == "allow"
    assert under("StringNotEquals", "aws:SourceAccount", "1", "123456789012") == "silent"
    both = {"StringEquals": {"aws:SourceAccount": "123456789012", "aws:SourceArn": "other"}}
    assert said(ALLOW | {"Condition": both}) == "silent"


def test_what_is_no_policy_lets_nobody() -> None:
    assert says("", ASKED) == says("{}", ASKED) == says('{"Statement": 1}', ASKED) == says("allow all", ASKED) == "silent"


def test_a_wildcard_is_no_regular_expression() -> None:
    assert like("a.c*", "a.cd")
    assert not like("a.c", "abc")
    assert like("[x]?", "[x]y")
