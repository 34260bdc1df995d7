"""The example of a cache: repetition, disorder and readers that were overtaken never leave an old row in it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.config import load
from dsqlcdc.contract import Op
from dsqlcdc.errors import Misconfigured
from tests.sinks.webhook.receiver import NOON, OTHER, SECRET, change, webhook

from .reading import ROOT

PROGRAM = ROOT / "examples" / "cache_invalidation" / "invalidator.py"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("invalidator", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOOK_SECRET", SECRET)
        spec.loader.exec_module(module)
    return module


@pytest.fixture
async def server() -> AsyncIterator[tuple[str, asyncio.StreamReader]]:
    """The program as it stands: its URL, and what it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), "0", env={**os.environ, "HOOK_SECRET": SECRET},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stdout is not None
    port = (await process.stderr.readline()).decode().rpartition(" ")[2].strip()
    yield f"http://127.0.0.1:{port}", process.stdout
    process.kill()
    await process.communicate()


def local(url: str, **options: Any) -> Any:
    return webhook(url, allow_http=True, allow_private=["127.0.0.1/32"], clock=time.time, **options)


async def test_of_a_row_only_what_is_newer_is_news(server: tuple[str, asyncio.StreamReader]) -> None:
    url, out = server
    async with local(url, batch={"max_items": 10, "linger": "10ms"}) as sink:
        for version, op in ((10, Op.UPDATE), (10, Op.UPDATE), (5, Op.UPDATE), (20, Op.DELETE), (15, Op.UPDATE)):
            assert list(await sink.write([change(1, version, row=None if op is Op.DELETE else {"n": version}, op=op)])) == []
    told = [json.loads(await out.readline()) for _ in range(5)]
    assert [one["news"] for one in told] == [True, False, False, True, False]
    assert {one["subject"] for one in told} == {"public.orders/1"}
    assert told[3]["sequence"] == f"{NOON * 10**9 + 20:020d}"


async def test_what_is_not_signed_is_refused(server: tuple[str, asyncio.StreamReader]) -> None:
    async with local(server[0], secrets=[OTHER]) as sink:
        with pytest.raises(Misconfigured, match="401"):
            await sink.write([change()])


STEPS = st.lists(st.tuples(st.sampled_from(["commit", "deliver", "begin", "end"]), st.integers(0, 1), st.integers(0, 9)), max_size=40)


def play(cache: Any, steps: list[tuple[str, int, int]]) -> list[tuple[int, str | None]]:
    """A database of two rows, messages in any order and more than once, readers that take their time; then every message once more.
    Answers with the rows that the cache holds and that the database has not."""
    rows: dict[int, str] = {}
    messages: list[tuple[int, int]] = []
    readers: list[tuple[int, str, int]] = []
    for clock, (what, row, which) in enumerate(steps, 1):
        if what == "commit":
            rows[row] = str(clock)
            messages.append((row, clock))
        elif what == "deliver" and messages:
            told, version = messages[which % len(messages)]
            cache.invalidate(str(told), f"{version:020d}")
        elif what == "begin" and row in rows:
            readers.append((row, rows[row], clock))
        elif what == "end" and readers:
            read, value, began = readers.pop(which % len(readers))
            cache.put(str(read), value, f"{began:020d}")
    for row, version in messages:
        cache.invalidate(str(row), f"{version:020d}")
    return [(row, cache.get(str(row))) for row, value in rows.items() if cache.get(str(row)) not in (None, value)]


@given(steps=STEPS)
def test_once_all_is_told_the_cache_holds_nothing_old(program: ModuleType, steps: list[tuple[str, int, int]]) -> None:
    assert play(program.Cache(), steps) == []


def test_a_cache_that_compares_nothing_holds_old_rows(program: ModuleType) -> None:
    """Control: a reader that was overtaken, and a change that comes again."""

    class Careless(program.Cache):  # type: ignore[name-defined, misc]
        def put(self, subject: str, row: str, sequence: str) -> bool:
            self._rows[subject] = row
            return True

    class Forgetful(program.Cache):  # type: ignore[name-defined, misc]
        def invalidate(self, subject: str, sequence: str) -> bool:
            return subject in self._rows and super().invalidate(subject, sequence)

    # the last message is told before the reader ends, and what is told once more is no news
    overtaken = [("commit", 0, 0), ("begin", 0, 0), ("commit", 0, 0), ("deliver", 0, 1), ("deliver", 0, 0), ("end", 0, 0)]
    assert play(program.Cache(), overtaken) == []
    assert play(Careless(), overtaken) == [(0, "1")]
    true, forgetful = program.Cache(), Forgetful()
    for cache in (true, forgetful):
        cache.invalidate("0", "3")
    assert not true.put("0", "old", "2")
    assert forgetful.put("0", "old", "2")


def test_a_row_that_is_no_longer_remembered_is_never_older_than_what_was(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "REMEMBERED", 2)
    cache = program.Cache()
    for row, version in (("a", "5"), ("b", "3"), ("c", "4")):
        cache.invalidate(row, version)
    assert not cache.put("a", "old", "4")  # "a" was forgotten, that something changed at 5 was not
    assert cache.put("a", "new", "6")


def test_its_config_sends_neither_name_nor_price(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    sink = load(ROOT / "examples" / "cache_invalidation" / "invalidate.yaml").sinks["cache"]
    assert dict(sink.masks["public.orders"]) == {"customer": "drop", "price": "drop"}
