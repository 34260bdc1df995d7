"""From commit to sink: 5,000 records a second over four shards, posted to a receiver on this machine a hundred a request."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import harness

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300)]

RATE, SECONDS, POLL = 5000, 20, 1.0
RECEIVER = """
import asyncio, json, time
from aiohttp import web

wanted, lags = WANTED, []

async def take(request):
    now = time.time_ns()
    lags.extend([(now - int(event["data"]["version"])) / 1e6 for event in await request.json()])
    if len(lags) >= wanted:
        print(json.dumps(sorted(lags)), flush=True)
    return web.Response(status=204)

async def main():
    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_what_is_committed_is_at_the_sink_within_a_poll_and_little_more(tmp_path: Path) -> None:
    count = RATE * SECONDS
    receiver = subprocess.Popen([sys.executable, "-c", RECEIVER.replace("WANTED", str(count))], stdout=subprocess.PIPE, text=True)
    assert receiver.stdout is not None
    sink = (
        f'{{type: webhook, url: "http://127.0.0.1:{receiver.stdout.readline().strip()}/", secrets: ["whsec_{"A" * 44}"], allow_http: true, '
        f'allow_private: ["127.0.0.0/8"], batch: {{max_items: 100}}}}'
    )
    with harness.kinesis(records=count, live=RATE) as endpoint:
        path = harness.config(tmp_path, endpoint, sink)
        daemon = subprocess.Popen([*harness.DSQLCDC, "run", str(path)], env=harness.ENVIRONMENT, stderr=subprocess.DEVNULL)
        try:
            lags = json.loads(receiver.stdout.readline())
        finally:
            for process in (daemon, receiver):
                process.kill()
                process.communicate()
    assert len(lags) == count
    p50, p99 = lags[count // 2], lags[count * 99 // 100]
    harness.table(
        f"{RATE:,} records a second into a webhook, poll {POLL:g} s",
        [(f"{p50:.0f}", f"{p99:.0f}", f"{lags[-1]:.0f}")],
        ("p50 ms", "p99 ms", "max ms"),
    )
    harness.judge("commit to sink, p99", p99, POLL * 1000 + 150, held=6000, least=False, unit=" ms")
