"""Checkpoints in DynamoDB: the contract against the embedded AWS, and what the table's own service answers."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest

from dsqlcdc.aws import Aws, client
from dsqlcdc.core.backoff import Backoff
from dsqlcdc.core.patience import Patience
from dsqlcdc.core.ports import Checkpoint, Commit, Gap, Name
from dsqlcdc.core.records import Mark, Position
from dsqlcdc.errors import Held, Misconfigured, Unavailable
from dsqlcdc.stores.dynamodb_checkpoints import DynamoCheckpoints
from dsqlcdc.stores.dynamodb_items import HEAD, DynamoItems, Item
from dsqlcdc.testing import virtual
from dsqlcdc.testing.local import LocalAws
from dsqlcdc.testing.stores import check_checkpoint_store, check_resettable_store

from .items import FakeItems, Table

NAME = Name("p", "lake", "orders@1")
MARK = Mark(Position("after", "495", 7.0), 8.0)


@pytest.fixture
def aws(local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> Aws:
    for name, value in local_aws.environ.items():
        monkeypatch.setenv(name, value)
    return Aws()


async def test_dynamodb_checkpoints_keep_the_contract(aws: Aws) -> None:
    await check_checkpoint_store(lambda: DynamoCheckpoints("state", aws, create=True, beat=0.05))


async def test_checkpoints_cut_into_items_of_their_own_keep_the_contract(aws: Aws) -> None:
    await check_checkpoint_store(lambda: DynamoCheckpoints("state", aws, create=True, beat=0.05, room=250))


async def test_checkpoints_over_the_narrow_port_keep_the_contract() -> None:
    table = Table()
    await check_checkpoint_store(lambda: DynamoCheckpoints("", items=FakeItems(table), beat=0.01))


@pytest.mark.parametrize("room", [300_000, 250])
async def test_dynamodb_checkpoints_are_reset_by_the_contract(aws: Aws, room: int) -> None:
    await check_resettable_store(lambda: DynamoCheckpoints("state", aws, create=True, beat=0.05, room=room))


async def test_checkpoints_over_the_narrow_port_are_reset_by_the_contract() -> None:
    table = Table()
    await check_resettable_store(lambda: DynamoCheckpoints("", items=FakeItems(table), beat=0.01))


# what DynamoDB answers -----------------------------------------------------------------------------------------------------------------


async def test_the_table_is_made_when_asked_for_by_the_first_write_and_bills_on_demand(aws: Aws) -> None:
    reader, store = DynamoCheckpoints("state", aws, create=True, read_only=True), DynamoCheckpoints("state", aws, create=True)
    assert await reader.names() == await reader.gaps("p") == []
    assert await reader.load(NAME) is None
    async with client("dynamodb", aws) as dynamodb:
        assert (await dynamodb.list_tables())["TableNames"] == []
        await asyncio.gather(*(store.record_gap(Gap(str(n), "p", "lake", "s", "reset", "x")) for n in range(5)))
        described = await dynamodb.describe_table(TableName="state")
    assert described["Table"]["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    assert len(await reader.gaps("p")) == 5
    for one in (reader, store):
        await one.close()


async def test_a_missing_table_is_told_with_the_way_out(aws: Aws) -> None:
    store = DynamoCheckpoints("state", aws)
    for call in (lambda: store.hold(NAME), lambda: store.load(NAME), store.names, lambda: store.gaps("p")):
        with pytest.raises(Misconfigured, match=r"E103.*DynamoDB table state.*create: true"):
            await call()
    await store.close()


async def test_a_reader_cannot_write(aws: Aws) -> None:
    store = DynamoCheckpoints("state", aws, create=True, read_only=True)
    for call in (lambda: store.hold(NAME), lambda: store.commit(NAME, Commit({"shard": MARK}))):
        with pytest.raises(Misconfigured, match="E204"):
            await call()
    await store.close()


@pytest.mark.parametrize("kind", ["throttle", "refused", "lost", "reset"])
async def test_a_commit_that_was_not_answered_is_made_once_by_asking_again(aws: Aws, local_aws: LocalAws, kind: str) -> None:
    store = DynamoCheckpoints("state", aws, create=True)
    await store.hold(NAME)
    await store.commit(NAME, Commit({"shard": MARK}))
    later = Commit({"shard": Mark(Position("after", "500", 9.0), 9.0)}, word=b"w")
    wanted = {"service": "dynamodb", "operation": "PutItem", "times": 2}
    if kind == "throttle":
        local_aws.fault("error", code="ProvisionedThroughputExceededException", status=400, **wanted)
    elif kind == "refused":
        local_aws.fault("error", code="InternalServerError", status=500, **wanted)
    else:
        local_aws.fault(kind, **wanted)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await store.commit(NAME, later)
    await store.commit(NAME, later)
    assert await store.load(NAME) == Checkpoint(later.marks, word=b"w")
    await store.close()


async def test_a_state_of_a_newer_format_or_of_others_is_refused(aws: Aws) -> None:
    items, store = DynamoItems("state", aws, create=True), DynamoCheckpoints("state", aws, create=True)
    await items.put(Item("sink/p/lake", HEAD, version=1, body=msgspec.msgpack.encode({"format": 2, "new": 1})))
    with pytest.raises(Misconfigured, match="E202"):
        await store.hold(NAME)
    await items.put(Item("sink/p/lake", HEAD, version=1, body=b"\xc1"))
    with pytest.raises(Misconfigured, match="E203"):
        await store.load(NAME)
    async with client("dynamodb", aws) as dynamodb:
        await dynamodb.put_item(TableName="state", Item={"pk": {"S": "sink/p/lake"}, "sk": {"S": HEAD}})
    with pytest.raises(Misconfigured, match=r"E203.*no state of dsqlcdc"):
        await store.load(NAME)
    for one in (items, store):
        await one.close()


async def test_five_thousand_shards_are_stored_whole_and_what_they_replace_is_removed(aws: Aws) -> None:
    store, reader = DynamoCheckpoints("state", aws, create=True, room=10_000), DynamoCheckpoints("state", aws)
    await store.hold(NAME)
    items = DynamoItems("state", aws, create=False)
    for life in range(2):
        marks = {
            f"shardId-{n:012}": Mark(Position("after", str((10**55 + n * 7919**6) * (life + 1)), 1.7e9 + n / 7), 1.8e9) for n in range(5000)
        }
        await store.commit(NAME, Commit(marks))
        assert await reader.load(NAME) == Checkpoint(marks)
        pieces = await items.query("sink/p/lake", "piece/")
        assert 5 < len(pieces) < 20
        assert len({piece.sk.rpartition("-")[0] for piece in pieces}) == 1
    await items.put(Item("sink/p/lake", "piece/left-by-a-crash", body=b"x"))
    await store.close()
    await reader.hold(NAME)
    assert await items.query("sink/p/lake", "piece/") == pieces
    for one in (items, reader):
        await one.close()


# what it costs, and how long it holds out, in virtual time -----------------------------------------------------------------------------


def test_an_idle_runner_writes_once_a_minute_and_what_it_kept_to_itself_is_stored_at_the_end() -> None:
    async def play() -> None:
        table = Table()
        store = DynamoCheckpoints("", items=FakeItems(table))
        await store.hold(NAME)
        for second in range(3600):
            mark = Mark(MARK.position, float(second))
            await store.commit(NAME, Commit({"shard": mark}))
            assert await store.load(NAME) == Checkpoint({"shard": mark})
            await asyncio.sleep(1)
        assert table.writes <= 62
        await store.close()
        assert await DynamoCheckpoints("", items=FakeItems(table)).load(NAME) == Checkpoint({"shard": Mark(MARK.position, 3599.0)})

    virtual.run(play())


def test_a_runner_reads_one_small_item_a_beat_and_a_busy_one_writes_once_a_commit() -> None:
    async def play() -> None:
        table = Table()
        store = DynamoCheckpoints("", items=FakeItems(table))
        await store.hold(NAME)
        await asyncio.sleep(3600)
        assert table.writes == 1
        assert table.reads == pytest.approx(3600, abs=5)
        for second in range(100):
            await store.commit(NAME, Commit({"shard": Mark(Position("after", str(second)))}))
        assert table.writes == 101
        await store.close()

    virtual.run(play())


@pytest.mark.parametrize(("shards", "most"), [(1, 350), (12, 1000), (100, 7000), (1000, 65_000)])
def test_a_commit_is_as_small_as_the_readme_says(shards: int, most: int) -> None:
    async def play() -> int:
        table, rng = Table(), random.Random(1)
        store = DynamoCheckpoints("", items=FakeItems(table))
        await store.hold(NAME)
        marks = {
            f"shardId-{n:012}": Mark(Position("after", str(rng.randrange(10**55, 10**56)), rng.uniform(1.7e9, 1.8e9)), 1.8e9)
            for n in range(shards)
        }
        await store.commit(NAME, Commit(marks, word=b"word"))
        head = table.items["sink/p/lake", HEAD]
        return len(head.body) + len(head.pk) + len(head.sk) + len(head.token) + len("pkskversiontokenbody") + 20

    assert virtual.run(play()) <= most


def test_an_outage_of_ten_minutes_ends_no_run() -> None:
    async def play() -> None:
        table = Table()
        items = FakeItems(table)
        store, patience = DynamoCheckpoints("", items=items), Patience(Backoff(), random.Random(1).random)
        await store.hold(NAME)
        await store.commit(NAME, Commit({"shard": MARK}))
        items.out = True
        asyncio.get_running_loop().call_later(600, setattr, items, "out", False)
        later = Mark(Position("after", "900"))
        await patience.ask(lambda: store.commit(NAME, Commit({"shard": later})))
        assert asyncio.get_running_loop().time() > 600
        second = DynamoCheckpoints("", items=FakeItems(table))
        with pytest.raises(Held):
            await second.hold(NAME)
        await store.commit(NAME, Commit({"shard": Mark(Position("after", "901"))}))

    virtual.run(play())


def test_who_was_succeeded_is_told_by_whom_and_writes_nothing_even_when_only_time_passes() -> None:
    async def play() -> None:
        table = Table()
        items = FakeItems(table)
        first, second = DynamoCheckpoints("", items=items), DynamoCheckpoints("", items=FakeItems(table), clock=lambda: 0.0)
        await first.hold(NAME)
        await first.commit(NAME, Commit({"shard": MARK}))
        items.going.clear()
        started = asyncio.get_running_loop().time()
        await second.hold(NAME)
        assert 5 < asyncio.get_running_loop().time() - started < 9
        items.going.set()
        await asyncio.sleep(5)
        with pytest.raises(Held, match=r"taken over by process \d+ on .*, since 1970"):
            await first.commit(NAME, Commit({"shard": Mark(MARK.position, 99.0)}))
        await first.close()
        assert await second.load(NAME) == Checkpoint({"shard": MARK})
        await second.commit(NAME, Commit({"shard": Mark(Position("after", "901"))}))
        await second.close()

    virtual.run(play())


def test_two_that_begin_at_once_after_a_death_are_one_runner_and_one_that_is_refused() -> None:
    async def play() -> None:
        table = Table()
        dead = FakeItems(table)
        await DynamoCheckpoints("", items=dead).hold(NAME)
        dead.going.clear()
        stores = [DynamoCheckpoints("", items=FakeItems(table, random.Random(n), slow=0.1)) for n in range(4)]
        answers = await asyncio.gather(*(store.hold(NAME) for store in stores), return_exceptions=True)
        assert sorted(type(answer).__name__ for answer in answers) == ["Held", "Held", "Held", "NoneType"]
        assert asyncio.get_running_loop().time() < 20

    virtual.run(play())


async def test_a_commit_without_hold_is_refused_while_another_holds_and_taken_when_nobody_does() -> None:
    table = Table()
    runner, other = DynamoCheckpoints("", items=FakeItems(table)), DynamoCheckpoints("", items=FakeItems(table))
    await runner.hold(NAME)
    with pytest.raises(Held):
        await other.commit(NAME, Commit({"shard": MARK}))
    await runner.close()
    await other.commit(NAME, Commit({"shard": MARK}))
    assert await other.load(NAME) == Checkpoint({"shard": MARK})
