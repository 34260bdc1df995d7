"""Remedies: every documented reason has one, its commands exist, and nothing is offered that would not help."""

from __future__ import annotations

import json
import shlex
from typing import Any

import botocore.session
import msgspec
import pytest
from botocore import xform_name  # pyright: ignore[reportUnknownVariableType]

from dsqlcdc.streams.causes import CAUSES
from dsqlcdc.streams.observed import CODES, CdcStream, KeyState
from dsqlcdc.streams.remedies import KEPT, remedy, remedy_of, text

from .scenes import KEY, NOW, cdc, desired, observed, role, target

BROKEN: dict[str, Any] = {
    "KINESIS_THROUGHPUT_EXCEEDED": {"target": target(mode="provisioned", open_shards=2)},
    "KINESIS_STREAM_NOT_FOUND": {"target": None},
    "ROLE_ACCESS_DENIED": {"role": role(trust={"Version": "2012-10-17", "Statement": []})},
    "KINESIS_ACCESS_DENIED": {"role": role(inline={})},
    "KINESIS_KMS_ACCESS_DENIED": {"target": target(kms_key=KEY), "key": KeyState(arn=KEY, state="Enabled")},
    "KINESIS_OVERSIZE_RECORD": {"target": target(max_record_kib=1024)},
    "CLUSTER_CMK_INACCESSIBLE": {},
    "INTERNAL_ERROR": {},
}
"""What an account looks like where each reason holds."""
KINDS = {
    "KINESIS_THROUGHPUT_EXCEEDED": ["shards"],
    "KINESIS_STREAM_NOT_FOUND": ["recreate"],
    "ROLE_ACCESS_DENIED": ["trust"],
    "KINESIS_ACCESS_DENIED": ["policy"],
    "KINESIS_KMS_ACCESS_DENIED": ["policy"],
    "KINESIS_OVERSIZE_RECORD": ["record_size"],
    "CLUSTER_CMK_INACCESSIBLE": [],
    "INTERNAL_ERROR": [],
}
PROVISIONED = {"mode": "provisioned", "shards": 1, "max_shards": 8}


def broken(code: str) -> tuple[CdcStream, Any]:
    stream = cdc("FAILED" if code == "KINESIS_STREAM_NOT_FOUND" else "IMPAIRED", code)
    return stream, observed(stream, **BROKEN[code])


def test_every_documented_reason_has_its_remedy_and_no_other() -> None:
    assert tuple(CAUSES) == CODES


@pytest.mark.parametrize("code", CODES)
def test_a_remedy_says_why_what_to_do_and_by_when(code: str) -> None:
    stream, seen = broken(code)
    found = remedy(code, desired(target=PROVISIONED), seen, stream=stream)
    assert found.explanation
    assert found.actions
    assert found.expect
    assert found.within > 0
    assert [action.kind for action in found.actions if action.kind] == KINDS[code]
    assert found.can_apply == bool(KINDS[code])
    assert found.recoverable == (code != "KINESIS_STREAM_NOT_FOUND")
    json.dumps(found.as_json())  # plain values only
    assert all(isinstance(line, str) for line in text(found, NOW))


@pytest.mark.parametrize("code", CODES)
def test_its_commands_are_commands_that_exist(code: str) -> None:
    stream, seen = broken(code)
    found = remedy(code, desired(target=PROVISIONED), seen, stream=stream)
    commands = [check.command for check in found.checks] + [action.command for action in found.actions if action.command]
    for line in commands:
        assert_exists(line)


@pytest.mark.parametrize("line", ["aws kinesis update-max-record-size --stream-arn a --max-size 1", "aws iam mend-role --role-name r"])
def test_a_command_that_does_not_exist_is_found(line: str) -> None:
    """Control."""
    with pytest.raises((AssertionError, StopIteration)):
        assert_exists(line)


