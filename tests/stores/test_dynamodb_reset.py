"""`reset` in DynamoDB: marks and gaps in one transaction, by who holds, whatever is lost on the way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from dsqlcdc.aws import Aws, client
from dsqlcdc.core.ports import Checkpoint, Commit, Gap, Name
from dsqlcdc.core.records import TRIM_HORIZON, Mark, Position
from dsqlcdc.errors import Held, Misconfigured, Unavailable
from dsqlcdc.stores.dynamodb_checkpoints import DynamoCheckpoints
from dsqlcdc.stores.dynamodb_items import Item
from dsqlcdc.testing import virtual
from dsqlcdc.testing.local import LocalAws

from .items import FakeItems, Table

NAME = Name("p", "lake", "orders@1")
OLD, NEW = {"a": Mark(Position("after", "495", 7.0), 8.0)}, {"a": Mark(TRIM_HORIZON)}


def gaps(count: int) -> list[Gap]:
    return [Gap(f"g{n}", "p", "lake", "orders@1", "reset", f"shard-{n}") for n in range(count)]


async def held(items: FakeItems) -> DynamoCheckpoints:
    store = DynamoCheckpoints("", items=items)
    await store.hold(NAME)
    await store.commit(NAME, Commit(OLD, word=b"word"))
    return store


def test_who_was_succeeded_while_it_asked_resets_nothing() -> None:
    async def play() -> None:
        table = Table()
        items = FakeItems(table)
        stalled, successor = await held(items), DynamoCheckpoints("", items=FakeItems(table))
        items.going.clear()
        await successor.hold(NAME)
        items.going.set()
        with pytest.raises(Held):
            await stalled.reset(NAME, NEW, gaps=gaps(2))
        assert await successor.load(NAME) == Checkpoint(OLD, word=b"word")
        assert await successor.gaps("p") == []

    virtual.run(play())


async def test_a_gap_that_is_recorded_already_keeps_what_was_said_of_it() -> None:
    store = await held(FakeItems(Table()))
    await store.record_gap(gaps(1)[0])
    acked = await store.ack_gap("p", "g0", "seen", 5.0)
    await store.reset(NAME, NEW, gaps=gaps(2))
    assert await store.gaps("p") == [acked, gaps(2)[1]]
    assert await store.load(NAME) == Checkpoint(NEW)


async def test_time_that_was_not_written_yet_does_not_undo_a_reset() -> None:
    table = Table()
    store = await held(FakeItems(table))
    await store.commit(NAME, Commit({"a": Mark(OLD["a"].position, 99.0)}))
    await store.reset(NAME, NEW)
    await store.close()
    assert await DynamoCheckpoints("", items=FakeItems(table)).load(NAME) == Checkpoint(NEW)


class Apart(FakeItems):
    """Writes one after the other."""

    async def together(self, writes: Sequence[tuple[Item, Item | None]]) -> bool:
        done = True
        for item, over in writes:
            done = await (self.create(item) if over is None else self.replace(item, over)) and done
        return done


async def reset_and_die(seed: int, make: type[FakeItems]) -> bool:
    """A reset over a bad network whose process is gone at some moment; true when what is left is whole."""
    rng, table = random.Random(seed), Table()
    items = make(table, rng, slow=0.2)
    store = await held(items)
    items.trouble = 0.3

    async def until_done() -> None:
        while True:
            try:
                return await store.reset(NAME, NEW, gaps=gaps(3))
            except Unavailable:
                await asyncio.sleep(1)

    task = asyncio.ensure_future(until_done())
    await asyncio.sleep(rng.uniform(0, 3))
    died = not task.done()
    items.going.clear()
    await asyncio.sleep(60)
    reader = DynamoCheckpoints("", items=FakeItems(table))
    found = await reader.load(NAME), len(await reader.gaps("p"))
    task.cancel()
    return found in (((Checkpoint(NEW), 3), (Checkpoint(OLD, word=b"word"), 0)) if died else ((Checkpoint(NEW), 3),))


def test_whenever_it_dies_all_is_stored_or_nothing() -> None:
    assert all(virtual.run(reset_and_die(seed, FakeItems)) for seed in range(200))


def test_a_reset_in_two_writes_is_found_out() -> None:
    """Control."""
    assert not all(virtual.run(reset_and_die(seed, Apart)) for seed in range(200))


# what DynamoDB answers -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def aws(local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> Aws:
    for name, value in local_aws.environ.items():
        monkeypatch.setenv(name, value)
    return Aws()


async def test_ninety_nine_gaps_are_one_transaction_and_more_are_refused_whole(aws: Aws) -> None:
    store = DynamoCheckpoints("state", aws, create=True, beat=0.05)
    await store.hold(NAME)
    await store.commit(NAME, Commit(OLD))
    with pytest.raises(Misconfigured, match=r"E251.*100 shards.*--shard.*Run: dsqlcdc checkpoint reset --help"):
        await store.reset(NAME, NEW, gaps=gaps(100))
    assert (await store.load(NAME), await store.gaps("p")) == (Checkpoint(OLD), [])
    await store.reset(NAME, NEW, gaps=gaps(99))
    assert (await store.load(NAME), len(await store.gaps("p"))) == (Checkpoint(NEW), 99)
    await store.close()


@pytest.mark.parametrize(
    ("code", "fault"),
    [("TransactionConflict", Unavailable), ("ThrottlingError", Unavailable), ("ValidationError", Misconfigured)],
)
async def test_a_transaction_that_is_cancelled_is_told_by_its_reason(aws: Aws, code: str, fault: type[Exception]) -> None:
    store = DynamoCheckpoints("state", aws, create=True, beat=0.05)
    await store.hold(NAME)
    await store.commit(NAME, Commit(OLD))
    opened = await store._items._client()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    whole = opened.transact_write_items

    async def cancelled(**_: object) -> None:
        reasons = [{"Code": "None"}, {"Code": code, "Message": "m"}]
        response = {"Error": {"Code": "TransactionCanceledException", "Message": "m"}, "CancellationReasons": reasons}
        raise opened.exceptions.TransactionCanceledException(
            {**response, "ResponseMetadata": {"HTTPStatusCode": 400}}, "TransactWriteItems"
        )

    opened.transact_write_items = cancelled
    with pytest.raises(fault, match=code):
        await store.reset(NAME, NEW, gaps=gaps(1))
    opened.transact_write_items = whole
    await store.reset(NAME, NEW, gaps=gaps(1))
    async with client("dynamodb", aws) as dynamodb:
        assert (await dynamodb.scan(TableName="state", Select="COUNT"))["Count"] == 2
    await store.close()
