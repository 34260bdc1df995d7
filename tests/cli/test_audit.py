"""`audit verify` and its kin where there is nothing, or not what is meant: each says so, and what to do."""

from __future__ import annotations

import botocore.session
import pytest

from dsqlcdc.testing.local import LocalAws

from .conftest import Project

LAKE = "{type: s3, bucket: lake, prefix: cdc/}"
HOOK = "{type: webhook, url: 'https://a.example/', secrets: [whsec_QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=]}"


@pytest.fixture
def account(project: Project, local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> Project:
    for name, value in local_aws.environ.items():
        monkeypatch.setenv(name, value)
    local_aws.pipe("orders-cdc", shards=1)
    botocore.session.get_session().create_client("s3").create_bucket(Bucket="lake")
    return project


def configured(project: Project, **sinks: str) -> None:
    named = ", ".join(f"{name}: {sink}" for name, sink in sinks.items())
    project.config.write_text(
        f"pipeline: orders-cdc\nsource: {{stream: orders-cdc, start: trim_horizon}}\nsinks: {{{named}}}\n", encoding="utf-8"
    )


def test_a_place_where_nobody_wrote_is_not_whole(account: Project) -> None:
    configured(account, lake=LAKE)
    answer = account.run("audit", "verify", "CONFIG")
    assert (answer.code, answer.out) == (1, "")
    assert "DSQLCDC-E392 there is nothing to verify, s3://lake/cdc/" in answer.err
    assert account.run("run", "CONFIG", "--once").code == 0
    assert "whole" in account.run("audit", "verify", "CONFIG").out, "control: a lake that holds no row is one"
    answer = account.run("audit", "verify", "CONFIG", "--from", "2096-01-01T00:00:00Z")
    assert answer.code == 1
    assert "no period of the lake ends in that time" in answer.err


@pytest.mark.parametrize("command", ["verify", "digest", "transactions", "compact", "ddl"])
def test_which_lake_is_meant_must_be_plain(project: Project, command: str) -> None:
    more = {"compact": ["--yes"], "ddl": ["--duckdb"]}.get(command, [])
    configured(project, hook=HOOK)
    answer = project.run("audit", command, "CONFIG", *more)
    assert answer.code == 2
    assert (
        "DSQLCDC-E391 there is no lake, DIR/dsqlcdc.yaml: a lake is what a sink of type s3 writes, and its sinks are hook (webhook)."
        in answer.err
    )
    configured(project, lake=LAKE, more=LAKE.replace("cdc/", "more/"))
    assert (
        "there are several lakes, DIR/dsqlcdc.yaml: say which: --sink lake or --sink more."
        in project.run("audit", command, "CONFIG", *more).err
    )
    answer = project.run("audit", command, "CONFIG", "--sink", "lak", *more)
    assert "there is no such lake, --sink lak: the config has --sink lake or --sink more." in answer.err
