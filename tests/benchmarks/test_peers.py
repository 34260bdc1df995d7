"""Against other consumers, in one interleaved run. `make bench-peers` installs them; where they are not, this is skipped.

Peers are tuned as well as we know how. Bento: batches of 1,000 from its input and room for 20 of them a shard (the default leaves room for one),
no metrics, no web server, GOGC=400; into S3 batches of 10,000 records, 64 in flight. No `period` beside `count`: it holds the tail back for ever.
The server waits 5 ms before it answers, since the AWS SDK for Go trips over answers that are there at once. async-kinesis: see its loop.
Their CPU counts from when they begin to read; ours is that of the whole process, less that of a run over four records.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tests.benchmarks import harness
from tests.benchmarks.test_daemon import Kind, run_ours

PEERS = Path(os.environ.get("BENCH_PEERS", "nowhere"))
BENTO, PYTHON = PEERS / "bento-bench", PEERS / "venv" / "bin" / "python"
COUNT, FEW, ROUNDS = 400_000, 4, harness.ROUNDS
LAKE = Kind("{type: s3, bucket: bench, prefix: cdc/}")

pytestmark = [
    pytest.mark.bench,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not BENTO.exists() or not PYTHON.exists(), reason="no peers here: make bench-peers"),
]

INPUT = """\
http: {enabled: false}
logger: {level: ERROR}
metrics: {none: {}}
input:
  aws_kinesis:
    streams: [bench]
    region: us-east-1
    endpoint: ENDPOINT
    credentials: {id: a, secret: b}
    dynamodb: {table: leases, create: true}
    checkpoint_limit: 20000
    batching: {count: 1000}
pipeline: {threads: -1, processors: [{mapping: root = this}]}
"""
COUNTED = "output: {counted: {}}\n"
S3 = """\
output:
  aws_s3:
    bucket: bench
    path: data/${! uuid_v4() }.jsonl.gz
    region: us-east-1
    endpoint: ENDPOINT
    credentials: {id: a, secret: b}
    force_path_style_urls: true
    max_in_flight: 64
    batching: {count: 10000, processors: [{archive: {format: lines}}, {compress: {algorithm: gzip}}]}
"""


def _config(directory: Path, endpoint: str, output: str) -> Path:
    path = directory / "bento.yaml"
    path.write_text((INPUT + output).replace("ENDPOINT", endpoint))
    return path


def _bento(directory: Path, endpoint: str) -> float:
    """CPU seconds into `counted`."""
    command = [str(BENTO), "-c", str(_config(directory, endpoint, COUNTED))]
    found = json.loads(harness.run(command, env={"GOGC": "400", "BENCH_RECORDS": str(COUNT)}).out)
    assert found["read"] == COUNT
    return float(found["cpu"])


def _bento_to_s3(directory: Path, endpoint: str) -> float:
    """CPU seconds until every line is in the bucket: it never ends by itself."""
    command = [str(BENTO), "-c", str(_config(directory, endpoint, S3))]
    process = subprocess.Popen(command, env={**harness.ENVIRONMENT, "GOGC": "400", "BENCH_RECORDS": "0"}, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 300
        while _lines(endpoint) < COUNT:
            assert time.monotonic() < until, f"{_lines(endpoint)} lines of {COUNT} after five minutes"
            assert process.poll() is None, "Bento has ended"
            time.sleep(0.5)  # a benchmark waits for real processes
        return harness.cpu_of(process.pid)
    finally:
        process.kill()
        process.wait()


def _lines(endpoint: str) -> int:
    with urllib.request.urlopen(f"{endpoint}/-/lines", timeout=60) as answer:
        return int(answer.read())


def _async_kinesis(endpoint: str) -> float:
    script = Path(__file__).with_name("async_kinesis_loop.py")
    found = json.loads(harness.run([str(PYTHON), "-P", str(script), endpoint, str(COUNT)], timeout=600).out.splitlines()[-1])
    assert found["read"] == COUNT
    return float(found["cpu"])


def test_the_daemon_against_bento_and_async_kinesis(tmp_path: Path) -> None:
    found: dict[str, list[float]] = {"dsqlcdc": [], "dsqlcdc again": [], "bento": [], "async-kinesis": []}
    with harness.kinesis(records=FEW) as few:
        run_ours(tmp_path / "warm", Kind(), few, FEW)
        for turn in range(ROUNDS):
            with harness.kinesis(records=COUNT) as many:  # Bento's leases begin anew
                start = run_ours(tmp_path / f"{turn} start", Kind(), few, FEW).cpu
                found["dsqlcdc"].append(run_ours(tmp_path / f"{turn}", Kind(), many, COUNT).cpu - start)
                found["bento"].append(_bento(tmp_path, many))
                found["dsqlcdc again"].append(run_ours(tmp_path / f"{turn} again", Kind(), many, COUNT).cpu - start)
                found["async-kinesis"].append(_async_kinesis(many))
    _tell("dropped", found)
    harness.judge("the daemon against Bento tuned, GOGC=400", _ratio(found, "bento"), 3.5, held=2.5)
    harness.judge("the daemon against async-kinesis tuned", _ratio(found, "async-kinesis"), 6, held=4)


def test_into_s3_against_bento(tmp_path: Path) -> None:
    found: dict[str, list[float]] = {"dsqlcdc": [], "bento": []}
    for turn in range(ROUNDS):
        with harness.kinesis(records=FEW, s3=1) as few, harness.kinesis(records=COUNT, s3=1) as many:
            start = run_ours(tmp_path / f"{turn} start", LAKE, few, FEW).cpu
            found["dsqlcdc"].append(run_ours(tmp_path / f"{turn}", LAKE, many, COUNT).cpu - start)
            assert _lines(many) == COUNT
        with harness.kinesis(records=COUNT, s3=1) as many:
            found["bento"].append(_bento_to_s3(tmp_path, many))
    _tell("into S3, JSON Lines, gzip", found)
    harness.judge("into S3 against Bento's aws_s3", _ratio(found, "bento"), 2, held=1.5)


def _tell(what: str, found: dict[str, list[float]]) -> None:
    rows = [(name, f"{statistics.median(some) / COUNT * 1e6:.2f}") for name, some in found.items()]
    harness.table(f"{COUNT:,} records of 4 shards {what}, median of {ROUNDS}", rows, ("", "CPU s a million"))


def _ratio(found: dict[str, list[float]], peer: str) -> float:
    return statistics.median(theirs / ours for ours, theirs in zip(found["dsqlcdc"], found[peer], strict=True))
