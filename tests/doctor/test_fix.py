"""`doctor --fix`: shows, asks, does, looks again; and never what would lose changes."""

from __future__ import annotations

import json

import msgspec
import pytest

from dsqlcdc.doctor.finding import KINDS, Finding
from dsqlcdc.doctor.fixes import STEPS, steps_of, with_fixes
from dsqlcdc.errors import Misconfigured
from dsqlcdc.streams.observed import CODES
from dsqlcdc.streams.plan import Action, Plan
from tests.streams.scenes import cdc

from .conftest import ROLE, STREAM, Shop


def _break(shop: Shop) -> None:
    """The trust policy names the cluster, the role may not write, and the stream forgets after a day."""
    role = shop.ask("iam", lambda iam: iam.get_role(RoleName=ROLE))["Role"]
    trust = json.dumps(role["AssumeRolePolicyDocument"]).replace("/stream/*", "")
    shop.ask("iam", lambda iam: iam.update_assume_role_policy(RoleName=ROLE, PolicyDocument=trust))
    shop.ask("iam", lambda iam: iam.delete_role_policy(RoleName=ROLE, PolicyName=f"dsqlcdc-write-{STREAM}"))
    shop.aws.rules(retry=0.2)
    shop.aws.commit(cluster=shop.cluster, transactions=3)


def test_fix_mends_and_a_second_doctor_is_ok(shop: Shop) -> None:
    _break(shop)
    broken = shop.findings("error")
    assert broken.keys() == {"E419", "ROLE_ACCESS_DENIED"}
    assert all(finding["fixable"] for finding in broken.values())
    code, told, said = shop.doctor("--fix", "--yes")
    assert (code, told) == (0, {"ok": True, "findings": []})
    assert f"cluster/{shop.cluster}/stream/*" in said.partition("+")[2]
    assert shop.doctor()[0] == 0


def test_fix_asks_and_changes_nothing_where_nobody_answers(shop: Shop) -> None:
    _break(shop)
    code, told, said = shop.doctor("--fix")
    assert (code, told) == (2, {})
    assert "--fix --yes" in said
    assert {"E419", "ROLE_ACCESS_DENIED"} <= shop.findings("error").keys()


def test_a_failed_stream_is_left_to_whoever_says_replace(shop: Shop) -> None:
    stream = shop.stream_id()
    shop.aws.cdc(shop.cluster, stream, fail="INTERNAL_ERROR")
    code, told, said = shop.doctor("--fix", "--yes")
    assert (code, [one["fixable"] for one in told["findings"]]) == (1, [False])
    assert "nothing that --fix can do" in said
    assert shop.stream_id() == stream


def test_every_finding_that_fix_mends_is_one_that_there_is() -> None:
    assert STEPS.keys() <= KINDS.keys() | {*CODES}


@pytest.mark.parametrize("step", sorted({step for steps in STEPS.values() for step in steps}))
def test_a_finding_is_fixable_when_the_plan_has_its_step_and_nothing_stands_in_the_way(step: str) -> None:
    findings = [Finding(code=code, severity="error", what="x") for code in STEPS]
    plan = Plan(actions=[Action(action="update", resource="iam_role", name="x", detail="", step=step)], stream=cdc())  # type: ignore[arg-type]
    assert {one.code for one in with_fixes(findings, steps_of(plan)) if one.fixable} == {code for code in STEPS if step in STEPS[code]}
    blocked = msgspec.structs.replace(plan, obstacle=Misconfigured("no"))
    assert not any(one.fixable for one in with_fixes(findings, steps_of(blocked)))


def test_what_loses_changes_is_no_fix() -> None:
    lost = Plan(actions=[Action(action="replace", resource="cdc_stream", name="x", detail="", step="replace")], stream=cdc("FAILED"))
    assert steps_of(lost) == set()
