"""Compaction: one object for many, whatever is killed between any two calls; nothing that may be asked for again is touched."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import random
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import duckdb
import msgspec
import pytest

from dsqlcdc import parquet
from dsqlcdc.contract import Change, Misconfigured
from dsqlcdc.errors import Unavailable
from dsqlcdc_s3.chain import Owner
from dsqlcdc_s3.compaction import Bounds, Compaction, Compactor, Step, digest_of, manifest_key
from dsqlcdc_s3.delivered import content_sha256, search
from dsqlcdc_s3.form import void_of
from dsqlcdc_s3.manifest import Manifest, PartEntry
from dsqlcdc_s3.objects import Put

from .auditing import audit, troubles
from .lake import NOON, Bucket, FakeObjects, change, make_sink, resume, text_of

OWNER = Owner("orders-cdc", "lake", "s3://lake/cdc/", "cdc/")
ALL = Bounds(hour_before=2e9, arrived_before=2e9, manifest_before=2**63, size=1 << 28)
FORMATS = pytest.mark.parametrize("format", ["jsonl", "parquet"])


class Killed(Exception):
    """The process is gone."""


class Compactable(FakeObjects):
    """A bucket that may be compacted; after `calls` calls the process is killed, before or after the call took place."""

    def __init__(self, bucket: Bucket, calls: int | None = None, lock: str = "", **more: Any) -> None:
        super().__init__(bucket, pause=self._count, **more)
        self.calls, self.lock, self.deleted = calls, lock, list[str]()

    async def _count(self) -> None:
        if self.calls is not None:
            self.calls -= 1
            if self.calls < 0:
                raise Killed

    async def put_file(self, key: str, body: IO[bytes], *, sha256: bytes, content_type: str) -> Put:
        body.seek(0)
        return await self.put(key, body.read(), if_none_match=True, sha256=sha256, content_type=content_type)

    async def delete(self, key: str) -> None:
        await self._count()
        self.bucket.objects.pop(key, None)
        self.bucket.rows.pop(key, None)
        self.deleted.append(key)
        await self._count()

    async def locked(self) -> str:
        return self.lock


async def lake(format: str, batches: int = 6, hours: int = 2) -> Bucket:
    """Batches of three changes, over some hours, and one more that is the chain's end."""
    bucket = Bucket()
    async with make_sink(FakeObjects(bucket), {"format": format}) as sink:
        await sink.resume(resume())
        for batch in range(batches):
            some = [at(3 * batch + n, (3 * batch + n) % hours) for n in range(3)]
            assert not await sink.write(some)
        await sink.write([at(1000, hours)])
    return bucket


def at(number: int, hour: int) -> Change:
    return change(number, version=(NOON + 3600 * hour) * 10**9 + number)


async def compact(bucket: Bucket, bounds: Bounds = ALL, *, dry: bool = False, **more: Any) -> tuple[int, list[Step], Compactable]:
    steps: list[Step] = []
    objects = Compactable(bucket, **more)
    made = await Compactor(objects, OWNER, lambda: float(NOON), 3).run(bounds, dry=dry, tell=steps.append)
    return made, steps, objects


def lines(bucket: Bucket) -> Counter[bytes]:
    return Counter(line for key, body in bucket.data() for line in text_of(key, body).splitlines())


def parts(bucket: Bucket) -> dict[str, PartEntry]:
    return {
        part.key: part
        for key, body in bucket.objects.items()
        if key.startswith("cdc/manifests/0")
        for part in msgspec.json.decode(body, type=Manifest).parts
    }


@FORMATS
async def test_the_hours_that_are_over_become_one_object_each_with_the_very_lines(format: str) -> None:
    bucket = await lake(format)
    before, entries = lines(bucket), parts(bucket)
    made, steps, _ = await compact(bucket)
    assert made == len(steps) == 2
    assert lines(bucket) == before
    assert len([key for key, _ in bucket.data()]) == 3, "one an hour, and the part of the chain's end"
    for key, body in bucket.data():
        if digest_of(key) is None:
            continue
        found = msgspec.json.decode(bucket.objects[manifest_key("cdc/", digest_of(key) or "")], type=Compaction)
        assert hashlib.sha256(body).hexdigest() == found.part.object_sha256
        assert await content_sha256(FakeObjects(bucket, chunk=7), key) == (found.part.content_sha256, False)
        assert await search(FakeObjects(bucket), key, None) == {
            bytes.fromhex(msgspec.json.decode(x)["id"]) for x in text_of(key, body).splitlines()
        }
        for one in found.inputs:  # what the chain says of a part is still to be proved
            assert one.part == entries[one.part.key]
            if format == "jsonl":
                piece = body[one.offset : one.offset + one.length]
                assert hashlib.sha256(piece).hexdigest() == one.part.object_sha256
            else:
                rows = b"".join(parquet.lines(body)).splitlines(keepends=True)[one.offset : one.offset + one.length]
                assert hashlib.sha256(b"".join(rows)).hexdigest() == one.part.content_sha256


