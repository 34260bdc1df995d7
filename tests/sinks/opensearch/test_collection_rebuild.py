"""A rebuild in a collection of Serverless, which has no blocks and no refresh: whoever writes sees by reading that the old index is held."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from dsqlcdc.contract import Change, Op, Unavailable, Verdict
from dsqlcdc.testing import virtual
from dsqlcdc.testing.opensearch import Reply
from dsqlcdc.testing.serverless import FakeCollection
from dsqlcdc_opensearch import OpenSearchSink
from dsqlcdc_opensearch.http import Answer
from dsqlcdc_opensearch.rebuild import Rebuild
from dsqlcdc_opensearch.watermark import State
from tests.sinks.opensearch.replica import NOON, TABLE, Direct, change, resumed, sink

ALIAS = f"cdc-{TABLE}"
OLD, NEW = f"{ALIAS}-000001", f"{ALIAS}-000002"
KEYS = 12
SIGNED = {
    "authorization": "AWS4-HMAC-SHA256 Credential=AKID/20270115/eu-west-1/aoss/aws4_request, "
    f"SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={'0' * 64}",
    "x-amz-content-sha256": "0" * 64,
}
FORBIDDEN = (b"404 Not Found", b"unrecognized parameter", b"unknown setting")


class Collected(Direct):
    """Requests as a signer would send them. A request may be on its way for a while, and its answer too."""

    def __init__(self, engine: FakeCollection, slow: random.Random | None = None) -> None:
        super().__init__(engine)
        self._slow = slow

    async def __call__(self, method: str, path: str, body: bytes = b"", *, lines: bool = False) -> Answer:
        await asyncio.sleep(self._slow.choice([0, 1, 40]) if self._slow is not None and path.startswith("/_bulk") else 0)
        reply = self.engine.handle(method, path, body, SIGNED)
        return Answer(reply.status, reply.body)


def collection(**options: Any) -> FakeCollection:
    engine = FakeCollection(lambda: NOON + asyncio.get_running_loop().time(), **options)
    engine.forbidden = []  # type: ignore[attr-defined]

    def after(method: str, path: str, reply: Reply) -> Reply:
        if any(word in reply.body for word in FORBIDDEN):
            engine.forbidden.append(f"{method} {path}")  # type: ignore[attr-defined]
        return reply

    engine.after = after
    return engine


def over(engine: FakeCollection, slow: random.Random | None = None, *, cls: type[OpenSearchSink] = OpenSearchSink, **options: Any) -> Any:
    return sink(Collected(engine, slow), profile="serverless", sign={}, cls=cls, **options)


async def written(one: Any, changes: Sequence[Change]) -> None:
    """Write until nothing is to be tried again, as the pipeline does."""
    rest = list(changes)
    while rest:
        try:
            said = list(await one.write(rest))
        except Unavailable as error:
            await asyncio.sleep(error.after or 1.0)
            continue
        rest = [rest[setback.index] for setback in said if setback.verdict is Verdict.RETRY]
        if rest:
            await asyncio.sleep(max((setback.after or 1.0 for setback in said), default=1.0))


class Story:
    """Two writers that go on, and a rebuild that reads what they have written: the stream."""

    def __init__(self, seed: int, *, grace: float = 240.0, cls: type[OpenSearchSink] = OpenSearchSink, **options: Any) -> None:
        self.random = random.Random(seed)
        self.engine = collection(external_versions=options.get("mode") != "scripted")
        self.grace, self.cls, self.options = grace, cls, options
        self.stream: list[Change] = []
        self.ending = False

    def commit(self) -> Change:
        version = len(self.stream) + 1
        op = self.random.choice([Op.INSERT, Op.UPDATE, Op.DELETE])
        self.stream.append(change(self.random.randrange(KEYS), version, op=op, note=version))
        return self.stream[-1]

    async def write(self) -> None:
        """A writer: it pauses as it likes, reads the stream, and takes a while for everything."""
        async with over(self.engine, self.random, cls=self.cls, timeout="60s", **self.options) as one:
            while True:
                try:
                    await one.resume(resumed())
                    break
                except Unavailable:
                    await asyncio.sleep(5)
            while not self.ending:
                await written(one, [self.commit() for _ in range(self.random.randint(1, 4))])
                await asyncio.sleep(self.random.choice([0, 5, 30, 59, 61, 200, 900]))
            await written(one, [self.commit()])

    async def rebuild(self, fail: bool = False) -> None:
        table = self.stream[0].table
        async with over(self.engine, cls=Rebuild, **self.options) as steps:
            steps._options = steps._options.model_copy(update={"grace": self.grace})
            standing = await steps.begin(table)
            await written(steps, list(self.stream))
            await steps.hold_still(standing)
            if fail:
                await steps.let_go(standing)
                return
            await written(steps, list(self.stream))
            before, now = await steps.rows(standing)
            assert now >= before or self.grace < 100
            await steps.swap(standing)

    async def run(self, fails: int = 0) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(self.write())
            await asyncio.sleep(self.random.uniform(100, 400))
            for attempt in range(fails + 1):
                await self.rebuild(fail=attempt < fails)
                await asyncio.sleep(self.random.uniform(0, 300))
            self.ending = True
        self.wrong = self.compared()

    def compared(self) -> set[str]:
        """Rows that the alias shows otherwise than the database has them."""
        rows: dict[str, int] = {}
        for one in self.stream:
            id = str((one.key or {})["id"])
            if one.op is Op.DELETE:
                rows.pop(id, None)
            else:
                rows[id] = one.version
        shown = {id: row["__cdc"]["version"] for id, row in self.engine.rows(ALIAS).items()}
        return {id for id in rows.keys() | shown.keys() if rows.get(id) != shown.get(id)}


@pytest.mark.parametrize("mode", ["external", "scripted"])
def test_beside_writers_that_go_on_nothing_is_lost_and_nothing_is_asked_that_a_collection_refuses(mode: str) -> None:
    for seed in range(20):
        story = Story(seed, mode=mode)
        virtual.run(story.run(fails=seed % 2))
        assert list(story.engine.aliases[ALIAS]) == [NEW], seed
        assert story.wrong == set(), seed
        assert story.engine.unsigned == []
        assert story.engine.forbidden == []  # type: ignore[attr-defined]
        state = story.engine.indexes["cdc-__dsqlcdc"].documents["p~search"].row()
        assert state["held"] == [], "somebody would wait for ever"
        metas = {name: set(index.mappings["_meta"]) for name, index in story.engine.indexes.items() if name in (OLD, NEW)}
        assert metas == {OLD: {"dsqlcdc_replaced"}, NEW: {"dsqlcdc"}}


class NeverLooks(OpenSearchSink):
    """The mutant that does not look behind the alias."""

    async def _horizon(self) -> tuple[State, float]:
        return await self._watermark.current()


@pytest.mark.parametrize("mutant", [{"grace": 0.0}, {"cls": NeverLooks}])
def test_without_this_rule_something_is_lost_in_some_story(mutant: dict[str, Any]) -> None:
    stories = [Story(seed, **mutant) for seed in range(20)]
    for story in stories:
        virtual.run(story.run())
    assert any(story.wrong for story in stories)


def test_while_it_is_held_other_tables_go_on_and_a_run_that_was_cut_off_can_be_run_again() -> None:
    async def run() -> None:
        engine = collection(young=0.0)
        async with over(engine) as one, over(engine, cls=Rebuild) as steps:
            await one.resume(resumed())
            await one.write([change(1, 1), change(1, 1, table="public.items")])
            standing = await steps.begin(change(1, 1).table)
            holding = asyncio.create_task(steps.hold_still(standing))
            await asyncio.sleep(100)
            (setback,) = await one.write([change(1, 2), change(1, 2, table="public.items")])
            assert (setback.index, setback.verdict, setback.code) == (0, Verdict.RETRY, "held")
            with pytest.raises(Unavailable, match="E161"):
                await one.write([change(1, 2)])
            holding.cancel()  # killed: the old one stays held until the command is run again
            await asyncio.sleep(600)
            with pytest.raises(Unavailable, match="E161"):
                await one.write([change(1, 2)])
            again = await steps.begin(change(1, 1).table)
            assert again.new == standing.new
            await steps.hold_still(again)
            await steps.write([change(1, 1)])
            await steps.swap(again)
            assert await one.write([change(1, 2)]) == []
        assert engine.rows(ALIAS)["1"]["__cdc"]["version"] == change(1, 2).version
        assert engine.indexes[OLD].documents["1"].row()["__cdc"]["version"] == change(1, 1).version

    virtual.run(run())


def test_of_a_run_that_was_cut_off_after_the_swap_the_next_one_lets_everybody_go() -> None:
    async def run() -> None:
        engine = collection(young=0.0)
        async with over(engine) as one, over(engine, cls=Rebuild) as steps:
            await one.resume(resumed())
            await one.write([change(1, 1)])
            standing = await steps.begin(change(1, 1).table)
            await steps.write([change(1, 1)])
            await steps.hold_still(standing)

            def before(method: str, path: str, body: bytes) -> Reply | None:
                return Reply(503) if method == "PUT" and path.endswith("/_mapping") and engine.aliases[ALIAS].keys() == {NEW} else None

            engine.before = before
            with pytest.raises(Unavailable):
                await steps.swap(standing)
            engine.before = lambda method, path, body: None
            again = await steps.standing(change(1, 1).table)
            assert again is not None
            assert again.swapped
            await steps.swap(again)
            await asyncio.sleep(61)
            assert await one.write([change(1, 2)]) == []
        assert engine.rows(ALIAS)["1"]["__cdc"]["version"] == change(1, 2).version

    virtual.run(run())
