"""`dead replay` beside a daemon and killed anywhere: the lake stays exact, and every letter is dealt with in the end."""

from __future__ import annotations

import random
import signal
from typing import Any

import pytest

from .world import TABLES, World, lake

MODEL = "acceptance_strict"


@pytest.fixture
def strict(world: World) -> dict[str, Any]:
    """Tables whose rows no model takes."""
    (world.directory / f"{MODEL}.py").write_text("from dsqlcdc.columns import Row, Text\n\nclass Strict(Row):\n    never: Text\n")
    world.environ = {**world.environ, "PYTHONPATH": str(world.directory)}
    return {table: {**rule, "model": f"{MODEL}:Strict"} for table, rule in TABLES.items()}


def letters(world: World, *folder: str) -> list[str]:
    at = world.directory.joinpath("dead-letters", *folder)
    found = [path.relative_to(at) for path in at.rglob("*.json.gz")]
    return [str(path) for path in found if folder or path.parts[0] not in ("replayed", "discarded")]


@pytest.mark.slow
def test_replays_killed_anywhere_beside_a_daemon_leave_an_exact_lake(world: World, strict: dict[str, Any]) -> None:
    chance = random.Random(5)
    world.configure(tables=strict)
    world.commit(70, duplicates=0.2, tables=["app.users", "app.notes"])
    world.once().expect(4)
    dead = letters(world)
    assert len(dead) > 60
    world.configure(sinks={"lake": lake(age="300ms")})
    daemon = world.daemon()
    kills = 0
    with world.writing(20, reshards=False, tables=["app.users", "app.notes"]):
        while letters(world):
            replay = world.start("dead", "replay", str(world.config), "--yes", "--json", "--rate", "60")
            if kills < 5:
                told = chance.randint(0, 9)
                replay.until(lambda replay=replay, told=told: len(replay.out.splitlines()) >= told, "letters are told")  # type: ignore[misc]
                replay.kill()
                kills += 1
            else:
                replay.end(within=60.0)
                assert replay.process.returncode == 0, replay.err
    assert kills == 5
    assert sorted(letters(world, "replayed")) == sorted(dead)
    daemon.until(lambda: world.settled() > 0 and not world.status()["open"], "all is settled")
    assert not world.status()["reason"]
    daemon.end(signal.SIGTERM).expect(0)
    world.once().expect(0)
    world.exact()
    assert world.run("dead", "list", str(world.config), "--json").expect(0).lines == []


def test_the_same_stream_read_once_more_under_the_mended_config_adds_nothing(world: World, strict: dict[str, Any]) -> None:
    """Replay, then a reset to the beginning: what was dead is read again, and the lake has it already."""
    world.configure(tables=strict)
    world.commit(40, tables=["app.users"])
    world.once().expect(4)
    world.configure()
    world.run("dead", "replay", str(world.config), "--yes").expect(0)
    world.exact()
    world.run("checkpoint", "reset", str(world.config), "--sink", "lake", "--to", "trim_horizon", "--yes").expect(0)
    done = world.once().expect(0)
    assert done.json["sinks"]["lake"]["settled"]["delivered"] == 0
    world.exact()
