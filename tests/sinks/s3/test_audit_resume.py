"""A verification that was stopped, killed even, goes on by itself: the same verdict, and never a judgement of what is another by now."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dsqlcdc_s3.audit.progress import Progress

from .auditing import audit
from .lake import Bucket
from .lake_files import row, write
from .served import Served, serving

OBJECTS = 40
COMMAND = Path(sys.executable).with_name("dsqlcdc")
FORMATS = pytest.mark.parametrize("format", ["jsonl", "parquet"])


class Command:
    """`dsqlcdc audit verify` over a served lake."""

    def __init__(self, directory: Path, endpoint: str) -> None:
        self._config = directory / "audit.yaml"
        self.cache = directory / "cache"
        sink = {"type": "s3", "bucket": "lake", "prefix": "cdc/", "endpoint_url": endpoint, "digest": {}}
        body = {"pipeline": "orders-cdc", "aws": {"region": "us-east-1"}, "source": {"stream": "orders"}, "sinks": {"lake": sink}}
        self._config.write_text(json.dumps(body))
        keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_EC2_METADATA_DISABLED": "true"}
        self._environ = {**os.environ, **keys, "XDG_CACHE_HOME": str(self.cache), "TMPDIR": str(directory / "tmp")}
        (directory / "tmp").mkdir(exist_ok=True)

    async def start(self, *more: str) -> asyncio.subprocess.Process:
        words = ("audit", "verify", str(self._config), "--json", *more)
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(COMMAND, *words, env=self._environ, cwd=self._config.parent, stdout=pipe, stderr=pipe)

    async def run(self, *more: str) -> tuple[dict[str, Any], str]:
        """The report, and what it said."""
        process = await self.start(*more)
        out, err = await process.communicate()
        assert out, err.decode()
        return json.loads(out), err.decode()

    def noted(self) -> int:
        """Objects that are noted on disk."""
        (path,) = [
            path
            for path in (self.cache / "dsqlcdc" / "audit").glob("*")
            if "." not in path.name and not path.name.endswith(("-wal", "-shm"))
        ]
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as base:
            return int(base.execute("select count(*) from judged").fetchone()[0])


async def killed(command: Command, served: Served, *more: str) -> int:
    """Kill a verification half way; how many objects it had noted."""
    served.silent_after, served.read[:] = OBJECTS // 2, []
    process = await command.start(*more)
    await _until(lambda: len(served.read) >= OBJECTS // 2 and _noted(command) > 0)
    noted = _noted(command)
    process.kill()
    await process.wait()
    served.silent_after = 10**9
    return noted


async def _until(condition: Callable[[], bool]) -> None:
    """Wait for a process of its own."""
    async with asyncio.timeout(100):
        while not condition():  # noqa: ASYNC110  # nothing tells when a file of another process changes
            await asyncio.sleep(0.05)


def _noted(command: Command) -> int:
    try:
        return command.noted()
    except (ValueError, sqlite3.Error):
        return 0


def same(one: dict[str, Any], other: dict[str, Any], *but: str) -> None:
    left, right = ({name: value for name, value in found.items() if name not in but} for found in (one, other))
    assert left == right


def lake(format: str, start: int = 0, stop: int = OBJECTS) -> list[Sequence[Any]]:
    return [[row(5 * n + m, {"note": "x" * 200}) for m in range(5)] for n in range(start, stop)]


@FORMATS
@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_after_kill_9_the_same_command_goes_on_with_the_same_verdict(format: str, tmp_path: Path) -> None:
    await write(tmp_path / "lake", lake(format), format=format)
    async with serving(tmp_path / "lake") as (served, endpoint):
        command = Command(tmp_path, endpoint)
        whole, _ = await command.run("--deep")
        assert (whole["verdict"], whole["skipped"], whole["rows"]) == ("whole", 0, 5 * OBJECTS)
        assert list((command.cache / "dsqlcdc" / "audit").iterdir()) == [], "the verdict is out"
        noted = await killed(command, served, "--deep")
        served.read.clear()
        again, said = await command.run("--deep")
        assert again["skipped"] == noted > 5
        assert len(served.read) == OBJECTS - noted
        assert f"{noted} objects are as they were" in said
        same(again, whole, "skipped")
        await killed(command, served, "--deep")
        fresh, _ = await command.run("--deep", "--fresh")
        same(fresh, whole)
        assert list((tmp_path / "tmp").iterdir()) == [], "nothing is left, of what was killed neither"


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_what_was_changed_deleted_or_repeated_meanwhile_is_found(tmp_path: Path) -> None:
    await write(tmp_path / "lake", lake("jsonl"))
    async with serving(tmp_path / "lake") as (served, endpoint):
        command = Command(tmp_path, endpoint)
        await killed(command, served)
        one, two, three = sorted((tmp_path / "lake/cdc/data").rglob("*.gz"))[:3]
        body = bytearray(one.read_bytes())
        body[40] ^= 1
        _replace(one, bytes(body))
        two.unlink()
        _replace(three, three.read_bytes())  # the same bytes, put again: judged again
        served.read.clear()
        found, _ = await command.run()
        assert [(finding["code"], Path(finding["where"]).name) for finding in found["findings"]] == [
            ("bytes", one.name),
            ("object", two.name),
        ]
        assert {Path(key).name for key in served.read} >= {one.name, three.name}
        assert found["skipped"] > 5


def left(path: Path) -> list[Path]:
    return list(path.parent.glob(f"{path.name}*"))


def _replace(path: Path, body: bytes) -> None:
    path.unlink()
    path.write_bytes(body)
    os.utime(path, (2_000_000_000, 2_000_000_000))


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_the_file_that_was_asked_for_is_gone_on_with_and_two_at_once_do_no_harm(tmp_path: Path) -> None:
    await write(tmp_path / "lake", lake("jsonl"))
    async with serving(tmp_path / "lake") as (served, endpoint):
        command = Command(tmp_path, endpoint)
        whole, _ = await command.run()
        other = tmp_path / "noted"
        served.silent_after = OBJECTS // 2
        served.read.clear()
        process = await command.start("--resume", str(other))
        await _until(lambda: len(served.read) >= OBJECTS // 2)
        refused, said = await (await command.start("--resume", str(other))).communicate()
        assert (refused, b"E387" in said, b"another verification" in said) == (b"", True, True)
        process.terminate()  # not killed: what it had judged is noted, all of it
        await process.wait()
        served.silent_after = 10**9
        again, _ = await command.run("--resume", str(other))
        assert again["skipped"] >= OBJECTS // 2 - 8
        same(again, whole, "skipped")
        assert not left(other)


async def test_what_is_noted_of_another_lake_or_by_another_version_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket()
    path = tmp_path / "noted"
    for about, before in ((("a",), 0), (("a",), 1), (("b",), 0), (("a",), 0)):
        progress = Progress(path, about, deep=False)
        assert progress.before == before
        progress.note("key", b"words", "stamp", await _nothing(bucket), ())
        progress.close()
    monkeypatch.setattr("dsqlcdc_s3.audit.progress.version", lambda name: "0.0.0")
    progress = Progress(path, ("a",), deep=False)
    assert progress.before == 0
    progress.close()


async def _nothing(bucket: Bucket) -> Any:
    from dsqlcdc_s3.audit.progress import Judged

    assert (await audit(bucket)).objects == 0
    return Judged(False, 1, 1, 1, 0)
