"""A replayed record goes down the same road, past the sequencer; a row's letters come together again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from dsqlcdc.contract import Change, Outcome, Setback, Sink, Unavailable, Verdict
from dsqlcdc.core.backoff import Backoff
from dsqlcdc.core.intake import NO_KEY
from dsqlcdc.core.patience import Patience
from dsqlcdc.core.ports import DeadLetter, Part
from dsqlcdc.core.records import Record
from dsqlcdc.core.replay import INCOMPLETE, Answer, Replay, join, read, replayable, rows, takers
from dsqlcdc.core.route import Route
from dsqlcdc.core.tables import Bad, Rule, Tables
from dsqlcdc.errors import Poisoned, Stopped
from dsqlcdc.testing.memory import RecordingSink
from dsqlcdc.testing.records import chunked, full
from tests.road.rigs import Bench, insert, play, stream_of

TABLES = Tables({"app.*": Rule(key=("id",))})


def letter(raw: bytes, **more: object) -> DeadLetter:
    made = DeadLetter(
        pipeline="p", sink="", stream="s@1", shard="shard-0", sequence="5", arrived=10.0, code="bad_row", detail="", raw=raw, at=11.0
    )
    return msgspec.structs.replace(made, **more)


def row_of(table: str = "app.t", number: int = 7, size: int = 30) -> list[bytes]:
    return chunked("c", table, {"id": number, "text": "x" * 100}, number, size=size)


def parts(records: Sequence[bytes]) -> dict[str, Part]:
    found: dict[str, Part] = {}
    for n, raw in enumerate(records):
        item = TABLES.read("shard-0", Record(str(n + 1), raw, float(n)))
        assert isinstance(item, Part)
        found[f"letter-{n}"] = item
    return found


def whole(record: bytes) -> Change:
    item = TABLES.read("shard-0", Record("5", record, 10.0))
    assert isinstance(item, Change)
    return item


# reading -------------------------------------------------------------------------------------------------------------------------------


def test_a_record_is_read_as_the_config_says_today() -> None:
    raw = insert(3)
    assert read(TABLES, letter(raw)) == whole(raw)
    assert isinstance(read(TABLES, letter(b"{")), Bad)


def test_a_change_without_a_key_keeps_the_id_it_died_with() -> None:
    raw = full("c", "other.t", {"id": 1}, 5)
    assert read(TABLES, letter(raw, id="ab" * 16)).id == b"\xab" * 16  # type: ignore[union-attr]
    keyed = read(TABLES, letter(insert(3), id="ab" * 16))
    assert isinstance(keyed, Change)
    assert keyed.id == whole(insert(3)).id, "with a key the id follows from it"
    assert isinstance(read(TABLES, letter(raw, id="z" * 32)), Change)


def test_a_refused_oversized_row_comes_from_its_images() -> None:
    main, *pieces = row_of()
    text = b"".join(msgspec.json.decode(piece)["data"].encode() for piece in pieces)
    item = read(TABLES, letter(main, images={"after": text}))
    assert isinstance(item, Change)
    assert item.row == {"id": 7, "text": "x" * 100}
    assert isinstance(read(TABLES, letter(main, images={"after": text + b" "})), Bad), "the checksum is looked at"
    assert read(TABLES, letter(main, images={"before": text})) == INCOMPLETE


def test_the_letters_of_a_row_come_together_with_their_copies() -> None:
    records = row_of()
    found = parts([*records, records[1], records[0]])
    ((names, complete),) = rows(found)
    assert complete
    assert (names[0], sorted(names)) == ("letter-0", sorted(found))
    change = join(TABLES, [found[name] for name in names])
    assert isinstance(change, Change)
    assert change.row == {"id": 7, "text": "x" * 100}
    assert change.sequence == str(len(records) + 2), "the part that came last answers for it"


def test_a_row_with_a_part_missing_is_incomplete_and_so_are_lone_pieces() -> None:
    records = row_of()
    assert [complete for _, complete in rows(parts(records[:-1]))] == [False]
    lone = rows(parts(records[1:]))
    assert len(lone) == len(records) - 1
    assert not any(complete for _, complete in lone)


def test_letters_bad_before_routing_go_to_every_sink_that_takes_them() -> None:
    routes = {"a": Route(), "b": Route(("app.*",)), "c": Route(("public.*",)), "d": Route((), ("delete",))}
    change = whole(insert(1))
    assert takers(change, "", routes) == ["a", "b"]
    assert takers(change, "b", routes) == ["b"]
    assert takers(change, "c", routes) == []
    assert takers(change, "gone", routes) == []


# delivering ------------------------------------------------------------------------------------------------------------------------------


def deliver(
    sinks: dict[str, Sink], changes: Sequence[tuple[Change, Sequence[str]]], deadline: float = 60.0
) -> dict[tuple[int, str], Answer]:
    answers: dict[tuple[int, str], Answer] = {}

    async def work() -> None:
        patience = Patience(Backoff(0.1, 1.0), lambda: 0.5, deadline=deadline)
        await Replay(sinks, patience).deliver(changes, lambda n, sink, answer: answers.__setitem__((n, sink), answer))

    try:
        play(work())
    finally:
        deliver.last = answers  # type: ignore[attr-defined]
    return answers


def test_every_verdict_is_told_by_letter_and_sink() -> None:
    async def judge(changes: Sequence[Change]) -> Sequence[Setback]:
        said = {1: Verdict.STALE, 2: Verdict.DUPLICATE, 3: Verdict.DEAD}
        ids = [(n, (change.key or {})["id"]) for n, change in enumerate(changes)]
        return [Setback(n, said[id], code="too_large", detail="why") for n, id in ids if id in said]

    sinks = {"a": RecordingSink(judge), "b": RecordingSink()}
    changes = [(whole(insert(n)), ["a"] if n else ["a", "b"]) for n in range(4)]
    answers = deliver(dict(sinks), changes)
    assert {place: answer.outcome for place, answer in answers.items()} == {
        (0, "a"): Outcome.DELIVERED,
        (0, "b"): Outcome.DELIVERED,
        (1, "a"): Outcome.STALE,
        (2, "a"): Outcome.DUPLICATE,
        (3, "a"): Outcome.DEAD,
    }
    assert (answers[3, "a"].code, answers[3, "a"].detail) == ("too_large", "why")
    assert not sinks["a"].resumed, "who runs beside it is not disturbed"


def test_what_cannot_be_had_now_is_asked_again_and_in_the_end_left() -> None:
    tries = 0

    async def shy(changes: Sequence[Change]) -> Sequence[Setback]:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Unavailable("away")
        return [Setback(0, Verdict.RETRY)] if tries < 5 else ()

    assert deliver({"a": RecordingSink(shy)}, [(whole(insert(1)), ["a"])])[0, "a"].outcome is Outcome.DELIVERED
    assert tries == 5

    async def never(changes: Sequence[Change]) -> Sequence[Setback]:
        raise Unavailable("away")

    with pytest.raises(Stopped):
        deliver({"b": RecordingSink(), "c": RecordingSink(never)}, [(whole(insert(1)), ["b", "c"])])
    assert list(deliver.last) == [(0, "b")]  # type: ignore[attr-defined]


def test_a_sink_that_refuses_everything_ends_the_replay() -> None:
    async def refuse(changes: Sequence[Change]) -> Sequence[Setback]:
        return [Setback(n, Verdict.DEAD, code="no") for n in range(len(changes))]

    with pytest.raises(Poisoned):
        deliver({"a": RecordingSink(refuse)}, [(whole(insert(n)), ["a"]) for n in range(200)])
    assert 0 < len(deliver.last) <= 60  # type: ignore[attr-defined]


def test_a_sink_that_needs_a_key_gets_none_without() -> None:
    class Keyed(RecordingSink):
        needs_key = True

    change = whole(full("c", "other.t", {"id": 1}, 5))
    sink = Keyed()
    assert deliver({"a": sink}, [(change, ["a"])])[0, "a"] == Answer(Outcome.DEAD, "no_key", NO_KEY.detail)
    assert sink.written == []


def test_a_sink_that_needs_order_is_replayed_to_only_in_its_own_way() -> None:
    class Ordered(RecordingSink):
        needs_order = True

    class Own(Ordered):
        async def replay(self, changes: Sequence[Change]) -> Sequence[Setback]:
            return await self.write(changes)

    assert (replayable(RecordingSink()), replayable(Ordered()), replayable(Own())) == (True, False, True)


def test_a_dead_record_is_a_duplicate_to_the_pipeline_and_not_to_the_replay() -> None:
    """The pipeline remembers the id of what it buried: the same change again would be settled as duplicate. Replay goes past that."""
    stream = stream_of(insert(1), insert(2))
    bench = Bench(stream)
    refused = True

    async def judge(changes: Sequence[Change]) -> Sequence[Setback]:
        return [Setback(n, Verdict.DEAD, code="no") for n, c in enumerate(changes) if refused and (c.key or {})["id"] == 1]

    first, second, third = RecordingSink(judge), RecordingSink(judge), RecordingSink()

    async def lives() -> None:
        nonlocal refused
        await bench.run(first).run(asyncio.Event())
        await bench.checkpoints.close()
        refused = False
        stream.put(next(iter(stream.shards)), insert(1))
        again = bench.run(second)
        await again.run(asyncio.Event())
        assert again.status().settled["duplicate"] == 1
        assert second.written == []
        (dead,) = [one async for _, one in bench.letters.letters()]
        item = read(TABLES, dead)
        assert isinstance(item, Change)
        answers: list[Outcome] = []
        patience = Patience(Backoff(0.1, 1.0), lambda: 0.5)
        await Replay({"s": third}, patience).deliver([(item, ["s"])], lambda n, sink, answer: answers.append(answer.outcome))
        assert answers == [Outcome.DELIVERED]
        assert [change.id for change in third.written] == [whole(insert(1)).id]

    play(lives())
