"""Names, partitions, bytes: functions of the data alone."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import tracemalloc
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dsqlcdc.contract import Change, Context, Progress, Table, Unavailable
from dsqlcdc_s3 import Options, S3Sink
from dsqlcdc_s3.encode import encode, void
from dsqlcdc_s3.lanes import Lanes
from dsqlcdc_s3.memory import Memory, furthest
from dsqlcdc_s3.objects import Put
from dsqlcdc_s3.paths import encode_name, manifest_key, manifest_number, partition

from .lake import NOON, Bucket, FakeObjects, change, make_sink, resume

SECOND = 10**9
names = st.text(min_size=1, max_size=20) | st.sampled_from(["..", ".", "a.b", "a/b", "%2F", "a=b", "é", "tab\t", "\\", "*", "dt=1"])


@given(names, names, names, names)
def test_two_tables_never_share_a_path(schema: str, table: str, other_schema: str, other_table: str) -> None:
    one, two = (partition(Table("c", *pair), 0).table for pair in ((schema, table), (other_schema, other_table)))
    assert (one == two) == ((schema, table) == (other_schema, other_table))


@given(names)
def test_a_name_in_a_path_is_one_harmless_segment_that_can_be_read_back(name: str) -> None:
    encoded = encode_name(name)
    assert not set(encoded) & set("/\\.=*?#&: \t\n")
    assert encoded.isascii()
    assert unquote(encoded, errors="surrogatepass") == name


def test_plain_names_stay_as_postgresql_has_them() -> None:
    assert partition(Table("c", "public", "order_items"), 0).table == "public.order_items"


@pytest.mark.parametrize(
    ("version", "date", "hour"),
    [
        (-1, "1969-12-31", "23"),
        (0, "1970-01-01", "00"),
        (-7 * 3600 * SECOND, "1969-12-31", "17"),
        (2**63 - 1, "2262-04-11", "23"),
        (1_800_057_599 * SECOND + 999_999_999, "2027-01-15", "23"),
        (1_800_057_600 * SECOND, "2027-01-16", "00"),
        (-62_135_596_800 * SECOND, "0001-01-01", "00"),
    ],
)
def test_the_hour_is_that_of_the_commit_in_utc(version: int, date: str, hour: str) -> None:
    where = partition(Table("c", "public", "t"), version)
    assert (where.date, where.hour) == (date, hour)


def test_keys_are_those_of_the_documentation() -> None:
    where = partition(Table("c", "public", "orders"), NOON * SECOND)
    assert where.key("cdc/", 12, 3) == "cdc/data/public.orders/dt=2027-01-15/hour=08/000000000012-0003.jsonl.gz"
    assert manifest_key("cdc/", 12) == "cdc/manifests/000000000012.json"
    assert manifest_number("cdc/", manifest_key("cdc/", 10**13)) == 10**13
    assert manifest_number("cdc/", "cdc/manifests/notes.txt") is None


def numbered(changes: list[Change]) -> list[tuple[int, Change]]:
    return list(enumerate(changes))


def test_the_same_changes_give_the_same_bytes_in_any_order() -> None:
    changes = [change(n, shard=f"s{n % 3}", version=NOON * SECOND + n // 4) for n in range(200)]
    whole, _ = encode(numbered(changes), raw=False, level=6)
    random.Random(1).shuffle(changes)
    again, _ = encode(numbered(changes), raw=False, level=6)
    assert [part.body for part in whole] == [part.body for part in again]
    assert whole[0].body[4:8] == bytes(4), "no time in the gzip header"


def test_rows_stand_by_version_transaction_shard_and_sequence_as_a_number() -> None:
    rows = [(2, "s1", 9), (2, "s1", 10), (2, "s2", 1), (1, "s9", 99), (2, "s1", 2)]
    changes = [change(n, version=v + NOON * SECOND, shard=shard, sequence=seq, transaction="t") for n, (v, shard, seq) in enumerate(rows)]
    ((part,), _) = encode(numbered(changes), raw=False, level=1)
    lines = [json.loads(line) for line in gzip.decompress(part.body).splitlines()]
    assert [(line["version"] - NOON * SECOND, line["shard"], int(line["sequence"])) for line in lines] == sorted(rows)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=40, unique=True), st.integers(0, 3))
def test_what_a_part_says_of_itself_is_so(numbers: list[int], hours: int) -> None:
    changes = [change(n, version=(NOON + (n % (hours + 1)) * 3600) * SECOND + n) for n in numbers]
    parts, dead = encode(numbered(changes), raw=False, level=1)
    assert not dead
    assert sorted(index for part in parts for index in part.indexes) == list(range(len(changes)))
    for part in parts:
        text = gzip.decompress(part.body)
        mine = [changes[index] for index in part.indexes]
        assert part.content_sha256 == hashlib.sha256(text).hexdigest()
        assert part.sha256 == hashlib.sha256(part.body).digest()
        assert part.uncompressed_bytes == len(text)
        assert part.versions == (min(c.version for c in mine), max(c.version for c in mine))
        assert part.arrivals == (min(c.arrived for c in mine), max(c.arrived for c in mine))
        assert text.count(b"\n") == len(mine)


def noise(n: int, size: int) -> Change:
    """A row that does not compress: `size` bytes of image."""
    text = b'{"id":%d,"blob":"%s"}' % (n, random.Random(n).randbytes(size // 2).hex().encode())
    return change(n, image=msgspec.Raw(text), raw=text)


def test_a_part_above_the_cap_is_cut_and_a_row_above_it_stands_alone() -> None:
    cap = 400_000
    changes = [noise(n, 100_000) for n in range(12)] + [noise(20, 2_000_000)]
    parts, _ = encode(numbered(changes), raw=False, level=1, cap=cap)
    assert len(parts) > 2
    assert all(len(part.body) <= cap or len(part.indexes) == 1 for part in parts)
    assert sorted(index for part in parts for index in part.indexes) == list(range(13))


async def test_ten_mebibyte_rows_cost_no_more_memory_than_the_batch_and_its_parts() -> None:
    """Six rows of 10 MiB, over the store's own copy: one line and the compressed parts, not all lines."""

    class Devours(Bucket):
        def store(self, key: str, body: bytes, if_none_match: bool) -> Put:
            return Put.CREATED if "data/" in key else super().store(key, body, if_none_match)

    mebibyte = 1024 * 1024
    changes = [noise(n, 10 * mebibyte) for n in range(6)]
    bucket = Devours()
    async with make_sink(FakeObjects(bucket), {"parallel": 4}) as sink:
        await sink.resume(resume())
        tracemalloc.start()
        try:
            assert list(await sink.write(changes)) == []
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    batch = sum(one.size for one in changes)
    assert peak < batch * 1.2 + 40 * mebibyte, f"{peak / mebibyte:.0f} MiB for a batch of {batch / mebibyte:.0f} MiB"


