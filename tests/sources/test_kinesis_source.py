"""Reading a stream in virtual time: order, starts, reshards, once, errors, cancelling."""

from __future__ import annotations

import asyncio

import pytest

from dsqlcdc.aws import EXPIRED
from dsqlcdc.core.ports import Checkpoint
from dsqlcdc.core.records import END, TRIM_HORIZON, Mark, Position
from dsqlcdc.errors import Misconfigured, Unavailable
from dsqlcdc.sources.kinesis import KinesisSource
from dsqlcdc.sources.service import Admit, Expired, Reply, Throttled
from dsqlcdc.testing.virtual import run
from tests.sources.fake import DAY, EPOCH, FakeService
from tests.sources.reading import Gaps, Log, feeds_over, read_once, read_until, reading, tasks_left


def ids(service: FakeService) -> list[str]:
    return list(service.shards)


def test_every_record_of_every_shard_is_read_once_and_in_order() -> None:
    async def main() -> None:
        service = FakeService(4, page=7)
        written = {shard: service.put(shard, count=50) for shard in ids(service)}
        log = await read_once(await feeds_over(service))
        assert {shard: log.sequences(shard) for shard in written} == written
        assert tasks_left() == []

    run(main())


def test_a_second_run_from_the_checkpoint_reads_only_what_is_new() -> None:
    async def main() -> None:
        service = FakeService(2)
        for shard in ids(service):
            service.put(shard, count=5)
        first = await read_once(await feeds_over(service))
        again = await read_once(await feeds_over(service), first.checkpoint())
        new = service.put(ids(service)[0], count=2)
        third = await read_once(await feeds_over(service), again.checkpoint())
        assert again.sequences() == []
        assert third.sequences() == new

    run(main())


def test_children_come_after_their_parents_through_splits_and_merges_while_reading() -> None:
    async def main() -> None:
        service = FakeService(2, page=3)
        one, two = ids(service)
        written = service.put(one, count=10) + service.put(two, count=10)
        log = Log()
        async with reading(await feeds_over(service, rediscover=30)) as source:
            await source.start(None, warm_up=None)
            stepped = asyncio.create_task(read_until(source, log, 60))
            await asyncio.sleep(3)
            left, right = service.split(one)
            written += service.put(left, count=10) + service.put(right, count=10)
            await asyncio.sleep(3)
            merged = service.merge(right, two)
            written += service.put(merged, count=20)
            await stepped
        order = [page.shard for page in log.pages if page.records]
        assert sorted(log.sequences()) == sorted(written)
        assert max(i for i, s in enumerate(order) if s == one) < min(i for i, s in enumerate(order) if s in (left, right))
        assert max(i for i, s in enumerate(order) if s in (right, two)) < min(i for i, s in enumerate(order) if s == merged)
        assert [page.shard for page in log.pages if page.ended] == [one, right, two] or len([p for p in log.pages if p.ended]) == 3
        assert source.counts().reshards >= 2
        assert tasks_left() == []

    run(main())


def test_once_reads_closed_shards_to_their_end_and_then_their_children() -> None:
    async def main() -> None:
        service = FakeService(1)
        written = service.put("shardId-000000000000", count=3)
        left, right = service.split("shardId-000000000000")
        written += service.put(left, count=2)
        deeper, _ = service.split(left)
        written += service.put(deeper, count=2) + service.put(right, count=1)
        log = await read_once(await feeds_over(service))
        assert sorted(log.sequences()) == sorted(written)
        assert log.marks["shardId-000000000000"].position == log.marks[left].position == END
        assert (await read_once(await feeds_over(service), log.checkpoint())).sequences() == []

    run(main())


def test_once_ends_although_records_go_on_arriving() -> None:
    async def main() -> None:
        service = FakeService(1, page=10)
        service.put("shardId-000000000000", count=100)
        service.on_read = lambda shard, count: service.put(shard, count=10) and None
        log = await read_once(await feeds_over(service))
        assert 100 <= len(log.records()) <= 2500  # what comes in about a second

    run(main())


def test_latest_means_the_services_now_for_every_shard_and_nothing_is_lost_after_it() -> None:
    async def main() -> None:
        service = FakeService(2)
        await asyncio.sleep(100)
        for shard in ids(service):
            service.put(shard, count=5)
        await asyncio.sleep(5)
        async with reading(await feeds_over(service), start="latest", once=True) as source:
            marks = await source.start(None, warm_up=None)
        assert {mark.position.kind for mark in marks.values()} == {"time"}
        assert all(EPOCH + 104 <= mark.position.arrived <= EPOCH + 105.5 for mark in marks.values())
        await asyncio.sleep(50)  # the process died before its first read
        new = [service.put(shard, count=3) for shard in ids(service)]
        log = await read_once(await feeds_over(service), Checkpoint(marks), start="trim_horizon")
        assert sorted(log.sequences()) == sorted(new[0] + new[1])

    run(main())


