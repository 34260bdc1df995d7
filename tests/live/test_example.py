"""examples/search_index as it stands: the lines of its README, run one after the other, show exactly the database's rows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..acceptance.server import ServerProcess
from .node import Node

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "search_index"
TABLE = "public.orders"


def test_the_example_shows_the_rows_of_the_database_before_and_after_a_rebuild(tmp_path: Path, server: ServerProcess, node: Node) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "example")
    server.reset()
    pipe = server.pipe("orders-cdc", shards=3)
    server.commit(transactions=150, tables=[TABLE], duplicates=0.1, disorder=20)
    environ = {**server.environ, "STREAM": "orders-cdc", "SEARCH_URL": node.url, "NO_COLOR": "1"}
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"

    def run(line: str) -> str:
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path / "example", env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    lint, once, everything, some, rebuild = lines()
    rows = [
        {name: value for name, value in (change.row or {}).items() if value is not None} for change in server.state(pipe.cluster, TABLE)
    ]
    deleted = [change for change in server.changes(pipe.cluster) if change.op == "d"]
    assert len(rows) > 50
    assert deleted

    run(lint)
    run(once)
    for step in ("", rebuild):
        run(step or "true")
        assert same(rows, run(everything))
        assert same([row for row in rows if (row.get("quantity") or 0) > 10], run(some))

    server.commit(transactions=20, tables=[TABLE])
    run(once)
    rows = [
        {name: value for name, value in (change.row or {}).items() if value is not None} for change in server.state(pipe.cluster, TABLE)
    ]
    assert same(rows, run(everything))


def lines() -> list[str]:
    """The commands of the example's README."""
    blocks = re.findall(r"```bash\n(.*?)```", (EXAMPLE / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def same(rows: list[dict[str, object]], printed: str) -> bool:
    found = [{name: value for name, value in json.loads(line).items() if value is not None} for line in printed.splitlines()]
    return sorted(map(json.dumps, map(sorted_row, rows))) == sorted(map(json.dumps, map(sorted_row, found)))


def sorted_row(row: dict[str, object]) -> dict[str, object]:
    return dict(sorted(row.items()))
