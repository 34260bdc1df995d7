"""An oversized row that a sink refuses is one dead letter, whichever of its parts completes it in whichever run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from dsqlcdc.contract import Change, Outcome, Setback, Verdict
from dsqlcdc.core.ports import DeadLetter
from dsqlcdc.core.reassemble import Place, Reassembler
from dsqlcdc.errors import Misconfigured
from dsqlcdc.stores.fragments import MemoryFragments
from dsqlcdc.testing.memory import MemorySource, RecordingSink
from dsqlcdc.testing.records import chunked

from .mortal import DurableFragments, Letters
from .rigs import Bench, play, stream_of


class Fatal(Letters):
    """The process dies between its first letter and the settling of the record."""

    alive = True

    async def put(self, letter: DeadLetter) -> bool:
        new = await super().put(letter)
        if self.alive:
            self.alive = False
            raise Misconfigured("the process is gone")
        return new


async def refuses(changes: Sequence[Change]) -> Sequence[Setback]:
    return [Setback(n, Verdict.DEAD, "refused") for n in range(len(changes))]


async def buried_twice(seed: int, durable: bool, copies: int = 1) -> list[DeadLetter]:
    """The letters of one oversized row over two runs that read the shards in different turns; each record came `copies` times."""
    parts = chunked("c", "app.t", {"id": 1, "text": "x" * 100}, 5, size=20)
    bench = Bench(stream_of(*(part for part in parts for _ in range(copies)), shards=4))
    bench.letters = Fatal()
    for run in range(2):
        bench.fragments = DurableFragments(["s"]) if durable else MemoryFragments(["s"])
        bench.checkpoints._held.clear()
        pipeline = bench.run(RecordingSink(refuses), source=MemorySource(bench.stream, seed=seed + run, page=1))
        if run == 0:
            with pytest.raises(Misconfigured):
                await pipeline.run(asyncio.Event())
            bench.checkpoints = type(bench.checkpoints)()  # nothing of the first run was committed
        else:
            await pipeline.run(asyncio.Event())
            assert copies > 1 or pipeline.status().settled[Outcome.DEAD] == (1 if durable else len(parts))
            assert pipeline.status().open == 0
    return list(bench.letters.kept.values())


@pytest.mark.parametrize("durable", [False, True])
def test_a_refused_row_has_one_letter_whichever_part_completes_it(durable: bool) -> None:
    async def work() -> None:
        for seed in range(0, 24, 2):
            (letter,) = await buried_twice(seed, durable)
            assert (letter.shard, letter.images.keys()) == ("shardId-000000000000", {"after"}), "it is named by its main record"

    play(work())


@pytest.mark.parametrize("durable", [False, True])
def test_a_refused_row_whose_records_came_twice_has_one_letter_whichever_copy_is_met_first(durable: bool) -> None:
    places: set[str] = set()

    async def work() -> None:
        for seed in range(0, 48, 2):
            (letter,) = await buried_twice(seed, durable, copies=2)
            places.add(letter.shard)

    play(work())
    assert len(places) > 1, "the same copy was met first each time"


@pytest.mark.parametrize("name", ["of the part that came last", "of the main record"])
def test_letters_named_by_a_record_are_found_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control."""

    def own(self: Reassembler, change: Change) -> Place:
        return change.shard, change.sequence, change.arrived

    async def work() -> None:
        assert any([len(await buried_twice(seed, False, copies=2)) > 1 for seed in range(0, 48, 2)])

    monkeypatch.setattr("tests.road.mortal.name_of", lambda letter: f"{letter.shard}/{letter.sequence}-{letter.code}")
    if name == "of the part that came last":
        monkeypatch.setattr(Reassembler, "main", own)
    play(work())