@FORMATS
async def test_a_run_killed_between_any_two_calls_is_finished_by_the_next_with_every_row_once(format: str) -> None:
    whole = await lake(format, batches=3)
    wanted = set(lines(whole))
    _, _, counted = await compact(await lake(format, batches=3), calls=10_000)
    calls = 10_000 - (counted.calls or 0)
    assert calls > 20
    for kill in range(0, calls + 1, 1 if format == "jsonl" else 4):
        bucket = Bucket()
        bucket.objects, bucket.rows = dict(whole.objects), dict(whole.rows)
        with suppress(Killed):
            await compact(bucket, calls=kill)
        assert set(lines(bucket)) == wanted, "a reader that takes each line once misses none, at any moment"
        await compact(bucket)
        assert lines(bucket) == Counter(wanted), f"killed after {kill} calls"
        made, _, again = await compact(bucket)
        assert (made, again.deleted) == (0, [])


async def _beside(bucket: Bucket, size: int, chance: random.Random) -> None:
    """A run beside another, whose calls take place in any order with its own."""

    async def turn() -> None:
        for _ in range(chance.randrange(7)):
            await asyncio.sleep(0)

    objects = Compactable(bucket)
    objects.pause = turn
    with suppress(Unavailable):
        await Compactor(objects, OWNER, lambda: 0.0, 3).run(msgspec.structs.replace(ALL, size=size), dry=False, tell=lambda _: None)


async def test_two_runs_at_once_leave_every_row_readable_and_a_third_leaves_it_once() -> None:
    for seed in range(40):
        bucket = await lake("jsonl", batches=4, hours=1)
        wanted = set(lines(bucket))

        await asyncio.gather(_beside(bucket, 1 << 28, random.Random(seed)), _beside(bucket, 600 + seed * 10, random.Random(seed + 1)))
        assert set(lines(bucket)) == wanted
        await compact(bucket)
        assert lines(bucket) == Counter(wanted)


async def test_what_comes_late_is_compacted_into_the_object_that_was() -> None:
    bucket = await lake("jsonl", hours=1)
    await compact(bucket)
    (first,) = [key for key, _ in bucket.data() if digest_of(key)]
    async with make_sink(FakeObjects(bucket)) as sink:
        await sink.resume(resume())
        for number in (500, 501, 502):
            assert not await sink.write([at(number, 0)])
    before = lines(bucket)
    await compact(bucket)
    (second,) = [key for key, _ in bucket.data() if digest_of(key)]
    assert second != first
    assert lines(bucket) == before


async def test_the_end_of_the_chain_young_records_and_open_hours_are_left_alone() -> None:
    bucket = await lake("jsonl", batches=5, hours=1)
    for bounds in (
        msgspec.structs.replace(ALL, hour_before=NOON),
        msgspec.structs.replace(ALL, arrived_before=NOON),
        msgspec.structs.replace(ALL, manifest_before=2),
        msgspec.structs.replace(ALL, size=10),
    ):
        assert (await compact(bucket, bounds))[0] == 0
    made, (step,), _ = await compact(bucket, msgspec.structs.replace(ALL, manifest_before=4))
    assert (made, len(step.objects), step.rows) == (1, 3, 9)
    assert len([key for key, _ in bucket.data()]) == 4


async def test_voids_and_replays_stay() -> None:
    bucket = await lake("jsonl", hours=1)
    keys = [key for key, _ in bucket.data()]
    bucket.objects[keys[0]] = void_of(keys[0])
    bucket.rows[keys[0]] = []
    replay = f"{keys[0].rpartition('/')[0]}/replay-{'0' * 32}.jsonl.gz"
    bucket.objects[replay] = gzip.compress(b"")
    await compact(bucket)
    assert {keys[0], replay} <= set(bucket.objects)


async def test_a_dry_run_tells_and_changes_nothing() -> None:
    bucket = await lake("jsonl")
    before = dict(bucket.objects)
    made, steps, objects = await compact(bucket, dry=True)
    assert (made, len(steps), bucket.objects, objects.deleted) == (2, 2, before, [])


async def test_a_locked_lake_and_an_altered_part_are_refused_and_nothing_is_deleted() -> None:
    bucket = await lake("jsonl")
    before = dict(bucket.objects)
    with pytest.raises(Misconfigured, match="E370"):
        await compact(bucket, lock="the bucket has Object Lock")
    assert bucket.objects == before
    (key, *_) = [key for key, _ in bucket.data()]
    bucket.objects[key] = gzip.compress(b'{"id":"00"}\n')
    with pytest.raises(Misconfigured, match="E371"):
        await compact(bucket)
    assert key in bucket.objects


