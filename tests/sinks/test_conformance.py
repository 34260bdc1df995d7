"""The conformance kit: the built-in sinks keep its laws, and a sink that breaks one is found out by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any

import msgspec
import pytest

from dsqlcdc.contract import Change, Op, Setback, Sink, Unavailable, Verdict
from dsqlcdc.testing import LawBroken, check_sink, virtual
from dsqlcdc.testing.opensearch import FakeOpenSearch
from dsqlcdc_webhook.answers import Answer
from dsqlcdc_webhook.post import NoAnswer
from tests.sinks.opensearch.replica import Direct
from tests.sinks.opensearch.replica import sink as replica
from tests.sinks.s3.lake import Bucket, FakeObjects
from tests.sinks.s3.lake import make_sink as make_lake
from tests.sinks.webhook.receiver import Script, Stored, webhook

ALL = {
    "redelivery", "disorder", "unknown_delete", "large_row", "cancelled", "closed_twice", "concurrency", "partial_refusal", "outage",
}  # fmt: skip


def spoilt(change: Change) -> Change:
    return msgspec.structs.replace(change, version=10**21)


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
async def test_s3_keeps_the_laws(format: str) -> None:
    bucket = Bucket()
    away = False

    def before(key: str, body: bytes) -> None:
        if away:
            raise Unavailable("S3 is away")

    async def copies(change: Change) -> int:
        return bucket.ids().count(change.id)

    async def holds(change: Change) -> bool:
        return await copies(change) > 0

    @asynccontextmanager
    async def outage() -> AsyncGenerator[None, None]:
        nonlocal away
        away = True
        yield
        away = False

    async def pause() -> None:
        await asyncio.sleep(0)

    checked = await check_sink(
        lambda: make_lake(FakeObjects(bucket, before=before, pause=pause), {"format": format}),
        holds=holds,
        copies=copies,
        outage=outage,
        refused=spoilt,
    )
    assert set(checked) == ALL


@pytest.mark.parametrize(
    ("options", "by_item"),
    [
        ({}, False), ({"format": "cloudevents_binary"}, False), ({"format": "raw"}, False), ({"batch": {}}, False), ({"batch": {}}, True),
        ({"batch": {"max_items": 3, "max_bytes": "2KiB"}}, True), ({"batch": {"max_items": 1}}, False),
        ({"claim_check": {"bucket": "claims", "above": "1KiB"}}, False),
        ({"claim_check": {"bucket": "claims", "above": "1KiB"}, "batch": {}}, False),
        ({"claim_check": {"bucket": "claims", "above": "1KiB"}, "format": "cloudevents_binary"}, False),
    ],
)  # fmt: skip
def test_the_webhook_keeps_the_laws_in_every_mode(options: Mapping[str, Any], by_item: bool) -> None:
    taken: set[str] = set()
    bad: set[str] = set()
    away = False

    async def answer(headers: Mapping[str, str], event: Any) -> Answer:
        if away:
            raise NoAnswer("away")
        ids = [each["id"] for each in event] if isinstance(event, list) else [headers["webhook-id"]]
        wrong = [id for id in ids if id in bad]
        if wrong and not by_item:
            return Answer(422)
        taken.update(set(ids) - set(wrong))
        await asyncio.sleep(0)
        return Answer(207, None, msgspec.json.encode({"failures": [{"id": id, "status": 422} for id in wrong]})) if by_item else Answer(204)

    async def holds(change: Change) -> bool:
        return change.id.hex() in taken

    def refused(change: Change) -> Change:
        bad.add(change.id.hex())
        return change

    @asynccontextmanager
    async def outage() -> AsyncGenerator[None, None]:
        nonlocal away
        away = True
        yield
        away = False

    post = Script(answer)
    make = partial(webhook, post=post, claims=Stored() if "claim_check" in options else None, **options)
    checked = virtual.run(check_sink(make, holds=holds, outage=outage, refused=refused))
    assert set(checked) == ALL
    if "batch" in options and options["batch"].get("max_items") != 1:
        assert max(len(msgspec.json.decode(body)) for _, body in post.sent) > 1


@pytest.mark.parametrize("mode", ["external", "scripted"])
def test_opensearch_keeps_the_laws(mode: str) -> None:
    engine = FakeOpenSearch(lambda: asyncio.get_running_loop().time(), external_versions=mode == "external")
    transport = Direct(engine, lambda: (0.001, 0.001))

    async def holds(change: Change) -> bool:
        index = engine.indexes.get("cdc-public.conformance-000001")
        document = index.documents.get(str((change.key or {})["id"])) if index is not None else None
        return document is not None and document.row()["__cdc"]["version"] >= change.version

    @asynccontextmanager
    async def outage() -> AsyncGenerator[None, None]:
        transport.away = True
        yield
        transport.away = False

    checked = virtual.run(check_sink(lambda: replica(transport, mode=mode), holds=holds, outage=outage, refused=spoilt))
    assert set(checked) == ALL


class Store:
    def __init__(self) -> None:
        self.rows: dict[int, tuple[int, Any]] = {}
        self.away = False


class Good(Sink):
    """Keeps the newest version of every row."""

    lanes = 3

    def __init__(self, store: Store) -> None:
        self.store = store

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        setbacks: list[Setback] = []
        for index, change in enumerate(changes):
            await asyncio.sleep(0)
            if self.store.away:
                raise Unavailable("away")
            if (setback := self.put(index, change)) is not None:
                setbacks.append(setback)
        return setbacks

    def put(self, index: int, change: Change) -> Setback | None:
        if change.transaction == "bad":
            return Setback(index, Verdict.DEAD, "bad")
        id = (change.key or {})["id"]
        if id in self.store.rows and self.store.rows[id][0] >= change.version:
            return Setback(index, Verdict.STALE)
        self.store.rows[id] = (change.version, change.row)
        return None


class ForgetsOnRestart(Good):
    """redelivery: calls what it has seen in another life a bad record."""

    def put(self, index: int, change: Change) -> Setback | None:
        id = (change.key or {})["id"]
        if self.store.rows.get(id, (0,))[0] == change.version:
            return Setback(index, Verdict.DEAD, "exists")
        return super().put(index, change)


class LastWins(Good):
    """disorder"""

    def put(self, index: int, change: Change) -> Setback | None:
        self.store.rows.pop((change.key or {})["id"], None)
        return super().put(index, change)


class NoSuchRow(Good):
    """unknown_delete"""

    def put(self, index: int, change: Change) -> Setback | None:
        if change.op is Op.DELETE and (change.key or {})["id"] not in self.store.rows:
            return Setback(index, Verdict.DEAD, "not_found")
        return super().put(index, change)


class SmallRowsOnly(Good):
    """large_row"""

    def put(self, index: int, change: Change) -> Setback | None:
        if change.size > 1_000_000:
            raise Unavailable("too large")
        return super().put(index, change)


class AllOrNothing(Good):
    """partial_refusal: one bad change spoils its batch."""

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        if any(change.transaction == "bad" for change in changes):
            return [Setback(n, Verdict.DEAD, "bad") for n in range(len(changes))]
        return await super().write(changes)


class LosesWhatIsAway(Good):
    """outage: a destination that is away makes dead letters."""

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        try:
            return await super().write(changes)
        except Unavailable:
            return [Setback(n, Verdict.DEAD, "timeout") for n in range(len(changes))]


class SaysYesTooEarly(Good):
    """cancelled: takes a row for done before it is."""

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        begun: set[bytes] = self.store.__dict__.setdefault("begun", set())
        new = [change for change in changes if change.id not in begun]
        begun.update(change.id for change in changes)
        await super().write(new)
        return ()


class ClosesOnce(Good):
    """closed_twice"""

    closed = False

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.closed:
            raise RuntimeError("already closed")
        self.closed = True


class OneBuffer(Good):
    """concurrency: two writes share one buffer."""

    buffer: Sequence[Change] = ()

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        self.buffer = changes
        await asyncio.sleep(0)
        return await super().write(self.buffer)


async def put_through(make: Callable[[Store], Sink]) -> Sequence[str]:
    store = Store()

    async def holds(change: Change) -> bool:
        return store.rows.get((change.key or {})["id"], (0,))[0] >= change.version

    @asynccontextmanager
    async def outage() -> AsyncGenerator[None, None]:
        store.away = True
        yield
        store.away = False

    return await check_sink(
        lambda: make(store), holds=holds, outage=outage, refused=lambda change: msgspec.structs.replace(change, transaction="bad")
    )


async def test_a_good_sink_keeps_the_laws() -> None:
    assert set(await put_through(Good)) == ALL


@pytest.mark.parametrize(
    ("mutant", "law"),
    [
        (ForgetsOnRestart, "redelivery"), (LastWins, "disorder"), (NoSuchRow, "unknown_delete"), (SmallRowsOnly, "large_row"),
        (AllOrNothing, "partial_refusal"), (LosesWhatIsAway, "outage"), (SaysYesTooEarly, "cancelled"), (OneBuffer, "concurrency"),
        (ClosesOnce, "closed_twice"),
    ],
)  # fmt: skip
async def test_a_mutant_of_each_law_is_found_out(mutant: Callable[[Store], Sink], law: str) -> None:
    with pytest.raises(LawBroken, match=f"^{law}: "):
        await put_through(mutant)
