"""`dsqlcdc stream` as a user types it, against the embedded AWS."""

from __future__ import annotations

import re
from typing import Any

import pytest

from dsqlcdc.testing.local import LocalAws

from .conftest import Answer, Project


@pytest.fixture
def cluster(empty: str, project: Project) -> str:
    """An ACTIVE cluster in an otherwise empty account, and a config for it."""
    project.write(f"stream: {{cluster: {empty}, tags: {{team: shop}}}}\n")
    return empty


def changed(answer: Answer) -> list[tuple[str, str]]:
    return [(change["action"], change["resource"]) for change in answer.json["changes"]]


ALL = [
    ("create", "kinesis_stream"),
    ("update", "kinesis_stream"),
    ("create", "iam_role"),
    ("update", "iam_role"),
    ("create", "cdc_stream"),
]


def test_from_an_empty_account_to_rows_that_are_delivered(project: Project, server: LocalAws, cluster: str) -> None:
    planned = project.run("stream", "plan", "CONFIG", "--json")
    assert (planned.code, changed(planned), planned.json["stream"]["id"], planned.json["obstacle"]) == (0, ALL, None, None)
    assert project.run("stream", "status", "CONFIG").code == 1
    applied = project.run("stream", "apply", "CONFIG", "--yes", "--json")
    assert (applied.code, changed(applied)) == (0, ALL)
    assert set(applied.json) == {"changes", "stream"}
    assert {frozenset(change) for change in applied.json["changes"]} == {frozenset({"action", "resource", "name", "detail"})}
    stream = applied.json["stream"]
    assert (stream["cluster"], stream["status"], stream["reason"]) == (cluster, "ACTIVE", None)
    assert "CDC stream" in applied.err
    again = project.run("stream", "apply", "CONFIG", "--json")  # asks nothing: there is nothing to do
    assert (again.code, again.json) == (0, {"changes": [], "stream": stream})
    assert "Nothing to do" in again.err
    told = project.run("stream", "status", "CONFIG", "--json")
    created = told.json["created_at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", created)
    target = "arn:aws:kinesis:us-east-1:123456789012:stream/orders-cdc"
    assert (told.code, told.json) == (0, {**stream, "remedy": None, "target": target, "created_at": created})
    server.commit(cluster=cluster, transactions=20)
    ran = project.run("run", "CONFIG", "--once", "--json")
    assert ran.code == 0
    assert ran.json["sinks"]["lake"]["settled"]["delivered"] >= 20


def test_a_failed_stream_is_named_with_its_remedy_and_recreated_with_a_gap(project: Project, server: LocalAws, cluster: str) -> None:
    first = project.run("stream", "apply", "CONFIG", "--yes", "--json").json["stream"]
    server.control("cdc", cluster=cluster, stream=first["id"], fail="KINESIS_STREAM_NOT_FOUND")
    told = project.run("stream", "status", "CONFIG", "--json")
    assert (told.code, told.json["status"], told.json["reason"]["error"]) == (1, "FAILED", "KINESIS_STREAM_NOT_FOUND")
    assert told.json["remedy"]["error"] == "KINESIS_STREAM_NOT_FOUND"
    assert "--replace" in project.run("stream", "status", "CONFIG").err
    refused = project.run("stream", "apply", "CONFIG", "--yes")
    assert (refused.code, "E174" in refused.err, "--replace" in refused.err) == (1, True, True)
    assert project.run("gaps", "CONFIG").code == 0
    replaced = project.run("stream", "apply", "CONFIG", "--replace", "--yes", "--json")
    assert (replaced.code, changed(replaced), replaced.json["stream"]["status"]) == (3, [("replace", "cdc_stream")], "ACTIVE")
    gaps = project.run("gaps", "CONFIG", "--json")
    assert gaps.code == 3
    assert (gaps.json["kind"], gaps.json["after"], gaps.json["until"]) == ("recreated", first["id"], replaced.json["stream"]["id"])
    assert gaps.json["to_time"] > gaps.json["from_time"]
    assert project.run("stream", "apply", "CONFIG", "--json").code == 0