def test_a_start_time_older_than_the_retention_is_said_to_be_the_trim_horizon() -> None:
    async def main() -> None:
        service = FakeService(1)
        async with reading(await feeds_over(service), start=EPOCH - 40 * DAY) as source:
            assert await source.start(None, warm_up=None) == {"shardId-000000000000": Mark(TRIM_HORIZON)}

    run(main())


def test_a_shard_unknown_to_the_checkpoint_begins_at_its_oldest_record() -> None:
    async def main() -> None:
        service = FakeService(1)
        service.put("shardId-000000000000", count=2)
        log = await read_once(await feeds_over(service), start="latest")
        left, _ = service.split("shardId-000000000000")
        new = service.put(left, count=4)
        assert (await read_once(await feeds_over(service), log.checkpoint(), start="latest")).sequences(left) == new

    run(main())


def test_a_shard_read_to_its_end_and_no_longer_listed_may_be_forgotten() -> None:
    async def main() -> None:
        service = FakeService(1)
        service.split("shardId-000000000000")
        log = await read_once(await feeds_over(service))
        service.hidden.add("shardId-000000000000")
        async with reading(await feeds_over(service)) as source:
            await source.start(log.checkpoint(), warm_up=None)
            assert list(source.forgettable()) == ["shardId-000000000000"]

    run(main())


def test_a_hole_in_the_hash_range_is_an_error_that_names_it() -> None:
    async def main() -> None:
        service = FakeService(2)
        service.hidden.add(ids(service)[1])
        async with reading(await feeds_over(service), deadline=0.0) as source:
            with pytest.raises(Unavailable, match=f"{2**127}") as caught:
                await source.start(None, warm_up=None)
        assert caught.value.code == "E111"
        assert service.lists == 6

    run(main())


def test_a_hole_that_a_reshard_shows_for_a_moment_is_asked_about_again() -> None:
    async def main() -> None:
        service = FakeService(1)
        _, right = service.split("shardId-000000000000")
        service.hidden.add(right)
        service.put(right, count=1)
        asyncio.get_running_loop().call_later(2, service.hidden.clear)
        assert len((await read_once(await feeds_over(service))).records()) == 1

    run(main())


def test_expired_iterators_are_renewed_without_a_loss_or_a_repetition() -> None:
    async def main() -> None:
        service = FakeService(1, page=5)
        written = service.put("shardId-000000000000", count=5)
        log = Log()
        async with reading(await feeds_over(service)) as source:
            await source.start(None, warm_up=None)
            pages = source.pages()
            log.take(await anext(pages))
            for _ in range(5):
                service.faults["records"].append(Expired("expired"))
                written += service.put("shardId-000000000000", count=3)
                while len(log.records()) < len(written):
                    log.take(await anext(pages))
                await asyncio.sleep(1000)  # nobody pulls: the iterator grows old
            await pages.aclose()  # type: ignore[attr-defined]
            assert source.counts().expired >= 1
        assert log.sequences() == written

    run(main())


@pytest.mark.parametrize("operation", ["records", "iterator"])
def test_credentials_that_nobody_renews_end_the_reading_and_those_that_are_do_not(operation: str) -> None:
    async def main() -> None:
        service = FakeService(1)
        written = service.put("shardId-000000000000", count=2)
        service.faults[operation] = [Unavailable("cannot read", why="the token has expired", code=EXPIRED) for _ in range(5)]
        log = await read_once(await feeds_over(service), deadline=None)
        assert log.sequences() == written
        service.faults[operation] = [Unavailable("cannot read", why="the token has expired", code=EXPIRED) for _ in range(10_000)]
        with pytest.raises(Misconfigured, match=r"E105 .*nobody renews them.*Run: aws sts get-caller-identity"):
            await read_once(await feeds_over(service), deadline=None)
        assert tasks_left() == []

    run(main())


@pytest.mark.parametrize("operation", ["records", "iterator"])
def test_unavailable_is_retried_as_long_as_the_deadline_allows(operation: str) -> None:
    async def main() -> None:
        service = FakeService(1)
        written = service.put("shardId-000000000000", count=2)
        service.faults[operation] = [Unavailable("down", code="E120") for _ in range(8)]
        log = await read_once(await feeds_over(service), deadline=600.0)
        assert log.sequences() == written
        service.faults[operation] = [Unavailable("down", code="E120") for _ in range(10_000)]
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(Unavailable, match="down"):
            await read_once(await feeds_over(service), deadline=600.0)
        assert 550 < loop.time() - began < 640
        assert tasks_left() == []

    run(main())


