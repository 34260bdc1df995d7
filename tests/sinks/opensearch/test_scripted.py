"""`mode: scripted`, on an engine that refuses external versions: nothing of the sink needs them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError

from dsqlcdc.contract import Change, Misconfigured, Op, Progress, Unavailable, Verdict
from dsqlcdc.testing import virtual
from dsqlcdc.testing.opensearch import FakeOpenSearch, Reply, said
from dsqlcdc.testing.search_index import Refused
from dsqlcdc_opensearch import Options, scripted
from dsqlcdc_opensearch.rebuild import Rebuild
from dsqlcdc_opensearch.watermark import State
from tests.sinks.opensearch.replica import NOON, TABLE, Database, Direct, change, resumed, sink

ALIAS, INDEX = f"cdc-{TABLE}", f"cdc-{TABLE}-000001"
P = NOON * 10**9 + 1000
SCRIPTS = {scripted.REPLACE, scripted.REMOVE, scripted.FORGET, scripted.SUCCEED}


def engine(**options: Any) -> FakeOpenSearch:
    return FakeOpenSearch(lambda: NOON + asyncio.get_running_loop().time(), **{"external_versions": False, **options})


def by_script(fake: FakeOpenSearch, rows: Database | None = None, **options: Any) -> Any:
    return sink(Direct(fake), rows, mode="scripted", **options)


def sent(fake: FakeOpenSearch) -> list[Any]:
    """The bodies of all updates that were asked for."""
    bodies = [body for _, path, body in fake.requests if "/_update/" in path]
    bodies += [line for _, path, body in fake.requests if path == "/_bulk" for line in body.splitlines()[1::2]]
    return [msgspec.json.decode(body) for body in bodies]


async def verdicts(one: Any, changes: Sequence[Change]) -> dict[int, tuple[Verdict, str]]:
    return {setback.index: (setback.verdict, setback.code) for setback in await one.write(changes)}


async def test_an_engine_that_refuses_external_versions_is_told_what_to_do_and_with_it_served() -> None:
    fake = engine()
    async with sink(Direct(fake)) as one:
        with pytest.raises(Misconfigured, match=r"E470.*mode: scripted"):
            await one.resume(resumed())
    async with by_script(fake) as one:
        await one.resume(resumed())
        assert await one.write([change(1, 1), change(2, 1), change(3, 2)]) == []
        assert await one.write([change(1, 2, op=Op.DELETE), change(2, 2, a=1)]) == []
        given = [change(1, 1), change(2, 2), change(3, 1)]
        assert await verdicts(one, given) == {0: (Verdict.STALE, ""), 1: (Verdict.DUPLICATE, ""), 2: (Verdict.STALE, "")}
    assert fake.indexes[INDEX].mappings["_meta"]["dsqlcdc"]["mode"] == "scripted"


async def test_a_document_is_the_same_as_with_external_versions() -> None:
    rows = [{"a": 1, "b": "x\ny", "c": None}, {}, {"a": 2.5, "é": "'; ctx.op = 'delete'; //", "%.": True}]
    shown: list[Any] = []
    for mode, fake in (("external", engine(external_versions=True)), ("scripted", engine())):
        async with sink(Direct(fake), mode=mode) as one:
            assert await one.write([change(n, n + 1, **row) for n, row in enumerate(rows)]) == []
            assert await one.write([change(1, 9, op=Op.DELETE)]) == []
        shown.append({id: document.row() for id, document in fake.indexes[INDEX].documents.items()})
    assert shown[0] == shown[1]


async def test_the_texts_of_scripts_never_change_and_values_are_their_parameters() -> None:
    fake = engine()
    async with by_script(fake) as one:
        await one.resume(resumed())
        words = ["') { ctx.op = 'delete' }", '"}}', "${x}", "params.doc"]
        await one.write([change(word, n + 1, **{word: word}) for n, word in enumerate(words)])
        await one.write([change(word, 9, op=Op.DELETE) for word in words])
    assert {body["script"]["source"] for body in sent(fake)} <= SCRIPTS


async def test_a_conflict_is_tried_again_and_is_not_taken_for_stale() -> None:
    fake = engine()
    async with by_script(fake) as one:
        await one.write([change(1, 1)])
        fake.refuse = lambda action, index, id: (
            Refused(409, "version_conflict_engine_exception", "current version [7]") if id == "1" else None
        )
        assert await verdicts(one, [change(1, 2), change(2, 1)]) == {0: (Verdict.RETRY, "version_conflict_engine_exception")}
        with pytest.raises(Unavailable):
            await one.write([change(1, 2)])
        fake.refuse = lambda action, index, id: None
        assert await one.write([change(1, 2)]) == []


@pytest.mark.parametrize("why", ["cannot execute [inline] scripts", "cannot execute scripts using [update] context", "compile error"])
async def test_an_engine_that_runs_no_scripts_stops_the_sink_at_start_and_later(why: str) -> None:
    fake = engine()
    refusal = said(400, "illegal_argument_exception", why)

    def before(method: str, path: str, body: bytes) -> Reply | None:
        return refusal if "/_update/" in path else None

    async with by_script(fake) as one:
        fake.before = before
        with pytest.raises(Misconfigured, match="E476"):
            await one.resume(resumed())
        fake.refuse = lambda action, index, id: Refused(400, "illegal_argument_exception", why)
        with pytest.raises(Misconfigured, match="E164"):
            await one.write([change(1, 1)])


async def test_a_script_that_does_not_compare_is_found_out_at_start() -> None:
    fake = engine()
    transport = Direct(fake)
    transport.rewrite = lambda path, body: body.replace(b"params.doc.__cdc.version >", b"1 != ")
    async with sink(transport, mode="scripted") as one:
        with pytest.raises(Misconfigured, match="E476"):
            await one.resume(resumed())


async def test_where_external_versions_are_kept_the_mode_is_said_to_be_needless(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with by_script(engine(external_versions=True)) as one:
        await one.resume(resumed())
    assert "slower than it need be" in caplog.text
    caplog.clear()
    async with by_script(engine()) as one:
        await one.resume(resumed())
    assert caplog.text == ""


def test_the_mode_goes_with_tombstones_only() -> None:
    with pytest.raises(ValidationError, match="delete_mode: tombstone"):
        Options.model_validate({"url": "https://h", "mode": "scripted", "delete_mode": "native"})


@pytest.mark.parametrize(("first", "then"), [("external", "scripted"), ("scripted", "external")])
async def test_an_index_of_the_other_mode_is_refused_and_a_rebuild_makes_a_new_one(first: str, then: str) -> None:
    """An update by a script counts the engine's version on by one: what is compared by that afterwards is wrong."""
    fake = engine(external_versions=True)
    async with sink(Direct(fake), mode=first) as one:
        await one.write([change(1, 1)])
        table = change(1, 1).table
    async with sink(Direct(fake), mode=then) as one:
        with pytest.raises(Misconfigured, match=r"E477.*opensearch rebuild"):
            await one.write([change(1, 2)])
    async with sink(Direct(fake), mode=then, cls=Rebuild) as steps:
        assert isinstance(steps, Rebuild)
        standing = await steps.begin(table)
        await steps.write([change(1, 1), change(1, 2)])
        await steps.hold_still(standing)
        await steps.swap(standing)
    async with sink(Direct(fake), mode=then) as one:
        assert await verdicts(one, [change(1, 2)]) == {0: (Verdict.DUPLICATE, "")}
        assert await one.write([change(1, 3)]) == []