MENDED = {
    "ROLE_ACCESS_DENIED": ("update", "iam_role"),
    "KINESIS_ACCESS_DENIED": ("update", "iam_role"),
    "KINESIS_OVERSIZE_RECORD": ("update", "kinesis_stream"),
}


@pytest.mark.parametrize("reason", MENDED)
def test_apply_mends_what_impairs_the_stream_and_waits_until_it_is_active(
    project: Project, server: LocalAws, cluster: str, reason: str
) -> None:
    made = project.run("stream", "apply", "CONFIG", "--yes", "--json").json["stream"]
    server.control("cause", cluster=cluster, stream=made["id"], reason=reason)
    told = project.run("stream", "status", "CONFIG", "--json")
    assert (told.code, told.json["status"], told.json["reason"]["error"]) == (1, "IMPAIRED", reason)
    assert told.json["remedy"]["error"] == reason
    applied = project.run("stream", "apply", "CONFIG", "--yes", "--json")
    assert (applied.code, changed(applied), applied.json["stream"]["status"]) == (0, [MENDED[reason]], "ACTIVE")


def test_apply_does_not_wait_for_what_it_cannot_mend(project: Project, server: LocalAws, cluster: str) -> None:
    made = project.run("stream", "apply", "CONFIG", "--yes", "--json").json["stream"]
    server.control("cause", cluster=cluster, stream=made["id"], reason="INTERNAL_ERROR")
    applied = project.run("stream", "apply", "CONFIG", "--yes", "--json")
    assert (applied.code, applied.json["changes"], applied.json["stream"]["status"]) == (1, [], "IMPAIRED")
    assert "E178" in applied.err
    assert "INTERNAL_ERROR" in applied.err


def test_a_target_that_was_deleted_is_made_again_with_the_stream(project: Project, server: LocalAws, cluster: str) -> None:
    made = project.run("stream", "apply", "CONFIG", "--yes", "--json").json["stream"]
    server.control("cause", cluster=cluster, stream=made["id"], reason="KINESIS_STREAM_NOT_FOUND")
    assert project.run("stream", "status", "CONFIG", "--json").json["status"] == "FAILED"
    applied = project.run("stream", "apply", "CONFIG", "--replace", "--yes", "--json")
    assert (applied.code, changed(applied)[0], changed(applied)[-1]) == (3, ("create", "kinesis_stream"), ("replace", "cdc_stream"))
    assert project.run("stream", "status", "CONFIG").code == 0


def test_delete_keeps_the_kinesis_stream_unless_all(project: Project, cluster: str) -> None:
    project.run("stream", "apply", "CONFIG", "--yes")
    deleted = project.run("stream", "delete", "CONFIG", "--yes", "--json")
    assert (deleted.code, changed(deleted)) == (0, [("delete", "cdc_stream"), ("delete", "iam_role")])
    assert "--all" in deleted.err
    assert changed(project.run("stream", "delete", "CONFIG", "--all", "--yes", "--json")) == [("delete", "kinesis_stream")]
    assert "Nothing to delete" in project.run("stream", "delete", "CONFIG", "--all").err


@pytest.mark.parametrize("command", ["apply", "delete"])
def test_what_changes_things_asks_first(project: Project, cluster: str, command: str) -> None:
    if command == "delete":
        project.run("stream", "apply", "CONFIG", "--yes")
    answer = project.run("stream", command, "CONFIG")
    assert (answer.code, "--yes" in answer.err, answer.out) == (2, True, "")
    assert "cdc_stream" in answer.err  # shown before it asks
    after = project.run("stream", "status", "CONFIG").code
    assert after == (0 if command == "delete" else 1)


def test_an_obstacle_is_told_by_plan_and_apply(project: Project, server: LocalAws, cluster: str) -> None:
    server.control("cdc", cluster=cluster, status="IDLE")
    planned = project.run("stream", "plan", "CONFIG", "--json")
    assert (planned.code, planned.json["obstacle"]["code"]) == (1, "DSQLCDC-E172")
    shown = project.run("stream", "plan", "CONFIG")
    assert (shown.code, "stream apply" in shown.err, "psql" in shown.err) == (1, False, True)
    applied = project.run("stream", "apply", "CONFIG", "--yes")
    assert (applied.code, "psql" in applied.err) == (1, True)