def test_without_a_deadline_an_outage_of_a_day_loses_nothing() -> None:
    async def main() -> None:
        service = FakeService(1, retention=7 * DAY)
        written = service.put("shardId-000000000000", count=2)
        feeds = await feeds_over(service)
        service.faults["records"] = [Unavailable("down") for _ in range(9000)]
        log = await read_once(feeds)
        assert log.sequences() == written
        assert asyncio.get_running_loop().time() > 0.8 * DAY
        assert feeds.counters.snapshot().retries["E120"] == 9000

    run(main())


class Slow(FakeService):
    """A service whose requests take a second to be broken off."""

    async def records(self, shard: str, iterator: str, limit: int, admit: Admit) -> Reply:
        try:
            return await super().records(shard, iterator, limit, admit)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
            raise


def test_whoever_ends_the_reading_returns_when_it_has_ended_though_another_ends_it_too() -> None:
    async def main() -> None:
        service = Slow(4)
        source = KinesisSource(await feeds_over(service), pipeline="p", sink="s", on_gap=Gaps())
        await source.start(None, warm_up=None)
        service.latency = 20
        waiting = asyncio.create_task(anext(source.pages()))
        await asyncio.sleep(25)
        waiting.cancel()
        await asyncio.sleep(0.5)
        assert not waiting.done()
        await source.close()
        assert [task for task in tasks_left() if task is not waiting] == []
        await asyncio.wait([waiting])

    run(main())


def test_reading_ends_though_a_timeout_is_over_at_the_same_moment() -> None:
    """The supervisor looks again every second; a timeout ends what it waits for by a cancel of its own."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        feeds = await feeds_over(FakeService(1), rediscover=1.0)
        feeds.random = lambda: 0.5
        source = KinesisSource(feeds, pipeline="p", sink="s", on_gap=Gaps())
        await source.start(None, warm_up=None)
        moment = loop.create_future()
        loop.call_at(loop.time() + 1.0, moment.set_result, None)
        waiting = asyncio.create_task(anext(source.pages()))
        await moment
        async with asyncio.timeout(60):
            await source.close()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert tasks_left() == []

    run(main())


def test_what_somebody_must_mend_ends_the_pages() -> None:
    async def main() -> None:
        service = FakeService(2)
        service.faults["records"] = [Misconfigured("cannot read", why="access is denied")]
        with pytest.raises(Misconfigured, match="access is denied"):
            await read_once(await feeds_over(service))
        assert tasks_left() == []

    run(main())


def test_throttling_is_honoured_and_counted() -> None:
    async def main() -> None:
        service = FakeService(1)
        written = service.put("shardId-000000000000", count=2)
        service.faults["records"] = [Throttled("slow down", after=2.5), Throttled("slow down", after=2.5)]
        loop = asyncio.get_running_loop()
        began = loop.time()
        feeds = await feeds_over(service)
        log = await read_once(feeds)
        assert log.sequences() == written
        assert loop.time() - began >= 5.0
        assert feeds.counters.snapshot().throttles == 2

    run(main())


def test_cancelling_who_waits_leaves_no_task_behind() -> None:
    async def main() -> None:
        service = FakeService(3)
        async with reading(await feeds_over(service)) as source:
            await source.start(None, warm_up=None)
            log = Log()
            waiting = asyncio.create_task(read_until(source, log, 1))
            await asyncio.sleep(30)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert tasks_left() == []
        await source.close()

    run(main())


def test_a_stream_made_anew_under_its_name_stops_the_reading() -> None:
    async def main() -> None:
        service = FakeService(1)
        feeds = await feeds_over(service)
        assert feeds.stream.startswith("orders-cdc@20")
        describe = service.describe

        async def remade() -> object:
            found = await describe()
            return type(found)(found.name, found.created + 100, found.retention, found.now)

        service.describe = remade  # type: ignore[method-assign, assignment]
        with pytest.raises(Misconfigured, match="made anew"):
            await read_once(feeds)

    run(main())


def test_empty_pages_say_how_far_was_read_and_come_about_once_a_second() -> None:
    async def main() -> None:
        service = FakeService(1)
        log = Log()
        async with reading(await feeds_over(service, poll=0.2)) as source:
            await source.start(None, warm_up=None)
            pages = source.pages()
            until = asyncio.get_running_loop().time() + 60
            while asyncio.get_running_loop().time() < until:
                log.take(await anext(pages))
            assert EPOCH + 57 <= source.slowest() <= EPOCH + 61
            await pages.aclose()  # type: ignore[attr-defined]
        assert 40 <= len(log.pages) <= 62

    run(main())


def test_a_position_the_shard_never_had_is_said_in_plain_words() -> None:
    async def main() -> None:
        service = FakeService(1)
        mark = Mark(Position("after", str(10**30), EPOCH), EPOCH)
        with pytest.raises(Misconfigured) as caught:
            await read_once(await feeds_over(service), Checkpoint({"shardId-000000000000": mark}))
        assert caught.value.code == "E107"

    run(main())
