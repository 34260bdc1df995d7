"""The Lambda zip: built, measured, and driven from its folder alone through what a stream brings."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsqlcdc.testing.local import LocalAws
from dsqlcdc.testing.trigger import Remaining, Sandboxes, Settings, Trigger
from tests.hosts.lambda_world import ARN, STREAM, LambdaWorld, deduplicated
from tests.hosts.sandbox import ProcessSandbox

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
UNZIPPED = 60_000_000
"""Bytes at the most, botocore among them: it comes from the zip, the runtime's own may be too old or too new."""
IMPORT = 0.7
"""Seconds from the first import to a handler with S3, webhook and an AWS client loaded, on a machine of this kind."""

COLD = """
import sys, time
started = time.perf_counter()
sys.path.insert(0, sys.argv[1])
import dsqlcdc.hosts.aws_lambda, dsqlcdc_s3, dsqlcdc_webhook, aiobotocore.session, aiobotocore.config
print(time.perf_counter() - started)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip as Lambda unpacks it."""
    work = tmp_path_factory.mktemp("lambda")
    subprocess.run([sys.executable, str(ROOT / "deploy" / "lambda" / "build.py"), "--out", str(work / "lambda.zip")], check=True)
    with zipfile.ZipFile(work / "lambda.zip") as archive:
        archive.extractall(work / "task")
    return work / "task"


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[LambdaWorld]:
    with LocalAws(oversize=20_000, read_throttle=False) as aws:
        aws.reset()
        made = LambdaWorld(aws)
        yield made
        made.close()


def test_it_is_small_and_starts_quickly(folder: Path) -> None:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    times = [float(subprocess.check_output([sys.executable, "-I", "-S", "-c", COLD, str(folder)], env={}, text=True)) for _ in range(5)]
    print(f"\nlambda zip: {size / 1e6:.1f} MB unzipped, import {min(times) * 1000:.0f} ms (best of {len(times)})")
    assert size < UNZIPPED
    assert min(times) < IMPORT  # a busy machine only adds to it


def test_driven_from_the_zip_alone_the_lake_is_exact(folder: Path, world: LambdaWorld) -> None:
    """Resharding, oversized rows, poison, an outage, every other batch in two sandboxes at once, sandboxes killed in between."""
    world.commit(transactions=60, duplicates=0.05, disorder=20, deviations=0.05, oversize=3, oversize_bytes=60_000)
    world.reshard()
    world.commit(transactions=60, duplicates=0.05, disorder=20, oversize=3, oversize_bytes=60_000)
    world.aws.record(STREAM, b"poison")
    world.aws.fault("error", service="s3", operation="PutObject", contains="cdc/", code="SlowDown", status=503, times=12, skip=10)
    chance, made = random.Random(1), list[ProcessSandbox]()

    def make() -> ProcessSandbox:
        made.append(ProcessSandbox(folder, world.environ))
        assert made[-1].started["file"].startswith(str(folder))
        return made[-1]

    sandboxes = Sandboxes(make)

    async def work() -> Trigger:
        async def kill() -> None:
            for _ in range(6):
                await asyncio.sleep(0.7)
                if made:
                    made[chance.randrange(len(made))].process.kill()

        trigger = Trigger(sandboxes, ARN, Settings(batch=40, parallel=2), clock=lambda: 0.0, twice=lambda: chance.random() < 0.5)
        killing = asyncio.ensure_future(kill())
        await trigger.run(world.shards())
        killing.cancel()
        return trigger

    try:
        trigger = asyncio.run(work())
        sweeper = make()
        sweeper.sweep(Remaining(60.0, lambda: 0.0))
    finally:
        for sandbox in made:
            sandbox.close()
    lines = world.lines()
    found = world.compare(deduplicated(lines))
    print(f"\n{trigger.invocations} batches, {len(made)} sandboxes, {len(sandboxes.errors)} died; {found.rows} rows")
    assert sandboxes.errors, "none was killed in mid-flight"
    assert found.holds, found
    assert max(Counter((line["shard"], line["sequence"]) for line in lines).values()) == 1
    assert not trigger.failed
    assert len(world.objects("dead-letters/")) == 1
