"""The pure checks: a healthy account has no finding, and each thing that is wrong has its own."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.core.records import Record
from dsqlcdc.core.tables import Rule, Tables
from dsqlcdc.doctor.finding import KINDS, Finding, of_fault
from dsqlcdc.doctor.keeping import check_age, check_writable
from dsqlcdc.doctor.reading import check_budget
from dsqlcdc.doctor.role import check_role
from dsqlcdc.doctor.stream import Seen, check_cdc_stream, check_cluster, check_retention, check_target
from dsqlcdc.doctor.tables import ENOUGH, Sample, Wants, check_tables, sample_of
from dsqlcdc.errors import Misconfigured, Unavailable
from dsqlcdc.streams.observed import CODES, ClusterState, KeyState, Observed
from dsqlcdc.testing.records import full
from tests.streams.scenes import ACCOUNT, CLUSTER, KEY, NOW, REGION, cdc, desired, observed, role, target

DENY = {"Effect": "Deny", "Action": "kinesis:*", "Resource": "*"}
CLUSTER_ARN = f"arn:aws:dsql:{REGION}:{ACCOUNT}:cluster/{CLUSTER}"


def checked(seen: Observed, *, boundary: Any = None, cluster_key: KeyState | None = None, unknown: Any = (), **given: Any) -> list[Finding]:
    wanted, sight = desired(**given), Seen(observed=seen, unknown=unknown, cluster_key=cluster_key)
    return [
        *check_cluster(wanted, sight),
        *check_cdc_stream(wanted, sight, NOW),
        *check_target(wanted, sight),
        *check_role(wanted, sight, boundary),
    ]


def codes(*given: Any, **more: Any) -> list[str]:
    return [one.code for one in checked(*given, **more)]


def test_a_healthy_account_has_no_finding() -> None:
    assert codes(observed(cdc())) == []
    assert codes(observed(cdc(), target=target(kms_key=KEY), key=KeyState(arn=KEY, state="Enabled"), role=role(inline=_all()))) == []


def _all() -> dict[str, Any]:
    return {"all": {"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}}


def _cluster(status: str = "ACTIVE", key: str = "") -> ClusterState:
    return ClusterState(id=CLUSTER, arn=CLUSTER_ARN, status=status, kms_key=key)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (observed(cluster=None), ["E400"]),
        (observed(cdc(), cluster=_cluster("DELETING")), ["E401"]),
        (observed(cluster=_cluster("INACTIVE")), ["E401", "E402"]),
        (observed(), ["E402"]),
        (observed(cdc("DELETING")), ["E402"]),
        (observed(cdc("CREATING")), ["E403"]),
        (observed(cdc("FAILED")), ["E403"]),
        (observed(cdc("SOMETHING")), ["E403"]),
        (observed(cdc("IMPAIRED", "NEVER_HEARD_OF")), ["NEVER_HEARD_OF"]),
        (observed(cdc(), cdc(id="second", created_at=NOW)), ["E404"]),
        (observed(cdc("FAILED", "INTERNAL_ERROR"), cdc(id="second", created_at=NOW)), []),
        (observed(cdc(), target=None), ["E406"]),
        (observed(cdc(), target=target(max_record_kib=1024)), ["E407"]),
        (observed(cdc(), target=target(mode="provisioned")), ["E408"]),
        (observed(cdc(), target=target(retention_hours=24)), ["E409"]),
        (observed(cdc(), target=target(kms_key=KEY), role=role(inline=_all())), ["E411"]),
        (
            observed(cdc(), target=target(kms_key=KEY), key=KeyState(arn=KEY, state="Disabled"), role=role(inline=_all())),
            ["E411"],
        ),
        (observed(cdc(), cluster=_cluster(key=KEY)), ["E412"]),
        (observed(cdc(), role=None), ["E413"]),
        (observed(cdc(), role=role(trust={})), ["E414"]),
        (observed(cdc(), role=role(inline={})), ["E419"]),
        (observed(cdc(), role=role(inline={**_all(), "no": {"Statement": DENY}})), ["E419"]),
        (observed(cdc(), target=target(kms_key=KEY), key=KeyState(arn=KEY, state="Enabled")), ["E420"]),
        (observed(cdc(), role=role(boundary="arn:aws:iam::123456789012:policy/edge")), ["E421"]),
        (observed(msgspec.structs.replace(cdc(), role=f"arn:aws:iam::{ACCOUNT}:role/other")), ["E422"]),
    ],
)
def test_what_is_wrong_is_found_and_nothing_else(seen: Observed, expected: list[str]) -> None:
    assert codes(seen) == expected


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("status", ["CREATING", "IMPAIRED", "FAILED"])
def test_a_stream_that_is_not_active_carries_the_code_of_its_reason(status: str, code: str) -> None:
    (found,) = [one for one in checked(observed(cdc(status, code))) if one.code == code]
    assert (found.severity, found.as_json()["code"]) == ("error", code)
    assert status in found.what
    assert found.remedy


@given(st.sets(st.sampled_from(["cluster", "streams", "target", "role", "key", "cluster key"])))
def test_of_what_could_not_be_looked_at_nothing_is_said(unknown: set[str]) -> None:
    empty = observed(cluster=None, target=None, role=None)
    kept = {"cluster": {"E400"}, "target": {"E406"}, "role": {"E413"}}
    assert set(codes(empty, unknown=unknown)) == {code for part, found in kept.items() if part not in unknown for code in found}


def test_a_boundary_that_lacks_the_right_takes_it_away() -> None:
    bound = role(boundary="arn:aws:iam::123456789012:policy/edge")
    assert codes(observed(cdc(), role=bound), boundary=_all()["all"]) == []
    assert codes(observed(cdc(), role=bound), boundary={"Statement": []}) == ["E419"]


def test_the_clusters_key_is_judged_by_its_state() -> None:
    keyed = observed(cdc(), cluster=_cluster(key=KEY))
    assert codes(keyed, cluster_key=KeyState(arn=KEY, state="Enabled")) == []
    (found,) = checked(keyed, cluster_key=KeyState(arn=KEY, state="PendingDeletion"))
    assert "cancel-key-deletion" in found.remedy


def test_another_key_than_the_configs_is_found_however_it_is_spelt() -> None:
    enabled = {"target": target(kms_key=KEY), "key": KeyState(arn=KEY, state="Enabled"), "role": role(inline=_all())}
    for spelt in (KEY, KEY.rpartition("/")[2]):
        assert codes(observed(cdc(), **enabled), target={"kms_key": spelt}) == []
    assert codes(observed(cdc()), target={"kms_key": KEY}) == ["E410"]


def test_every_command_of_a_remedy_is_one_line_of_a_shell_with_a_known_program() -> None:
    broken = observed(
        cdc("IMPAIRED", "ROLE_ACCESS_DENIED"), target=target(max_record_kib=1, retention_hours=24, mode="provisioned"), role=role(inline={})
    )
    runs = [line for one in checked(broken) for line in one.remedy.splitlines() if line.startswith("Run: ")]
    assert len(runs) >= 4
    for line in runs:
        assert shlex.split(line.removeprefix("Run: ").partition("), or")[0].partition(" (")[0])[0] in ("aws", "dsqlcdc"), line


def test_a_stream_that_keeps_records_for_a_day_only_is_told_where_the_config_says_nothing() -> None:
    assert [one.code for one in check_retention("s", 24, None)] == ["E409"]
    assert list(check_retention("s", 48, None)) == list(check_retention("s", 24, 24)) == []


@pytest.mark.parametrize(("share", "severity"), [(0.49, None), (0.51, "warning"), (0.95, "error"), (1.2, "error")])
def test_a_checkpoint_is_judged_by_how_much_of_the_retention_is_left(share: float, severity: str | None) -> None:
    found = check_age("lake", share * 86_400, 86_400)
    assert [one.severity for one in found] == ([severity] if severity else [])


def test_throttled_reads_are_told_whoever_saw_them() -> None:
    assert check_budget("s", 0, 0.0, 5.0) == []
    assert [one.code for one in (*check_budget("s", 1, 0.0, 5.0), *check_budget("s", 0, 7.0, 5.0))] == ["E182", "E182"]


def test_what_cannot_be_written_is_found_without_writing(tmp_path: Any) -> None:
    (tmp_path / "file").write_text("")
    assert check_writable("state", tmp_path / "new" / "state.db") == []
    assert [one.code for one in check_writable("state", tmp_path / "file" / "state.db")] == ["E186"]
    assert [one.code for one in check_writable("dead_letters", tmp_path / "file", directory=True)] == ["E186"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_fault_keeps_its_code_and_a_denial_gives_its_statement() -> None:
    denied = Misconfigured("cannot read", why='no. IAM statement to add: {"Effect": "Allow"}', code="E102")
    assert of_fault(denied).remedy.endswith(': {"Effect": "Allow"}')
    assert of_fault(Misconfigured("x", run="aws sts get-caller-identity")).remedy == "Run: aws sts get-caller-identity"
    for fault in (Misconfigured("x"), Unavailable("x")):
        assert of_fault(fault).remedy
        assert of_fault(fault).as_json()["code"] == f"DSQLCDC-{fault.code}"


# ── tables ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def sampled(*records: bytes, **keys: tuple[str, ...]) -> Sample:
    rules = {f"public.{table}": Rule(key=key) for table, key in keys.items()}
    return sample_of((("shard", Record(str(n), data, NOW)) for n, data in enumerate(records)), Tables(rules))


def insert(table: str, **row: Any) -> bytes:
    return full("c", table, row, 10)


def told(sample: Sample, patterns: Any = (), *sinks: Wants) -> Iterator[tuple[str, str]]:
    for one in check_tables(sample, dict(patterns), sinks):
        yield one.code, one.severity


def test_a_table_with_its_key_is_no_finding_and_one_without_is() -> None:
    assert list(told(sampled(insert("public.orders", id=1), orders=("id",)), {"public.orders": ("id",)})) == []
    keyless = sampled(insert("public.orders", id=1))
    assert list(told(keyless)) == [("E430", "warning")]
    assert list(told(keyless, {"public.*": None})) == []
    assert list(told(keyless, {"public.*": None}, Wants(sink="search", needs_key=True))) == [("E430", "error")]
    assert list(told(keyless, {"public.*": None}, Wants(sink="search", tables=("app.*",), needs_key=True))) == []


def test_a_key_that_is_not_in_the_records_is_told_with_the_one_of_the_deletes() -> None:
    delete = full("d", "public.orders", None, 11, before={"order_id": 1, "item_id": 2})
    sample = sampled(insert("public.orders", order_id=1, item_id=2), delete, orders=("id",))
    (found,) = check_tables(sample, {"public.orders": ("id",)}, ())
    assert (found.code, found.severity) == ("E431", "error")
    assert '"public.orders": {key: [order_id, item_id]}' in found.remedy


def test_records_that_cannot_be_read_are_counted_by_reason() -> None:
    found = list(check_tables(sampled(b"{", b"nonsense", b"\xf3\x89\x9a\xc2"), {}, ()))
    assert {one.code for one in found} == {"E433"}
    assert re.search(r"2 of 3 records .* are unreadable", " ".join(one.why for one in found))


def test_a_pattern_that_nothing_matched_is_told_when_enough_was_seen() -> None:
    few = sampled(insert("public.orders", id=1), orders=("id",))
    patterns = {"public.orders": ("id",), "shop.*": ("id",)}
    assert list(told(few, patterns)) == []
    many = msgspec.structs.replace(few, tables={"public.orders": msgspec.structs.replace(few.tables["public.orders"], changes=ENOUGH)})
    lake = Wants(sink="lake", tables=("publik.*",))
    assert [one.where for one in check_tables(many, patterns, [lake])] == ["tables.shop.*", "sinks.lake.tables.publik.*"]


def test_every_kind_is_grave_warning_or_info_and_says_something() -> None:
    assert all(severity in ("error", "warning", "info") and meaning for severity, meaning in KINDS.values())
    assert all(re.fullmatch(r"E(18\d|4[0-4]\d)", code) for code in KINDS)
