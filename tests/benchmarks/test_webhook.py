"""Webhook deliveries a CPU second of the sender, against a bare client that posts the same bodies with the same concurrency in the same run."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence

import aiohttp
import pytest

from dsqlcdc.contract import Batching, Change, Context
from dsqlcdc.core.records import Record
from dsqlcdc.core.tables import Rule, Tables
from dsqlcdc.testing.records import full
from dsqlcdc_webhook import Options, WebhookSink
from dsqlcdc_webhook.event import event
from tests.benchmarks import harness

pytestmark = pytest.mark.bench

COUNT, CONCURRENCY, ROUNDS = 4096, 16, 5
SERVER = """
import asyncio
from aiohttp import web

async def take(request):
    await request.read()
    return web.Response(status=204)

async def main():
    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def changes() -> list[Change]:
    tables = Tables({"*": Rule(key=("id",))})
    made: list[Change] = []
    for n in range(COUNT):
        row = {"id": n % 500, "customer": "Ada", "note": "x" * 200, "quantity": n}
        change = tables.read("shard", Record(str(n), full("u", "public.orders", row, 1_800_000_000_000_000_000 + n), 1.0))
        assert isinstance(change, Change)
        made.append(change)
    return made


async def bare(url: str, bodies: Sequence[bytes]) -> float:
    waiting = iter(bodies)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONCURRENCY)) as session:

        async def work() -> None:
            for body in waiting:
                async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as response:
                    await response.read()

        start = time.process_time()
        await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
        return COUNT / (time.process_time() - start)


async def ours(url: str, made: Sequence[Change]) -> float:
    options = Options.model_validate(
        {"url": url, "secrets": ["whsec_" + "A" * 44], "allow_http": True, "allow_private": ["127.0.0.0/8"], "concurrency": CONCURRENCY}
    )
    async with WebhookSink(options, Context("p", "hook")) as sink:
        assert isinstance(sink.batching, Batching)
        size = sink.batching.records
        start = time.process_time()
        for at in range(0, COUNT, size):
            assert list(await sink.write(made[at : at + size])) == []
        return COUNT / (time.process_time() - start)


async def test_deliveries_keep_up_with_a_bare_client() -> None:
    made = changes()
    bodies = [event(change) for change in made]
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER, stdout=asyncio.subprocess.PIPE)
    try:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(await server.stdout.readline())}/"
        await bare(url, bodies)
        rates = [(await bare(url, bodies), await ours(url, made)) for _ in range(ROUNDS)]
    finally:
        server.kill()
        await server.wait()
    ratios = sorted(mine / theirs for theirs, mine in rates)
    print(
        f"\nwebhook {max(r[1] for r in rates):.0f}, bare client {max(r[0] for r in rates):.0f} a CPU second; {[round(r, 2) for r in ratios]}"
    )
    harness.judge("webhook, signed, order by key, against a bare client", ratios[ROUNDS // 2], 0.7, held=0.6)