def test_state_in_dynamodb_is_made_too(project: Project, cluster: str) -> None:
    state = "state: {type: dynamodb, table: dsqlcdc}\nfragments: {type: memory}\n"
    project.write(f"stream: {{cluster: {cluster}}}\n{state}")
    assert changed(project.run("stream", "plan", "CONFIG", "--json"))[0] == ("create", "dynamodb_table")
    assert changed(project.run("stream", "apply", "CONFIG", "--yes", "--json"))[0] == ("create", "dynamodb_table")
    assert changed(project.run("stream", "apply", "CONFIG", "--json")) == []
    assert project.run("gaps", "CONFIG").code == 0


def test_memory_state_cannot_keep_the_gap_of_a_replacement(project: Project, server: LocalAws, cluster: str) -> None:
    project.write(f"stream: {{cluster: {cluster}}}\nstate: {{type: memory}}\n")
    made: Any = project.run("stream", "apply", "CONFIG", "--yes", "--json").json["stream"]
    server.control("cdc", cluster=cluster, stream=made["id"], fail="INTERNAL_ERROR")
    answer = project.run("stream", "apply", "CONFIG", "--replace", "--yes")
    assert (answer.code, "E177" in answer.err) == (1, True)


def test_a_config_without_the_block_says_so(project: Project) -> None:
    project.write()
    for command in ("plan", "apply", "status", "delete"):
        answer = project.run("stream", command, "CONFIG")
        assert (answer.code, "E041" in answer.err) == (2, True)


def test_a_deadline_that_is_no_time_is_a_mistake_of_usage(project: Project, cluster: str) -> None:
    assert project.run("stream", "apply", "CONFIG", "--deadline", "soon").code == 2


def test_nothing_said_holds_a_secret(project: Project, server: LocalAws, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t-of-the-account")
    server.fault("error", service="dsql", operation="CreateStream", code="AccessDeniedException", status=403, message="s3cr3t=denied")
    answer = project.run("stream", "apply", "CONFIG", "--yes", "--json")
    assert answer.code == 1
    assert "s3cr3t-of-the-account" not in answer.out + answer.err


def test_a_stream_that_is_not_well_is_never_as_it_should_be(project: Project, server: LocalAws, cluster: str) -> None:
    made: Any = project.run("stream", "apply", "CONFIG", "--yes", "--json").json["stream"]
    server.control("cdc", cluster=cluster, stream=made["id"], impair="INTERNAL_ERROR")
    for command in ("plan", "status"):
        answer = project.run("stream", command, "CONFIG")
        said = answer.out + answer.err
        assert all(word in said for word in ("IMPAIRED", "INTERNAL_ERROR", "AWS Support", "is kept until 2", "days from now")), said
    assert "Nothing to do" not in project.run("stream", "plan", "CONFIG").err
    assert "is kept until 2" in project.run("stream", "watch", "CONFIG", "--once").err
    server.control("cdc", cluster=cluster, stream=made["id"], fail="KINESIS_STREAM_NOT_FOUND")
    for words in (["plan"], ["status"], ["watch", "--once"]):
        said = project.run("stream", *words, "CONFIG").err
        assert ("dsqlcdc stream apply DIR/dsqlcdc.yaml --replace" in said, "CONFIG" in said) == (True, False), said


def test_a_cluster_that_is_not_there_is_said_and_nothing_is_deleted(project: Project, cluster: str) -> None:
    project.run("stream", "apply", "CONFIG", "--yes")
    project.write("stream: {cluster: nobody2s2cluster2in2nobody}\n")
    for words in (["status"], ["status", "--json"], ["watch", "--once"], ["delete", "--all", "--yes"]):
        answer = project.run("stream", *words, "CONFIG")
        assert (answer.code, "E171" in answer.err, "stream apply" in answer.err) == (1, True, False), answer
    project.write(f"stream: {{cluster: {cluster}}}\n")
    assert project.run("stream", "status", "CONFIG").code == 0
