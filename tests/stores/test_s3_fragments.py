"""Fragments in S3: the contract against the embedded AWS, what a part costs, and what S3's troubles, clocks and strange names make of it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import pytest

from dsqlcdc.aws import Aws, client
from dsqlcdc.core.ports import FragmentStore, Parked, Part
from dsqlcdc.errors import Misconfigured, Unavailable
from dsqlcdc.stores.pieces import MAIN
from dsqlcdc.stores.s3_fragments import Look, S3Fragments
from dsqlcdc.stores.s3_objects import Entry, S3Objects
from dsqlcdc.stores.s3_parts import name_of, parse, segment
from dsqlcdc.testing import virtual
from dsqlcdc.testing.local import LocalAws
from dsqlcdc.testing.shared import check_shared_fragment_store
from dsqlcdc.testing.stores import check_fragment_store, cut

from .bucket import Bucket, FakeObjects


@pytest.fixture
def aws(local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> LocalAws:
    for name, value in local_aws.environ.items():
        monkeypatch.setenv(name, value)
    return local_aws


async def make_bucket() -> None:
    async with client("s3", Aws()) as s3:
        await s3.create_bucket(Bucket="parts")


async def test_s3_fragments_keep_the_contract(aws: LocalAws) -> None:
    await make_bucket()
    await check_fragment_store(lambda sinks: S3Fragments(S3Objects("parts", "f/pipe/"), sinks, every=0.0))


async def test_s3_fragments_that_several_processes_share_keep_the_contract(aws: LocalAws) -> None:
    await make_bucket()
    await check_fragment_store(lambda sinks: S3Fragments(S3Objects("parts", "one/"), sinks, claims=True, every=0.0))
    await check_shared_fragment_store(lambda sinks: S3Fragments(S3Objects("parts", "two/"), sinks, claims=True, every=0.0))


class _NoMarkers(S3Fragments):
    async def _mark(self, sink: str, row: str, look: Look) -> None:
        return


class _GoneAtOnce(S3Fragments):
    async def _release(self, look: Look) -> None:
        for name in look.group.names:
            await self._objects.delete(name)


class _VerdictsOfRows(S3Fragments):
    async def judged(self, sink: str, chunk_ids: Sequence[str]) -> None:
        self._mine = {*getattr(self, "_mine", ()), *chunk_ids}

    async def overdue(self, sink: str, before: float) -> Sequence[Part]:
        return [part for part in await super().overdue(sink, before) if part.chunk_id not in getattr(self, "_mine", ())]


class _NobodyClaims(S3Fragments):
    async def _claim(self, sink: str, part: Part, look: Look) -> bool:
        return True


class _ClaimedForGood(S3Fragments):
    async def _claim(self, sink: str, part: Part, look: Look) -> bool:
        return await super()._claim(sink, msgspec.structs.replace(part, sequence=str(id(self))), look)


class _NothingIsUnfinished(S3Fragments):
    async def unfinished(self, sink: str, age: float) -> Sequence[str]:
        return ()


@pytest.mark.parametrize("broken", [_NoMarkers, _GoneAtOnce, _VerdictsOfRows, _NobodyClaims, _ClaimedForGood, _NothingIsUnfinished])
async def test_a_shared_store_that_breaks_a_law_is_caught(broken: type[S3Fragments]) -> None:
    async def check(kind: type[S3Fragments]) -> None:
        one, two = Bucket(), Bucket()
        await check_fragment_store(lambda sinks: kind(FakeObjects(one), sinks, claims=True, every=0.0))
        await check_shared_fragment_store(lambda sinks: kind(FakeObjects(two), sinks, claims=True, every=0.0))

    await check(S3Fragments)
    with pytest.raises(AssertionError):
        await check(broken)


async def test_what_passes_settles_nothing(aws: LocalAws) -> None:
    await make_bucket()
    objects = S3Objects("parts")
    await objects.put("parts/x", b"1")
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "PutObject": lambda: objects.put("parts/y", b"2"),
        "ListObjectsV2": lambda: objects.list("parts/"),
        "GetObject": lambda: objects.get("parts/x"),
        "DeleteObject": lambda: objects.delete("parts/x"),
    }
    for operation, call in calls.items():
        for answer, status, code in (("SlowDown", 503, "E121"), ("InternalError", 500, "E120")):
            aws.fault("error", service="s3", operation=operation, code=answer, status=status, times=1)
            with pytest.raises(Unavailable) as caught:
                await call()
            assert caught.value.code == code
    aws.fault("error", service="s3", operation="PutObject", code="AccessDenied", status=403, times=1)
    with pytest.raises(Misconfigured, match="s3:PutObject"):
        await calls["PutObject"]()
    await objects.close()


async def test_of_processes_that_add_all_parts_at_one_moment_one_has_the_row(aws: LocalAws) -> None:
    await make_bucket()
    parts = cut("row", {"after": [b"{", b" ", b"}"], "before": [b"{", b"}"]})
    stores = [S3Fragments(S3Objects("parts"), ["a"], claims=True) for _ in parts]
    answers = await asyncio.gather(*(store.add("a", part) for store, part in zip(stores, parts, strict=True)))
    assert sorted(answer.state for answer in answers) == ["complete"] + ["waiting"] * (len(parts) - 1)
    for store in stores:
        assert len(await store.row("row")) == len(parts)
        await store.close()


async def test_a_store_without_its_bucket_says_so_at_the_start(aws: LocalAws) -> None:
    store = S3Fragments(S3Objects("missing"), ["a"])
    with pytest.raises(Misconfigured, match="E103"):
        await store.prepare()
    await store.close()


async def test_names_are_listed_over_pages(aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> None:
    await make_bucket()
    objects = S3Objects("parts", "x/")
    for number in range(5):
        await objects.put(f"{number}", b"")
    opened = await objects._client()
    whole = opened.list_objects_v2

    async def by_twos(**asked: object) -> object:
        return await whole(MaxKeys=2, **asked)

    monkeypatch.setattr(opened, "list_objects_v2", by_twos)
    listing = await objects.list("")
    assert [entry.name for entry in listing.entries] == list("01234")
    assert all(abs(listing.now - entry.modified) < 60 for entry in listing.entries)
    assert not await objects.put("0", b"other", new=True)
    assert await objects.get("0") == b""
    await objects.delete("0")
    await objects.delete("0")
    assert await objects.get("0") is None
    await objects.close()


# What a bucket in memory shows as well -----------------------------------------------------------------------------------------------


def store_of(bucket: Bucket, sinks: Sequence[str] = ("a",), max_bytes: int = 1 << 30) -> S3Fragments:
    return S3Fragments(FakeObjects(bucket), sinks, max_bytes, every=0.0)


async def complete(store: FragmentStore, parts: Sequence[Part], sink: str = "a") -> None:
    for part in parts:
        await store.add(sink, part)


def names(bucket: Bucket, start: str = "parts/") -> list[str]:
    return sorted(name for name in bucket.objects if name.startswith(start))


async def test_a_part_costs_four_listings_and_a_write_and_one_that_is_there_two_listings() -> None:
    bucket = Bucket()
    store = store_of(bucket, ["a", "b"])
    await store.prepare()
    main, *pieces = cut("row", {"after": [b"{", b" ", b"}"]})

    async def cost(sink: str, part: Part) -> dict[str, int]:
        bucket.requests.clear()
        await store.add(sink, part)
        return dict(bucket.requests)

    assert await cost("a", pieces[0]) == {"list": 4, "put": 1}
    assert await cost("b", pieces[0]) == {"list": 2}
    assert await cost("a", main) == {"list": 4, "put": 1, "get": 1}
    assert await cost("a", pieces[1]) == {"list": 4, "put": 1}
    bucket.requests.clear()
    await complete(store, pieces, "a")
    await store.done("a", ["row"])
    bucket.requests.clear()
    await store.done("b", ["row"])
    assert bucket.requests == {"list": 5, "put": 2, "delete": 4}
    assert await cost("a", pieces[2]) == {"list": 2, "get": 1}


async def test_looking_for_overdue_rows_costs_nothing_between_two_looks() -> None:
    bucket = Bucket()
    store = S3Fragments(FakeObjects(bucket), ["a"], every=60.0)
    await store.overdue("a", math.inf)
    bucket.requests.clear()
    for _ in range(100):
        await store.overdue("a", math.inf)
    assert bucket.requests == {}


@pytest.mark.parametrize("chunk", ["", ".", "..", "a/b", "a%2Fb", "é\ud800", "%~x", "x" * 4000, " ", "\x00"])
def test_any_chunk_id_becomes_a_segment_of_its_own(chunk: str) -> None:
    encoded = segment(chunk)
    assert 0 < len(encoded) <= 200
    assert not set("/.") & set(encoded)
    others = ["", ".", "..", "a/b", "a%2Fb", "é\ud800", "%~x", "x" * 4000, " ", "\x00", encoded]
    assert sum(segment(other) == encoded for other in others) == 1
    part = Part(chunk, 3, b"{}", b"x", "s", "1", 1234.567891)
    stored = parse(Entry(name_of(encoded, 2, part), 9.0))
    assert stored is not None
    assert (stored.chunk, stored.generation, stored.index, stored.size, stored.arrived) == (encoded, 2, 3, 2, 1234.567891)
    main = parse(Entry(name_of(encoded, 0, msgspec.structs.replace(part, index=MAIN)), 9.0))
    assert main is not None
    assert (main.chunk, main.index) == (encoded, MAIN)


async def test_chunk_ids_that_are_long_or_strange_go_their_way() -> None:
    bucket = Bucket()
    for row in ("x" * 4000, "../..", "é/ü%"):
        store = store_of(bucket)
        parts = cut(row, {"after": [b"{", b"}"], "before": [b"{}"]})
        await complete(store, parts)
        assert len(await store.row(row)) == 4
        await store.done("a", [row])
        assert await store_of(bucket).add("a", parts[3]) == Parked("done", row)
    assert names(bucket) == []


async def test_a_piece_with_another_text_takes_the_place_of_the_first() -> None:
    store = store_of(Bucket())
    main, one, two = cut("row", {"after": [b"{", b"}"]})
    await complete(store, [msgspec.structs.replace(one, text=b"[", raw=b"other"), main, two])
    assert [part.text for part in await store.row("row")] == [b"", b"[", b"}"]
    await store.add("a", one)
    assert [part.text for part in await store.row("row")] == [b"", b"{", b"}"]


async def test_beyond_the_bound_the_oldest_rows_are_overdue_and_go_when_every_sink_has_judged_them() -> None:
    bucket = Bucket()
    rows = [cut(f"r{n}", {"after": [b"{" + b" " * 1000, b"}"]}, arrived=10.0 * n) for n in range(1, 4)]
    size = sum(len(part.raw) for part in rows[0][:2])
    store = store_of(bucket, ["a", "b"], max_bytes=2 * size)
    for main, piece, _ in rows:
        await complete(store, [main, piece])
    assert {part.chunk_id for part in await store.overdue("a", 0.0)} == {"r1"}
    await store.judged("a", ["r1"])
    assert not await store.overdue("a", 0.0)
    assert await store.waiting() == (6, 3 * size)  # the other sink has not seen it yet
    await store.overdue("b", 0.0)
    await store.judged("b", ["r1"])
    await store.overdue("b", 0.0)
    assert await store.waiting() == (4, 2 * size)
    assert not [name for name in names(bucket) if "r1" in name]


async def test_a_sink_that_comes_while_judged_parts_go_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket()
    main, piece, _ = cut("row", {"after": [b"{" + b" " * 1000, b"}"]})
    old, new = store_of(bucket, ["old"], max_bytes=10), store_of(bucket, ["new"])
    await complete(old, [main, piece], "old")
    await old.judged("old", sorted({part.chunk_id for part in await old.overdue("old", 0.0)}))
    true_delete, came = FakeObjects.delete, list[str]()

    async def delete(self: FakeObjects, name: str) -> None:
        if not came:
            came.append(name)
            await complete(new, [main, piece], "new")
        await true_delete(self, name)

    monkeypatch.setattr(FakeObjects, "delete", delete)
    await old.overdue("old", 0.0)
    assert came
    assert {part.index for part in await new.overdue("new", math.inf)} == {-1, 0}


async def test_what_was_judged_while_a_part_was_added_elsewhere_is_overdue_again() -> None:
    bucket = Bucket()
    main, one, _two, _ = cut("row", {"after": [b"{", b" ", b"}"]})
    here, there = store_of(bucket), store_of(bucket)
    await here.add("a", main)
    assert len(await here.overdue("a", math.inf)) == 1
    await there.add("a", one)
    await here.judged("a", ["row"])
    assert len(await here.overdue("a", math.inf)) == 2


def test_markers_go_when_s3_calls_them_old_and_never_while_parts_wait() -> None:
    async def work() -> None:
        bucket = Bucket()
        gone, waits = cut("gone", {"after": [b"{}"]}), cut("waits", {"after": [b"{", b"}"]})
        store = store_of(bucket)
        await complete(store, gone)
        await store.done("a", ["gone"])
        await store.add("a", waits[0])
        await store.overdue("a", math.inf)
        await store.judged("a", ["waits"])
        bucket.ahead = 7 * 86400.0
        await store_of(bucket).overdue("a", 0.0)
        assert (await store.add("a", gone[1])).state == "done"
        bucket.ahead = 9 * 86400.0
        await store_of(bucket).overdue("a", 0.0)
        assert names(bucket, "done/") == []
        assert len(names(bucket, "judged/")) == 1 == len(names(bucket))

    virtual.run(work())


async def test_a_removal_that_was_cut_off_is_finished_by_the_next_process(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket()
    store = store_of(bucket)
    parts = cut("row", {"after": [b"{", b"}"]})
    await complete(store, parts)
    with monkeypatch.context() as patch:
        patch.setattr(FakeObjects, "delete", _unavailable)
        with pytest.raises(Unavailable):
            await store.done("a", ["row"])
    assert len(names(bucket)) == 3
    assert not await store_of(bucket).overdue("a", math.inf)
    assert names(bucket) == []


async def _unavailable(self: FakeObjects, name: str) -> None:
    raise Unavailable("cut off")


async def test_parts_stay_for_a_sink_of_another_process_until_it_is_done() -> None:
    bucket = Bucket()
    lake, hook = store_of(bucket, ["lake"]), store_of(bucket, ["hook"])
    parts = cut("row", {"after": [b"{", b"}"]})
    await hook.add("hook", parts[0])
    await complete(lake, parts, "lake")
    await lake.done("lake", ["row"])
    assert len(names(bucket)) == 3
    await complete(hook, parts, "hook")
    assert len(await hook.row("row")) == 3
    await hook.done("hook", ["row"])
    assert names(bucket) == []


def test_a_row_whose_claimer_never_comes_back_is_found_by_the_sweep() -> None:
    async def work() -> None:
        bucket = Bucket()
        parts = cut("row", {"after": [b"{", b"}"]})
        killed = S3Fragments(FakeObjects(bucket), ["a"], claims=True)
        await complete(killed, parts[:2])
        assert (await killed.add("a", parts[2])).state == "complete"
        again = S3Fragments(FakeObjects(bucket), ["a"], claims=True)
        assert (await again.add("a", parts[1])).state == "waiting", "the claim is another record's"
        assert (await again.add("a", parts[2])).state == "complete", "the claim is this record's, whoever reads it"
        assert not await again.unfinished("a", 900.0)
        bucket.ahead = 1000.0
        assert await again.unfinished("a", 900.0) == ["row"]
        await again.done("a", ["row"])
        assert not await again.unfinished("a", 900.0)

    virtual.run(work())


@pytest.mark.parametrize(("change", "code"), [(lambda body: body[:-3], "E203"), (lambda body: body[:1] + b"\x09" + body[2:], "E202")])
async def test_a_part_that_cannot_be_read_stops_and_says_why(change: object, code: str) -> None:
    assert callable(change)
    bucket = Bucket()
    store = store_of(bucket)
    await complete(store, cut("row", {"after": [b"{}"]}))
    name = next(name for name in names(bucket) if "main" not in name)
    body, when = bucket.objects[name]
    bucket.objects[name] = (change(body), when)
    with pytest.raises(Misconfigured) as caught:
        await store.row("row")
    assert caught.value.code == code


async def test_an_outage_settles_nothing_and_the_part_may_be_given_again() -> None:
    bucket, objects = Bucket(), FakeObjects(Bucket())
    objects.bucket = bucket
    store = S3Fragments(objects, ["a"])
    main, piece = cut("row", {"after": [b"{}"]})
    await store.add("a", main)
    objects.out = True
    with pytest.raises(Unavailable):
        await store.add("a", piece)
    objects.out = False
    assert (await store.add("a", piece)).state == "complete"


def test_a_sink_that_was_not_named_is_refused() -> None:
    with pytest.raises(ValueError, match="not one of those"):
        asyncio.run(S3Fragments(FakeObjects(Bucket()), ["a"]).unfinished("b", 0.0))
    with pytest.raises(ValueError, match="names of its sinks"):
        S3Fragments(FakeObjects(Bucket()), [])
