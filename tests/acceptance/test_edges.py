"""Edges of a run's life: drains that cannot end, readers that leave, credentials that are renewed, order, typed rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from .command import DSQLCDC
from .world import STREAM, World, lake, total

PROCESS = """\
import json, pathlib, sys
asked = pathlib.Path(sys.argv[1])
with asked.open("a") as file:
    file.write("asked\\n")
number = len(asked.read_text().splitlines())
print(json.dumps({"Version": 1, "AccessKeyId": f"KEY{number}", "SecretAccessKey": "secret-of-a-process", "SessionToken": f"token-{number}",
                  "Expiration": "2020-01-01T00:00:00Z" if number == 1 else "2099-01-01T00:00:00Z"}))
"""


def test_credentials_of_a_process_are_renewed_while_it_runs(world: World) -> None:
    program, asked = world.directory / "credentials.py", world.directory / "asked"
    program.write_text(PROCESS)
    settings = world.directory / "aws-config"
    settings.write_text(f"[profile short]\nregion = us-east-1\ncredential_process = {sys.executable} {program} {asked}\n")
    world.configure(aws={"profile": "short", "region": "us-east-1", "endpoint_url": world.server.endpoint})
    world.commit(50)
    world.environ = {name: value for name, value in world.server.environ.items() if not name.startswith("AWS_")}
    world.environ |= {"AWS_CONFIG_FILE": str(settings), "AWS_EC2_METADATA_DISABLED": "true"}
    done = world.once().expect(0)
    assert len(asked.read_text().splitlines()) >= 2
    assert "secret-of-a-process" not in done.err + done.out
    world.exact()


def test_without_credentials_it_says_so_and_ends_with_1(world: World) -> None:
    world.environ = {name: value for name, value in world.server.environ.items() if not name.startswith("AWS_")}
    world.environ |= {"AWS_ENDPOINT_URL": world.server.endpoint, "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    world.environ |= {"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "HOME": str(world.directory)}
    done = world.run("run", str(world.config), "--once").expect(1)
    assert "credentials" in done.err
    assert "Run: " in done.err
    assert "Traceback" not in done.err


def test_a_once_that_is_told_to_stop_commits_what_it_has_done(world: World) -> None:
    world.configure(sinks={"lake": lake(records=100)})
    world.commit(1500)
    started = world.start("run", str(world.config), "--once", "--json")
    started.until(lambda: world.settled() > 200, "records are settled")
    stopped = started.end(signal.SIGTERM).expect(0)
    delivered = len(world.lines())
    assert total(stopped.json, "delivered") == delivered
    rest = world.once().expect(0)
    assert total(rest.json, "delivered") == world.exact().rows - delivered


@pytest.mark.soak
def test_a_drain_that_cannot_end_is_given_up_at_its_deadline(world: World) -> None:
    world.commit(100)
    daemon = world.daemon()
    daemon.until(lambda: world.settled() > 50, "records are settled")
    world.server.fault("error", service="s3", operation="PutObject", times=0, status=503, code="SlowDown")
    world.commit(100)
    daemon.until(lambda: world.status()["open"] > 0, "something is in flight")
    ended = daemon.end(signal.SIGTERM, within=45).expect(0)
    assert "not drained within 30 s" in ended.err
    world.server.control("faults/clear")
    world.once().expect(0)
    world.exact()


def test_a_reader_of_stdout_that_leaves_ends_it_plainly(world: World) -> None:
    """`dsqlcdc run … | head -3`"""
    world.configure(sinks={"print": {"type": "stdout"}})
    world.commit(100, oversize=2)  # more than any pipe holds
    reading, writing = os.pipe()
    with (world.directory / "piped.err").open("wb") as err:
        process = subprocess.Popen(
            [DSQLCDC, "run", str(world.config), "--once", "--plain"], env=world.environ, stdout=writing, stderr=err, cwd=world.directory
        )
    os.close(writing)
    with os.fdopen(reading, "rb") as out:
        first = [json.loads(out.readline()) for _ in range(3)]
    assert all(line["table"] for line in first)
    assert process.wait(30) == 1
    said = (world.directory / "piped.err").read_text()
    assert "standard output is closed" in said
    assert "Traceback" not in said


def test_stdout_carries_the_changes_and_nothing_else(world: World) -> None:
    world.configure(sinks={"print": {"type": "stdout", "raw": True}})
    world.commit(200, oversize=1)
    done = world.run("run", str(world.config), "--once").expect(0)
    found = {(line["schema"], line["table"], line["version"]) for line in done.lines}
    assert found == {(change.schema, change.table, change.version) for change in world.changes()}
    assert all(line["raw"] for line in done.lines)


def test_the_latest_of_every_row_gets_through_whatever_comes_late(world: World) -> None:
    world.configure(sinks={"lake": {**lake(), "order": "latest"}})
    world.commit(300, disorder=200)
    done = world.once().expect(0)
    assert total(done.json, "stale") > 0
    assert newest((f"{line['schema']}.{line['table']}", line["key"], line["version"]) for line in world.lines()) == newest(
        (f"{change.schema}.{change.table}", change.key, change.version) for change in world.changes()
    )


def newest(changes: Iterable[tuple[str, Mapping[str, Any] | None, int]]) -> dict[tuple[str, str], int]:
    """The newest version of every row that has a key."""
    found: dict[tuple[str, str], int] = {}
    for table, key, version in changes:
        if key is not None:
            name = table, json.dumps(key, sort_keys=True)
            found[name] = max(version, found.get(name, 0))
    return found


MODEL = """\
from dsqlcdc.columns import BigInt, Boolean, Numeric, Row, Text, Timestamptz


class Account(Row):
    id: BigInt
    owner: Text | None
    balance: Numeric | None
    active: Boolean | None


class Order(Row):
    order_id: BigInt
    item_id: BigInt
    placed_at: Timestamptz | None
"""


def test_a_row_model_writes_the_documented_form_and_buries_what_does_not_fit(world: World) -> None:
    (world.directory / "acceptance_models.py").write_text(MODEL)
    world.environ = {**world.server.environ, "PYTHONPATH": str(world.directory)}
    tables = {
        "public.orders": {"key": ["order_id", "item_id"], "model": "acceptance_models:Order"},
        "public.accounts": {"key": ["id"], "model": "acceptance_models:Account"},
    }
    world.configure(tables=tables, sinks={"lake": lake(tables=["public.orders", "public.accounts"])})
    world.commit(200, deviations=0.0)
    wrong = {"op": "c", "after": {"id": "seven"}, "source": {"ts_ns": 1, "schema": "public", "table": "accounts"}}
    world.server.record(STREAM, json.dumps(wrong).encode())
    done = world.once().expect(4)
    assert total(done.json, "dead") == 1
    (letter,) = world.run("dead", "list", str(world.config), "--json").expect(0).lines
    assert (letter["code"], letter["table"]) == ("bad_row", "public.accounts")
    placed = [line["row"]["placed_at"] for line in world.lines() if line["table"] == "orders" and line["row"]]
    assert placed
    assert all(at is None or at.endswith("infinity") or at.endswith("Z") for at in placed)
    wanted = {(c.table, c.version) for c in world.changes() if c.schema == "public" and c.table in ("orders", "accounts")}
    assert {(line["table"], line["version"]) for line in world.lines()} == wanted


def test_two_pipelines_with_states_of_their_own_do_not_meet(world: World) -> None:
    world.commit(100)
    world.once().expect(0)
    text = world.config.read_text().replace('"acceptance"', '"another"').replace("cdc/", "another/")
    world.config.write_text(text)
    world.once().expect(0)
    world.exact()
    world.exact("another/")
