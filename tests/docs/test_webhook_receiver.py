"""The example of a receiver, run as it stands: repetition and disorder do not matter to it, and what is not signed does not get in."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dsqlcdc.contract import Op
from dsqlcdc.errors import Misconfigured
from tests.sinks.webhook.receiver import NOON, OTHER, SECRET, change, webhook

from .reading import ROOT


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    program = str(ROOT / "examples" / "webhook_receiver" / "receiver.py")
    server = await asyncio.create_subprocess_exec(
        sys.executable, program, str(tmp_path / "rows.db"), "0", env={**os.environ, "HOOK_SECRET": SECRET},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert server.stdout is not None
    yield (await server.stdout.readline()).decode().strip()
    server.kill()
    await server.wait()


def local(url: str, **options: Any) -> Any:
    import time

    return webhook(url, allow_http=True, allow_private=["127.0.0.1/32"], clock=time.time, **options)


async def test_the_receiver_has_the_newest_version_of_every_row(url: str, tmp_path: Path) -> None:
    changes = [change(n % 4, 100 - n, row={"n": n}) for n in range(40)] + [change(3, 200, op=Op.DELETE), change(3, 150, row={"n": -1})]
    async with local(url, secrets=[OTHER, SECRET]) as sink:
        for _ in range(2):
            assert list(await sink.write(changes)) == []
    with closing(sqlite3.connect(tmp_path / "rows.db")) as database:
        rows = {subject: (sequence, json.loads(row)) for subject, sequence, row in database.execute("select * from rows")}
    moment = NOON * 10**9
    assert rows == {
        **{f"public.orders/{n}": (f"{moment + 100 - n:020d}", {"id": n, "n": n}) for n in range(3)},
        "public.orders/3": (f"{moment + 200:020d}", None),
    }


async def test_the_receiver_refuses_what_is_not_signed(url: str, tmp_path: Path) -> None:
    async with local(url, secrets=[OTHER]) as sink:
        with pytest.raises(Misconfigured, match="401"):
            await sink.write([change()])
    assert not (tmp_path / "rows.db").exists()
