"""The OpenSearch sink on a real node, against opensearch-py's async bulk helper given the same documents, in one run."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import statistics
import subprocess
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from dsqlcdc.contract import Change, Context, Op, Resume
from dsqlcdc.core.records import Record
from dsqlcdc.core.tables import Rule, Tables
from dsqlcdc.testing.records import full
from dsqlcdc_opensearch import OpenSearchSink, Options
from tests.benchmarks import harness
from tests.live.node import Node, missing

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

COUNT, ROUNDS = 30_000, 5
NOON = 1_800_000_000 * 10**9


class Cost(NamedTuple):
    """Of putting COUNT documents in: documents a second, and CPU seconds of this process for a million."""

    rate: float
    cpu: float


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    if lacking := missing():
        pytest.fail(f"a real OpenSearch cannot be started here: {lacking}")
    with Node(tmp_path_factory.mktemp("node"), heap="1g") as running:
        yield running


def changes(round: int, op: Op = Op.INSERT) -> list[Change]:
    tables = Tables({"*": Rule(key=("id",))})
    made: list[Change] = []
    for n in range(COUNT):
        row = document(n)
        delete = op is Op.DELETE
        data = full(op.value, "public.orders", None if delete else row, NOON + round, before={"id": n} if delete else None)
        change = tables.read("shard", Record(str(n), data, 1.0))
        assert isinstance(change, Change)
        made.append(change)
    return made


def document(n: int) -> dict[str, Any]:
    return {"id": n, "customer": f"customer {n % 977}", "note": "x" * 200, "quantity": n % 50, "price": f"{n % 90}.50", "open": n % 3 == 0}


async def measured(what: Callable[[], Awaitable[None]]) -> Cost:
    gc.collect()
    start, cpu = time.perf_counter(), time.process_time()
    await what()
    return Cost(COUNT / (time.perf_counter() - start), (time.process_time() - cpu) / COUNT * 1e6)


@asynccontextmanager
async def opened(node: Node, prefix: str, mode: str = "external") -> AsyncGenerator[OpenSearchSink, None]:
    options = Options.model_validate({"url": node.url, "index_prefix": prefix, "purge": "off", "settings": {"replicas": 0}, "mode": mode})
    async with OpenSearchSink(options, Context("p", "search")) as sink:
        await sink.resume(Resume("p", "search", b"", 0.0, tuple))
        yield sink


async def ours(sink: OpenSearchSink, made: Sequence[Change]) -> None:
    """As the pipeline drives it: so many batches at a time as the sink has lanes."""
    waiting = iter([made[at : at + sink.batching.records] for at in range(0, COUNT, sink.batching.records)])

    async def lane() -> None:
        for batch in waiting:
            assert list(await sink.write(batch)) == []

    await asyncio.gather(*(lane() for _ in range(sink.lanes)))


async def theirs(url: str, index: str, documents: Sequence[dict[str, Any]]) -> None:
    from opensearchpy import AsyncOpenSearch
    from opensearchpy.helpers import async_bulk

    async with AsyncOpenSearch(url) as client:
        actions = ({"_index": index, "_id": str(document["id"]), "_source": document} for document in documents)
        done, failed = await async_bulk(client, actions)
        assert (done, failed) == (COUNT, [])


async def test_documents_go_in_nine_tenths_as_fast_as_with_opensearch_py_for_half_its_cpu(node: Node) -> None:
    documents = [document(n) for n in range(COUNT)]
    found: list[tuple[Cost, Cost]] = []
    for round in range(ROUNDS + 1):
        made = changes(1)
        async with opened(node, f"bench-{round}-") as sink:
            await sink.write([msgspec.structs.replace(made[0], version=1)])  # the index and its mapping
            _, body = await sink._cluster.ask("GET", f"/bench-{round}-public.orders-000001/_mapping")
            mappings = body[f"bench-{round}-public.orders-000001"]["mappings"]
            settings = {"index": {"number_of_replicas": 0}}
            await sink._cluster.ask("PUT", f"/bench-theirs-{round}", {"mappings": mappings, "settings": settings})

            async def mine(sink: OpenSearchSink = sink, made: Sequence[Change] = made) -> None:
                await ours(sink, made)

            async def other(index: str = f"bench-theirs-{round}") -> None:
                await theirs(node.url, index, documents)

            first, second = (mine, other) if round % 2 else (other, mine)
            costs = {what: await measured(what) for what in (first, second)}
            found.append((costs[mine], costs[other]))
            await sink._cluster.ask("DELETE", f"/bench-{round}-public.orders-000001,bench-theirs-{round}")
    found = found[1:]  # the node warms up
    rates = [a.rate / b.rate for a, b in found]
    cpus = [a.cpu / b.cpu for a, b in found]
    harness.table(
        "documents into a real OpenSearch",
        [
            (f"{a.rate:.0f}", f"{b.rate:.0f}", f"{a.rate / b.rate:.2f}", f"{a.cpu:.1f}", f"{b.cpu:.1f}", f"{a.cpu / b.cpu:.2f}")
            for a, b in found
        ],
        ("ours/s", "opensearch-py/s", "ratio", "our CPU s/million", "theirs", "ratio"),
    )
    assert statistics.median(rates) >= 0.9
    assert statistics.median(cpus) <= 0.5


async def test_a_tombstone_costs_no_more_than_a_document(node: Node) -> None:
    found: list[tuple[Cost, Cost]] = []
    async with opened(node, "bench-deletes-") as sink:
        for round in range(ROUNDS + 1):
            rows, deletes = changes(2 * round + 1), changes(2 * round + 2, Op.DELETE)
            put = await measured(lambda rows=rows: ours(sink, rows))  # type: ignore[misc]
            found.append((await measured(lambda deletes=deletes: ours(sink, deletes)), put))  # type: ignore[misc]
    found = found[1:]
    harness.table(
        "tombstones against documents",
        [(f"{a.rate:.0f}", f"{b.rate:.0f}", f"{b.rate / a.rate:.2f}", f"{a.cpu:.1f}", f"{b.cpu:.1f}") for a, b in found],
        ("tombstones/s", "documents/s", "cost ratio", "CPU s/million", "of documents"),
    )
    assert statistics.median(b.rate / a.rate for a, b in found) <= 1.0
    assert statistics.median(a.cpu / b.cpu for a, b in found) <= 1.0


async def test_by_a_script_it_is_the_node_that_takes_longer(node: Node) -> None:
    """The same rows by a script and by external versions: the node reads each document first. Our own part costs about the same."""
    found: list[tuple[Cost, Cost]] = []
    async with opened(node, "bench-scripted-", "scripted") as scripted, opened(node, "bench-external-") as external:
        for round in range(ROUNDS + 1):
            rows = changes(round + 1)
            costs = [await measured(lambda sink=sink, rows=rows: ours(sink, rows)) for sink in (scripted, external)]  # type: ignore[misc]
            found.append((costs[0], costs[1]))
    found = found[1:]
    harness.table(
        "documents by a script against external versions",
        [(f"{a.rate:.0f}", f"{b.rate:.0f}", f"{a.rate / b.rate:.2f}", f"{a.cpu:.1f}", f"{b.cpu:.1f}") for a, b in found],
        ("by a script/s", "by external versions/s", "ratio", "our CPU s/million", "external"),
    )
    assert statistics.median(a.rate / b.rate for a, b in found) >= 0.1
    assert statistics.median(a.cpu / b.cpu for a, b in found) <= 1.5


def test_a_node_that_is_away_does_not_fill_the_memory(tmp_path: Path, node: Node) -> None:
    """64 shards of rows of 6 MiB, 72 GiB in all; the node is killed when some are in: the process stands still below 640 MiB, and lives."""
    with harness.kinesis(shards=64, records=192, page=1, row_bytes=6_000_000) as endpoint:
        sink = f"{{type: opensearch, url: '{node.url}', index_prefix: bench-away-, settings: {{replicas: 0}}, purge: 'off'}}"
        path = harness.config(tmp_path, endpoint, sink)
        process = subprocess.Popen([*harness.DSQLCDC, "run", str(path)], env=harness.ENVIRONMENT, stderr=subprocess.DEVNULL)
        try:
            while not (tmp_path / "state.db").exists() or _documents(node) < 5:
                assert process.poll() is None, "the daemon ended"
                time.sleep(0.2)  # a benchmark waits for real processes
            node.kill()
            peak, flat, until = 0.0, 0, time.monotonic() + 180
            while time.monotonic() < until and flat < 40 and process.poll() is None:
                seen = _rss(process.pid)
                flat = flat + 1 if seen <= peak else 0
                peak = max(peak, seen)
                time.sleep(0.5)
            assert process.poll() is None, "the daemon ended"
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            node.start()
    harness.table("64 shards, rows of 6 MiB, OpenSearch away", [(f"{peak:.0f}", "below 640")], ("peak RSS MiB", "limit"))
    assert 60 < peak < 640
    assert flat == 40, "it grows"


def _documents(node: Node) -> int:
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(f"{node.url}/bench-away-public.order_items-000001/_stats/indexing", timeout=5) as answer:
            return int(msgspec.json.decode(answer.read())["_all"]["primaries"]["indexing"]["index_total"])
    except (urllib.error.URLError, OSError):
        return 0


def _rss(pid: int) -> float:
    """MiB of a process in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
