"""`audit verify` against plain `gunzip | sha256` of the same objects, in one run; and its memory."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import msgspec
import pytest

from dsqlcdc.contract import Change, Op, Progress
from dsqlcdc_s3.audit.findings import Asked
from dsqlcdc_s3.audit.lake import Hold, Page, Version
from dsqlcdc_s3.audit.verify import Verification
from dsqlcdc_s3.objects import Missing, Put
from tests.sinks.s3.auditing import OWNER
from tests.sinks.s3.lake import NOON, ORDERS, make_sink, resume

pytestmark = pytest.mark.bench

BATCHES, ROWS = 4, 60_000
_CHUNK = 256 * 1024


class Directory:
    """A lake on disk: its reads cost little, as those of a near S3 do for whoever waits for several at once."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def _keys(self, prefix: str) -> list[str]:
        return sorted(
            key for path in self._root.rglob("*") if path.is_file() and (key := str(path.relative_to(self._root))).startswith(prefix)
        )

    async def put(self, key: str, body: bytes, *, if_none_match: bool, sha256: bytes, content_type: str) -> Put:
        path = self._root / key
        if path.exists():
            return Put.EXISTS
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        return Put.CREATED

    async def get(self, key: str) -> AsyncGenerator[bytes, None]:
        path = self._root / key
        if not path.exists():
            raise Missing(key)
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    async def list(self, prefix: str, start_after: str) -> Sequence[str]:
        return [key for key in self._keys(prefix) if key > start_after]

    async def versions(self, prefix: str, after: tuple[str, str]) -> Page:
        return Page([Version(key, "null", True, False) for key in self._keys(prefix)], None)

    async def hold(self, key: str) -> Hold:
        return Hold("", 0.0, 0.0)

    async def try_put(self, key: str) -> bool:
        return False


def changes(batch: int) -> list[Change]:
    """Rows as a shop has them, 570 bytes a line."""
    chance = random.Random(batch)
    head = hashlib.blake2b(msgspec.json.encode([ORDERS.cluster, ORDERS.schema, ORDERS.name]), digest_size=16)
    found: list[Change] = []
    for number in range(batch * ROWS, (batch + 1) * ROWS):
        key, version = b'{"id":%d}' % number, NOON * 10**9 + number * 1000
        id = head.copy()
        id.update(key + struct.pack(">q", version))
        row = {
            "id": number,
            "customer": f"customer {chance.random()}",
            "note": f"{chance.getrandbits(200):x}",
            "placed": chance.getrandbits(40),
        }
        image, sequence = msgspec.Raw(msgspec.json.encode(row)), str(49 * 10**54 + number * 977)
        found.append(
            Change(
                id.digest(),
                Op.INSERT,
                ORDERS,
                msgspec.Raw(key),
                version,
                f"{chance.getrandbits(80):x}",
                image,
                None,
                b"",
                "s1",
                sequence,
                NOON + number / 1000,
            )
        )
    return found


async def build(root: Path) -> None:
    read = [0]

    def progress() -> list[Progress]:
        at = str(49 * 10**54 + (read[0] - 1) * 977) if read[0] else ""
        return [
            Progress(
                "s1",
                "trim_horizon",
                at,
                read[0],
                {"delivered": read[0]} if read[0] else {},
                0,
                frontier=at,
                arrived=1.0,
                first=at and str(49 * 10**54),
            )
        ]

    async with make_sink(Directory(root), {"digest": {}, "gzip": 6}, ticking=False) as sink:
        await sink.resume(resume(progress=progress))
        for batch in range(BATCHES):
            assert await sink.write(changes(batch)) == []
            read[0] += ROWS
        assert await sink.seal(closing=True)


def plain(root: Path) -> tuple[float, int]:
    """Seconds of one core for `gunzip | sha256` of every object, and their bytes."""
    began, size = time.process_time(), 0
    for path in root.rglob("*.jsonl.gz"):
        inflate, hashed = zlib.decompressobj(31), hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                size += len(chunk)
                hashed.update(inflate.decompress(chunk))
        hashed.digest()
    return time.process_time() - began, size


async def judged(root: Path, *, deep: bool) -> float:
    """Seconds of one core, all threads together, that a verification takes."""
    began = time.process_time()
    lake = Directory(root)
    report = await Verification(lake, OWNER, lake, "cdc/", [], Asked(deep=deep, parallel=4), lambda told: None, signs=False).run()
    assert (report.verdict, report.rows) == ("whole", BATCHES * ROWS), report.findings[:3]
    return time.process_time() - began


@pytest.mark.timeout(600)
async def test_verify_keeps_up_with_gunzip_and_sha256(tmp_path: Path) -> None:
    await build(tmp_path)
    for deep, least in ((False, 0.4), (True, 0.15)):
        ratios: list[float] = []
        for _ in range(3):
            base, size = plain(tmp_path)
            took = await judged(tmp_path, deep=deep)
            ratios.append(base / took)
            print(
                f"deep {deep}: {size / 1e6:.0f} MB, {base / took:.2f} of gunzip | sha256, {size / took * 60 / 1e6:.0f} MB a minute and core"
            )
        assert max(ratios) >= least
        assert size / took * 60 >= 150e6


@pytest.mark.timeout(600)
def test_verify_stays_below_300_mib(tmp_path: Path) -> None:
    asyncio.run(build(tmp_path))
    script = f"import asyncio; from tests.benchmarks import test_audit; asyncio.run(test_audit.measured({str(tmp_path)!r}))"
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", script], cwd=root, env={"PYTHONPATH": root}, capture_output=True, text=True, check=True)
    mebibytes = json.loads(done.stdout)["mebibytes"]
    print(f"{mebibytes:.0f} MiB")
    assert mebibytes < 300


async def measured(root: str) -> None:
    await judged(Path(root), deep=True)
    print(json.dumps({"mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