def assert_exists(line: str) -> None:
    program, service, name, *flags = shlex.split(line)
    if program == "dsqlcdc":
        assert (service, name) == ("stream", "apply")
        return
    model: Any = botocore.session.get_session().get_service_model(service)
    operation: str = next(operation for operation in model.operation_names if xform_name(operation, "-") == name)
    shape: Any = model.operation_model(operation).input_shape
    given = {flag[2:] for flag in flags[::2]}
    assert given <= {xform_name(member, "-") for member in shape.members}, line
    assert {xform_name(member, "-") for member in shape.required_members} <= given, line


def test_a_record_size_that_is_large_enough_is_not_raised_again() -> None:
    stream = cdc("IMPAIRED", "KINESIS_OVERSIZE_RECORD")
    found = remedy("KINESIS_OVERSIZE_RECORD", desired(), observed(stream))
    assert [check.confirms for check in found.checks] == [False]
    assert not found.can_apply


@pytest.mark.parametrize(("shards", "most", "wanted"), [(2, 8, 4), (3, 5, 5), (5, 5, None), (1, None, None), (8, 4, None)])
def test_shards_are_doubled_at_most_and_never_beyond_the_users_bound(shards: int, most: int | None, wanted: int | None) -> None:
    stream = cdc("IMPAIRED", "KINESIS_THROUGHPUT_EXCEEDED")
    seen = observed(stream, target=target(mode="provisioned", open_shards=shards))
    wish = desired(target={"mode": "provisioned", "shards": 1, "max_shards": most})
    found = remedy("KINESIS_THROUGHPUT_EXCEEDED", wish, seen)
    assert [action.after for action in found.actions if action.kind] == ([wanted] if wanted else [])


def test_the_mode_is_switched_only_where_the_config_says_on_demand() -> None:
    stream = cdc("IMPAIRED", "KINESIS_THROUGHPUT_EXCEEDED")
    seen = observed(stream, target=target(mode="provisioned"))
    kinds = [action.kind for action in remedy("KINESIS_THROUGHPUT_EXCEEDED", desired(), seen).actions]
    assert kinds == ["on_demand"]
    bound = desired(target={"mode": "provisioned", "shards": 4})
    unwritten = desired(target={"mode_named": False}, remedies={"default": "apply"})
    for wish, why in ((bound, "mode says provisioned"), (unwritten, "mode is not written")):
        found = remedy("KINESIS_THROUGHPUT_EXCEEDED", wish, seen)
        assert ([action.kind for action in found.actions], found.can_apply, why in found.actions[0].what) == ([""], False, True)


def test_a_role_that_nobody_looked_at_is_not_mended() -> None:
    stream = msgspec.structs.replace(cdc("IMPAIRED", "ROLE_ACCESS_DENIED"), role="arn:aws:iam::123456789012:role/another")
    found = remedy("ROLE_ACCESS_DENIED", desired(), observed(stream))
    assert not found.can_apply
    assert "--role-name another" in found.actions[0].command


@pytest.mark.parametrize("code", [*CODES, "SOMETHING_NEW", ""])
def test_a_stream_that_failed_is_created_again_after_its_cause_is_mended(code: str) -> None:
    stream = cdc("FAILED", code)
    found = remedy_of(desired(), observed(stream, **BROKEN.get(code, {})))
    assert found is not None
    assert [action.kind for action in found.actions].index("recreate") == len(found.actions) - 1
    assert not found.recoverable
    assert not found.kept_until


def test_a_reason_that_is_not_documented_is_never_acted_upon() -> None:
    found = remedy_of(desired(), observed(cdc("IMPAIRED", "SOMETHING_NEW")))
    assert found is not None
    assert "SOMETHING_NEW" in found.explanation
    assert not found.can_apply


def test_the_countdown_begins_when_the_stream_was_first_seen_broken() -> None:
    stream = cdc("IMPAIRED", "INTERNAL_ERROR", at=NOW - 600)
    later, earlier = (remedy_of(desired(), observed(stream), since=since) for since in (NOW, NOW - 86_400))
    assert later is not None
    assert earlier is not None
    assert (later.since, later.kept_until) == (NOW - 600, NOW - 600 + KEPT)
    assert earlier.kept_until == NOW - 86_400 + KEPT


