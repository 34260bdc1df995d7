"""A project on disk as commands find it: a config, a state file, dead letters."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dsqlcdc.cli.app import invoke
from dsqlcdc.core.ports import Commit, DeadLetter, Gap, Name
from dsqlcdc.core.records import END, Mark, Position
from dsqlcdc.stores.files import FileDeadLetters
from dsqlcdc.stores.sqlite_checkpoints import SqliteCheckpoints
from dsqlcdc.testing.local import LocalAws
from tests.clients import one_loader

STREAM = "orders-cdc@1700000000"


class Answer(msgspec.Struct):
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def jsons(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Project:
    """A directory with dsqlcdc.yaml, and what a daemon would have left there."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory, self._capsys = directory, capsys
        self.config = directory / "dsqlcdc.yaml"
        self.write()

    def write(self, more: str = "", sinks: Sequence[str] = ("lake",)) -> None:
        named = "".join(f"  {sink}: {{type: drop}}\n" for sink in sinks)
        self.config.write_text(f"pipeline: orders-cdc\nsource: {{stream: orders-cdc}}\nsinks:\n{named}{more}")

    def run(self, *words: str) -> Answer:
        """One command line; CONFIG stands for the config's path."""
        code = invoke([str(self.config) if word == "CONFIG" else word for word in words])
        out, err = self._capsys.readouterr()
        return Answer(code, out.replace(str(self.directory), "DIR"), err.replace(str(self.directory), "DIR"))

    def commit(self, marks: Mapping[str, Mark], sink: str = "lake", stream: str = STREAM) -> None:
        self._with_store(lambda store: store.commit(Name("orders-cdc", sink, stream), Commit(marks)))

    def gap(self, id: str, **fields: Any) -> Gap:
        plain = Gap(id, "orders-cdc", "lake", STREAM, "trimmed", "shardId-000000000001", from_time=1_700_000_000, to_time=1_700_003_600)
        gap = msgspec.structs.replace(plain, found_at=1_700_010_000.0, **fields)
        self._with_store(lambda store: store.record_gap(gap))
        return gap

    def gaps(self) -> Sequence[Gap]:
        return self._with_store(lambda store: store.gaps("orders-cdc"))

    def letter(self, sequence: str = "4966", code: str = "unreadable", raw: bytes = b'{"op": ', **fields: Any) -> DeadLetter:
        plain = DeadLetter(
            pipeline="orders-cdc",
            sink="",
            stream=STREAM,
            shard="shardId-000000000001",
            sequence=sequence,
            arrived=1_700_000_000.0,
            code=code,
            detail="not valid JSON: truncated",
            raw=raw,
            at=1_700_000_001.0,
        )
        letter = msgspec.structs.replace(plain, **fields)
        assert asyncio.run(FileDeadLetters(self.directory / "dead-letters").put(letter))
        return letter

    def _with_store(self, work: Any) -> Any:
        async def do() -> Any:
            store = SqliteCheckpoints(self.directory / "state.db")
            try:
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(do())


def after(sequence: str, arrived: float) -> Mark:
    return Mark(Position("after", sequence, arrived), arrived)


def ended() -> Mark:
    return Mark(END, 1_700_000_000.0)


def ago(seconds: float) -> float:
    return time.time() - seconds


def squeezed(text: str) -> str:
    """Runs of blanks as one, moments as T, ages as A: for golden outputs of what moves with the clock."""
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "T", text)
    return "\n".join(re.sub(r" +", " ", line).rstrip() for line in text.splitlines())


@pytest.fixture
def project(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("NO_COLOR", "1")
    return Project(tmp_path, capsys)


@pytest.fixture(scope="module")
def server() -> Iterator[LocalAws]:
    with LocalAws(delay=0.05) as aws:
        yield aws


@pytest.fixture
def empty(server: LocalAws, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An ACTIVE cluster in an account that holds nothing of ours; commands find their way there by the environment."""
    for name, value in server.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setattr("botocore.loaders.create_loader", one_loader)
    yield server.pipe("unrelated").cluster
    server.reset()
