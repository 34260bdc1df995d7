"""`audit verify` against plain `gunzip | sha256` of the same objects, in one run; and its memory, over a lake and one ten times as large."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dsqlcdc.contract import Change
from dsqlcdc_s3.audit.findings import Asked
from dsqlcdc_s3.audit.verify import Verification
from dsqlcdc_s3.compaction import Bounds, Compactor
from tests.benchmarks import harness
from tests.sinks.s3.auditing import OWNER
from tests.sinks.s3.lake_files import Directory, row, write
from tests.sinks.s3.served import serving

pytestmark = pytest.mark.bench

BATCHES, ROWS = 4, 60_000
_CHUNK = 256 * 1024


def changes(first: int, rows: int) -> list[Change]:
    """Rows as a shop has them, 570 bytes a line."""
    chance = random.Random(first)
    return [
        row(
            number,
            {"customer": f"customer {chance.random()}", "note": f"{chance.getrandbits(200):x}", "placed": chance.getrandbits(40)},
        )
        for number in range(first, first + rows)
    ]


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
    asked = Asked(deep=deep, parallel=4, keep=str(root.parent / "keep"))
    report = await Verification(lake, OWNER, lake, "cdc/", [], asked, lambda told: None, signs=False).run()
    assert (report.verdict, report.rows) == ("whole", BATCHES * ROWS), report.findings[:3]
    return time.process_time() - began


@pytest.mark.timeout(600)
async def test_verify_keeps_up_with_gunzip_and_sha256(tmp_path: Path) -> None:
    root = tmp_path / "lake"
    await write(root, (changes(n * ROWS, ROWS) for n in range(BATCHES)), gzip=6)
    for deep, least in ((False, 0.4), (True, 0.15)):
        ratios: list[float] = []
        for _ in range(3):
            base, size = plain(root)
            took = await judged(root, deep=deep)
            again, _ = plain(root)
            ratios.append(base / took)
            print(
                f"deep {deep}: {size / 1e6:.0f} MB, {base / took:.2f} of gunzip | sha256 (which is {again / base:.2f} of itself),"
                f" {size / took * 60 / 1e6:.0f} MB a minute and core"
            )
        assert max(ratios) >= least
        assert size / took * 60 >= 150e6


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def distinct(factor: int) -> Iterator[Sequence[Change]]:
    """Objects of 11 MB of lines, no two alike."""
    return (changes(n * 20_000, 20_000) for n in range(3 * factor))


def repeated(factor: int) -> Iterator[Sequence[Change]]:
    """Objects of 34 MB of lines, all alike: gigabytes."""
    some = changes(0, ROWS)
    return (some for _ in range(10 * factor))


def small(factor: int) -> Iterator[Sequence[Change]]:
    """Objects by the thousand, of few rows."""
    return (changes(n * 20, 20) for n in range(200 * factor))


def large_rows(factor: int) -> Iterator[Sequence[Change]]:
    """Rows of 2 MB."""
    return ([row(8 * n + m, {"blob": f"{n}" * 2_000_000}) for m in range(8)] for n in range(4 * factor))


LAKES = {"distinct": distinct, "repeated": repeated, "small": small, "large rows": large_rows}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("lake", "format", "compact", "deep"),
    [
        ("repeated", "jsonl", False, False),
        ("small", "jsonl", False, True),
        ("distinct", "jsonl", False, True),
        ("distinct", "parquet", False, False),
        ("distinct", "parquet", False, True),
        ("distinct", "jsonl", True, True),
        ("distinct", "parquet", True, True),
        ("large rows", "jsonl", False, True),
        ("large rows", "parquet", False, True),
    ],
)
async def test_a_lake_ten_times_as_large_takes_no_more_memory(lake: str, format: str, compact: bool, deep: bool, tmp_path: Path) -> None:
    peaks: list[float] = []
    for factor in (1, 10):
        root = tmp_path / str(factor)
        rows = await write(root, LAKES[lake](factor), format=format, gzip=1)
        if compact:
            bounds = Bounds(hour_before=2e9, arrived_before=2e9, manifest_before=2**63, size=256 << 20)
            assert await Compactor(Directory(root), OWNER, lambda: 2e9, 3).run(bounds, dry=False, tell=lambda step: None) > 0
        peak, report = await measured(root, tmp_path, deep=deep)
        assert (report["verdict"], report["rows"]) == ("whole", rows), report["findings"][:3]
        peaks.append(peak)
        name = f"{lake}, {format}{', compacted' if compact else ''}{', deep' if deep else ''}"
        print(f"{name}: {report['objects']} objects, {report['uncompressed_bytes'] / 1e6:.0f} MB of lines, peak {peak:.0f} MiB")
    harness.judge(f"audit verify: {name}", peaks[1], 300, held=300, least=False, unit=" MiB")
    harness.judge(f"audit verify: {name}, ten times the lake", peaks[1] / peaks[0], 1.15, held=1.3, least=False)


async def measured(root: Path, place: Path, *, deep: bool) -> tuple[float, dict[str, Any]]:
    """The peak in MiB of the real command over the lake behind HTTP, and its report."""
    async with serving(root) as (_, endpoint):
        sink = {"type": "s3", "bucket": "lake", "prefix": "cdc/", "endpoint_url": endpoint, "digest": {}}
        config = place / "audit.yaml"
        body = {"pipeline": "orders-cdc", "aws": {"region": "us-east-1"}, "source": {"stream": "orders"}, "sinks": {"lake": sink}}
        config.write_text(json.dumps(body))
        words = [*harness.DSQLCDC, "audit", "verify", str(config), "--json", *(["--deep"] if deep else [])]
        environ = {**harness.ENVIRONMENT, "XDG_CACHE_HOME": str(place / "cache")}
        return await asyncio.to_thread(_peak, words, environ, place / "out")


def _peak(words: Sequence[str], environ: Mapping[str, str], out: Path) -> tuple[float, dict[str, Any]]:
    """By a small process in between: what a process held before exec counts as its peak, and this one holds much."""
    done = subprocess.run([sys.executable, "-c", _BETWEEN, str(out), *words], env=environ, capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024, json.loads(out.read_bytes())


_BETWEEN = """
import resource, subprocess, sys
with open(sys.argv[1], "wb") as out:
    subprocess.call(sys.argv[2:], stdout=out)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