def test_what_is_well_has_no_remedy() -> None:
    assert remedy_of(desired(), observed(cdc())) is None
    assert remedy_of(desired(), observed(cdc("CREATING"))) is None
    assert remedy_of(desired(), observed(cdc("CREATING", "ROLE_ACCESS_DENIED"))) is not None


def test_where_there_is_no_stream_the_remedy_is_to_make_one() -> None:
    found = remedy_of(desired(), observed())
    assert found is not None
    assert (found.status, [action.command for action in found.actions]) == ("GONE", ["dsqlcdc stream apply CONFIG"])


def test_mending_trust_keeps_what_a_role_of_others_says() -> None:
    other = {"Effect": "Allow", "Principal": {"Service": "firehose.amazonaws.com"}, "Action": "sts:AssumeRole"}
    condition = {"ArnLike": {"aws:SourceArn": "arn:aws:dsql:us-east-1:123456789012:cluster/abcdefghijklmnopqrstuvwx26"}}
    wrong: dict[str, Any] = {
        "Effect": "Allow",
        "Principal": {"Service": "dsql.amazonaws.com"},
        "Action": "sts:AssumeRole",
        "Condition": condition,
    }
    stream = cdc("IMPAIRED", "ROLE_ACCESS_DENIED")
    found = remedy("ROLE_ACCESS_DENIED", desired(), observed(stream, role=role(trust={"Statement": [other, wrong]})))
    assert [check.confirms for check in found.checks] == [False, True]
    mended = found.actions[0].after["Statement"]
    assert mended[:2] == [other, wrong]
    ours = role(trust={"Statement": [other, wrong]}, tags={"dsqlcdc:pipeline": "orders"})
    found = remedy("ROLE_ACCESS_DENIED", desired(), observed(stream, role=ours))
    assert len(found.actions[0].after["Statement"]) == 1


def test_a_denial_is_left_to_whoever_wrote_it() -> None:
    deny = {"Effect": "Deny", "Principal": "*", "Action": "sts:AssumeRole"}
    stream = cdc("IMPAIRED", "ROLE_ACCESS_DENIED")
    assert not remedy("ROLE_ACCESS_DENIED", desired(), observed(stream, role=role(trust={"Statement": [deny]}))).can_apply
    stream = cdc("IMPAIRED", "KINESIS_ACCESS_DENIED")
    policy = {"Statement": [{"Effect": "Deny", "Action": "kinesis:*", "Resource": "*"}]}
    assert not remedy("KINESIS_ACCESS_DENIED", desired(), observed(stream, role=role(inline={"no": policy}))).can_apply


def test_a_role_that_is_gone_is_made_again() -> None:
    stream = cdc("IMPAIRED", "ROLE_ACCESS_DENIED")
    found = remedy("ROLE_ACCESS_DENIED", desired(), observed(stream, role=None))
    assert [action.kind for action in found.actions] == ["role", "policy"]


@pytest.mark.parametrize("code", ["ROLE_ACCESS_DENIED", "KINESIS_ACCESS_DENIED"])
def test_a_role_that_is_right_is_left_alone(code: str) -> None:
    found = remedy(code, desired(), observed(cdc("IMPAIRED", code)))
    assert not found.can_apply


def test_a_key_that_is_not_enabled_is_for_people() -> None:
    stream = cdc("IMPAIRED", "KINESIS_KMS_ACCESS_DENIED")
    for state, verb in (("Disabled", "enable-key"), ("PendingDeletion", "cancel-key-deletion")):
        seen = observed(stream, target=target(kms_key=KEY), key=KeyState(arn=KEY, state=state))
        found = remedy("KINESIS_KMS_ACCESS_DENIED", desired(), seen)
        assert verb in found.actions[0].command
        assert not found.can_apply
        assert_exists(found.actions[0].command)