@FORMATS
async def test_duckdb_reads_a_compacted_lake(format: str, tmp_path: Path) -> None:
    bucket = await lake(format)
    await compact(bucket)
    for key, body in bucket.data():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(body)
    read = "read_parquet('{}/**/*.parquet')" if format == "parquet" else "read_json('{}/**/*.jsonl.gz', format='newline_delimited')"
    with duckdb.connect() as connection:
        assert connection.execute(f"select count(*), count(distinct id) from {read.format(tmp_path)}").fetchall() == [(19, 19)]


async def sealed(format: str) -> Bucket:
    """A compacted lake that is sealed."""
    bucket = await lake(format)
    await compact(bucket)
    async with make_sink(FakeObjects(bucket), {"format": format}) as sink:
        await sink.resume(resume())
    return bucket


@FORMATS
async def test_a_compacted_lake_verifies(format: str) -> None:
    bucket = await lake(format)
    before = await audit(bucket)
    assert troubles(before) == []
    await compact(bucket)
    after = await audit(bucket)
    assert troubles(after) == []
    assert after.rows == before.rows
    async with make_sink(FakeObjects(bucket), {"format": format}) as sink:
        await sink.resume(resume())
        for number in (500, 501):
            await sink.write([at(number, 0)])
    await compact(bucket)
    report = await audit(bucket)
    assert troubles(report) == []
    assert report.rows == before.rows + 2


@FORMATS
async def test_whatever_is_changed_of_a_compacted_lake_is_found(format: str) -> None:
    whole = await sealed(format)
    keys = [key for key in whole.objects if "compact-" in key]
    assert len(keys) == 4
    for key in keys:
        for change_it in ("delete", "flip", "cut", "empty"):
            bucket = Bucket()
            bucket.objects = dict(whole.objects)
            body = bytearray(bucket.objects.pop(key))
            if change_it == "flip":
                body[len(body) // 2] ^= 1
            elif change_it == "cut":
                del body[-3:]
            elif change_it == "empty":
                body = bytearray(void_of(key) if "data/" in key else b"{}")
            if change_it != "delete":
                bucket.objects[key] = bytes(body)
            assert troubles(await audit(bucket)) != [], (key, change_it)


async def test_a_range_verifies_though_its_parts_were_compacted_after_it() -> None:
    bucket = Bucket()
    now = [float(NOON)]
    async with make_sink(FakeObjects(bucket), {"digest": {}}, clock=lambda: now[0], ticking=False) as sink:
        await sink.resume(resume())
        for period in range(3):
            for number in range(3):
                assert not await sink.write([at(10 * period + number, 0)])
            now[0] += 3600
            await sink.seal()
    whole = await audit(bucket, until=NOON + 3600.0)
    assert (troubles(whole), whole.rows) == ([], 3)
    await compact(bucket)
    part = await audit(bucket, until=NOON + 3600.0)
    assert (troubles(part), part.rows) == ([], 9), "its parts are where those of later periods are"


async def test_rows_that_were_added_by_a_compaction_of_ones_own_are_found() -> None:
    bucket = await lake("jsonl")
    foreign = Bucket()
    async with make_sink(FakeObjects(foreign)) as sink:
        await sink.resume(resume())
        for number in (7000, 7001, 7002):
            await sink.write([at(number, 0)])
    await compact(foreign)
    for key, body in foreign.objects.items():
        if "compact-" in key:
            bucket.objects[key] = body
    assert ("altered", "foreign") in [one[:2] for one in troubles(await audit(bucket))]


@FORMATS
async def test_a_compaction_that_was_killed_anywhere_verifies(format: str) -> None:
    whole = await lake(format, batches=3)
    for kill in range(0, 60, 3):
        bucket = Bucket()
        bucket.objects, bucket.rows = dict(whole.objects), dict(whole.rows)
        with suppress(Killed):
            await compact(bucket, calls=kill)
        assert troubles(await audit(bucket)) == [], kill


async def test_the_sink_goes_on_beside_a_compacted_lake_and_repeats_nothing() -> None:
    bucket = await lake("jsonl", hours=1)
    await compact(bucket)
    async with make_sink(FakeObjects(bucket)) as sink:
        known = {one.id for one in await sink.resume(resume(since=NOON + 1000.0))}
        assert at(1000, 1).id in known
        assert not await sink.write([at(2000, 0)])
    again = [at(n, 0) for n in range(4)]
    async with make_sink(FakeObjects(bucket)) as sink:
        assert {setback.verdict.value for setback in await sink.replay(again)} == {"duplicate"}