async def test_a_rebuild_that_was_begun_in_the_other_mode_is_begun_anew_only() -> None:
    fake = engine(external_versions=True)
    table = change(1, 1).table
    async with sink(Direct(fake), cls=Rebuild) as steps:
        assert isinstance(steps, Rebuild)
        await steps.begin(table)
    async with sink(Direct(fake), cls=Rebuild, mode="scripted") as steps:
        assert isinstance(steps, Rebuild)
        with pytest.raises(Misconfigured, match=r"E477.*--anew"):
            await steps.begin(table)
        assert (await steps.begin(table, anew=True)).mode == "scripted"


async def at_watermark(fake: FakeOpenSearch, to: int = P) -> None:
    async with by_script(fake) as one:
        state = await one._watermark.load()
        assert await one._watermark.store(State(to, "other", state.count))


async def test_late_changes_are_judged_by_the_versions_in_the_documents() -> None:
    fake = engine()
    async with by_script(fake) as one:
        await one.resume(resumed())
        await one.write([change(1, 400), change(2, 500), change(3, 600), change(4, 600, op=Op.DELETE), change(5, 400), change(6, 600)])
    await at_watermark(fake)
    rows = Database(lambda change: False)
    async with by_script(fake, rows) as one:
        upserts = [change(n, 500, new=True) for n in (1, 2, 3, 4, 8)]
        stale = (Verdict.STALE, "")
        assert await verdicts(one, upserts) == {1: (Verdict.DUPLICATE, ""), 2: stale, 3: stale, 4: stale}
        deletes = [change(n, 500, op=Op.DELETE) for n in (5, 6, 7)]
        assert await verdicts(one, deletes) == {1: stale}
    documents = fake.indexes[INDEX].documents
    assert set(documents) == {"1", "2", "3", "4", "6"}, "a late delete removes what is older and leaves no tombstone"
    assert [asked.key for asked in rows.asked] == [{"id": 8}]


def test_the_purge_removes_tombstones_and_leaves_a_row_that_came_back() -> None:
    async def run() -> None:
        fake = engine()
        progress = [Progress("s", "", "", 0, {}, 0, False, "", NOON + 40 * 86_400.0)]
        async with by_script(fake, purge="leader") as one:
            await one.resume(resumed(lambda: progress))
            await one.write([change(n, n, op=Op.DELETE) for n in (1, 2, 3)])
            await one.write([change(9, 40 * 86_400 * 10**9)])

            def before(method: str, path: str, body: bytes) -> Reply | None:
                if path == "/_bulk" and b"deleted" in body and b'"_id":"2"' in body:  # the row comes back between the search and the purge
                    fake.before = lambda method, path, body: None
                    update = scripted.update(scripted.REPLACE, {"doc": {"__cdc": {"version": NOON * 10**9 + 77, "deleted": False}}})
                    assert fake.handle("POST", f"/{INDEX}/_update/2", msgspec.json.encode(update)).status == 200
                return None

            fake.before = before
            await asyncio.sleep(3 * 3600)
            assert one._purging is not None
            assert not one._purging.done()
        assert set(fake.rows(ALIAS)) == {"2", "9"}
        assert set(fake.indexes[INDEX].documents) == {"2", "9"}
        assert {body["script"]["source"] for body in sent(fake)} == SCRIPTS

    virtual.run(run())


async def test_of_two_processes_that_write_the_watermark_one_learns_that_it_came_second() -> None:
    fake = engine()
    async with by_script(fake) as one, by_script(fake) as two:
        await one.resume(resumed())
        for each in (one, two):
            await each._watermark.load()
        assert await one._watermark.store(State(5, "one", 0))
        assert not await two._watermark.store(State(9, "two", 0))
        assert (await two._watermark.load()).owner == "one"
        assert await two._watermark.store(State(9, "two", 1))
