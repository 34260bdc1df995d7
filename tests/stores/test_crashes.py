"""kill -9 at any moment: what was acknowledged is there, whole, and the lock is free."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import dsqlcdc
from dsqlcdc.core.ports import Name
from dsqlcdc.errors import Held
from dsqlcdc.stores.fragments import SqliteFragments
from dsqlcdc.stores.sqlite_checkpoints import SqliteCheckpoints

NAME = Name("pipe", "lake", "s")

# Processes that work on a store until they are killed; each line they print is an acknowledgement.

HOLDS = """
import asyncio, sys, time
from dsqlcdc.core.ports import Name
from dsqlcdc.stores.sqlite_checkpoints import SqliteCheckpoints
async def main():
    await SqliteCheckpoints(sys.argv[1], clock=lambda: 1e9).hold(Name("pipe", "lake", "s"))
    print("held", flush=True)
    sys.stdin.read()
asyncio.run(main())
"""

COMMITS = """
import asyncio, os, signal, sys
from dsqlcdc.core.ports import Commit, Memory, Name
from dsqlcdc.core.records import Mark, Position
from dsqlcdc.stores.sqlite_checkpoints import SqliteCheckpoints
async def main():
    name, store = Name("pipe", "lake", "s"), SqliteCheckpoints(sys.argv[1])
    await store.hold(name)
    found = await store.load(name)
    at = int(found.marks["shard"].position.sequence) if found else 0
    left = int(sys.argv[3])  # statements to live after the first commit; -1: until killed
    def tick(statement):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    while True:
        at += 1
        marks, memory = {"shard": Mark(Position("after", str(at)))}, Memory("ids", float(at), at.to_bytes(16, "big") * 500)
        if sys.argv[2] == "two transactions":
            await store.commit(name, Commit(marks))
            await store.commit(name, Commit({}, memory, at - 20.0))
        else:
            await store.commit(name, Commit(marks, memory, at - 20.0, word=str(at).encode()))
        print(at, flush=True)
        if left > 0:
            store._database._connection.set_trace_callback(tick)
asyncio.run(main())
"""

PARKS = """
import asyncio, sys
from dsqlcdc.stores.fragments import SqliteFragments
from dsqlcdc.testing.stores import cut
async def main():
    store, at = SqliteFragments(sys.argv[1], ["a", "b"]), int(sys.argv[2])
    while True:
        for part in cut(f"row-{at}", {"after": [b"x" * 9000, b"y" * 40000]}, arrived=float(at)):
            await store.add("a", part)
            print(f"{part.index} {at}", flush=True)
        await store.done("a", [f"row-{at}"])
        print(f"done {at}", flush=True)
        at += 1
asyncio.run(main())
"""


@contextmanager
def child(code: str, *arguments: str | Path | int) -> Iterator[subprocess.Popen[str]]:
    """Start a process; it is killed at the latest when the block ends."""
    source = str(Path(dsqlcdc.__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
    ) as process:
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def acknowledged(code: str, *arguments: str | Path | int, lines: int | None = None) -> list[str]:
    """Run a child, kill it after so many acknowledgements (None: it kills itself), and give all that it acknowledged."""
    with child(code, *arguments) as process:
        assert process.stdout is not None
        if lines is None:
            found = process.stdout.readlines()
            assert process.wait() == -signal.SIGKILL
        else:
            found = [process.stdout.readline() for _ in range(lines)]
            process.kill()
            found += process.stdout.readlines()
    return [line.strip() for line in found if line.endswith("\n")]


async def life(path: Path, how: str, *, statements: int = -1, lines: int | None = None) -> tuple[int, int, list[int]]:
    """One life: the last acknowledged commit, and then the mark and the memories found by the next runner."""
    last = int(acknowledged(COMMITS, path, how, statements, lines=lines)[-1])
    store = SqliteCheckpoints(path)
    await store.hold(NAME)
    found = await store.load(NAME)
    await store.close()
    assert found is not None
    mark = int(found.marks["shard"].position.sequence)
    assert how == "two transactions" or int(found.word) == mark
    return last, mark, [int.from_bytes(memory.blob[:16], "big") for memory in found.memories]


async def test_what_was_acknowledged_survives_kill_9_and_ids_agree_with_marks(tmp_path: Path) -> None:
    dice = random.Random(3)
    lives: list[dict[str, int]] = [{"lines": dice.randint(1, 60)} for _ in range(6)]
    lives += [{"statements": statement} for statement in range(1, 13)]  # each statement of a commit, and into the next
    for limits in lives:
        last, mark, memories = await life(tmp_path / "state.db", "one transaction", **limits)
        assert last <= mark <= last + 1
        assert memories == list(range(max(1, mark - 20), mark + 1))


async def test_marks_and_ids_in_two_transactions_are_caught_by_kill_9(tmp_path: Path) -> None:
    for statement in range(1, 20):
        _, mark, memories = await life(tmp_path / "state.db", "two transactions", statements=statement)
        if memories[-1:] != [mark]:
            return
    pytest.fail("no statement lies between the two transactions")


async def test_parts_that_were_acknowledged_survive_kill_9(tmp_path: Path) -> None:
    dice, at, path = random.Random(5), 1, tmp_path / "fragments.db"
    for _ in range(4):
        lines = acknowledged(PARKS, path, at, lines=dice.randint(2, 30))
        store = SqliteFragments(path, ["a", "b"])
        kept = {(part.chunk_id, part.index) for part in await store.overdue("b", float("inf"))}
        for line in lines:
            what, row = line.split()
            whole = await store.row(f"row-{row}")
            assert whole or what == "done" or (f"row-{row}", int(what)) in kept
            if what == "done":
                assert [len(part.text) for part in whole] == [0, 9000, 40000]
        done = [line.split()[1] for line in lines if line.startswith("done")]
        for row in done:
            part = (await store.row(f"row-{row}"))[0]
            assert (await store.add("a", part)).state == "done"
        at = max(int(line.split()[1]) for line in lines) + 2
        await store.close()


async def test_a_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = SqliteCheckpoints(path)
    with child(HOLDS, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(Held, match=rf"E201.*pipe/lake: process {process.pid} on .*, since 2001-09-09T01:46:40"):
            await store.hold(NAME)
        await store.hold(Name("pipe", "search", "s"))
        assert await store.load(NAME) is None
    await store.hold(NAME)
    await store.close()