def test_a_void_part_is_a_gzip_of_nothing_and_always_the_same() -> None:
    assert gzip.decompress(void()) == b""
    assert void() == void()


async def test_a_manifest_tells_what_was_read_since_the_last_one() -> None:
    bucket = Bucket()
    progress = [Progress("s1", "trim_horizon", "10", 10, {"delivered": 4, "duplicate": 1}, 5)]
    async with make_sink(FakeObjects(bucket), writer="w") as sink:
        await sink.resume(resume(progress=lambda: progress))
        await sink.write([change(1)])
        progress = [
            Progress("s1", "trim_horizon", "25", 24, {"delivered": 9, "duplicate": 1, "dead": 1}, 13),
            Progress("s2", "7", "", 0, {}, 0),
        ]
        await sink.write([change(2), change(3)])
    first, second = bucket.manifests()
    assert first["reads"] == [
        {"shard": "s1", "from": "trim_horizon", "to": "10", "read": 10, "settled": {"delivered": 4, "duplicate": 1}, "open": 5}
    ]
    assert second["reads"] == [
        {"shard": "s1", "from": "10", "to": "25", "read": 14, "settled": {"delivered": 5, "dead": 1}, "open": 13},
        {"shard": "s2", "from": "7", "to": "", "read": 0, "settled": {}, "open": 0},
    ]
    body = bucket.objects["cdc/manifests/000000000001.json"]
    assert second["prev"] == {"key": "cdc/manifests/000000000001.json", "sha256": hashlib.sha256(body).hexdigest()}
    assert first["prev"] is None
    assert (second["format"], second["n"], second["epoch"], second["writer"]) == (1, 2, 1, "w")
    assert (second["pipeline"], second["sink"], second["created_at"]) == ("orders-cdc", "lake", "2027-01-15T08:00:00.000Z")
    (part,) = second["parts"]
    assert part["rows"] == 2
    assert (part["min_version"], part["max_version"]) == (change(2).version, change(3).version)
    assert (part["min_arrived"], part["max_arrived"]) == (change(2).arrived, change(3).arrived)


def test_a_manifest_counts_as_committed_when_every_frontier_has_passed_it() -> None:
    memory = Memory()
    memory.wrote(3, furthest([change(9, shard="s1"), change(10, shard="s1"), change(4, shard="s2")]))
    memory.wrote(4, furthest([change(11, shard="s1")]))

    def oldest(one: str, two: str) -> int:
        shards = [Progress("s1", "", "", 0, {}, 0, frontier=one), Progress("s2", "", "", 0, {}, 0, frontier=two)]
        return memory.oldest(5, shards)

    assert oldest("", "") == 3
    assert oldest("9", "4") == 3
    assert oldest("10", "3") == 3
    assert oldest("10", "4") == 4
    assert oldest("10", "end") == 4
    assert oldest("11", "end") == 5


async def test_throttling_halves_what_is_in_flight_and_success_gives_it_back_one_by_one() -> None:
    lanes = Lanes(8)

    async def busy(_: int) -> None:
        raise Unavailable("cannot put", why="slow down")

    async def fine(_: int) -> None:
        return

    for width in (4, 2, 1, 1):
        with pytest.raises(Unavailable):
            await lanes.each(range(9), busy)
        assert lanes.width == width
    for width in (2, 3, 4):
        await lanes.each(range(9), fine)
        assert lanes.width == width


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"bucket": "UPPER"},
        {"bucket": "lake", "prefix": "/cdc/"},
        {"bucket": "lake", "prefx": "cdc/"},
        {"bucket": "lake", "roll": {"bytes": 5}},
        {"bucket": "lake", "roll": {"age": "1 fortnight"}},
        {"bucket": "lake", "gzip": 0},
        {"bucket": "lake", "kms_key_id": "k"},
        {"bucket": "lake", "sse": "AES256", "bucket_key": True},
        {"bucket": "lake", "storage_class": "DEEP_ARCHIVE"},
        {"bucket": "lake", "expected_bucket_owner": "me"},
    ],
    ids=str,
)
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        S3Sink.from_options(wrong, Context("p", "s"))


def test_the_defaults_are_those_of_the_documentation() -> None:
    sink = S3Sink.from_options({"bucket": "my-lake"}, Context("p", "s"))
    assert (sink.batching.bytes, sink.batching.age, sink.batching.records) == (64 * 1024 * 1024, 60.0, 100_000)
    assert (sink.lanes, sink.needs_key, sink.needs_order, sink.order) == (1, False, False, "unique")
    assert sink.Options is Options
