"""Every row of the failure table: what an answer of the cluster means for a change, and for the sink."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from dsqlcdc.contract import Change, Misconfigured, Op, Setback, Unavailable, Verdict
from dsqlcdc.testing import virtual
from dsqlcdc.testing.opensearch import FakeOpenSearch, Reply, said
from dsqlcdc.testing.search_index import Refused
from dsqlcdc_opensearch.bulk import Limits
from tests.sinks.opensearch.replica import TABLE, Direct, change, resumed, sink

ALIAS, INDEX = f"cdc-{TABLE}", f"cdc-{TABLE}-000001"


def engine() -> FakeOpenSearch:
    return FakeOpenSearch(time.monotonic)


def bulks(fake: FakeOpenSearch) -> list[int]:
    """How many operations each bulk request had."""
    return [body.count(b'"version_type"') for _, path, body in fake.requests if path == "/_bulk"]


def answering(fake: FakeOpenSearch, answer: Callable[[int, bytes], Reply | None]) -> None:
    """Bulk requests are answered by `answer(n, body)`, the first n is 0; None lets the engine answer."""
    count = 0

    def before(method: str, path: str, body: bytes) -> Reply | None:
        nonlocal count
        if path != "/_bulk":
            return None
        count += 1
        return answer(count - 1, body)

    fake.before = before


async def write(fake: FakeOpenSearch, changes: Sequence[Change], **options: Any) -> dict[int, Setback]:
    async with sink(Direct(fake), **options) as one:
        return {setback.index: setback for setback in await one.write(changes)}


ITEMS = {
    "mapping": (Refused(400, "mapper_parsing_exception", "failed to parse field"), Verdict.DEAD, "mapping"),
    "document": (Refused(400, "document_parsing_exception", "failed to parse"), Verdict.DEAD, "mapping"),
    "strict": (Refused(400, "strict_dynamic_mapping_exception", "mapping set to strict"), Verdict.DEAD, "mapping"),
    "immense": (Refused(400, "illegal_argument_exception", "Document contains at least one immense term"), Verdict.DEAD, "immense_term"),
    "unknown": (Refused(418, "teapot_exception", "short and stout"), Verdict.DEAD, "refused"),
    "too large": (Refused(413, "content_too_long", "no"), Verdict.DEAD, "too_large"),
    "rejected": (Refused(429, "rejected_execution_exception", "queue"), Verdict.RETRY, "rejected_execution_exception"),
    "breaker": (Refused(429, "circuit_breaking_exception", "heap"), Verdict.RETRY, "circuit_breaking_exception"),
    "flood 429": (Refused(429, "cluster_block_exception", "disk"), Verdict.RETRY, "cluster_block_exception"),
    "flood 403": (Refused(403, "cluster_block_exception", "disk"), Verdict.RETRY, "cluster_block_exception"),
    "no shard": (Refused(503, "no_shard_available_action_exception", "none"), Verdict.RETRY, "no_shard_available_action_exception"),
    "server": (Refused(500, "null_pointer_exception", "null"), Verdict.RETRY, "null_pointer_exception"),
    "shards": (Refused(503, "unavailable_shards_exception", "primary"), Verdict.RETRY, "unavailable_shards_exception"),
    "timeout": (Refused(408, "timeout_exception", ""), Verdict.RETRY, "timeout_exception"),
}


@pytest.mark.parametrize("name", ITEMS)
async def test_an_item_that_is_refused_leaves_the_others_in(name: str) -> None:
    refused, verdict, code = ITEMS[name]
    fake = engine()
    fake.refuse = lambda action, index, id: refused if id == "2" else None
    setbacks = await write(fake, [change(n, 1) for n in (1, 2, 3)])
    assert {n: (s.verdict, s.code) for n, s in setbacks.items()} == {1: (verdict, code)}
    assert set(fake.rows(ALIAS)) == {"1", "3"}
    if "flood" in name:
        assert (setbacks[1].after or 0) >= 30


STOPS = {
    "fields": Refused(400, "illegal_argument_exception", "Limit of total fields [1000] has been exceeded"),
    "ids": Refused(400, "illegal_argument_exception", "Document ID is not supported in create/index operation request"),
    "shards": Refused(400, "validation_exception", "this action would add [1] total shards; maximum shards open: [1000]/[1000]"),
    "normal shards": Refused(400, "validation_exception", "cluster currently has [1000]/[1000] maximum normal shards open;"),
    "denied": Refused(403, "security_exception", "no permissions for [indices:data/write/bulk]"),
    "closed": Refused(400, "index_closed_exception", "closed"),
    "gone": Refused(404, "index_not_found_exception", "no such index"),
}


@pytest.mark.parametrize("name", STOPS)
async def test_what_every_document_will_be_refused_for_stops_the_sink_and_is_nobodys_fault(name: str) -> None:
    fake = engine()
    async with sink(Direct(fake)) as one:
        await one.write([change(9, 1)])
        fake.refuse = lambda action, index, id: STOPS[name]
        with pytest.raises(Misconfigured) as raised:
            await one.write([change(1, 1), change(2, 1)])
        assert STOPS[name].reason in raised.value.why
        with pytest.raises(Misconfigured):
            await one.write([change(1, 1)])


async def test_an_index_that_is_deleted_meanwhile_stops_the_sink_and_is_not_made_anew_by_the_engine() -> None:
    fake = engine()
    async with sink(Direct(fake)) as one:
        await one.write([change(1, 1)])
        fake.handle("DELETE", f"/{INDEX}")
        with pytest.raises(Misconfigured, match="E163"):
            await one.write([change(2, 1)])
    assert not [name for name in fake.indexes if "orders" in name]


REQUESTS: dict[str, tuple[Reply, type[Exception]]] = {
    "429": (said(429, "es_rejected_execution_exception", "queue"), Unavailable),
    "429 of a proxy": (Reply(429, b"slow down", {"Retry-After": "7"}), Unavailable),
    "408": (Reply(408), Unavailable),
    "500": (Reply(500, b"<html>"), Unavailable),
    "502": (Reply(502), Unavailable),
    "504": (Reply(504), Unavailable),
    "425": (Reply(425), Unavailable),
    "alias missing": (Reply(404, b'{"error":{"type":"alias_missing_exception","reason":"alias [a] missing"},"status":404}'), Misconfigured),
    "503": (said(503, "cluster_manager_not_discovered_exception", ""), Unavailable),
    "blocked 403": (said(403, "cluster_block_exception", "blocked by: [FORBIDDEN/8/index write (api)]"), Unavailable),
    "blocked 429": (said(429, "cluster_block_exception", "flood"), Unavailable),
    "401": (Reply(401, b"Unauthorized"), Misconfigured),
    "403": (Reply(403, b'{"Message":"User is not authorized"}'), Misconfigured),
    "404": (Reply(404, b"not here"), Misconfigured),
    "405": (Reply(405), Misconfigured),
    "no JSON": (Reply(200, b"<html>"), Unavailable),
    "nothing": (Reply(200), Unavailable),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_what_a_refused_request_means(name: str) -> None:
    reply, expected = REQUESTS[name]
    fake = engine()
    answering(fake, lambda n, body: reply)
    with pytest.raises(expected) as raised:
        await write(fake, [change(1, 1), change(2, 1)])
    if name == "429 of a proxy":
        assert isinstance(raised.value, Unavailable)
        assert raised.value.after == 7.0
    if name.startswith("blocked"):
        assert isinstance(raised.value, Unavailable)
        assert (raised.value.after or 0) >= 30


async def test_expired_credentials_are_fetched_anew_once() -> None:
    fake = engine()
    answering(fake, lambda n, body: Reply(403, b'{"message":"The security token included in the request is expired"}') if n == 0 else None)
    transport = Direct(fake)
    transport.can_refresh = True
    async with sink(transport) as one:
        assert await one.write([change(1, 1)]) == []
        assert transport.refreshed == 1
        answering(fake, lambda n, body: Reply(403, b"{}"))
        with pytest.raises(Misconfigured, match=r"E162.*data access policy"):
            await one.write([change(2, 1)])
        assert transport.refreshed == 2


async def test_a_request_too_large_is_halved_and_the_size_remembered() -> None:
    fake = engine()
    fake.max_content_length = 3000
    changes = [change(n, 1, pad="x" * 500) for n in range(16)]
    async with sink(Direct(fake)) as one:
        assert await one.write(changes) == []
        assert len(fake.rows(ALIAS)) == 16
        refused = len([1 for _, path, body in fake.requests if path == "/_bulk" and len(body) > 3000])
        assert refused >= 2
        assert await one.write([change(n, 2, pad="x" * 500) for n in range(16)]) == []
        assert len([1 for _, path, body in fake.requests if path == "/_bulk" and len(body) > 3000]) == refused
        dead = await one.write([change(98, 1), change(99, 1, pad="x" * 5000)])
    assert [(setback.index, setback.verdict, setback.code) for setback in dead] == [(1, Verdict.DEAD, "too_large")]


async def test_a_malformed_request_is_halved_until_the_one_at_fault_stands_alone() -> None:
    fake = engine()
    answering(fake, lambda n, body: said(400, "x_content_parse_exception", "bad") if b'"_id":"5"' in body else None)
    setbacks = await write(fake, [change(n, 1) for n in range(8)])
    assert {n: s.verdict for n, s in setbacks.items()} == {5: Verdict.DEAD}
    assert len(fake.rows(ALIAS)) == 7


def test_overload_halves_what_is_sent_at_a_time_and_good_answers_grow_it_again() -> None:
    limits = Limits(1 << 20, 100, 8)
    assert (limits.size, limits.bytes) == (2, 1 << 20)
    limits.overloaded(1 << 20)
    assert (limits.size, limits.bytes) == (1, 1 << 19)
    for _ in range(100):
        limits.good()
    assert (limits.size, limits.bytes) == (8, 1 << 20)
    limits.too_large(1 << 19)
    for _ in range(100):
        limits.good()
    assert limits.bytes == 1 << 18


def test_no_more_requests_are_under_way_than_the_limit() -> None:
    fake, most, now = engine(), 0, 0

    class Counting(Direct):
        async def __call__(self, method: str, path: str, body: bytes = b"", *, lines: bool = False) -> Any:
            nonlocal most, now
            now += path.startswith("/_bulk")
            most = max(most, now)
            await asyncio.sleep(1)
            try:
                return await super().__call__(method, path, body, lines=lines)
            finally:
                now -= path.startswith("/_bulk")

    async def run() -> None:
        async with sink(Counting(fake), bulk={"concurrency": 4}) as one:
            for round in range(6):
                await asyncio.gather(*(one.write([change(n, round + 1)]) for n in range(8)))

    virtual.run(run())
    assert most == 4


# ── answers that do not fit ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def mangled(fake: FakeOpenSearch, how: Callable[[dict[str, Any]], Any]) -> None:
    def after(method: str, path: str, reply: Reply) -> Reply:
        if path != "/_bulk":
            return reply
        found = how(msgspec.json.decode(reply.body))
        return Reply(200, found if isinstance(found, bytes) else msgspec.json.encode(found))

    fake.after = after


def _swapped(answer: dict[str, Any]) -> dict[str, Any]:
    items = answer["items"]
    return {**answer, "items": [items[1], items[0], *items[2:]]}


MANGLED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "an item less": lambda answer: {**answer, "items": answer["items"][:-1]},
    "an item more": lambda answer: {**answer, "items": [*answer["items"], answer["items"][0]]},
    "no items": lambda answer: {"errors": False},
    "swapped": _swapped,
    "another action": lambda answer: {**answer, "items": [{"delete": item["index"]} for item in answer["items"]]},
    "no ids": lambda answer: {**answer, "items": [{"index": {"status": 200}} for _ in answer["items"]]},
    "a list": lambda answer: answer["items"],
    "cut": lambda answer: msgspec.json.encode(answer)[:-9],
    "empty": lambda answer: b"",
}


@pytest.mark.parametrize("name", MANGLED)
async def test_an_answer_that_does_not_fit_its_request_settles_nothing(name: str) -> None:
    fake = engine()
    mangled(fake, MANGLED[name])
    async with sink(Direct(fake)) as one:
        with pytest.raises(Unavailable):
            await one.write([change(n, 1) for n in range(4)])
        fake.after = lambda method, path, reply: reply
        again = await one.write([change(n, 1) for n in range(4)])
    assert {setback.verdict for setback in again} <= {Verdict.DUPLICATE}, "what had gone in is a duplicate"


async def test_errors_false_is_not_believed() -> None:
    fake = engine()
    fake.refuse = lambda action, index, id: ITEMS["mapping"][0] if id == "2" else None
    mangled(fake, lambda answer: {**answer, "errors": False})
    assert {n: s.verdict for n, s in (await write(fake, [change(n, 1) for n in range(4)])).items()} == {2: Verdict.DEAD}


async def test_a_mixed_answer_gives_each_its_own_verdict_and_only_the_one_is_sent_again() -> None:
    fake = engine()
    refusals = {"1": ITEMS["mapping"][0], "2": ITEMS["rejected"][0]}
    changes = [change(n, 5) for n in range(1000)]
    async with sink(Direct(fake)) as one:
        await one.write([change(3, 9), change(4, 5)])
        fake.refuse = lambda action, index, id: refusals.get(id)
        setbacks = {s.index: s.verdict for s in await one.write(changes)}
        assert setbacks == {1: Verdict.DEAD, 2: Verdict.RETRY, 3: Verdict.STALE, 4: Verdict.DUPLICATE}
        refusals.clear()
        assert await one.write([changes[2]]) == []
    assert bulks(fake) == [2, 1000, 1]


async def test_a_batch_holds_each_row_once_and_the_copies_share_its_fate() -> None:
    fake = engine()
    batch = [change(1, 1), change(1, 3), change(1, 2), change(1, 3), change(2, 4, op=Op.DELETE), change(2, 3)]
    async with sink(Direct(fake)) as one:
        fake.refuse = lambda action, index, id: ITEMS["rejected"][0] if id == "1" else None
        verdicts = {s.index: s.verdict for s in await one.write(batch)}
        assert verdicts == {0: Verdict.STALE, 2: Verdict.STALE, 1: Verdict.RETRY, 3: Verdict.RETRY, 5: Verdict.STALE}
        fake.refuse = lambda action, index, id: None
        verdicts = {s.index: s.verdict for s in await one.write([batch[1], batch[3]])}
        assert verdicts == {1: Verdict.DUPLICATE}
    assert bulks(fake) == [2, 1]


async def test_an_engine_without_external_versions_is_found_out_at_start() -> None:
    fake = engine()

    def deaf(path: str, body: bytes) -> bytes:
        return body

    class Deaf(Direct):
        async def __call__(self, method: str, path: str, body: bytes = b"", *, lines: bool = False) -> Any:
            return await super().__call__(method, path.split("?")[0], deaf(path, body), lines=lines)

    async with sink(Deaf(fake)) as one:
        with pytest.raises(Misconfigured, match="E470"):
            await one.resume(resumed())
    async with sink(Direct(fake)) as one:
        await one.resume(resumed())


@pytest.mark.parametrize("status", [403, 429])
def test_a_full_disk_is_waited_for_and_costs_no_dead_letter(status: int) -> None:
    async def run() -> None:
        fake = FakeOpenSearch(asyncio.get_running_loop().time)
        flood = Refused(status, "cluster_block_exception", "disk usage exceeded flood-stage watermark")
        fake.refuse = lambda action, index, id: flood if asyncio.get_running_loop().time() < 300 else None
        codes: list[str] = []
        async with sink(Direct(fake)) as one:
            while True:
                try:
                    assert await one.write([change(n, 1) for n in range(50)]) == []
                    break
                except Unavailable as error:
                    codes.append(error.code)
                    await asyncio.sleep(error.after or 0)
        assert asyncio.get_running_loop().time() >= 300
        assert codes == ["E161"] * 10
        assert len(fake.rows(ALIAS)) == 50

    virtual.run(run())


async def test_a_node_that_is_away_is_backpressure_for_as_long_as_it_takes() -> None:
    fake = engine()
    transport = Direct(fake)
    async with sink(transport) as one:
        await one.write([change(1, 1)])
        transport.away = True
        for _ in range(200):
            with pytest.raises(Unavailable):
                await one.write([change(2, 1)])
        transport.away = False
        assert await one.write([change(2, 1)]) == []
